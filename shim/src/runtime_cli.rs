//! Calls the OCI runtime: command lines out, errors back.
//!
//! ```text
//! RUNTIME --root R --log F --log-format json [--systemd-cgroup] COMMAND … ID
//! ```
//!
//! keg-runtime may stay after `create`, to do the `start` too: [`standby`].
//!
//! Each call has a log file of its own, so that what one call reports is never taken for what
//! another one did. `keg-runtime` adds a machine-readable `reason` to its entries; for `runc` and
//! `crun`, [`reason_of_text`] is the one place that knows their texts.

mod standby;

use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use keg_proto::containerd::runc::v1::{CheckpointOptions, Options};
use serde::Deserialize;

use crate::bundle::TaskRecord;
use crate::reaper::{Cause, Exit, Pid, Reaper};
use crate::stdio::nonblocking;
use crate::sys::{self, Passed, Program};

use self::standby::Standby;

/// The runtime that is taken when the options name none.
const DEFAULT_RUNTIME: &str = "keg-runtime";

/// Most bytes that are kept of what a runtime prints.
const MAX_OUTPUT_BYTES: usize = 4 << 20;

/// Why the runtime failed, in a word that machines compare: keg-runtime's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason(pub(crate) String);

impl Reason {
    pub(crate) const COMMAND_NOT_FOUND: &'static str = "COMMAND_NOT_FOUND";
    pub(crate) const COMMAND_NOT_EXECUTABLE: &'static str = "COMMAND_NOT_EXECUTABLE";
    pub(crate) const CONTAINER_NOT_FOUND: &'static str = "CONTAINER_NOT_FOUND";
    pub(crate) const CONTAINER_NOT_RUNNING: &'static str = "CONTAINER_NOT_RUNNING";
}

