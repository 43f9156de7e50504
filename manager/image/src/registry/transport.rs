//! Requests: connections, redirects, retries, and what answers mean.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde::Deserialize;

use super::auth::{Challenge, Grant, Tokens};
use super::endpoint::{self, Trust, host_of, without_query};
use super::upload::Upload;
use super::{RegistryError, RegistryOptions};
use crate::Credentials;

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 10;

/// Largest error document that is read.
const MAX_ERROR_BYTES: u64 = 64 * 1024;

/// Longest text of a registry that is passed on, in characters.
const MAX_TOLD_CHARS: usize = 300;

/// A request to a registry, which may be sent several times.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) target: Address,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Upload>,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub(super) enum Address {
    /// A path below `/v2/`.
    Path(String),
    /// A URL that the registry gave.
    Url(Url),
}

impl Ask {
    /// Returns a request without a body.
    pub(super) fn new(method: Method, path: String) -> Self {
        Self { method, target: Address::Path(path), headers: HeaderMap::new(), body: None }
    }
}

/// On whose behalf a request is sent.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The registry, as references name it.
    pub(super) registry: String,
    pub(super) grant: Grant,
    pub(super) credentials: Option<Credentials>,
}

/// Connections to all registries.
#[derive(Debug)]
pub(super) struct Transport {
    options: RegistryOptions,
    clients: Mutex<HashMap<Trust, Client>>,
    /// Scheme found out for hosts that may go without TLS.
    schemes: Mutex<HashMap<String, &'static str>>,
    pub(super) tokens: Tokens,
}

impl Transport {
    pub(super) fn new(options: RegistryOptions) -> Self {
        Self {
            options,
            clients: Mutex::default(),
            schemes: Mutex::default(),
            tokens: Tokens::default(),
        }
    }

    pub(super) fn options(&self) -> &RegistryOptions {
        &self.options
    }

    pub(super) fn trust(&self, host: &str) -> Trust {
        endpoint::trust(host, &self.options.insecure)
    }

