//! Which hierarchies this machine has, and where this process is in them.
//!
//! `/proc/self/cgroup` names every hierarchy. Where each is mounted is guessed first, since nearly
//! every machine follows the same convention and `/proc/self/mountinfo` grows with every container;
//! a guess counts only if the directory of this process has a control file that only this version of
//! cgroups has. If one guess fails, `mountinfo` is read and decides for all.
//!
//! ```text
//! v1       /sys/fs/cgroup/{cpu,memory,…}
//! hybrid   /sys/fs/cgroup/{cpu,memory,…}, and v2 on /sys/fs/cgroup/unified
//! v2       /sys/fs/cgroup
//! ```

use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::AccessFlags;

use super::dir::read_text;
use super::error::CgroupError;
use crate::mount_table::{self, MountLine};

const MEMBERSHIP: &str = "/proc/self/cgroup";
const MOUNTS: &str = "/proc/self/mountinfo";
const ROOT: &str = "/sys/fs/cgroup";

/// One hierarchy as it is mounted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    /// v1: the controllers of the hierarchy, or `name=…`. v2: empty.
    pub(super) controllers: Vec<String>,
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// The directory below `mount` that stands for the cgroup of this process.
    pub(super) own: PathBuf,
}

/// All hierarchies of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Layout {
    /// The hierarchies of v1.
    pub(super) v1: Vec<Mounted>,
    /// The one hierarchy of v2, if it is mounted.
    pub(super) v2: Option<Mounted>,
}

impl Layout {
    /// Asks the kernel.
    pub(super) fn of_this_machine() -> Result<Self, CgroupError> {
        let memberships = parse_memberships(&read(MEMBERSHIP)?)?;
        let layout = match guess(&memberships) {
            Some(layout) => layout,
            None => {
                let mut mounts = parse_mounts(&read(MOUNTS)?);
                mounts.retain(CgroupMount::is_on_top);
                look_up(&memberships, &mounts)
            }
        };
        if layout.v1.is_empty() && layout.v2.is_none() {
            return Err(CgroupError::NoHierarchy);
        }
        Ok(layout)
    }

    /// Whether v2 is alone, so that it holds every controller.
    pub(super) fn is_pure_v2(&self) -> bool {
        self.v1.is_empty()
    }
}

/// Where a process is in the hierarchy of v2, as this process sees it.
pub(super) fn v2_path_of(pid: nix::unistd::Pid) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let memberships = parse_memberships(&text).ok()?;
    let v2 = memberships.into_iter().find(|membership| membership.controllers.is_empty())?;
    Some(v2.path)
}

/// A line of `/proc/self/cgroup`: a hierarchy and where this process is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Membership {
    /// Empty for v2.
    controllers: Vec<String>,
    path: PathBuf,
}

/// A mounted cgroup file system, from `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CgroupMount {
    v2: bool,
    /// The directory of the hierarchy that is visible at the mount point.
    root: PathBuf,
    point: PathBuf,
    /// v1: the options of the super block, among which are the controllers.
    options: Vec<String>,
}

impl CgroupMount {
    /// Whether it is what its mount point shows: another file system mounted there covers it, by
    /// which machines hide a hierarchy from those that cannot work with it.
    fn is_on_top(&self) -> bool {
        let expected = if self.v2 { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC };
        statfs(&self.point).is_ok_and(|stat| stat.filesystem_type() == expected)
    }
}

fn read(file: &'static str) -> Result<String, CgroupError> {
    open(file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(|file| read_text(&file))
        .map_err(|errno| CgroupError::Describe { file, errno })
}

fn guess(memberships: &[Membership]) -> Option<Layout> {
    let hybrid = memberships.iter().any(|membership| !membership.controllers.is_empty());
    let mut layout = Layout::default();
    for Membership { controllers, path } in memberships {
        if controllers.is_empty() {
            let mount = if hybrid { Path::new(ROOT).join("unified") } else { ROOT.into() };
            layout.v2 = Some(mounted(controllers, mount, path)?);
        } else {
            let joined = controllers.join(",");
            let mount = Path::new(ROOT).join(joined.strip_prefix("name=").unwrap_or(&joined));
            layout.v1.push(mounted(controllers, mount, path)?);
        }
    }
    Some(layout)
}

/// The guessed place of a hierarchy; nothing if our own cgroup is not visible in it, as in a
/// container that shares the host's cgroup namespace.
fn mounted(controllers: &[String], mount: PathBuf, path: &Path) -> Option<Mounted> {
    let own = mount.join(path.strip_prefix("/").ok()?);
    let unmistakable = if controllers.is_empty() { "cgroup.controllers" } else { "tasks" };
    nix::unistd::access(&own.join(unmistakable), AccessFlags::F_OK).is_ok().then(|| Mounted {
        controllers: controllers.to_vec(),
        mount,
        own,
    })
}

fn look_up(memberships: &[Membership], mounts: &[CgroupMount]) -> Layout {
    let mut layout = Layout::default();
    for Membership { controllers, path } in memberships {
        let v2 = controllers.is_empty();
        let found = mounts.iter().find(|mount| {
            mount.v2 == v2 && controllers.iter().all(|name| mount.options.contains(name))
        });
        let Some(CgroupMount { root, point, .. }) = found else { continue };
        // Outside what the mount shows (`/../x` in a namespace), the mount point is all there is.
        let below = path.strip_prefix(root).unwrap_or(Path::new(""));
        let below = if below.components().all(is_plain) { below } else { Path::new("") };
        let mounted = Mounted {
            controllers: controllers.clone(),
            mount: point.clone(),
            own: point.join(below),
        };
        if v2 {
            layout.v2 = Some(mounted);
        } else {
            layout.v1.push(mounted);
        }
    }
    layout
}

fn is_plain(component: std::path::Component<'_>) -> bool {
    matches!(component, std::path::Component::Normal(_))
}

/// Parses `/proc/self/cgroup`: `ID:CONTROLLERS:PATH`, where the path may hold colons.
fn parse_memberships(text: &str) -> Result<Vec<Membership>, CgroupError> {
    text.lines()
        .map(|line| {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                return Err(CgroupError::Malformed { file: MEMBERSHIP, line: line.into() });
            };
            if !path.starts_with('/') {
                return Err(CgroupError::Malformed { file: MEMBERSHIP, line: line.into() });
            }
            let controllers = controllers.split(',').filter(|name| !name.is_empty());
            Ok(Membership { controllers: controllers.map(Into::into).collect(), path: path.into() })
        })
        .collect()
}

