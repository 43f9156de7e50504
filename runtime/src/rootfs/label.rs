//! The label of SELinux that the container's own file systems get (`linux.mountLabel`).
//!
//! | file system | how |
//! | --- | --- |
//! | that the host has too (proc, sysfs, cgroups …) | none: one superblock has one label |
//! | in a user namespace, all but tmpfs, ramfs, devpts, overlay | none: the kernel refuses it |
//! | mqueue | on its root directory, as other runtimes do |
//! | with a label among its own options | that |
//! | all others | the option `context=` |
//!
//! What is bound keeps its label: whose files those are decides who made the bundle.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use rustix::fs::XattrFlags;

use crate::plan::mounts::FsParameter;
use crate::sys::AsErrno as _;

/// Options by which SELinux is told a label; one excludes the others.
const OPTIONS: [&CStr; 4] = [c"context", c"fscontext", c"defcontext", c"rootcontext"];

/// File systems with one superblock for the whole machine, or for a namespace that others are in too.
const SHARED: [&CStr; 11] = [
    c"proc",
    c"sysfs",
    c"cgroup",
    c"cgroup2",
    c"devtmpfs",
    c"debugfs",
    c"tracefs",
    c"securityfs",
    c"configfs",
    c"selinuxfs",
    c"binfmt_misc",
];

/// File systems that take a label although a user namespace mounts them (the kernel's
/// `selinux_set_mnt_opts`).
const IN_USER_NAMESPACES: [&CStr; 4] = [c"tmpfs", c"ramfs", c"devpts", c"overlay"];

/// What the container's file systems are labelled with.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountLabel<'a> {
    /// `None`: whatever the kernel gives them.
    pub label: Option<&'a CStr>,
    /// Whether a user namespace of the container's mounts them.
    pub in_user_namespace: bool,
}

impl<'a> MountLabel<'a> {
    /// The value of `context=` for a file system with these options of its own.
    pub(super) fn context(&self, kind: &CStr, parameters: &[FsParameter]) -> Option<&'a CStr> {
        let labels_itself = |parameter: &FsParameter| {
            let (FsParameter::Flag(key) | FsParameter::Value(key, _)) = parameter;
            OPTIONS.contains(&key.as_c_str())
        };
        let takes_it = kind != c"mqueue"
            && !SHARED.contains(&kind)
            && (!self.in_user_namespace || IN_USER_NAMESPACES.contains(&kind))
            && !parameters.iter().any(labels_itself);
        self.label.filter(|_| takes_it)
    }

    /// The same as an option of mount(2), whose value is quoted, since a label has commas.
    pub(super) fn quoted(&self, kind: &CStr, parameters: &[FsParameter]) -> Option<Vec<u8>> {
        let label = self.context(kind, parameters)?.to_bytes();
        Some([b"context=\"", label, b"\""].concat())
    }

    /// Labels the root of a file system that takes no option, once it is made.
    pub(super) fn label_root(&self, kind: &CStr, tree: impl AsFd) -> Result<(), Errno> {
        let takes_it = kind == c"mqueue" && !self.in_user_namespace;
        let Some(label) = self.label.filter(|_| takes_it) else { return Ok(()) };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::openat(tree, c".", flags, Mode::empty())?;
        let name = c"security.selinux";
        match rustix::fs::fsetxattr(root, name, label.to_bytes(), XattrFlags::empty()) {
            // Not every policy gives labels to what is in it.
            Err(rustix::io::Errno::NOTSUP) => Ok(()),
            outcome => outcome.map_err(|errno| errno.as_errno()),
        }
    }
}

/// The label of a bundle as the kernel takes it; one with a zero byte is cut there.
pub(super) fn kernel_text(label: &str) -> CString {
    let bytes: Vec<u8> = label.bytes().take_while(|byte| *byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &CStr = c"u:object_r:t:s0:c1,c2";

    fn label(in_user_namespace: bool) -> MountLabel<'static> {
        MountLabel { label: Some(LABEL), in_user_namespace }
    }

    #[test]
    fn every_file_system_that_takes_a_label_gets_it_and_no_other() {
        let table = [
            (c"tmpfs", true, true),
            (c"devpts", true, true),
            (c"overlay", true, true),
            (c"ext4", true, false),
            (c"fuse", true, false),
            (c"proc", false, false),
            (c"sysfs", false, false),
            (c"cgroup2", false, false),
            (c"mqueue", false, false),
        ];
        for (kind, plain, in_namespace) in table {
            assert_eq!(label(false).context(kind, &[]).is_some(), plain, "{kind:?}");
            assert_eq!(label(true).context(kind, &[]).is_some(), in_namespace, "{kind:?}");
            assert_eq!(MountLabel::default().context(kind, &[]), None, "{kind:?}");
        }
    }

    #[test]
    fn a_mount_that_says_its_own_label_keeps_it() {
        let own = FsParameter::Value(c"rootcontext".to_owned(), c"u:object_r:x:s0".to_owned());
        let size = FsParameter::Value(c"size".to_owned(), c"1m".to_owned());

        assert_eq!(label(false).context(c"tmpfs", &[size.clone(), own]), None);
        assert_eq!(label(false).context(c"tmpfs", &[size]), Some(LABEL));
        let quoted = label(false).quoted(c"overlay", &[]).unwrap();
        assert_eq!(quoted, b"context=\"u:object_r:t:s0:c1,c2\"");
    }
}
