//! The only unsafe code of the runtime: kernel calls that neither nix nor rustix offers safely.
//!
//! One kernel call per function, descriptors typed by ownership, errors as the bare [`Errno`].
//! Nothing here decides anything; callers own the policy.

pub mod bpf;
pub mod capability;
pub mod clone;
#[cfg(target_arch = "x86_64")]
pub mod entry;
pub mod fd;
pub mod mount;
pub mod network;
pub mod process;
pub mod seccomp;

use nix::errno::Errno;

/// An error that is an error number of the kernel at heart.
///
/// The crate uses nix, rustix and the standard library side by side; each has a type of its own
/// for the same number.
pub trait AsErrno {
    /// Returns the error number; `EIO` where the error has none.
    fn as_errno(&self) -> Errno;
}

impl AsErrno for Errno {
    fn as_errno(&self) -> Errno {
        *self
    }
}

impl AsErrno for rustix::io::Errno {
    fn as_errno(&self) -> Errno {
        Errno::from_raw(self.raw_os_error())
    }
}

impl AsErrno for std::io::Error {
    fn as_errno(&self) -> Errno {
        self.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
    }
}
