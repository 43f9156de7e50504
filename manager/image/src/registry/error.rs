//! Why a registry did not give what it was asked for.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use keg_store::{Digest, Explain, Reason};

use super::HostsError;
use super::rate::{RateLimit, in_words};
use super::trouble::CertificateProblem;

/// Why a registry did not give what it was asked for. No variant holds credentials or the query of
/// a URL, which may hold some.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name is not found, no connection is made, or TLS fails.
    #[error("cannot reach registry {registry}")]
    Unreachable {
        /// The registry, or the host that it sent us to.
        registry: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The connection was cut.
    #[error("registry {registry} broke the connection off")]
    Broken {
        /// The registry, or the host that it sent us to.
        registry: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing came for too long.
    #[error("registry {registry} sent nothing for {} seconds", .waited.as_secs_f32())]
    Stalled {
        /// The registry, or the host that it sent us to.
        registry: String,
        /// How long nothing came.
        waited: Duration,
    },
    /// The registry does not know what was asked for.
    #[error("registry {registry} does not know {image}")]
    Unknown {
        /// The registry.
        registry: String,
        /// The image.
        image: String,
    },
    /// The registry wants credentials, or refuses those it got.
    #[error("registry {registry} {}", refused(.repository, *.had_credentials))]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The repository; empty if the registry as a whole was asked.
        repository: String,
        /// Whether credentials were sent.
        had_credentials: bool,
    },
    /// The registry asks for authentication in a way that is not understood or not safe.
    #[error("registry {registry} cannot be authenticated with: {problem}")]
    Challenge {
        /// The registry.
        registry: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The registry is overloaded, or limits how much may be asked.
    #[error(
        "registry {registry} answers {status}{}{}", told(.message), patience(*.retry_after, *.limit)
    )]
    Busy {
        /// The registry.
        registry: String,
        /// HTTP status.
        status: u16,
        /// What it says.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
        /// How much it lets be asked.
        limit: Option<RateLimit>,
    },
    /// The registry refuses, for good.
    #[error("registry {registry} answers {status}{}", told(.message))]
    Refused {
        /// The registry.
        registry: String,
        /// HTTP status.
        status: u16,
        /// What it says.
        message: String,
    },
    /// A redirect leads where it must not.
    #[error("registry {registry} redirects to {target:?}: {problem}")]
    Redirect {
        /// The registry.
        registry: String,
        /// Where to, without its query.
        target: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An answer does not follow the protocol.
    #[error("registry {registry} does not keep to the protocol: {problem}")]
    Protocol {
        /// The registry.
        registry: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// An answer is larger than it may be.
    #[error("registry {registry} sends more than {limit_bytes} bytes for {what}")]
    TooLarge {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: &'static str,
        /// The limit.
        limit_bytes: u64,
    },
    /// The bytes are not those that were asked for.
    #[error("registry {registry} sends bytes with the digest {found} for {wanted}")]
    Digest {
        /// The registry.
        registry: String,
        /// The digest wanted.
        wanted: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// There are more or fewer bytes than there should be.
    #[error("registry {registry} has {found_bytes} bytes for {digest} instead of {wanted_bytes}")]
    Size {
        /// The registry.
        registry: String,
        /// The blob.
        digest: Digest,
        /// The size wanted.
        wanted_bytes: u64,
        /// The size found.
        found_bytes: u64,
    },
    /// It is no name of a registry.
    #[error("{registry:?} is not a registry's host name")]
    BadName {
        /// What it is.
        registry: String,
    },
    /// The registry can neither be searched nor asked for a list.
    #[error("registry {registry} offers no search")]
    NoSearch {
        /// The registry.
        registry: String,
    },
    /// The registry's certificate cannot be trusted.
    #[error("the certificate of registry {registry} is not trusted: {problem}")]
    Certificate {
        /// The registry, or the host that it sent us to.
        registry: String,
        /// What is wrong with it.
        problem: CertificateProblem,
        /// What the connection failed with.
        #[source]
        source: reqwest::Error,
    },
    /// A certificate of the operator's settings cannot be read.
    #[error("cannot read the certificate {path:?}")]
    ReadCertificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate of the operator's settings is malformed.
    #[error("{path:?} is no certificate, or its key is missing")]
    CertificateFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The operator's settings for the registry cannot be used.
    #[error("the settings for registry {registry} cannot be used")]
    Hosts {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: Box<HostsError>,
    },
    /// The operator's settings name nobody who takes pushes.
    #[error("the settings for registry {registry} let nobody take pushes")]
    NoPush {
        /// The registry.
        registry: String,
    },
    /// The TLS library could not be set up.
    #[error("cannot set up TLS")]
    Tls {
        /// Why.
        #[source]
        source: reqwest::Error,
    },
}

fn refused(repository: &str, had_credentials: bool) -> String {
    match (repository, had_credentials) {
        ("", true) => "refuses these credentials".to_owned(),
        ("", false) => "refuses anonymous access".to_owned(),
        (repository, true) => format!("refuses these credentials access to {repository}"),
        (repository, false) => format!("refuses anonymous access to {repository}"),
    }
}

fn told(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// What a registry that is asked too much says of when it may be asked again.
fn patience(retry_after: Option<Duration>, limit: Option<RateLimit>) -> String {
    let told = limit.map(|limit| limit.to_string());
    let asked = retry_after
        .filter(|pause| !pause.is_zero())
        .map(|pause| format!("it wants to be left alone for {}", in_words(pause)));
    let parts: Vec<String> = told.into_iter().chain(asked).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join("; ")) }
}

impl RegistryError {
    /// Tells whether another attempt may succeed.
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Broken { .. }
                | Self::Stalled { .. }
                | Self::Busy { .. }
        )
    }

    /// Tells whether the registry does not have what was asked for. Some do not tell that from what
    /// they show to nobody.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Unauthorized { had_credentials: false, .. })
    }

    fn registry(&self) -> Option<&str> {
        match self {
            Self::Unreachable { registry, .. }
            | Self::Broken { registry, .. }
            | Self::Stalled { registry, .. }
            | Self::Unknown { registry, .. }
            | Self::Unauthorized { registry, .. }
            | Self::Challenge { registry, .. }
            | Self::Busy { registry, .. }
            | Self::Refused { registry, .. }
            | Self::Redirect { registry, .. }
            | Self::Protocol { registry, .. }
            | Self::TooLarge { registry, .. }
            | Self::Digest { registry, .. }
            | Self::Size { registry, .. }
            | Self::BadName { registry }
            | Self::Certificate { registry, .. }
            | Self::Hosts { registry, .. }
            | Self::NoPush { registry }
            | Self::NoSearch { registry } => Some(registry),
            Self::Tls { .. } | Self::ReadCertificate { .. } | Self::CertificateFile { .. } => None,
        }
    }
}

