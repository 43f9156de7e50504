//! The filter of system calls: from a profile to a program in the kernel.
//!
//! ```text
//! profile ─▶ hash ─▶ cache ── hit ───────────────────────────────▶ Program ─▶ seccomp(2)
//!                      └── miss ─▶ compile (per architecture) ─▶ join ─┘  └─▶ listener ─▶ agent
//! ```
//!
//! libseccomp knows the system calls of each architecture and compiles them; it takes milliseconds,
//! which is longer than all else that a start does. So a compiled program is kept, in a directory
//! that only its owner can write, and loaded by our own call to seccomp(2).
//!
//! Invariant: a cached program is used only if it is whole, ours, and made from exactly this profile
//! by exactly this version of both programs.

mod cache;
mod compile;
mod join;
mod known;
mod shorten;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction};

use crate::sys::seccomp::{self as kernel, Instruction, flag};
use cache::Cache;
pub use known::{ACTIONS, OPERATORS, architectures, known_flags, supported_flags};
use shorten::Fate;

/// This machine's architecture, as `struct seccomp_data` has it.
const NATIVE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(Arch::ScmpArchX86_64 as u32)
} else if cfg!(target_arch = "aarch64") {
    Some(Arch::ScmpArchAarch64 as u32)
} else {
    None
};

/// A filter, ready to be loaded.
#[derive(Clone)]
pub struct Program {
    instructions: Vec<Instruction>,
    flags: libc::c_ulong,
    listener: Option<Listener>,
}

/// To whom the descriptor goes on which the kernel asks about system calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The socket of the agent that decides.
    pub path: PathBuf,
    /// What the bundle wants the agent to be told, opaque to us.
    pub metadata: Option<String>,
}

/// Why a profile cannot become a filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The profile contradicts itself or the specification.
    #[error("linux.seccomp{at}: {why}")]
    Profile {
        /// The field, with a dot or an index before it; empty for the profile itself.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel lacks something that the profile wants.
    #[error(
        "linux.seccomp.{field}: this kernel does not know {what}; drop it, or use a newer kernel"
    )]
    KernelLacks {
        /// The field.
        field: &'static str,
        /// What it lacks.
        what: String,
    },
    /// An architecture that cannot be filtered here.
    #[error(
        "linux.seccomp.architectures: {arch} cannot be filtered on this machine (`features` lists what can); leave it out"
    )]
    Architecture {
        /// Its name.
        arch: String,
        /// The library's answer.
        #[source]
        cause: libseccomp::error::SeccompError,
    },
    /// libseccomp failed.
    #[error("linux.seccomp{at}: {step}")]
    Compile {
        /// The field, as above.
        at: String,
        /// What was attempted.
        step: &'static str,
        /// The library's answer.
        #[source]
        cause: libseccomp::error::SeccompError,
    },
    /// The compiled program could not be taken over from libseccomp.
    #[error("linux.seccomp: take the compiled program over")]
    Export(#[source] Errno),
    /// The program is longer than the kernel takes.
    #[error(
        "linux.seccomp: the profile compiles to {instructions} instructions, but the kernel takes no \
         more than {max}; name fewer architectures or fewer conditions",
        max = kernel::INSTRUCTIONS_MAX
    )]
    TooLong {
        /// Its length.
        instructions: usize,
    },
}

impl SeccompError {
    fn profile(at: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Profile { at: at.into(), why: why.into() }
    }
}

impl Program {
    /// Compiles a profile, or finds it compiled in `cache_dir`, a directory that is made if need be.
    ///
    /// A cache that cannot be used, for whatever reason, is no error: it saves time and nothing else.
    ///
    /// # Errors
    /// [`SeccompError`], with the field of the profile.
    pub fn prepare(profile: &LinuxSeccomp, cache_dir: Option<&Path>) -> Result<Self, SeccompError> {
        let listener = listener_of(profile)?;
        let flags = flags_of(profile, listener.is_some())?;
        let key = cache::key_of(profile);
        let cache = cache_dir.and_then(Cache::open);
        let cached = cache.as_ref().and_then(|cache| cache.find(&key));
        let instructions = match cached {
            Some(instructions) => instructions,
            None => {
                let instructions = compile::compile(profile)?;
                if let Some(cache) = cache {
                    cache.keep(&key, &instructions);
                }
                instructions
            }
        };
        Ok(Self { instructions, flags, listener })
    }

