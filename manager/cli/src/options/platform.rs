//! `--platform`.

use keg_proto::keg::v1::Platform;

/// Text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no platform: give OS/ARCHITECTURE[/VARIANT], as in linux/arm64")]
pub(crate) struct PlatformError {
    text: String,
}

/// Understands "linux/amd64", "linux/arm/v7" and "arm64"; other systems' names for architectures
/// become Go's.
///
/// # Errors
/// [`PlatformError`] if there are too many parts, or empty ones.
pub(crate) fn parse(text: &str) -> Result<Platform, PlatformError> {
    let parts: Vec<&str> = text.split('/').collect();
    let (os, architecture, variant) = match parts.as_slice() {
        [architecture] => ("linux", *architecture, ""),
        [os, architecture] => (*os, *architecture, ""),
        [os, architecture, variant] if !variant.is_empty() => (*os, *architecture, *variant),
        _ => return Err(PlatformError { text: text.to_owned() }),
    };
    let architecture = match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i686" => "386",
        other => other,
    };
    if os.is_empty() || architecture.is_empty() {
        return Err(PlatformError { text: text.to_owned() });
    }
    Ok(Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
    })
}

/// Writes a platform as it is typed.
pub(crate) fn text(platform: &Platform) -> String {
    let Platform { os, architecture, variant } = platform;
    match variant.as_str() {
        "" => format!("{os}/{architecture}"),
        variant => format!("{os}/{architecture}/{variant}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_in_every_form() {
        let table = [
            ("linux/amd64", ("linux", "amd64", "")),
            ("linux/arm/v7", ("linux", "arm", "v7")),
            ("aarch64", ("linux", "arm64", "")),
            ("linux/x86_64", ("linux", "amd64", "")),
        ];
        for (text, (os, architecture, variant)) in table {
            let platform = parse(text).expect(text);
            assert_eq!(
                (platform.os.as_str(), platform.architecture.as_str(), platform.variant.as_str()),
                (os, architecture, variant)
            );
        }
        for text in ["", "/", "linux/", "a/b/c/d", "linux/arm/"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
