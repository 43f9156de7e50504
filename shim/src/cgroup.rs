//! Where a container's cgroups are: v1, v2, or both.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The cgroups of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cgroups {
    /// Controllers of v1 and the directory of the process's cgroup in each.
    pub(crate) v1: HashMap<String, PathBuf>,
    /// Its cgroup of v2.
    pub(crate) v2: Option<PathBuf>,
}

/// The cgroups of a process are not known.
#[derive(Debug, thiserror::Error)]
#[error("find the cgroups of process {pid}")]
pub(crate) struct CgroupError {
    pid: i32,
    #[source]
    source: io::Error,
}

/// A process could not be taken into a cgroup.
#[derive(Debug, thiserror::Error)]
#[error(
    "move the shim into the cgroup {path:?} (ShimCgroup in the runtime options): make the cgroup first, or leave the option out"
)]
pub struct JoinError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Cgroups {
    /// Finds the cgroups of a live process.
    pub(crate) fn of(pid: i32) -> Result<Self, CgroupError> {
        let read =
            |path: &str| fs::read_to_string(path).map_err(|source| CgroupError { pid, source });
        let membership = read(&format!("/proc/{pid}/cgroup"))?;
        match Self::at_the_usual_places(&membership) {
            Some(cgroups) => Ok(cgroups),
            None => Ok(Self::parse(&membership, &read("/proc/self/mountinfo")?)),
        }
    }

    /// Looks where systems mount their hierarchies. `None` if one is not there: then the table of mounts
    /// tells, which takes the kernel milliseconds to write where there are hundreds of containers.
    fn at_the_usual_places(membership: &str) -> Option<Self> {
        let base = Path::new("/sys/fs/cgroup");
        let mut cgroups = Self::default();
        for line in membership.lines() {
            let (controllers, path) = fields_of(line)?;
            let below = path.trim_start_matches('/');
            if controllers.is_empty() {
                let mut places = [base.join(below), base.join("unified").join(below)].into_iter();
                cgroups.v2 = Some(places.find(|dir| is_on(dir, libc::CGROUP2_SUPER_MAGIC))?);
                continue;
            }
            let name = controllers.strip_prefix("name=").unwrap_or(controllers);
            let dir = base.join(name).join(below);
            if !is_on(&dir, libc::CGROUP_SUPER_MAGIC) {
                return None;
            }
            for controller in controllers.split(',') {
                cgroups.v1.insert(controller.to_owned(), dir.clone());
            }
        }
        Some(cgroups)
    }

    fn parse(membership: &str, mounts: &str) -> Self {
        let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(Mount::parse).collect();
        let mut cgroups = Self::default();
        for line in membership.lines() {
            let Some((controllers, path)) = fields_of(line) else { continue };
            if controllers.is_empty() {
                let mount = mounts.iter().find(|mount| mount.kind == "cgroup2");
                cgroups.v2 = mount.and_then(|mount| mount.dir_of(path));
                continue;
            }
            for controller in controllers.split(',') {
                let mount = mounts.iter().find(|mount| mount.has_controller(controller));
                if let Some(dir) = mount.and_then(|mount| mount.dir_of(path)) {
                    cgroups.v1.insert(controller.to_owned(), dir);
                }
            }
        }
        cgroups
    }

    /// The directory of a controller of v1.
    pub(crate) fn v1(&self, controller: &str) -> Option<&Path> {
        self.v1.get(controller).map(PathBuf::as_path)
    }
}

/// Controllers and path of a line `HIERARCHY:CONTROLLERS:PATH`.
fn fields_of(line: &str) -> Option<(&str, &str)> {
    line.split_once(':')?.1.split_once(':')
}

fn is_on(dir: &Path, magic: libc::c_long) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|found| found.f_type == magic)
}

/// Takes the calling process into the cgroup `path`, in every hierarchy that has it.
///
/// # Errors
/// [`JoinError`], also if no hierarchy has it.
pub fn join(path: &Path) -> Result<(), JoinError> {
    let failed = |source| JoinError { path: path.to_owned(), source };
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(failed)?;
    let mut joined = false;
    for mount in mounts.lines().filter_map(Mount::parse) {
        let dir = path.to_str().and_then(|path| mount.dir_of(path));
        if let Some(dir) = dir.filter(|dir| dir.is_dir()) {
            fs::write(dir.join("cgroup.procs"), "0").map_err(failed)?;
            joined = true;
        }
    }
    if joined { Ok(()) } else { Err(failed(io::ErrorKind::NotFound.into())) }
}

/// A line of mountinfo that is about cgroups.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (root, point) = (front.next()?, front.next()?);
        let mut back = back.split(' ');
        let (kind, _source, options) = (back.next()?, back.next()?, back.next()?);
        kind.starts_with("cgroup").then_some(Self { root, point, kind, options })
    }

    fn has_controller(&self, controller: &str) -> bool {
        self.kind == "cgroup" && self.options.split(',').any(|option| option == controller)
    }

    /// Where the cgroup `path` is below this mount, which may show a part of the hierarchy only.
    fn dir_of(&self, path: &str) -> Option<PathBuf> {
        let below = match self.root {
            "/" => path,
            root => path.strip_prefix(root)?,
        };
        Some(Path::new(self.point).join(below.trim_start_matches('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 20 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 20 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 20 0:28 /sub /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 20 8:1 / / rw - ext4 /dev/vda rw
";

    #[test]
    fn hybrid_layouts_are_found_also_below_a_partial_mount() {
        let membership = "5:memory:/a/b\n4:cpu,cpuacct:/sub/c\n1:name=systemd:/x\n0::/u\n";

        let cgroups = Cgroups::parse(membership, MOUNTS);

        assert_eq!(cgroups.v1("memory"), Some(Path::new("/sys/fs/cgroup/memory/a/b")));
        assert_eq!(cgroups.v1("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/c")));
        assert_eq!(cgroups.v2, Some("/sys/fs/cgroup/unified/u".into()));
        assert_eq!(cgroups.v1("pids"), None);
    }

    #[test]
    fn the_usual_places_are_those_of_the_table_of_mounts() {
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();

        if let Some(found) = Cgroups::at_the_usual_places(&membership) {
            assert_eq!(found, Cgroups::parse(&membership, &mounts));
        }
        assert_eq!(Cgroups::at_the_usual_places("2:no_such_controller:/\n"), None);
        assert_eq!(Cgroups::at_the_usual_places("0::/no/such/cgroup\n"), None);
    }

    #[test]
    fn garbage_is_no_cgroup() {
        assert_eq!(Cgroups::parse("x\n1:\n", "nonsense - \n"), Cgroups::default());
    }
}
