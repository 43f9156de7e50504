//! One netlink socket: a batch goes out in one call, and the answers are there when it returns.
//!
//! Invariant: after every public call the socket's receive queue is empty, so that an answer is
//! never taken for that of a later request.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, send, setsockopt, socket, sockopt,
};

use super::message::{Message, Received, messages, u32_at};

/// The request wants an acknowledgement, even of success.
const NLM_F_ACK: u16 = 4;
/// Kind of an acknowledgement or a refusal.
const NLMSG_ERROR: u16 = 2;
/// Kind of a dump's end.
const NLMSG_DONE: u16 = 3;
/// A datagram of answers is never larger (the kernel builds dumps in at most this).
const RECEIVE_BYTES: usize = 64 * 1024;
/// The kernel's usual limit of one send; a larger batch needs the limit raised.
const USUAL_SEND_BYTES: usize = 200 * 1024;

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("open a {family} netlink socket")]
    Open {
        /// Which family of netlink.
        family: &'static str,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The request did not reach the kernel, or its answer did not come.
    #[error("{call} on a {family} netlink socket")]
    Transport {
        /// System call.
        call: &'static str,
        /// Which family of netlink.
        family: &'static str,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The kernel refused.
    #[error("the kernel refused to {action}")]
    Refused {
        /// What was asked for.
        action: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
}

impl NetlinkError {
    /// The kernel's answer.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Open { errno, .. }
            | Self::Transport { errno, .. }
            | Self::Refused { errno, .. } => *errno,
        }
    }
}

/// Families of netlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Interfaces, addresses, routes.
    Route,
    /// nf_tables.
    Netfilter,
}

impl Family {
    fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Netfilter => "netfilter",
        }
    }
}

/// A request, and what it is for.
#[derive(Debug)]
pub(crate) struct Request {
    /// Completes "the kernel refused to …".
    pub(crate) action: String,
    /// The message.
    pub(crate) message: Message,
}

