//! Overlays: of any number of layers, owners mapped or not, on every kernel that can.
//!
//! ```text
//! by descriptors   fsopen, lowerdir+=FD …, fsmount, move_mount              since Linux 6.13; mapped 6.15
//! by paths         mount(2), /proc/self/fd/N as names, within one page      before
//! aside            the same, in a mount namespace of a thread's own,        before, if owners are mapped
//!                  and a copy of that mount out of it
//! ```
//!
//! Before Linux 6.15 each layer must be a mount of the caller's mount namespace, which a detached copy with
//! mapped owners is not. The thread's namespace is where such copies are attached: the host's never
//! shows them, and whatever happens, they go with the thread.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountPropagationFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change,
    open_tree,
};

use super::{
    Options, RootfsError, Target, attach, c_string, clone_tree, map_owners, mount_attributes,
    open_directory,
};
use crate::sys;

/// Tells what the kernel refused from what we could not prepare.
#[derive(Debug)]
pub(super) enum OverlayError {
    Kernel(Errno),
    Rootfs(RootfsError),
}

impl OverlayError {
    /// The error of a mount of which `refused` tells what the kernel said.
    pub(super) fn of(self, refused: impl FnOnce(Errno) -> RootfsError) -> RootfsError {
        match self {
            Self::Kernel(errno) => refused(errno),
            Self::Rootfs(error) => error,
        }
    }
}

impl From<RootfsError> for OverlayError {
    fn from(error: RootfsError) -> Self {
        Self::Rootfs(error)
    }
}

