//! How errors are told: a class, a machine-readable reason, a remedy.
//!
//! Every error enum of the manager's crates implements [`Explain`], so that the daemon maps errors
//! to gRPC in one `match` over [`ErrorClass`]. The [`Reason`]s are those of `keg.v1.ErrorReason`.

use std::borrow::Cow;
use std::io;

/// What kind of failure it is; maps one to one to gRPC's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The request itself is wrong, whatever the state.
    InvalidArgument,
    /// What the request names does not exist.
    NotFound,
    /// What the request would make exists.
    AlreadyExists,
    /// The state does not allow it; a retry alone does not help.
    FailedPrecondition,
    /// Something else did not answer; a retry may help.
    Unavailable,
    /// Credentials are missing or refused.
    Unauthenticated,
    /// Data is damaged.
    DataLoss,
    /// A resource is used up.
    ResourceExhausted,
    /// A concurrent operation got in the way.
    Aborted,
    /// A deadline passed.
    DeadlineExceeded,
    /// A bug, or a failing machine.
    Internal,
}

/// Why, for programs: the names of `keg.v1.ErrorReason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A field of the request is malformed.
    InvalidArgument,
    /// An image reference does not follow the grammar.
    InvalidReference,
    /// No image of that name or id is stored here.
    ImageNotFound,
    /// The registry does not know the image, or hides it.
    ImageUnknownToRegistry,
    /// The image has no variant for the platform.
    PlatformNotFound,
    /// The registry did not answer.
    RegistryUnreachable,
    /// The registry answered with a final error.
    RegistryRefused,
    /// The registry wants credentials, or refuses those it got.
    RegistryUnauthorized,
    /// Bytes did not have the digest or size that named them.
    DigestMismatch,
    /// A layer, manifest or configuration is not what its media type says.
    ImageMalformed,
    /// The image is used by a container.
    ImageInUse,
    /// More than one image has an id that begins like that.
    AmbiguousId,
    /// No container of that name or id exists.
    ContainerNotFound,
    /// A container of that name exists.
    NameInUse,
    /// A path on the host is not what the call needs.
    HostPath,
    /// The kernel or the file system lacks a feature.
    UnsupportedByHost,
    /// A file system is full or a quota is reached.
    OutOfSpace,
    /// A deadline passed.
    Timeout,
    /// The store is damaged, or refused a read or a write.
    StoreFailed,
    /// A bug of Keg.
    Internal,
    /// The call needs a running container.
    ContainerNotRunning,
    /// The call needs a container that does not run.
    ContainerRunning,
    /// The container is being removed by another call.
    ContainerBeingRemoved,
    /// The command does not exist in the container.
    CommandNotFound,
    /// The command exists and cannot be executed.
    CommandNotExecutable,
    /// The OCI runtime could not start the container for another reason.
    RuntimeFailed,
    /// The shim could not be started, or is gone.
    ShimFailed,
    /// No command was given and the image has none.
    NoCommand,
    /// The daemon is shutting down.
    ShuttingDown,
    /// No volume of that name exists.
    VolumeNotFound,
    /// The volume is used by a container.
    VolumeInUse,
    /// A volume of that name exists, and is another one.
    VolumeExists,
    /// No network of that name or id exists.
    NetworkNotFound,
    /// Containers are on the network.
    NetworkInUse,
    /// Somebody has a port of the host that was to be published.
    PortInUse,
    /// Somebody has the address or the subnet.
    AddressInUse,
    /// Nothing is at a path in a container.
    PathNotFound,
}

