//! What kegd adds where another's shim supervises a container, so that it is served as by our own.
//!
//! ```text
//!   engine ── SHIM relay ─▶ our relay: mounts the root, makes FIFOs, serves clients, writes the log
//!      │                        ▲ FIFOs
//!      │── ANOTHER'S start ─▶ another's shim ── its runtime
//!      │── Task.Create, … ──▶   (Task API v2 or v3, as it says in its bootstrap.json)
//! ```
//!
//! The bundle says whose it is: `shim-binary-path` (written first) and `bootstrap.json`, as containerd
//! writes them. So a daemon that comes back, or whose configuration has changed, finds the shim that
//! a container was started with.

use std::io::{self, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keg_proto::containerd::runtime::bootstrap::v1::BootstrapResult;
use keg_proto::containerd::types::Mount;
use keg_proto::keg::shim::v1::RelayRequest;
use prost::Message as _;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use super::io::{FromProcess, StreamsWanted, connect};
use super::launch::{Bundle, LaunchError, ShimProgram};
use super::task::{Stdio, TaskExit};

/// The shim's program, in the bundle.
const PROGRAM_FILE: &str = "shim-binary-path";
/// Where the shim serves, in the bundle.
const BOOTSTRAP_FILE: &str = "bootstrap.json";
/// FIFOs, in the bundle.
const FIFOS: &str = "io";
/// The shim's messages, in the bundle.
const SHIM_LOG: &str = "shim.log";
/// Digits of an id that make the name of a socket, whose path must be short.
const SOCKET_DIGITS: usize = 23;
/// How long a relay may take to end whose shim has ended.
const RELAY_END_TIMEOUT: Duration = Duration::from_secs(10);
/// Mounts that may lie on top of each other at one place.
const STACKED_MAX: usize = 64;

/// Where a shim serves, as it says and as containerd writes it into the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Version of the Task API.
    #[serde(default = "default_version")]
    pub version: u32,
    /// Its socket: `unix:///…`, or a path.
    pub address: String,
    /// How it is spoken to.
    pub protocol: String,
}

impl Bootstrap {
    /// Reads the message that shims of containerd 2.3 print; `None` if it is none.
    pub(super) fn decode(printed: &[u8]) -> Option<Self> {
        let result = BootstrapResult::decode(printed).ok()?;
        let version = u32::try_from(result.version).ok().filter(|version| *version > 0)?;
        Some(Self { version, address: result.address, protocol: result.protocol })
    }

