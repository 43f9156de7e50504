//! Wall-clock time as the interfaces want it: RFC 3339 text, protobuf timestamps.
//!
//! Formatting is by hand since a log line needs it, and nothing else of a calendar library.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many digits of a second's fraction are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fraction {
    /// Nine.
    Nanoseconds,
    /// As few as lose nothing, and no point when there are none: Go's `RFC3339Nano`.
    Trimmed,
}

/// Formats `time` in UTC as RFC 3339.
pub(crate) fn rfc3339(time: SystemTime, fraction: Fraction) -> String {
    let since = since_epoch(time);
    let (days, second_of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) =
        (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let mut text = format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}",
        since.subsec_nanos()
    );
    if fraction == Fraction::Trimmed {
        let kept = text.trim_end_matches('0').trim_end_matches('.').len();
        // A second of "00" without a fraction must keep its zeros.
        text.truncate(kept.max("0000-00-00T00:00:00".len()));
    }
    text.push('Z');
    text
}

/// Converts to the message of the wire.
pub(crate) fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    let since = since_epoch(time);
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// A clock before 1970 counts as 1970.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Converts days since 1970-01-01 to year, month and day of the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is a year's last; 400 years are 146,097 days.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (secs, nanos, full, trimmed) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z", "1970-01-01T00:00:00Z"),
            (951_782_400, 500, "2000-02-29T00:00:00.000000500Z", "2000-02-29T00:00:00.0000005Z"),
            (951_868_799, 0, "2000-02-29T23:59:59.000000000Z", "2000-02-29T23:59:59Z"),
            (
                1_767_225_600,
                120_000_000,
                "2026-01-01T00:00:00.120000000Z",
                "2026-01-01T00:00:00.12Z",
            ),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z", "2100-03-01T00:00:00Z"),
            (
                1_798_761_599,
                999_999_999,
                "2026-12-31T23:59:59.999999999Z",
                "2026-12-31T23:59:59.999999999Z",
            ),
        ] {
            let time = UNIX_EPOCH + Duration::new(secs, nanos);

            assert_eq!(rfc3339(time, Fraction::Nanoseconds), full);
            assert_eq!(rfc3339(time, Fraction::Trimmed), trimmed);
        }
    }
}
