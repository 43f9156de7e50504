//! What a container's life does to its volumes: made at create, held at start, given back.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

use jiff::Timestamp;
use keg_image::ImageRecord;
use keg_store::{Volume, WriteTx};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::fill::{ImageRoot, fill, is_empty};
use super::{VolumeError, check_driver, check_name, made_up_name, options, plan, remove_tree};
use crate::engine::{Engine, Shared, file_error};
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::model::{CreateRequest, Mount, MountSource, Record, VolumeMount};

/// Volumes that stand ready for a container that is being made. As long as it lives, none appears
/// or vanishes.
pub(crate) struct Made<'a> {
    shared: &'a Shared,
    /// Names of all of them.
    names: Vec<String>,
    /// Those that have no row yet.
    new: Vec<Volume>,
    changing: Option<MutexGuard<'a, ()>>,
}

/// What a container's mounts are on the host, by their targets.
#[derive(Debug, Default)]
pub(crate) struct MountSources {
    /// Paths for the runtime.
    pub(crate) paths: BTreeMap<PathBuf, PathBuf>,
    /// Directories that some of these paths go through; to be kept until the container is made.
    _open: Vec<OwnedFd>,
}

impl Engine {
    /// The mounts that come from other containers.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`], [`EngineError::InvalidField`].
    pub(crate) fn inherited_mounts(
        &self,
        request: &CreateRequest,
    ) -> Result<Vec<Mount>, EngineError> {
        let mut inherited = Vec::new();
        for text in &request.host.volumes_from {
            let (name, passed) = plan::volumes_from(text)?;
            inherited.extend(plan::passed_on(&self.find(name)?.record(), passed));
        }
        Ok(inherited)
    }
}

impl Shared {
    /// Decides what a container has mounted.
    ///
    /// # Errors
    /// Only if the kernel has no random octets.
    pub(crate) fn plan_mounts(
        &self,
        request: &CreateRequest,
        inherited: Vec<Mount>,
        image: &ImageRecord,
    ) -> Result<Vec<Mount>, EngineError> {
        let config = image.config.config().as_ref();
        let of_image = config.and_then(|config| config.volumes().clone()).unwrap_or_default();
        plan::plan(&request.host.mounts, inherited, &of_image, made_up_name)
    }

