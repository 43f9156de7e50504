//! Looks around and reports. What cannot be read, `/proc` not being mounted for example, stays empty.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use keg_fixtures::report::{
    Capabilities, DeviceReport, Identity, MountEntry, Process, Report, Scheduling, Signals,
    TerminalReport,
};
use keg_fixtures::sys::system_call;
use nix::net::if_::InterfaceFlags;
use nix::unistd::{getpgrp, getpid, getppid, getsid};

/// Collects the report.
pub(crate) fn report() -> Report {
    let fds = fds();
    let status = status();
    Report {
        process: process(),
        identity: identity(&status),
        capabilities: Capabilities {
            effective: capability_set(&status, "CapEff"),
            permitted: capability_set(&status, "CapPrm"),
            inheritable: capability_set(&status, "CapInh"),
            bounding: capability_set(&status, "CapBnd"),
            ambient: capability_set(&status, "CapAmb"),
        },
        no_new_privileges: number(&status, "NoNewPrivs") == 1,
        seccomp_mode: number(&status, "Seccomp"),
        seccomp_filters: number(&status, "Seccomp_filters"),
        namespaces: namespaces(),
        mounts: read("/proc/self/mountinfo").lines().filter_map(MountEntry::parse).collect(),
        cgroups: cgroups(),
        rlimits: rlimits(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        domainname: rustix::system::uname().domainname().to_string_lossy().into_owned(),
        env: env::vars_os()
            .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))
            .collect(),
        cwd: env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
        exe: link("/proc/self/exe").unwrap_or_default(),
        fds,
        terminal: terminal(),
        devices: devices(),
        signals: Signals {
            blocked: mask(&status, "SigBlk"),
            ignored: mask(&status, "SigIgn"),
            caught: mask(&status, "SigCgt"),
        },
        oom_score_adj: read("/proc/self/oom_score_adj").trim().parse().unwrap_or_default(),
        uid_map: id_map("/proc/self/uid_map"),
        gid_map: id_map("/proc/self/gid_map"),
        interfaces: interfaces(),
        scheduling: scheduling(&status),
        personality: personality(),
        time_offsets_secs: time_offsets(),
        root_entries: names("/").into_iter().collect(),
        root_write_error: crate::attempts::try_one("create:/keg-probe-was-here").errno,
    }
}

/// Describes each path, without following links; `None` where there is nothing.
pub(crate) fn stat(paths: &[String]) -> BTreeMap<&str, Option<DeviceReport>> {
    paths.iter().map(|path| (path.as_str(), device(Path::new(path)))).collect()
}

