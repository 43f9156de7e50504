//! One conversation with CRIU: `criu swrk FD`, a message per packet.
//!
//! ```text
//! runtime                                   criu
//!    │── Request (dump, restore, …) ─────────▶│
//!    │◀─ Response: notify, "network-lock" … ──│   it waits for an answer to each
//!    │── Request: notify_success ────────────▶│
//!    │◀─ Response: the outcome ───────────────│ ends
//! ```

use std::io::{IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, send, socketpair,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use prost::Message;

use super::CriuError;
use super::guard::Guard;
use super::private_mounts::PrivateMounts;
use super::rpc::{Kind, Request, Response};
use crate::cgroup::Entrance;
use crate::sys::AsErrno;
use crate::sys::clone::{Cloned, Kinship, clone_alone};
use crate::sys::fd::{set_cloexec, take};
use crate::sys::process::exit_now;

/// CRIU's own limit of a packet.
const MAX_PACKET_BYTES: usize = 40 << 10;

/// What CRIU tells on its way, and waits for an answer to.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The namespaces of the first process, this one, exist and are empty.
    SetupNamespaces(Pid),
    /// All processes exist and wait; the first is this one.
    PostRestore(Pid),
    /// The other end of the container's terminal, which has no owner yet.
    OrphanTerminal(OwnedFd),
    /// Pages can be fetched.
    StatusReady,
    /// Something that needs nothing done.
    Other,
}

/// Where CRIU restores: what it is born into.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// The container's cgroup.
    pub(crate) entrance: Option<&'a Entrance>,
    /// Its own mount namespace.
    pub(crate) mounts: &'a PrivateMounts,
    /// Where the root filesystem is in there.
    pub(crate) root: &'a Path,
    /// Descriptors that it inherits.
    pub(crate) inherited: &'a [OwnedFd],
}

/// CRIU, waiting for a request.
#[derive(Debug)]
pub(super) struct Session {
    socket: OwnedFd,
    criu: Pid,
    /// What it says before it has a log.
    errors: Option<std::io::PipeReader>,
    /// While it serves memory.
    guard: Option<Guard>,
}

impl Session {
    /// Starts CRIU with no streams of its own.
    pub(super) fn start(program: &Path) -> Result<Self, CriuError> {
        let (ours, theirs) = channel()?;
        let failed = |source| CriuError::Execute { program: program.to_owned(), source };
        let (errors, writer) = std::io::pipe().map_err(failed)?;
        let mut command = swrk(program, &theirs);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
        let child = command.spawn().map_err(failed)?;
        let criu = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
        Ok(Self { socket: ours, criu, errors: Some(errors), guard: None })
    }

    /// Starts CRIU where the container is to be: in its cgroup, with its streams.
    pub(super) fn start_in(program: &Path, place: &Place<'_>) -> Result<Self, CriuError> {
        let (ours, theirs) = channel()?;
        let into = place.entrance.and_then(Entrance::v2_dir);
        match clone_alone(0, Kinship::Child, into) {
            Ok(Cloned::Parent { pid, .. }) => {
                Ok(Self { socket: ours, criu: pid, errors: None, guard: None })
            }
            Ok(Cloned::Child) => become_criu(program, place, &theirs),
            Err(errno) => Err(CriuError::Talk { what: "make a process for CRIU", errno }),
        }
    }

    /// Sends a request, answers what comes on the way by `on_notice`, and returns the outcome once
    /// CRIU has ended. After a failure it has undone what it did.
    pub(super) fn request<E>(
        mut self,
        request: &Request,
        failed: impl Fn(CriuError) -> E,
        mut on_notice: impl FnMut(Notice) -> Result<(), E>,
    ) -> Result<Response, E> {
        let mut failure = None;
        let outcome = self.converse(request, |notice| {
            on_notice(notice).map_err(|error| failure = Some(error)).is_ok()
        });
        let said = self.end();
        match (failure, outcome) {
            (Some(error), _) => Err(error),
            (None, Ok(response)) => Ok(response),
            (None, Err(CriuError::Gone { .. })) => Err(failed(CriuError::Gone { said })),
            (None, Err(error)) => Err(failed(error)),
        }
    }

    fn converse(
        &mut self,
        request: &Request,
        mut on_notice: impl FnMut(Notice) -> bool,
    ) -> Result<Response, CriuError> {
        self.send(request)?;
        loop {
            let (response, fd) = self.receive()?;
            if response.kind != i32::from(Kind::Notify) {
                return Ok(response);
            }
            let notice = read_notice(&response, fd);
            if matches!(notice, Notice::StatusReady) && self.guard.is_none() {
                let what = "watch over CRIU's server of memory";
                let started = Guard::of(self.criu);
                self.guard = Some(started.map_err(|errno| CriuError::Talk { what, errno })?);
            }
            let success = on_notice(notice);
            self.send(&Request {
                kind: Kind::Notify.into(),
                notify_success: Some(success),
                ..Request::default()
            })?;
        }
    }

