//! Deletions (OCI image-spec, layer.md, "Whiteouts").

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self as rfs, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::tar::Entry;
use super::tree::{self, c_name};
use super::{ExtractError, Extractor, Whiteouts, failed, refused};

/// Prefix of a name that deletes another.
pub(super) const WHITEOUT: &[u8] = b".wh.";

/// Prefix of names that AUFS used for itself.
const WHITEOUT_META: &[u8] = b".wh..wh.";

/// Name that deletes everything that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

impl Extractor {
    pub(super) fn whiteout(
        &mut self,
        entry: &Entry,
        above: &[u8],
        name: &[u8],
    ) -> Result<(), ExtractError> {
        if name.starts_with(WHITEOUT_META) && name != OPAQUE {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if name != OPAQUE && matches!(hidden, b"" | b"." | b"..") {
            return Err(refused(entry, "it deletes nothing that can be named"));
        }
        if self.whiteouts == Whiteouts::Delete {
            return self.delete(entry, above, (name != OPAQUE).then_some(hidden));
        }
        let parent = self.parent(entry, above)?;
        if name == OPAQUE {
            return mark_opaque(parent.as_fd(), self.whiteouts)
                .map_err(failed(entry, "mark its directory as opaque"));
        }
        let hidden = c_name(hidden).map_err(|_| refused(entry, "its name has a zero in it"))?;
        match rfs::mknodat(&parent, &hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => {
                self.usage.inodes += 1;
                Ok(())
            }
            // The layer has the name too: then only what is below it in lower layers is hidden.
            Err(Errno::EXIST) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rfs::openat(&parent, &hidden, flags, Mode::empty()) {
                    Ok(dir) => mark_opaque(dir.as_fd(), self.whiteouts)
                        .map_err(failed(entry, "mark the directory as opaque")),
                    Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                    Err(errno) => Err(failed(entry, "open the directory")(errno)),
                }
            }
            Err(errno) => Err(failed(entry, "make the whiteout")(errno)),
        }
    }

    /// Deletes one name of a directory, or all, but nothing that this archive made.
    fn delete(
        &mut self,
        entry: &Entry,
        above: &[u8],
        only: Option<&[u8]>,
    ) -> Result<(), ExtractError> {
        let parent = match self.tree.existing_dir(above) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed(entry, "open its directory"))?,
        };
        let doomed: Vec<CString> = match only {
            Some(name) => {
                vec![c_name(name).map_err(|_| refused(entry, "its name has a zero in it"))?]
            }
            None => tree::names(&parent).map_err(failed(entry, "list its directory"))?,
        };
        for name in doomed {
            let mut path = above.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            if self.made.contains(&path) {
                continue;
            }
            self.tree
                .remove(parent.as_fd(), &name)
                .map_err(failed(entry, "delete what it hides"))?;
        }
        Ok(())
    }
}

/// Lets a directory hide what lower layers have in it.
pub(super) fn mark_opaque(dir: BorrowedFd<'_>, whiteouts: Whiteouts) -> io::Result<()> {
    let key = match whiteouts {
        Whiteouts::Overlay { user_xattrs: false } => c"trusted.overlay.opaque",
        Whiteouts::Overlay { user_xattrs: true } => c"user.overlay.opaque",
        Whiteouts::Delete | Whiteouts::Literal => return Ok(()),
    };
    Ok(rfs::fsetxattr(dir, key, b"y", XattrFlags::empty())?)
}
