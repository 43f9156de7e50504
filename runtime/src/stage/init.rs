//! The container's first process, from the clone to its program. Runs inside; fails by number.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_dumpable;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setsid};

use super::failure::{AtStep, Failure, Step};
use super::gate;
use super::joining::Joins;
use super::message::{ChildEnd, ToChild, ToParent};
use crate::cgroup::enter_v1;
use crate::console::{self, Receiver};
use crate::hooks::{self, Surroundings};
use crate::namespaces::NamespaceKind;
use crate::plan::ContainerPlan;
use crate::plan::namespaces::TimeOffset;
use crate::process::{self, LastSteps, NotifyTarget};
use crate::procfs::Procfs;
use crate::rootfs::cgroups::Hierarchy;
use crate::rootfs::resolve::Root;
use crate::rootfs::{self, RootPlace, Sources};
use crate::security::lsm::ExecLabel;
use crate::security::seccomp::Program;
use crate::state_store::OciState;
use crate::sys;
use crate::sys::clone::{Cloned, Kinship, clone_alone};
use crate::sys::process::{exit_now, join_session_keyring, key_permissions, set_key_permissions};

/// What init waits for before it executes the program.
#[derive(Debug)]
pub(super) enum Gate {
    /// A `start`, at this listening socket.
    Socket(OwnedFd),
    /// The runtime that made it.
    Parent,
}

/// Everything that init needs; prepared by the runtime, inherited by the clone.
#[derive(Debug)]
pub(super) struct Init<'a> {
    pub(super) plan: &'a ContainerPlan,
    pub(super) state: OciState<'a>,
    pub(super) procfs: &'a Procfs,
    pub(super) joins: &'a Joins,
    /// Whether the runtime hands over ways into hierarchies of v1.
    pub(super) enters_v1: bool,
    pub(super) hierarchies: &'a [Hierarchy],
    pub(super) sources: Sources,
    pub(super) label: &'a ExecLabel,
    pub(super) seccomp: Option<&'a Program>,
    pub(super) notify: Option<OwnedFd>,
    pub(super) console: Option<Receiver>,
    pub(super) gate: Gate,
    /// Whether it sets its limits, or the runtime has to.
    pub(super) limits_itself: bool,
    pub(super) setgroups_denied: bool,
    pub(super) awaits_proceed: bool,
    pub(super) no_pivot: bool,
    pub(super) keyring: Option<CString>,
    pub(super) extra_env: &'a [CString],
    pub(super) preserved: &'a [u32],
    /// What a hook that failed has said.
    pub(super) hook_words: String,
}