    /// Removes the socket, which containerd's shims before 2.0 leave behind where one was killed.
    fn remove_socket(&self) {
        let path = self.address.strip_prefix("unix://").unwrap_or(&self.address);
        let is_socket = |path: &Path| {
            std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
        };
        if path.starts_with('/') && is_socket(path.as_ref()) {
            // What stays is in nobody's way.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn default_version() -> u32 {
    2
}

/// Another's shim at one container.
#[derive(Debug, Clone)]
pub struct Foreign {
    id: String,
    bundle: Bundle,
    /// Its program, and what it is told of its daemon.
    shim: ShimProgram,
    /// Ours, which has the relay.
    own: ShimProgram,
}

impl Foreign {
    /// The shim `program` at container `id`, in the environment that `own` has.
    pub fn new(own: &ShimProgram, program: PathBuf, id: &str, bundle: &Bundle) -> Self {
        Self {
            id: id.to_owned(),
            bundle: bundle.clone(),
            shim: ShimProgram { program, ..own.clone() },
            own: own.clone(),
        }
    }

    /// The one whose bundle it is; `None` if it is our own shim's.
    pub fn of_bundle(own: &ShimProgram, id: &str, bundle: &Bundle) -> Option<Self> {
        let program = std::fs::read_to_string(bundle.path().join(PROGRAM_FILE)).ok()?;
        Some(Self::new(own, program.trim().into(), id, bundle))
    }

    /// Namespace of its containers.
    pub fn namespace(&self) -> &str {
        &self.shim.namespace
    }

    /// Says in the bundle whose it is. To be called before anything is made for the shim.
    ///
    /// # Errors
    /// [`LaunchError::Bundle`].
    pub fn claim(&self) -> Result<(), LaunchError> {
        let program = self.shim.program.to_string_lossy();
        write(&self.bundle, PROGRAM_FILE, program.as_bytes())?;
        let path = self.bundle.path().join(FIFOS);
        std::fs::create_dir(&path).map_err(|source| LaunchError::Bundle { path, source })
    }

    /// Starts the shim, and says in the bundle where it is.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub async fn start(&self) -> Result<Bootstrap, LaunchError> {
        // Options go with `Create`. Here, shims up to containerd 2.2 want them as an `Any`, which those
        // of 2.3 take for another message; nothing is understood by all.
        let started = self.shim.bootstrap(&self.id, &self.bundle, None).await?;
        let json = serde_json::to_vec(&started).map_err(io::Error::from).map_err(|source| {
            LaunchError::Bundle { path: self.bundle.path().join(BOOTSTRAP_FILE), source }
        })?;
        write(&self.bundle, BOOTSTRAP_FILE, &json)?;
        Ok(started)
    }

    /// Where the shim said that it is; `None` if it has not started.
    pub fn bootstrap(&self) -> Option<Bootstrap> {
        let json = std::fs::read(self.bundle.path().join(BOOTSTRAP_FILE)).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// Cleans up after the shim, which is gone; returns what it finds out about the exit.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub async fn delete(&self) -> Result<TaskExit, LaunchError> {
        let bootstrap = self.bootstrap();
        let deleted = self.shim.delete(&self.id, &self.bundle).await;
        if let Some(bootstrap) = bootstrap {
            bootstrap.remove_socket();
        }
        deleted
    }

    /// The socket on which the relay of a process connects clients.
    pub fn attach_socket(&self, exec_id: &str) -> PathBuf {
        let id = if exec_id.is_empty() { &self.id } else { exec_id };
        let name: String = id.chars().take(SOCKET_DIGITS).collect();
        let state = self.own.daemon_socket.parent().unwrap_or(Path::new("/run/keg"));
        state.join("s").join(format!("r{name}.io"))
    }

    /// Starts the relay of a process, which keeps its output as `stdio` says and mounts `rootfs`.
    /// Returns the streams that the shim is to be told.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub async fn relay(
        &self,
        exec_id: &str,
        stdio: &Stdio,
        rootfs: Vec<Mount>,
    ) -> Result<Stdio, LaunchError> {
        let fifos = self.fifos(exec_id, stdio);
        let is_first = exec_id.is_empty();
        let in_bundle = |name: &str| self.bundle.path().join(name).to_string_lossy().into_owned();
        let request = RelayRequest {
            exec_id: exec_id.to_owned(),
            terminal: fifos.terminal,
            stdin: fifos.stdin.clone(),
            stdout: fifos.stdout.clone(),
            stderr: fifos.stderr.clone(),
            log: stdio.stdout.clone(),
            rootfs,
            // The name that every shim knows.
            shim_log_fifo: if is_first { in_bundle("log") } else { String::new() },
            shim_log_file: if is_first { in_bundle(SHIM_LOG) } else { String::new() },
        };
        let socket = self.attach_socket(exec_id);
        self.own.relay(&self.id, &self.bundle, &socket, &request).await?;
        Ok(fifos)
    }

    /// The FIFOs of a process: one for each stream that it has.
    fn fifos(&self, exec_id: &str, stdio: &Stdio) -> Stdio {
        let name = if exec_id.is_empty() { "init" } else { exec_id };
        let fifo = |end: &str, wanted: bool| match wanted {
            true => {
                let path = self.bundle.path().join(FIFOS).join(format!("{name}-{end}"));
                path.to_string_lossy().into_owned()
            }
            false => String::new(),
        };
        Stdio {
            terminal: stdio.terminal,
            stdin: fifo("stdin", !stdio.stdin.is_empty()),
            stdout: fifo("stdout", true),
            stderr: fifo("stderr", !stdio.terminal),
        }
    }

    /// What the shim said of itself last, for an error; empty if that is nothing.
    pub fn last_words(&self) -> String {
        let said = std::fs::read(self.bundle.path().join(SHIM_LOG)).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
    }

    /// Ends the relay of a container whose shim is gone, or was never there, and waits for that.
    pub async fn end_relay(&self) {
        let fifos = self.bundle.path().join(FIFOS);
        for end in ["stdout", "stderr"] {
            // A writer that comes and goes is the end of a FIFO that has no other.
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            drop(open(fifos.join(format!("init-{end}")), flags, Mode::empty()));
        }
        let socket = self.attach_socket("");
        let _ = tokio::time::timeout(RELAY_END_TIMEOUT, relay_ended(&socket)).await;
    }

    /// Unmounts the root file system, which the relay has mounted and the shim does not know of.
    ///
    /// # Errors
    /// [`LaunchError::Bundle`].
    pub fn unmount(&self) -> Result<(), LaunchError> {
        let rootfs = self.bundle.path().join("rootfs");
        let flags = UnmountFlags::NOFOLLOW;
        for _ in 0..STACKED_MAX {
            let unmounted = match unmount(&rootfs, flags) {
                Err(Errno::BUSY) => unmount(&rootfs, flags | UnmountFlags::DETACH),
                other => other,
            };
            match unmounted {
                Ok(()) => {}
                // Not a mount point, or not there at all.
                Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
                Err(errno) => {
                    return Err(LaunchError::Bundle { path: rootfs, source: errno.into() });
                }
            }
        }
        Err(LaunchError::Bundle { path: rootfs, source: Errno::BUSY.into() })
    }
}

