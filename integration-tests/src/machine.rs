//! Machines made of network namespaces: a host of the test's own, and others beside it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

/// How long to wait for a connection that should come about.
const SOON: Duration = Duration::from_secs(5);
/// How long to wait for one that should not.
const NEVER: Duration = Duration::from_millis(700);

/// A network namespace, which ends with the last copy of this.
#[derive(Debug, Clone)]
pub struct Machine {
    netns: Arc<File>,
}

impl Machine {
    /// Makes one, with nothing in it.
    ///
    /// # Panics
    /// Without root's rights.
    #[must_use]
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace");
            // A new namespace has what the machine has, which may be a router already.
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("set a sysctl");
            File::open("/proc/thread-self/ns/net").expect("open a network namespace")
        });
        Self { netns: Arc::new(made.join().expect("a thread")) }
    }

    /// Makes a host at 192.0.2.1 and another machine at 192.0.2.2, with a cable between them, and
    /// IPv6 addresses 2001:db8::1 and ::2.
    ///
    /// # Panics
    /// As [`Machine::new`].
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let (host, outside) = (Self::new(), Self::new());
        host.sh(&format!(
            "ip link set lo up
             ip link add eth0 type veth peer name eth0 netns {}
             ip addr add 192.0.2.1/24 dev eth0
             ip addr add 2001:db8::1/64 dev eth0 nodad
             ip link set eth0 up",
            outside.path().display()
        ));
        outside.sh("ip link set lo up
             ip addr add 192.0.2.2/24 dev eth0
             ip addr add 2001:db8::2/64 dev eth0 nodad
             ip link set eth0 up");
        (host, outside)
    }

    /// Where its namespace is found, as long as this process lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd()).into()
    }

    /// Runs something on it.
    ///
    /// # Panics
    /// If that does.
    pub fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&*self.netns, CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
                act()
            });
            inside.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a shell script on it, and returns what that prints.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let path = crate::daemon::path_with_our_programs();
        let output = self.run(|| {
            Command::new("sh").args(["-ec", script]).env("PATH", path).output().expect("run sh")
        });
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{script}\n{errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Connects by TCP, and returns what the other side says until it closes.
    ///
    /// # Errors
    /// Those of the connection.
    ///
    /// # Panics
    /// If `address` is none.
    pub fn hear(&self, address: &str) -> io::Result<String> {
        self.hear_within(address, SOON)
    }

    /// Whether a TCP connection comes about that should not.
    #[must_use]
    pub fn reaches(&self, address: &str) -> bool {
        self.hear_within(address, NEVER).is_ok()
    }

    /// Asks a web server for a document, and returns its answer, head and body.
    ///
    /// # Errors
    /// Those of the connection.
    ///
    /// # Panics
    /// If `address` is none.
    pub fn get(&self, address: &str, path: &str) -> io::Result<String> {
        self.ask(address, &format!("GET {path} HTTP/1.0\r\n\r\n"), SOON)
    }

    fn hear_within(&self, address: &str, patience: Duration) -> io::Result<String> {
        self.ask(address, "", patience)
    }

    /// Asks, if there is a question (a server that closes with it unread resets the connection), and
    /// listens.
    fn ask(&self, address: &str, question: &str, patience: Duration) -> io::Result<String> {
        let address: SocketAddr = address.parse().expect("an address");
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&address, patience)?;
            stream.set_read_timeout(Some(patience))?;
            stream.write_all(question.as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}