    /// Sends a request, authenticated if the registry asks, until it answers with success.
    ///
    /// # Errors
    /// Every answer but 2xx is an error; 404 is [`RegistryError::Refused`], and the caller knows
    /// what it means.
    pub(super) async fn ask(&self, caller: &Caller, ask: &Ask) -> Result<Response, RegistryError> {
        let mut attempt = 1;
        loop {
            match self.ask_once(caller, ask).await {
                Err(error) if error.may_pass() && attempt < self.options.attempts => {
                    self.pause(attempt, &error).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Does what [`Self::ask`] does, but gives up at the first failure.
    pub(super) async fn ask_once(
        &self,
        caller: &Caller,
        ask: &Ask,
    ) -> Result<Response, RegistryError> {
        let url = match &ask.target {
            Address::Path(path) => self.url(&caller.grant.host, path).await?,
            Address::Url(url) => url.clone(),
        };
        let mut authorization = self.tokens.get(&caller.grant);
        let mut is_second_try = false;
        loop {
            let answer = self.follow(caller, ask, url.clone(), authorization.as_deref()).await?;
            match answer.status() {
                StatusCode::UNAUTHORIZED if !is_second_try => {
                    let challenge = challenge_of(&answer).ok_or(RegistryError::Challenge {
                        registry: caller.registry.clone(),
                        problem: "it asks for neither a token nor a password",
                    })?;
                    let credentials = caller.credentials.as_ref();
                    let value = self
                        .authorize(&caller.registry, &caller.grant, credentials, &challenge)
                        .await?;
                    authorization = Some(value);
                    is_second_try = true;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(RegistryError::Unauthorized {
                        registry: caller.registry.clone(),
                        repository: super::auth::repository_of(&caller.grant.scope),
                        had_credentials: caller.credentials.is_some(),
                    });
                }
                status if status.is_success() => return Ok(answer),
                _ => return Err(self.refusal(&caller.registry, answer).await),
            }
        }
    }

    /// Sends a request that needs no authentication, with retries, and returns any final answer.
    pub(super) async fn with_retries(
        &self,
        host: &str,
        request: RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let mut attempt = 1;
        loop {
            // Bodies here are in memory, so that the request can always be cloned.
            let Some(copy) = request.try_clone() else { return self.send(host, request).await };
            let outcome = match self.send(host, copy).await {
                Ok(answer) if is_passing(answer.status()) => Err(self.refusal(host, answer).await),
                other => other,
            };
            match outcome {
                Err(error) if error.may_pass() && attempt < self.options.attempts => {
                    self.pause(attempt, &error).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Waits before another attempt: twice as long each time, with a random part so that clients do
    /// not come back all at once, or as long as the registry asks.
    pub(super) async fn pause(&self, attempt: u32, error: &RegistryError) {
        let longest = self.options.longest_pause;
        let asked = match error {
            RegistryError::Busy { retry_after, .. } => *retry_after,
            _ => None,
        };
        let pause = asked.unwrap_or_else(|| {
            let pause = self.options.first_pause.saturating_mul(1 << (attempt - 1).min(16));
            let random = RandomState::new().hash_one(attempt) % 256;
            pause + pause.mul_f64(f64::from(u8::try_from(random).unwrap_or_default()) / 512.0)
        });
        let pause = pause.min(longest);
        tracing::debug!(%error, attempt, pause_ms = pause.as_millis(), "trying again");
        tokio::time::sleep(pause).await;
    }

    /// Returns the client for a host: with a proxy or not, with certificates verified or not.
    pub(super) fn client(&self, host: &str) -> Result<Client, RegistryError> {
        let trust = self.trust(host);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&trust) {
            return Ok(client.clone());
        }
        let client = self.build_client(trust)?;
        clients.insert(trust, client.clone());
        Ok(client)
    }

    fn build_client(&self, trust: Trust) -> Result<Client, RegistryError> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Fails only if there is one already, which serves as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let builder = || {
            let builder = Client::builder()
                .user_agent(concat!("keg/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(self.options.connect_timeout)
                .pool_idle_timeout(Duration::from_secs(30))
                .http2_initial_stream_window_size(2 << 20)
                .http2_initial_connection_window_size(8 << 20);
            match trust {
                Trust::Tls => builder,
                Trust::Loopback => builder.no_proxy(),
                Trust::Insecure => builder.tls_danger_accept_invalid_certs(true),
            }
        };
        builder().build().or_else(|error| {
            if trust == Trust::Tls {
                return Err(RegistryError::Tls { source: error });
            }
            // Without any certificate authority on the machine, plain HTTP still works.
            builder()
                .tls_certs_only(Vec::<reqwest::Certificate>::new())
                .build()
                .map_err(|source| RegistryError::Tls { source })
        })
    }

    /// Returns the URL of a path of the registry's API.
    async fn url(&self, host: &str, path: &str) -> Result<Url, RegistryError> {
        let scheme = self.scheme(host).await?;
        Url::parse(&format!("{scheme}://{host}/v2/{path}")).map_err(|_| RegistryError::Protocol {
            registry: host.to_owned(),
            problem: "its name does not make a URL",
        })
    }

    /// Finds out whether a host that may go without TLS speaks it.
    async fn scheme(&self, host: &str) -> Result<&'static str, RegistryError> {
        if self.trust(host) == Trust::Tls {
            return Ok("https");
        }
        let known = self.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied();
        if let Some(scheme) = known {
            return Ok(scheme);
        }
        let client = self.client(host)?;
        let ping = |scheme: &str| client.get(format!("{scheme}://{host}/v2/"));
        let plain = self.send(host, ping("http")).await;
        let scheme = match plain {
            // A server that speaks TLS answers plain HTTP with 400, or not at all.
            Ok(answer) if answer.status() != StatusCode::BAD_REQUEST => "http",
            Ok(_) => "https",
            Err(plain) => match self.send(host, ping("https")).await {
                Ok(_) => "https",
                Err(_) => return Err(plain),
            },
        };
        let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        schemes.insert(host.to_owned(), scheme);
        Ok(scheme)
    }

    /// Sends a request and follows its redirects.
    async fn follow(
        &self,
        caller: &Caller,
        ask: &Ask,
        url: Url,
        authorization: Option<&str>,
    ) -> Result<Response, RegistryError> {
        // A URL that the registry gave may be elsewhere: the token is for the registry alone.
        let own = self.url(&caller.grant.host, "").await?;
        let mut url = url;
        for _ in 0..=MAX_REDIRECTS {
            let host = host_of(&url);
            let mut request = self
                .client(&host)?
                .request(ask.method.clone(), url.clone())
                .headers(ask.headers.clone());
            if let Some(value) = authorization.filter(|_| url.origin() == own.origin()) {
                request = request.header(header::AUTHORIZATION, value);
            }
            let answer = match &ask.body {
                Some(body) => self.send_body(&host, request, body).await?,
                None => self.send(&host, request).await?,
            };
            if !is_redirect(answer.status()) {
                return Ok(answer);
            }
            url = self.redirect_target(&caller.registry, &url, &answer)?;
        }
        Err(RegistryError::Redirect {
            registry: caller.registry.clone(),
            target: without_query(&url),
            problem: "that is one redirect too many",
        })
    }

    /// Sends a request with a body; only a body that stands still for too long is given up.
    async fn send_body(
        &self,
        host: &str,
        request: RequestBuilder,
        body: &Upload,
    ) -> Result<Response, RegistryError> {
        let waited = self.options.stall_timeout;
        let (stream, sent) = body.open();
        let request = request.header(header::CONTENT_LENGTH, body.size_bytes).body(stream);
        let mut sending = std::pin::pin!(request.send());
        let mut seen_bytes = 0;
        loop {
            match tokio::time::timeout(waited, &mut sending).await {
                Ok(answer) => return answer.map_err(|error| transfer_error(host, error)),
                Err(_) => {
                    let now_bytes = sent.load(Ordering::Relaxed);
                    if now_bytes == seen_bytes {
                        return Err(RegistryError::Stalled { registry: host.to_owned(), waited });
                    }
                    seen_bytes = now_bytes;
                }
            }
        }
    }

    /// Returns where a `Location` of an answer leads.
    pub(super) fn location(
        &self,
        registry: &str,
        from: &Url,
        answer: &Response,
    ) -> Result<Url, RegistryError> {
        self.redirect_target(registry, from, answer)
    }

    fn redirect_target(
        &self,
        registry: &str,
        from: &Url,
        answer: &Response,
    ) -> Result<Url, RegistryError> {
        let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let target = location.and_then(|text| from.join(text).ok());
        let Some(target) = target else {
            return Err(RegistryError::Protocol {
                registry: registry.to_owned(),
                problem: "a redirect does not say where to",
            });
        };
        let problem = match (from.scheme(), target.scheme()) {
            (_, "https") => None,
            ("http", "http") if self.trust(&host_of(&target)) == Trust::Tls => {
                Some("it is not on this machine, nor listed as insecure, and has no TLS")
            }
            ("http", "http") => None,
            (_, "http") => Some("it gives TLS up"),
            _ => Some("it is neither HTTPS nor HTTP"),
        };
        match problem {
            None => Ok(target),
            Some(problem) => Err(RegistryError::Redirect {
                registry: registry.to_owned(),
                target: without_query(&target),
                problem,
            }),
        }
    }

    /// Sends one request and waits for the head of its answer.
    async fn send(&self, host: &str, request: RequestBuilder) -> Result<Response, RegistryError> {
        let waited = self.options.stall_timeout;
        match tokio::time::timeout(waited, request.send()).await {
            Ok(answer) => answer.map_err(|error| transfer_error(host, error)),
            Err(_) => Err(RegistryError::Stalled { registry: host.to_owned(), waited }),
        }
    }

    /// Reads a body, of which each piece must come in time.
    pub(super) async fn read_body(
        &self,
        host: &str,
        mut answer: Response,
        what: &'static str,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let too_large = || RegistryError::TooLarge { registry: host.to_owned(), what, limit_bytes };
        if answer.content_length().is_some_and(|length| length > limit_bytes) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(piece) = self.next_piece(host, &mut answer).await? {
            if (body.len() + piece.len()) as u64 > limit_bytes {
                return Err(too_large());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Waits for the next piece of a body; `None` is its end.
    pub(super) async fn next_piece(
        &self,
        host: &str,
        answer: &mut Response,
    ) -> Result<Option<bytes::Bytes>, RegistryError> {
        let waited = self.options.stall_timeout;
        match tokio::time::timeout(waited, answer.chunk()).await {
            Ok(piece) => piece.map_err(|error| transfer_error(host, error)),
            Err(_) => Err(RegistryError::Stalled { registry: host.to_owned(), waited }),
        }
    }

    /// Makes an error of an answer that is not a success.
    pub(super) async fn refusal(&self, registry: &str, answer: Response) -> RegistryError {
        let (status, retry_after) = (answer.status(), retry_after(answer.headers()));
        let registry = registry.to_owned();
        let body = self.read_body(&registry, answer, "an error", MAX_ERROR_BYTES).await;
        let message = told_by(&body.unwrap_or_default());
        if is_passing(status) {
            RegistryError::Busy { registry, status: status.as_u16(), message, retry_after }
        } else {
            RegistryError::Refused { registry, status: status.as_u16(), message }
        }
    }
}

/// Tells failures to connect from failures later on. Its URL, which may have a signature in its
/// query, is taken out.
fn transfer_error(host: &str, error: reqwest::Error) -> RegistryError {
    let (registry, source) = (host.to_owned(), error.without_url());
    if source.is_connect() || source.is_timeout() {
        RegistryError::Unreachable { registry, source }
    } else {
        RegistryError::Broken { registry, source }
    }
}

fn challenge_of(answer: &Response) -> Option<Challenge> {
    let values = answer.headers().get_all(header::WWW_AUTHENTICATE);
    Challenge::choose(values.iter().filter_map(|value| value.to_str().ok()))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Tells whether the same request may succeed later.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// Reads `Retry-After`: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
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
fn told_by(body: &[u8]) -> String {
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
