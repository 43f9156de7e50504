//! The cgroup of a container: found, made, limited, entered, frozen, killed, measured, removed.
//!
//! A machine has one of three layouts, and a container has one directory in every hierarchy:
//!
//! ```text
//! v1       cpu/ID  memory/ID  pids/ID  …        one hierarchy per controller
//! hybrid   cpu/ID  memory/ID  …  unified/ID     the same, and v2 for what v1 did not take
//! v2       ID                                   everything
//! ```
//!
//! A process enters in the way that costs the kernel no global lock: it is cloned straight into the
//! directory of v2, and writes `0` into `tasks` of each hierarchy of v1 itself, while it has a
//! single thread. Limits are written before anyone enters. The many directories of v1 are made while
//! that process makes its namespaces ([`Cgroup::begin`], [`Cgroup::finish`]).
//!
//! Invariants: a limit that is asked for and cannot be set is an error, unless v2 has no such limit at all
//! ([`Cgroup::without_effect`]); one that nobody asks for never is. What [`Cgroup::create`] made it removes again if it fails. No directory that is handled
//! here is ever the root of a hierarchy.

mod convert;
mod create;
mod devices;
mod dir;
mod error;
mod freezer;
mod layout;
mod oom;
mod processes;
mod remove;
pub mod stats;
mod systemd;
mod v1;
mod v2;

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use dir::Dir;
pub use error::CgroupError;
pub use freezer::FreezerState;
pub use layout::is_unified;
use layout::{Layout, Mounted};
pub use oom::{OomNotice, OomWatch};
pub use systemd::DBusError;
use systemd::{Asked, SavedUnit, Seat};

/// What annotations begin with that ask for properties of the unit ([`Cgroup::ask_for`]).
pub const UNIT_PROPERTY_ANNOTATIONS: &str = systemd::ANNOTATION_PREFIX;

/// Whether [`Driver::Systemd`] can be used.
pub const HAS_SYSTEMD: bool = true;

/// Who makes the cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// We do, in the cgroup file systems.
    #[default]
    CgroupFs,
    /// systemd does, asked over D-Bus.
    Systemd,
}

/// The cgroup of one container, in all hierarchies.
#[derive(Debug)]
pub struct Cgroup {
    saved: SavedCgroup,
    /// What the unit is to have beside its limits, where systemd makes it.
    asked: Vec<Asked>,
    /// With systemd, between [`Cgroup::create`] and [`Cgroup::settle`].
    unsettled: Option<Unsettled>,
    progress: Progress,
    /// Whether an unprivileged user was denied a place in some hierarchy, and goes without.
    is_partial: bool,
    /// The directories that this object made, those above others first.
    made: Vec<PathBuf>,
}

/// How much of a cgroup there is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    /// Nothing of ours.
    Resolved,
    /// The directory in v2, with these controllers ([`Cgroup::begin`]).
    Begun(Vec<String>),
    /// All.
    Whole,
}

/// What is still to be done once the first process is in the cgroup.
#[derive(Debug)]
struct Unsettled {
    seat: Seat,
    /// The limits: that of processes counts the seat as long as it is there, and systemd writes
    /// others anew whenever it is told of one.
    resources: Option<LinuxResources>,
}

/// A [`Cgroup`] as `state.json` keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedCgroup {
    /// The directories in the hierarchies of v1.
    v1: Vec<SavedGroup>,
    /// The directory in the hierarchy of v2, where it is mounted.
    v2: Option<SavedGroup>,
    /// Whether the bundle named the path: then it is an error if the cgroup cannot be made.
    explicit: bool,
    /// The unit, where systemd makes the cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<SavedUnit>,
}

/// The directory of a container in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SavedGroup {
    /// v1: the controllers, or `name=…`. v2: empty.
    controllers: Vec<String>,
    mount: PathBuf,
    dir: PathBuf,
}

