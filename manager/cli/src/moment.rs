//! Moments: from what people type, from the protocol, and to what they read.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use prost_types::Timestamp as ProtoTimestamp;

/// What Docker shows for a moment that has not come.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Text that is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no moment: give RFC 3339 (2024-05-01T12:00:00Z), a date, seconds since 1970, or a duration ago (10m, 1h30m)"
)]
pub(crate) struct MomentError {
    text: String,
}

/// Understands what `--since` and `--until` take: RFC 3339 with or without a zone (then the local
/// one), a date, seconds since 1970 with or without a fraction, or a duration before `now`.
///
/// # Errors
/// [`MomentError`] if the text is none of these.
pub(crate) fn parse(text: &str, now: Timestamp) -> Result<ProtoTimestamp, MomentError> {
    let moment = if let Ok(moment) = text.parse::<Timestamp>() {
        Some(moment)
    } else if let Some(ago) = go_duration(text) {
        now.checked_sub(ago).ok()
    } else if let Some(moment) = unix_seconds(text) {
        Some(moment)
    } else if let Ok(local) = text.parse::<DateTime>() {
        TimeZone::system().to_ambiguous_timestamp(local).compatible().ok()
    } else {
        None
    };
    moment.map(to_proto).ok_or_else(|| MomentError { text: text.to_owned() })
}

/// Reads "1h30m", "10s", "-5m", "1.5h", "300ms", as Go does. A number without a unit is none.
fn go_duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total = SignedDuration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_and_rest = &rest[digits..];
        let unit = unit_and_rest.find(|c: char| c.is_ascii_digit()).unwrap_or(unit_and_rest.len());
        let seconds_per_unit = match &unit_and_rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = SignedDuration::try_from_secs_f64(number * seconds_per_unit).ok()?;
        total = total.checked_add(part)?;
        rest = &unit_and_rest[unit..];
    }
    Some(if negative { -total } else { total })
}

/// Reads "1714557600" and "1714557600.123456789".
fn unix_seconds(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: i32 = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::new(seconds.parse().ok()?, nanoseconds).ok()
}

/// To the protocol's form.
pub(crate) fn to_proto(moment: Timestamp) -> ProtoTimestamp {
    ProtoTimestamp { seconds: moment.as_second(), nanos: moment.subsec_nanosecond() }
}

/// From the protocol's form; a moment beyond the year 9999 is none.
pub(crate) fn from_proto(moment: &ProtoTimestamp) -> Option<Timestamp> {
    Timestamp::new(moment.seconds, moment.nanos).ok()
}

/// RFC 3339 in UTC with as many decimals as there are; Docker's year 1 for none.
pub(crate) fn rfc3339(moment: Option<&ProtoTimestamp>) -> String {
    moment.and_then(from_proto).map_or_else(|| NEVER.to_owned(), |moment| moment.to_string())
}

/// RFC 3339 in UTC with nine decimals, so that lines stand below each other.
pub(crate) fn rfc3339_nanos(moment: Option<&ProtoTimestamp>) -> String {
    let moment = moment.and_then(from_proto).unwrap_or(Timestamp::UNIX_EPOCH);
    moment.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

/// RFC 3339 in the local zone with nine decimals.
pub(crate) fn local_nanos(moment: Option<&ProtoTimestamp>) -> String {
    let moment = moment.and_then(from_proto).unwrap_or(Timestamp::UNIX_EPOCH);
    let zoned = moment.to_zoned(TimeZone::system());
    zoned.strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string()
}

/// "2024-05-01 12:00:00 +0000 UTC", in the local zone; empty for none.
pub(crate) fn civil(moment: Option<&ProtoTimestamp>) -> String {
    match moment.and_then(from_proto) {
        Some(moment) => {
            let zoned = moment.to_zoned(TimeZone::system());
            zoned.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
        }
        None => String::new(),
    }
}

/// Seconds from the moment to now; 0 for none.
pub(crate) fn seconds_since(moment: Option<&ProtoTimestamp>, now: Timestamp) -> i64 {
    match moment.and_then(from_proto) {
        Some(moment) => now.as_second().saturating_sub(moment.as_second()),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::new(1_714_557_600, 0).expect("a moment")
    }

    #[test]
    fn moments_are_understood_in_every_form() {
        let table = [
            ("2024-05-01T10:00:00Z", 1_714_557_600, 0),
            ("2024-05-01T12:00:00.5+02:00", 1_714_557_600, 500_000_000),
            ("1714557600", 1_714_557_600, 0),
            ("1714557600.25", 1_714_557_600, 250_000_000),
            ("10m", 1_714_557_000, 0),
            ("1h30m", 1_714_552_200, 0),
            ("-10s", 1_714_557_610, 0),
            ("1.5h", 1_714_552_200, 0),
            ("0", 0, 0),
        ];
        for (text, seconds, nanos) in table {
            assert_eq!(parse(text, now()), Ok(ProtoTimestamp { seconds, nanos }), "{text}");
        }
    }

    #[test]
    fn a_date_is_midnight_in_the_local_zone() {
        let moment = parse("2024-05-01", now()).expect("a date");

        let day = i64::from(24 * 3600);
        assert!((moment.seconds - 1_714_521_600).abs() <= day, "{moment:?}");
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in ["", "-", "yesterday", "10x", "5m3", "1.", "1.1234567890", "2024-13-01"] {
            assert!(parse(text, now()).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_are_written_as_docker_writes_them() {
        let moment = ProtoTimestamp { seconds: 1_714_557_600, nanos: 120_000_000 };

        assert_eq!(rfc3339(Some(&moment)), "2024-05-01T10:00:00.12Z");
        assert_eq!(rfc3339_nanos(Some(&moment)), "2024-05-01T10:00:00.120000000Z");
        assert_eq!(rfc3339(None), "0001-01-01T00:00:00Z");
    }
}