impl Init<'_> {
    /// Is init; never returns. Where a user namespace is joined, is the process before it first.
    pub(super) fn run(mut self, mut channel: ChildEnd) -> ! {
        let Err(failure) = self.start(&mut channel);
        // If the other end is gone too, nobody is left to be told.
        let _ = channel.send(ToParent::Failed(failure));
        channel.send_words(self.hook_words.as_bytes());
        exit_now(1)
    }

    fn start(&mut self, channel: &mut ChildEnd) -> Result<std::convert::Infallible, Failure> {
        umask(Mode::empty());
        // Without a right on the host it is the runtime that does it.
        if !self.plan.namespaces.new.contains(NamespaceKind::User) {
            process::apply_oom_score(&self.plan.process, self.procfs)?;
        }
        self.joins.join_inside()?;
        if self.joins.user {
            self.continue_as_sibling(channel)?;
        }
        setsid().at(Step::Session)?;
        if self.awaits_proceed {
            expect(channel, ToChild::Proceed)?;
        }
        self.become_root()?;
        self.make_namespaces()?;
        if self.plan.namespaces.new.contains(NamespaceKind::Network) {
            bring_loopback_up().at(Step::Loopback)?;
        }
        self.set_names()?;
        let terminal = self.build_root(channel)?;
        process::apply_properties(&self.plan.process)?;
        process::apply_container_properties(self.plan)?;
        self.join_keyring()?;
        if let Some(peer) = terminal {
            console::adopt_terminal(&peer).at(Step::ConsoleAttach)?;
        }
        self.become_program(channel)
    }

    /// Enters the cgroups of v1, for which the runtime had time until now: nothing was allocated that
    /// the container's limits are for. The root of a cgroup namespace is where its maker is.
    fn enter_cgroup(&self, channel: &ChildEnd) -> Result<(), Failure> {
        if self.enters_v1 {
            match channel.receive_descriptors().at(Step::Protocol)? {
                Some((ToChild::Enter, tasks)) => enter_v1(&tasks).at(Step::EnterCgroup)?,
                _ => return Err(Failure::new(Step::Protocol, Errno::EPIPE)),
            }
        }
        process::unpin();
        if self.plan.namespaces.new.contains(NamespaceKind::Cgroup) {
            unshare(CloneFlags::CLONE_NEWCGROUP).at(Step::CgroupNamespace)?;
        }
        Ok(())
    }

    /// The joined user namespace gives the right to make the other namespaces, and those must be
    /// made by a process that is in it.
    fn continue_as_sibling(&mut self, channel: &ChildEnd) -> Result<(), Failure> {
        let flags = clone_flags(self.plan).difference(CloneFlags::CLONE_NEWUSER);
        let flags = u64::try_from(flags.bits()).unwrap_or(0);
        match clone_alone(flags, Kinship::Sibling, None).at(Step::CloneInit)? {
            Cloned::Child => Ok(()),
            Cloned::Parent { pid, .. } => {
                let told = channel.send(ToParent::InitPid(pid.as_raw()));
                exit_now(i32::from(told.is_err()));
            }
        }
    }

    /// All capabilities in the user namespace are there already; the ids are not.
    fn become_root(&self) -> Result<(), Failure> {
        let namespaces = &self.plan.namespaces;
        if namespaces.new.contains(NamespaceKind::User) {
            let mapped =
                |map: &crate::user::IdMap, other| if map.to_host(0).is_some() { 0 } else { other };
            let gid = Gid::from_raw(mapped(&namespaces.gid_map, self.plan.process.gid));
            let uid = Uid::from_raw(mapped(&namespaces.uid_map, self.plan.process.uid));
            if !self.setgroups_denied {
                nix::unistd::setgroups(&[]).at(Step::BecomeRoot)?;
            }
            nix::unistd::setresgid(gid, gid, gid).at(Step::BecomeRoot)?;
            nix::unistd::setresuid(uid, uid, uid).at(Step::BecomeRoot)?;
        } else if self.joins.user {
            let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
            nix::unistd::setresgid(gid, gid, gid).at(Step::BecomeRoot)?;
            nix::unistd::setresuid(uid, uid, uid).at(Step::BecomeRoot)?;
        }
        // What runs in the container already may not look into this process.
        set_dumpable(false).at(Step::BecomeRoot)
    }

    /// What the clone need not bring init makes itself, and the runtime has time for the cgroups. The
    /// clocks of a time namespace can be set until its first process is in it.
    fn make_namespaces(&self) -> Result<(), Failure> {
        let namespaces = &self.plan.namespaces;
        let own = namespaces.new.flags() & OWN_NAMESPACES.difference(clone_flags(self.plan));
        if !own.is_empty() {
            unshare(own).at(Step::Namespaces)?;
        }
        if namespaces.new.contains(NamespaceKind::Time) {
            self.make_time_namespace(&namespaces.time_offsets).at(Step::TimeNamespace)?;
        }
        Ok(())
    }

    fn make_time_namespace(&self, offsets: &[TimeOffset]) -> Result<(), Errno> {
        let kind = NamespaceKind::Time.flag();
        unshare(kind)?;
        // Not dumpable, a process that is nobody on the host cannot open its own file of offsets.
        let nobody = self.plan.namespaces.has(NamespaceKind::User);
        set_dumpable(nobody)?;
        let written = offsets.iter().try_for_each(|offset| {
            let line = format!("{} {} {}\n", offset.clock, offset.secs, offset.nanosecs);
            self.procfs.write("self/timens_offsets", line.as_bytes())
        });
        set_dumpable(false)?;
        written?;
        // execve(2) does not enter it before Linux 6.3.
        let file = nix::fcntl::open(
            "/proc/self/ns/time_for_children",
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        setns(file, kind)
    }

    fn set_names(&self) -> Result<(), Failure> {
        use std::os::unix::ffi::OsStrExt;
        if let Some(name) = &self.plan.hostname {
            nix::unistd::sethostname(std::ffi::OsStr::from_bytes(name.as_bytes()))
                .at(Step::Hostname)?;
        }
        if let Some(name) = &self.plan.domainname {
            rustix::system::setdomainname(name.as_bytes()).at(Step::Domainname)?;
        }
        Ok(())
    }

    /// Builds and enters the root; returns the process's end of its terminal.
    fn build_root(&mut self, channel: &ChildEnd) -> Result<Option<OwnedFd>, Failure> {
        let plan = self.plan;
        if !plan.namespaces.has(NamespaceKind::Mount) {
            self.enter_cgroup(channel)?;
            // Nothing is mounted in the root: the only terminals are the host's.
            let terminal = self.open_terminal(&self.current_root()?)?;
            self.run_create_hooks(channel)?;
            rootfs::enter_shared(plan)?;
            process::create_cwd(&plan.process, &self.current_root()?);
            self.write_sysctls(None)?;
            return Ok(terminal);
        }
        let sources = std::mem::take(&mut self.sources);
        let place = RootPlace::of(plan, self.no_pivot);
        let prepared = rootfs::prepare(plan, sources.rootfs, place)?;
        self.enter_cgroup(channel)?;
        let populated = prepared.populate(plan, sources.binds, self.hierarchies)?;
        let terminal = self.open_terminal(populated.root())?;
        if let Some(peer) = &terminal {
            populated.mount_console(peer)?;
        }
        process::create_cwd(&plan.process, populated.root());
        self.run_create_hooks(channel)?;
        self.write_sysctls(Some(populated.root()))?;
        populated.seal(plan, self.no_pivot)?;
        Ok(terminal)
    }

    /// Writes them through the container's own procfs, if it has one: in the host's, the kernel keeps
    /// what has the same name in many network namespaces in one list, and goes through it at each
    /// look.
    fn write_sysctls(&self, root: Option<&Root>) -> Result<(), Failure> {
        if self.plan.sysctls.is_empty() {
            return Ok(());
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let own = root.and_then(|root| {
            root.open_plain(Path::new("/proc"), flags).and_then(Procfs::verified).ok()
        });
        for (index, sysctl) in self.plan.sysctls.iter().enumerate() {
            let write = |procfs: &Procfs| procfs.write(&sysctl.path, sysctl.value.as_bytes());
            // What is read-only or covered in the container can be written by the host's still.
            if own.as_ref().is_none_or(|own| write(own).is_err()) {
                write(self.procfs).at_index(Step::Sysctl, index)?;
            }
        }
        Ok(())
    }

    fn current_root(&self) -> Result<Root, Failure> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        nix::fcntl::open(Path::new("/"), flags, Mode::empty()).map(Root::new).at(Step::Pivot)
    }

    fn open_terminal(&mut self, root: &Root) -> Result<Option<OwnedFd>, Failure> {
        let Some(receiver) = self.console.take() else { return Ok(None) };
        receiver.give(root, self.plan.process.console_size).map(Some)
    }

    fn run_create_hooks(&mut self, channel: &ChildEnd) -> Result<(), Failure> {
        let all = &self.plan.hooks;
        #[allow(deprecated, reason = "prestart hooks are still in use and in the specification")]
        let outside = all.prestart().is_some() || all.create_runtime().is_some();
        if outside {
            channel.send(ToParent::Mounted).at(Step::Protocol)?;
            expect(channel, ToChild::HooksDone)?;
        }
        let Some(inside) = all.create_container() else { return Ok(()) };
        let pid = self.procfs.own_pid().at(Step::CreateContainerHook)?;
        let state = self.state.to_json("creating", Some(pid));
        let surroundings = Surroundings::of_runtime(&state, self.state.bundle);
        self.run_hooks(inside, Step::CreateContainerHook, surroundings)
    }

    fn run_hooks(
        &mut self,
        list: &[oci_spec::runtime::Hook],
        step: Step,
        surroundings: Surroundings<'_>,
    ) -> Result<(), Failure> {
        hooks::run_all(list, surroundings).map_err(|(index, error)| {
            error.said().clone_into(&mut self.hook_words);
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            Failure { step, index, errno: error.code() }
        })
    }

    /// A keyring of its own keeps the container's keys from the host's, and the other way round.
    fn join_keyring(&self) -> Result<(), Failure> {
        /// The user that owns the keyring may search it.
        const USER_SEARCH: u32 = 0x0008_0000;
        let Some(name) = &self.keyring else { return Ok(()) };
        self.label.label_keys(self.procfs).at(Step::Keyring)?;
        let id = match join_session_keyring(name) {
            Ok(id) => id,
            // No key management in this kernel, so nothing to keep apart.
            Err(Errno::ENOSYS) => return Ok(()),
            Err(errno) => return Err(Failure::new(Step::Keyring, errno)),
        };
        let permissions = key_permissions(id).at(Step::Keyring)?;
        set_key_permissions(id, permissions | USER_SEARCH).at(Step::Keyring)
    }

    /// Closes what was inherited from the runtime and is not needed any more: nothing of the host
    /// stays open while init waits, and the lock on the state directory is the runtime's again.
    fn let_go(&self, channel: &ChildEnd) -> Result<(), Failure> {
        let gate = match &self.gate {
            Gate::Socket(listener) => Some(listener.as_fd()),
            Gate::Parent => None,
        };
        let mut keep: Vec<u32> = [Some(channel.as_fd()), Some(self.procfs.as_fd()), gate]
            .into_iter()
            .flatten()
            .map(|fd| fd.as_raw_fd().cast_unsigned())
            .chain(self.preserved.iter().copied())
            .collect();
        sys::fd::close_all_but(3, &mut keep).at(Step::Descriptors)
    }

    fn become_program(
        &mut self,
        channel: &mut ChildEnd,
    ) -> Result<std::convert::Infallible, Failure> {
        let process = &self.plan.process;
        let root = self.current_root()?;
        let mut env = process.env.clone();
        env.extend_from_slice(self.extra_env);
        process::add_home(&mut env, process.uid, &root);
        drop(root);
        // A directory that only the user may enter is entered again as the user.
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
        // A supervisor of system calls hears of its container when that is created, as with runc.
        let supervised = notify.is_some();
        let mut steps = LastSteps {
            process,
            procfs: self.procfs,
            label: self.label,
            seccomp: self.seccomp,
            notify,
            setgroups_denied: self.setgroups_denied,
        };
        let settle = |steps: &LastSteps<'_>| {
            process::become_user(steps)?;
            if !entered {
                process::enter_cwd(process)?;
            }
            // Hooks inside are bound by it as the program is.
            process::load_late_filter(steps)
        };
        if supervised {
            settle(&steps)?;
            steps.notify = None;
        }
        self.let_go(channel)?;
        // Last, since a limit of open files or of memory could stop the setup itself.
        if self.limits_itself {
            process::apply_rlimits(process)?;
        }
        channel.send(ToParent::Ready).at(Step::Protocol)?;
        if !self.limits_itself {
            // Another user's process may be out of the runtime's reach.
            expect(channel, ToChild::Limited)?;
        }
        // The runtime has still to write down what it made: on another processor that is free. What fails
        // concerns whoever starts the program.
        let waits_unhindered = self.seccomp.is_none_or(|filter| filter.lets_pass(&WAITING_CALLS));
        let early = (!supervised && waits_unhindered).then(|| settle(&steps));
        self.await_execution(channel)?;
        match early {
            Some(settled) => settled?,
            None if supervised => {}
            None => settle(&steps)?,
        }
        if let Some(inside) = self.plan.hooks.start_container() {
            let pid = self.procfs.own_pid().at(Step::StartContainerHook)?;
            let state = self.state.to_json("created", Some(pid));
            let directory = Path::new(".");
            let surroundings = Surroundings { state: &state, directory, environment: Some(&env) };
            self.run_hooks(inside, Step::StartContainerHook, surroundings)?;
        }
        process::execute(&steps, &program, &env)?;
        Err(Failure::new(Step::Exec, Errno::EINVAL))
    }

    /// Waits for whoever starts the program, by [`WAITING_CALLS`] only.
    fn await_execution(&mut self, channel: &mut ChildEnd) -> Result<(), Failure> {
        match &self.gate {
            Gate::Parent => expect(channel, ToChild::Execute)?,
            Gate::Socket(listener) => {
                expect(channel, ToChild::Keep)?;
                *channel = gate::wait(listener).at(Step::AwaitStart)?;
            }
        }
        self.gate = Gate::Parent;
        Ok(())
    }
}

/// The system calls that waiting takes, which may be done under the container's own filter.
const WAITING_CALLS: [libc::c_long; 3] = [libc::SYS_recvmsg, libc::SYS_accept4, libc::SYS_close];

/// The namespaces that init can make itself, at once.
const OWN_NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// The namespaces that come with the clone: those that hold only what is born there, and the one
/// that the runtime moves devices into.
pub(super) fn clone_flags(plan: &ContainerPlan) -> CloneFlags {
    let mut kinds = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID;
    if !plan.net_devices.is_empty() {
        kinds |= CloneFlags::CLONE_NEWNET;
    }
    plan.namespaces.new.flags() & kinds
}

/// People expect 127.0.0.1 to work in a new network namespace, as every runtime has it.
fn bring_loopback_up() -> Result<(), Errno> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    sys::network::bring_loopback_up(socket)
}

fn expect(channel: &ChildEnd, message: ToChild) -> Result<(), Failure> {
    match channel.receive().at(Step::Protocol)? {
        Some(received) if received == message => Ok(()),
        // The runtime is gone: so is whoever wanted this container.
        _ => Err(Failure::new(Step::Protocol, Errno::EPIPE)),
    }
}
