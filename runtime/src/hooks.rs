//! Hooks: programs of the bundle's author that run at fixed points of a container's life
//! (runtime-spec, config.md, "POSIX-platform Hooks").
//!
//! ```text
//! create   prestart, createRuntime    runtime's namespaces   root not changed yet
//!          createContainer            container's            root not changed yet
//! start    startContainer             container's            inside the new root
//!          poststart                  runtime's              program is running
//! delete   poststop                   runtime's              container is gone
//! ```
//!
//! Each gets the container's state on its standard input, and the environment that it names; one that
//! names none gets that of the process it runs beside, as runc's do.

use std::ffi::{CString, OsStr};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Hook;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How much of what a failed hook says is repeated, in bytes.
const MAX_WORDS_BYTES: usize = 4096;

/// Why a hook did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be started.
    #[error("start the hook {path:?}")]
    Start {
        /// The program.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It could not be waited for or fed.
    #[error("talk to the hook {path:?}")]
    Talk {
        /// The program.
        path: PathBuf,
        /// Why not.
        #[source]
        errno: Errno,
    },
    /// It ended with something else than success.
    #[error("the hook {path:?} failed: {}{}", describe_status(*status), with_words(said))]
    Failed {
        /// The program.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to its standard error.
        said: String,
    },
    /// It took too long and was killed.
    #[error("the hook {path:?} ran longer than its timeout of {timeout_secs} s and was killed")]
    TimedOut {
        /// The program.
        path: PathBuf,
        /// The limit.
        timeout_secs: i64,
    },
}

impl HookError {
    /// Returns the wait status, or the error number below zero: what fits through the protocol of
    /// a start.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Start { source, .. } => -source.raw_os_error().unwrap_or(Errno::EIO as i32),
            Self::Talk { errno, .. } => -(*errno as i32),
            Self::Failed { status, .. } => status.into_raw(),
            Self::TimedOut { .. } => -(Errno::ETIMEDOUT as i32),
        }
    }

    /// Returns what the hook wrote to its standard error before it failed.
    #[must_use]
    pub fn said(&self) -> &str {
        match self {
            Self::Failed { said, .. } => said,
            Self::Start { .. } | Self::Talk { .. } | Self::TimedOut { .. } => "",
        }
    }
}

/// Returns what a failed hook said, as the end of a sentence; nothing if it said nothing.
#[must_use]
pub fn with_words(said: &str) -> String {
    let said = said.trim();
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// Returns what a [`HookError::code`] means, in words.
#[must_use]
pub fn describe_code(code: i32) -> String {
    if code < 0 {
        Errno::from_raw(-code).desc().to_owned()
    } else {
        describe_status(ExitStatus::from_raw(code))
    }
}

/// A hook inside is bound by the container's filter; that it died of it is not easily guessed.
fn describe_status(status: ExitStatus) -> String {
    if status.signal() == Some(libc::SIGSYS) {
        format!("{status}: bad system call, which linux.seccomp does not allow")
    } else {
        status.to_string()
    }
}

/// What the hooks of one kind have in common.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The container's state, for the standard input.
    pub state: &'a [u8],
    /// The working directory; one that is gone is replaced by the root.
    pub directory: &'a Path,
    /// What a hook without an environment of its own gets; `None` stands for the caller's.
    pub environment: Option<&'a [CString]>,
}

impl<'a> Surroundings<'a> {
    /// Returns those of a hook that runs beside the runtime.
    #[must_use]
    pub fn of_runtime(state: &'a [u8], bundle: &'a Path) -> Self {
        Self { state, directory: bundle, environment: None }
    }
}

/// Runs `hooks` one after the other; stops at the first that fails, and returns its position with
/// the error.
///
/// # Errors
/// [`HookError`] of the hook that failed.
pub fn run_all(hooks: &[Hook], surroundings: Surroundings<'_>) -> Result<(), (usize, HookError)> {
    hooks
        .iter()
        .enumerate()
        .try_for_each(|(index, hook)| run(hook, surroundings).map_err(|error| (index, error)))
}

/// Runs one hook to its end.
///
/// # Errors
/// [`HookError`]; a hook that exceeds its timeout is killed first.
pub fn run(hook: &Hook, surroundings: Surroundings<'_>) -> Result<(), HookError> {
    let Surroundings { state, directory, environment } = surroundings;
    let path = hook.path().clone();
    let mut command = Command::new(&path);
    command.current_dir(if directory.is_dir() { directory } else { Path::new("/") });
    let mut args = hook.args().iter().flatten();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    match (hook.env(), environment) {
        (Some(own), _) => set_env(&mut command, own.iter().map(String::as_bytes)),
        (None, Some(of_process)) => {
            set_env(&mut command, of_process.iter().map(|variable| variable.as_bytes()));
        }
        (None, None) => {}
    }
    let mut child =
        command.spawn().map_err(|source| HookError::Start { path: path.clone(), source })?;
    let talk = |error: std::io::Error| HookError::Talk {
        path: path.clone(),
        errno: Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A state fits into a pipe's buffer, so this cannot block; a hook that does not read it
        // closes the pipe, which is its right.
        match stdin.write_all(state) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(talk(error));
            }
            _ => {}
        }
    }
    let deadline = hook
        .timeout()
        .and_then(|secs| u64::try_from(secs).ok())
        .map(|secs| Instant::now() + Duration::from_secs(secs));
    let said = match watch(&mut child, deadline) {
        Ok(Some(said)) => said,
        Ok(None) => {
            // Gone or not: the wait below tells.
            let _ = child.kill();
            child.wait().map_err(talk)?;
            let timeout_secs = hook.timeout().unwrap_or_default();
            return Err(HookError::TimedOut { path, timeout_secs });
        }
        Err(errno) => return Err(HookError::Talk { path, errno }),
    };
    let status = child.wait().map_err(talk)?;
    if status.success() { Ok(()) } else { Err(HookError::Failed { path, status, said }) }
}

