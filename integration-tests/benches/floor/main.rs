//! The floor: the system calls that the runtime benchmark's bundle demands, and nothing else.
//!
//! It knows the bundle by heart (see `group_runtime.rs`, which writes it): no config.json is read, no
//! state is kept, no error is explained. What `keg-runtime` takes beyond it is the price of being an
//! OCI runtime. It starts the container, waits for it, and removes its cgroups:
//! `keg-floor ROOTFS NAME FILTER`, where FILTER holds the seccomp program, compiled.

mod sys;

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{chdir, execve, pivot_root, sethostname, symlinkat};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Limits of the bundle: hierarchy, file, value. Its device rules are runc's defaults.
const LIMITS: [(&str, &str, &str); 16] = [
    ("memory", "memory.limit_in_bytes", "268435456"),
    ("cpu", "cpu.cfs_period_us", "100000"),
    ("cpu", "cpu.cfs_quota_us", "100000"),
    ("pids", "pids.max", "256"),
    ("devices", "devices.deny", "a"),
    ("devices", "devices.allow", "c *:* m"),
    ("devices", "devices.allow", "b *:* m"),
    ("devices", "devices.allow", "c 1:3 rwm"),
    ("devices", "devices.allow", "c 1:5 rwm"),
    ("devices", "devices.allow", "c 1:7 rwm"),
    ("devices", "devices.allow", "c 1:8 rwm"),
    ("devices", "devices.allow", "c 1:9 rwm"),
    ("devices", "devices.allow", "c 5:0 rwm"),
    ("devices", "devices.allow", "c 5:2 rwm"),
    ("devices", "devices.allow", "c 136:* rwm"),
    ("devices", "devices.allow", "c 10:200 rwm"),
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
    let [rootfs, name, filter] = args else { anyhow::bail!("usage: ROOTFS NAME FILTER") };
    let (rootfs, name) = (Path::new(rootfs.to_str()?), name.to_str()?);
    let filter = fs::read(filter.to_str()?).context("cannot read the filter")?;

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
    let status = match sys::clone3(namespaces, unified.as_ref().map(|dir| dir.as_fd()))? {
        None => {
            let Err(error) = contain(rootfs, &tasks, &filter);
            eprintln!("keg-floor: in the container: {error:#}");
            return Ok(ExitCode::from(127));
        }
        Some(child) => waitpid(child, None)?,
    };
    for dir in &cgroups {
        fs::remove_dir(dir)?;
    }
    Ok(match status {
        WaitStatus::Exited(_, 0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Makes the container's cgroup in every hierarchy that is mounted here, with its limits.
fn make_cgroups(name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for hierarchy in fs::read_dir(CGROUP_ROOT)? {
        let hierarchy = hierarchy?;
        if !hierarchy.file_type()?.is_dir() {
            continue;
        }
        let dir = hierarchy.path().join(name);
        fs::create_dir(&dir)?;
        if hierarchy.file_name() == "cpuset" {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(dir.join(file), fs::read(hierarchy.path().join(file))?)?;
            }
        }
        made.push(dir);
    }
    for (hierarchy, file, value) in LIMITS {
        let path = Path::new(CGROUP_ROOT).join(hierarchy).join(name).join(file);
        OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())?;
    }
    Ok(made)
}

/// Becomes the container. Returns only if something failed.
fn contain(
    rootfs: &Path,
    tasks: &[File],
    filter: &[u8],
) -> anyhow::Result<std::convert::Infallible> {
    for mut file in tasks {
        file.write_all(b"0")?;
    }
    unshare(CloneFlags::CLONE_NEWCGROUP)?;
    rustix::process::setsid()?;
    mount_all(rootfs)?;
    make_devices()?;
    chdir(".")?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    hide()?;
    sethostname("floor")?;
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
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list"] {
        if Path::new(path).exists() {
            mount(Some("/dev/null"), path, NONE, MsFlags::MS_BIND, NONE)?;
        }
    }
    for path in ["/proc/acpi", "/proc/scsi", "/sys/firmware"] {
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
