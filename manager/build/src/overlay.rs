//! Overlays that are mounted nowhere: a descriptor of their root is all there is of them.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{self as rfs, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change,
};

use crate::tree::directory_flags;

/// What an overlay is made of.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    /// What is only read, uppermost first; at least one.
    pub(crate) lower: &'a [PathBuf],
    /// What is written to, and overlayfs' own directory beside it.
    pub(crate) upper: Option<(PathBuf, PathBuf)>,
    /// Further options.
    pub(crate) features: &'a [&'a str],
}

impl Layers<'_> {
    /// Mounts them and opens the root.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn mount(&self) -> Result<OwnedFd, Errno> {
        match self.mount_by_descriptors() {
            // Before Linux 6.13 layers have names, and before 6.7 all of them are one option.
            Err(Errno::INVAL | Errno::BADF | Errno::NOSYS | Errno::OPNOTSUPP) => self.mount_aside(),
            other => other,
        }
    }

    fn mount_by_descriptors(&self) -> Result<OwnedFd, Errno> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for feature in self.features {
            match feature.split_once('=') {
                Some((key, value)) => fsconfig_set_string(&context, key, value)?,
                None => fsconfig_set_flag(&context, *feature)?,
            }
        }
        for layer in self.lower {
            fsconfig_set_fd(&context, "lowerdir+", open_path(layer)?.as_fd())?;
        }
        if let Some((upper, work)) = &self.upper {
            for (key, path) in [("upperdir", upper), ("workdir", work)] {
                fsconfig_set_string(&context, key, path)?;
            }
        }
        fsconfig_create(&context)?;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        rfs::openat(&mount, ".", directory_flags(), Mode::empty())
    }

    /// The older way must have a place: in a mount namespace of a thread's own, which goes with the
    /// thread, so that nobody ever sees it and nothing can be left.
    fn mount_aside(&self) -> Result<OwnedFd, Errno> {
        let aside = || {
            unshare(CloneFlags::CLONE_NEWNS)
                .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            let place = self.lower.first().ok_or(Errno::INVAL)?;
            self.mount_by_names(place)?;
            rfs::open(place, directory_flags(), Mode::empty())
        };
        thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, aside) {
            // It has no reason to panic.
            Ok(thread) => thread.join().unwrap_or(Err(Errno::IO)),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)),
        })
    }

    /// Mounts at `place`. The layers' names are those of descriptors, so that all fit into a page.
    fn mount_by_names(&self, place: &Path) -> Result<(), Errno> {
        let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let lower =
            self.lower.iter().map(|layer| open_path(layer)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = lower.iter().map(name).collect();
        let mut options = vec![format!("lowerdir={}", names.join(":"))];
        let mut opened = Vec::new();
        if let Some((upper, work)) = &self.upper {
            for (key, path) in [("upperdir", upper), ("workdir", work)] {
                let fd = open_path(path)?;
                options.push(format!("{key}={}", name(&fd)));
                opened.push(fd);
            }
        }
        options.extend(self.features.iter().map(ToString::to_string));
        let options = CString::new(options.join(",")).map_err(|_| Errno::INVAL)?;
        mount("overlay", place, "overlay", MountFlags::empty(), Some(options.as_c_str()))
    }
}

fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    rfs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_show_the_same_tree_and_leave_no_mount() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["one", "two", "upper", "work"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("one/only-one"), "").unwrap();
        std::fs::write(at("two/both"), "two").unwrap();
        std::fs::write(at("one/both"), "one").unwrap();
        let lower = [at("one"), at("two")];
        let layers = Layers {
            lower: &lower,
            upper: Some((at("upper"), at("work"))),
            features: &["index=off"],
        };

        for (round, root) in [Layers::mount_by_descriptors, Layers::mount_aside].iter().enumerate()
        {
            let root = match root(&layers) {
                Err(Errno::INVAL | Errno::BADF | Errno::NOSYS) if round == 0 => continue,
                root => root.unwrap(),
            };
            let open = |name: &str, flags| rfs::openat(&root, name, flags, Mode::from(0o644));
            let both = std::fs::File::from(open("both", OFlags::RDONLY).unwrap());
            assert_eq!(std::io::read_to_string(both).unwrap(), "one");
            open("only-one", OFlags::RDONLY).unwrap();
            open(&format!("new{round}"), OFlags::CREATE | OFlags::WRONLY).unwrap();
            assert!(at("upper").join(format!("new{round}")).is_file());
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
            assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");
        }
    }
}
