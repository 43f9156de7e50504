//! Why an archive's images were not loaded.

use std::borrow::Cow;
use std::io;

use keg_store::{ContentError, ErrorClass, Explain, Reason};

use crate::extract::ExtractError;
use crate::images::ImageError;
use crate::layer::LayerError;
use crate::manifest::ManifestError;

/// Why an archive's images were not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The archive did not come to its end.
    #[error("the archive was not received to its end")]
    Receive {
        /// What the sender said.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be read.
    #[error("cannot load the archive")]
    Archive {
        /// Why.
        #[source]
        source: ExtractError,
    },
    /// The archive holds no images.
    #[error("the archive has neither an index.json nor a manifest.json that names an image")]
    NoImages,
    /// A document is not valid.
    #[error("{document} in the archive is not valid")]
    Document {
        /// Its name.
        document: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A document refers to what the archive does not have.
    #[error("the archive refers to {path:?} and does not have it")]
    Missing {
        /// The path, or digest.
        path: String,
    },
    /// A manifest or configuration cannot be used.
    #[error("cannot load an image")]
    Manifest {
        /// Why.
        #[source]
        source: Box<ManifestError>,
    },
    /// A layer did not become a snapshot.
    #[error("cannot load an image")]
    Layer {
        /// Why.
        #[source]
        source: Box<LayerError>,
    },
    /// A blob could not be stored.
    #[error("cannot store the archive's content")]
    Content {
        /// Why.
        #[source]
        source: ContentError,
    },
    /// An image could not be named or read back.
    #[error("cannot enter an image")]
    Enter {
        /// Why.
        #[source]
        source: Box<ImageError>,
    },
    /// The daemon is shutting down.
    #[error("loading was called off")]
    CalledOff,
}

impl LoadError {
    fn cause(&self) -> Option<&dyn Explain> {
        match self {
            Self::Archive { source } => Some(source),
            Self::Manifest { source } => Some(source.as_ref()),
            Self::Layer { source } => Some(source.as_ref()),
            Self::Content { source } => Some(source),
            Self::Enter { source } => Some(source.as_ref()),
            Self::Receive { .. }
            | Self::NoImages
            | Self::Document { .. }
            | Self::Missing { .. }
            | Self::CalledOff => None,
        }
    }
}

impl Explain for LoadError {
    fn reason(&self) -> Reason {
        match self {
            Self::Receive { .. } => Reason::InvalidArgument,
            Self::NoImages | Self::Document { .. } | Self::Missing { .. } => Reason::ImageMalformed,
            _ => self.cause().map_or(Reason::Internal, Explain::reason),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::CalledOff => ErrorClass::Aborted,
            _ => self.cause().map_or_else(|| self.reason().class(), Explain::class),
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Receive { .. } => Some("send the archive again".into()),
            Self::NoImages => Some(
                "load takes what `save` wrote; for an archive of a root filesystem use `import`"
                    .into(),
            ),
            Self::Document { .. } | Self::Missing { .. } => Some("save the images again".into()),
            _ => self.cause().and_then(Explain::remedy),
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Missing { path } => vec![("path", path.clone())],
            _ => self.cause().map(Explain::operands).unwrap_or_default(),
        }
    }
}