impl Explain for RegistryError {
    fn reason(&self) -> Reason {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Stalled { .. } => {
                Reason::RegistryUnreachable
            }
            Self::Busy { .. } => Reason::RegistryUnreachable,
            Self::Unknown { .. } => Reason::ImageUnknownToRegistry,
            Self::Unauthorized { .. } => Reason::RegistryUnauthorized,
            Self::Digest { .. } | Self::Size { .. } => Reason::DigestMismatch,
            Self::TooLarge { .. } => Reason::ImageMalformed,
            Self::BadName { .. } => Reason::InvalidReference,
            Self::Challenge { .. }
            | Self::Refused { .. }
            | Self::Redirect { .. }
            | Self::NoSearch { .. }
            | Self::NoPush { .. }
            | Self::Protocol { .. } => Reason::RegistryRefused,
            Self::Certificate { .. } => Reason::RegistryUnreachable,
            Self::ReadCertificate { .. } | Self::CertificateFile { .. } | Self::Hosts { .. } => {
                Reason::HostPath
            }
            Self::Tls { .. } => Reason::UnsupportedByHost,
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Unreachable { .. } => {
                "check the registry's name, the network and the proxy; a registry without TLS must \
                 be listed as insecure in the daemon's configuration"
                    .into()
            }
            Self::Broken { .. } | Self::Stalled { .. } => {
                "check the network, and try again: what was received is kept".into()
            }
            Self::Unknown { .. } => "check the image's name and tag".into(),
            Self::Unauthorized { repository, had_credentials: true, .. } if repository.is_empty() => {
                "check user name and password; many registries want an access token for a password"
                    .into()
            }
            Self::Certificate { registry, .. } => format!(
                "if you trust it, put the certificate of its authority into \
                 /etc/keg/certs.d/{registry}/ca.crt on the daemon's host"
            )
            .into(),
            Self::ReadCertificate { .. } | Self::CertificateFile { .. } | Self::Hosts { .. } => {
                "correct the file, or take it away".into()
            }
            Self::NoPush { .. } => "give a host the capability \"push\" in hosts.toml".into(),
            Self::BadName { .. } => "write it as HOST[:PORT], without a scheme or a path".into(),
            Self::NoSearch { .. } => "look for the image on the registry's web site".into(),
            Self::Unauthorized { registry, had_credentials: false, .. } => {
                format!("check the image's name; if it is private, run `keg login {registry}`")
                    .into()
            }
            Self::Unauthorized { registry, .. } => {
                format!("check the image's name, and run `keg login {registry}` again").into()
            }
            Self::Busy { status: 429, .. } => {
                "wait a while, or log in to the registry for a higher limit".into()
            }
            Self::Busy { .. } => "try again later".into(),
            Self::Digest { .. } | Self::Size { .. } | Self::TooLarge { .. } => {
                "try again; if it stays so, the registry or a proxy before it is broken, or somebody \
                 tampers with the image"
                    .into()
            }
            Self::Tls { .. } => "install the package ca-certificates".into(),
            Self::Challenge { .. }
            | Self::Refused { .. }
            | Self::Redirect { .. }
            | Self::Protocol { .. } => "ask the registry's operator".into(),
        })
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        let mut operands: Vec<_> =
            self.registry().map(|registry| ("registry", registry.to_owned())).into_iter().collect();
        match self {
            Self::Unknown { image, .. } => operands.push(("image", image.clone())),
            Self::Unauthorized { repository, .. } => {
                operands.push(("repository", repository.clone()));
            }
            Self::Digest { wanted: digest, .. } | Self::Size { digest, .. } => {
                operands.push(("digest", digest.to_string()));
            }
            _ => {}
        }
        operands
    }
}
