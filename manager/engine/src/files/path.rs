//! Paths in a container, resolved by the kernel.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::FilesError;

/// Symbolic links followed at the end of a path, as in the kernel.
const LINKS_MAX: usize = 40;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// Last part of the path that was asked for.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
    /// File type and mode (stat(2)).
    pub mode: u32,
    /// When it was changed last.
    pub modified_at: Timestamp,
    /// Where it leads, if it is a link.
    pub link_target: String,
}

/// A name in a directory of a container, the directory being open.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) parent: OwnedFd,
    /// `None`: the directory itself.
    pub(super) name: Option<CString>,
    pub(super) stat: Stat,
    /// Path of the directory, as it was resolved from: for the extraction and for texts.
    pub(super) dir: PathBuf,
}

/// A path as people type it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// Without what says that it must be a directory.
    pub(super) path: PathBuf,
    /// It ends in a slash, or in `/.`.
    pub(super) must_be_dir: bool,
    /// It ends in `/.`, or is `.`: what is in the directory is meant.
    pub(super) contents_only: bool,
}

impl Asked {
    pub(super) fn parse(text: &str) -> Self {
        let contents_only = text == "." || text.ends_with("/.");
        let must_be_dir = contents_only || text.ends_with('/') || text.is_empty();
        let path = Path::new("/").join(text.trim_start_matches('/'));
        // Takes "." and slashes away; ".." stays, since only the kernel knows what it means.
        Self { path: path.components().collect(), must_be_dir, contents_only }
    }

    /// Last part of the path; the root's is a slash.
    pub(super) fn name(&self) -> String {
        self.path.file_name().map_or_else(|| "/".to_owned(), |name| name.to_string_lossy().into())
    }
}

/// Opens a directory below the root of a container; links in it end there.
pub(super) fn open_dir(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rfs::openat2(&root, path, flags, Mode::empty(), resolve) {
            // A rename anywhere on the system can make the kernel unsure about `..`.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Finds a path below the root of a container; with `follow`, what a link in the end leads to.
pub(super) fn find(root: impl AsFd, asked: &Asked, follow: bool) -> Result<Found, FilesError> {
    let mut path = asked.path.clone();
    for _ in 0..LINKS_MAX {
        let at = |action| FilesError::at(action, &path);
        let name = match path.components().next_back() {
            Some(std::path::Component::Normal(name)) => name.to_owned(),
            // The root, or something above which only the kernel can tell.
            _ => {
                let parent = open_dir(&root, &path).map_err(at("open"))?;
                let stat = rfs::fstat(&parent).map_err(at("look at"))?;
                return Ok(Found { parent, name: None, stat, dir: path });
            }
        };
        let dir = path.parent().unwrap_or(Path::new("/")).to_owned();
        let parent = open_dir(&root, &dir).map_err(at("open"))?;
        let stat = rfs::statat(&parent, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at("look at"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink && (follow || asked.must_be_dir) {
            let target = rfs::readlinkat(&parent, name.as_os_str(), Vec::new())
                .map_err(at("read the link"))?;
            path = dir.join(OsStr::from_bytes(target.to_bytes()));
            continue;
        }
        if asked.must_be_dir && kind != FileType::Directory {
            return Err(FilesError::NotADirectory { path: path.to_string_lossy().into_owned() });
        }
        let name = CString::new(name.as_bytes())
            .map_err(|_| FilesError::NotFound { path: path.to_string_lossy().into_owned() })?;
        return Ok(Found { parent, name: Some(name), stat, dir });
    }
    Err(FilesError::LinkLoop { path: asked.path.to_string_lossy().into_owned() })
}

impl Found {
    pub(super) fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }

    /// The directory that it is: its path, and it opened.
    pub(super) fn path(&self) -> PathBuf {
        match &self.name {
            Some(name) => self.dir.join(OsStr::from_bytes(name.to_bytes())),
            None => self.dir.clone(),
        }
    }

    /// Describes it under the name that was asked for.
    pub(super) fn describe(&self, name: String) -> PathStat {
        let link_target = match &self.name {
            Some(link) if FileType::from_raw_mode(self.stat.st_mode) == FileType::Symlink => {
                rfs::readlinkat(&self.parent, link, Vec::new())
                    .map(|target| target.to_string_lossy().into_owned())
                    .unwrap_or_default()
            }
            _ => String::new(),
        };
        let nanos = i32::try_from(self.stat.st_mtime_nsec).unwrap_or_default();
        PathStat {
            name,
            size_bytes: u64::try_from(self.stat.st_size).unwrap_or_default(),
            mode: self.stat.st_mode,
            modified_at: Timestamp::new(self.stat.st_mtime, nanos).unwrap_or_default(),
            link_target,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_end_of_a_path_says_what_is_meant() {
        let asked = |text: &str| {
            let asked = Asked::parse(text);
            (asked.path.to_str().unwrap().to_owned(), asked.must_be_dir, asked.contents_only)
        };

        assert_eq!(asked("/a/b"), ("/a/b".into(), false, false));
        assert_eq!(asked("a//b/"), ("/a/b".into(), true, false));
        assert_eq!(asked("/a/."), ("/a".into(), true, true));
        assert_eq!(asked("."), ("/".into(), true, true));
        assert_eq!(asked("/"), ("/".into(), true, false));
        assert_eq!(asked("/a/../b"), ("/a/../b".into(), false, false));
    }

    #[test]
    fn links_end_in_the_container_wherever_they_point() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(place.path().join("outside"), "out").unwrap();
        fs::write(root.join("etc/in"), "in").unwrap();
        symlink("../../../../etc/in", root.join("up")).unwrap();
        symlink("/etc", root.join("absolute")).unwrap();
        symlink(place.path().join("outside"), root.join("host")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = File::open(&root).unwrap();
        let found = |path: &str, follow| find(&fd, &Asked::parse(path), follow);

        assert_eq!(found("/up", true).unwrap().stat.st_size, 2);
        assert_eq!(found("/absolute/in", false).unwrap().stat.st_size, 2);
        assert_eq!(found("/../../etc/in", false).unwrap().stat.st_size, 2);
        assert!(found("/absolute/", false).unwrap().is_dir());
        assert!(!found("/absolute", false).unwrap().is_dir());
        assert_eq!(found("/absolute", false).unwrap().describe("a".into()).link_target, "/etc");
        assert!(matches!(found("/host", true), Err(FilesError::NotFound { .. })));
        assert!(matches!(found("/loop", true), Err(FilesError::LinkLoop { .. })));
        assert!(matches!(found("/etc/in/", true), Err(FilesError::NotADirectory { .. })));
        assert!(matches!(found("/missing", false), Err(FilesError::NotFound { .. })));
    }
}
