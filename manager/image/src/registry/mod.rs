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

mod auth;
mod blob;
mod endpoint;
mod error;
mod repository;
mod transport;
mod upload;

use std::sync::Arc;
use std::time::Duration;

pub use blob::BlobStream;
pub use error::RegistryError;
pub use repository::{Fetched, Repository};
pub use upload::Upload;

use crate::{CredentialFile, Credentials, Reference};

/// How registries are talked to.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Registries (`HOST[:PORT]`) that may speak plain HTTP or have a certificate that is not
    /// verified.
    pub insecure: Vec<String>,
    /// Where credentials are looked for that a call does not give.
    pub credentials: CredentialFile,
    /// Longest wait for a connection, TLS included.
    pub connect_timeout: Duration,
    /// Longest wait for an answer to begin, and for each piece of a body.
    pub stall_timeout: Duration,
    /// How often a request is tried that makes no progress.
    pub attempts: u32,
    /// Pause before the second attempt; each further one is twice as long.
    pub first_pause: Duration,
    /// Longest pause, also where a registry asks for a longer one.
    pub longest_pause: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            credentials: CredentialFile::default(),
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            attempts: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// Talks to registries. Clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct RegistryClient {
    transport: Arc<transport::Transport>,
    credentials: CredentialFile,
}

impl RegistryClient {
    /// Returns a client; connects to nothing yet.
    #[must_use]
    pub fn new(options: RegistryOptions) -> Self {
        let credentials = options.credentials.clone();
        Self { transport: Arc::new(transport::Transport::new(options)), credentials }
    }

    /// Returns access to the repository of a reference, with the given credentials or else those of
    /// the user's file.
    #[must_use]
    pub fn repository(&self, reference: &Reference, given: Option<Credentials>) -> Repository {
        self.repository_for(reference, given, "pull")
    }

    /// Returns access to the repository of a reference for pushing into it.
    #[must_use]
    pub fn repository_to_push(
        &self,
        reference: &Reference,
        given: Option<Credentials>,
    ) -> Repository {
        self.repository_for(reference, given, "pull,push")
    }

    fn repository_for(
        &self,
        reference: &Reference,
        given: Option<Credentials>,
        actions: &str,
    ) -> Repository {
        let credentials = given.or_else(|| self.credentials.find(reference.domain()));
        Repository::new(Arc::clone(&self.transport), reference, credentials, actions)
    }
}
