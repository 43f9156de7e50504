//! What the probe reports from inside a container.
//!
//! The probe (`src/bin/keg-probe`) fills these in, a test reads them back from JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Everything that one process sees of itself and its surroundings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Process ids, as this PID namespace counts.
    pub process: Process,
    /// User, groups, umask.
    pub identity: Identity,
    /// The five capability sets, by name ("CAP_KILL").
    pub capabilities: Capabilities,
    /// Whether execve can no longer grant rights.
    pub no_new_privileges: bool,
    /// 0: none, 2: a filter.
    pub seccomp_mode: u32,
    /// Filters in force.
    pub seccomp_filters: u32,
    /// Namespace kind (`pid`) to its identity (`pid:[4026531836]`).
    pub namespaces: BTreeMap<String, String>,
    /// The mount table, in order.
    pub mounts: Vec<MountEntry>,
    /// Lines of `/proc/self/cgroup`: controllers (comma separated, empty for v2) to path.
    pub cgroups: BTreeMap<String, String>,
    /// Resource limits by name ("RLIMIT_NOFILE"): soft and hard; `u64::MAX` for none.
    pub rlimits: BTreeMap<String, (u64, u64)>,
    /// Host name.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// Environment, in order.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Target of `/proc/self/exe`.
    pub exe: String,
    /// Open descriptors to what they point at, the probe's own excluded.
    pub fds: BTreeMap<u32, String>,
    /// Controlling terminal and its size.
    pub terminal: Option<TerminalReport>,
    /// Everything in `/dev`, subdirectories excluded.
    pub devices: BTreeMap<String, DeviceReport>,
    /// Signals, as masks: blocked, ignored, caught.
    pub signals: Signals,
    /// Value of `/proc/self/oom_score_adj`.
    pub oom_score_adj: i32,
    /// Lines of `/proc/self/uid_map`: inside, outside, length.
    pub uid_map: Vec<[u32; 3]>,
    /// Lines of `/proc/self/gid_map`.
    pub gid_map: Vec<[u32; 3]>,
    /// Network interfaces and whether they are up.
    pub interfaces: BTreeMap<String, bool>,
    /// Scheduling policy number and nice value.
    pub scheduling: Scheduling,
    /// Execution domain (personality(2)).
    pub personality: u32,
    /// Offsets of the time namespace: "monotonic" and "boottime" to seconds.
    pub time_offsets_secs: BTreeMap<String, i64>,
    /// Names in the root directory.
    pub root_entries: BTreeSet<String>,
    /// Whether writing into the root directory works: absent, or the name of the errno.
    pub root_write_error: Option<String>,
}

/// Process ids.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names of credentials(7)")]
pub struct Process {
    pub pid: i32,
    pub ppid: i32,
    pub pgid: i32,
    pub sid: i32,
}

/// Whom the process acts for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// Real, effective, saved and file-system user.
    pub uids: [u32; 4],
    /// Real, effective, saved and file-system group.
    pub gids: [u32; 4],
    /// Supplementary groups, sorted.
    pub groups: BTreeSet<u32>,
    /// File mode creation mask.
    pub umask: u32,
}

/// Capability sets (capabilities(7)).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names of capabilities(7)")]
pub struct Capabilities {
    pub effective: BTreeSet<String>,
    pub permitted: BTreeSet<String>,
    pub inheritable: BTreeSet<String>,
    pub bounding: BTreeSet<String>,
    pub ambient: BTreeSet<String>,
}

/// Signal masks, signal n being bit n - 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names of proc(5)")]
pub struct Signals {
    pub blocked: u64,
    pub ignored: u64,
    pub caught: u64,
}

/// How the kernel schedules the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scheduling {
    /// Policy number (sched(7)).
    pub policy: i32,
    /// Nice value.
    pub nice: i32,
    /// I/O priority class and level, as ioprio_get(2) packs them.
    pub io_priority: i32,
    /// Processors that it may run on, as "0-1".
    pub cpus_allowed: String,
}

