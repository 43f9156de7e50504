//! How a daemon and a new shim find each other: flags, input, output, socket paths.
//!
//! ```text
//! daemon ── exec "SHIM … start", input ──▶ start, binds ── fork, setsid ──▶ server
//!        ◀── address ── ends ───────────────                                stays
//! ```
//!
//! Three generations of daemons call in three ways (containerd 1.6, 1.7 to 2.2, 2.3 on); all get
//! what they understand. What this module does is pure, so that each way is a test.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use keg_proto::containerd::runc::v1::Options;
use keg_proto::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult};
use prost::Message;

use crate::runtime_cli::find_binary;

/// Longest path that a unix socket's address holds.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Where sockets go when no daemon says where it is.
const DEFAULT_DAEMON_DIR: &str = "/run/containerd";

/// The type URL of [`Options`], less its prefix.
pub(crate) const OPTIONS_TYPE: &str = "containerd.runc.v1.Options";

/// What the binary is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Starts a server and prints its address.
    Start,
    /// Cleans up after a server that is gone.
    Delete,
    /// Serves in the foreground.
    Serve,
    /// Holds the streams of a process that another's shim supervises.
    Relay,
    /// Prints the version.
    Version,
    /// Prints what the runtime can do.
    Info,
}

/// The command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// What to do.
    pub action: Action,
    /// `-namespace`.
    pub namespace: String,
    /// `-id`: the container.
    pub id: String,
    /// `-address`: the daemon's gRPC socket.
    pub address: PathBuf,
    /// `-publish-binary`: the daemon's program.
    pub publish_binary: PathBuf,
    /// `-bundle`; the working directory when it is not given.
    pub bundle: Option<PathBuf>,
    /// `-socket`: where to serve, instead of the place that follows from the other flags.
    pub socket: Option<PathBuf>,
    /// `-debug`.
    pub debug: bool,
}

/// Why the command line is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// No such flag.
    #[error("flag provided but not defined: {0}")]
    Unknown(String),
    /// The flag's value is missing.
    #[error("flag needs an argument: {0}")]
    NoValue(String),
    /// No such command.
    #[error("unknown command {0:?}: expected \"start\", \"delete\" or \"relay\"")]
    UnknownAction(String),
    /// An argument is not UTF-8.
    #[error("argument {0:?} is not UTF-8")]
    NotText(OsString),
    /// A flag that every command needs is missing.
    #[error("shim {0} cannot be empty")]
    Empty(&'static str),
}

impl Flags {
    /// Parses a command line without the program's name, as Go's `flag` package does: one dash or
    /// two, `-name value` or `-name=value`, up to the first argument that is no flag.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, FlagError> {
        let mut flags = Self {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: PathBuf::new(),
            publish_binary: PathBuf::new(),
            bundle: None,
            socket: None,
            debug: false,
        };
        let mut args = args.into_iter().map(|arg| arg.into_string().map_err(FlagError::NotText));
        while let Some(arg) = args.next().transpose()? {
            let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
                flags.action = match arg.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    "relay" => Action::Relay,
                    _ => return Err(FlagError::UnknownAction(arg)),
                };
                break;
            };
            let (name, inline) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            match name {
                "debug" => flags.debug = inline.is_none_or(|value| value == "true" || value == "1"),
                "v" => flags.action = Action::Version,
                "info" => flags.action = Action::Info,
                _ => {
                    let value = match inline {
                        Some(value) => value,
                        None => args
                            .next()
                            .transpose()?
                            .ok_or_else(|| FlagError::NoValue(format!("-{name}")))?,
                    };
                    flags.set(name, value)?;
                }
            }
        }
        flags.check()
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), FlagError> {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value.into(),
            "publish-binary" => self.publish_binary = value.into(),
            "bundle" => self.bundle = Some(value.into()),
            "socket" => self.socket = Some(value.into()),
            _ => return Err(FlagError::Unknown(format!("-{name}"))),
        }
        Ok(())
    }

    fn check(self) -> Result<Self, FlagError> {
        if matches!(self.action, Action::Version | Action::Info) {
            return Ok(self);
        }
        if self.namespace.is_empty() {
            return Err(FlagError::Empty("namespace"));
        }
        if self.id.is_empty() {
            return Err(FlagError::Empty("id"));
        }
        Ok(self)
    }

    /// Returns the directory of the daemon's socket.
    #[must_use]
    pub fn daemon_dir(&self) -> PathBuf {
        let address = self.address.to_str().map_or(self.address.as_path(), |address| {
            Path::new(address.strip_prefix("unix://").unwrap_or(address))
        });
        match address.parent() {
            Some(dir) if dir.is_absolute() => dir.to_owned(),
            _ => DEFAULT_DAEMON_DIR.into(),
        }
    }
}

