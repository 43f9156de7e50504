//! Authentication: challenges parsed, tokens fetched and kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use serde::Deserialize;

use super::RegistryError;
use super::endpoint::{Trust, host_of};
use super::transport::{Caller, Transport};
use crate::Credentials;

/// What we call ourselves to token servers.
const CLIENT_ID: &str = "keg";

/// How long a token lives that does not say (distribution's token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);

/// How long before its end a token is not used any more.
const SAFETY_MARGIN: Duration = Duration::from_secs(10);

/// Largest answer of a token server.
const MAX_TOKEN_BYTES: u64 = 256 * 1024;

/// Whose access to what: tokens are kept by this.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Grant {
    /// Host of the registry's API.
    pub(super) host: String,
    /// `repository:NAME:ACTIONS`.
    pub(super) scope: String,
    /// Tells different callers apart without keeping their secrets: a hash of the credentials.
    pub(super) who: String,
}

/// The `Authorization` values that are in use.
#[derive(Default)]
pub(super) struct Tokens {
    kept: Mutex<HashMap<Grant, Token>>,
}

#[derive(Clone)]
struct Token {
    value: String,
    expires: Option<Instant>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(..)")
    }
}

impl Tokens {
    /// Returns the value to send, if there is one that still holds.
    pub(super) fn get(&self, grant: &Grant) -> Option<String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let token = kept.get(grant)?;
        let holds = token.expires.is_none_or(|expires| Instant::now() < expires);
        holds.then(|| token.value.clone())
    }

    /// Forgets what there is for a grant.
    pub(super) fn forget(&self, grant: &Grant) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(grant);
    }

    fn keep(&self, grant: &Grant, token: Token) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        kept.retain(|_, token| token.expires.is_none_or(|expires| now < expires));
        kept.insert(grant.clone(), token);
    }
}

/// What a registry asks for in `WWW-Authenticate` (RFC 9110, section 11.6.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from somewhere else.
    Bearer {
        /// URL of the token server.
        realm: String,
        /// Name that it knows the registry by.
        service: Option<String>,
        /// What the token must be good for.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Picks the strongest challenge out of the values of all `WWW-Authenticate` headers.
    pub(super) fn choose<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut best = None;
        for value in values {
            for (scheme, parameters) in parse_challenges(value) {
                if scheme.eq_ignore_ascii_case("bearer") {
                    let get = |name: &str| parameters.get(name).cloned();
                    if let Some(realm) = get("realm") {
                        let (service, scope) = (get("service"), get("scope"));
                        return Some(Self::Bearer { realm, service, scope });
                    }
                } else if scheme.eq_ignore_ascii_case("basic") {
                    best = Some(Self::Basic);
                }
            }
        }
        best
    }
}