    /// Makes the directories of the volumes that are not there yet, and fills those that are
    /// empty with what the image has.
    ///
    /// # Errors
    /// [`VolumeError`]. Nothing new is left then.
    pub(crate) fn make_volumes(
        &self,
        mounts: &[Mount],
        asked: &[Mount],
        image: &ImageRecord,
    ) -> Result<Made<'_>, EngineError> {
        let mut made = Made { shared: self, names: Vec::new(), new: Vec::new(), changing: None };
        let mut root = None;
        for mount in mounts {
            let MountSource::Volume { name, details } = &mount.source else { continue };
            check_name(name)?;
            check_driver(&details.driver)?;
            made.changing.get_or_insert_with(|| self.holds.changing());
            made.names.push(name.clone());
            let outcome = made.make(name, details, asked).and_then(|volume| {
                if details.nocopy || !details.subpath.is_empty() {
                    return Ok(());
                }
                self.fill_volume(&volume, &mount.target, image, &mut root)
            });
            if let Err(error) = outcome {
                made.undo();
                return Err(error);
            }
        }
        Ok(made)
    }

    fn fill_volume(
        &self,
        volume: &Volume,
        target: &Path,
        image: &ImageRecord,
        root: &mut Option<Option<ImageRoot>>,
    ) -> Result<(), EngineError> {
        let name = &volume.name;
        let is_mounted = !volume.options.is_empty();
        let is_held = self.holds.is_held(name);
        if volume.options.get("type").is_some_and(|kind| kind == "tmpfs") && !is_held {
            // It would be gone before anybody sees it.
            return Ok(());
        }
        let (dir, data) = (self.volume_dir(name), self.volume_data(name));
        if is_mounted && !is_held {
            options::mount(name, &volume.options, &data)?;
        }
        let filled = (|| {
            if !is_empty(&data).map_err(file_error("read", &data))? {
                return Ok(());
            }
            let fill_error = |source| VolumeError::Fill {
                name: name.clone(),
                target: target.to_owned(),
                source: Box::new(source),
            };
            if root.is_none() {
                *root = Some(self.image_root(image)?.map_err(fill_error)?);
            }
            match root.as_ref().and_then(Option::as_ref) {
                Some(root) => fill(root, target, &dir, &data, is_mounted || is_held)
                    .map_err(|source| fill_error(source).into()),
                None => Ok(()),
            }
        })();
        if is_mounted && !is_held {
            options::unmount(&data).map_err(file_error("unmount", &data))?;
        }
        filled
    }

    fn image_root(
        &self,
        image: &ImageRecord,
    ) -> Result<Result<Option<ImageRoot>, super::FillError>, EngineError> {
        let layers = match image.snapshot_parent() {
            Some(parent) => self.snapshotter.layers(&self.settings.namespace, parent)?,
            None => Vec::new(),
        };
        let scratch = self.scratch().join(made_up_name()?);
        Ok(ImageRoot::open(&layers, &scratch, self.snapshotter.uses_user_xattrs()))
    }

    /// Makes sure that the sources of a container's mounts are there, and mounts what its volumes
    /// stand for until [`Shared::release_volumes`].
    ///
    /// # Errors
    /// [`EngineError::BindSource`], [`VolumeError`]. Nothing is held then.
    pub(crate) fn hold_volumes(&self, record: &Record) -> Result<MountSources, EngineError> {
        let mut sources = MountSources::default();
        for mount in &record.mounts {
            let path = match &mount.source {
                MountSource::Bind { path, create } => make_bind_source(path, *create)
                    .and_then(|()| self.selinux.relabel_source(record, path, mount.relabel))
                    .map(|()| Some(path.clone())),
                MountSource::Volume { name, details } => {
                    self.hold_volume(record, mount, name, details, &mut sources._open).map(Some)
                }
                MountSource::Tmpfs { .. } => Ok(None),
            };
            match path {
                Ok(Some(path)) => drop(sources.paths.insert(mount.target.clone(), path)),
                Ok(None) => {}
                Err(error) => {
                    self.release_volumes(record);
                    return Err(error);
                }
            }
        }
        Ok(sources)
    }

    fn hold_volume(
        &self,
        record: &Record,
        mount: &Mount,
        name: &str,
        details: &VolumeMount,
        open: &mut Vec<OwnedFd>,
    ) -> Result<PathBuf, EngineError> {
        let volume = self
            .find_volume(name)?
            .ok_or_else(|| VolumeError::NotFound { name: name.to_owned() })?;
        let data = self.volume_data(name);
        self.make_volume_dir(name)?;
        self.holds.hold(name, &record.id, || match volume.options.is_empty() {
            true => Ok(()),
            false => options::mount(name, &volume.options, &data),
        })?;
        self.selinux.relabel_volume(record, &data, mount.relabel)?;
        self.tell_volume(
            name,
            "mount",
            &[
                ("container", record.id.as_str().to_owned()),
                ("destination", mount.target.to_string_lossy().into_owned()),
                ("read/write", (!mount.read_only).to_string()),
                ("propagation", String::new()),
            ],
        );
        if details.subpath.is_empty() {
            return Ok(data);
        }
        let below = open_below(&data, &details.subpath).map_err(|source| VolumeError::Subpath {
            name: name.to_owned(),
            subpath: details.subpath.clone(),
            source,
        })?;
        // A path through our descriptor leads to what was looked at, whatever a container that
        // has the volume mounted puts in its place meanwhile.
        let path = format!("/proc/{}/fd/{}", std::process::id(), below.as_raw_fd());
        open.push(below);
        Ok(path.into())
    }

    /// Ends a container's hold on its volumes. What cannot be unmounted is logged, and stays until
    /// the daemon starts next.
    pub(crate) fn release_volumes(&self, record: &Record) {
        for name in volume_names(&record.mounts) {
            let unmount = || {
                let data = self.volume_data(name);
                let has_options =
                    self.find_volume(name).ok().flatten().is_some_and(|v| !v.options.is_empty());
                if has_options && let Err(error) = options::unmount(&data) {
                    tracing::warn!(volume = name, %error, "cannot unmount a volume");
                }
            };
            if self.holds.release(name, &record.id, unmount) {
                let container = record.id.as_str().to_owned();
                self.tell_volume(name, "unmount", &[("container", container)]);
            }
        }
    }

    /// Remembers that a container that runs holds its volumes, after the daemon was started anew.
    pub(crate) fn adopt_volumes(&self, record: &Record) {
        for name in volume_names(&record.mounts) {
            let held: Result<(), std::convert::Infallible> =
                self.holds.hold(name, &record.id, || Ok(()));
            match held {
                Ok(()) => {}
                Err(never) => match never {},
            }
        }
    }

    /// Removes, with its container, the volumes that nobody named and nobody else uses: takes their
    /// rows out in the container's transaction. Returns their names.
    pub(crate) fn remove_anonymous_in(
        &self,
        tx: &WriteTx<'_>,
        record: &Record,
    ) -> Result<Vec<String>, EngineError> {
        let ns = &self.settings.namespace;
        let mut removed = Vec::new();
        for name in volume_names(&record.mounts) {
            let Some(volume) = tx.find_volume(ns, name)? else { continue };
            if volume.anonymous && tx.volume_users(ns, name)?.is_empty() {
                tx.delete_volume(ns, name)?;
                removed.push(name.to_owned());
            }
        }
        Ok(removed)
    }

    /// Removes the directories of volumes whose rows are gone.
    pub(crate) fn remove_volume_files(&self, names: &[String]) {
        for name in names {
            let data = self.volume_data(name);
            if let Err(error) = options::unmount(&data) {
                tracing::warn!(volume = name, %error, "cannot unmount a volume");
                continue;
            }
            self.tell_volume(name, "destroy", &[]);
            match self.set_volume_aside(name) {
                Ok(gone) => self.throw_volume(&gone),
                Err(error) => tracing::warn!(volume = name, error = %error.chain(),
                    "cannot remove the files of a removed volume"),
            }
        }
    }
}

