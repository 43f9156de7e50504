//! A supervisor decides about system calls – runtime-spec, config-linux.md, "Seccomp", `listenerPath`.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use keg_fixtures::sys::seccomp::{Notification, answer, is_valid, receive};
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Container, Host, Scratch, requires, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

/// The argument of the one umask(2) that is the supervisor's business: the shell's.
const MASK: u32 = 0o123;

/// A shell that waits in umask(2) for its supervisor, and what the supervisor has of it.
struct Supervised {
    container: Container,
    listener: OwnedFd,
    waiting: Notification,
    _scratch: Scratch,
}

fn supervised(host: &Host, flags: &[&str]) -> Supervised {
    let scratch = Scratch::new();
    let path = scratch.join("agent.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path,
        "flags": flags,
        "syscalls": [{
            "names": ["umask"],
            "action": "SCMP_ACT_NOTIFY",
            "args": [{"index": 0, "value": MASK, "op": "SCMP_CMP_EQ"}],
        }],
    });
    let script = format!("trap 'echo caught' USR1; umask {MASK:o}; echo done");
    let bundle = Bundle::busybox().sh(&script).set("/linux/seccomp", profile);
    let container = host.runtime().create(bundle);
    let listener = receive_descriptor(&socket);
    container.start();
    let waiting = receive(listener.as_fd()).unwrap();
    Supervised { container, listener, waiting, _scratch: scratch }
}

fn receive_descriptor(socket: &UnixListener) -> OwnedFd {
    let (stream, _) = socket.accept().unwrap();
    let mut text = [0; 16 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    recvmsg(&stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let descriptors = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    descriptors.and_then(|mut list| list.next()).expect("a descriptor in the message")
}

/// Whether SIGUSR1 waits to be delivered to the process.
fn waits_for_a_signal(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    let pending = u64::from_str_radix(pending.trim(), 16).unwrap();
    pending & 1 << (Signal::SIGUSR1 as i32 - 1) != 0
}

#[test]
fn a_call_that_its_supervisor_has_taken_up_is_not_disturbed_by_signals_if_that_is_asked_for() {
    let host = requires!(root, our_runtime);
    let flags = ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"];
    let Supervised { container, listener, waiting, .. } = supervised(&host, &flags);

    kill(waiting.pid, Signal::SIGUSR1).unwrap();

    wait_until("the signal waits", PATIENCE, || waits_for_a_signal(waiting.pid));
    assert!(is_valid(listener.as_fd(), waiting.id), "the call waits, too");
    answer(listener.as_fd(), waiting.id, 0).unwrap();
    assert_eq!(container.wait_exit(PATIENCE), 0);
    assert_eq!(container.stdout(), "caught\ndone\n");
}

#[test]
fn a_signal_interrupts_a_call_that_waits_for_its_supervisor_unless_told_otherwise() {
    let host = requires!(root, our_runtime);
    let Supervised { container, listener, waiting, .. } = supervised(&host, &[]);

    kill(waiting.pid, Signal::SIGUSR1).unwrap();

    wait_until("the call is given up", PATIENCE, || !is_valid(listener.as_fd(), waiting.id));
    assert_eq!(container.wait_exit(PATIENCE), 0);
    assert_eq!(container.stdout(), "caught\ndone\n");
}
