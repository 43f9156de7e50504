//! A further process in a running container.
//!
//! ```text
//! runtime                                  process
//!   │ joins the PID namespace for children   ·
//!   │── clone3: v2 cgroup ──────────────────▶│ v1 cgroups, limits
//!   │   comes back                           │ setns(pidfd of init): all other namespaces at once
//!   │                                        │ terminal, user, privileges, filter, execve
//!   │◀─ end of stream: it runs ──────────────│
//! ```
//!
//! What the container has made of its `/proc`, `/dev` or `/etc/passwd` cannot hurt: the kernel
//! files are opened below the host's procfs, the terminal is made by descriptor, and the passwd
//! file is read as what it is, data.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_dumpable;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, setsid};

use super::error::{LaunchError, process_error};
use super::failure::{AtStep, Failure, Step};
use super::launch::{Console, connect_console, connect_listener};
use super::message::{ChildEnd, ParentEnd, ToParent, channel};
use crate::cgroup::{Cgroup, Entrance};
use crate::console::{self, Receiver};
use crate::namespaces::NamespaceKind;
use crate::plan::ContainerPlan;
use crate::plan::process::ProcessPlan;
use crate::process::{self, LastSteps, NotifyTarget};
use crate::procfs::Procfs;
use crate::rootfs::resolve::Root;
use crate::security::lsm::ExecLabel;
use crate::security::seccomp::Program;
use crate::self_protect::Protected;
use crate::state_store::OciState;
use crate::sys::AsErrno as _;
use crate::sys::clone::{Cloned, Kinship, clone_alone};
use crate::sys::process::{exit_now, join_session_keyring, kill_by_pidfd};

/// What is executed where.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// That the caller's program cannot be overwritten.
    pub protected: Protected,
    /// The container, as it was created.
    pub plan: &'a ContainerPlan,
    /// The process to add.
    pub process: &'a ProcessPlan,
    /// The container's state, for supervisors of system calls.
    pub state: OciState<'a>,
    /// The container's first process, whose namespaces are joined.
    pub init: Pid,
    /// The same, safe from recycled numbers.
    pub init_fd: BorrowedFd<'a>,
    /// The cgroup to enter.
    pub cgroup: Option<&'a Cgroup>,
    /// Receives the terminal.
    pub console: Option<Console<'a>>,
    /// Where compiled filters are kept.
    pub seccomp_cache: Option<&'a Path>,
    /// Variables that the runtime adds.
    pub extra_env: &'a [CString],
}

/// A process that has executed its program.
#[derive(Debug)]
pub struct Executed {
    /// Its number in the caller's PID namespace.
    pub pid: Pid,
    /// The same without the danger of a recycled number.
    pub pidfd: OwnedFd,
}

/// Adds a process to a container; returns when its program runs.
///
/// # Errors
/// [`LaunchError`]; no process is left then.
pub fn exec(request: ExecRequest<'_>) -> Result<Executed, LaunchError> {
    let ExecRequest { plan, process, .. } = request;
    let procfs = Procfs::open().map_err(LaunchError::Procfs)?;
    let label =
        ExecLabel::prepare(process.apparmor_profile.as_deref(), process.selinux_label.as_deref())
            .map_err(LaunchError::Label)?;
    let seccomp = plan
        .seccomp
        .as_ref()
        .map(|profile| Program::prepare(profile, request.seccomp_cache))
        .transpose()
        .map_err(LaunchError::Seccomp)?;
    let entrance = request.cgroup.map(Cgroup::entrance).transpose().map_err(LaunchError::Cgroup)?;
    let has_user = plan.namespaces.has(NamespaceKind::User);
    let setgroups_denied = has_user
        && std::fs::read(format!("/proc/{}/setgroups", request.init))
            .is_ok_and(|text| text.starts_with(b"deny"));
    let job = Job {
        plan,
        process,
        state: request.state,
        procfs: &procfs,
        init_fd: request.init_fd,
        shared_root: shared_root(plan, request.init)?,
        entrance: entrance.as_ref(),
        label: &label,
        notify: connect_listener(seccomp.as_ref())?,
        seccomp: seccomp.as_ref(),
        console: connect_console(process.terminal, request.console)?,
        setgroups_denied,
        extra_env: request.extra_env,
        user_first: has_user && !super::idmap::is_privileged(),
    };
    make(job)
}