/// Splits `Scheme a="b", c=d, Other e="f"` into schemes with their parameters.
fn parse_challenges(value: &str) -> Vec<(String, HashMap<String, String>)> {
    let mut found: Vec<(String, HashMap<String, String>)> = Vec::new();
    let mut rest = value.trim_start_matches([',', ' ', '\t']);
    while !rest.is_empty() {
        let end = rest.find(['=', ' ', '\t', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(after) = after.strip_prefix('=') {
            let (text, after) = parse_value(after);
            if let Some((_, parameters)) = found.last_mut() {
                parameters.insert(word.to_ascii_lowercase(), text);
            }
            rest = after;
        } else {
            found.push((word.to_owned(), HashMap::new()));
            rest = after;
        }
        rest = rest.trim_start_matches([',', ' ', '\t']);
    }
    found
}

/// Reads a token or a quoted string, and returns it with what follows.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

impl Transport {
    /// Answers a challenge: returns the `Authorization` value for the next attempt, and keeps it.
    pub(super) async fn authorize(
        &self,
        caller: &Caller,
        challenge: &Challenge,
    ) -> Result<String, RegistryError> {
        let Caller { registry, grant, .. } = caller;
        let credentials = caller.credentials.as_ref();
        let token = match challenge {
            Challenge::Basic => {
                let value = credentials.and_then(Credentials::basic_value).ok_or_else(|| {
                    RegistryError::Unauthorized {
                        registry: registry.to_owned(),
                        repository: repository_of(&grant.scope),
                        had_credentials: credentials.is_some(),
                    }
                })?;
                Token { value, expires: None }
            }
            Challenge::Bearer { realm, service, scope } => {
                let scope = scope.as_deref().unwrap_or(&grant.scope);
                let service = service.as_deref();
                self.fetch_token(caller, realm, service, scope).await?
            }
        };
        self.tokens.keep(grant, token.clone());
        Ok(token.value)
    }

    async fn fetch_token(
        &self,
        caller: &Caller,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<Token, RegistryError> {
        let Caller { registry, grant, endpoint, .. } = caller;
        let credentials = caller.credentials.as_ref();
        let problem = |problem| RegistryError::Challenge { registry: registry.to_owned(), problem };
        let mut url =
            Url::parse(realm).map_err(|_| problem("the token server's address is malformed"))?;
        let is_safe = match url.scheme() {
            "https" => true,
            "http" => host_of(&url) == endpoint.host || self.trust(&host_of(&url)) != Trust::Tls,
            _ => false,
        };
        // What speaks TLS must not be talked out of it.
        let gives_tls_up = url.scheme() == "http" && endpoint.scheme == Some("https");
        if !is_safe || gives_tls_up {
            return Err(problem("its token server is not reached by HTTPS"));
        }
        let client = self.client(endpoint, &host_of(&url))?;
        let request = match credentials {
            Some(Credentials::IdentityToken(identity)) => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                form.append_pair("grant_type", "refresh_token")
                    .append_pair("refresh_token", identity)
                    .append_pair("client_id", CLIENT_ID)
                    .append_pair("service", service.unwrap_or_default())
                    .append_pair("scope", scope);
                client
                    .post(url.clone())
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(form.finish())
            }
            _ => {
                let mut query = url.query_pairs_mut();
                if let Some(service) = service {
                    query.append_pair("service", service);
                }
                if !scope.is_empty() {
                    query.append_pair("scope", scope);
                }
                if let Some(Credentials::Basic { username, .. }) = credentials {
                    query.append_pair("account", username);
                }
                drop(query);
                let request = client.get(url.clone());
                match credentials.and_then(Credentials::basic_value) {
                    Some(value) => request.header("authorization", value),
                    None => request,
                }
            }
        };
        let answer = self.with_retries(&host_of(&url), request).await?;
        let status = answer.status().as_u16();
        if matches!(status, 400 | 401 | 403) {
            return Err(RegistryError::Unauthorized {
                registry: registry.to_owned(),
                repository: repository_of(&grant.scope),
                had_credentials: credentials.is_some(),
            });
        }
        if status != 200 {
            return Err(self.refusal(&host_of(&url), answer).await);
        }
        let body = self.read_body(&host_of(&url), answer, "a token", MAX_TOKEN_BYTES).await?;
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| problem("its token server's answer is malformed"))?;
        let value = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if value.is_empty() || value.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
            return Err(problem("its token server sends no token"));
        }
        let lifetime = match answer.expires_in {
            0 => DEFAULT_LIFETIME,
            secs => Duration::from_secs(secs.min(24 * 60 * 60)),
        };
        let expires = Instant::now() + lifetime.saturating_sub(SAFETY_MARGIN);
        Ok(Token { value: format!("Bearer {value}"), expires: Some(expires) })
    }
}

/// Returns the repository of a scope, for errors.
pub(super) fn repository_of(scope: &str) -> String {
    scope.split(':').nth(1).unwrap_or(scope).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_are_read_in_every_spelling() {
        let bearer = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry \"x\"".to_owned()),
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        let value = "Bearer realm=\"https://auth.example/token\",service=\"registry \\\"x\\\"\", \
                     scope=\"repository:a/b:pull,push\"";

        assert_eq!(Challenge::choose([value]), Some(bearer.clone()));
        assert_eq!(
            Challenge::choose([&format!("Basic realm=\"r\", {value}") as &str]),
            Some(bearer)
        );
        assert_eq!(Challenge::choose(["basic realm=r"]), Some(Challenge::Basic));
        assert_eq!(Challenge::choose(["Negotiate", "Basic"]), Some(Challenge::Basic));
        assert_eq!(Challenge::choose(["Bearer service=x"]), None);
        assert!(Challenge::choose(["", "Digest a=b", "=", "\"", "Bearer realm=\""]).is_some());
    }

    #[test]
    fn a_token_is_used_until_shortly_before_its_end() {
        let tokens = Tokens::default();
        let grant = |scope: &str| Grant {
            host: "h".to_owned(),
            scope: scope.to_owned(),
            who: String::new(),
        };
        let token = |expires| Token { value: "v".to_owned(), expires };
        let now = Instant::now();

        tokens.keep(&grant("old"), token(Some(now)));
        tokens.keep(&grant("good"), token(Some(now + Duration::from_secs(60))));
        tokens.keep(&grant("basic"), token(None));

        assert_eq!(tokens.get(&grant("old")), None);
        assert_eq!(tokens.get(&grant("good")).as_deref(), Some("v"));
        assert_eq!(tokens.get(&grant("basic")).as_deref(), Some("v"));
        assert_eq!(tokens.get(&grant("other")), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic_or_hang(value in "\\PC{0,200}") {
            let _ = Challenge::choose([value.as_str()]);
        }
    }
}
