//! Why a start failed, in words: what a step's number and the plan say together.

use std::path::PathBuf;

use nix::errno::Errno;

use super::failure::{Failure, ProgramFault, Step, describe_program};
use super::idmap::IdMapError;
use super::joining::JoinError;
use super::message::ParentEnd;
use crate::cgroup::CgroupError;
use crate::console::ConsoleError;
use crate::hooks::{self, HookError};
use crate::net_devices::NetDeviceError;
use crate::plan::ContainerPlan;
use crate::plan::process::ProcessPlan;
use crate::security::lsm::LabelError;
use crate::security::rlimits::{RlimitError, RlimitFailure};
use crate::security::seccomp::SeccompError;

/// Why a container could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The host's `/proc` is not what it must be.
    #[error("/proc is not procfs: the runtime needs the host's own")]
    Procfs(#[source] Errno),
    /// A namespace cannot be joined.
    #[error(transparent)]
    Join(JoinError),
    /// Ids cannot be mapped.
    #[error(transparent)]
    IdMap(IdMapError),
    /// The cgroup cannot be entered.
    #[error(transparent)]
    Cgroup(CgroupError),
    /// The filter of system calls cannot be had.
    #[error(transparent)]
    Seccomp(SeccompError),
    /// The security label cannot be had.
    #[error(transparent)]
    Label(LabelError),
    /// The terminal has no receiver.
    #[error(transparent)]
    Console(ConsoleError),
    /// The supervisor of a notifying filter cannot be reached.
    #[error("connect to linux.seccomp.listenerPath {path:?}")]
    Listener {
        /// Its socket.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The process could not be made.
    #[error("create the container's process (clone3){}", namespaces_hint(*errno))]
    Clone {
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The runtime itself lacks something.
    #[error("{what}")]
    Host {
        /// What it attempted.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// A hook that runs outside failed. The words are runc's, which people look for.
    #[error("error running {kind} hook #{index}")]
    Hook {
        /// `prestart` or `createRuntime`.
        kind: &'static str,
        /// Which of them.
        index: usize,
        /// How.
        #[source]
        source: HookError,
    },
    /// A hook that runs inside failed.
    #[error(
        "error running {kind} hook #{index}: the hook {path:?} failed: {how}{}",
        hooks::with_words(said)
    )]
    InnerHook {
        /// `createContainer` or `startContainer`.
        kind: &'static str,
        /// Which of them.
        index: u16,
        /// The program.
        path: PathBuf,
        /// How it ended.
        how: String,
        /// What it wrote to its standard error.
        said: String,
    },
    /// A network device cannot be moved in.
    #[error(transparent)]
    NetDevice(NetDeviceError),
    /// A resource limit cannot be set.
    #[error(transparent)]
    Limit(RlimitError),
    /// A step inside failed.
    #[error("{what}")]
    Step {
        /// The step with its operand.
        what: String,
        /// Which step.
        step: Step,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The program cannot be run.
    #[error("unable to start container process: {what}")]
    Program {
        /// runc's sentence, which other programs look for.
        what: String,
        /// What kind of fault.
        fault: ProgramFault,
    },
    /// Init ended without a word.
    #[error("the container's process ended while it was set up: {how}")]
    Died {
        /// How.
        how: String,
    },
}

fn namespaces_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => ": new namespaces need root, or a new user namespace in linux.namespaces",
        Errno::ENOSPC => ": a limit below /proc/sys/user is reached",
        Errno::EAGAIN => ": the limit of processes is reached",
        _ => "",
    }
}

/// Puts into words a failure that came over `channel`, with what a failed hook said.
#[must_use]
pub fn told_error(channel: &ParentEnd, failure: Failure, plan: &ContainerPlan) -> LaunchError {
    match step_error(failure, plan) {
        LaunchError::InnerHook { kind, index, path, how, .. } => {
            let said = channel.receive_words();
            LaunchError::InnerHook { kind, index, path, how, said }
        }
        error => error,
    }
}

/// Puts a failure of init into words.
#[must_use]
pub fn step_error(failure: Failure, plan: &ContainerPlan) -> LaunchError {
    process_error(failure, plan, &plan.process)
}

/// Puts a failure of the container's `process` into words, which is init or a further one.
#[must_use]
pub fn process_error(failure: Failure, plan: &ContainerPlan, process: &ProcessPlan) -> LaunchError {
    let (kind, list) = match failure.step {
        Step::FindProgram | Step::Exec => {
            let (what, fault) = describe_program(failure, process);
            return LaunchError::Program { what, fault };
        }
        Step::Rlimits => {
            return explain_limit(failure, process, plan);
        }
        Step::Chdir => {
            let what = format!("{} {:?}", failure.describe(Some(plan)), process.cwd);
            let errno = Errno::from_raw(failure.errno);
            return LaunchError::Step { what, step: failure.step, errno };
        }
        Step::Namespaces => {
            let errno = Errno::from_raw(failure.errno);
            let what = failure.describe(Some(plan)) + namespaces_hint(errno);
            return LaunchError::Step { what, step: failure.step, errno };
        }
        Step::CreateContainerHook => ("createContainer", plan.hooks.create_container()),
        Step::StartContainerHook => ("startContainer", plan.hooks.start_container()),
        step => {
            let what = failure.describe(Some(plan));
            return LaunchError::Step { what, step, errno: Errno::from_raw(failure.errno) };
        }
    };
    LaunchError::InnerHook {
        kind,
        index: failure.index,
        path: list
            .iter()
            .flatten()
            .nth(usize::from(failure.index))
            .map(|hook| hook.path().clone())
            .unwrap_or_default(),
        how: hooks::describe_code(failure.errno),
        said: String::new(),
    }
}

/// Says which limit is in the way, and what would be possible.
fn explain_limit(failure: Failure, process: &ProcessPlan, plan: &ContainerPlan) -> LaunchError {
    let errno = Errno::from_raw(failure.errno);
    let refused = RlimitFailure { index: usize::from(failure.index), errno };
    match process.rlimits.explain(refused) {
        Some(error) => LaunchError::Limit(error),
        None => {
            let what = failure.describe(Some(plan));
            LaunchError::Step { what, step: failure.step, errno }
        }
    }
}
