//! The `delete` command: removes what a server that was killed left behind.
//!
//! It may be called any number of times, with or without a server, and finds what it needs in the
//! bundle. It answers with how the container ended: as recorded, else as killed now.

use std::path::Path;
use std::rc::Rc;
use std::time::SystemTime;

use keg_proto::containerd::runc::v1::Options;
use keg_proto::containerd::task::v2::DeleteResponse;
use tokio::task::LocalSet;

use crate::bootstrap::{Flags, SocketPathTooLong, remove_sockets, socket_path};
use crate::bundle::{self, Bundle, BundleError};
use crate::clock::timestamp;
use crate::exit_record::ExitRecord;
use crate::reaper::Reaper;
use crate::rootfs::{self, RootfsError};
use crate::runtime_cli::{Runtime, RuntimeError};

/// What a process that was killed reports: 128 + SIGKILL.
const KILLED: u32 = 137;

/// Something is left; another call tries again.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CleanupError(#[from] Left);

/// Why something is left.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("prepare to call the runtime")]
    Loop(#[source] std::io::Error),
    #[error("find the shim's socket")]
    Socket(#[source] SocketPathTooLong),
    #[error("read what the shim noted")]
    Bundle(#[source] BundleError),
    #[error("delete the container")]
    Runtime(#[source] RuntimeError),
    #[error("unmount the root filesystem")]
    Rootfs(#[source] RootfsError),
}

/// Cleans up and tells how the container ended.
///
/// # Errors
/// [`CleanupError`] names what is left; another call tries again.
pub fn delete(flags: &Flags, bundle: &Path) -> Result<DeleteResponse, CleanupError> {
    let bundle = Bundle::new(bundle);
    let noted = bundle.task_record().map_err(Left::Bundle)?;
    let pid = bundle::read_pid(&bundle.init_pid_file()).unwrap_or(0);
    delete_container(flags, &bundle, noted.as_ref())?;
    rootfs::unmount_all(&bundle.rootfs()).map_err(Left::Rootfs)?;
    remove_sockets(&socket_path(flags, None).map_err(Left::Socket)?);

    let record = noted.and_then(|noted| ExitRecord::read(&noted.exit_record?));
    Ok(DeleteResponse {
        pid: u32::try_from(pid).unwrap_or(0),
        exit_status: record.map_or(KILLED, |record| record.status),
        exited_at: Some(timestamp(SystemTime::now())),
    })
}

fn delete_container(
    flags: &Flags,
    bundle: &Bundle,
    noted: Option<&bundle::TaskRecord>,
) -> Result<(), Left> {
    let reaper = Rc::new(Reaper::default());
    let runtime = match noted {
        Some(noted) => Runtime::from_record(noted, bundle.dir(), Rc::clone(&reaper)),
        None => Runtime::new(
            &Options::default(),
            &flags.daemon_dir(),
            &flags.namespace,
            bundle.dir(),
            Rc::clone(&reaper),
        ),
    };
    let event_loop = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(Left::Loop)?;
    let deleted = LocalSet::new().block_on(&event_loop, async {
        tokio::task::spawn_local(reaper.run());
        runtime.delete(&flags.id).await
    });
    match deleted {
        // No note and no runtime: nothing was ever made.
        Err(RuntimeError::Execute { .. }) if noted.is_none() => Ok(()),
        other => other.map_err(Left::Runtime),
    }
}