impl From<Errno> for OverlayError {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

impl From<io::Error> for OverlayError {
    fn from(error: io::Error) -> Self {
        Self::Kernel(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

/// Mounts the overlay that `options` describe.
pub(super) fn mount_overlay(options: &Options, target: &Target) -> Result<(), OverlayError> {
    match make_overlay(options, target)? {
        Some(tree) => Ok(attach(&tree, target)?),
        None => Ok(()),
    }
}

/// Makes the overlay that `options` describe, mounted nowhere; `None` if the kernel has only the way
/// that mounts it at once, on `target`.
pub(super) fn make_overlay(
    options: &Options,
    target: &Target,
) -> Result<Option<OwnedFd>, OverlayError> {
    let overlay = Overlay::open(options)?;
    match overlay.make_by_descriptors(options) {
        // Such a kernel knows no descriptors as options, or not those of `O_PATH`, or not those of
        // detached mounts.
        Err(Errno::INVAL | Errno::BADF | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        other => return Ok(Some(other?)),
    }
    if options.id_map.is_none() {
        return overlay.mount_by_paths(options, &target.path()).map(|()| None).map_err(Into::into);
    }
    drop(overlay);
    mount_aside(options, target).map(Some)
}

/// Mounts an overlay in a mount namespace of its own, and returns a detached copy of it.
fn mount_aside(options: &Options, target: &Target) -> Result<OwnedFd, OverlayError> {
    // Where something is mounted in the thread's namespace is of no consequence: the place itself.
    let place = fs::read_link(target.path()).unwrap_or_else(|_| PathBuf::from("/"));
    let aside = || {
        sys::unshare_mounts()?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let overlay = Overlay::open(options)?;
        for layer in &overlay.lower {
            // On top of each other: each is named by its descriptor.
            attach(layer, &Target(open_directory(&place)?))?;
        }
        overlay.mount_by_paths(options, &place)?;
        let copy = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(open_tree(rustix::fs::CWD, &place, copy)?)
    };
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, aside)?.join() {
        Ok(outcome) => outcome,
        // It has no reason to panic.
        Err(_) => Err(OverlayError::Kernel(Errno::IO)),
    })
}

/// An overlay's layers, opened.
struct Overlay<'a> {
    lower: Vec<OwnedFd>,
    upper_and_work: Vec<(&'static str, OwnedFd)>,
    others: Vec<&'a str>,
}

impl<'a> Overlay<'a> {
    fn open(options: &'a Options) -> Result<Self, RootfsError> {
        let mut overlay =
            Self { lower: Vec::new(), upper_and_work: Vec::new(), others: Vec::new() };
        let namespace = match &options.id_map {
            Some(map) => Some(map.user_namespace().map_err(RootfsError::IdMap)?),
            None => None,
        };
        for option in &options.data {
            match option.split_once('=') {
                Some(("lowerdir", layers)) => {
                    for layer in split_layers(layers) {
                        overlay.lower.push(open_lower(&layer, namespace.as_ref())?);
                    }
                }
                Some(("upperdir", path)) => {
                    overlay.upper_and_work.push(("upperdir", open_directory(Path::new(path))?));
                }
                Some(("workdir", path)) => {
                    overlay.upper_and_work.push(("workdir", open_directory(Path::new(path))?));
                }
                _ => overlay.others.push(option),
            }
        }
        Ok(overlay)
    }

    fn make_by_descriptors(&self, options: &Options) -> Result<OwnedFd, Errno> {
        let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, c"source", c"overlay")?;
        for layer in &self.lower {
            fsconfig_set_fd(&context, c"lowerdir+", layer)?;
        }
        for (name, dir) in &self.upper_and_work {
            fsconfig_set_fd(&context, *name, dir)?;
        }
        for option in &self.others {
            match option.split_once('=') {
                Some((name, value)) => fsconfig_set_string(&context, name, unquoted(value))?,
                None => fsconfig_set_flag(&context, *option)?,
            }
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, mount_attributes(options.flags))
    }

    /// The older way, where layers are named: by their descriptors, since that is short.
    fn mount_by_paths(&self, options: &Options, target: &Path) -> Result<(), Errno> {
        let by_fd = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let lower: Vec<String> = self.lower.iter().map(by_fd).collect();
        let mut data = vec![format!("lowerdir={}", lower.join(":"))];
        for (name, dir) in &self.upper_and_work {
            data.push(format!("{name}={}", by_fd(dir)));
        }
        data.extend(self.others.iter().map(ToString::to_string));
        let data = c_string(data.join(","));
        mount(c"overlay", target, c"overlay", options.flags, Some(&*data))
    }
}

fn open_lower(path: &Path, namespace: Option<&OwnedFd>) -> Result<OwnedFd, RootfsError> {
    let Some(namespace) = namespace else { return open_directory(path) };
    let tree = clone_tree(path, false, None)?;
    map_owners(&tree, namespace, path)?;
    Ok(tree)
}

/// A value as the kernel takes it alone: quotes are for lists, in which commas stand between options,
/// as SELinux' labels have them.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// Splits `lowerdir`'s value at colons, where a backslash makes a colon part of a path.
fn split_layers(layers: &str) -> Vec<PathBuf> {
    let mut paths = vec![String::new()];
    let mut chars = layers.chars();
    while let Some(char) = chars.next() {
        match (char, paths.last_mut()) {
            (':', _) => paths.push(String::new()),
            ('\\', Some(path)) => path.extend(chars.next()),
            (_, Some(path)) => path.push(char),
            (_, None) => {}
        }
    }
    paths.into_iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::{resolve_target, unmount_all};
    use super::*;

    #[test]
    fn layers_mounted_aside_have_mapped_owners_and_are_only_at_the_target() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["one", "two", "upper", "work", "rootfs"] {
            fs::create_dir(at(name)).unwrap();
        }
        for name in ["one/both", "two/both", "two/below"] {
            fs::write(at(name), name).unwrap();
        }
        let shown = |name: &str| at(name).display().to_string();
        let options = Options::parse(&[
            format!("lowerdir={}:{}", shown("one"), shown("two")),
            format!("upperdir={}", shown("upper")),
            format!("workdir={}", shown("work")),
            "uidmap=0:100000:65536".to_owned(),
            "gidmap=0:100000:65536".to_owned(),
        ])
        .unwrap();
        let target = resolve_target("", &at("rootfs")).unwrap();

        attach(&mount_aside(&options, &target).unwrap(), &target).unwrap();

        assert_eq!(fs::read_to_string(at("rootfs/both")).unwrap(), "one/both");
        assert_eq!(fs::metadata(at("rootfs/below")).unwrap().uid(), 100_000);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert_eq!(mounts.matches(&shown("")).count(), mounts.matches(&shown("rootfs")).count());
        unmount_all(&at("rootfs")).unwrap();
        assert_eq!(fs::read_dir(at("rootfs")).unwrap().count(), 0);
    }

    #[test]
    fn quotes_are_taken_off_a_value_that_is_alone() {
        assert_eq!(unquoted("\"u:object_r:t:s0:c1,c2\""), "u:object_r:t:s0:c1,c2");
        assert_eq!(unquoted("off"), "off");
        assert_eq!(unquoted("\""), "\"");
    }

    #[test]
    fn layers_are_split_at_colons_that_are_not_escaped() {
        for (text, layers) in [
            ("/a", &["/a"][..]),
            ("/a:/b:/c", &["/a", "/b", "/c"][..]),
            (r"/a\:b:/c\\d", &["/a:b", r"/c\d"][..]),
        ] {
            let expected: Vec<PathBuf> = layers.iter().map(PathBuf::from).collect();
            assert_eq!(split_layers(text), expected);
        }
    }
}