impl Made<'_> {
    /// Returns a volume that is there, or makes its directory.
    fn make(
        &mut self,
        name: &str,
        details: &VolumeMount,
        asked: &[Mount],
    ) -> Result<Volume, EngineError> {
        if let Some(volume) = self.shared.find_volume(name)? {
            return Ok(volume);
        }
        options::check(&details.options)?;
        let is_named = |mount: &Mount| matches!(&mount.source, MountSource::Volume { name: asked, .. } if asked == name);
        let volume = Volume {
            name: name.to_owned(),
            labels: details.labels.clone(),
            options: details.options.clone(),
            anonymous: !asked.iter().any(is_named),
            created_at: Timestamp::now(),
        };
        self.shared.make_new_volume_dir(name)?;
        self.new.push(volume.clone());
        Ok(volume)
    }

    /// Whether volumes come to be with the container.
    pub(crate) fn has_new(&self) -> bool {
        !self.new.is_empty()
    }

    /// Enters the volumes, and that the container uses them, in the container's transaction.
    ///
    /// # Errors
    /// Only if the database fails.
    pub(crate) fn enter(
        &self,
        tx: &WriteTx<'_>,
        container: &ContainerId,
    ) -> Result<(), EngineError> {
        let ns = &self.shared.settings.namespace;
        for volume in &self.new {
            if tx.find_volume(ns, &volume.name)?.is_none() {
                tx.create_volume(ns, volume)?;
            }
        }
        for name in &self.names {
            tx.use_volume(ns, name, container.as_str())?;
        }
        Ok(())
    }

    /// Tells that they are there, after the transaction.
    pub(crate) fn tell(self) {
        for volume in &self.new {
            self.shared.tell_volume(&volume.name, "create", &[]);
        }
    }

    /// Removes what was made, since the container is not.
    pub(crate) fn undo(self) {
        for volume in &self.new {
            remove_tree(&self.shared.volume_dir(&volume.name));
        }
    }
}

/// The names of the volumes among some mounts.
fn volume_names(mounts: &[Mount]) -> impl Iterator<Item = &str> {
    mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume { name, .. } => Some(name.as_str()),
        _ => None,
    })
}

fn make_bind_source(path: &Path, create: bool) -> Result<(), EngineError> {
    let there = fs::symlink_metadata(path);
    let missing = matches!(&there, Err(error) if error.kind() == std::io::ErrorKind::NotFound);
    let outcome = match (missing, create) {
        (true, true) => fs::create_dir_all(path),
        _ => there.map(drop),
    };
    outcome.map_err(|source| EngineError::BindSource { path: path.to_owned(), source })
}

/// Opens a file or directory in a volume, by a way that stays in it and follows no links.
fn open_below(data: &Path, subpath: &str) -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(data, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    loop {
        match rustix::fs::openat2(&root, subpath, flags, Mode::empty(), resolve) {
            // The kernel gives up when a rename or a mount elsewhere races with `..`.
            Err(rustix::io::Errno::AGAIN) => {}
            outcome => return Ok(outcome?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_subpath_stays_in_its_volume_and_follows_no_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("data/a/b")).unwrap();
        symlink("/etc", dir.path().join("data/link")).unwrap();
        symlink("a", dir.path().join("data/inner")).unwrap();
        let data = dir.path().join("data");

        assert!(open_below(&data, "a/b").is_ok());
        for subpath in ["/etc", "..", "a/../..", "link", "inner/b", "none"] {
            assert!(open_below(&data, subpath).is_err(), "{subpath}");
        }
    }
}
