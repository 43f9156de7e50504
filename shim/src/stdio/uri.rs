//! Where a stream leads, as a string of the Task API: a path, or a URI.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use crate::exit_record::Place;
use crate::log::{Format, LogSettings, WhenFull};

/// A stream's destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nowhere.
    Null,
    /// A FIFO or another file that exists.
    Path(PathBuf),
    /// `file://`: a file that is made and appended to.
    File(PathBuf),
    /// `binary://`: a program that reads it.
    Logger(LoggerUri),
    /// `keg:`: our log and attached clients.
    Keg(KegUri),
}

/// A logging program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggerUri {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    /// `binary-v2`: to be ready means to write a byte, not only to close the pipe.
    pub(crate) must_say_ready: bool,
}

/// `keg:///LOG?format=…&max-size=…&max-file=…&compress=…&rate=…&on-full=…&exit=…&exit-outlives=…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KegUri {
    pub(crate) log: Option<LogSettings>,
    pub(crate) exit_record: Option<Place>,
}

/// Why a URI is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UriError {
    #[error("unknown scheme {0:?}: expected a path, file://, binary:// or keg:")]
    Scheme(String),
    #[error("path {0:?} is not absolute")]
    Relative(String),
    #[error("unknown parameter {0:?}")]
    Parameter(String),
    #[error("{name}={value:?} is not {expected}")]
    Value { name: &'static str, value: String, expected: &'static str },
    #[error("{0:?} is not valid percent-encoding")]
    Encoding(String),
}

/// Whether a stream is the shim's own to serve.
pub(crate) fn is_keg(text: &str) -> bool {
    text.starts_with("keg:")
}