fn read(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn link(path: &str) -> Option<String> {
    fs::read_link(path).ok().map(|target| target.display().to_string())
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn status() -> BTreeMap<String, String> {
    read("/proc/self/status")
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

fn number(status: &BTreeMap<String, String>, key: &str) -> u32 {
    status.get(key).and_then(|value| value.parse().ok()).unwrap_or_default()
}

fn mask(status: &BTreeMap<String, String>, key: &str) -> u64 {
    status.get(key).and_then(|value| u64::from_str_radix(value, 16).ok()).unwrap_or_default()
}

fn process() -> Process {
    Process {
        pid: getpid().as_raw(),
        ppid: getppid().as_raw(),
        pgid: getpgrp().as_raw(),
        sid: getsid(None).map_or(-1, |sid| sid.as_raw()),
    }
}

fn identity(status: &BTreeMap<String, String>) -> Identity {
    let ids = |key: &str| -> Vec<u32> {
        let text = status.get(key).map(String::as_str).unwrap_or_default();
        text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
    };
    let four = |key: &str| ids(key).try_into().unwrap_or([u32::MAX; 4]);
    let umask = status.get("Umask").and_then(|mask| u32::from_str_radix(mask, 8).ok());
    Identity {
        uids: four("Uid"),
        gids: four("Gid"),
        groups: ids("Groups").into_iter().collect(),
        umask: umask.unwrap_or(u32::MAX),
    }
}

fn capability_set(status: &BTreeMap<String, String>, key: &str) -> BTreeSet<String> {
    let bits = mask(status, key);
    (0..64)
        .filter(|bit| bits & (1 << bit) != 0)
        .map(|bit| CAPABILITIES.get(bit).map_or_else(|| format!("CAP_{bit}"), |&n| n.to_owned()))
        .collect()
}

/// Names by number (linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

fn namespaces() -> BTreeMap<String, String> {
    let kinds = names("/proc/self/ns");
    kinds
        .into_iter()
        .filter_map(|kind| Some((kind.clone(), link(&format!("/proc/self/ns/{kind}"))?)))
        .collect()
}

fn cgroups() -> BTreeMap<String, String> {
    read("/proc/self/cgroup")
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .map(|(controllers, path)| (controllers.to_owned(), path.to_owned()))
        .collect()
}

fn rlimits() -> BTreeMap<String, (u64, u64)> {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "RLIMIT_CPU"),
        ("Max file size", "RLIMIT_FSIZE"),
        ("Max data size", "RLIMIT_DATA"),
        ("Max stack size", "RLIMIT_STACK"),
        ("Max core file size", "RLIMIT_CORE"),
        ("Max resident set", "RLIMIT_RSS"),
        ("Max processes", "RLIMIT_NPROC"),
        ("Max open files", "RLIMIT_NOFILE"),
        ("Max locked memory", "RLIMIT_MEMLOCK"),
        ("Max address space", "RLIMIT_AS"),
        ("Max file locks", "RLIMIT_LOCKS"),
        ("Max pending signals", "RLIMIT_SIGPENDING"),
        ("Max msgqueue size", "RLIMIT_MSGQUEUE"),
        ("Max nice priority", "RLIMIT_NICE"),
        ("Max realtime priority", "RLIMIT_RTPRIO"),
        ("Max realtime timeout", "RLIMIT_RTTIME"),
    ];
    let limits = read("/proc/self/limits");
    let value = |word: &str| if word == "unlimited" { u64::MAX } else { word.parse().unwrap_or(0) };
    NAMES
        .iter()
        .filter_map(|(label, name)| {
            let line = limits.lines().find_map(|line| line.strip_prefix(label))?;
            let mut words = line.split_whitespace();
            Some(((*name).to_owned(), (value(words.next()?), value(words.next()?))))
        })
        .collect()
}

/// Lists descriptors; the one that reads `/proc/self/fd` is gone again when its link is read.
fn fds() -> BTreeMap<u32, String> {
    names("/proc/self/fd")
        .into_iter()
        .filter_map(|name| Some((name.parse().ok()?, link(&format!("/proc/self/fd/{name}"))?)))
        .collect()
}

fn terminal() -> Option<TerminalReport> {
    let stdin = std::io::stdin();
    let size = rustix::termios::tcgetwinsize(&stdin).ok()?;
    Some(TerminalReport {
        path: link("/proc/self/fd/0").unwrap_or_default(),
        controlling: nix::unistd::tcgetpgrp(&stdin).is_ok() && fs::File::open("/dev/tty").is_ok(),
        width: size.ws_col,
        height: size.ws_row,
    })
}

fn devices() -> BTreeMap<String, DeviceReport> {
    names("/dev")
        .into_iter()
        .filter_map(|name| Some((name.clone(), device(&Path::new("/dev").join(&name))?)))
        .collect()
}

fn device(path: &Path) -> Option<DeviceReport> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some(DeviceReport {
        kind: kind(&metadata).to_owned(),
        major: nix::sys::stat::major(metadata.rdev()),
        minor: nix::sys::stat::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        target: path.to_str().and_then(link),
    })
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_char_device() => "c",
        () if kind.is_block_device() => "b",
        () if kind.is_symlink() => "l",
        () if kind.is_dir() => "d",
        () if kind.is_fifo() => "p",
        () if kind.is_socket() => "s",
        () => "f",
    }
}

fn id_map(path: &str) -> Vec<[u32; 3]> {
    read(path)
        .lines()
        .filter_map(|line| {
            let ids: Vec<u32> = line.split_whitespace().filter_map(|id| id.parse().ok()).collect();
            ids.try_into().ok()
        })
        .collect()
}

fn interfaces() -> BTreeMap<String, bool> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    addresses
        .map(|address| (address.interface_name, address.flags.contains(InterfaceFlags::IFF_UP)))
        .collect()
}

fn scheduling(status: &BTreeMap<String, String>) -> Scheduling {
    let stat = read("/proc/self/stat");
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    // proc(5) counts from 1, and two fields are before the parenthesis.
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse().ok());
    let io_priority = system_call(libc::SYS_ioprio_get, [1, 0, 0, 0, 0, 0]).unwrap_or(-1);
    Scheduling {
        policy: field(41).unwrap_or(-1),
        nice: field(19).unwrap_or(0),
        io_priority: i32::try_from(io_priority).unwrap_or(-1),
        cpus_allowed: status.get("Cpus_allowed_list").cloned().unwrap_or_default(),
    }
}

/// Asks by the value that changes nothing (personality(2)).
fn personality() -> u32 {
    let asked = system_call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0]);
    asked.ok().and_then(|persona| u32::try_from(persona).ok()).unwrap_or(0)
}

fn time_offsets() -> BTreeMap<String, i64> {
    read("/proc/self/timens_offsets")
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect()
}