impl SavedGroup {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

impl Cgroup {
    /// Finds where the cgroup of the container `id` is to be, in each hierarchy of this machine.
    ///
    /// An absolute `cgroups_path` starts at the root of the hierarchy. A relative one, or the id in
    /// its place, starts at the cgroup of this process; where v2 is alone, at its parent, since v2
    /// lets no cgroup have both processes and limited children. With systemd, the path has the form
    /// `SLICE:PREFIX:NAME`. Nothing is made yet.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`] where none is mounted, [`CgroupError::Path`] for a path that
    /// names no cgroup of its own, [`CgroupError::Systemd`] if an unprivileged user has no systemd.
    pub fn resolve(
        cgroups_path: Option<&Path>,
        id: &str,
        driver: Driver,
    ) -> Result<Self, CgroupError> {
        let layout = Layout::of_this_machine()?;
        let explicit = cgroups_path.filter(|path| !path.as_os_str().is_empty());
        let (path, unit) = match driver {
            Driver::CgroupFs => (explicit.unwrap_or(Path::new(id)).to_owned(), None),
            Driver::Systemd => {
                let (unit, path) = SavedUnit::resolve(explicit, id)?;
                (Path::new("/").join(path), Some(unit))
            }
        };
        let inner = clean(&path)?;
        let place = |mounted: &Mounted, beside_own: bool| {
            let dir = if path.is_absolute() {
                mounted.mount.join(&inner)
            } else if beside_own && mounted.own != mounted.mount {
                mounted.own.parent().unwrap_or(&mounted.mount).join(&inner)
            } else {
                mounted.own.join(&inner)
            };
            SavedGroup {
                controllers: mounted.controllers.clone(),
                mount: mounted.mount.clone(),
                dir,
            }
        };
        let saved = SavedCgroup {
            v1: layout.v1.iter().map(|mounted| place(mounted, false)).collect(),
            v2: layout.v2.as_ref().map(|mounted| place(mounted, layout.is_pure_v2())),
            explicit: explicit.is_some(),
            unit,
        };
        Ok(Self::new(saved, Progress::Resolved))
    }

    /// Takes the properties of the unit out of a container's annotations
    /// (`org.systemd.property.NAME`, as runc has them). Without a unit they have no meaning.
    ///
    /// # Errors
    /// [`CgroupError::UnitProperty`] if a name or a value cannot be understood.
    pub fn ask_for(&mut self, annotations: &HashMap<String, String>) -> Result<(), CgroupError> {
        if self.saved.unit.is_some() {
            self.asked = systemd::read_annotations(annotations)?;
        }
        Ok(())
    }

    /// Restores what [`Cgroup::saved`] gave.
    ///
    /// # Errors
    /// [`CgroupError::Path`] if a directory is not strictly below its hierarchy.
    pub fn from_saved(saved: SavedCgroup) -> Result<Self, CgroupError> {
        for SavedGroup { mount, dir, .. } in saved.v1.iter().chain(&saved.v2) {
            let below = dir.strip_prefix(mount).ok().filter(|below| !below.as_os_str().is_empty());
            let plain = |path: &Path| {
                path.components()
                    .all(|part| matches!(part, Component::Normal(_) | Component::RootDir))
            };
            if !below.is_some_and(plain) || !mount.is_absolute() || !plain(mount) {
                let why = "is no cgroup below its hierarchy; the container's state is damaged";
                return Err(CgroupError::Path { path: dir.clone(), why });
            }
        }
        Ok(Self::new(saved, Progress::Whole))
    }

    fn new(saved: SavedCgroup, progress: Progress) -> Self {
        let (asked, made) = (Vec::new(), Vec::new());
        Self { saved, asked, unsettled: None, progress, is_partial: false, made }
    }

    /// What is to be kept of this cgroup between two commands.
    pub fn saved(&self) -> SavedCgroup {
        self.saved.clone()
    }

    /// The directories of the cgroup: a name of the hierarchy (its controllers, empty for v2) and
    /// the place.
    pub fn directories(&self) -> impl Iterator<Item = (String, &Path)> {
        self.groups().map(|group| (group.controllers.join(","), group.dir.as_path()))
    }

