//! Copies that need not see what is below them: they are written straight into the new layer.
//!
//! Through an overlay each file that is made costs twice. Where nothing is there to be seen, the layer
//! alone comes to the same:
//!
//! ```text
//! COPY files /srv/app/files
//!   srv, srv/app   directories below ─▶ made in the layer, as they are there
//!   files          nothing, or an empty directory ─▶ is filled in the layer
//! COPY file /srv/app/
//!   file           nothing, or another file ─▶ is written in the layer, in its place
//! all else: a link on the way, a whiteout, a directory with something in it ─▶ by the overlay
//! ```
//!
//! Every step opens one name, without following a link, below a directory that is open.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    self as rfs, AtFlags, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use crate::tree::{self, Tree, TreeError, directory_flags};

/// Attributes by which overlayfs marks a directory that is not merged with those of its name below.
const MARKS: [&str; 4] = [
    "trusted.overlay.opaque",
    "trusted.overlay.redirect",
    "user.overlay.opaque",
    "user.overlay.redirect",
];

/// What is to be copied.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content<'a> {
    /// What is in directories.
    OfDirectories,
    /// A file that gets the destination's name, if that is no directory.
    File(&'a str),
    /// Files by their names.
    Files(&'a [&'a str]),
}

/// What a name is in the directories that make up one.
enum Found {
    Nothing,
    /// A directory: those that make it up, uppermost first.
    Directory(Vec<OwnedFd>),
    File,
    /// Something for which the overlay is asked.
    Other,
}

/// Opens the new layer `upper` for a copy to `destination`, an absolute path without `.` and `..`, with
/// the directories on the way made in it; `None` if the copy must see what is below.
///
/// # Errors
/// [`TreeError`] if a layer cannot be read or written.
pub(crate) fn open(
    lower: &[PathBuf],
    upper: &Path,
    destination: &str,
    content: Content<'_>,
) -> Result<Option<Tree>, TreeError> {
    let looking = |errno| TreeError::io("look at", destination)(errno);
    let Some(way) = way(lower, destination, content).map_err(looking)? else { return Ok(None) };
    let tree = Tree::directory(upper)?;
    copy_up(&tree, &way).map_err(TreeError::io("make the directories of", destination))?;
    Ok(Some(tree))
}

/// Returns the directories on the way that are there, by their names, if nothing else is.
fn way(
    lower: &[PathBuf],
    destination: &str,
    content: Content<'_>,
) -> Result<Option<Vec<(String, OwnedFd)>>, Errno> {
    let mut at = Vec::new();
    for dir in lower {
        at.push(rfs::open(dir, directory_flags(), Mode::empty())?);
    }
    let mut way = Vec::new();
    let mut names = destination.split('/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        match look(&at, name)? {
            Found::Nothing => return Ok(Some(way)),
            Found::Directory(dirs) => {
                way.extend(
                    dirs.first()
                        .map(OwnedFd::try_clone)
                        .transpose()
                        .map_err(io_errno)?
                        .map(|uppermost| (name.to_owned(), uppermost)),
                );
                at = dirs;
            }
            Found::File if names.peek().is_none() && matches!(content, Content::File(_)) => {
                return Ok(Some(way));
            }
            Found::File | Found::Other => return Ok(None),
        }
    }
    let is_free = match content {
        Content::OfDirectories => are_empty(&at)?,
        Content::File(name) => is_free(&at, &[name])?,
        Content::Files(names) => is_free(&at, names)?,
    };
    Ok(is_free.then_some(way))
}

fn io_errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Looks a name up as overlayfs does.
fn look(at: &[OwnedFd], name: &str) -> Result<Found, Errno> {
    let mut dirs = Vec::new();
    for dir in at {
        let stat = match rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = directory_flags() | OFlags::NOFOLLOW;
                let fd = rfs::openat(dir, name, flags, Mode::empty())?;
                let mut value = [0_u8; 256];
                if MARKS.iter().any(|mark| rfs::fgetxattr(&fd, *mark, &mut value[..]).is_ok()) {
                    return Ok(Found::Other);
                }
                dirs.push(fd);
            }
            // What is above it hides it, and it what is below.
            _ if !dirs.is_empty() => break,
            FileType::RegularFile => return Ok(Found::File),
            _ => return Ok(Found::Other),
        }
    }
    Ok(if dirs.is_empty() { Found::Nothing } else { Found::Directory(dirs) })
}