fn set_env<'a>(command: &mut Command, variables: impl Iterator<Item = &'a [u8]>) {
    command.env_clear();
    for variable in variables {
        if let Some(at) = variable.iter().position(|byte| *byte == b'=') {
            let (name, value) = (&variable[..at], &variable[at + 1..]);
            command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
        }
    }
}

/// Collects what the hook says until it ends; `None` when the deadline comes first.
fn watch(child: &mut Child, deadline: Option<Instant>) -> Result<Option<String>, Errno> {
    let raw = |error: rustix::io::Errno| Errno::from_raw(error.raw_os_error());
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(|_| Errno::EINVAL)?)
        .ok_or(Errno::EINVAL)?;
    let ended = pidfd_open(pid, PidfdFlags::empty()).map_err(raw)?;
    let mut stderr = child.stderr.take();
    let mut said = Vec::new();
    loop {
        let timeout =
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => PollTimeout::NONE,
                Some(Duration::ZERO) => return Ok(None),
                // Rounded up, so that the deadline has passed when the poll returns.
                Some(left) => PollTimeout::try_from(left.as_millis().saturating_add(1))
                    .unwrap_or(PollTimeout::MAX),
            };
        let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        if let Some(stderr) = &stderr {
            fds.push(PollFd::new(stderr.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let has_ended = fds[0].any().unwrap_or(false);
        let has_words = fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false));
        if has_words && let Some(pipe) = &mut stderr {
            let mut buffer = [0; 1024];
            match pipe.read(&mut buffer) {
                Ok(0) | Err(_) => stderr = None,
                Ok(count) => {
                    let room = MAX_WORDS_BYTES.saturating_sub(said.len()).min(count);
                    said.extend_from_slice(&buffer[..room]);
                }
            }
        } else if has_ended {
            return Ok(Some(String::from_utf8_lossy(&said).into_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(state: &[u8]) -> Surroundings<'_> {
        Surroundings::of_runtime(state, Path::new("/"))
    }

    fn shell(script: &str, timeout: Option<i64>) -> Hook {
        let timeout = timeout.map(|secs| format!(r#","timeout":{secs}"#)).unwrap_or_default();
        let args = serde_json::to_string(&["sh", "-c", script]).unwrap();
        serde_json::from_str(&format!(
            r#"{{"path":"/bin/sh","args":{args},"env":["ONLY=this"]{timeout}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn the_state_arrives_on_standard_input_and_the_environment_is_the_hooks_own() {
        let hook = shell(
            r#"read -r state; [ "$state" = "{}" ] && [ "$ONLY" = this ] && [ -z "$CARGO" ]"#,
            None,
        );

        assert!(run(&hook, plain(b"{}\n")).is_ok());
    }

    #[test]
    fn a_hook_without_an_environment_gets_that_of_its_surroundings() {
        let hook: Hook = serde_json::from_value(serde_json::json!({
            "path": "/bin/sh", "args": ["sh", "-c", r#"[ "$A" = "b=c" ] && [ -z "$CARGO" ]"#],
        }))
        .unwrap();
        let environment = [c"A=b=c".to_owned()];

        let of_process = Surroundings { environment: Some(&environment), ..plain(b"") };

        assert!(run(&hook, of_process).is_ok());
        assert!(run(&hook, plain(b"")).is_err(), "the caller's own has no such variable");
    }

    #[test]
    fn a_failure_carries_the_status_and_the_words() {
        let error = run(&shell("echo no luck >&2; exit 3", None), plain(b"")).unwrap_err();

        assert!(error.to_string().ends_with("exit status: 3: no luck"), "{error}");
        assert_eq!(describe_code(error.code()), "exit status: 3");
    }

    #[test]
    fn a_hook_that_a_filter_has_killed_says_so() {
        let error = run(&shell("kill -SYS $$", None), plain(b"")).unwrap_err();

        assert!(error.to_string().contains("bad system call"), "{error}");
        assert!(describe_code(error.code()).contains("linux.seccomp"), "{error}");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let before = Instant::now();

        let error = run(&shell("exec sleep 60", Some(1)), plain(b"")).unwrap_err();

        assert!(matches!(error, HookError::TimedOut { timeout_secs: 1, .. }), "{error}");
        assert!(before.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_hook_that_leaves_its_output_open_to_others_is_not_waited_for() {
        let before = Instant::now();

        run(&shell("sleep 20 & exit 0", None), plain(b"")).unwrap();

        assert!(before.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn a_missing_program_is_named() {
        let hook: Hook = serde_json::from_str(r#"{"path":"/nonexistent/hook"}"#).unwrap();

        let error = run(&hook, plain(b"")).unwrap_err();

        assert_eq!(error.to_string(), r#"start the hook "/nonexistent/hook""#);
        assert_eq!(error.code(), -2);
    }
}