/// Why a call of the runtime did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    #[error(
        "execute the OCI runtime {binary:?}: install it, put it beside the shim or in PATH, or name another one in the runtime options"
    )]
    Execute {
        binary: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{operation}: {message}")]
    Failed { operation: &'static str, message: String, reason: Option<Reason> },
    #[error("{operation}: the runtime was killed by signal {signal}: {message}")]
    Killed { operation: &'static str, signal: i32, message: String },
    #[error("wait for the OCI runtime {binary:?}: its end was not seen")]
    Lost { binary: PathBuf },
    #[error("read what the OCI runtime printed")]
    Output(#[source] io::Error),
    #[error("the OCI runtime printed no list of processes: {text:?}")]
    NoProcessList {
        text: String,
        #[source]
        source: serde_json::Error,
    },
}

impl RuntimeError {
    /// Why the runtime failed, if it or its text says so.
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Failed { reason: Some(reason), .. } => Some(&reason.0),
            _ => None,
        }
    }
}

/// Standard streams for the container's process, which the runtime passes on; `None` is `/dev/null`.
#[derive(Debug, Default)]
pub(crate) struct ChildEnds {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    /// Where the runtime sends a terminal's master instead.
    pub(crate) console_socket: Option<PathBuf>,
}

/// An OCI runtime with its settings.
#[derive(Debug)]
pub(crate) struct Runtime {
    binary: PathBuf,
    root: PathBuf,
    systemd_cgroup: bool,
    no_pivot_root: bool,
    no_new_keyring: bool,
    criu_work_path: PathBuf,
    log_dir: PathBuf,
    calls: Cell<u64>,
    /// What `create` left to do the `start`.
    standby: RefCell<Option<Standby>>,
    reaper: Rc<Reaper>,
}

impl Runtime {
    /// Makes the runtime that `options` ask for, with its state below `daemon_dir`.
    pub(crate) fn new(
        options: &Options,
        daemon_dir: &Path,
        namespace: &str,
        log_dir: &Path,
        reaper: Rc<Reaper>,
    ) -> Self {
        let root = match options.root.as_str() {
            "" => daemon_dir.join("runtime"),
            root => PathBuf::from(root),
        };
        Self {
            binary: find_binary(&options.binary_name),
            root: root.join(namespace),
            systemd_cgroup: options.systemd_cgroup,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            criu_work_path: PathBuf::from(&options.criu_work_path),
            log_dir: log_dir.to_owned(),
            calls: Cell::new(0),
            standby: RefCell::default(),
            reaper,
        }
    }

    /// Makes the runtime that a killed server used.
    pub(crate) fn from_record(record: &TaskRecord, log_dir: &Path, reaper: Rc<Reaper>) -> Self {
        let mut runtime = Self::new(&Options::default(), Path::new("/"), "", log_dir, reaper);
        runtime.binary.clone_from(&record.runtime);
        runtime.root.clone_from(&record.runtime_root);
        runtime.systemd_cgroup = record.systemd_cgroup;
        runtime
    }

    /// What `delete` must know to make the same runtime.
    pub(crate) fn record(&self, exit_record: Option<PathBuf>) -> TaskRecord {
        TaskRecord {
            runtime: self.binary.clone(),
            runtime_root: self.root.clone(),
            systemd_cgroup: self.systemd_cgroup,
            exit_record,
        }
    }

    /// Makes the container. A `root` that is mounted nowhere is for a runtime that [takes it](Self::takes_descriptors).
    pub(crate) async fn create(
        &self,
        id: &str,
        bundle: &Path,
        pid_file: &Path,
        ends: ChildEnds,
        root: Option<OwnedFd>,
    ) -> Result<(), RuntimeError> {
        let mut args = Args::new("create");
        args.option("--bundle", bundle).option("--pid-file", pid_file);
        if self.no_new_keyring {
            args.flag("--no-new-keyring");
        }
        self.creation_flags(&mut args, &ends);
        let (operation, args) = ("OCI runtime create failed", args.finish(id));
        if !self.takes_descriptors() {
            return self.run(operation, args, Some(ends)).await.map(drop);
        }
        let standby = self.create_and_stay(operation, args, ends, root).await?;
        self.standby.replace(standby);
        Ok(())
    }

    pub(crate) async fn restore(
        &self,
        id: &str,
        bundle: &Path,
        pid_file: &Path,
        checkpoint: &Path,
        ends: ChildEnds,
    ) -> Result<(), RuntimeError> {
        let mut args = Args::new("restore");
        args.flag("--detach").flag("--no-subreaper");
        args.option("--image-path", checkpoint);
        let work = self.criu_work_dir("");
        args.option("--work-path", &work);
        args.option("--bundle", bundle).option("--pid-file", pid_file);
        self.creation_flags(&mut args, &ends);
        self.run("OCI runtime restore failed", args.finish(id), Some(ends)).await?;
        self.remove_criu_work_dir(&work);
        Ok(())
    }

    /// Where CRIU works and logs: where someone wants it, else in the bundle, so that the log of a
    /// failure stays as long as that.
    fn criu_work_dir(&self, wanted: &str) -> PathBuf {
        match (wanted, self.criu_work_path.as_os_str().is_empty()) {
            ("", true) => self.log_dir.join("criu-work"),
            ("", false) => self.criu_work_path.clone(),
            (wanted, _) => PathBuf::from(wanted),
        }
    }

    fn remove_criu_work_dir(&self, dir: &Path) {
        if dir.starts_with(&self.log_dir) {
            // It goes with the bundle at the latest.
            let _ = fs::remove_dir_all(dir);
        }
    }

    /// Flags that `create` and `restore` share.
    fn creation_flags(&self, args: &mut Args, ends: &ChildEnds) {
        if self.no_pivot_root {
            args.flag("--no-pivot");
        }
        if let Some(socket) = &ends.console_socket {
            args.option("--console-socket", socket);
        }
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let operation = "OCI runtime start failed";
        let standby = self.standby.take();
        if let Some(standby) = standby
            && standby.start(operation).await?
        {
            return Ok(());
        }
        self.run(operation, Args::new("start").finish(id), None).await.map(drop)
    }

    pub(crate) async fn kill(&self, id: &str, signal: u32, all: bool) -> Result<(), RuntimeError> {
        let mut args = Args::new("kill");
        if all {
            args.flag("--all");
        }
        let mut args = args.finish(id);
        args.push(signal.to_string().into());
        self.run("OCI runtime kill failed", args, None).await.map(drop)
    }

    /// Removes the container, also what an earlier deletion that was killed has left of it.
    pub(crate) async fn delete(&self, id: &str) -> Result<(), RuntimeError> {
        let standby = self.standby.take();
        if let Some(standby) = standby {
            standby.dismiss().await;
        }
        let mut args = Args::new("delete");
        args.flag("--force");
        match self.run("OCI runtime delete failed", args.finish(id), None).await {
            Err(error) if error.reason() == Some(Reason::CONTAINER_NOT_FOUND) => Ok(()),
            other => other.map(drop),
        }
    }

    pub(crate) async fn exec(
        &self,
        id: &str,
        process: &Path,
        pid_file: &Path,
        ends: ChildEnds,
    ) -> Result<(), RuntimeError> {
        let mut args = Args::new("exec");
        args.option("--process", process).flag("--detach").option("--pid-file", pid_file);
        if let Some(socket) = &ends.console_socket {
            args.option("--console-socket", socket);
        }
        self.run("OCI runtime exec failed", args.finish(id), Some(ends)).await.map(drop)
    }

    pub(crate) async fn pause(&self, id: &str) -> Result<(), RuntimeError> {
        let args = Args::new("pause").finish(id);
        self.run("OCI runtime pause failed", args, None).await.map(drop)
    }

    pub(crate) async fn resume(&self, id: &str) -> Result<(), RuntimeError> {
        let args = Args::new("resume").finish(id);
        self.run("OCI runtime resume failed", args, None).await.map(drop)
    }

    /// Changes limits; `resources` is a file with the runtime-spec's object.
    pub(crate) async fn update(&self, id: &str, resources: &Path) -> Result<(), RuntimeError> {
        let mut args = Args::new("update");
        args.option("--resources", resources);
        self.run("OCI runtime update failed", args.finish(id), None).await.map(drop)
    }

    /// Lists the processes of the container.
    pub(crate) async fn processes(&self, id: &str) -> Result<Vec<u32>, RuntimeError> {
        let mut args = Args::new("ps");
        args.option("--format", "json");
        let printed = self.run("OCI runtime ps failed", args.finish(id), None).await?;
        // An empty container may be printed as nothing or as "null".
        let list: Option<Vec<u32>> = match printed.trim_ascii() {
            b"" => None,
            json => serde_json::from_slice(json).map_err(|source| {
                let text = String::from_utf8_lossy(json).into_owned();
                RuntimeError::NoProcessList { text, source }
            })?,
        };
        Ok(list.unwrap_or_default())
    }

    pub(crate) async fn checkpoint(
        &self,
        id: &str,
        image: &Path,
        options: &CheckpointOptions,
    ) -> Result<(), RuntimeError> {
        let mut args = Args::new("checkpoint");
        args.option("--image-path", image);
        let work = self.criu_work_dir(&options.work_path);
        args.option("--work-path", &work);
        if !options.parent_path.is_empty() {
            args.option("--parent-path", &options.parent_path);
        }
        for (wanted, name) in [
            (!options.exit, "--leave-running"),
            (options.open_tcp, "--tcp-established"),
            (options.external_unix_sockets, "--ext-unix-sk"),
            (options.terminal, "--shell-job"),
            (options.file_locks, "--file-locks"),
        ] {
            if wanted {
                args.flag(name);
            }
        }
        for namespace in &options.empty_namespaces {
            args.option("--empty-ns", namespace);
        }
        if !options.cgroups_mode.is_empty() {
            args.option("--manage-cgroups-mode", &options.cgroups_mode);
        }
        self.run("OCI runtime checkpoint failed", args.finish(id), None).await?;
        self.remove_criu_work_dir(&work);
        Ok(())
    }

    /// Runs one command to its end and returns what it printed.
    ///
    /// With `ends`, the standard streams are the container's, and nothing is returned. Such a call
    /// makes something, so it ends with the shim: `delete`, which comes after a shim that was killed,
    /// must not be overtaken by it. The process is not killed if the future is dropped: it ends by
    /// itself, and its log stays.
    async fn run(
        &self,
        operation: &'static str,
        args: Vec<OsString>,
        ends: Option<ChildEnds>,
    ) -> Result<Vec<u8>, RuntimeError> {
        let log = self.new_log();
        // Taken when there is no container to give the streams to.
        let mut output = None;
        let makes = ends.is_some();
        let ends = match ends {
            Some(ends) => ends,
            None => {
                let (reader, writer) = io::pipe().map_err(RuntimeError::Output)?;
                let errors = writer.try_clone().map_err(RuntimeError::Output)?;
                output = Some(nonblocking(OwnedFd::from(reader)).map_err(RuntimeError::Output)?);
                let (stdout, stderr) = (Some(writer.into()), Some(errors.into()));
                ChildEnds { stdout, stderr, ..ChildEnds::default() }
            }
        };
        let pid = self.spawn(self.command_line(&log, args), &ends, &[], makes)?;
        // With the children's ends of all pipes: their closing is to be seen.
        drop(ends);
        let exited = self.reaper.watch(pid);
        let mut printed = Vec::new();
        let lost = || RuntimeError::Lost { binary: self.binary.clone() };
        let exit = match &output {
            None => exited.await.map_err(|_| lost())?,
            Some(output) => read_until_exit(output, exited, &mut printed).await.ok_or_else(lost)?,
        };
        let failure = match exit.cause {
            Cause::Code(0) => None,
            _ => Some(explain(operation, &log, &printed, exit)),
        };
        // Most calls leave no log; one that stays goes with the bundle.
        let _ = fs::remove_file(&log);
        failure.map_or(Ok(printed), Err)
    }
}

impl Runtime {
    fn new_log(&self) -> PathBuf {
        let call = self.calls.get();
        self.calls.set(call + 1);
        self.log_dir.join(format!("log.{call}.json"))
    }

    fn command_line(&self, log: &Path, command: Vec<OsString>) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["--root".into(), self.root.clone().into()].into();
        words.extend(["--log".into(), log.into(), "--log-format".into(), "json".into()]);
        if self.systemd_cgroup {
            words.push("--systemd-cgroup".into());
        }
        words.extend(command);
        words
    }

    fn spawn(
        &self,
        args: Vec<OsString>,
        ends: &ChildEnds,
        passed: &[Passed<'_>],
        ends_with_parent: bool,
    ) -> Result<Pid, RuntimeError> {
        let failed = |source| RuntimeError::Execute { binary: self.binary.clone(), source };
        let null = fs::File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
        let streams = [&ends.stdin, &ends.stdout, &ends.stderr]
            .map(|end| end.as_ref().map_or(null.as_fd(), AsFd::as_fd));
        let path = self.binary.clone();
        let program = Program { path, args, streams, passed, ends_with_parent };
        sys::spawn(program).map(Pid).map_err(failed)
    }
}

/// Collects what a runtime prints until it ends, however long others keep its pipe open.
async fn read_until_exit(
    output: &tokio::io::unix::AsyncFd<OwnedFd>,
    exited: tokio::sync::oneshot::Receiver<Exit>,
    printed: &mut Vec<u8>,
) -> Option<Exit> {
    let mut piece = [0; 1024];
    let mut exited = std::pin::pin!(exited);
    let mut open = true;
    let exit = loop {
        tokio::select! {
            biased;
            exit = &mut exited => break exit.ok()?,
            read = output.async_io(tokio::io::Interest::READABLE, |fd| Ok(nix::unistd::read(fd, &mut piece)?)), if open => {
                match read {
                    Ok(count @ 1..) => keep(printed, &piece[..count]),
                    _ => open = false,
                }
            }
        }
    };
    while let Ok(count @ 1..) = nix::unistd::read(output.get_ref(), &mut piece) {
        keep(printed, &piece[..count]);
    }
    Some(exit)
}

fn keep(printed: &mut Vec<u8>, piece: &[u8]) {
    let room = MAX_OUTPUT_BYTES.saturating_sub(printed.len());
    printed.extend_from_slice(&piece[..piece.len().min(room)]);
}

/// Builds a command's arguments.
struct Args(Vec<OsString>);

impl Args {
    fn new(command: &str) -> Self {
        Self(vec![command.into()])
    }

    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.into());
        self
    }

    fn option(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.0.push(name.into());
        self.0.push(value.as_ref().to_owned());
        self
    }

    fn finish(self, id: &str) -> Vec<OsString> {
        let mut args = self.0;
        args.push(id.into());
        args
    }
}

