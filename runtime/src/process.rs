//! The last steps of a container's process, taken by itself: properties, user, privileges, program.
//!
//! The order is a chain of needs: what requires privilege comes before the privilege is given up,
//! and the system call filter comes as late as it can, since it applies to these steps too.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::{Mode, SFlag, fstat, stat, umask};
use nix::unistd::{Gid, Pid, Uid, chdir, execve, fchown, setgroups};

use crate::plan::process::ProcessPlan;
use crate::plan::{ContainerPlan, MemoryPolicy};
use crate::procfs::Procfs;
use crate::rootfs::devices::is_character_device;
use crate::rootfs::resolve::{Missing, Root};
use crate::security::lsm::ExecLabel;
use crate::security::seccomp::Program;
use crate::stage::failure::{AtStep, Failure, Step};
use crate::sys;
use crate::user::home_of;

/// The largest `/etc/passwd` that is searched for a home directory, in bytes.
const MAX_PASSWD_BYTES: usize = 1 << 20;

/// Applies what belongs to a thread and survives execve(2).
///
/// # Errors
/// The step that failed.
pub fn apply_properties(process: &ProcessPlan) -> Result<(), Failure> {
    if let Some(scheduler) = &process.scheduler {
        sys::process::sched_setattr(scheduler).at(Step::Scheduler)?;
    }
    if let Some(priority) = process.io_priority {
        sys::process::ioprio_set(priority).at(Step::IoPriority)?;
    }
    Ok(())
}

/// Applies what only a container's first process has.
///
/// # Errors
/// The step that failed.
pub fn apply_container_properties(plan: &ContainerPlan) -> Result<(), Failure> {
    if let Some(personality) = plan.personality {
        // The kernel's type is narrower than the specification's.
        let persona = nix::sys::personality::Persona::from_bits_retain(
            i32::try_from(personality.0).unwrap_or(0),
        );
        nix::sys::personality::set(persona).at(Step::Personality)?;
    }
    if let Some(MemoryPolicy { mode, nodes }) = &plan.memory_policy {
        sys::process::set_mempolicy(*mode, nodes).at(Step::MemoryPolicy)?;
    }
    Ok(())
}

/// Sets resource limits of the caller.
///
/// # Errors
/// [`Step::Rlimits`] with the index of the limit.
pub fn apply_rlimits(process: &ProcessPlan) -> Result<(), Failure> {
    process.rlimits.apply().map_err(|failure| Failure {
        step: Step::Rlimits,
        index: u16::try_from(failure.index).unwrap_or(u16::MAX),
        errno: failure.errno as i32,
    })
}

/// Sets the preference of the out-of-memory killer. Lowering it needs CAP_SYS_RESOURCE on the host.
///
/// # Errors
/// [`Step::OomScore`].
pub fn apply_oom_score(process: &ProcessPlan, procfs: &Procfs) -> Result<(), Failure> {
    match process.oom_score_adj {
        None => Ok(()),
        Some(score) => {
            procfs.write("self/oom_score_adj", score.to_string().as_bytes()).at(Step::OomScore)
        }
    }
}

/// Adds `HOME` to an environment without it, or with an empty one, from the container's
/// `/etc/passwd`.
pub fn add_home(env: &mut Vec<CString>, uid: u32, root: &Root) {
    env.retain(|variable| variable.as_bytes() != b"HOME=");
    if env.iter().any(|variable| variable.as_bytes().starts_with(b"HOME=")) {
        return;
    }
    let passwd = read_passwd(root).unwrap_or_default();
    let home = home_of(&passwd, uid).unwrap_or(b"/");
    if let Ok(home) = CString::new([b"HOME=", home].concat()) {
        env.push(home);
    }
}

