//! `keg` on a terminal: raw mode and its end, sizes, and the keys that leave.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize};

use super::fake_daemon::{Asked, FakeDaemon, PATIENCE, Script, Then};
use super::keg;

/// A terminal with `keg` on it.
struct Terminal {
    ours: File,
    theirs: OwnedFd,
    child: Child,
}

impl Terminal {
    /// Runs a command on a terminal of 100 columns and 30 rows.
    fn new(mut command: Command) -> Self {
        let ours =
            rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        rustix::pty::grantpt(&ours).expect("grantpt");
        rustix::pty::unlockpt(&ours).expect("unlockpt");
        let name = rustix::pty::ptsname(&ours, Vec::new()).expect("ptsname");
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let theirs = rustix::fs::open(name, flags, Mode::empty()).expect("open the terminal");
        set_size(&ours, 100, 30);
        let stream = || Stdio::from(theirs.try_clone().expect("a descriptor"));
        let child =
            command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().expect("keg runs");
        Self { ours: File::from(ours), theirs, child }
    }

    fn is_raw(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.theirs).expect("a terminal").local_modes;
        !modes.contains(LocalModes::ICANON) && !modes.contains(LocalModes::ECHO)
    }

    fn type_keys(&self, keys: &[u8]) {
        rustix::io::write(&self.ours, keys).expect("type");
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("keg ends").code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails if it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(terminal: impl AsFd, columns: u16, rows: u16) {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).expect("set the size");
}

/// Sends a signal to a child.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("kill");
}

/// Reads until the text has come.
pub(crate) fn wait_for_output(stream: &mut impl Read, expected: &str) {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    let mut buffer = [0; 256];
    while !String::from_utf8_lossy(&seen).contains(expected) {
        assert!(Instant::now() < deadline, "{:?}", String::from_utf8_lossy(&seen));
        let length = stream.read(&mut buffer).expect("read");
        assert!(length > 0, "the end comes after {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..length]);
    }
}

/// A shell that has asked for a key, on a terminal that is therefore raw.
fn shell(daemon: &FakeDaemon) -> Terminal {
    let mut terminal = Terminal::new(keg(daemon, &["run", "-it", "busybox"]));
    wait_for_output(&mut terminal.ours, "ready");
    assert!(terminal.is_raw());
    terminal
}

fn daemon() -> FakeDaemon {
    FakeDaemon::new(Script { stdout: "ready", then: Then::Echo, ..Script::default() })
}

#[test]
fn the_keys_that_leave_give_the_terminal_back() {
    let daemon = daemon();
    let mut terminal = shell(&daemon);

    terminal.type_keys(b"ab");
    wait_for_output(&mut terminal.ours, "AB");
    terminal.type_keys(b"\x10\x11");

    assert_eq!(terminal.exit_code(), Some(0));
    assert!(!terminal.is_raw());
}

#[test]
fn keys_that_mean_something_to_a_terminal_reach_the_process() {
    let daemon = daemon();
    let terminal = shell(&daemon);

    terminal.type_keys(b"\x03\x1a\x04\r");

    let mut typed = Vec::new();
    while typed.len() < 4 {
        if let Asked::Stdin(bytes) = daemon.next_asked() {
            typed.extend(bytes);
        }
    }
    assert_eq!(typed, b"\x03\x1a\x04\r");
}

#[test]
fn a_signal_ends_us_and_gives_the_terminal_back() {
    for (number, sent) in [(15, Signal::TERM), (1, Signal::HUP), (2, Signal::INT)] {
        let daemon = daemon();
        let mut terminal = shell(&daemon);

        signal(&terminal.child, sent);

        assert_eq!(terminal.exit_code(), Some(128 + number));
        assert!(!terminal.is_raw());
    }
}

#[test]
fn the_size_is_there_from_the_start_and_follows_changes() {
    let daemon = daemon();
    let terminal = shell(&daemon);

    let Asked::Create(request) = daemon.next_asked() else { panic!("create comes first") };
    let size = request.config.expect("a config").terminal_size.expect("a size");
    assert_eq!((size.width, size.height), (100, 30));
    set_size(&terminal.ours, 55, 44);
    // Only the foreground of a controlling terminal is told by the kernel.
    signal(&terminal.child, Signal::WINCH);

    let changed = |asked: &Asked| matches!(asked, Asked::Resize(size) if size.width == 55);
    assert!(matches!(daemon.wait_for(changed), Asked::Resize(size) if size.height == 44));
}

#[test]
fn a_start_that_fails_gives_the_terminal_back() {
    let script = Script { start_fails: Some("COMMAND_NOT_FOUND"), ..Script::default() };
    let daemon = FakeDaemon::new(script);
    let mut terminal = Terminal::new(keg(&daemon, &["run", "-it", "busybox", "nosuch"]));

    wait_for_output(&mut terminal.ours, "check the spelling");

    assert_eq!(terminal.exit_code(), Some(127));
    assert!(!terminal.is_raw());
}

#[test]
fn a_terminal_is_demanded_where_one_is_asked_for() {
    let daemon = daemon();

    let outcome =
        keg(&daemon, &["run", "-it", "busybox"]).stdin(Stdio::null()).output().expect("keg runs");

    assert_eq!(outcome.status.code(), Some(1));
    let message = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert!(message.starts_with("keg: the input device is not a terminal\n"), "{message}");
}