/// The root of a container that shares the host's mount namespace: joining does not lead there.
fn shared_root(plan: &ContainerPlan, init: Pid) -> Result<Option<OwnedFd>, LaunchError> {
    if plan.namespaces.has(NamespaceKind::Mount) {
        return Ok(None);
    }
    let path = format!("/proc/{init}/root");
    open(Path::new(&path), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map(Some)
        .map_err(|errno| LaunchError::Host { what: "open the container's root", errno })
}

fn make(job: Job<'_>) -> Result<Executed, LaunchError> {
    let host = |what| move |errno| LaunchError::Host { what, errno };
    let (ours, theirs) = channel().map_err(host("create a socket pair"))?;
    let own = open(
        Path::new("/proc/self/ns/pid_for_children"),
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(host("open the runtime's PID namespace"))?;
    super::idmap::hide().map_err(host("hide the runtime"))?;
    let joins_pids = job.plan.namespaces.has(NamespaceKind::Pid) && !job.user_first;
    if joins_pids {
        setns(job.init_fd, CloneFlags::CLONE_NEWPID)
            .map_err(host("join the container's PID namespace"))?;
    }
    let into = job.entrance.and_then(Entrance::v2_dir);
    let cloned = clone_alone(0, Kinship::Child, into);
    let (pid, pidfd) = match cloned {
        Ok(Cloned::Child) => {
            drop(ours);
            job.run(&theirs)
        }
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Err(errno) => return Err(LaunchError::Clone { errno }),
    };
    drop(theirs);
    let mut executed = Executed { pid, pidfd };
    let back = if joins_pids { setns(own, CloneFlags::CLONE_NEWPID) } else { Ok(()) };
    let outcome = back
        .map_err(host("come back from the container's PID namespace"))
        .and_then(|()| listen(&ours, &mut executed, &job));
    if outcome.is_err() {
        let _ = kill_by_pidfd(&executed.pidfd);
        let _ = nix::sys::wait::waitpid(executed.pid, None);
    }
    outcome.map(|()| executed)
}

/// Listens until the program runs.
fn listen(channel: &ParentEnd, executed: &mut Executed, job: &Job<'_>) -> Result<(), LaunchError> {
    let talk = |errno| LaunchError::Host { what: "talk to the process", errno };
    loop {
        match channel.receive().map_err(talk)? {
            None => return Ok(()),
            Some(ToParent::InitPid(pid)) => executed.replace(Pid::from_raw(pid)).map_err(talk)?,
            Some(ToParent::Failed(failure)) => {
                return Err(process_error(failure, job.plan, job.process));
            }
            Some(_) => return Err(talk(Errno::EBADMSG)),
        }
    }
}

impl Executed {
    /// The process before this one has made it, and ends.
    fn replace(&mut self, pid: Pid) -> Result<(), Errno> {
        nix::sys::wait::waitpid(self.pid, None)?;
        let raw = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(Errno::ESRCH)?;
        self.pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty())
            .map_err(|error| error.as_errno())?;
        self.pid = pid;
        Ok(())
    }
}

/// Everything that the process needs; inherited by the clone.
struct Job<'a> {
    plan: &'a ContainerPlan,
    process: &'a ProcessPlan,
    state: OciState<'a>,
    procfs: &'a Procfs,
    init_fd: BorrowedFd<'a>,
    shared_root: Option<OwnedFd>,
    entrance: Option<&'a Entrance>,
    label: &'a ExecLabel,
    seccomp: Option<&'a Program>,
    notify: Option<OwnedFd>,
    console: Option<Receiver>,
    setgroups_denied: bool,
    extra_env: &'a [CString],
    /// An unprivileged runtime may join the other namespaces only once it is in the user namespace,
    /// and from there it does not come back: the process that joins makes another.
    user_first: bool,
}

