//! Why an image was not pulled.

use std::borrow::Cow;

use keg_store::{ContentError, ErrorClass, Explain, Reason};

use crate::ShortNameError;
use crate::images::ImageError;
use crate::layer::LayerError;
use crate::manifest::ManifestError;
use crate::registry::RegistryError;

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Its name cannot be used.
    #[error("cannot pull {image}")]
    Name {
        /// The image, as it was asked for.
        image: String,
        /// Why.
        #[source]
        source: Box<ShortNameError>,
    },
    /// None of the registries that its name may mean has it.
    #[error("none of the registries {} has {image}", .registries.join(", "))]
    Nowhere {
        /// The image, as it was asked for.
        image: String,
        /// The registries, in the order in which they were asked.
        registries: Vec<String>,
        /// What the last one said.
        #[source]
        source: Box<RegistryError>,
    },
    /// The registry did not give it.
    #[error("cannot pull {image}")]
    Registry {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// Its manifest or configuration cannot be used.
    #[error("cannot pull {image}")]
    Manifest {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<ManifestError>,
    },
    /// A layer did not become a snapshot.
    #[error("cannot pull {image}")]
    Layer {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<LayerError>,
    },
    /// Its manifest or configuration could not be stored.
    #[error("cannot store {image}")]
    Content {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<ContentError>,
    },
    /// It could not be named or read back.
    #[error("cannot enter {image}")]
    Enter {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<ImageError>,
    },
    /// The daemon is shutting down.
    #[error("the pull of {image} was called off")]
    CalledOff {
        /// The image.
        image: String,
    },
}

impl PullError {
    fn cause(&self) -> Option<&dyn Explain> {
        match self {
            Self::Name { source, .. } => Some(source.as_ref()),
            Self::Nowhere { source, .. } => Some(source.as_ref()),
            Self::Registry { source, .. } => Some(source.as_ref()),
            Self::Manifest { source, .. } => Some(source.as_ref()),
            Self::Layer { source, .. } => Some(source.as_ref()),
            Self::Content { source, .. } => Some(source.as_ref()),
            Self::Enter { source, .. } => Some(source.as_ref()),
            Self::CalledOff { .. } => None,
        }
    }

    fn image(&self) -> &str {
        match self {
            Self::Name { image, .. }
            | Self::Nowhere { image, .. }
            | Self::Registry { image, .. }
            | Self::Manifest { image, .. }
            | Self::Layer { image, .. }
            | Self::Content { image, .. }
            | Self::Enter { image, .. }
            | Self::CalledOff { image } => image,
        }
    }
}

impl Explain for PullError {
    fn reason(&self) -> Reason {
        self.cause().map_or(Reason::Internal, Explain::reason)
    }

    fn class(&self) -> ErrorClass {
        self.cause().map_or(ErrorClass::Aborted, Explain::class)
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        self.cause().and_then(Explain::remedy)
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        let mut operands = self.cause().map(Explain::operands).unwrap_or_default();
        operands.retain(|(kind, _)| *kind != "image");
        operands.push(("image", self.image().to_owned()));
        operands
    }
}