/// Finds the runtime: the path that is named, else the name beside the shim, else in PATH.
pub(crate) fn find_binary(name: &str) -> PathBuf {
    let name = if name.is_empty() { DEFAULT_RUNTIME } else { name };
    if !name.contains('/')
        && let Ok(shim) = std::env::current_exe()
        && let Some(dir) = shim.parent()
    {
        let beside = dir.join(name);
        if beside.is_file() {
            return beside;
        }
    }
    PathBuf::from(name)
}

/// One line of a runtime's log.
#[derive(Debug, Deserialize)]
struct LogEntry {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    reason: Option<String>,
}

/// Turns what a failed runtime left into an error: its last logged error, else what it printed,
/// else how it ended.
fn explain(operation: &'static str, log: &Path, printed: &[u8], exit: Exit) -> RuntimeError {
    let log = fs::read(log).unwrap_or_default();
    let (message, reason) = last_error(&log).unwrap_or_else(|| {
        let printed = String::from_utf8_lossy(printed);
        match (printed.trim(), exit.cause) {
            ("", Cause::Code(code)) => (format!("it ended with exit status {code}"), None),
            ("", Cause::Signal(_)) => ("it said nothing".to_owned(), None),
            (text, _) => (text.to_owned(), None),
        }
    });
    if let Cause::Signal(signal) = exit.cause {
        return RuntimeError::Killed { operation, signal, message };
    }
    let reason = reason.or_else(|| reason_of_text(&message).map(str::to_owned)).map(Reason);
    RuntimeError::Failed { operation, message, reason }
}

