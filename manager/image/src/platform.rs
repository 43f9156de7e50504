//! Platforms: where an image can run, and which of several variants suits best.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use keg_store::{Explain, Reason};

/// Operating system, architecture and variant, in Go's names (OCI image-spec, image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v8`, `v7`, … or empty.
    pub variant: String,
}

/// Why a text does not name a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform")]
pub struct PlatformError(pub String);

impl Explain for PlatformError {
    fn reason(&self) -> Reason {
        Reason::InvalidArgument
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        Some("write it as OS/ARCHITECTURE[/VARIANT], for example linux/arm64".into())
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        vec![("platform", self.0.clone())]
    }
}

impl Platform {
    /// Returns a platform in its usual spelling: `aarch64` becomes `arm64`, and variants that say
    /// nothing become empty.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (os, architecture) = (os.to_lowercase(), architecture.to_lowercase());
        let variant = variant.to_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("i386" | "i686", _) => ("386", ""),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            ("powerpc64le", variant) => ("ppc64le", variant),
            (architecture, variant) => (architecture, variant),
        };
        Self { os, architecture: architecture.to_owned(), variant: variant.to_owned() }
    }

    /// Returns the platform of this machine.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, host_variant())
    }

    /// Tells how well an image for `offered` runs where this platform is wanted: lower is better,
    /// `None` not at all.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os {
            return None;
        }
        let (wanted, found) = (level(&self.variant)?, level(&offered.variant)?);
        match (self.architecture.as_str(), offered.architecture.as_str()) {
            ("amd64", "amd64") => wanted.max(1).checked_sub(found.max(1)),
            ("arm", "arm") => wanted.checked_sub(found),
            ("arm64", "arm64") => wanted.max(8).checked_sub(found.max(8)),
            (wanted, offered) if wanted == offered => {
                (self.variant == offered_variant(&self.variant, found)).then_some(0)
            }
            _ => None,
        }
    }
}

/// Architectures without a ladder of variants match only the very same one.
fn offered_variant(wanted: &str, found: u32) -> &str {
    if level(wanted) == Some(found) { wanted } else { "?" }
}

/// Returns the number of a variant: 8 for `v8`, 0 for none.
fn level(variant: &str) -> Option<u32> {
    if variant.is_empty() {
        return Some(0);
    }
    variant.strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[cfg(target_arch = "x86_64")]
fn host_variant() -> &'static str {
    let has_v2 = is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt");
    let has_v3 = has_v2
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe");
    let has_v4 = has_v3
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (has_v4, has_v3, has_v2) {
        (true, ..) => "v4",
        (_, true, _) => "v3",
        (.., true) => "v2",
        _ => "",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn host_variant() -> &'static str {
    ""
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let is_word = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, architecture] if parts.iter().all(is_word) => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] if parts.iter().all(is_word) => {
                Ok(Self::new(os, architecture, variant))
            }
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(wanted: &str, offered: &str) -> Option<u32> {
        let parse = |text: &str| text.parse::<Platform>().unwrap();
        parse(wanted).rank(&parse(offered))
    }

    #[test]
    fn spellings_of_one_platform_are_one() {
        for (text, wanted) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/i386", "linux/386"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), wanted);
        }
    }

    #[test]
    fn the_nearest_lower_variant_is_best_and_higher_ones_do_not_run() {
        assert_eq!(rank("linux/amd64/v3", "linux/amd64/v3"), Some(0));
        assert_eq!(rank("linux/amd64/v3", "linux/amd64"), Some(2));
        assert_eq!(rank("linux/amd64", "linux/amd64/v2"), None);
        assert_eq!(rank("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/arm64", "linux/arm64/v8"), Some(0));
        assert_eq!(rank("linux/arm64", "linux/arm64/v9"), None);
        assert_eq!(rank("linux/arm64", "linux/amd64"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert_eq!(rank("linux/riscv64", "linux/riscv64"), Some(0));
        assert_eq!(rank("linux/mips64/v2", "linux/mips64/v3"), None);
    }

    #[test]
    fn malformed_platforms_are_refused() {
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64"] {
            assert_eq!(bad.parse::<Platform>(), Err(PlatformError(bad.to_owned())));
        }
    }

    #[test]
    fn an_image_without_a_variant_runs_here() {
        let plain = Platform::new("linux", std::env::consts::ARCH, "");

        assert!(Platform::host().rank(&plain).is_some());
    }
}
