//! Why an image could not be found, read, named or removed.

use std::borrow::Cow;

use keg_store::{CollectError, ContentError, ErrorClass, Explain, MetadataError, Reason};

use crate::layer::LayerError;
use crate::manifest::ManifestError;
use crate::record::LoadError;
use crate::{Platform, ReferenceError};

/// Why an image could not be found, read, named or removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Nothing here has that name or id.
    #[error("no image {image:?} here")]
    NotFound {
        /// What was asked for.
        image: String,
    },
    /// What has that name or id is not for the platform, or its image for it is not here.
    #[error("no image {image:?} for {platform} here")]
    NotForPlatform {
        /// What was asked for.
        image: String,
        /// The platform.
        platform: Platform,
    },
    /// Several images have an id that begins like that.
    #[error("{prefix:?} is the beginning of several images' ids: {}", .ids.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// Some of the ids.
        ids: Vec<String>,
    },
    /// The name is malformed.
    #[error("the image's name is malformed")]
    Reference {
        /// How.
        #[source]
        source: ReferenceError,
    },
    /// A name with a digest cannot be given to an image.
    #[error("{name:?} has a digest, and only a tag can be given to an image")]
    NotATag {
        /// The name.
        name: String,
    },
    /// A container uses the image.
    #[error("image {image} is used by the {}container {container}", if *.is_running { "running " } else { "" })]
    InUse {
        /// The image.
        image: String,
        /// Id of one container.
        container: String,
        /// Whether it runs.
        is_running: bool,
    },
    /// An id was given, and the image has several names.
    #[error("image {image} has several names: {}", .names.join(", "))]
    SeveralNames {
        /// The image.
        image: String,
        /// Its names.
        names: Vec<String>,
    },
    /// The stored image is damaged or not for this platform.
    #[error("image {image} cannot be used")]
    Manifest {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// A blob of the image is missing or damaged.
    #[error("image {image} cannot be read")]
    Content {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: ContentError,
    },
    /// Its layers are not on the disk, and could not be brought there.
    #[error("image {image} cannot be unpacked")]
    Unpack {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<LayerError>,
    },
    /// The database failed.
    #[error("the store's database failed")]
    Metadata {
        /// How.
        #[from]
        source: MetadataError,
    },
    /// The name is gone, but what it stood for could not be removed yet.
    #[error("what nothing needs any more could not be removed")]
    Collect {
        /// Why.
        #[source]
        source: CollectError,
    },
}

impl ImageError {
    fn cause(&self) -> Option<&dyn Explain> {
        match self {
            Self::Reference { source } => Some(source),
            Self::Manifest { source, .. } => Some(source),
            Self::Content { source, .. } => Some(source),
            Self::Unpack { source, .. } => Some(source.as_ref()),
            Self::Metadata { source } => Some(source),
            Self::Collect { source } => Some(source),
            _ => None,
        }
    }

    /// Returns what becomes of a failure to read an image.
    pub(super) fn load(image: &str) -> impl FnOnce(LoadError) -> Self {
        move |error| match error {
            LoadError::Content(source) => Self::Content { image: image.to_owned(), source },
            LoadError::Manifest(source) => Self::Manifest { image: image.to_owned(), source },
        }
    }
}

impl Explain for ImageError {
    fn reason(&self) -> Reason {
        match self {
            Self::NotFound { .. } | Self::NotForPlatform { .. } => Reason::ImageNotFound,
            Self::Ambiguous { .. } => Reason::AmbiguousId,
            Self::NotATag { .. } => Reason::InvalidReference,
            Self::InUse { .. } | Self::SeveralNames { .. } => Reason::ImageInUse,
            _ => self.cause().map_or(Reason::Internal, Explain::reason),
        }
    }

    fn class(&self) -> ErrorClass {
        self.cause().map_or_else(|| self.reason().class(), Explain::class)
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::NotFound { .. } => Some("list the images with `keg images`, or pull it".into()),
            Self::NotForPlatform { image, platform } => {
                Some(format!("pull it: keg pull --platform {platform} {image}").into())
            }
            Self::Ambiguous { .. } => Some("give more digits of the id".into()),
            Self::NotATag { .. } => Some("leave the digest out".into()),
            Self::InUse { is_running: true, .. } => {
                Some("stop and remove the container first".into())
            }
            Self::InUse { is_running: false, .. } => {
                Some("remove the container first, or force the removal".into())
            }
            Self::SeveralNames { .. } => {
                Some("remove the names one by one, or force the removal".into())
            }
            _ => self.cause().and_then(Explain::remedy),
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::NotFound { image }
            | Self::NotForPlatform { image, .. }
            | Self::Ambiguous { prefix: image, .. }
            | Self::NotATag { name: image }
            | Self::SeveralNames { image, .. } => vec![("image", image.clone())],
            Self::InUse { image, container, .. } => {
                vec![("image", image.clone()), ("container", container.clone())]
            }
            Self::Manifest { image, source } => {
                let mut operands = source.operands();
                operands.push(("image", image.clone()));
                operands
            }
            Self::Content { image, source } => {
                let mut operands = source.operands();
                operands.push(("image", image.clone()));
                operands
            }
            Self::Unpack { image, source } => {
                let mut operands = source.operands();
                operands.push(("image", image.clone()));
                operands
            }
            Self::Reference { .. } | Self::Metadata { .. } | Self::Collect { .. } => {
                self.cause().map(Explain::operands).unwrap_or_default()
            }
        }
    }
}
