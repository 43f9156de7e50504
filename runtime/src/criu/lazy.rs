//! What a machine must allow for memory that is sent when it is asked for.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::CriuError;

/// CRIU (4.2) keeps memory in pipes of its `PIPE_MAX_SIZE`, and goes on without one that it could not
/// make that large: the checkpoint would say that memory can be fetched, and fail when it is.
pub(super) const PIPE_BYTES: i32 = 4 << 20;

/// Checks that pipes can be as large as CRIU's.
///
/// # Errors
/// [`CriuError::SmallPipes`], and what pipe(2) says.
pub(super) fn check_pipes() -> Result<(), CriuError> {
    let (reader, _writer) = pipe2(OFlag::O_CLOEXEC)
        .map_err(|errno| CriuError::Talk { what: "make a pipe, as CRIU does", errno })?;
    match fcntl(&reader, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)) {
        // Whatever else it says, CRIU meets it too and tells more.
        Err(Errno::EPERM) => Err(CriuError::SmallPipes),
        _ => Ok(()),
    }
}
