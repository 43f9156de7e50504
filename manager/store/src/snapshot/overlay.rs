//! Snapshots as directories of an overlayfs: an upper one, and its parents' as lower ones.
//!
//! A container with an id range of its own gets the layers through idmapped mounts, so that nothing
//! is ever chowned: the mount says `uidmap=0:H:N` and `gidmap=0:H:N`, and whoever mounts it maps the
//! lower directories. The upper directory stays as it is and belongs to the range, since overlayfs
//! cannot write through an idmapped upper mount.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::dirs::make_dir;
use super::layout::{DirectorySnapshotter, Layout, Parts};
use super::{Mount, SnapshotError};
use crate::{IdRange, Store};

/// Where the kernel tells overlayfs' settings.
const PARAMETERS: &str = "/sys/module/overlay/parameters";

/// Keeps each snapshot as the difference to its parent.
pub type OverlaySnapshotter = DirectorySnapshotter<OverlayLayout>;

/// A directory is the upper one of an overlay, or one of the lower ones.
#[derive(Debug, Clone)]
pub struct OverlayLayout {
    /// Options of every mount.
    features: Vec<String>,
    /// Whether overlayfs must keep its marks in `user.` attributes, since `trusted.` ones are for
    /// the initial user namespace's root only.
    uses_user_xattrs: bool,
}

impl OverlaySnapshotter {
    /// Returns the snapshotter of a store, after trying that its file system can be used.
    ///
    /// # Errors
    /// [`SnapshotError::NoOverlay`] if it cannot.
    pub fn new(store: &Store) -> Result<Self, SnapshotError> {
        let root = store.root().join("snapshots");
        let uses_user_xattrs = in_user_namespace();
        let features = features(uses_user_xattrs);
        probe(&root, &features).map_err(|source| SnapshotError::NoOverlay { root, source })?;
        Ok(Self::with_layout(store, OverlayLayout { features, uses_user_xattrs }))
    }
}

impl Layout for OverlayLayout {
    const NAME: &'static str = "overlayfs";
    const IS_DIFFERENCE: bool = true;

    fn fill(
        &self,
        dir: &Path,
        parent: Option<&Path>,
        id_range: Option<IdRange>,
    ) -> Result<(), SnapshotError> {
        let files = dir.join("fs");
        make_dir(&files, 0o755)?;
        make_dir(&dir.join("work"), 0o711)?;
        match parent {
            Some(parent) => inherit_root(parent, &files, id_range),
            None => own_root(&files, id_range),
        }
    }

    fn mount(&self, parts: Parts) -> Mount {
        let Parts { files, work, lower, is_view, id_range } = parts;
        if lower.is_empty() {
            let access = if is_view { "ro" } else { "rw" };
            let options = vec!["rbind".to_owned(), access.to_owned()];
            return Mount { type_: "bind".to_owned(), source: files, options };
        }
        let mut options = self.features.clone();
        if is_view {
            // The view's own directory is empty; with it there are two lower ones at least, as
            // older kernels demand of an overlay that cannot be written to.
            options.push(format!("lowerdir={}:{}", files.display(), join(&lower)));
            options.push("ro".to_owned());
        } else {
            options.push(format!("workdir={}", work.display()));
            options.push(format!("upperdir={}", files.display()));
            options.push(format!("lowerdir={}", join(&lower)));
        }
        if let Some(IdRange { base, count }) = id_range {
            options.push(format!("uidmap=0:{base}:{count}"));
            options.push(format!("gidmap=0:{base}:{count}"));
        }
        Mount { type_: "overlay".to_owned(), source: "overlay".into(), options }
    }

    fn uses_user_xattrs(&self) -> bool {
        self.uses_user_xattrs
    }
}

fn join(paths: &[PathBuf]) -> String {
    let texts: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    texts.join(":")
}

/// Gives an upper directory the owner and mode of its parent's root, since the root of an overlay
/// has those of the upper directory; owners are shifted into `range`.
fn inherit_root(parent: &Path, files: &Path, range: Option<IdRange>) -> Result<(), SnapshotError> {
    let metadata = fs::metadata(parent).map_err(SnapshotError::io("look at", parent))?;
    let shift = |id: u32| match range {
        Some(range) if id < range.count => range.base + id,
        _ => id,
    };
    chown(files, Some(shift(metadata.uid())), Some(shift(metadata.gid())))
        .map_err(SnapshotError::io("give away", files))?;
    let mode = fs::Permissions::from_mode(metadata.mode() & 0o7777);
    fs::set_permissions(files, mode).map_err(SnapshotError::io("set the mode of", files))
}

fn own_root(files: &Path, range: Option<IdRange>) -> Result<(), SnapshotError> {
    match range {
        Some(range) => chown(files, Some(range.base), Some(range.base))
            .map_err(SnapshotError::io("give away", files)),
        None => Ok(()),
    }
}

/// Returns the options that make an upper directory an exact difference: no redirects, no files
/// without their data, no index that ties it to one set of lower directories.
fn features(uses_user_xattrs: bool) -> Vec<String> {
    let parameter = |name: &str| fs::read_to_string(Path::new(PARAMETERS).join(name)).ok();
    let mut options = Vec::new();
    if parameter("index").is_some() {
        options.push("index=off".to_owned());
    }
    for name in ["redirect_dir", "metacopy"] {
        if parameter(name).is_some_and(|value| value.trim() == "Y") {
            options.push(format!("{name}=off"));
        }
    }
    if uses_user_xattrs {
        options.push("userxattr".to_owned());
    }
    options
}

/// Tells whether this process's user namespace is not the initial one, which alone maps every id
/// to itself.
fn in_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        map.split_ascii_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
    })
}

/// Makes an overlay in `root` that is mounted nowhere, and takes it away again.
fn probe(root: &Path, features: &[String]) -> io::Result<()> {
    let dir = root.join(format!("probe-{}", std::process::id()));
    let outcome = fs::create_dir(&dir).and_then(|()| probe_in(&dir, features));
    match (outcome, fs::remove_dir_all(&dir)) {
        (Err(error), _) => Err(error),
        (Ok(()), removed) => removed,
    }
}

fn probe_in(dir: &Path, features: &[String]) -> io::Result<()> {
    for name in ["lower", "upper", "work"] {
        fs::create_dir(dir.join(name))?;
    }
    let fs_fd = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, name) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        fsconfig_set_string(&fs_fd, key, dir.join(name))?;
    }
    for option in features {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&fs_fd, key, value)?,
            None => fsconfig_set_flag(&fs_fd, option.as_str())?,
        }
    }
    fsconfig_create(&fs_fd)?;
    let mount = fsmount(&fs_fd, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    // Without a writable upper directory the kernel mounts the overlay read-only, and says nothing.
    let file = rustix::fs::openat(
        &mount,
        "file",
        rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::RUSR,
    )?;
    drop(File::from(file));
    Ok(())
}
