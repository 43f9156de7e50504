//! What the host offers, asked once.

use std::fs;
use std::path::Path;

/// Capability that every kernel that can run containers has as its last, at least.
const LAST_CAPABILITY_MIN: u8 = 37;

/// Which control groups the host has mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// Only hierarchies of version 1.
    V1,
    /// Only the unified hierarchy.
    V2,
    /// Controllers in version 1, and a unified hierarchy beside them.
    Hybrid,
}

impl CgroupVersion {
    /// `1`, `2` or `hybrid`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
            Self::Hybrid => "hybrid",
        }
    }
}

/// What the host offers.
#[derive(Debug, Clone)]
pub struct Host {
    /// Highest capability that the kernel knows.
    pub last_capability: u8,
    /// Name of the host.
    pub hostname: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Control groups.
    pub cgroups: CgroupVersion,
    /// Name of the distribution.
    pub operating_system: String,
    /// Processors online.
    pub cpus: u32,
    /// Memory.
    pub memory_bytes: u64,
}

impl Host {
    /// Asks the kernel; what it does not tell has a careful default.
    pub fn ask() -> Self {
        let uname = rustix::system::uname();
        Self {
            last_capability: number("/proc/sys/kernel/cap_last_cap").unwrap_or(LAST_CAPABILITY_MIN),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            cgroups: cgroups(Path::new("/sys/fs/cgroup")),
            operating_system: operating_system(
                &fs::read_to_string("/etc/os-release").unwrap_or_default(),
            ),
            cpus: std::thread::available_parallelism()
                .ok()
                .and_then(|cpus| u32::try_from(cpus.get()).ok())
                .unwrap_or(1),
            memory_bytes: memory_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        }
    }
}

fn number(path: &str) -> Option<u8> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Looks at what is mounted: the unified hierarchy itself, or beside others, or not at all.
fn cgroups(mount: &Path) -> CgroupVersion {
    if mount.join("cgroup.controllers").exists() {
        CgroupVersion::V2
    } else if mount.join("unified/cgroup.controllers").exists() {
        CgroupVersion::Hybrid
    } else {
        CgroupVersion::V1
    }
}

/// `PRETTY_NAME` of os-release(5).
fn operating_system(os_release: &str) -> String {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("Linux", |value| value.trim_matches('"'))
        .to_owned()
}

/// `MemTotal` of /proc/meminfo, which is in kibibytes.
fn memory_bytes(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_host_are_read_as_they_are_written() {
        assert_eq!(operating_system("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(operating_system(""), "Linux");
        assert_eq!(memory_bytes("MemTotal:       2 kB\nMemFree: 1 kB\n"), 2048);
    }

    #[test]
    fn cgroup_layouts_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cgroups(dir.path()), CgroupVersion::V1);

        fs::create_dir(dir.path().join("unified")).unwrap();
        fs::write(dir.path().join("unified/cgroup.controllers"), "").unwrap();
        assert_eq!(cgroups(dir.path()), CgroupVersion::Hybrid);

        fs::write(dir.path().join("cgroup.controllers"), "").unwrap();
        assert_eq!(cgroups(dir.path()), CgroupVersion::V2);
    }
}