/// What a daemon says on standard input of `start`.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Nothing, or the options of the task: containerd up to 2.2, kegd.
    Options(Option<Options>),
    /// Everything: containerd from 2.3 on.
    Params(Box<BootstrapParams>),
}

impl Input {
    /// Decodes standard input.
    ///
    /// Both forms are protobuf without a tag, and decode as each other: it is the newer one if its
    /// container and namespace are those of the flags. Anything else is ignored, as older shims do.
    #[must_use]
    pub fn decode(bytes: &[u8], flags: &Flags) -> Self {
        if let Ok(params) = BootstrapParams::decode(bytes)
            && !bytes.is_empty()
            && params.instance_id == flags.id
            && params.namespace == flags.namespace
        {
            return Self::Params(Box::new(params));
        }
        let any = prost_types::Any::decode(bytes).unwrap_or_default();
        Self::Options(decode_options(&any))
    }

    /// Returns the options of the task, if there are any.
    #[must_use]
    pub fn options(&self) -> Option<Options> {
        match self {
            Self::Options(options) => options.clone(),
            Self::Params(params) => params
                .extensions
                .iter()
                .filter_map(|extension| extension.value.as_ref())
                .find_map(decode_options),
        }
    }

    /// Encodes the answer that the daemon understands: a protobuf message for the newer input,
    /// else the plain address, which every generation takes.
    #[must_use]
    pub fn answer(&self, address: &str) -> Vec<u8> {
        match self {
            Self::Options(_) => address.as_bytes().to_vec(),
            Self::Params(_) => BootstrapResult {
                // What version 3 adds is that the containers of a pod are given to the shim of its
                // sandbox without asking; a shim here has one container.
                version: 2,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..BootstrapResult::default()
            }
            .encode_to_vec(),
        }
    }
}

/// Decodes runtime options from an `Any`; other messages are none of ours.
pub(crate) fn decode_options(any: &prost_types::Any) -> Option<Options> {
    if any.type_url.rsplit('/').next() != Some(OPTIONS_TYPE) {
        return None;
    }
    Options::decode(any.value.as_slice()).ok()
}

/// Returns the OCI runtime that options name: what `-info` is about.
#[must_use]
pub fn runtime_of(options: Option<&prost_types::Any>) -> PathBuf {
    let options = options.and_then(decode_options).unwrap_or_default();
    find_binary(&options.binary_name)
}

/// Why a socket has no place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "socket path {0:?} is longer than {MAX_SOCKET_PATH_BYTES} bytes: use a shorter --state directory"
)]
pub struct SocketPathTooLong(PathBuf);

/// Returns where the shim of a container serves: `DIR/s/HASH`, for both directions of the seam.
///
/// # Errors
/// [`SocketPathTooLong`] if the kernel would not take it, `.io` included.
pub fn socket_path(flags: &Flags, socket_dir: Option<&str>) -> Result<PathBuf, SocketPathTooLong> {
    let path = match (&flags.socket, socket_dir) {
        (Some(socket), _) => socket.clone(),
        (None, dir) => {
            let dir = match dir {
                Some(dir) if !dir.is_empty() => PathBuf::from(dir),
                _ => flags.daemon_dir().join("s"),
            };
            let address = flags.address.to_string_lossy();
            dir.join(short_hash(&[&address, &flags.namespace, &flags.id]))
        }
    };
    if path.as_os_str().len() + ".io".len() > MAX_SOCKET_PATH_BYTES {
        return Err(SocketPathTooLong(path));
    }
    Ok(path)
}

/// Returns the path of the attach socket beside a Task socket.
#[must_use]
pub fn attach_socket_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".io");
    path.into()
}

/// Takes a shim's name away, so that another one can have it.
pub(crate) fn remove_sockets(socket: &Path) {
    for path in [socket, &attach_socket_path(socket)] {
        // Whoever removed it before did what is wanted.
        let _ = std::fs::remove_file(path);
    }
}

/// Hashes `parts` into 24 hexadecimal digits (FNV-1a, 128 bits, cut): names, not secrets.
fn short_hash(parts: &[&str]) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let mut hash = OFFSET;
    for part in parts {
        // The zero keeps ("a", "bc") and ("ab", "c") apart.
        for octet in part.bytes().chain([0]) {
            hash = (hash ^ u128::from(octet)).wrapping_mul(PRIME);
        }
    }
    format!("{:024x}", hash >> 32)
}

