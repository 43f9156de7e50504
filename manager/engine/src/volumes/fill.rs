//! Gives an empty volume what the image has at the path where it is mounted.
//!
//! ```text
//!  layers ── overlay, read-only, detached at once ──▶ descriptor ── openat2(RESOLVE_IN_ROOT) ──▶ directory
//!                                                                                                 │ copy
//!                        _data  ◀── rename (a crash leaves _fill, which nothing names) ── _fill ◀─┘
//! ```
//!
//! Owners are copied as the image has them. Each container sees its volumes through an id map of
//! its own, so that what belongs to root here belongs to root in every container.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use keg_store::copy_directory;
use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::FillError;

/// Where content is put together before it appears.
pub(super) const STAGE: &str = "_fill";

/// The root file system of an image, for reading.
#[derive(Debug)]
pub(super) struct ImageRoot(OwnedFd);

impl ImageRoot {
    /// Brings layers together, topmost first; an image without layers has none. `scratch` is made
    /// and removed again: what is mounted there is detached at once.
    pub(super) fn open(
        layers: &[PathBuf],
        scratch: &Path,
        uses_user_xattrs: bool,
    ) -> Result<Option<Self>, FillError> {
        let mut opened = layers
            .iter()
            .map(|layer| open_dir(layer).map_err(image_error("open", layer)))
            .collect::<Result<Vec<_>, _>>()?;
        if opened.len() < 2 {
            return Ok(opened.pop().map(Self));
        }
        fs::create_dir_all(scratch).map_err(image_error("make", scratch))?;
        let merged = merge(&opened, scratch, uses_user_xattrs);
        // An empty directory that stays is found by the next who needs one.
        let _ = fs::remove_dir(scratch);
        merged.map(|root| Some(Self(root)))
    }

    /// Opens a directory of the image, as a process in the container would find it; `None` if
    /// there is none.
    fn directory(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve) {
                Ok(directory) => return Ok(Some(directory)),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                // The kernel gives up when a rename or a mount elsewhere races with `..`.
                Err(Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Mounts an overlay of the layers, opens it and detaches it. Layers are named by descriptors:
/// their number is limited by the kernel's page, and no path needs to be quoted.
fn merge(layers: &[OwnedFd], scratch: &Path, user_xattrs: bool) -> Result<OwnedFd, FillError> {
    let lower: Vec<String> =
        layers.iter().map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd())).collect();
    let mut options = format!("lowerdir={}", lower.join(":"));
    if user_xattrs {
        options.push_str(",userxattr");
    }
    let overlay = Some("overlay");
    nix::mount::mount(overlay, scratch, overlay, MsFlags::MS_RDONLY, Some(options.as_str()))
        .map_err(|errno| image_error("mount the image's layers on", scratch)(errno.into()))?;
    let opened = open_dir(scratch).map_err(image_error("open", scratch));
    nix::mount::umount2(scratch, MntFlags::MNT_DETACH)
        .map_err(|errno| image_error("unmount", scratch)(errno.into()))?;
    opened
}

/// Whether a directory has nothing in it; one that is not there has nothing.
pub(super) fn is_empty(directory: &Path) -> io::Result<bool> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Copies the image's directory `target` into the empty directory `data` of the volume at `dir`.
/// `in_use` says that a running container has it mounted, or that it is a mount: then it cannot be
/// replaced as a whole, and is filled entry by entry.
pub(super) fn fill(
    image: &ImageRoot,
    target: &Path,
    dir: &Path,
    data: &Path,
    in_use: bool,
) -> Result<(), FillError> {
    let source = image.directory(target).map_err(image_error("open", target))?;
    let Some(source) = source else { return Ok(()) };
    if in_use {
        return copy_directory(&source, data, None).map_err(FillError::Copy);
    }
    let stage = dir.join(STAGE);
    match fs::remove_dir_all(&stage) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(image_error("remove", &stage)(error));
        }
        _ => {}
    }
    fs::create_dir(&stage).map_err(image_error("make", &stage))?;
    let filled = copy_directory(&source, &stage, None).map_err(FillError::Copy).and_then(|()| {
        let sync = || rustix::fs::syncfs(open_dir(&stage)?).map_err(io::Error::from);
        sync().map_err(image_error("sync", &stage))?;
        fs::rename(&stage, data).map_err(image_error("rename", &stage))
    });
    if filled.is_err() {
        let _ = fs::remove_dir_all(&stage);
    }
    filled
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn image_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FillError {
    let path = path.to_owned();
    move |source| FillError::Image { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn content_comes_through_links_of_the_image_and_never_from_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        fs::create_dir_all(layer.join("real/sub")).unwrap();
        fs::write(layer.join("real/sub/file"), "text").unwrap();
        fs::set_permissions(layer.join("real"), fs::Permissions::from_mode(0o750)).unwrap();
        symlink("/real", layer.join("link")).unwrap();
        symlink("/../../../../etc", layer.join("out")).unwrap();
        let (volume, data) = (dir.path().join("volume"), dir.path().join("volume/_data"));
        let image = ImageRoot::open(&[layer], &dir.path().join("scratch"), false).unwrap().unwrap();
        let mut seen = Vec::new();

        for (target, in_use) in [("/link", false), ("/link", true), ("/out", false), ("/no", false)]
        {
            let _ = fs::remove_dir_all(&volume);
            fs::create_dir_all(&data).unwrap();
            fill(&image, Path::new(target), &volume, &data, in_use).unwrap();
            let mode = fs::metadata(&data).unwrap().permissions().mode() & 0o777;
            seen.push((fs::read_to_string(data.join("sub/file")).ok(), mode == 0o750));
            assert!(!volume.join(STAGE).exists());
        }

        let text = Some("text".to_owned());
        assert_eq!(seen[..2], [(text.clone(), true), (text, true)]);
        assert_eq!(seen[2..], [(None, false), (None, false)]);
        assert!(is_empty(&data).unwrap() && is_empty(Path::new("/nonexistent")).unwrap());
    }
}
