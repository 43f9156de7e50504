//! Asking a registry as a whole: whether it takes credentials, and what it has.
//!
//! ```text
//! login    GET /v2/                     with credentials, and a token if it wants one
//! search   GET /v1/search?q=…&n=…       the default registry, and those that still have it
//!          GET /v2/_catalog?n=…         all others: names that contain the term (distribution-spec)
//! ```

use std::sync::Arc;

use http::{StatusCode, header};
use reqwest::{Method, Url};
use serde::Deserialize;

use super::auth::Grant;
use super::endpoint::{Endpoint, SEARCH_HOST};
use super::repository::fingerprint;
use super::transport::{Address, Ask, Caller};
use super::{RegistryClient, RegistryError};
use crate::{Credentials, DEFAULT_DOMAIN, Images, Reference};

/// Largest answer to a search.
const MAX_ANSWER_BYTES: u64 = 8 << 20;

/// Names that are asked for at once, and how many such pages are read.
const CATALOG_PAGE: usize = 1000;
const MAX_CATALOG_PAGES: usize = 50;

/// A repository that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchHit {
    /// Its name as people type it.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// How many people like it.
    pub stars: i64,
    /// Whether the registry's operator vouches for it.
    pub is_official: bool,
}

#[derive(Deserialize)]
struct SearchAnswer {
    results: Vec<SearchEntry>,
}

#[derive(Deserialize)]
struct SearchEntry {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    star_count: i64,
    #[serde(default)]
    is_official: bool,
}

#[derive(Deserialize)]
struct Catalog {
    #[serde(default)]
    repositories: Option<Vec<String>>,
}

impl Images {
    /// Tries credentials with a registry; returns whether it asked for any.
    ///
    /// # Errors
    /// [`RegistryError::Unauthorized`] if it refuses them, and whatever keeps it from answering.
    pub async fn login(
        &self,
        registry: &str,
        credentials: Credentials,
    ) -> Result<bool, RegistryError> {
        self.shared.registry.login(registry, credentials).await
    }

    /// Looks for repositories whose name has a part `term`, which may begin with a registry.
    ///
    /// # Errors
    /// [`RegistryError::NoSearch`] if the registry can be asked in neither way.
    pub async fn search(
        &self,
        term: &str,
        limit: usize,
        credentials: Option<Credentials>,
    ) -> Result<Vec<SearchHit>, RegistryError> {
        self.shared.registry.search(term, limit, credentials).await
    }
}

