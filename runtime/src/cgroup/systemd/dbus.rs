//! As much of D-Bus as it takes to ask systemd (the D-Bus Specification, “Message Protocol”,
//! “Authentication Protocol”): one connection, calls one after another, one kind of signal.
//!
//! Everything that arrives is checked against the length of its message before it is believed.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::geteuid;

use super::super::dir::errno_of;
use super::wire::{Body, Message, MessageKind, Reader, Writer, malformed};

/// systemd answers within milliseconds; a machine under load may take its time.
const PATIENCE: Duration = Duration::from_secs(30);
/// The answers to our questions are short.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const AUTH_LINE_BYTES_MAX: usize = 512;
/// Signals that nobody has waited for yet; the oldest are forgotten.
const SIGNALS_MAX: usize = 1024;

/// Why systemd could not be asked, or what it answered instead.
#[derive(Debug, thiserror::Error)]
pub enum DBusError {
    /// Nobody listens.
    #[error("connect to the bus at {path:?}; is systemd running here?")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// No address of a bus is known.
    #[error("no user bus: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR names one")]
    NoUserBus,
    /// The bus does not take us for who we are.
    #[error("the bus refuses user {uid}: {answer:?}")]
    Auth {
        /// Our user id.
        uid: u32,
        /// What the bus said.
        answer: String,
    },
    /// The connection broke.
    #[error("talk to the bus")]
    Broken(#[source] Errno),
    /// No answer came.
    #[error("no answer within {secs} s")]
    TimedOut {
        /// How long we waited.
        secs: u64,
    },
    /// A message makes no sense.
    #[error("the bus sent a malformed message: {what}")]
    Malformed {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The call was refused.
    #[error("{name}: {message}")]
    Refused {
        /// The error's name, such as `org.freedesktop.systemd1.UnitExists`.
        name: String,
        /// What it says.
        message: String,
    },
    /// The job ended, but not well.
    #[error("the job of the unit ended with {result:?}")]
    Job {
        /// Its result, such as `failed` or `timeout`.
        result: String,
    },
}

impl DBusError {
    /// Whether the call was refused with this error.
    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name == wanted)
    }
}

/// A method of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method {
    pub(super) destination: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
    pub(super) member: &'static str,
}

/// An authenticated connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    serial: u32,
    signals: VecDeque<Message>,
}

impl Connection {
    /// Connects, says who we are, and says hello.
    pub(super) fn open(socket: &Path) -> Result<Self, DBusError> {
        let stream = UnixStream::connect(socket)
            .map_err(|error| DBusError::Connect { path: socket.into(), errno: errno_of(error) })?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
        let mut connection = Self { stream, serial: 0, signals: VecDeque::new() };
        connection.authenticate()?;
        connection.call(bus("Hello"), Body::empty())?;
        Ok(connection)
    }

    /// The system's bus.
    pub(super) fn system() -> Result<Self, DBusError> {
        Self::open(Path::new("/run/dbus/system_bus_socket"))
    }

    /// The bus of this user.
    pub(super) fn user() -> Result<Self, DBusError> {
        let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
        let named = address.split(';').find_map(|one| {
            let options = one.strip_prefix("unix:")?;
            options.split(',').find_map(|option| option.strip_prefix("path="))
        });
        match (named, std::env::var_os("XDG_RUNTIME_DIR")) {
            (Some(path), _) => Self::open(Path::new(path)),
            (None, Some(dir)) => Self::open(&Path::new(&dir).join("bus")),
            (None, None) => Err(DBusError::NoUserBus),
        }
    }

    /// Asks the bus to pass on the signals that match.
    pub(super) fn listen(&mut self, rule: &str) -> Result<(), DBusError> {
        let mut body = Writer::new();
        body.string(rule);
        self.call(bus("AddMatch"), Body { signature: "s", bytes: body.into_bytes() }).map(drop)
    }

    /// Calls a method and waits for its answer.
    pub(super) fn call(&mut self, method: Method, body: Body) -> Result<Message, DBusError> {
        self.serial += 1;
        let serial = self.serial;
        let message = super::wire::encode_call(serial, method, &body);
        self.stream.write_all(&message).map_err(broken)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.receive(deadline)?;
            match message.kind {
                MessageKind::Return if message.reply_serial == Some(serial) => return Ok(message),
                MessageKind::Error if message.reply_serial == Some(serial) => {
                    return Err(refusal(&message));
                }
                MessageKind::Signal => self.remember(message),
                _ => {}
            }
        }
    }

    /// Waits for a signal; `wanted` looks at each and takes what it needs from it.
    pub(super) fn wait_for<T>(
        &mut self,
        mut wanted: impl FnMut(&Message) -> Option<T>,
    ) -> Result<T, DBusError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(message) = self.signals.pop_front() {
                if let Some(found) = wanted(&message) {
                    return Ok(found);
                }
            }
            let message = self.receive(deadline)?;
            if message.kind == MessageKind::Signal {
                self.remember(message);
            }
        }
    }

    fn remember(&mut self, signal: Message) {
        if self.signals.len() == SIGNALS_MAX {
            self.signals.pop_front();
        }
        self.signals.push_back(signal);
    }

    fn authenticate(&mut self) -> Result<(), DBusError> {
        use std::fmt::Write as _;
        let uid = geteuid().as_raw();
        let hex = uid.to_string().bytes().fold(String::new(), |mut hex, byte| {
            // Writing into a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let hello = format!("\0AUTH EXTERNAL {hex}\r\n");
        self.stream.write_all(hello.as_bytes()).map_err(broken)?;
        let deadline = Instant::now() + PATIENCE;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n") {
            if answer.len() == AUTH_LINE_BYTES_MAX {
                return Err(malformed("an endless line"));
            }
            let mut byte = [0];
            self.read_exact(&mut byte, deadline)?;
            answer.push(byte[0]);
        }
        let answer = String::from_utf8_lossy(&answer).trim_end().to_owned();
        if !answer.starts_with("OK ") {
            return Err(DBusError::Auth { uid, answer });
        }
        self.stream.write_all(b"BEGIN\r\n").map_err(broken)
    }

    fn receive(&mut self, deadline: Instant) -> Result<Message, DBusError> {
        let mut bytes = vec![0; super::wire::FIXED_BYTES];
        self.read_exact(&mut bytes, deadline)?;
        let length = super::wire::message_length(&bytes)?;
        if length > MESSAGE_BYTES_MAX {
            return Err(malformed("too long"));
        }
        bytes.resize(length, 0);
        self.read_exact(&mut bytes[super::wire::FIXED_BYTES..], deadline)?;
        super::wire::decode(bytes)
    }

    fn read_exact(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<(), DBusError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(DBusError::TimedOut { secs: PATIENCE.as_secs() });
            }
            self.stream.set_read_timeout(Some(left)).map_err(broken)?;
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) => return Err(DBusError::Broken(Errno::ECONNRESET)),
                Ok(count) => filled += count,
                Err(error) => match errno_of(error) {
                    Errno::EAGAIN | Errno::EINTR => {}
                    errno => return Err(DBusError::Broken(errno)),
                },
            }
        }
        Ok(())
    }
}

fn bus(member: &'static str) -> Method {
    Method {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member,
    }
}

fn broken(error: std::io::Error) -> DBusError {
    DBusError::Broken(errno_of(error))
}

fn refusal(message: &Message) -> DBusError {
    let name = message.error_name.clone().unwrap_or_default();
    let text = match message.signature.as_str() {
        "s" => Reader::new(&message.body).string().unwrap_or_default(),
        _ => String::new(),
    };
    DBusError::Refused { name, message: text }
}