/// The file is the container's: it may be a FIFO, a device or endless.
fn read_passwd(root: &Root) -> Result<Vec<u8>, Errno> {
    let file = root.open(Path::new("/etc/passwd"), OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
    if SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(Errno::EINVAL);
    }
    let mut content = Vec::new();
    let mut buffer = [0; 4096];
    while content.len() < MAX_PASSWD_BYTES {
        match nix::unistd::read(&file, &mut buffer)? {
            0 => break,
            count => content.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(content)
}

/// Finds the program that `process` names, as execvp(3) would, inside the present root.
///
/// # Errors
/// [`Step::FindProgram`]: `ENOENT` if there is none, `EACCES` if it may not be executed, `EISDIR`.
pub fn find_program(process: &ProcessPlan) -> Result<CString, Failure> {
    let name = process.args.first().map_or(c"", |name| name.as_c_str());
    search(name, &process.env).at(Step::FindProgram)
}

fn search(name: &CStr, env: &[CString]) -> Result<CString, Errno> {
    if name.to_bytes().contains(&b'/') {
        return check_program(name).map(|()| name.to_owned());
    }
    let path = env
        .iter()
        .find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or_default();
    let mut reason = Errno::ENOENT;
    for directory in path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let candidate =
            CString::new([directory, b"/", name.to_bytes()].concat()).map_err(|_| Errno::EINVAL)?;
        match check_program(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(errno @ (Errno::EACCES | Errno::EISDIR)) => reason = errno,
            Err(_) => {}
        }
    }
    // A directory of that name on the way is no reason to give.
    Err(if reason == Errno::EISDIR { Errno::ENOENT } else { reason })
}

fn check_program(path: &CStr) -> Result<(), Errno> {
    let mode = stat(path)?.st_mode;
    if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
        Err(Errno::EISDIR)
    } else if mode & 0o111 == 0 {
        Err(Errno::EACCES)
    } else {
        Ok(())
    }
}

/// Changes to the working directory and makes sure that it is inside the root: a descriptor leaked
/// from the host could be reached by its magic link otherwise (CVE-2024-21626).
///
/// # Errors
/// [`Step::Chdir`], [`Step::CwdOutside`].
pub fn enter_cwd(process: &ProcessPlan) -> Result<(), Failure> {
    chdir(process.cwd.as_c_str()).at(Step::Chdir)?;
    // Outside the root the kernel answers ENOENT or a path that starts with "(unreachable)".
    match nix::unistd::getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        Ok(_) => Err(Failure::new(Step::CwdOutside, Errno::ENOENT)),
        Err(errno) => Err(Failure::new(Step::CwdOutside, errno)),
    }
}

/// Creates the working directory below `root` if it is missing. That it cannot be created shows
/// when it is entered.
pub fn create_cwd(process: &ProcessPlan, root: &Root) {
    let cwd = Path::new(OsStr::from_bytes(process.cwd.as_bytes()));
    let _ = root.open_or_create(cwd, Missing::Directory);
}

/// Gives the standard streams to the user, so that `/dev/stdout` and its like can be opened.
fn own_standard_streams(uid: u32) -> Result<(), Errno> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let Ok(stat) = fstat(fd) else { continue };
        if stat.st_uid == uid || is_character_device(fd, 1, 3)? {
            continue;
        }
        match fchown(fd, Some(Uid::from_raw(uid)), None) {
            // Not mapped, on a read-only file system, or not ours to give: then it stays as it is.
            Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS | Errno::EBADF) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// What the last steps need beside the plan.
#[derive(Debug)]
pub struct LastSteps<'a> {
    /// The process.
    pub process: &'a ProcessPlan,
    /// The host's procfs.
    pub procfs: &'a Procfs,
    /// The security label of the program.
    pub label: &'a ExecLabel,
    /// The compiled system call filter.
    pub seccomp: Option<&'a Program>,
    /// Receives the descriptor of a filter that notifies.
    pub notify: Option<NotifyTarget>,
    /// Whether setgroups(2) is denied here (a user namespace of an unprivileged user).
    pub setgroups_denied: bool,
}

/// Who supervises a filter that notifies.
#[derive(Debug)]
pub struct NotifyTarget {
    /// Connected to `linux.seccomp.listenerPath`.
    pub socket: OwnedFd,
    /// The container process state (runtime-spec, config-linux.md, "The Container Process State").
    pub state: Vec<u8>,
}

/// Takes on the user and gives up every privilege that the plan does not name. A system call filter
/// that needs privilege to be loaded is loaded here.
///
/// # Errors
/// The step that failed.
pub fn become_user(steps: &LastSteps<'_>) -> Result<(), Failure> {
    let LastSteps { process, procfs, .. } = *steps;
    steps.label.apply(procfs).at(Step::Label)?;
    own_standard_streams(process.uid).at(Step::Uid)?;
    if process.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().at(Step::NoNewPrivileges)?;
    } else {
        load_filter(steps)?;
    }
    process.capabilities.apply_bounding().at(Step::Capabilities)?;
    nix::sys::prctl::set_keepcaps(true).at(Step::Capabilities)?;
    if !steps.setgroups_denied {
        let groups: Vec<Gid> = process.additional_gids.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).at(Step::Groups)?;
    }
    let gid = Gid::from_raw(process.gid);
    nix::unistd::setresgid(gid, gid, gid).at(Step::Gid)?;
    let uid = Uid::from_raw(process.uid);
    nix::unistd::setresuid(uid, uid, uid).at(Step::Uid)?;
    process.capabilities.apply().at(Step::Capabilities)?;
    nix::sys::prctl::set_keepcaps(false).at(Step::Capabilities)
}

