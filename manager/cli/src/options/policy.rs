//! `--restart`, `--ulimit`, and lists of `KEY=VALUE`.

use std::collections::HashMap;

use keg_proto::keg::v1::{RestartPolicy, Ulimit};

/// Why a policy or a limit cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyError {
    /// No such restart policy.
    #[error("{text:?} is no restart policy: give no, always, unless-stopped or on-failure[:TIMES]")]
    Restart { text: String },
    /// Not a limit.
    #[error(
        "{text:?} is no limit: give NAME=SOFT[:HARD], as in nofile=1024:4096, -1 for unlimited"
    )]
    Ulimit { text: String },
    /// No value.
    #[error("{text:?} is no setting: give KEY=VALUE")]
    Pair { text: String },
}

/// Understands "always", "on-failure:3"; `None` for no restarts.
///
/// # Errors
/// [`PolicyError::Restart`].
pub(crate) fn restart(text: &str) -> Result<Option<RestartPolicy>, PolicyError> {
    let bad = || PolicyError::Restart { text: text.to_owned() };
    let (name, times) = match text.split_once(':') {
        Some((name, times)) => (name, Some(times)),
        None => (text, None),
    };
    let maximum_retry_count = match (name, times) {
        ("" | "no", None) => return Ok(None),
        ("always" | "unless-stopped" | "on-failure", None) => 0,
        ("on-failure", Some(times)) => times.parse().map_err(|_| bad())?,
        _ => return Err(bad()),
    };
    Ok(Some(RestartPolicy { name: name.to_owned(), maximum_retry_count }))
}

/// Understands "nofile=1024:4096".
///
/// # Errors
/// [`PolicyError::Ulimit`].
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, PolicyError> {
    let parse = || {
        let (name, values) = text.split_once('=')?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (limit(soft)?, limit(hard)?);
        (!name.is_empty() && soft <= hard).then(|| Ulimit {
            name: name.to_ascii_lowercase(),
            soft,
            hard,
        })
    };
    parse().ok_or_else(|| PolicyError::Ulimit { text: text.to_owned() })
}

/// A value of a limit; -1 is the largest there is.
fn limit(text: &str) -> Option<u64> {
    if text == "-1" { Some(u64::MAX) } else { text.parse().ok() }
}

/// Understands a list of `KEY=VALUE`; the last of a key wins.
///
/// # Errors
/// [`PolicyError::Pair`] without `=` or without a key.
pub(crate) fn pairs(texts: &[String]) -> Result<HashMap<String, String>, PolicyError> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(PolicyError::Pair { text: text.clone() }),
    };
    texts.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_are_read() {
        let policy = |name: &str, maximum_retry_count| {
            Ok(Some(RestartPolicy { name: name.to_owned(), maximum_retry_count }))
        };
        assert_eq!(restart("no"), Ok(None));
        assert_eq!(restart("always"), policy("always", 0));
        assert_eq!(restart("on-failure:5"), policy("on-failure", 5));
        for text in ["sometimes", "always:3", "on-failure:x", "on-failure:-1", "no:1"] {
            assert!(restart(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_are_read() {
        let limit = |name: &str, soft, hard| Ok(Ulimit { name: name.to_owned(), soft, hard });
        assert_eq!(ulimit("nofile=1024:4096"), limit("nofile", 1024, 4096));
        assert_eq!(ulimit("NPROC=10"), limit("nproc", 10, 10));
        assert_eq!(ulimit("core=0:-1"), limit("core", 0, u64::MAX));
        for text in ["nofile", "=1", "nofile=", "nofile=2:1", "nofile=x"] {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_need_a_key() {
        let read = pairs(&["a.b=1=2".to_owned(), "c=".to_owned()]).expect("pairs");

        assert_eq!(read.get("a.b").map(String::as_str), Some("1=2"));
        assert_eq!(read.get("c").map(String::as_str), Some(""));
        assert!(pairs(&["a".to_owned()]).is_err());
        assert!(pairs(&["=a".to_owned()]).is_err());
    }
}
