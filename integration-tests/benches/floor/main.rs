//! The floor: the system calls that the runtime benchmark's bundle demands, and nothing else.
//!
//! It knows the bundle by heart (see `group_runtime.rs`, which writes it) and does what stands in it:
//! the same namespaces, cgroups with their limits and device rules, mounts, masks, devices, resource
//! limit, capabilities and system call filter, as the probe would see them. But no config.json is read,
//! no state is kept, no path is guarded against its container, no error is explained. What
//! `keg-runtime` takes beyond it is the price of being an OCI runtime. The system calls are the cheapest
//! that serve, be they old or new.
//!
//! ```text
//! keg-floor run ROOTFS NAME FILTER                   start, wait, remove; FILTER holds the compiled program
//! keg-floor create ROOTFS NAME FILTER FIFO PIDFILE   prepare; the process waits at FIFO
//! keg-floor start FIFO                               let it execute the program, and see it do so
//! keg-floor delete NAME FIFO                         remove
//! ```

mod sys;

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, execve, mkfifo, pivot_root, sethostname, symlinkat};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Limits of the bundle: hierarchy, file, value.
const LIMITS: [(&str, &str, &str); 4] = [
    ("memory", "memory.limit_in_bytes", "268435456"),
    ("cpu", "cpu.cfs_period_us", "100000"),
    ("cpu", "cpu.cfs_quota_us", "100000"),
    ("pids", "pids.max", "256"),
];

