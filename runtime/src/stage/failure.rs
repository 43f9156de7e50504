//! How a step that fails inside the container is told to the runtime outside: by step, operand
//! and error number, never by prose. The parent holds the plan and finds the words.

use nix::errno::Errno;

use crate::plan::ContainerPlan;
use crate::plan::mounts::MountSource;
use crate::plan::process::ProcessPlan;
use crate::sys::AsErrno;

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a process of a start was doing. `{}` in a text stands for the operand.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Step {
            $($(#[$doc])* $name,)*
        }

        impl Step {
            const ALL: &[Self] = &[$(Self::$name,)*];

            fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

steps! {
    /// Talking to the parent.
    Protocol = "talk to the runtime",
    /// Entering the cgroup.
    EnterCgroup = "enter the cgroup",
    /// setns(2) of `namespaces.joined[index]`.
    JoinNamespace = "join the {} namespace",
    /// setns(2) of a running container's namespaces.
    JoinContainer = "join the container's namespaces",
    /// clone3(2) of the second process, where a user namespace is joined.
    CloneInit = "create the process in the joined user namespace",
    /// unshare(2) of the namespaces that init makes itself.
    Namespaces = "create the container's namespaces (unshare)",
    /// unshare(2) of the cgroup namespace.
    CgroupNamespace = "create the cgroup namespace",
    /// unshare(2) of the time namespace and its offsets.
    TimeNamespace = "set up the time namespace (linux.timeOffsets)",
    /// Becoming root of the user namespace.
    BecomeRoot = "become root in the user namespace",
    /// setsid(2).
    Session = "create a session",
    /// The session keyring.
    Keyring = "create a session keyring (--no-new-keyring leaves it out)",
    /// oom_score_adj.
    OomScore = "set process.oomScoreAdj (lowering it needs CAP_SYS_RESOURCE)",
    /// Propagation of the host's mounts.
    RootPropagation = "set linux.rootfsPropagation",
    /// Binding the rootfs onto itself.
    RootBind = "bind the root filesystem onto itself",
    /// Opening or creating the place of `mounts[index]`.
    MountTarget = "mounts[{}]: resolve or create the destination",
    /// The destination of a proc or sysfs is a link.
    MountOntoLink = "mounts[{}]: proc and sysfs must be mounted on ordinary directory; the destination",
    /// A destination inside /proc.
    MountOverProc = "mounts[{}]: refuse to cover what procfs shows",
    /// Opening the source of `mounts[index]`.
    MountSource = "mounts[{}]: open the source",
    /// fsopen(2).
    MountType = "mounts[{}]: open the file system type",
    /// fsconfig(2) of a parameter.
    MountParameter = "mounts[{}]: set the options",
    /// fsconfig(2) create and fsmount(2).
    MountCreate = "mounts[{}]: mount",
    /// mount_setattr(2).
    MountAttributes = "mounts[{}]: set the mount attributes",
    /// mount_setattr(2) with an id map.
    MountIdmap = "mounts[{}]: map the ids",
    /// Propagation of one mount.
    MountPropagation = "mounts[{}]: set the propagation",
    /// move_mount(2).
    MountAttach = "mounts[{}]: attach at the destination",
    /// tmpcopyup.
    MountCopyUp = "mounts[{}]: copy the covered directory (tmpcopyup)",
    /// The label of a file system that takes no option for it.
    MountLabel = "mounts[{}]: label it (linux.mountLabel)",
    /// The directories of a cgroup mount.
    MountCgroup = "mounts[{}]: show the container's cgroups",
    /// `linux.devices[index]`.
    Device = "linux.devices[{}]: create",
    /// A device that every container gets.
    DefaultDevice = "create the default device number {}",
    /// A link that every container gets.
    DefaultLink = "create the default links in /dev",
    /// The pseudo-terminal.
    Console = "open a pseudo-terminal in the container's /dev/pts",
    /// Sending it.
    ConsoleSend = "send the terminal through the console socket",
    /// /dev/console.
    ConsoleMount = "mount the terminal on /dev/console",
    /// dup2(2) of the terminal.
    ConsoleAttach = "make the terminal the standard streams",
    /// pivot_root(2).
    Pivot = "pivot into the root filesystem",
    /// Detaching the host's tree.
    DetachOldRoot = "detach the host's root filesystem",
    /// `linux.maskedPaths[index]`.
    MaskPath = "linux.maskedPaths[{}]: mask",
    /// `linux.readonlyPaths[index]`.
    ReadonlyPath = "linux.readonlyPaths[{}]: make read-only",
    /// A read-only rootfs.
    ReadonlyRoot = "make the root filesystem read-only (root.readonly)",
    /// Host name.
    Hostname = "set hostname",
    /// NIS domain name.
    Domainname = "set domainname",
    /// The loopback device of a new network namespace.
    Loopback = "bring the loopback device up",
    /// `linux.sysctl`, by position.
    Sysctl = "set linux.sysctl {}",
    /// Resource limits.
    Rlimits = "set process.rlimits[{}] (raising a hard limit needs CAP_SYS_RESOURCE)",
    /// Scheduling policy.
    Scheduler = "set process.scheduler",
    /// I/O priority.
    IoPriority = "set process.ioPriority",
    /// CPU affinity.
    CpuAffinity = "set process.execCPUAffinity",
    /// NUMA policy.
    MemoryPolicy = "set linux.memoryPolicy",
    /// Execution domain.
    Personality = "set linux.personality",
    /// A createContainer hook; the number is its wait status.
    CreateContainerHook = "hooks.createContainer[{}]",
    /// A startContainer hook; the number is its wait status.
    StartContainerHook = "hooks.startContainer[{}]",
    /// Descriptors.
    Descriptors = "close inherited descriptors",
    /// The program cannot be found or run.
    FindProgram = "find the program",
    /// process.cwd.
    Chdir = "chdir to process.cwd",
    /// The working directory is outside the root.
    CwdOutside = "process.cwd is outside the container's root",
    /// Security labels.
    Label = "set the security label",
    /// System call filter.
    Seccomp = "load linux.seccomp",
    /// Handing the filter's descriptor over.
    SeccompNotify = "send the seccomp notify descriptor to linux.seccomp.listenerPath",
    /// no_new_privs.
    NoNewPrivileges = "set process.noNewPrivileges",
    /// Capabilities.
    Capabilities = "set process.capabilities",
    /// Groups.
    Groups = "set process.user.additionalGids",
    /// Group id.
    Gid = "set process.user.gid",
    /// User id.
    Uid = "set process.user.uid",
    /// Waiting for `start`.
    AwaitStart = "wait for start",
    /// execve(2).
    Exec = "execute the program",
}

/// A step that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What was done.
    pub step: Step,
    /// Which operand, for steps that are done to several.
    pub index: u16,
    /// The kernel's answer; of a hook its wait status.
    pub errno: i32,
}

impl Failure {
    /// Names a failed step.
    #[must_use]
    pub fn new(step: Step, errno: Errno) -> Self {
        Self { step, index: 0, errno: errno as i32 }
    }

    /// Returns the encoded form, see [`Self::decode`].
    #[must_use]
    pub fn encode(self) -> [u8; 7] {
        let [i0, i1] = self.index.to_le_bytes();
        let [e0, e1, e2, e3] = self.errno.to_le_bytes();
        [self.step as u8, i0, i1, e0, e1, e2, e3]
    }

    /// Reads [`Self::encode`]'s form.
    #[must_use]
    pub fn decode(bytes: [u8; 7]) -> Option<Self> {
        let [step, i0, i1, e0, e1, e2, e3] = bytes;
        Some(Self {
            step: *Step::ALL.get(usize::from(step))?,
            index: u16::from_le_bytes([i0, i1]),
            errno: i32::from_le_bytes([e0, e1, e2, e3]),
        })
    }

    /// Returns what failed, in words, with the operand out of `plan`.
    #[must_use]
    pub fn describe(self, plan: Option<&ContainerPlan>) -> String {
        let text = self.step.text().replace("{}", &self.operand(plan));
        let Some(mount) = self.mount(plan) else { return text };
        match (self.step, &mount.source) {
            (Step::MountSource, MountSource::Bind { path, .. }) => format!("{text} {path:?}"),
            (Step::MountType, MountSource::Filesystem { kind, .. }) => {
                format!(
                    "{text} {kind:?}, which this kernel does not have ({:?})",
                    mount.destination
                )
            }
            (Step::MountParameter, MountSource::Filesystem { kind, parameters, .. }) => {
                let words: Vec<String> = parameters.iter().map(ToString::to_string).collect();
                let words = words.join(",");
                format!("{text} {words:?} of {kind:?} ({:?})", mount.destination)
            }
            _ => format!("{text} ({:?})", mount.destination),
        }
    }

    fn mount(self, plan: Option<&ContainerPlan>) -> Option<&crate::plan::mounts::MountPlan> {
        if !self.step.text().starts_with("mounts[") {
            return None;
        }
        plan?.rootfs.mounts.get(usize::from(self.index))
    }

    fn operand(self, plan: Option<&ContainerPlan>) -> String {
        let index = usize::from(self.index);
        let named = plan.and_then(|plan| match self.step {
            Step::Sysctl => plan.sysctls.get(index).map(|sysctl| sysctl.name.clone()),
            Step::JoinNamespace => plan
                .namespaces
                .joined
                .get(index)
                .map(|joined| format!("{} {:?}", joined.kind.file_name(), joined.path)),
            _ => None,
        });
        named.unwrap_or_else(|| index.to_string())
    }
}

/// Turns an error number of any library into a [`Failure`] of a step.
pub trait AtStep<T> {
    /// Names the step.
    ///
    /// # Errors
    /// The failed step.
    fn at(self, step: Step) -> Result<T, Failure>
    where
        Self: Sized,
    {
        self.at_index(step, 0)
    }

    /// Names the step and which operand it was done to.
    ///
    /// # Errors
    /// The failed step.
    fn at_index(self, step: Step, index: usize) -> Result<T, Failure>;
}

impl<T, E: AsErrno> AtStep<T> for Result<T, E> {
    fn at_index(self, step: Step, index: usize) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            step,
            index: u16::try_from(index).unwrap_or(u16::MAX),
            errno: error.as_errno() as i32,
        })
    }
}

