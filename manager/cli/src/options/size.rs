//! Amounts: bytes of memory, and processors.

/// Text that is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AmountError {
    /// Not a number with a unit.
    #[error(
        "{text:?} is no number of bytes: give digits and a unit of b, k, m, g or t, as in 512m"
    )]
    Bytes { text: String },
    /// Not a number of processors.
    #[error("{text:?} is no number of processors: give a positive decimal, as in 1.5")]
    Processors { text: String },
}

/// Understands "512m", "1.5GiB", "2g", "1024": powers of 1024, whatever the unit's spelling.
///
/// # Errors
/// [`AmountError::Bytes`] if the text is nothing of the kind, or more than an i64 holds.
pub(crate) fn bytes(text: &str) -> Result<i64, AmountError> {
    parse_bytes(text).ok_or_else(|| AmountError::Bytes { text: text.to_owned() })
}

/// As [`bytes`], with -1 for no limit.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn bytes_or_unlimited(text: &str) -> Result<i64, AmountError> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// Understands the amount that a flag was given, by `parse`; one that was not given is 0.
///
/// # Errors
/// As `parse`.
pub(crate) fn or_unset(
    text: Option<&str>,
    parse: fn(&str) -> Result<i64, AmountError>,
) -> Result<i64, AmountError> {
    text.map_or(Ok(0), parse)
}

fn parse_bytes(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let factor = 1_i64 << shift;
    let mut total = whole.parse::<i64>().ok()?.checked_mul(factor)?;
    if !fraction.is_empty() {
        let part = i128::from(fraction.get(..fraction.len().min(15))?.parse::<i64>().ok()?);
        let scale = 10_i128.pow(u32::try_from(fraction.len().min(15)).ok()?);
        let bytes = part * i128::from(factor) / scale;
        total = total.checked_add(i64::try_from(bytes).ok()?)?;
    }
    Some(total)
}

/// Understands "1.5" processors; the result is in billionths.
///
/// # Errors
/// [`AmountError::Processors`] if the text is no positive decimal, or has more than nine decimals.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, AmountError> {
    parse_nano_cpus(text).ok_or_else(|| AmountError::Processors { text: text.to_owned() })
}

fn parse_nano_cpus(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits_only = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if fraction.len() > 9 || !digits_only(whole) || !digits_only(fraction) || text == "." {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let billionths: i64 = format!("{fraction:0<9}").parse().ok()?;
    let total = whole.checked_mul(1_000_000_000)?.checked_add(billionths)?;
    (total > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_docker_reads_them() {
        let table = [
            ("0", 0),
            ("1024", 1024),
            ("1k", 1024),
            ("512m", 512 << 20),
            ("512M", 512 << 20),
            ("1.5g", 3 << 29),
            ("2GiB", 2 << 30),
            ("10 kb", 10240),
        ];
        for (text, expected) in table {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "-5", "5x", "99999999999t", "1..5m", "0x10"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
        assert!(bytes_or_unlimited("-2").is_err());
    }

    #[test]
    fn processors_are_read_to_the_billionth() {
        let table = [
            ("1", 1_000_000_000),
            ("1.5", 1_500_000_000),
            (".25", 250_000_000),
            ("0.000000001", 1),
        ];
        for (text, expected) in table {
            assert_eq!(nano_cpus(text), Ok(expected), "{text}");
        }
        for text in ["", "0", ".", "-1", "+1", "1e3", "0.0000000001", "99999999999999999999"] {
            assert!(nano_cpus(text).is_err(), "{text}");
        }
    }
}