/// What a container may do with devices by the specification, after all was denied.
const DEVICE_RULES: [&str; 10] = [
    "b *:* m",
    "c *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

const DEVICES: [(&str, u64, u64); 6] = [
    ("dev/null", 1, 3),
    ("dev/zero", 1, 5),
    ("dev/full", 1, 7),
    ("dev/random", 1, 8),
    ("dev/urandom", 1, 9),
    ("dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("pts/ptmx", "dev/ptmx"),
];

fn main() -> ExitCode {
    let args: Vec<CString> =
        std::env::args().skip(1).filter_map(|arg| CString::new(arg).ok()).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("keg-floor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[CString]) -> anyhow::Result<ExitCode> {
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str()).collect::<Result<_, _>>()?;
    match *words.as_slice() {
        ["run", rootfs, name, filter] => {
            let (child, cgroups) = start(Path::new(rootfs), name, filter, None)?;
            let Some(child) = child else { return Ok(ExitCode::from(127)) };
            let status = waitpid(child, None)?;
            for dir in &cgroups {
                fs::remove_dir(dir)?;
            }
            anyhow::ensure!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
        }
        ["create", rootfs, name, filter, fifo, pid_file] => {
            mkfifo(fifo, Mode::from_bits_truncate(0o600))?;
            // Open for both, so that neither end waits for the other.
            let gate = OpenOptions::new().read(true).write(true).open(fifo)?;
            let (mut ready, told) = std::io::pipe()?;
            let gate = Gate { fifo: gate, told };
            let (child, _) = start(Path::new(rootfs), name, filter, Some(gate))?;
            let Some(child) = child else { return Ok(ExitCode::from(127)) };
            ready.read_exact(&mut [0])?;
            fs::write(pid_file, child.to_string())?;
        }
        ["start", fifo] => {
            let mut gate = OpenOptions::new().write(true).open(fifo)?;
            gate.write_all(b"!")?;
            // A start says whether the program runs: its execution closes the other end.
            poll(&mut [PollFd::new(gate.as_fd(), PollFlags::empty())], PollTimeout::NONE)?;
        }
        ["delete", name, fifo] => {
            for dir in cgroup_dirs(name)? {
                fs::remove_dir(dir)?;
            }
            fs::remove_file(fifo)?;
        }
        _ => anyhow::bail!("usage: see the source"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Where a created container waits.
struct Gate {
    fifo: File,
    told: std::io::PipeWriter,
}

/// Makes the cgroups and the process; `None` is a container that failed.
fn start(
    rootfs: &Path,
    name: &str,
    filter: &str,
    gate: Option<Gate>,
) -> anyhow::Result<(Option<Pid>, Vec<PathBuf>)> {
    let filter = fs::read(filter).context("cannot read the filter")?;
    let cgroups = make_cgroups(name)?;
    let tasks: Vec<File> = cgroups
        .iter()
        .filter(|dir| !dir.starts_with(Path::new(CGROUP_ROOT).join("unified")))
        .map(|dir| OpenOptions::new().write(true).open(dir.join("tasks")))
        .collect::<Result<_, _>>()?;
    let unified: Option<OwnedFd> =
        File::open(Path::new(CGROUP_ROOT).join("unified").join(name)).map(OwnedFd::from).ok();

    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    let child = sys::clone3(namespaces, unified.as_ref().map(|dir| dir.as_fd()))?;
    if child.is_none() {
        let Err(error) = contain(rootfs, &cgroups, &tasks, &filter, gate);
        eprintln!("keg-floor: in the container: {error:#}");
    }
    Ok((child, cgroups))
}

/// Where the container's cgroup is, in every hierarchy that is mounted here.
fn cgroup_dirs(name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for hierarchy in fs::read_dir(CGROUP_ROOT)? {
        let hierarchy = hierarchy?;
        // A directory may be left where nothing is mounted.
        if hierarchy.path().join("cgroup.procs").exists() {
            dirs.push(hierarchy.path().join(name));
        }
    }
    Ok(dirs)
}

/// Makes the container's cgroups, with their limits.
fn make_cgroups(name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let dirs = cgroup_dirs(name)?;
    for dir in &dirs {
        fs::create_dir(dir)?;
    }
    let root = Path::new(CGROUP_ROOT);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = fs::read(root.join("cpuset").join(file))?;
        open_to_write(&root.join("cpuset").join(name).join(file))?.write_all(&value)?;
    }
    for (hierarchy, file, value) in LIMITS {
        let path = root.join(hierarchy).join(name).join(file);
        open_to_write(&path)?.write_all(value.as_bytes())?;
    }
    let devices = root.join("devices").join(name);
    open_to_write(&devices.join("devices.deny"))?.write_all(b"a")?;
    let mut allow = open_to_write(&devices.join("devices.allow"))?;
    for rule in DEVICE_RULES {
        allow.write_all(rule.as_bytes())?;
    }
    Ok(dirs)
}

fn open_to_write(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new().write(true).open(path).with_context(|| path.display().to_string())
}

/// Becomes the container. Returns only if something failed.
fn contain(
    rootfs: &Path,
    cgroups: &[PathBuf],
    tasks: &[File],
    filter: &[u8],
    gate: Option<Gate>,
) -> anyhow::Result<std::convert::Infallible> {
    for mut file in tasks {
        file.write_all(b"0")?;
    }
    unshare(CloneFlags::CLONE_NEWCGROUP)?;
    rustix::process::setsid()?;
    mount_all(rootfs)?;
    show_cgroups(cgroups)?;
    make_devices()?;
    chdir(".")?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    hide()?;
    sethostname("keg")?;
    if let Some(Gate { mut fifo, mut told }) = gate {
        told.write_all(b"!")?;
        fifo.read_exact(&mut [0])?;
    }
    setrlimit(Resource::RLIMIT_NOFILE, 1024, 1024)?;
    sys::keep_capabilities(sys::DOCKER_CAPABILITIES)?;
    sys::no_new_privileges()?;
    sys::load_filter(filter)?;
    let program = c"/bin/true";
    execve::<&CStr, &CStr>(program, &[program], &[c"PATH=/bin"])?;
    unreachable!("execve returned without an error")
}

/// Mounts what the bundle asks for, below `rootfs`, and makes `rootfs` the working directory.
fn mount_all(rootfs: &Path) -> anyhow::Result<()> {
    const NONE: Option<&str> = None;
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)?;
    mount(Some(rootfs), rootfs, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    chdir(rootfs)?;
    let fresh = |kind: &str, at: &str, flags, data: Option<&str>| {
        mount(Some(kind), at, Some(kind), flags, data).with_context(|| format!("mount {at}"))
    };
    fresh("proc", "proc", MsFlags::empty(), None)?;
    let strict = MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME;
    fresh("tmpfs", "dev", strict, Some("mode=755,size=65536k"))?;
    for dir in ["dev/pts", "dev/shm", "dev/mqueue"] {
        fs::create_dir(dir)?;
    }
    let pts = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    fresh("devpts", "dev/pts", pts, Some("newinstance,ptmxmode=0666,mode=0620,gid=5"))?;
    fresh("tmpfs", "dev/shm", guarded, Some("mode=1777,size=65536k"))?;
    fresh("mqueue", "dev/mqueue", guarded, None)?;
    fresh("sysfs", "sys", guarded | MsFlags::MS_RDONLY, None)?;
    Ok(())
}

/// Binds the container's cgroups below its `/sys/fs/cgroup`, as the mount of that type wants it.
fn show_cgroups(cgroups: &[PathBuf]) -> anyhow::Result<()> {
    const NONE: Option<&str> = None;
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let place = Path::new("sys/fs/cgroup");
    mount(Some("tmpfs"), place, Some("tmpfs"), guarded, Some("mode=755"))?;
    let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | guarded;
    for dir in cgroups {
        let hierarchy = dir.strip_prefix(CGROUP_ROOT)?.iter().next().context("no hierarchy")?;
        let shown = place.join(hierarchy);
        fs::create_dir(&shown)?;
        mount(Some(dir), &shown, NONE, MsFlags::MS_BIND, NONE)?;
        mount(NONE, &shown, NONE, again, NONE)?;
    }
    Ok(mount(NONE, place, NONE, again, NONE)?)
}

fn make_devices() -> anyhow::Result<()> {
    let mode = Mode::from_bits_truncate(0o666);
    for (path, major, minor) in DEVICES {
        mknod(path, SFlag::S_IFCHR, mode, makedev(major, minor))?;
    }
    for (target, path) in LINKS {
        symlinkat(target, rustix::fs::CWD, path)?;
    }
    Ok(())
}

/// Covers the bundle's masked paths and makes its read-only paths so.
fn hide() -> anyhow::Result<()> {
    const NONE: Option<&str> = None;
    for path in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
    ] {
        if Path::new(path).exists() {
            mount(Some("/dev/null"), path, NONE, MsFlags::MS_BIND, NONE)?;
        }
    }
    for path in ["/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware"] {
        if Path::new(path).exists() {
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=0k"))?;
        }
    }
    let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
        if Path::new(path).exists() {
            mount(Some(path), path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
            mount(Some(path), path, NONE, again, NONE)?;
        }
    }
    Ok(())
}
