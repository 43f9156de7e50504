//! Runs a shim's `start` and `delete` (containerd, runtime v2, as third parties implement it).

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use prost::Message as _;
use prost_types::Any;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use keg_proto::containerd::runc::v1::Options;
use keg_proto::keg::shim::v1::RelayRequest;

use super::foreign::Bootstrap;
use super::task::TaskExit;
use crate::selinux::lowered;

/// How long `start` may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long `relay` may take to be ready.
const RELAY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long `delete` may take; it may have to kill what the container left.
const DELETE_TIMEOUT: Duration = Duration::from_secs(60);
/// Octets of a shim's complaint that an error quotes.
const COMPLAINT_BYTES_MAX: usize = 2000;

/// Why a shim could not be run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A file of the bundle cannot be written or read.
    #[error("prepare the bundle: {path:?}")]
    Bundle {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program cannot be executed.
    #[error("execute the shim {program:?}")]
    Execute {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("the shim's `{command}` failed: {complaint}")]
    Failed {
        /// `start`, `relay` or `delete`.
        command: &'static str,
        /// What it wrote to standard error.
        complaint: String,
    },
    /// It did not end in time.
    #[error("the shim's `{command}` did not end within {} s", timeout.as_secs())]
    TimedOut {
        /// `start`, `relay` or `delete`.
        command: &'static str,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// It printed something else than an address.
    #[error("the shim printed no address of a unix socket that serves ttrpc, but {printed:?}")]
    Address {
        /// What it printed.
        printed: String,
    },
}

/// A shim as a program, and what it is told of its daemon.
#[derive(Debug, Clone)]
pub struct ShimProgram {
    /// The program.
    pub program: PathBuf,
    /// Namespace of containers and tasks.
    pub namespace: String,
    /// Path of the daemon's socket; shims keep their own beside it.
    pub daemon_socket: PathBuf,
    /// Path of the socket that events go to.
    pub events_socket: PathBuf,
    /// Writes more into its log.
    pub debug: bool,
}

/// The directory that a shim works in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle(PathBuf);

impl Bundle {
    /// The bundle of container `id` below `tasks`, the directory of its namespace.
    pub fn new(tasks: &Path, id: &str) -> Self {
        Self(tasks.join(id))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the directory with its `rootfs`, and those above it that are missing.
    ///
    /// # Errors
    /// [`LaunchError::Bundle`], also if it is there already.
    pub fn make(&self) -> Result<(), LaunchError> {
        // Passable, since the container's root, who is nobody here, must reach `rootfs`.
        let mut directory = std::fs::DirBuilder::new();
        directory.mode(0o711).recursive(true);
        let fail = |path: &Path, source| LaunchError::Bundle { path: path.to_owned(), source };
        if let Some(tasks) = self.0.parent() {
            directory.create(tasks).map_err(|source| fail(tasks, source))?;
        }
        directory.recursive(false);
        for path in [self.0.clone(), self.0.join("rootfs")] {
            directory.create(&path).map_err(|source| fail(&path, source))?;
        }
        Ok(())
    }

    /// Writes `config.json`.
    ///
    /// # Errors
    /// [`LaunchError::Bundle`].
    pub fn configure(&self, config_json: &[u8]) -> Result<(), LaunchError> {
        let path = self.0.join("config.json");
        std::fs::write(&path, config_json).map_err(|source| LaunchError::Bundle { path, source })
    }

    /// The address of the shim, if one has started here.
    ///
    /// # Errors
    /// [`LaunchError::Bundle`] if the file is there and cannot be read.
    pub fn address(&self) -> Result<Option<String>, LaunchError> {
        let path = self.0.join("address");
        match std::fs::read_to_string(&path) {
            Ok(address) => Ok(Some(address.trim().to_owned()).filter(|text| !text.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LaunchError::Bundle { path, source }),
        }
    }

    /// Removes the directory; nothing is mounted in it any more.
    ///
    /// # Errors
    /// [`LaunchError::Bundle`]. `EBUSY` means that the root file system is still mounted.
    pub fn remove(&self) -> Result<(), LaunchError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| LaunchError::Bundle { path, source }
        };
        // `rootfs` by itself and not recursively: what might still be mounted there is not ours.
        let rootfs = self.0.join("rootfs");
        match std::fs::remove_dir(&rootfs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fail(&rootfs)(error));
            }
            _ => {}
        }
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail(&self.0)(error)),
            _ => Ok(()),
        }
    }
}