fn are_empty(at: &[OwnedFd]) -> Result<bool, Errno> {
    for dir in at {
        for entry in Dir::read_from(dir)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Tells whether files of these names can be written without a look at what they replace.
fn is_free(at: &[OwnedFd], names: &[&str]) -> Result<bool, Errno> {
    for name in names {
        if !matches!(look(at, name)?, Found::Nothing | Found::File) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes directories within each other, as those that they stand for.
fn copy_up(tree: &Tree, way: &[(String, OwnedFd)]) -> Result<(), Errno> {
    let mut made = Vec::new();
    let mut parent = tree.open_dir("")?;
    for (name, from) in way {
        rfs::mkdirat(&parent, name.as_str(), Mode::from_raw_mode(0o755))?;
        let flags = directory_flags() | OFlags::NOFOLLOW;
        let to = rfs::openat(&parent, name.as_str(), flags, Mode::empty())?;
        let stat = rfs::fstat(from)?;
        tree::set_xattrs(to.as_fd(), &tree::xattrs(from.as_fd())?)?;
        rfs::fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        rfs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        parent = to.try_clone().map_err(io_errno)?;
        made.push((to, stat));
    }
    // What is made in a directory makes it newer.
    for (to, stat) in made.iter().rev() {
        let time = |tv_sec, nsec: u64| Timespec {
            tv_sec,
            tv_nsec: i64::try_from(nsec).unwrap_or_default(),
        };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        };
        rfs::futimens(to, &times)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    struct Layers {
        dir: tempfile::TempDir,
    }

    impl Layers {
        /// Two layers, the first the upper one, and a new one.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for path in ["one/srv/app", "two/srv/full/dir", "two/etc", "new"] {
                fs::create_dir_all(dir.path().join(path)).unwrap();
            }
            fs::write(dir.path().join("two/srv/full/file"), "below").unwrap();
            symlink("srv", dir.path().join("one/link")).unwrap();
            let mode = fs::Permissions::from_mode(0o2750);
            fs::set_permissions(dir.path().join("one/srv/app"), mode).unwrap();
            Self { dir }
        }

        /// What is in the new layer after it was opened for a copy; `None` if it was not.
        fn made(&self, destination: &str, content: Content<'_>) -> Option<Vec<String>> {
            let at = |name: &str| self.dir.path().join(name);
            let _ = fs::remove_dir_all(at("new"));
            fs::create_dir(at("new")).unwrap();
            open(&[at("one"), at("two")], &at("new"), destination, content).unwrap()?;
            let mut found = Vec::new();
            let mut pending = vec![at("new")];
            while let Some(dir) = pending.pop() {
                for entry in fs::read_dir(dir).unwrap() {
                    let path = entry.unwrap().path();
                    found.push(path.strip_prefix(at("new")).unwrap().display().to_string());
                    pending.push(path);
                }
            }
            found.sort();
            Some(found)
        }
    }

    #[test]
    fn directories_on_the_way_are_made_as_they_are() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let layers = Layers::new();
        let list = |paths: &[&str]| Some(paths.iter().map(ToString::to_string).collect::<Vec<_>>());
        let dirs = Content::OfDirectories;

        assert_eq!(layers.made("/new/place", dirs), list(&[]));
        assert_eq!(layers.made("/etc", dirs), list(&["etc"]));
        assert_eq!(layers.made("/srv/app/new/place", dirs), list(&["srv", "srv/app"]));
        let (made, below) = (layers.dir.path().join("new/srv"), layers.dir.path().join("one/srv"));
        let looks = |path: PathBuf| fs::metadata(path).map(|m| (m.mode(), m.mtime_nsec())).unwrap();
        assert_eq!(looks(made.join("app")), looks(below.join("app")));
        assert_eq!(looks(made), looks(below));
        assert_eq!(layers.made("/srv/full/file", Content::File("x")), list(&["srv", "srv/full"]));
        let files = ["file", "other"];
        assert_eq!(layers.made("/srv/full", Content::Files(&files)), list(&["srv", "srv/full"]));
    }

    #[test]
    fn what_must_be_seen_is_left_to_the_overlay() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let layers = Layers::new();
        let (dirs, file) = (Content::OfDirectories, Content::File("dir"));

        assert_eq!(layers.made("/srv/full", dirs), None, "something is in it");
        assert_eq!(layers.made("/link/app", dirs), None, "a link is on the way");
        assert_eq!(layers.made("/srv/full", file), None, "a directory has the file's name");
        assert_eq!(
            layers.made("/srv/full/file", dirs),
            None,
            "a file is in the place of a directory"
        );
        assert_eq!(layers.made("/srv/full/file/below", file), None, "a file is on the way");
        assert_eq!(layers.made("/srv/full/file", Content::Files(&["a", "b"])), None);
    }
}
