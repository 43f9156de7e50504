//! Why a manifest, index or configuration cannot be used.

use std::borrow::Cow;

use keg_store::{Digest, DigestError, Explain, Reason};

use crate::Platform;

/// Why a manifest, index or configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The document is not what its media type says.
    #[error("{digest} is not a valid {what}")]
    Syntax {
        /// What it should be.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The media type is none that an image can have.
    #[error("{digest} has the media type {media_type:?}, which is not that of {wanted}")]
    MediaType {
        /// Its digest.
        digest: Digest,
        /// Its media type.
        media_type: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// The manifest is one of Docker's of before 2016.
    #[error("{digest} is a manifest of Docker's schema 1, which is not supported any more")]
    Schema1 {
        /// Its digest.
        digest: Digest,
    },
    /// The document contradicts itself, or what points at it.
    #[error("{digest} is malformed: {problem}")]
    Malformed {
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        problem: &'static str,
    },
    /// A digest in the document is malformed.
    #[error("{document} has a malformed digest")]
    Digest {
        /// Digest of the document.
        document: Digest,
        /// What is wrong.
        #[source]
        source: DigestError,
    },
    /// A document is too large.
    #[error("{what} {digest} has {size_bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// Indexes point at indexes, deeper than anyone needs.
    #[error("index {digest} is nested too deeply")]
    TooDeep {
        /// Digest of the innermost index looked at.
        digest: Digest,
    },
    /// The image is not for the platform.
    #[error("no variant for {wanted}, only for {}", offered(.available))]
    Platform {
        /// The platform wanted.
        wanted: Platform,
        /// The platforms that there are.
        available: Vec<Platform>,
    },
}

fn offered(available: &[Platform]) -> String {
    let texts: Vec<String> = available.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "no platform at all".to_owned() } else { texts.join(", ") }
}

impl Explain for ManifestError {
    fn reason(&self) -> Reason {
        match self {
            Self::Platform { .. } => Reason::PlatformNotFound,
            _ => Reason::ImageMalformed,
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Platform { available, .. } => available.first().map(|platform| {
                format!("choose one that exists, for example --platform {platform}").into()
            }),
            Self::Schema1 { .. } => Some("push the image again with a tool of today".into()),
            Self::MediaType { .. } => {
                Some("make sure that the name is that of a container image".into())
            }
            _ => Some("tell the image's maker, or push it again".into()),
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Platform { wanted, .. } => vec![("platform", wanted.to_string())],
            Self::Syntax { digest, .. }
            | Self::MediaType { digest, .. }
            | Self::Schema1 { digest }
            | Self::Malformed { digest, .. }
            | Self::Digest { document: digest, .. }
            | Self::TooLarge { digest, .. }
            | Self::TooDeep { digest } => vec![("digest", digest.to_string())],
        }
    }
}