/// Options for the runtime: which program (empty: the shim chooses), and who owns the pipes of the
/// container's streams. That is the container's root: one who is not mapped in its user namespace
/// could not be asked for them by `/dev/stdout`.
pub fn runtime_options(binary: &str, owner: u32) -> Option<Any> {
    if binary.is_empty() && owner == 0 {
        return None;
    }
    let options = Options {
        binary_name: binary.to_owned(),
        io_uid: owner,
        io_gid: owner,
        ..Options::default()
    };
    Some(Any { type_url: "containerd.runc.v1.Options".to_owned(), value: options.encode_to_vec() })
}

impl ShimProgram {
    /// Starts a shim for the container `id` in its bundle; returns the shim's address.
    ///
    /// # Errors
    /// [`LaunchError`]; the shim's own words are part of it.
    pub async fn start(
        &self,
        id: &str,
        bundle: &Bundle,
        options: Option<&Any>,
    ) -> Result<String, LaunchError> {
        let address = self.bootstrap(id, bundle, options).await?.address;
        if bundle.address()?.is_none() {
            let path = bundle.0.join("address");
            std::fs::write(&path, &address)
                .map_err(|source| LaunchError::Bundle { path, source })?;
        }
        Ok(address)
    }

    /// Runs `start`, and nothing else.
    ///
    /// # Errors
    /// [`LaunchError`]; the shim's own words are part of it.
    pub(super) async fn bootstrap(
        &self,
        id: &str,
        bundle: &Bundle,
        options: Option<&Any>,
    ) -> Result<Bootstrap, LaunchError> {
        let stdin = options.map(prost::Message::encode_to_vec).unwrap_or_default();
        let output = self.run("start", id, bundle, None, &stdin, START_TIMEOUT).await?;
        parse_address(&output.stdout)
    }

    /// Starts the relay of a process that another's shim supervises; clients attach at `socket`.
    /// Only our own shim has one.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is mounted then.
    pub(super) async fn relay(
        &self,
        id: &str,
        bundle: &Bundle,
        socket: &Path,
        request: &RelayRequest,
    ) -> Result<(), LaunchError> {
        let stdin = request.encode_to_vec();
        self.run("relay", id, bundle, Some(socket), &stdin, RELAY_TIMEOUT).await.map(drop)
    }

    /// Cleans up after a shim that is gone; returns what it found out about the exit.
    ///
    /// # Errors
    /// [`LaunchError`]; the shim's own words are part of it.
    pub async fn delete(&self, id: &str, bundle: &Bundle) -> Result<TaskExit, LaunchError> {
        let output = self.run("delete", id, bundle, None, &[], DELETE_TIMEOUT).await?;
        let response =
            keg_proto::containerd::task::v2::DeleteResponse::decode(output.stdout.as_slice())
                .unwrap_or_default();
        let exited_at =
            response.exited_at.and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok());
        Ok(TaskExit { status: response.exit_status, exited_at })
    }

    async fn run(
        &self,
        command: &'static str,
        id: &str,
        bundle: &Bundle,
        socket: Option<&Path>,
        stdin: &[u8],
        timeout: Duration,
    ) -> Result<Output, LaunchError> {
        let execute = |source| LaunchError::Execute { program: self.program.clone(), source };
        let mut program = Command::new(&self.program);
        program
            .args(self.arguments(command, id, bundle, socket))
            .current_dir(bundle.path())
            .env("TTRPC_ADDRESS", &self.events_socket)
            .env("GRPC_ADDRESS", &self.daemon_socket)
            .env("NAMESPACE", &self.namespace)
            .env("MAX_SHIM_VERSION", "2")
            // What is the daemon's own must not reach a program that outlives it.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = lowered::spawn(&mut program).map_err(execute)?;
        if let Some(mut pipe) = child.stdin.take() {
            match pipe.write_all(stdin).await {
                // A shim that needs no options need not read them.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    return Err(execute(error));
                }
                _ => {}
            }
        }
        let output = tokio::time::timeout(timeout, child.wait_with_output())
            .await
            .map_err(|_| LaunchError::TimedOut { command, timeout })?
            .map_err(execute)?;
        if output.status.success() {
            return Ok(output);
        }
        Err(LaunchError::Failed { command, complaint: complaint(&output) })
    }

    fn arguments(
        &self,
        command: &str,
        id: &str,
        bundle: &Bundle,
        socket: Option<&Path>,
    ) -> Vec<OsString> {
        let own = std::env::current_exe().unwrap_or_default();
        let mut arguments: Vec<OsString> = vec![
            "-namespace".into(),
            self.namespace.clone().into(),
            "-address".into(),
            self.daemon_socket.clone().into(),
            "-publish-binary".into(),
            own.into(),
            "-id".into(),
            id.into(),
            "-bundle".into(),
            bundle.path().into(),
        ];
        if let Some(socket) = socket {
            arguments.extend(["-socket".into(), socket.into()]);
        }
        if self.debug {
            arguments.push("-debug".into());
        }
        arguments.push(command.into());
        arguments
    }
}

