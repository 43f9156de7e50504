//! The protocol between the runtime and the processes that it makes, one type per direction.
//!
//! Messages are of fixed size and travel over a pair of `SOCK_SEQPACKET` sockets, so each is
//! received whole or not at all, and the end of either process is the end of the stream. Only what a
//! hook has said inside travels as text, in a packet after the failure of its step; and descriptors
//! come with the one message that hands them over.

use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};

use super::failure::Failure;
use crate::sys::fd::take;

/// Size of every message in bytes.
const SIZE: usize = 8;

/// The most text that is passed on, in bytes.
const MAX_WORDS_BYTES: usize = 4096;

/// The most descriptors that the kernel hands over in one message (`SCM_MAX_FD`).
const MAX_DESCRIPTORS: usize = 253;

/// What the runtime tells a process of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToChild {
    /// The id maps are written, network devices are moved in, idmapped mounts are ready.
    Proceed,
    /// The cgroups of v1 are made and limited: enter them by the descriptors that come with this.
    Enter,
    /// The hooks that run outside are done.
    HooksDone,
    /// The limits of `process.rlimits` are set, with the host's rights.
    Limited,
    /// The container is written down: wait for `start`. Without this, nobody would ever find init.
    Keep,
    /// Execute the program: from `start`, or from the runtime itself (`run`).
    Execute,
}

/// What a process of a start tells the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToParent {
    /// The container's first process has this number; it comes from the process that made it in a
    /// joined user namespace.
    InitPid(i32),
    /// Everything is mounted, the root is not changed yet: time for hooks.
    Mounted,
    /// All is set up, and only the program is missing.
    Ready,
    /// A step failed, and the process ends.
    Failed(Failure),
}

/// A message that can be sent.
pub trait Message: Sized + Copy {
    /// Returns the message's bytes.
    fn encode(self) -> [u8; SIZE];
    /// Reads what [`Message::encode`] made.
    fn decode(bytes: [u8; SIZE]) -> Option<Self>;
}

impl Message for ToChild {
    fn encode(self) -> [u8; SIZE] {
        let tag = match self {
            Self::Proceed => 1,
            Self::HooksDone => 2,
            Self::Execute => 3,
            Self::Keep => 4,
            Self::Enter => 5,
            Self::Limited => 6,
        };
        [tag, 0, 0, 0, 0, 0, 0, 0]
    }

    fn decode(bytes: [u8; SIZE]) -> Option<Self> {
        match bytes[0] {
            1 => Some(Self::Proceed),
            2 => Some(Self::HooksDone),
            3 => Some(Self::Execute),
            4 => Some(Self::Keep),
            5 => Some(Self::Enter),
            6 => Some(Self::Limited),
            _ => None,
        }
    }
}

impl Message for ToParent {
    fn encode(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        match self {
            Self::InitPid(pid) => {
                bytes[0] = 1;
                bytes[1..5].copy_from_slice(&pid.to_le_bytes());
            }
            Self::Mounted => bytes[0] = 2,
            Self::Ready => bytes[0] = 3,
            Self::Failed(failure) => {
                bytes[0] = 4;
                bytes[1..].copy_from_slice(&failure.encode());
            }
        }
        bytes
    }

    fn decode(bytes: [u8; SIZE]) -> Option<Self> {
        let [tag, rest @ ..] = bytes;
        match tag {
            1 => Some(Self::InitPid(i32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]))),
            2 => Some(Self::Mounted),
            3 => Some(Self::Ready),
            4 => Failure::decode(rest).map(Self::Failed),
            _ => None,
        }
    }
}

/// One end of the conversation: sends `S`, receives `R`.
#[derive(Debug)]
pub struct Channel<S, R> {
    socket: OwnedFd,
    types: PhantomData<(S, R)>,
}

/// The runtime's end.
pub type ParentEnd = Channel<ToChild, ToParent>;
/// The end of the process that is made.
pub type ChildEnd = Channel<ToParent, ToChild>;

/// Makes both ends.
///
/// # Errors
/// The kernel's.
pub fn channel() -> Result<(ParentEnd, ChildEnd), Errno> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Channel::new(ours), Channel::new(theirs)))
}

impl<S, R> AsFd for Channel<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S: Message, R: Message> Channel<S, R> {
    /// Takes over a connected `SOCK_SEQPACKET` socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, types: PhantomData }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// `EPIPE` if the other side is gone.
    pub fn send(&self, message: S) -> Result<(), Errno> {
        self.send_with(message, &[])
    }