impl Target {
    pub(crate) fn parse(text: &str) -> Result<Self, UriError> {
        if text.is_empty() {
            return Ok(Self::Null);
        }
        if text.starts_with('/') {
            return Ok(Self::Path(text.into()));
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(UriError::Relative(text.to_owned()));
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decode(path)?;
        if !path.is_empty() && !path.starts_with('/') {
            return Err(UriError::Relative(path));
        }
        match scheme {
            "fifo" => Ok(Self::Path(path.into())),
            "file" => Ok(Self::File(path.into())),
            "binary" | "binary-v2" => Ok(Self::Logger(LoggerUri {
                path: path.into(),
                args: logger_args(query)?,
                must_say_ready: scheme == "binary-v2",
            })),
            "keg" => KegUri::parse(&path, query).map(Self::Keg),
            _ => Err(UriError::Scheme(scheme.to_owned())),
        }
    }

    pub(crate) fn log_settings(&self) -> Option<LogSettings> {
        match self {
            Self::Keg(uri) => uri.log.clone(),
            _ => None,
        }
    }

    pub(crate) fn exit_record(&self) -> Option<&Place> {
        match self {
            Self::Keg(uri) => uri.exit_record.as_ref(),
            _ => None,
        }
    }

    pub(crate) fn logger(&self) -> Option<&LoggerUri> {
        match self {
            Self::Logger(uri) => Some(uri),
            _ => None,
        }
    }
}

impl KegUri {
    fn parse(path: &str, query: &str) -> Result<Self, UriError> {
        let mut settings = LogSettings {
            path: path.into(),
            format: Format::JsonFile,
            max_size_bytes: None,
            max_files: NonZeroU32::MIN,
            when_full: WhenFull::Drop,
            compress: false,
            max_bytes_per_sec: None,
        };
        let mut exit_record: Option<PathBuf> = None;
        let mut outlives_power_cut = true;
        for (name, value) in parameters(query)? {
            let wrong = |name, expected| UriError::Value { name, value: value.clone(), expected };
            match name.as_str() {
                "format" => {
                    settings.format = Format::from_name(&value)
                        .ok_or_else(|| wrong("format", "json-file, cri or raw"))?;
                }
                // Zero means no limit, as it does for Docker.
                "max-size" => {
                    let bytes =
                        value.parse().map_err(|_| wrong("max-size", "a number of bytes"))?;
                    settings.max_size_bytes = NonZeroU64::new(bytes);
                }
                "max-file" => {
                    settings.max_files =
                        value.parse().map_err(|_| wrong("max-file", "a number above zero"))?;
                }
                "on-full" => {
                    settings.when_full = match value.as_str() {
                        "drop" => WhenFull::Drop,
                        "block" => WhenFull::Block,
                        _ => return Err(wrong("on-full", "drop or block")),
                    };
                }
                "compress" => {
                    settings.compress = match value.as_str() {
                        "gzip" => true,
                        "none" => false,
                        _ => return Err(wrong("compress", "gzip or none")),
                    };
                }
                "rate" => {
                    let bytes = value.parse().map_err(|_| wrong("rate", "bytes per second"))?;
                    settings.max_bytes_per_sec = NonZeroU64::new(bytes);
                }
                "exit" if value.starts_with('/') => exit_record = Some(value.into()),
                "exit" => return Err(UriError::Relative(value)),
                "exit-outlives" => {
                    outlives_power_cut = match value.as_str() {
                        "power-cut" => true,
                        "crash" => false,
                        _ => return Err(wrong("exit-outlives", "power-cut or crash")),
                    };
                }
                _ => return Err(UriError::Parameter(name)),
            }
        }
        let exit_record = exit_record.map(|path| Place { path, outlives_power_cut });
        Ok(Self { log: (!path.is_empty()).then_some(settings), exit_record })
    }
}

/// A logger's arguments: each parameter's name, then its value if it has one.
fn logger_args(query: &str) -> Result<Vec<String>, UriError> {
    let pairs = parameters(query)?;
    Ok(pairs
        .into_iter()
        .flat_map(|(name, value)| [Some(name), (!value.is_empty()).then_some(value)])
        .flatten()
        .collect())
}

fn parameters(query: &str) -> Result<Vec<(String, String)>, UriError> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plus = |text: &str| text.replace('+', " ");
            Ok((decode(&plus(name))?, decode(&plus(value))?))
        })
        .collect()
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, UriError> {
    let wrong = || UriError::Encoding(text.to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).ok_or_else(wrong)?;
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        // from_str_radix would take a sign.
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn containerds_forms_are_understood() {
        assert_eq!(Target::parse(""), Ok(Target::Null));
        assert_eq!(Target::parse("/run/f"), Ok(Target::Path("/run/f".into())));
        assert_eq!(Target::parse("file:///var/a%20b"), Ok(Target::File("/var/a b".into())));
        let logger = LoggerUri {
            path: "/bin/logger".into(),
            args: vec!["-o".into(), "/x".into(), "flag".into()],
            must_say_ready: false,
        };
        assert_eq!(Target::parse("binary:///bin/logger?-o=/x&flag"), Ok(Target::Logger(logger)));
    }

    #[test]
    fn our_own_form_carries_log_and_exit_record() {
        let text = "keg:///l/c.log?format=cri&max-size=100&max-file=3&exit=/l/exit.json\
                    &on-full=block&compress=gzip&rate=5000&exit-outlives=crash";

        let Ok(Target::Keg(uri)) = Target::parse(text) else { panic!("not ours") };

        let log = uri.log.unwrap();
        assert_eq!((log.path.as_path(), log.format), (Path::new("/l/c.log"), Format::Cri));
        assert_eq!((log.max_size_bytes, log.max_files.get()), (NonZeroU64::new(100), 3));
        assert_eq!((log.when_full, log.compress), (WhenFull::Block, true));
        assert_eq!(log.max_bytes_per_sec, NonZeroU64::new(5000));
        let record = Place { path: "/l/exit.json".into(), outlives_power_cut: false };
        assert_eq!(uri.exit_record, Some(record));
        let Ok(Target::Keg(durable)) = Target::parse("keg:///l?exit=/e") else {
            panic!("not ours")
        };
        assert!(durable.exit_record.unwrap().outlives_power_cut);
        let Ok(Target::Keg(bare)) = Target::parse("keg:") else { panic!("not ours") };
        assert_eq!(bare, KegUri { log: None, exit_record: None });
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "relative",
            "http://x/",
            "file://relative",
            "keg:///l?format=xml",
            "keg:///l?max-size=-1",
            "keg:///l?max-file=0",
            "keg:///l?exit=relative",
            "keg:///l?exit=/e&exit-outlives=all",
            "keg:///l?surprise=1",
            "keg:///%zz",
            "keg:///%+1",
            "keg:///l?on-full=panic",
            "keg:///l?compress=xz",
            "keg:///l?rate=fast",
        ] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in "(keg:|file:|binary:)?\\PC*") {
            let _ = Target::parse(&text);
        }
    }
}