/// Returns the full name of the options' message, as it stands in an `Any`.
#[must_use]
pub fn options_any(options: &Options) -> prost_types::Any {
    prost_types::Any { type_url: OPTIONS_TYPE.to_owned(), value: options.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use keg_proto::containerd::runtime::bootstrap::v1::Extension;
    use proptest::prelude::*;

    use super::*;

    fn flags(args: &[&str]) -> Result<Flags, FlagError> {
        Flags::parse(args.iter().map(OsString::from))
    }

    fn started() -> Flags {
        flags(&["-namespace", "n", "-id", "c", "-address", "/run/x/d.sock", "start"]).unwrap()
    }

    #[test]
    fn containerds_command_lines_are_understood() {
        let parsed = flags(&[
            "-namespace",
            "default",
            "-address",
            "/run/containerd/containerd.sock",
            "-publish-binary",
            "/usr/bin/containerd",
            "-id",
            "c1",
            "-bundle",
            "/b",
            "-debug",
            "delete",
        ]);

        let parsed = parsed.unwrap();
        assert_eq!(parsed.action, Action::Delete);
        assert_eq!((parsed.namespace.as_str(), parsed.id.as_str()), ("default", "c1"));
        assert_eq!(parsed.bundle, Some("/b".into()));
        assert!(parsed.debug);
        assert_eq!(parsed.daemon_dir(), Path::new("/run/containerd"));
    }

    #[test]
    fn flags_take_one_dash_or_two_and_values_inline() {
        let parsed = flags(&["--namespace=n", "--id=c=d", "-debug=false"]).unwrap();

        assert_eq!((parsed.namespace.as_str(), parsed.id.as_str()), ("n", "c=d"));
        assert_eq!((parsed.action, parsed.debug), (Action::Serve, false));
    }

    #[test]
    fn bad_command_lines_are_refused() {
        for (args, error) in [
            (&["-id", "c", "start"][..], FlagError::Empty("namespace")),
            (&["-namespace", "n", "start"][..], FlagError::Empty("id")),
            (&["-namespace"][..], FlagError::NoValue("-namespace".into())),
            (&["-nonsense", "1"][..], FlagError::Unknown("-nonsense".into())),
            (&["-namespace", "n", "-id", "c", "run"][..], FlagError::UnknownAction("run".into())),
        ] {
            assert_eq!(flags(args).unwrap_err(), error, "{args:?}");
        }
        assert_eq!(flags(&["-v"]).unwrap().action, Action::Version);
    }

    #[test]
    fn old_input_gets_the_plain_address_and_new_input_a_message() {
        let options = Options { binary_name: "runc".into(), ..Options::default() };
        let any = options_any(&options);
        let params = BootstrapParams {
            instance_id: "c".into(),
            namespace: "n".into(),
            extensions: vec![Extension { value: Some(any.clone()) }],
            ..BootstrapParams::default()
        };

        let nothing = Input::decode(b"", &started());
        let old = Input::decode(&any.encode_to_vec(), &started());
        let new = Input::decode(&params.encode_to_vec(), &started());

        assert_eq!(nothing, Input::Options(None));
        assert_eq!(old.options(), Some(options.clone()));
        assert_eq!(old.answer("unix:///a"), b"unix:///a");
        assert_eq!(new.options(), Some(options));
        let answer = BootstrapResult::decode(new.answer("unix:///a").as_slice()).unwrap();
        assert_eq!(
            (answer.version, answer.address.as_str(), answer.protocol.as_str()),
            (2, "unix:///a", "ttrpc")
        );
    }

    #[test]
    fn new_input_of_another_container_is_not_taken_for_ours() {
        let params = BootstrapParams {
            instance_id: "other".into(),
            namespace: "n".into(),
            ..BootstrapParams::default()
        };

        assert_eq!(Input::decode(&params.encode_to_vec(), &started()), Input::Options(None));
    }

    #[test]
    fn sockets_differ_by_daemon_namespace_and_container() {
        let one = socket_path(&started(), None).unwrap();
        let mut other = started();
        other.namespace = "n2".into();

        assert!(one.starts_with("/run/x/s"));
        assert_eq!(one, socket_path(&started(), None).unwrap());
        assert_ne!(one, socket_path(&other, None).unwrap());
        assert!(socket_path(&started(), Some("/run/y")).unwrap().starts_with("/run/y"));
        assert!(socket_path(&started(), Some(&"/long".repeat(20))).is_err());
    }

    proptest! {
        #[test]
        fn any_input_is_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let input = Input::decode(&bytes, &started());
            prop_assert!(!input.answer("unix:///a").is_empty());
        }
    }
}