/// Returns text and reason of the last error in a runtime's log.
fn last_error(log: &[u8]) -> Option<(String, Option<String>)> {
    let entries = log.split(|octet| *octet == b'\n');
    let entries = entries.filter_map(|line| serde_json::from_slice::<LogEntry>(line).ok());
    let mut errors = entries.filter(|entry| entry.level == "error" || entry.level == "fatal");
    errors.next_back().map(|entry| (entry.msg.trim().to_owned(), entry.reason))
}

/// Recognizes the texts of runc and crun, which have no reasons of their own.
fn reason_of_text(message: &str) -> Option<&'static str> {
    let has = |text: &str| message.contains(text);
    let executes = has("exec: \"") || has("executable") || has("exec user process");
    if has("does not exist") || has("error opening file `/run/") {
        Some(Reason::CONTAINER_NOT_FOUND)
    } else if has("process already finished")
        || has("container not running")
        || has("is not running")
        || has("no such process")
        || has("No such process")
    {
        Some(Reason::CONTAINER_NOT_RUNNING)
    } else if has("executable file not found in $PATH")
        || has("not found in $PATH")
        || (executes && (has("no such file or directory") || has("No such file or directory")))
    {
        Some(Reason::COMMAND_NOT_FOUND)
    } else if executes
        && (has("permission denied")
            || has("Permission denied")
            || has("is a directory")
            || has("exec format error")
            || has("Exec format error"))
    {
        Some(Reason::COMMAND_NOT_EXECUTABLE)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_runtimes_own_reason_wins_over_its_text() {
        let log = br#"{"level":"warning","msg":"w"}
{"level":"error","msg":"first"}
{"level":"error","msg":"exec: \"x\": executable file not found in $PATH","reason":"MOUNT_FAILED"}
not json
"#;

        let (message, reason) = last_error(log).unwrap();

        assert!(message.starts_with("exec:"));
        assert_eq!(reason.as_deref(), Some("MOUNT_FAILED"));
        assert_eq!(last_error(b""), None);
    }

    #[test]
    fn texts_of_runc_and_crun_have_reasons() {
        for (text, reason) in [
            (
                r#"runc create failed: unable to start container process: exec: "nope": executable file not found in $PATH"#,
                Some(Reason::COMMAND_NOT_FOUND),
            ),
            (
                r#"runc create failed: unable to start container process: exec: "/nope": stat /nope: no such file or directory"#,
                Some(Reason::COMMAND_NOT_FOUND),
            ),
            (
                "executable file `nope` not found in $PATH: No such file or directory",
                Some(Reason::COMMAND_NOT_FOUND),
            ),
            (
                r#"runc create failed: unable to start container process: exec: "/etc": permission denied"#,
                Some(Reason::COMMAND_NOT_EXECUTABLE),
            ),
            ("open executable: Permission denied", Some(Reason::COMMAND_NOT_EXECUTABLE)),
            ("container does not exist", Some(Reason::CONTAINER_NOT_FOUND)),
            ("os: process already finished", Some(Reason::CONTAINER_NOT_RUNNING)),
            ("container not running", Some(Reason::CONTAINER_NOT_RUNNING)),
            ("error mounting /x: no such file or directory", None),
        ] {
            assert_eq!(reason_of_text(text), reason, "{text}");
        }
    }

    #[test]
    fn a_silent_failure_says_how_the_runtime_ended() {
        let at = SystemTime::UNIX_EPOCH;
        let killed = Exit { cause: Cause::Signal(9), at };

        let error = explain("OCI runtime start failed", Path::new("/nonexistent"), b" ", killed);

        assert_eq!(
            error.to_string(),
            "OCI runtime start failed: the runtime was killed by signal 9: it said nothing"
        );
    }
}