impl Reason {
    /// Returns the name in `keg.v1.ErrorReason`, without its prefix.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::InvalidReference => "INVALID_REFERENCE",
            Self::ImageNotFound => "IMAGE_NOT_FOUND",
            Self::ImageUnknownToRegistry => "IMAGE_UNKNOWN_TO_REGISTRY",
            Self::PlatformNotFound => "PLATFORM_NOT_FOUND",
            Self::RegistryUnreachable => "REGISTRY_UNREACHABLE",
            Self::RegistryRefused => "REGISTRY_REFUSED",
            Self::RegistryUnauthorized => "REGISTRY_UNAUTHORIZED",
            Self::DigestMismatch => "DIGEST_MISMATCH",
            Self::ImageMalformed => "IMAGE_MALFORMED",
            Self::ImageInUse => "IMAGE_IN_USE",
            Self::AmbiguousId => "AMBIGUOUS_ID",
            Self::ContainerNotFound => "CONTAINER_NOT_FOUND",
            Self::NameInUse => "NAME_IN_USE",
            Self::HostPath => "HOST_PATH",
            Self::UnsupportedByHost => "UNSUPPORTED_BY_HOST",
            Self::OutOfSpace => "OUT_OF_SPACE",
            Self::Timeout => "TIMEOUT",
            Self::StoreFailed => "STORE_FAILED",
            Self::Internal => "INTERNAL",
            Self::ContainerNotRunning => "CONTAINER_NOT_RUNNING",
            Self::ContainerRunning => "CONTAINER_RUNNING",
            Self::ContainerBeingRemoved => "CONTAINER_BEING_REMOVED",
            Self::CommandNotFound => "COMMAND_NOT_FOUND",
            Self::CommandNotExecutable => "COMMAND_NOT_EXECUTABLE",
            Self::RuntimeFailed => "RUNTIME_FAILED",
            Self::ShimFailed => "SHIM_FAILED",
            Self::NoCommand => "NO_COMMAND",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::VolumeNotFound => "VOLUME_NOT_FOUND",
            Self::VolumeInUse => "VOLUME_IN_USE",
            Self::VolumeExists => "VOLUME_EXISTS",
            Self::NetworkNotFound => "NETWORK_NOT_FOUND",
            Self::NetworkInUse => "NETWORK_IN_USE",
            Self::PortInUse => "PORT_IN_USE",
            Self::AddressInUse => "ADDRESS_IN_USE",
            Self::PathNotFound => "PATH_NOT_FOUND",
        }
    }

    /// Returns the class that `keg.v1` documents for the reason.
    #[must_use]
    pub fn class(self) -> ErrorClass {
        match self {
            Self::InvalidArgument
            | Self::InvalidReference
            | Self::AmbiguousId
            | Self::HostPath
            | Self::NoCommand => ErrorClass::InvalidArgument,
            Self::ImageNotFound
            | Self::ImageUnknownToRegistry
            | Self::PlatformNotFound
            | Self::ContainerNotFound
            | Self::VolumeNotFound
            | Self::NetworkNotFound
            | Self::PathNotFound => ErrorClass::NotFound,
            Self::NameInUse | Self::VolumeExists => ErrorClass::AlreadyExists,
            Self::RegistryUnreachable | Self::ShuttingDown => ErrorClass::Unavailable,
            Self::RegistryRefused
            | Self::ImageInUse
            | Self::VolumeInUse
            | Self::NetworkInUse
            | Self::PortInUse
            | Self::AddressInUse
            | Self::UnsupportedByHost
            | Self::ContainerNotRunning
            | Self::ContainerRunning
            | Self::CommandNotFound
            | Self::CommandNotExecutable
            | Self::RuntimeFailed => ErrorClass::FailedPrecondition,
            Self::ContainerBeingRemoved => ErrorClass::Aborted,
            Self::RegistryUnauthorized => ErrorClass::Unauthenticated,
            Self::DigestMismatch | Self::ImageMalformed => ErrorClass::DataLoss,
            Self::OutOfSpace => ErrorClass::ResourceExhausted,
            Self::Timeout => ErrorClass::DeadlineExceeded,
            Self::StoreFailed | Self::ShimFailed | Self::Internal => ErrorClass::Internal,
        }
    }
}

/// An error that can be told to a program and to a person.
pub trait Explain: std::error::Error {
    /// Returns why, for programs.
    fn reason(&self) -> Reason;

    /// Returns what kind of failure it is.
    fn class(&self) -> ErrorClass {
        self.reason().class()
    }

    /// Returns what to try next, as a sentence, if anything is known to help.
    fn remedy(&self) -> Option<Cow<'static, str>>;

    /// Returns the things that the error is about, by kind: "image", "container", "registry",
    /// "digest", "path", "platform", …
    fn operands(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Returns the reason that an error of the host's files stands for.
#[must_use]
pub fn io_reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::OutOfSpace,
        _ => Reason::StoreFailed,
    }
}

/// Returns the remedy for an error of the host's files under the root.
pub(crate) fn io_remedy(error: &io::Error) -> Cow<'static, str> {
    match io_reason(error) {
        Reason::OutOfSpace => {
            "free space on the file system of --root, for example by removing unused images and \
             containers"
        }
        _ => "check the disk, and that --root belongs to the daemon's user and is writable",
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let full = io::Error::from_raw_os_error(nix::libc::ENOSPC);
        let quota = io::Error::from_raw_os_error(nix::libc::EDQUOT);
        let broken = io::Error::from_raw_os_error(nix::libc::EIO);

        assert_eq!(io_reason(&full), Reason::OutOfSpace);
        assert_eq!(io_reason(&quota), Reason::OutOfSpace);
        assert_eq!(io_reason(&broken), Reason::StoreFailed);
    }
}