    /// Opens the ways in, for a process that is about to be cloned.
    ///
    /// # Errors
    /// [`CgroupError::Open`] if a directory or its `tasks` cannot be opened.
    pub fn entrance(&self) -> Result<Entrance, CgroupError> {
        Ok(Entrance { tasks: self.v1_entrance()?, v2: self.v2_entrance()? })
    }

    /// The part of [`Cgroup::entrance`] that a process needs only when it goes in ([`enter_v1`]).
    ///
    /// # Errors
    /// [`CgroupError::Open`].
    pub fn v1_entrance(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let open = |group: &SavedGroup| Dir::open_file_for_write(&group.dir, "tasks");
        self.saved.v1.iter().map(open).collect()
    }

    /// The part that is needed for `CLONE_INTO_CGROUP`.
    ///
    /// # Errors
    /// [`CgroupError::Open`].
    pub fn v2_entrance(&self) -> Result<Option<V2Entrance>, CgroupError> {
        let open = |group: &SavedGroup| Dir::open(&group.dir).map(V2Entrance);
        self.saved.v2.as_ref().map(open).transpose()
    }

    /// Whether a process has to enter hierarchies of v1.
    #[must_use]
    pub fn has_v1(&self) -> bool {
        !self.saved.v1.is_empty()
    }

    /// The container's place in each hierarchy, for showing it inside.
    pub fn hierarchies(&self) -> impl Iterator<Item = crate::rootfs::cgroups::Hierarchy> {
        self.groups().map(|group| crate::rootfs::cgroups::Hierarchy {
            controllers: group.controllers.clone(),
            mount: group.mount.clone(),
            directory: group.dir.clone(),
        })
    }

    /// Whether it has no place in some hierarchy, as it may be for an unprivileged user: there the
    /// container stays where its caller is.
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// The caller's place in each hierarchy: what a container sees that stays in the caller's cgroup.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`] where none is mounted.
    pub fn hierarchies_of_caller() -> Result<Vec<crate::rootfs::cgroups::Hierarchy>, CgroupError> {
        let layout = Layout::of_this_machine()?;
        let shown = |mounted: Mounted| crate::rootfs::cgroups::Hierarchy {
            controllers: mounted.controllers,
            mount: mounted.mount,
            directory: mounted.own,
        };
        Ok(layout.v1.into_iter().chain(layout.v2).map(shown).collect())
    }

    /// Where v1 is mounted: each controller with the container's path in its hierarchy, the one of v2
    /// under an empty name. Where v2 is alone, nothing.
    pub fn v1_roots(&self) -> Vec<(String, PathBuf)> {
        if self.saved.v1.is_empty() {
            return Vec::new();
        }
        let path = |group: &SavedGroup| {
            let below = group.dir.strip_prefix(&group.mount).unwrap_or(Path::new(""));
            Path::new("/").join(below)
        };
        let v1 = self.saved.v1.iter().flat_map(|group| {
            group.controllers.iter().map(move |controller| (controller.clone(), path(group)))
        });
        v1.chain(self.saved.v2.iter().map(|group| (String::new(), path(group)))).collect()
    }

    /// The cgroup below this one that `exec --cgroup` names: `PATH` in every hierarchy, or
    /// `CONTROLLER[,CONTROLLER]:PATH` in those of v1 that have one of the controllers.
    ///
    /// # Errors
    /// [`CgroupError::Path`] for a path that leads out of this cgroup.
    pub fn below(mut self, text: &str) -> Result<Self, CgroupError> {
        let (controllers, path) = match text.split_once(':') {
            Some((controllers, path)) => (Some(controllers), path),
            None => (None, text),
        };
        let path = Path::new(path);
        if path.components().any(|part| part == Component::ParentDir) {
            let why = "bad sub cgroup path: it leads out of the container's cgroup";
            return Err(CgroupError::Path { path: path.into(), why });
        }
        let relative = path.strip_prefix("/").unwrap_or(path);
        let named = |group: &SavedGroup| match controllers {
            None => true,
            Some(names) => names.split(',').any(|name| group.has(name)),
        };
        let known = |name: &str| self.groups().any(|group| group.has(name));
        if controllers.is_some_and(|names| !names.split(',').all(known)) {
            let why = "unknown controller before the colon";
            return Err(CgroupError::Path { path: text.into(), why });
        }
        for group in self.saved.v1.iter_mut().chain(&mut self.saved.v2) {
            if named(group) && !relative.as_os_str().is_empty() {
                group.dir.push(relative);
            }
        }
        Ok(self)
    }

