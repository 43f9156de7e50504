//! Descriptors that a caller passes beside the standard streams: their number is in a variable.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::CommandError;
use crate::sys;

/// Takes over the descriptor whose number `variable` holds, if it is set.
///
/// It survives that this program is executed anew; `create` keeps it from init's program.
///
/// # Errors
/// If what is told is the number of no open descriptor, or of a standard stream.
pub(super) fn descriptor(variable: &'static str) -> Result<Option<OwnedFd>, CommandError> {
    let Some(told) = std::env::var_os(variable) else { return Ok(None) };
    let number = told.to_str().and_then(|text| text.parse().ok()).filter(|number| *number > 2);
    let number = number.ok_or(Errno::EINVAL).map_err(|errno| useless(variable, errno))?;
    if !sys::fd::is_open(number) {
        return Err(useless(variable, Errno::EBADF));
    }
    Ok(Some(sys::fd::take(number)))
}

/// What `variable` tells cannot be used.
pub(super) fn useless(variable: &'static str, errno: Errno) -> CommandError {
    let told = std::env::var_os(variable).unwrap_or_default();
    CommandError::Kernel {
        what: format!("use the descriptor that {variable}={told:?} tells"),
        errno,
    }
}
