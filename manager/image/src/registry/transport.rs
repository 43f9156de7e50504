//! Requests: connections, redirects, retries, and what answers mean.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, StatusCode, header};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use tokio::sync::Semaphore;

use super::answer::{challenge_of, is_passing, is_redirect, told_by, transfer_error};
use super::auth::{Grant, Tokens};
use super::clients::Manner;
use super::endpoint::{Endpoint, Trust, host_of, without_secrets};
use super::rate::{RateLimit, retry_after};
use super::upload::Body;
use super::{RegistryError, RegistryOptions, ranges};
use crate::Credentials;
use crate::room::Room;

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 10;

/// Largest error document that is read.
const MAX_ERROR_BYTES: u64 = 64 * 1024;

/// A request to a registry, which may be sent several times.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) target: Address,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Body>,
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

    /// Returns a request without a body to a URL that the registry gave.
    pub(super) fn to(method: Method, url: Url) -> Self {
        Self { method, target: Address::Url(url), headers: HeaderMap::new(), body: None }
    }
}

/// On whose behalf a request is sent.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The registry, as references name it.
    pub(super) registry: String,
    /// Who answers for it.
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) grant: Grant,
    pub(super) credentials: Option<Credentials>,
}

/// Connections to all registries.
#[derive(Debug)]
pub(super) struct Transport {
    options: RegistryOptions,
    pub(super) clients: Mutex<HashMap<Manner, Client>>,
    /// Scheme found out for hosts that may go without TLS.
    pub(super) schemes: Mutex<HashMap<String, &'static str>>,
    pub(super) tokens: Tokens,
    /// Room for ranges that are fetched ahead.
    pub(super) range_room: Arc<Semaphore>,
    /// Memory for what is on its way.
    pub(super) room: Room,
}

impl Transport {
    pub(super) fn new(options: RegistryOptions) -> Self {
        Self {
            room: Room::default(),
            range_room: ranges::room(options.ranges_ahead),
            options,
            clients: Mutex::default(),
            schemes: Mutex::default(),
            tokens: Tokens::default(),
        }
    }