/// What a shim that failed said, or how it ended.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim();
    if text.is_empty() {
        return output.status.to_string();
    }
    text.chars().take(COMPLAINT_BYTES_MAX).collect()
}

/// Reads an answer in any of the forms that shims print: a plain address, JSON, or (containerd 2.3) a
/// protobuf message.
fn parse_address(printed: &[u8]) -> Result<Bootstrap, LaunchError> {
    let text = String::from_utf8_lossy(printed);
    let text = text.trim();
    let bootstrap = serde_json::from_str(text).ok().or_else(|| Bootstrap::decode(printed));
    let bootstrap = bootstrap.unwrap_or_else(|| Bootstrap {
        version: 2,
        address: text.to_owned(),
        protocol: "ttrpc".to_owned(),
    });
    let address = &bootstrap.address;
    let is_path = address.strip_prefix("unix://").unwrap_or(address).starts_with('/');
    if bootstrap.protocol == "ttrpc" && is_path && !address.contains(char::is_whitespace) {
        Ok(bootstrap)
    } else {
        Err(LaunchError::Address { printed: text.chars().take(COMPLAINT_BYTES_MAX).collect() })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(dir: &Path, script: &str) -> ShimProgram {
        let program = dir.join("shim");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        ShimProgram {
            program,
            namespace: "keg".into(),
            daemon_socket: dir.join("kegd.sock"),
            events_socket: dir.join("events.sock"),
            debug: false,
        }
    }

    fn bundle(dir: &Path) -> Bundle {
        let bundle = Bundle::new(dir, "abc");
        bundle.make().unwrap();
        bundle.configure(b"{}").unwrap();
        bundle
    }

    #[test]
    fn addresses_are_read_in_every_form() {
        let json = br#"{"version":3,"address":"unix:///s","protocol":"ttrpc"}"#;
        let message = b"\x08\x03\x12\x09unix:///s\x1a\x05ttrpc";
        for (printed, version, address) in [
            (&b"unix:///s\n"[..], 2, "unix:///s"),
            (b"/s", 2, "/s"),
            (json, 3, "unix:///s"),
            (message, 3, "unix:///s"),
        ] {
            let bootstrap = parse_address(printed).unwrap();
            assert_eq!((bootstrap.version, bootstrap.address.as_str()), (version, address));
        }
        let grpc = br#"{"version":3,"address":"unix:///s","protocol":"grpc"}"#;
        for printed in [&b""[..], b"hello", b"unix://s", b"/a b", grpc] {
            assert!(parse_address(printed).is_err(), "{printed:?}");
        }
    }

    #[tokio::test]
    async fn a_shim_is_called_as_containerd_calls_it() {
        let dir = tempfile::tempdir().unwrap();
        let shim = program(
            dir.path(),
            "cat > got.stdin; echo \"$@ $NAMESPACE $TTRPC_ADDRESS\" > got.args; printf unix:///x",
        );
        let bundle = bundle(dir.path());

        let address = shim.start("abc", &bundle, runtime_options("/r", 0).as_ref()).await.unwrap();

        assert_eq!(address, "unix:///x");
        assert_eq!(bundle.address().unwrap().as_deref(), Some("unix:///x"));
        let args = std::fs::read_to_string(bundle.path().join("got.args")).unwrap();
        let expected = format!(" keg {}", shim.events_socket.display());
        assert!(args.starts_with("-namespace keg -address "), "{args}");
        assert!(args.trim_end().ends_with(&format!("start{expected}")), "{args}");
        let options = Any::decode(&std::fs::read(bundle.path().join("got.stdin")).unwrap()[..]);
        let options = Options::decode(&options.unwrap().value[..]).unwrap();
        assert_eq!(options.binary_name, "/r");
    }

    #[tokio::test]
    async fn a_shim_that_fails_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let shim = program(dir.path(), "echo no such runtime >&2; exit 1");

        let error = shim.start("abc", &bundle(dir.path()), None).await.unwrap_err();

        assert!(error.to_string().contains("no such runtime"), "{error}");
    }

    #[tokio::test]
    async fn a_shim_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut shim = program(dir.path(), "");
        shim.program = "/nonexistent/shim".into();

        let error = shim.start("abc", &bundle(dir.path()), None).await.unwrap_err();

        assert!(matches!(error, LaunchError::Execute { .. }));
    }

    #[test]
    fn a_bundle_is_removed_whole_and_twice() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle(dir.path());

        bundle.remove().unwrap();
        bundle.remove().unwrap();

        assert!(!bundle.path().exists());
    }
}