    fn send(&self, request: &Request) -> Result<(), CriuError> {
        let packet = request.encode_to_vec();
        match send(self.socket.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(Errno::EPIPE | Errno::ECONNRESET) => Err(CriuError::Gone { said: String::new() }),
            Err(errno) => Err(CriuError::Talk { what: "send a request to CRIU", errno }),
        }
    }

    fn receive(&self) -> Result<(Response, Option<OwnedFd>), CriuError> {
        let failed = |errno| CriuError::Talk { what: "receive CRIU's answer", errno };
        let mut packet = vec![0; MAX_PACKET_BYTES];
        let mut space = nix::cmsg_space!([i32; 1]);
        let (count, fd) = loop {
            let mut iov = [IoSliceMut::new(&mut packet)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut iov, Some(&mut space), flags) {
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => {
                    return Err(CriuError::Gone { said: String::new() });
                }
                Err(errno) => return Err(failed(errno)),
                Ok(message) => {
                    let fd = message.cmsgs().map_err(failed)?.find_map(|control| match control {
                        ControlMessageOwned::ScmRights(fds) => fds.first().copied().map(take),
                        _ => None,
                    });
                    break (message.bytes, fd);
                }
            }
        };
        if count == 0 {
            return Err(CriuError::Gone { said: String::new() });
        }
        let response = Response::decode(&packet[..count]).map_err(CriuError::Answer)?;
        Ok((response, fd))
    }

    /// Waits for CRIU's end and returns what it said.
    fn end(&mut self) -> String {
        // An end of input ends it, if it waits for a further request.
        let _ =
            nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Write);
        while let Err(Errno::EINTR) | Ok(WaitStatus::Stopped(..) | WaitStatus::Continued(_)) =
            waitpid(self.criu, None)
        {}
        // Not before: what it guards is ending by itself.
        self.guard = None;
        let said = self.errors.take().and_then(|errors| read_all_there(errors).ok());
        said.unwrap_or_default().trim().replace('\n', "; ")
    }
}

/// Reads what is in the pipe, whoever else still holds its other end. What is not text is left out.
fn read_all_there(mut pipe: std::io::PipeReader) -> std::io::Result<String> {
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut said = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = pipe.read(&mut piece) {
        said.extend_from_slice(&piece[..count]);
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn channel() -> Result<(OwnedFd, OwnedFd), CriuError> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| CriuError::Talk { what: "make a socket pair for CRIU", errno })
}

fn swrk(program: &Path, socket: &OwnedFd) -> Command {
    // The number stays the same in the child, and is not open in any other: this process runs no
    // other thread and starts nothing else before the socket is closed.
    let _ = set_cloexec(socket.as_raw_fd(), false);
    let mut command = Command::new(program);
    command.arg("swrk").arg(socket.as_raw_fd().to_string());
    command
}

/// The child's part of [`Session::start_in`]. What fails is told as CRIU would tell it.
fn become_criu(program: &Path, place: &Place<'_>, socket: &OwnedFd) -> ! {
    let (what, errno) = match settle(place) {
        Err(failure) => failure,
        Ok(()) => {
            let error = swrk(program, socket).exec();
            ("execute CRIU", error.as_errno())
        }
    };
    let response = Response {
        kind: Kind::Restore.into(),
        success: false,
        errno: Some(errno as i32),
        message: Some(what.to_owned()),
        ..Response::default()
    };
    // If the other end is gone, nobody is left to be told.
    let _ = send(socket.as_raw_fd(), &response.encode_to_vec(), MsgFlags::MSG_NOSIGNAL);
    exit_now(1)
}

fn settle(place: &Place<'_>) -> Result<(), (&'static str, Errno)> {
    let at = |what| move |errno| (what, errno);
    if let Some(entrance) = place.entrance {
        entrance.enter_self().map_err(at("enter the container's cgroup"))?;
    }
    place.mounts.enter().map_err(at("enter the mount namespace of CRIU"))?;
    for fd in place.inherited {
        set_cloexec(fd.as_fd().as_raw_fd(), false).map_err(at("pass a descriptor to CRIU"))?;
    }
    Ok(())
}

fn read_notice(response: &Response, fd: Option<OwnedFd>) -> Notice {
    let Some(notice) = &response.notice else { return Notice::Other };
    let pid = Pid::from_raw(notice.pid.unwrap_or(0));
    match (notice.script.as_deref(), fd) {
        (Some("setup-namespaces"), _) => Notice::SetupNamespaces(pid),
        (Some("post-restore"), _) => Notice::PostRestore(pid),
        (Some("orphan-pts-master"), Some(master)) => Notice::OrphanTerminal(master),
        (Some("status-ready"), _) => Notice::StatusReady,
        _ => Notice::Other,
    }
}