    pub(super) fn options(&self) -> &RegistryOptions {
        &self.options
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
                Err(error) if self.tries_again(attempt, &error) => {
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
            Address::Path(path) => {
                let mut url = self.url(&caller.endpoint, path).await?;
                if caller.endpoint.is_mirror {
                    // One that mirrors several registries cannot know which is meant (containerd's way).
                    url.query_pairs_mut().append_pair("ns", &caller.registry);
                }
                url
            }
            Address::Url(url) => url.clone(),
        };
        let own = self.url(&caller.endpoint, "").await?.origin();
        let mut authorization = self.tokens.get(&caller.grant);
        let mut is_second_try = false;
        loop {
            let answer = self.follow(caller, ask, url.clone(), authorization.as_deref()).await?;
            match answer.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                    if answer.url().origin() != own =>
                {
                    // Whoever a redirect leads to does not get to name a server for our credentials.
                    return Err(self.refusal(&host_of(answer.url()), answer).await);
                }
                StatusCode::UNAUTHORIZED if !is_second_try => {
                    let challenge = challenge_of(&answer).ok_or(RegistryError::Challenge {
                        registry: caller.registry.clone(),
                        problem: "it asks for neither a token nor a password",
                    })?;
                    authorization = Some(self.authorize(caller, &challenge).await?);
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
                Err(error) if self.tries_again(attempt, &error) => {
                    self.pause(attempt, &error).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Tells whether to try again after the failure of an attempt: not if the registry wants to be left
    /// alone for longer than anybody waits, which would only make it angrier.
    pub(super) fn tries_again(&self, attempt: u32, error: &RegistryError) -> bool {
        let is_worth_waiting = match error {
            RegistryError::Busy { retry_after: Some(asked), .. } => {
                *asked <= self.options.longest_pause
            }
            _ => true,
        };
        is_worth_waiting && error.may_pass() && attempt < self.options.attempts
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

    /// Sends a request and follows its redirects.
    async fn follow(
        &self,
        caller: &Caller,
        ask: &Ask,
        url: Url,
        authorization: Option<&str>,
    ) -> Result<Response, RegistryError> {
        // A URL that the registry gave may be elsewhere: the token is for the registry alone.
        let own = self.url(&caller.endpoint, "").await?;
        let mut url = url;
        for _ in 0..=MAX_REDIRECTS {
            let host = host_of(&url);
            let mut request = self
                .client(&caller.endpoint, &host)?
                .request(ask.method.clone(), url.clone())
                .headers(ask.headers.clone());
            if url.origin() == own.origin() {
                for (name, value) in &caller.endpoint.headers {
                    request = request.header(name, value);
                }
                if let Some(value) = authorization {
                    request = request.header(header::AUTHORIZATION, value);
                }
            }
            let answer = match &ask.body {
                Some(body) => self.send_body(&host, request, body).await?,
                None => self.send(&host, request).await?,
            };
            if !is_redirect(answer.status()) {
                return Ok(answer);
            }
            url = self.location(caller, &url, &answer)?;
        }
        Err(RegistryError::Redirect {
            registry: caller.registry.clone(),
            target: without_secrets(&url),
            problem: "that is one redirect too many",
        })
    }

    /// Sends a request with a body; only a body that stands still for too long is given up.
    async fn send_body(
        &self,
        host: &str,
        request: RequestBuilder,
        body: &Body,
    ) -> Result<Response, RegistryError> {
        let waited = self.options.stall_timeout;
        let (stream, sent) = body.open();
        let request = request.header(header::CONTENT_LENGTH, body.length_bytes()).body(stream);
        let mut sending = std::pin::pin!(request.send());
        let mut seen_bytes = 0;
        loop {
            match tokio::time::timeout(waited, &mut sending).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => return Err(self.with_issuer(transfer_error(host, error)).await),
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
        caller: &Caller,
        from: &Url,
        answer: &Response,
    ) -> Result<Url, RegistryError> {
        let registry = &caller.registry;
        let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let target = location.and_then(|text| from.join(text).ok());
        let Some(target) = target else {
            return Err(RegistryError::Protocol {
                registry: registry.clone(),
                problem: "a redirect does not say where to",
            });
        };
        let host = host_of(&target);
        let is_own = host == caller.endpoint.host;
        let problem = match (from.scheme(), target.scheme()) {
            (_, "https") => None,
            ("http", "http") if !is_own && self.trust(&host) == Trust::Tls => {
                Some("it is not on this machine, nor listed as insecure, and has no TLS")
            }
            ("http", "http") => None,
            (_, "http") => Some("it gives TLS up"),
            _ => Some("it is neither HTTPS nor HTTP"),
        };
        match problem {
            None => Ok(target),
            Some(problem) => Err(RegistryError::Redirect {
                registry: registry.clone(),
                target: without_secrets(&target),
                problem,
            }),
        }
    }

    /// Sends one request and waits for the head of its answer.
    pub(super) async fn send(
        &self,
        host: &str,
        request: RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let waited = self.options.stall_timeout;
        match tokio::time::timeout(waited, request.send()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.with_issuer(transfer_error(host, error)).await),
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
        let (status, headers) = (answer.status(), answer.headers());
        let (retry_after, limit) = (retry_after(headers), RateLimit::of(headers));
        let registry = registry.to_owned();
        let body = self.read_body(&registry, answer, "an error", MAX_ERROR_BYTES).await;
        let message = told_by(&body.unwrap_or_default());
        if is_passing(status) {
            RegistryError::Busy { registry, status: status.as_u16(), message, retry_after, limit }
        } else {
            RegistryError::Refused { registry, status: status.as_u16(), message }
        }
    }
}
