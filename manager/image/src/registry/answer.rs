//! What answers mean, and what failures are.

use http::{StatusCode, header};
use reqwest::Response;
use serde::Deserialize;

use super::RegistryError;
use super::auth::Challenge;
use super::trouble::CertificateProblem;

/// Longest text of a registry that is passed on, in characters.
const MAX_TOLD_CHARS: usize = 300;

/// Tells failures to connect from failures later on. Its URL, which may have a signature in its
/// query, is taken out.
pub(super) fn transfer_error(host: &str, error: reqwest::Error) -> RegistryError {
    let (registry, source) = (host.to_owned(), error.without_url());
    if let Some(problem) = CertificateProblem::of(&source) {
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
}