/// Why a container's program cannot be run; the machine-readable `reason` of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramFault {
    /// It does not exist.
    NotFound,
    /// It exists, but may not be executed, or is no program.
    NotExecutable,
}

/// Returns runc's sentence for a program that cannot be run, which Docker and others look for, and
/// what kind of fault it is.
#[must_use]
pub fn describe_program(failure: Failure, process: &ProcessPlan) -> (String, ProgramFault) {
    let name = process.args.first().map(|arg| arg.to_string_lossy()).unwrap_or_default();
    let errno = Errno::from_raw(failure.errno);
    let searched = !name.contains('/');
    match errno {
        Errno::ENOENT if searched => {
            (format!("exec: {name:?}: executable file not found in $PATH"), ProgramFault::NotFound)
        }
        Errno::ENOENT if failure.step == Step::Exec => (
            // The file was there a moment ago: its interpreter is what is missing.
            format!("exec {name}: no such file or directory"),
            ProgramFault::NotFound,
        ),
        Errno::ENOENT | Errno::ENOTDIR => {
            (format!("exec: {name:?}: stat {name}: {}", lower(errno)), ProgramFault::NotFound)
        }
        // What the kernel says of a directory stands beside what it is: by these words Podman and
        // older Dockers know the exit code 126.
        Errno::EISDIR => (
            format!("exec: {name:?}: {}: {}", lower(errno), lower(Errno::EACCES)),
            ProgramFault::NotExecutable,
        ),
        _ => (format!("exec: {name:?}: {}", lower(errno)), ProgramFault::NotExecutable),
    }
}

/// Returns the error's description as a part of a sentence.
#[must_use]
pub fn lower(errno: Errno) -> String {
    let text = errno.desc();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_survives_the_wire() {
        for &step in Step::ALL {
            let failure = Failure { step, index: 513, errno: Errno::EPERM as i32 };

            assert_eq!(Failure::decode(failure.encode()), Some(failure));
        }
        assert_eq!(Failure::decode([255; 7]), None, "an unknown step is no failure of ours");
    }

    #[test]
    fn words_carry_the_operand() {
        let failure = Failure { step: Step::MaskPath, index: 4, errno: 1 };

        assert_eq!(failure.describe(None), "linux.maskedPaths[4]: mask");
    }
}
