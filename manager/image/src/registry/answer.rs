//! What answers mean, and what failures are.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use reqwest::Response;
use serde::Deserialize;

use super::RegistryError;
use super::auth::Challenge;
use super::trouble::certificate_problem;

/// Longest text of a registry that is passed on, in characters.
const MAX_TOLD_CHARS: usize = 300;

/// Tells failures to connect from failures later on. Its URL, which may have a signature in its
/// query, is taken out.
pub(super) fn transfer_error(host: &str, error: reqwest::Error) -> RegistryError {
    let (registry, source) = (host.to_owned(), error.without_url());
    if let Some(problem) = certificate_problem(&source) {
        RegistryError::Certificate { registry, problem, source }
    } else if source.is_connect() || source.is_timeout() {
        RegistryError::Unreachable { registry, source }
    } else {
        RegistryError::Broken { registry, source }
    }
}

pub(super) fn challenge_of(answer: &Response) -> Option<Challenge> {
    let values = answer.headers().get_all(header::WWW_AUTHENTICATE);
    Challenge::choose(values.iter().filter_map(|value| value.to_str().ok()))
}

pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Tells whether the same request may succeed later.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
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

#[derive(Deserialize)]
struct ErrorDocument {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Returns what an error document says, fit to be shown (distribution-spec, "Error Codes").
pub(super) fn told_by(body: &[u8]) -> String {
    let Ok(document) = serde_json::from_slice::<ErrorDocument>(body) else {
        return String::new();
    };
    let texts = document.errors.iter().map(|entry| match entry.message.as_str() {
        "" => entry.code.clone(),
        message => message.to_owned(),
    });
    let text = texts.collect::<Vec<_>>().join("; ");
    text.chars().filter(|letter| !letter.is_control()).take(MAX_TOLD_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_says_is_shown_without_control_characters_and_not_at_length() {
        let long = "x".repeat(1000);
        let body = format!(
            r#"{{"errors":[{{"code":"A","message":"no\u001b[31m"}},{{"code":"B"}},{{"message":"{long}"}}]}}"#
        );

        let text = told_by(body.as_bytes());

        assert!(text.starts_with("no[31m; B; xxx"));
        assert_eq!(text.chars().count(), MAX_TOLD_CHARS);
        assert_eq!(told_by(b"<html>"), "");
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let headers =
            |text: &str| HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]);
        let soon = Timestamp::now() + jiff::SignedDuration::from_secs(3600);
        let soon = jiff::fmt::rfc2822::to_string(&soon.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();

        assert_eq!(retry_after(&headers("7")), Some(Duration::from_secs(7)));
        let dated = retry_after(&headers(&soon)).unwrap().as_secs();
        assert!((3590..=3600).contains(&dated), "{soon}: {dated}");
        let past = retry_after(&headers("Wed, 21 Oct 2015 07:28:00 GMT"));
        assert_eq!(past, Some(Duration::ZERO));
        assert_eq!(retry_after(&headers("soon")), None);
    }
}