impl RegistryClient {
    async fn login(&self, registry: &str, credentials: Credentials) -> Result<bool, RegistryError> {
        let caller = self.caller(registry, "", Some(credentials))?;
        // A token of an earlier login would prove nothing.
        self.transport.tokens.forget(&caller.grant);
        let ask = Ask::new(Method::GET, String::new());
        match self.transport.ask(&caller, &ask).await {
            // Some have nothing at the root, and say so once they know who asks.
            Ok(_) | Err(RegistryError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(self.transport.tokens.get(&caller.grant).is_some())
    }

    /// Returns who asks the registry itself, never a mirror.
    fn caller(
        &self,
        registry: &str,
        scope: &str,
        credentials: Option<Credentials>,
    ) -> Result<Caller, RegistryError> {
        let name = Reference::parse(&format!("{registry}/x")).map_err(|_| bad_name(registry))?;
        if name.domain() != registry {
            return Err(bad_name(registry));
        }
        let endpoint = self.own_endpoint(registry)?;
        let grant = Grant {
            host: endpoint.host.clone(),
            scope: scope.to_owned(),
            who: fingerprint(credentials.as_ref()),
        };
        let (registry, endpoint) = (registry.to_owned(), Arc::new(endpoint));
        Ok(Caller { registry, endpoint, grant, credentials })
    }

    async fn search(
        &self,
        term: &str,
        limit: usize,
        credentials: Option<Credentials>,
    ) -> Result<Vec<SearchHit>, RegistryError> {
        let (registry, term) = split(term);
        if registry == DEFAULT_DOMAIN {
            let mut caller = self.caller(registry, "", None)?;
            let insecure = &self.transport.options().insecure;
            caller.endpoint = Arc::new(Endpoint::of_registry(SEARCH_HOST, insecure));
            return self.ask_index(&caller, term, limit).await;
        }
        let plain = self.caller(registry, "", credentials.clone())?;
        match self.ask_index(&plain, term, limit).await {
            Err(RegistryError::Refused { .. } | RegistryError::Protocol { .. }) => {}
            other => return other,
        }
        let caller = self.caller(registry, "registry:catalog:*", credentials)?;
        match self.read_catalog(&caller, term, limit).await {
            Err(RegistryError::Refused { registry, .. }) => {
                Err(RegistryError::NoSearch { registry })
            }
            other => other,
        }
    }

    /// Asks for a search as Docker's index has it.
    async fn ask_index(
        &self,
        caller: &Caller,
        term: &str,
        limit: usize,
    ) -> Result<Vec<SearchHit>, RegistryError> {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("q", term)
            .append_pair("n", &limit.to_string())
            .finish();
        let url = self.transport.root_url(&caller.endpoint).await?;
        let url =
            url.join(&format!("/v1/search?{query}")).map_err(|_| bad_name(&caller.registry))?;
        let ask = Ask { target: Address::Url(url), ..Ask::new(Method::GET, String::new()) };
        let bytes = self.read(caller, &ask).await?.0;
        let answer: SearchAnswer = serde_json::from_slice(&bytes).map_err(|_| malformed(caller))?;
        let prefix = match caller.registry.as_str() {
            DEFAULT_DOMAIN => String::new(),
            registry => format!("{registry}/"),
        };
        let hits = answer.results.into_iter().take(limit).map(|entry| SearchHit {
            name: format!("{prefix}{}", entry.name),
            description: entry.description.unwrap_or_default(),
            stars: entry.star_count,
            is_official: entry.is_official,
        });
        Ok(hits.collect())
    }

    /// Reads the list of repositories, page by page.
    async fn read_catalog(
        &self,
        caller: &Caller,
        term: &str,
        limit: usize,
    ) -> Result<Vec<SearchHit>, RegistryError> {
        let mut ask = Ask::new(Method::GET, format!("_catalog?n={CATALOG_PAGE}"));
        let mut hits = Vec::new();
        for _ in 0..MAX_CATALOG_PAGES {
            let (bytes, next) = self.read(caller, &ask).await?;
            let page: Catalog = serde_json::from_slice(&bytes).map_err(|_| malformed(caller))?;
            let names = page.repositories.unwrap_or_default();
            let matching = names.into_iter().filter(|name| name.contains(term));
            hits.extend(matching.map(|name| SearchHit {
                name: format!("{}/{name}", caller.registry),
                description: String::new(),
                stars: 0,
                is_official: false,
            }));
            match next {
                Some(next) if hits.len() < limit => ask.target = Address::Url(next),
                _ => break,
            }
        }
        hits.truncate(limit);
        Ok(hits)
    }

    /// Reads an answer, and where the next page of it is.
    async fn read(
        &self,
        caller: &Caller,
        ask: &Ask,
    ) -> Result<(Vec<u8>, Option<Url>), RegistryError> {
        let answer = self.transport.ask(caller, ask).await?;
        let from = answer.url().clone();
        let link = answer.headers().get(header::LINK).and_then(|value| value.to_str().ok());
        // Another registry is not asked on this one's word.
        let next = link
            .and_then(next_link)
            .and_then(|link| from.join(link).ok())
            .filter(|next| next.origin() == from.origin());
        if answer.status() != StatusCode::OK {
            return Err(malformed(caller));
        }
        let what = "an answer to a search";
        let bytes =
            self.transport.read_body(&caller.registry, answer, what, MAX_ANSWER_BYTES).await?;
        Ok((bytes, next))
    }
}

/// Splits `HOST[:PORT]/TERM`; a term alone is for the default registry.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((host, rest)) if host == "localhost" || host.contains(['.', ':']) => match host {
            "index.docker.io" => (DEFAULT_DOMAIN, rest),
            host => (host, rest),
        },
        _ => (DEFAULT_DOMAIN, term),
    }
}

/// Returns what `<URL>; rel="next"` points at (RFC 8288).
fn next_link(value: &str) -> Option<&str> {
    let (target, parameters) = value.trim().strip_prefix('<')?.split_once('>')?;
    let parameters = parameters.to_ascii_lowercase();
    let is_next = parameters.split(';').any(|one| {
        one.trim().strip_prefix("rel=").is_some_and(|rel| rel.trim_matches('"') == "next")
    });
    is_next.then_some(target)
}

fn bad_name(registry: &str) -> RegistryError {
    RegistryError::BadName { registry: registry.to_owned() }
}

fn malformed(caller: &Caller) -> RegistryError {
    let problem = "its answer to a search is malformed";
    RegistryError::Protocol { registry: caller.registry.clone(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_may_begin_with_a_registry() {
        assert_eq!(split("redis"), ("docker.io", "redis"));
        assert_eq!(split("team/redis"), ("docker.io", "team/redis"));
        assert_eq!(split("host:5000/team/redis"), ("host:5000", "team/redis"));
        assert_eq!(split("quay.io/redis"), ("quay.io", "redis"));
    }

    #[test]
    fn the_next_page_is_found_in_a_link() {
        let value = "</v2/_catalog?last=b&n=2>; rel=\"next\"";

        assert_eq!(next_link(value), Some("/v2/_catalog?last=b&n=2"));
        assert_eq!(next_link("</x>; rel=prev"), None);
        assert_eq!(next_link("nonsense"), None);
    }
}