/// A netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    family: Family,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(family: Family) -> Result<Self, NetlinkError> {
        Self::subscribe(family, 0)
    }

    /// Opens a socket that also hears of changes: `groups` is a bit mask of multicast groups.
    pub(crate) fn subscribe(family: Family, groups: u32) -> Result<Self, NetlinkError> {
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fail = |errno| NetlinkError::Open { family: family.as_str(), errno };
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(fail)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(fail)?;
        Ok(Self { fd, family, sequence: 0, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Its descriptor, to wait on.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Sends requests in one call and returns the first refusal. The kernel carries out every one
    /// of them, in order, whatever becomes of those before it.
    pub(crate) fn request(&mut self, requests: Vec<Request>) -> Result<(), NetlinkError> {
        let first = self.sequence + 1;
        let mut bytes = Vec::new();
        let mut actions = Vec::with_capacity(requests.len());
        for Request { action, message } in requests {
            self.sequence += 1;
            let at = bytes.len();
            bytes.extend(message.finish(self.sequence));
            let flags = u16::from_ne_bytes([bytes[at + 6], bytes[at + 7]]) | NLM_F_ACK;
            bytes[at + 6..at + 8].copy_from_slice(&flags.to_ne_bytes());
            actions.push(action);
        }

        self.send(&bytes)?;

        let mut refusal = None;
        self.drain(|sequence, errno| {
            let index = usize::try_from(sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
            if let (Some(errno), None, Some(action)) = (errno, &refusal, actions.get(index)) {
                refusal = Some(NetlinkError::Refused { action: action.clone(), errno });
            }
        })?;
        refusal.map_or(Ok(()), Err)
    }

    /// Sends a transaction of nf_tables, already framed, and returns the first refusal; the kernel
    /// then has done nothing of it. `action_of` says what the message with a sequence was for.
    pub(crate) fn transact(
        &mut self,
        bytes: &[u8],
        action_of: impl Fn(u32) -> String,
    ) -> Result<(), NetlinkError> {
        if bytes.len() > USUAL_SEND_BYTES {
            let fail = |errno| self.transport("setsockopt", errno);
            setsockopt(&self.fd, sockopt::SndBufForce, &(bytes.len() * 2)).map_err(fail)?;
        }
        self.send(bytes)?;
        let mut refusal = None;
        self.drain(|sequence, errno| {
            if let (Some(errno), None) = (errno, &refusal) {
                refusal = Some(NetlinkError::Refused { action: action_of(sequence), errno });
            }
        })?;
        refusal.map_or(Ok(()), Err)
    }

    /// Asks for one thing, and returns what is said of it; none: there is no such thing.
    pub(crate) fn get(&mut self, request: Request) -> Result<Option<Vec<u8>>, NetlinkError> {
        self.sequence += 1;
        let sequence = self.sequence;
        let bytes = request.message.finish(sequence);
        self.send(&bytes)?;
        loop {
            let length = self.receive(MsgFlags::empty())?;
            let answer = messages(&self.buffer[..length]).find(|m| m.sequence == sequence);
            let Some(answer) = answer else { continue };
            if answer.kind != NLMSG_ERROR {
                return Ok(Some(answer.body.to_vec()));
            }
            return match errno_of(answer.body) {
                None | Some(Errno::ENODEV) => Ok(None),
                Some(errno) => Err(NetlinkError::Refused { action: request.action, errno }),
            };
        }
    }

    /// Asks for everything of a kind, and hands each message's body over.
    pub(crate) fn dump(
        &mut self,
        request: Request,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        self.sequence += 1;
        let sequence = self.sequence;
        let bytes = request.message.finish(sequence);
        self.send(&bytes)?;
        loop {
            let length = self.receive(MsgFlags::empty())?;
            for message in messages(&self.buffer[..length]).filter(|m| m.sequence == sequence) {
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => match errno_of(message.body) {
                        None => return Ok(()),
                        Some(errno) => {
                            return Err(NetlinkError::Refused { action: request.action, errno });
                        }
                    },
                    _ => each(message.body),
                }
            }
        }
    }

    /// Hands over what has been announced since the last call, without waiting; none: more than
    /// the queue holds, and some of it is lost.
    pub(crate) fn announcements(
        &mut self,
        mut each: impl FnMut(Option<Received<'_>>),
    ) -> Result<(), NetlinkError> {
        loop {
            match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    messages(&self.buffer[..length]).for_each(|message| each(Some(message)));
                }
                Err(error) if error.errno() == Errno::EAGAIN => return Ok(()),
                Err(error) if error.errno() == Errno::ENOBUFS => each(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The kernel's number for this socket, by which others see who caused a change.
    pub(crate) fn port(&self) -> Result<u32, NetlinkError> {
        let address: NetlinkAddr = getsockname(self.fd.as_raw_fd())
            .map_err(|errno| self.transport("getsockname", errno))?;
        Ok(address.pid())
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())
            .map(drop)
            .map_err(|errno| self.transport("send", errno))
    }

    /// Reads every answer that is there. The kernel works inside `send`, so all of them are.
    fn drain(&mut self, mut each: impl FnMut(u32, Option<Errno>)) -> Result<(), NetlinkError> {
        loop {
            match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    for message in messages(&self.buffer[..length]) {
                        if message.kind == NLMSG_ERROR {
                            each(message.sequence, errno_of(message.body));
                        }
                    }
                }
                Err(error) if error.errno() == Errno::EAGAIN => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&mut self, flags: MsgFlags) -> Result<usize, NetlinkError> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, flags) {
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.transport("recv", errno)),
            }
        }
    }

    fn transport(&self, call: &'static str, errno: Errno) -> NetlinkError {
        NetlinkError::Transport { call, family: self.family.as_str(), errno }
    }
}

/// The error of an acknowledgement; none for success.
fn errno_of(body: &[u8]) -> Option<Errno> {
    let code = i32::from_ne_bytes(u32_at(body, 0)?.to_ne_bytes());
    (code != 0).then(|| Errno::from_raw(-code))
}