    /// Loads the filter for this process. Allocates nothing.
    ///
    /// The descriptor, if there is one, belongs to the agent: see [`Program::listener`].
    ///
    /// # Errors
    /// `EACCES` if the process has neither no_new_privs nor CAP_SYS_ADMIN.
    pub fn load(&self) -> Result<Option<OwnedFd>, Errno> {
        kernel::load(&self.instructions, self.flags)
    }

    /// Whether the filter lets these system calls of this machine pass, whatever their arguments. It says
    /// no where that cannot be told.
    pub fn lets_pass(&self, numbers: &[libc::c_long]) -> bool {
        let passes = |&number: &libc::c_long| {
            let fate = shorten::fate(&self.instructions, NATIVE?, u32::try_from(number).ok()?)?;
            (fate == Fate::Return(libc::SECCOMP_RET_ALLOW)).then_some(())
        };
        numbers.iter().all(|number| passes(number).is_some())
    }

    /// The program as the kernel reads it: an array of `struct sock_filter`.
    pub fn to_bytes(&self) -> Vec<u8> {
        join::encode(&self.instructions)
    }

    /// The agent that must get the descriptor, if a rule of the profile notifies one.
    pub fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("instructions", &self.instructions.len())
            .field("flags", &format_args!("{:#x}", self.flags))
            .field("listener", &self.listener)
            .finish()
    }
}

/// The agent of a profile that notifies one; a socket that nobody would use is ignored.
fn listener_of(profile: &LinuxSeccomp) -> Result<Option<Listener>, SeccompError> {
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        let why =
            "SCMP_ACT_NOTIFY cannot be the default: the process could not even be handed over";
        return Err(SeccompError::profile(".defaultAction", why));
    }
    let mut notifies = false;
    for (index, rule) in profile.syscalls().iter().flatten().enumerate() {
        if rule.action() != LinuxSeccompAction::ScmpActNotify {
            continue;
        }
        notifies = true;
        // The descriptor is handed over by these, after the filter is in force.
        if let Some(name) = rule.names().iter().find(|name| *name == "write" || *name == "sendmsg")
        {
            let why = format!("SCMP_ACT_NOTIFY cannot be used for {name}: the runtime needs it");
            return Err(SeccompError::profile(format!(".syscalls[{index}]"), why));
        }
    }
    let has_path =
        profile.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    if !has_path && profile.listener_metadata().as_ref().is_some_and(|text| !text.is_empty()) {
        let why = "must not be set without listenerPath";
        return Err(SeccompError::profile(".listenerMetadata", why));
    }
    match profile.listener_path() {
        Some(path) if notifies && !path.as_os_str().is_empty() => {
            Ok(Some(Listener { path: path.clone(), metadata: profile.listener_metadata().clone() }))
        }
        _ if notifies => {
            let why = "SCMP_ACT_NOTIFY needs the socket of an agent that is notified";
            Err(SeccompError::profile(".listenerPath", why))
        }
        _ => Ok(None),
    }
}

fn flags_of(profile: &LinuxSeccomp, listens: bool) -> Result<libc::c_ulong, SeccompError> {
    let mut flags = 0;
    for &named in profile.flags().iter().flatten() {
        flags |= match known::bit(named) {
            flag::TSYNC if listens => flag::TSYNC | flag::TSYNC_ESRCH,
            // Without notifications there is nothing to wait for, and the kernel refuses the flag.
            flag::WAIT_KILLABLE_RECV if !listens => 0,
            bit => bit,
        };
    }
    if listens {
        flags |= flag::NEW_LISTENER;
    }
    if flags != 0 && !kernel::knows_flags(flags) {
        let what = format!("all of {:?}", profile.flags().as_deref().unwrap_or_default());
        return Err(SeccompError::KernelLacks { field: "flags", what });
    }
    Ok(flags)
}

#[cfg(test)]
mod tests;