    fn send_with(&self, message: S, controls: &[ControlMessage<'_>]) -> Result<(), Errno> {
        let (bytes, flags) = (message.encode(), MsgFlags::MSG_NOSIGNAL);
        let slices = [IoSlice::new(&bytes)];
        loop {
            match sendmsg::<()>(self.socket.as_raw_fd(), &slices, controls, flags, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Receives a message; `None` when the other side is gone, or has executed its program.
    ///
    /// # Errors
    /// `EBADMSG` for bytes that are no message.
    pub fn receive(&self) -> Result<Option<R>, Errno> {
        self.receive_with(None).map(|received| received.map(|(message, _)| message))
    }

    /// `space`: for descriptors, which are closed unseen where there is none.
    fn receive_with(&self, mut space: Option<&mut [u8]>) -> Result<Received<R>, Errno> {
        let mut bytes = [0; SIZE];
        let (count, descriptors) = loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let (socket, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_CMSG_CLOEXEC);
            match recvmsg::<()>(socket, &mut slices, space.as_deref_mut(), flags) {
                Err(Errno::ECONNRESET) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(message) => {
                    let mut descriptors = Vec::new();
                    for control in message.cmsgs().into_iter().flatten() {
                        if let ControlMessageOwned::ScmRights(fds) = control {
                            descriptors.extend(fds.into_iter().map(take));
                        }
                    }
                    break (message.bytes, descriptors);
                }
            }
        };
        match count {
            0 => Ok(None),
            SIZE => {
                let message = R::decode(bytes).ok_or(Errno::EBADMSG)?;
                Ok(Some((message, descriptors)))
            }
            _ => Err(Errno::EBADMSG),
        }
    }
}

/// A message with its descriptors; nothing at the end of the stream.
type Received<R> = Option<(R, Vec<OwnedFd>)>;

impl ChildEnd {
    /// Receives a message with the descriptors that come with it; `None` as by [`Self::receive`].
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_descriptors(&self) -> Result<Option<(ToChild, Vec<OwnedFd>)>, Errno> {
        self.receive_with(Some(&mut nix::cmsg_space!([RawFd; MAX_DESCRIPTORS])))
    }

    /// Sends what a hook has said; cut off where it is long. That it cannot be sent leaves the error
    /// without it.
    pub fn send_words(&self, words: &[u8]) {
        if words.is_empty() {
            return;
        }
        let words = &words[..words.len().min(MAX_WORDS_BYTES)];
        let slices = [IoSlice::new(words)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        let _ = sendmsg::<()>(self.socket.as_raw_fd(), &slices, &[], flags, None);
    }
}

impl ParentEnd {
    /// Sends a message with descriptors.
    ///
    /// # Errors
    /// As [`Self::send`]; `EINVAL` if there are more than 253.
    pub fn send_descriptors(&self, message: ToChild, files: &[OwnedFd]) -> Result<(), Errno> {
        let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        self.send_with(message, &[ControlMessage::ScmRights(&numbers)])
    }

    /// Receives what [`ChildEnd::send_words`] sent; empty if nothing was.
    #[must_use]
    pub fn receive_words(&self) -> String {
        let mut bytes = [0; MAX_WORDS_BYTES];
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::empty();
        let length = recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, None, flags)
            .map_or(0, |message| message.bytes);
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::failure::Step;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let (parent, child) = channel().unwrap();
        let failure = Failure { step: Step::Pivot, index: 7, errno: 22 };
        let sent = [
            ToParent::InitPid(4711),
            ToParent::Mounted,
            ToParent::Ready,
            ToParent::Failed(failure),
        ];

        for message in sent {
            child.send(message).unwrap();
        }

        for message in sent {
            assert_eq!(parent.receive().unwrap(), Some(message));
        }
    }

    #[test]
    fn descriptors_arrive_with_their_message() {
        let (parent, child) = channel().unwrap();
        let (ours, theirs) = channel().unwrap();
        parent.send_descriptors(ToChild::Enter, &[theirs.socket]).unwrap();

        let (message, mut files) = child.receive_descriptors().unwrap().unwrap();
        let received = ChildEnd::new(files.pop().unwrap());
        received.send(ToParent::Ready).unwrap();

        assert_eq!((message, files.len()), (ToChild::Enter, 0));
        assert_eq!(ours.receive().unwrap(), Some(ToParent::Ready));
    }

    #[test]
    fn the_end_of_one_side_is_seen_by_the_other() {
        let (parent, child) = channel().unwrap();
        parent.send(ToChild::Proceed).unwrap();
        drop(parent);

        assert_eq!(child.receive().unwrap(), Some(ToChild::Proceed));
        assert_eq!(child.receive().unwrap(), None);
        assert_eq!(child.send(ToParent::Ready).unwrap_err(), Errno::EPIPE);
    }

    #[test]
    fn words_follow_a_failure_and_their_absence_is_empty() {
        let failure = Failure { step: Step::StartContainerHook, index: 0, errno: 256 };
        for words in ["cat: no such file", ""] {
            let (parent, child) = channel().unwrap();
            child.send(ToParent::Failed(failure)).unwrap();
            child.send_words(words.as_bytes());
            drop(child);

            assert_eq!(parent.receive().unwrap(), Some(ToParent::Failed(failure)));
            assert_eq!(parent.receive_words(), words);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let (parent, child) = channel().unwrap();
        nix::sys::socket::send(child.socket.as_raw_fd(), b"too long to be one", MsgFlags::empty())
            .unwrap();

        assert_eq!(parent.receive().unwrap_err(), Errno::EBADMSG);
    }
}
