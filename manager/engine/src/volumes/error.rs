//! Why something could not be done with a volume.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use keg_store::{Explain, Reason, SnapshotError, io_reason};

/// Why something could not be done with a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No volume has that name.
    #[error("no such volume: {name}")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// Containers use it.
    #[error("volume {name} is used by {}", users.join(", "))]
    InUse {
        /// The volume.
        name: String,
        /// Names of the containers.
        users: Vec<String>,
    },
    /// The name is malformed.
    #[error(
        "{name:?} is no name for a volume: it has 2 to 255 letters, digits, \"_\", \".\" or \"-\", and begins with a letter or a digit"
    )]
    InvalidName {
        /// What was given.
        name: String,
    },
    /// There is such a volume, and it is not as it was asked for.
    #[error("volume {name} exists with another {what}")]
    Differs {
        /// The volume.
        name: String,
        /// "driver", "options" or "labels".
        what: &'static str,
    },
    /// A driver that there is not.
    #[error("there is no volume driver {driver:?}")]
    UnknownDriver {
        /// What was asked for.
        driver: String,
    },
    /// An option of the driver that there is not, or that makes no sense.
    #[error("volume option {option:?}: {problem}")]
    InvalidOption {
        /// The option.
        option: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Its address is unknown.
    #[error("volume {name}: the address {address:?} cannot be resolved")]
    Address {
        /// The volume.
        name: String,
        /// Host name.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the volume stands for could not be mounted.
    #[error("volume {name}: cannot mount {device:?} (type {kind:?})")]
    Mount {
        /// The volume.
        name: String,
        /// What.
        device: String,
        /// File system.
        kind: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image's content could not be copied into it.
    #[error("volume {name}: what the image has at {target:?} cannot be copied into it")]
    Fill {
        /// The volume.
        name: String,
        /// Path in the image.
        target: PathBuf,
        /// Why.
        #[source]
        source: Box<FillError>,
    },
    /// The directory in it that is to be mounted cannot be.
    #[error("volume {name}: its subpath {subpath:?} cannot be used")]
    Subpath {
        /// The volume.
        name: String,
        /// Path in the volume.
        subpath: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why content could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The image's layers could not be brought together.
    #[error("cannot {action} {path:?}")]
    Image {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file could not be copied.
    #[error("cannot copy a file")]
    Copy(#[source] SnapshotError),
}

impl Explain for VolumeError {
    fn reason(&self) -> Reason {
        match self {
            Self::NotFound { .. } => Reason::VolumeNotFound,
            Self::InUse { .. } => Reason::VolumeInUse,
            Self::Differs { .. } => Reason::VolumeExists,
            Self::InvalidName { .. } | Self::UnknownDriver { .. } | Self::InvalidOption { .. } => {
                Reason::InvalidArgument
            }
            Self::Address { .. } | Self::Mount { .. } | Self::Subpath { .. } => Reason::HostPath,
            Self::Fill { source, .. } => match source.as_ref() {
                FillError::Image { source, .. } => io_reason(source),
                FillError::Copy(error) => error.reason(),
            },
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        let text = match self {
            Self::NotFound { .. } => "list the volumes with `keg volume ls`",
            Self::InUse { .. } => "remove these containers first, with `keg rm`",
            Self::InvalidName { .. } => "choose another name, or give a path that begins with /",
            Self::Differs { .. } => {
                "choose another name, or look at the one that is there with `keg volume inspect`"
            }
            Self::UnknownDriver { .. } => "use the driver \"local\", or leave it out",
            Self::InvalidOption { .. } => {
                "give type, device and o as mount(8) has them, for example type=tmpfs,device=tmpfs,o=size=64m"
            }
            Self::Address { .. } => "give an IP address in addr=",
            Self::Mount { .. } => {
                "try the same with mount(8); remove the volume and make it with other options"
            }
            Self::Fill { .. } => "mount it with nocopy to leave it empty",
            Self::Subpath { .. } => "make the directory in the volume first, without links",
        };
        Some(text.into())
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::NotFound { name }
            | Self::InUse { name, .. }
            | Self::InvalidName { name }
            | Self::Differs { name, .. }
            | Self::Address { name, .. }
            | Self::Mount { name, .. }
            | Self::Fill { name, .. }
            | Self::Subpath { name, .. } => vec![("volume", name.clone())],
            Self::UnknownDriver { driver } => vec![("driver", driver.clone())],
            Self::InvalidOption { option, .. } => vec![("option", option.clone())],
        }
    }
}