/// Parses the cgroup file systems out of `/proc/self/mountinfo` (proc_pid_mountinfo(5)); lines that
/// make no sense are no cgroup mounts.
fn parse_mounts(text: &str) -> Vec<CgroupMount> {
    let mounts = mount_table::parse(text).into_iter();
    let cgroups = mounts.filter_map(|MountLine { root, point, kind, options, .. }| {
        let v2 = match kind.as_str() {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        Some(CgroupMount { v2, root, point, options })
    });
    cgroups.collect()
}

/// Returns whether v2 is alone on this machine: then its hierarchy is what `/sys/fs/cgroup` is.
#[must_use]
pub fn is_unified() -> bool {
    statfs("/sys/fs/cgroup").is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn membership(controllers: &[&str], path: &str) -> Membership {
        let controllers = controllers.iter().map(ToString::to_string).collect();
        Membership { controllers, path: path.into() }
    }

    #[test]
    fn memberships_are_read_with_colons_in_paths() {
        let text = "5:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/user.slice/x\n";

        let memberships = parse_memberships(text).unwrap();

        let expected = [
            membership(&["cpu", "cpuacct"], "/a:b"),
            membership(&["name=systemd"], "/"),
            membership(&[], "/user.slice/x"),
        ];
        assert_eq!(memberships, expected);
    }

    #[test]
    fn a_membership_without_a_path_is_refused() {
        for text in ["5:cpu", "5", "0::relative", ""] {
            let lines = text.lines().count();
            assert_eq!(parse_memberships(text).is_err(), lines > 0, "{text:?}");
        }
    }

    #[test]
    fn mounts_below_a_container_are_found_relative_to_their_root() {
        let mountinfo = "\
            35 31 0:32 /docker/abc /sys/fs/cgroup/mem\\040ory rw,relatime - cgroup cgroup rw,memory\n\
            36 31 0:33 / /proc rw - proc proc rw\n\
            41 31 0:38 /docker/abc /sys/fs/cgroup/unified rw shared:3 - cgroup2 none rw\n";
        let memberships = [
            membership(&["memory"], "/docker/abc/inner"),
            membership(&["pids"], "/"),
            membership(&[], "/docker/abc"),
        ];

        let layout = look_up(&memberships, &parse_mounts(mountinfo));

        let memory = Mounted {
            controllers: vec!["memory".into()],
            mount: "/sys/fs/cgroup/mem ory".into(),
            own: "/sys/fs/cgroup/mem ory/inner".into(),
        };
        assert_eq!(layout.v1, [memory]);
        assert_eq!(layout.v2.unwrap().own, Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn a_path_outside_of_the_mount_never_leaves_it() {
        let mountinfo = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 none rw\n";

        let layout = look_up(&[membership(&[], "/../../x")], &parse_mounts(mountinfo));

        assert_eq!(layout.v2.unwrap().own, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn this_machine_has_a_layout_in_which_we_are() {
        let layout = Layout::of_this_machine().unwrap();

        for mounted in layout.v1.iter().chain(&layout.v2) {
            assert!(mounted.own.starts_with(&mounted.mount));
            assert!(mounted.own.join("cgroup.procs").exists(), "{mounted:?}");
        }
    }

    #[test]
    fn a_guess_and_the_mount_table_agree_on_this_machine() {
        let memberships = parse_memberships(&read(MEMBERSHIP).unwrap()).unwrap();
        let looked_up = look_up(&memberships, &parse_mounts(&read(MOUNTS).unwrap()));

        let guessed = guess(&memberships);

        if let Some(guessed) = guessed {
            assert_eq!(guessed, looked_up);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,200}") {
            let _ = parse_memberships(&text);
            let _ = parse_mounts(&text);
        }

        #[test]
        fn a_mount_line_gives_back_the_path_that_was_escaped(path in "/[a-z \\\\]{0,20}") {
            let escaped = path.replace('\\', r"\134").replace(' ', r"\040");
            let line = format!("1 2 0:3 / {escaped} rw - cgroup2 none rw");
            prop_assert_eq!(&parse_mounts(&line)[0].point, Path::new(&path));
        }
    }
}
