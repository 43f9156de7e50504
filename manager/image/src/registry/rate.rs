//! Rate limits: how much a registry lets be asked, and how long it wants to be left alone.
//!
//! `RateLimit-Limit: 100;w=21600` and `RateLimit-Remaining: 76;w=21600` are what Docker Hub sends with
//! manifests (a draft of the IETF's); `Retry-After` is HTTP's.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, header};
use jiff::Timestamp;

const LIMIT: &str = "ratelimit-limit";
const REMAINING: &str = "ratelimit-remaining";

/// How much a registry lets be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests that are left.
    pub remaining: u64,
    /// Requests in a window, if the registry says.
    pub limit: Option<u64>,
    /// Length of a window, if the registry says.
    pub window: Option<Duration>,
}

impl RateLimit {
    /// Reads what an answer says of it, if anything.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (remaining, of_remaining) = quota(value(REMAINING)?)?;
        let (limit, of_limit) = match value(LIMIT).and_then(quota) {
            Some((limit, window)) => (Some(limit), window),
            None => (None, None),
        };
        Some(Self { remaining, limit, window: of_limit.or(of_remaining) })
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.remaining)?;
        if let Some(limit) = self.limit {
            write!(f, " of {limit}")?;
        }
        f.write_str(" requests left")?;
        match self.window {
            Some(window) => write!(f, " in {}", in_words(window)),
            None => Ok(()),
        }
    }
}

/// Reads `76;w=21600`: a number, and the seconds that it is for.
fn quota(text: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = text.split([';', ',']).map(str::trim);
    let number = parts.next()?.parse().ok()?;
    let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
    Some((number, window.map(Duration::from_secs)))
}

/// Reads `Retry-After`: seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(secs) = text.trim().parse() {
        return Some(Duration::from_secs(secs));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    let secs = date.as_second().saturating_sub(Timestamp::now().as_second());
    Some(Duration::from_secs(u64::try_from(secs).unwrap_or(0)))
}

/// Writes a duration as people say it, in its largest unit that divides it.
pub(super) fn in_words(duration: Duration) -> String {
    let secs = duration.as_secs();
    let (count, unit) = match secs {
        0 => (0, "second"),
        _ if secs.is_multiple_of(3600) => (secs / 3600, "hour"),
        _ if secs.is_multiple_of(60) => (secs / 60, "minute"),
        _ => (secs, "second"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_limit_is_read_as_docker_hub_sends_it_and_told_in_words() {
        let hub = RateLimit::of(&headers(&[
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "76;w=21600"),
        ]));
        let bare = RateLimit::of(&headers(&[("ratelimit-remaining", "1")]));

        assert_eq!(hub.unwrap().to_string(), "76 of 100 requests left in 6 hours");
        assert_eq!(bare.unwrap().to_string(), "1 requests left");
        for nothing in [&[][..], &[("ratelimit-limit", "5")], &[("ratelimit-remaining", "many")]] {
            assert_eq!(RateLimit::of(&headers(nothing)), None);
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let headers = |text: &str| headers(&[("retry-after", text)]);
        let soon = Timestamp::now() + jiff::SignedDuration::from_secs(3600);
        let soon = jiff::fmt::rfc2822::to_string(&soon.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();

        assert_eq!(retry_after(&headers("7")), Some(Duration::from_secs(7)));
        let dated = retry_after(&headers(&soon)).unwrap().as_secs();
        assert!((3590..=3600).contains(&dated), "{soon}: {dated}");
        let past = retry_after(&headers("Wed, 21 Oct 2015 07:28:00 GMT"));
        assert_eq!(past, Some(Duration::ZERO));
        assert_eq!(retry_after(&headers("soon")), None);
    }

    #[test]
    fn durations_are_told_in_their_largest_whole_unit() {
        let table = [(0, "0 seconds"), (1, "1 second"), (90, "90 seconds"), (120, "2 minutes")];
        for (secs, words) in table {
            assert_eq!(in_words(Duration::from_secs(secs)), words);
        }
    }
}