/// Waits until the relay at a socket has passed everything on; `false` if it is gone without that.
pub async fn relay_ended(socket: &Path) -> bool {
    let nothing = StreamsWanted::default();
    let Ok(mut streams) = connect(socket, &nothing).await else { return false };
    loop {
        match streams.output.next().await {
            Ok(FromProcess::End { .. }) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

/// Writes a file of the bundle; who reads it meanwhile finds all of it or none.
fn write(bundle: &Bundle, name: &str, content: &[u8]) -> Result<(), LaunchError> {
    let path = bundle.path().join(name);
    let temporary = bundle.path().join(format!(".{name}"));
    let written = std::fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| std::fs::rename(&temporary, &path));
    written.map_err(|source| LaunchError::Bundle { path, source })
}

/// The runtime's own reason, where only its words tell: those of runc and crun, which other shims
/// pass on as they are, and which have been the same for years.
pub(super) fn reason_of_words(words: &str) -> Option<&'static str> {
    let has = |text: &str| words.contains(text);
    let is_exec = has("exec: ") || has("exec failed") || has("executable file");
    if has("executable file not found")
        || (is_exec && has("no such file or directory"))
        || has("executable file `") && has("not found")
    {
        Some("COMMAND_NOT_FOUND")
    } else if is_exec
        && (has("permission denied") || has("is a directory") || has("exec format error"))
    {
        Some("COMMAND_NOT_EXECUTABLE")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(dir: &Path) -> Foreign {
        let own = ShimProgram {
            program: "/bin/own".into(),
            namespace: "keg".into(),
            daemon_socket: dir.join("kegd.sock"),
            events_socket: dir.join("events.sock"),
            debug: false,
        };
        let bundle = Bundle::new(dir, &"a".repeat(64));
        bundle.make().unwrap();
        Foreign::new(&own, "/bin/other".into(), &"a".repeat(64), &bundle)
    }

    #[test]
    fn a_bundle_says_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = foreign(dir.path());
        assert!(Foreign::of_bundle(&foreign.own, &foreign.id, &foreign.bundle).is_none());

        foreign.claim().unwrap();

        let found = Foreign::of_bundle(&foreign.own, &foreign.id, &foreign.bundle).unwrap();
        assert_eq!(found.shim.program, Path::new("/bin/other"));
        assert_eq!(found.bootstrap(), None);
        found.unmount().unwrap();
    }

    #[test]
    fn the_socket_of_a_killed_shim_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, file) = (dir.path().join("s"), dir.path().join("f"));
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        std::fs::write(&file, "kept").unwrap();

        for path in [&socket, &file] {
            let address = format!("unix://{}", path.display());
            Bootstrap { version: 2, address, protocol: "ttrpc".into() }.remove_socket();
        }

        assert!(!socket.exists() && file.exists());
    }

    #[test]
    fn a_process_has_a_fifo_for_each_stream_and_a_socket_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = foreign(dir.path());
        let mut stdio = Stdio {
            terminal: false,
            stdin: String::new(),
            stdout: "keg:".into(),
            stderr: "keg:".into(),
        };

        let plain = foreign.fifos("", &stdio);
        stdio.terminal = true;
        stdio.stdin = "keg:".into();
        let terminal = foreign.fifos("e1", &stdio);

        assert!(plain.stdin.is_empty() && plain.stderr.ends_with("/io/init-stderr"));
        assert!(terminal.stderr.is_empty() && terminal.stdin.ends_with("/io/e1-stdin"));
        assert_ne!(foreign.attach_socket(""), foreign.attach_socket("e1"));
    }

    #[test]
    fn the_words_of_runc_and_crun_tell_what_was_wrong_with_a_command() {
        for (words, reason) in [
            (
                "OCI runtime create failed: unable to start container process: exec: \"nope\": \
                 executable file not found in $PATH: unknown",
                Some("COMMAND_NOT_FOUND"),
            ),
            (
                "runc create failed: exec: \"/nope\": stat /nope: no such file or directory: unknown",
                Some("COMMAND_NOT_FOUND"),
            ),
            ("executable file `nope` not found in $PATH: No such file", Some("COMMAND_NOT_FOUND")),
            ("exec: \"/etc/passwd\": permission denied", Some("COMMAND_NOT_EXECUTABLE")),
            ("mount /x: no such file or directory", None),
        ] {
            assert_eq!(reason_of_words(words), reason, "{words}");
        }
    }
}
