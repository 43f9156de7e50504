//! Registries: the distribution specification's client side.
//!
//! ```text
//! Repository ── manifest, blob ──▶ Transport ── one request ──▶ endpoint (scheme, address)
//!                                     │    ▲
//!                              401    │    │ Authorization, kept per host, scope and user
//!                                     ▼    │
//!                                    Tokens ── realm, service, scope ──▶ token server
//! ```
//!
//! A request is tried again with growing pauses where that may help: no connection, a stall, a cut, 429
//! and 5xx; a blob goes on where it broke off. Redirects are followed by hand: `Authorization` stays
//! with the origin that it is for, and a redirect leads to HTTP(S) only and never from HTTPS to plain
//! HTTP.
//!
//! Plain HTTP is spoken with loopback addresses and with registries that the operator listed.

mod answer;
mod auth;
mod blob;
mod clients;
mod endpoint;
mod error;
mod hosts;
mod issuer;
mod ranges;
mod rate;
mod referrers;
mod repository;
mod search;
mod sending;
mod transport;
mod trouble;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use endpoint::{is_on_loopback, without_secrets};
pub use error::RegistryError;
pub use hosts::HostsError;
pub use ranges::BlobTransfer;
pub use rate::RateLimit;
pub use referrers::Referrer;
pub use repository::{Fetched, Repository};
pub use search::SearchHit;
pub use trouble::CertificateProblem;
pub use upload::Upload;

use self::endpoint::Endpoint;
use crate::room::Room;
use crate::{Credentials, Reference};

/// How registries are talked to.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Registries (`HOST[:PORT]`) that may speak plain HTTP or have a certificate that is not
    /// verified.
    pub insecure: Vec<String>,
    /// Directories with an operator's settings for registries: `HOST[:PORT]/hosts.toml` in containerd's
    /// form, or certificates in Docker's.
    pub config_dirs: Vec<PathBuf>,
    /// Longest wait for a connection, TLS included.
    pub connect_timeout: Duration,
    /// Longest wait for an answer to begin, and for each piece of a body.
    pub stall_timeout: Duration,
    /// How often a request is tried that makes no progress.
    pub attempts: u32,
    /// Ranges of large blobs that are fetched ahead, over all transfers; each takes 4 MiB of memory.
    pub ranges_ahead: usize,
    /// Bytes of a blob that are sent in one request; a larger one goes in chunks.
    pub upload_chunk_bytes: u64,
    /// Pause before the second attempt; each further one is twice as long.
    pub first_pause: Duration,
    /// Longest pause, also where a registry asks for a longer one.
    pub longest_pause: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            config_dirs: Vec::new(),
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            attempts: 5,
            ranges_ahead: 2,
            upload_chunk_bytes: 64 << 20,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// Talks to registries. Clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct RegistryClient {
    transport: Arc<transport::Transport>,
}

impl RegistryClient {
    /// Returns a client; connects to nothing yet.
    #[must_use]
    pub fn new(options: RegistryOptions) -> Self {
        // Builds and downloads have HTTP clients of their own, perhaps before this one talks to anybody.
        clients::install_tls();
        Self { transport: Arc::new(transport::Transport::new(options)) }
    }

    /// Returns how registries are talked to.
    pub(crate) fn options(&self) -> &RegistryOptions {
        self.transport.options()
    }

    /// Returns the memory that transfers share.
    pub(crate) fn room(&self) -> &Room {
        &self.transport.room
    }

    /// Returns access to the repository of a reference, with credentials if there are any.
    ///
    /// # Errors
    /// [`RegistryError::Hosts`] if the operator's settings for the registry cannot be used.
    pub fn repository(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Repository, RegistryError> {
        let endpoints = self.endpoints(reference.domain())?;
        let transport = Arc::clone(&self.transport);
        Ok(Repository::new(transport, reference, credentials, endpoints, "pull"))
    }

    /// Returns access to the repository of a reference for pushing into it.
    ///
    /// # Errors
    /// As [`Self::repository`].
    pub fn repository_to_push(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Repository, RegistryError> {
        let endpoint = self.own_endpoint(reference.domain())?;
        let transport = Arc::clone(&self.transport);
        Ok(Repository::new(transport, reference, credentials, vec![endpoint], "pull,push"))
    }

    fn endpoints(&self, domain: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let RegistryOptions { insecure, config_dirs, .. } = self.transport.options();
        hosts::endpoints(domain, config_dirs, insecure).map_err(|source| RegistryError::Hosts {
            registry: domain.to_owned(),
            source: Box::new(source),
        })
    }

    /// Returns who takes pushes and credentials: the registry itself, or whom the operator names for it.
    fn own_endpoint(&self, domain: &str) -> Result<Endpoint, RegistryError> {
        let endpoints = self.endpoints(domain)?;
        let own = endpoints.iter().rev().find(|one| !one.is_mirror && one.pushes);
        let named = || endpoints.iter().find(|one| one.pushes);
        own.or_else(named)
            .cloned()
            .ok_or_else(|| RegistryError::NoPush { registry: domain.to_owned() })
    }
}

/// Parses a `hosts.toml` for the fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_hosts(text: &str, path: &std::path::Path) {
    drop(hosts::parse(text, path, Endpoint::of_registry("x.example", &[])));
}

/// Parses a challenge for the fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_challenge(value: &str) {
    drop(auth::Challenge::choose([value]));
}

/// Parses a certificate for the fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_certificate(bytes: &[u8]) {
    drop(issuer::issuer_of(bytes));
}