fn load_filter(steps: &LastSteps<'_>) -> Result<(), Failure> {
    let Some(program) = steps.seccomp else { return Ok(()) };
    let listener = program.load().at(Step::Seccomp)?;
    if let (Some(listener), Some(target)) = (listener, &steps.notify) {
        crate::console::send_descriptor(&target.socket, &target.state, listener)
            .at(Step::SeccompNotify)?;
    }
    Ok(())
}

/// Loads a filter that needs no privilege to be loaded. It comes as late as it can, since it applies
/// to what follows.
///
/// # Errors
/// [`Step::Seccomp`], [`Step::SeccompNotify`].
pub fn load_late_filter(steps: &LastSteps<'_>) -> Result<(), Failure> {
    if steps.process.no_new_privileges { load_filter(steps) } else { Ok(()) }
}

/// Executes the program.
///
/// # Errors
/// [`Step::Exec`]; success does not return.
pub fn execute(steps: &LastSteps<'_>, program: &CStr, env: &[CString]) -> Result<(), Failure> {
    match execve(program, &steps.process.args, env) {
        Ok(never) => match never {},
        Err(errno) => Err(Failure::new(Step::Exec, errno)),
    }
}

/// Puts back what the runtime has changed for itself, or inherited from whoever called it.
///
/// # Errors
/// [`Step::Descriptors`].
pub fn reset_inherited(process: &ProcessPlan) -> Result<(), Failure> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).at(Step::Descriptors)?;
    // An ignored signal stays ignored across execve(2): SIGPIPE by us, SIGHUP and SIGINT by callers such
    // as nohup(1) and shells that start something in the background.
    sys::process::default_actions().at(Step::Descriptors)?;
    umask(Mode::from_bits_truncate(process.umask.unwrap_or(0o022) & 0o777));
    Ok(())
}

/// Pins `pid`, the caller if zero, to the CPUs in `mask`.
///
/// # Errors
/// [`Step::CpuAffinity`].
pub fn pin(pid: Pid, mask: Option<&Vec<u64>>) -> Result<(), Failure> {
    match mask {
        None => Ok(()),
        Some(mask) => sys::process::sched_setaffinity(pid, mask).at(Step::CpuAffinity),
    }
}

/// Lets the caller run on every CPU of its cgroup, whatever CPUs the runtime was pinned to. A kernel
/// that refuses leaves it as it is.
pub fn unpin() {
    const EVERY_CPU: [u64; 128] = [u64::MAX; 128];
    let _ = sys::process::sched_setaffinity(Pid::from_raw(0), &EVERY_CPU);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn c(path: &Path) -> CString {
        CString::new(path.as_os_str().as_bytes()).unwrap()
    }

    #[test]
    fn programs_are_searched_in_path_and_faults_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("1"), dir.path().join("2"));
        std::fs::create_dir_all(first.join("folder")).unwrap();
        std::fs::create_dir(&second).unwrap();
        std::fs::write(first.join("plain"), "").unwrap();
        std::fs::write(second.join("tool"), "").unwrap();
        std::fs::set_permissions(second.join("tool"), std::fs::Permissions::from_mode(0o755))
            .unwrap();
        let env = [CString::new(format!("PATH={}:{}", first.display(), second.display())).unwrap()];

        assert_eq!(search(c"tool", &env), Ok(c(&second.join("tool"))));
        assert_eq!(search(c"plain", &env), Err(Errno::EACCES));
        assert_eq!(search(c"folder", &env), Err(Errno::ENOENT));
        assert_eq!(search(c"missing", &env), Err(Errno::ENOENT));
        assert_eq!(search(&c(&first.join("folder")), &env), Err(Errno::EISDIR));
        assert_eq!(search(c"tool", &[]), Err(Errno::ENOENT), "without PATH nothing is searched");
    }
}