    /// The same, but in v2 where the process `init` is, if that is below the container's cgroup and
    /// the latter hands controllers down: the kernel lets no process into such a cgroup itself.
    #[must_use]
    pub fn beside(mut self, init: nix::unistd::Pid) -> Self {
        if let Some(group) = &mut self.saved.v2
            && let Ok(Some(dir)) = Dir::open_existing(&group.dir)
            && dir.read("cgroup.subtree_control").is_ok_and(|given| !given.trim().is_empty())
            && let Some(path) = layout::v2_path_of(init)
            && let Ok(inner) = clean(&path)
        {
            let place = group.mount.join(inner);
            if place.starts_with(&group.dir) {
                group.dir = place;
            }
        }
        self
    }

    fn groups(&self) -> impl Iterator<Item = &SavedGroup> {
        self.saved.v1.iter().chain(&self.saved.v2)
    }

    /// Returns the fields of `resources` that have no effect, since only v1 has such limits and the
    /// controller is in v2 here.
    #[must_use]
    pub fn without_effect(&self, resources: &LinuxResources) -> Vec<&'static str> {
        let in_v2 = |controller: &&str| self.v1_group(controller).is_none();
        let controllers = ["memory", "cpu"].into_iter().filter(in_v2);
        controllers.flat_map(|controller| v2::without_counterpart(controller, resources)).collect()
    }

    /// The directory in the hierarchy of v1 that has a controller.
    fn v1_group(&self, controller: &str) -> Option<&SavedGroup> {
        self.saved.v1.iter().find(|group| group.has(controller))
    }
}

/// The ways into a cgroup, opened before the process that goes in is cloned.
#[derive(Debug)]
pub struct Entrance {
    tasks: Vec<OwnedFd>,
    v2: Option<V2Entrance>,
}

impl Entrance {
    /// The directory of v2, for `CLONE_INTO_CGROUP`.
    pub fn v2_dir(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(V2Entrance::fd)
    }

    /// Takes the calling thread into every hierarchy of v1, see [`enter_v1`].
    ///
    /// # Errors
    /// As [`enter_v1`].
    pub fn enter_self(&self) -> Result<(), Errno> {
        enter_v1(&self.tasks)
    }
}

/// The directory of v2.
#[derive(Debug)]
pub struct V2Entrance(Dir);

impl V2Entrance {
    /// For `CLONE_INTO_CGROUP`.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

/// Takes the calling thread into hierarchies of v1 by their `tasks`. Allocates nothing.
///
/// For a process with a single thread that is the process, and the kernel needs none of the
/// global locks that moving a process by its id takes.
///
/// # Errors
/// The kernel's answer, `ENOSPC` if a cpuset of v1 has no CPUs or memory nodes.
pub fn enter_v1(tasks: &[OwnedFd]) -> Result<(), Errno> {
    tasks.iter().try_for_each(|file| nix::unistd::write(file, b"0").map(drop))
}

/// The components of a path below the root of a hierarchy: `..` goes up, at most to the root.
fn clean(path: &Path) -> Result<PathBuf, CgroupError> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean.as_os_str().is_empty() {
        let why = "is the root of the hierarchy: a container needs a cgroup of its own";
        return Err(CgroupError::Path { path: path.into(), why });
    }
    Ok(clean)
}

#[cfg(test)]
mod tests;