/// A terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalReport {
    /// Path of the device that is descriptor 0, as the container sees it.
    pub path: String,
    /// Whether it is the controlling terminal of the process.
    pub controlling: bool,
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A directory entry in `/dev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// "c", "b", "l" (link), "d", "f", "p" or "s".
    pub kind: String,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Target of a link.
    pub target: Option<String>,
}

/// A line of mountinfo (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountEntry {
    /// Root of the mount within its file system.
    pub root: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// Options of the mount: "ro", "nosuid", …
    pub options: BTreeSet<String>,
    /// "shared:N", "master:N", "unbindable"; empty: private.
    pub propagation: Vec<String>,
    /// File system.
    pub fstype: String,
    /// Source, as given to mount.
    pub source: String,
    /// Options of the file system: "size=65536k", …
    pub super_options: BTreeSet<String>,
}

impl MountEntry {
    /// Parses a line of mountinfo; `None` if it is none.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, mount_point, options) = (mount.next()?, mount.next()?, mount.next()?);
        let mut filesystem = filesystem.split(' ');
        Some(Self {
            root: unescape(root),
            mount_point: unescape(mount_point),
            options: options.split(',').map(str::to_owned).collect(),
            propagation: mount.map(str::to_owned).collect(),
            fstype: filesystem.next()?.to_owned(),
            source: unescape(filesystem.next()?),
            super_options: filesystem.next()?.split(',').map(str::to_owned).collect(),
        })
    }

    /// Returns whether the mount has an option, be it of the mount or of the file system.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.contains(option) || self.super_options.contains(option)
    }
}

/// Undoes the kernel's octal escapes of blanks and backslashes.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(code.into());
                rest = &after[3..];
            }
            None => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

impl Report {
    /// Returns the topmost mount on `mount_point`.
    ///
    /// # Panics
    /// If nothing is mounted there.
    #[must_use]
    #[track_caller]
    pub fn mount(&self, mount_point: &str) -> &MountEntry {
        self.find_mount(mount_point)
            .unwrap_or_else(|| panic!("nothing is mounted on {mount_point}: {:#?}", self.mounts))
    }

    /// Returns the topmost mount on `mount_point`, if there is one.
    #[must_use]
    pub fn find_mount(&self, mount_point: &str) -> Option<&MountEntry> {
        self.mounts.iter().rev().find(|mount| mount.mount_point == mount_point)
    }

    /// Returns the value of an environment variable; the last wins.
    #[must_use]
    pub fn env_value(&self, name: &str) -> Option<&str> {
        self.env.iter().rev().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// Returns the cgroup path of a v1 controller, or of v2 for "".
    #[must_use]
    pub fn cgroup(&self, controller: &str) -> Option<&str> {
        self.cgroups
            .iter()
            .find(|(names, _)| names.split(',').any(|name| name == controller))
            .map(|(_, path)| path.as_str())
    }
}

/// What came of one attempt of the probe's `try`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// What was tried, as given.
    pub what: String,
    /// Name of the errno ("EPERM"); absent: it worked.
    pub errno: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_taken_apart() {
        let line =
            r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";

        let mount = MountEntry::parse(line).unwrap();

        assert_eq!(mount.root, "/mnt1");
        assert_eq!(mount.mount_point, "/mnt 2");
        assert!(mount.has("noatime") && mount.has("errors=continue"));
        assert_eq!(mount.propagation, ["master:1"]);
        assert_eq!((mount.fstype.as_str(), mount.source.as_str()), ("ext3", "/dev/root"));
    }

    #[test]
    fn a_broken_line_is_no_mount() {
        assert_eq!(MountEntry::parse("36 35 98:0 /mnt1 /mnt2 rw"), None);
        assert_eq!(MountEntry::parse(""), None);
    }
}
