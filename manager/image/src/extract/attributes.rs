//! Owners, modes and extended attributes.

use std::borrow::Cow;
use std::os::fd::BorrowedFd;

use rustix::fs::{self as rfs, Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::tar::Entry;
use super::tree::c_name;
use super::{ExtractError, Extractor, Ownership, failed, refused};

/// Attributes to which this host gives a meaning, overlayfs and SELinux: none of an archive's business.
const HOSTS_XATTRS: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"security.selinux"];

impl Extractor {
    /// Sets owner, mode and attributes, in this order: a change of owner takes set-id bits and
    /// capabilities away.
    pub(super) fn attributes(
        &self,
        entry: &Entry,
        file: BorrowedFd<'_>,
    ) -> Result<(), ExtractError> {
        let (uid, gid) = self.owner(entry)?;
        rfs::fchown(file, Some(uid), Some(gid)).map_err(failed(entry, "give it away"))?;
        rfs::fchmod(file, Mode::from_raw_mode(entry.mode & 0o7777))
            .map_err(failed(entry, "set its mode"))?;
        for (key, value) in self.xattrs(entry) {
            let key = c_name(key).map_err(|_| refused(entry, "an attribute's name has a zero"))?;
            settle_xattr(entry, rfs::fsetxattr(file, &key, &value, XattrFlags::empty()))?;
        }
        Ok(())
    }

    pub(super) fn xattrs<'a>(
        &'a self,
        entry: &'a Entry,
    ) -> impl Iterator<Item = (&'a [u8], Cow<'a, [u8]>)> {
        let is_allowed = |key: &[u8]| !HOSTS_XATTRS.iter().any(|prefix| key.starts_with(prefix));
        entry.xattrs.iter().filter(move |(key, _)| is_allowed(key)).map(|(key, value)| {
            let value = match &self.ownership {
                Ownership::Archive => Cow::Borrowed(value.as_slice()),
                Ownership::Mapped(owners) | Ownership::Root(owners) => {
                    let mut value = value.clone();
                    owners.attribute_to_disk(key, &mut value);
                    Cow::Owned(value)
                }
            };
            (key.as_slice(), value)
        })
    }

    pub(super) fn owner(&self, entry: &Entry) -> Result<(Uid, Gid), ExtractError> {
        // The highest id means "do not change" to the kernel.
        let id = |id: u64| u32::try_from(id).ok().filter(|&id| id != u32::MAX);
        let (Some(uid), Some(gid)) = (id(entry.uid), id(entry.gid)) else {
            return Err(refused(entry, "its owner is not an id that Linux has"));
        };
        let disk = match &self.ownership {
            Ownership::Archive => (Some(uid), Some(gid)),
            Ownership::Mapped(owners) => (owners.user_to_disk(uid), owners.group_to_disk(gid)),
            Ownership::Root(owners) => (owners.user_to_disk(0), owners.group_to_disk(0)),
        };
        match disk {
            (Some(uid), Some(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
            _ => Err(refused(entry, "its owner is not an id that the container has")),
        }
    }
}

/// A file system may not have attributes of every kind; capabilities must not be lost in silence.
pub(super) fn settle_xattr(
    entry: &Entry,
    outcome: rustix::io::Result<()>,
) -> Result<(), ExtractError> {
    let has_capability = entry.xattrs.iter().any(|(key, _)| key == b"security.capability");
    match outcome {
        Err(Errno::NOTSUP) if !has_capability => Ok(()),
        other => other.map_err(failed(entry, "set an extended attribute")),
    }
}