impl Job<'_> {
    fn run(mut self, channel: &ChildEnd) -> ! {
        let Err(failure) = self.start(channel);
        // If the other end is gone too, nobody is left to be told.
        let _ = channel.send(ToParent::Failed(failure));
        exit_now(1)
    }

    /// Joins the user namespace and makes the process that goes on from there.
    fn continue_as_sibling(&self, channel: &ChildEnd) -> Result<(), Failure> {
        set_dumpable(false).at(Step::JoinContainer)?;
        setns(self.init_fd, NamespaceKind::User.flag()).at(Step::JoinContainer)?;
        if self.plan.namespaces.has(NamespaceKind::Pid) {
            setns(self.init_fd, NamespaceKind::Pid.flag()).at(Step::JoinContainer)?;
        }
        match clone_alone(0, Kinship::Sibling, None).at(Step::CloneInit)? {
            Cloned::Child => Ok(()),
            Cloned::Parent { pid, .. } => {
                let told = channel.send(ToParent::InitPid(pid.as_raw()));
                exit_now(i32::from(told.is_err()));
            }
        }
    }

    fn start(&mut self, channel: &ChildEnd) -> Result<std::convert::Infallible, Failure> {
        let process = self.process;
        umask(Mode::empty());
        process::pin(Pid::from_raw(0), process.exec_cpu_affinity.initial.as_ref())?;
        if let Some(entrance) = self.entrance {
            entrance.enter_self().at(Step::EnterCgroup)?;
        }
        match &process.exec_cpu_affinity.last {
            None => process::unpin(),
            last => process::pin(Pid::from_raw(0), last.as_ref())?,
        }
        process::apply_oom_score(process, self.procfs)?;
        process::apply_rlimits(process)?;
        process::apply_properties(process)?;
        process::apply_container_properties(self.plan)?;
        if self.user_first {
            self.continue_as_sibling(channel)?;
        }
        // In the host's mount namespace the only terminals are the host's, as for init.
        let terminal = match self.shared_root {
            Some(_) => self.open_terminal(&current_root()?)?,
            None => None,
        };
        self.join()?;
        setsid().at(Step::Session)?;
        self.label.label_keys(self.procfs).at(Step::Keyring)?;
        if let Ok(name) = CString::new(format!("_ses.{}", self.state.id)) {
            match join_session_keyring(&name) {
                // Without key management, and in a container that may not search its keyring.
                Ok(_) | Err(Errno::ENOSYS | Errno::EACCES) => {}
                Err(errno) => return Err(Failure::new(Step::Keyring, errno)),
            }
        }
        let root = current_root()?;
        let terminal = match terminal {
            None => self.open_terminal(&root)?,
            host => host,
        };
        if let Some(peer) = terminal {
            console::adopt_terminal(&peer).at(Step::ConsoleAttach)?;
        }
        self.become_program(root)
    }

    fn open_terminal(&mut self, root: &Root) -> Result<Option<OwnedFd>, Failure> {
        let Some(receiver) = self.console.take() else { return Ok(None) };
        receiver.give(root, self.process.console_size).map(Some)
    }

    /// Nothing of the container may look into this process while it still holds what is the host's.
    fn join(&self) -> Result<(), Failure> {
        set_dumpable(false).at(Step::JoinContainer)?;
        let namespaces = &self.plan.namespaces;
        let kinds = NamespaceKind::ALL
            .into_iter()
            .filter(|kind| *kind != NamespaceKind::Pid && namespaces.has(*kind))
            .filter(|kind| *kind != NamespaceKind::User || !self.user_first)
            .fold(CloneFlags::empty(), |flags, kind| flags | kind.flag());
        if !kinds.is_empty() {
            setns(self.init_fd, kinds).at(Step::JoinContainer)?;
        }
        if let Some(root) = &self.shared_root {
            nix::unistd::fchdir(root.as_fd()).at(Step::JoinContainer)?;
            nix::unistd::chroot(".").at(Step::JoinContainer)?;
        }
        if namespaces.has(NamespaceKind::User) {
            // Ids without a name inside could own nothing; where root has none, it stays so.
            let ids = (Gid::from_raw(0), Uid::from_raw(0));
            for result in [
                nix::unistd::setresgid(ids.0, ids.0, ids.0),
                nix::unistd::setresuid(ids.1, ids.1, ids.1),
            ] {
                match result {
                    Ok(()) | Err(Errno::EINVAL) => {}
                    Err(errno) => return Err(Failure::new(Step::BecomeRoot, errno)),
                }
            }
            set_dumpable(false).at(Step::JoinContainer)?;
        }
        Ok(())
    }

    fn become_program(&mut self, root: Root) -> Result<std::convert::Infallible, Failure> {
        let process = self.process;
        let mut env = process.env.clone();
        env.extend_from_slice(self.extra_env);
        process::add_home(&mut env, process.uid, &root);
        drop(root);
        let entered = match process::enter_cwd(process) {
            Err(Failure { step: Step::Chdir, errno, .. }) if errno == Errno::EACCES as i32 => false,
            result => result.map(|()| true)?,
        };
        let program = process::find_program(process)?;
        process::reset_inherited(process)?;
        let notify = self.notify.take().map(|socket| NotifyTarget {
            socket,
            state: self.state.process_state(self.procfs.own_pid().unwrap_or(0), self.seccomp),
        });
        let steps = LastSteps {
            process,
            procfs: self.procfs,
            label: self.label,
            seccomp: self.seccomp,
            notify,
            setgroups_denied: self.setgroups_denied,
        };
        process::become_user(&steps)?;
        if !entered {
            process::enter_cwd(process)?;
        }
        process::load_late_filter(&steps)?;
        process::execute(&steps, &program, &env)?;
        Err(Failure::new(Step::Exec, Errno::EINVAL))
    }
}

fn current_root() -> Result<Root, Failure> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(Path::new("/"), flags, Mode::empty()).map(Root::new).at(Step::JoinContainer)
}
