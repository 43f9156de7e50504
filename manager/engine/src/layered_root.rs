//! Reads files of a container's root file system without mounting it.
//!
//! An overlay is a stack of directories. A lookup asks them from the top down, as overlayfs does:
//!
//! ```text
//! upper   etc/passwd?  ── a file: this is it
//!   │                  ── a whiteout (character device 0:0): it is gone
//!   ▼                  ── nothing: ask below, unless the directory is opaque
//! lower 1, lower 2, …
//! ```
//!
//! Invariant: every step opens one name, with `O_NOFOLLOW`, below a directory that is already open;
//! a symbolic link is followed by starting again at the container's root with the link's text in
//! its place. So nothing in an image leads out of it, however it is made.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Symbolic links followed in one lookup, as in the kernel.
const LINKS_MAX: usize = 40;

/// Extended attribute by which overlayfs marks a directory that hides those below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A system call failed.
    #[error("read {path:?} in the container's layers")]
    Read {
        /// Path in the container.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Links lead in a circle.
    #[error("too many symbolic links in {path:?} in the container's layers")]
    LinkLoop {
        /// Path in the container.
        path: PathBuf,
    },
    /// Larger than the caller takes.
    #[error("{path:?} in the container's layers is larger than {limit_bytes} bytes")]
    TooLarge {
        /// Path in the container.
        path: PathBuf,
        /// What the caller takes.
        limit_bytes: u64,
    },
}

/// A root file system as the directories that make it up.
#[derive(Debug)]
pub struct LayeredRoot {
    /// Roots of the layers, topmost first.
    layers: Vec<OwnedFd>,
}

/// What one name in a merged directory is.
enum Found {
    Nothing,
    Directory(Vec<OwnedFd>),
    Link(OsString),
    File { parent: OwnedFd },
    Other,
}

impl LayeredRoot {
    /// Opens the layers, topmost first.
    ///
    /// # Errors
    /// [`LayerError::Read`] if one of them is not a directory that can be opened.
    pub fn open<P: AsRef<Path>>(layers: &[P]) -> Result<Self, LayerError> {
        let layers = layers
            .iter()
            .map(|layer| {
                rustix::fs::open(layer.as_ref(), directory_flags(), Mode::empty())
                    .map_err(|errno| read_error(layer.as_ref(), errno))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { layers })
    }

    /// Returns a regular file's content, or `None` if there is no such file.
    ///
    /// # Errors
    /// [`LayerError::LinkLoop`] after 40 links, [`LayerError::TooLarge`] beyond `limit_bytes`, and
    /// [`LayerError::Read`] if a system call fails for another reason than that nothing is there.
    pub fn read(&self, path: &Path, limit_bytes: u64) -> Result<Option<Vec<u8>>, LayerError> {
        let mut pending: VecDeque<OsString> = components(path);
        let mut walked: Vec<OsString> = Vec::new();
        let mut directory = self.root(path)?;
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                walked.pop();
                pending = walked.drain(..).chain(pending).collect();
                directory = self.root(path)?;
                continue;
            }
            match lookup(&directory, &name).map_err(|errno| read_error(path, errno))? {
                Found::Nothing | Found::Other => return Ok(None),
                Found::Directory(merged) => {
                    directory = merged;
                    walked.push(name);
                }
                Found::File { parent } if pending.is_empty() => {
                    return read_file(&parent, &name, path, limit_bytes).map(Some);
                }
                Found::File { .. } => return Ok(None),
                Found::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(LayerError::LinkLoop { path: path.to_owned() });
                    }
                    let target = Path::new(&target);
                    if target.is_absolute() {
                        walked.clear();
                    }
                    let steps: Vec<OsString> = walked.drain(..).chain(components(target)).collect();
                    pending = steps.into_iter().chain(pending).collect();
                    directory = self.root(path)?;
                }
            }
        }
        Ok(None)
    }

    /// The merged root directory.
    fn root(&self, path: &Path) -> Result<Vec<OwnedFd>, LayerError> {
        self.layers
            .iter()
            .map(|layer| {
                layer
                    .try_clone()
                    .map_err(|source| LayerError::Read { path: path.to_owned(), source })
            })
            .collect()
    }
}

/// Looks one name up in a merged directory.
fn lookup(directory: &[OwnedFd], name: &OsStr) -> Result<Found, Errno> {
    let mut merged = Vec::new();
    for layer in directory {
        let stat = match rustix::fs::statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below = rustix::fs::openat(layer, name, directory_flags(), Mode::empty())?;
                let opaque = is_opaque(&below);
                merged.push(below);
                if opaque {
                    break;
                }
            }
            // Whatever is not a directory hides what is below, and a directory above hides it.
            _ if !merged.is_empty() => break,
            FileType::CharacterDevice if stat.st_rdev == 0 => return Ok(Found::Nothing),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(layer, name, Vec::new())?;
                return Ok(Found::Link(OsStr::from_bytes(target.to_bytes()).to_owned()));
            }
            FileType::RegularFile => return Ok(Found::File { parent: rustix::io::dup(layer)? }),
            _ => return Ok(Found::Other),
        }
    }
    Ok(if merged.is_empty() { Found::Nothing } else { Found::Directory(merged) })
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    matches!(rustix::fs::fgetxattr(directory, OPAQUE, &mut value[..]), Ok(1) if value == *b"y")
}

fn read_file(
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
    limit_bytes: u64,
) -> Result<Vec<u8>, LayerError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty())
        .map_err(|errno| read_error(path, errno))?;
    let mut content = Vec::new();
    std::fs::File::from(file)
        .take(limit_bytes + 1)
        .read_to_end(&mut content)
        .map_err(|source| LayerError::Read { path: path.to_owned(), source })?;
    if content.len() as u64 > limit_bytes {
        return Err(LayerError::TooLarge { path: path.to_owned(), limit_bytes });
    }
    Ok(content)
}

/// The names of a path; `.` and the root itself are none.
fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn read_error(path: &Path, errno: Errno) -> LayerError {
    LayerError::Read { path: path.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Layers {
        dir: tempfile::TempDir,
    }

    impl Layers {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("upper/etc")).unwrap();
            fs::create_dir_all(dir.path().join("lower/etc")).unwrap();
            Self { dir }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        fn read(&self, path: &str) -> Option<String> {
            let root = LayeredRoot::open(&[self.path("upper"), self.path("lower")]).unwrap();
            let content = root.read(Path::new(path), 1024).unwrap();
            content.map(|content| String::from_utf8(content).unwrap())
        }
    }

    #[test]
    fn the_topmost_layer_that_has_a_file_wins() {
        let layers = Layers::new();
        fs::write(layers.path("lower/etc/passwd"), "low").unwrap();
        fs::write(layers.path("lower/etc/group"), "low").unwrap();
        fs::write(layers.path("upper/etc/passwd"), "up").unwrap();

        assert_eq!(layers.read("/etc/passwd").as_deref(), Some("up"));
        assert_eq!(layers.read("etc/group").as_deref(), Some("low"));
        assert_eq!(layers.read("/etc/shadow"), None);
        assert_eq!(layers.read("/etc"), None);
        assert_eq!(layers.read("/etc/passwd/x"), None);
    }

    #[test]
    fn links_stay_in_the_container() {
        let layers = Layers::new();
        fs::write(layers.path("lower/etc/real"), "in").unwrap();
        fs::write(layers.path("outside"), "out").unwrap();
        symlink("../../../../../etc/real", layers.path("upper/etc/up")).unwrap();
        symlink("/etc/real", layers.path("upper/etc/absolute")).unwrap();
        symlink("../../outside", layers.path("upper/etc/escape")).unwrap();
        symlink(layers.path("outside"), layers.path("upper/etc/host")).unwrap();
        symlink("etc", layers.path("upper/alias")).unwrap();

        assert_eq!(layers.read("/etc/up").as_deref(), Some("in"));
        assert_eq!(layers.read("/etc/absolute").as_deref(), Some("in"));
        assert_eq!(layers.read("/alias/../alias/real").as_deref(), Some("in"));
        assert_eq!(layers.read("/etc/escape"), None);
        assert_eq!(layers.read("/etc/host"), None);
        assert_eq!(layers.read("/../../outside"), None);
    }

    #[test]
    fn a_circle_of_links_is_an_error() {
        let layers = Layers::new();
        symlink("b", layers.path("upper/a")).unwrap();
        symlink("a", layers.path("upper/b")).unwrap();
        let root = LayeredRoot::open(&[layers.path("upper")]).unwrap();

        assert!(matches!(root.read(Path::new("/a"), 9), Err(LayerError::LinkLoop { .. })));
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let layers = Layers::new();
        fs::write(layers.path("upper/etc/passwd"), "0123456789").unwrap();
        let root = LayeredRoot::open(&[layers.path("upper")]).unwrap();

        assert!(root.read(Path::new("/etc/passwd"), 10).unwrap().is_some());
        assert!(matches!(
            root.read(Path::new("/etc/passwd"), 9),
            Err(LayerError::TooLarge { limit_bytes: 9, .. })
        ));
    }

    #[test]
    fn whiteouts_and_opaque_directories_hide_what_is_below() {
        let layers = Layers::new();
        fs::write(layers.path("lower/etc/passwd"), "low").unwrap();
        fs::create_dir_all(layers.path("lower/srv")).unwrap();
        fs::create_dir_all(layers.path("upper/srv")).unwrap();
        fs::write(layers.path("lower/srv/file"), "low").unwrap();
        let whiteout = nix::sys::stat::mknod(
            &layers.path("upper/etc/passwd"),
            nix::sys::stat::SFlag::S_IFCHR,
            nix::sys::stat::Mode::empty(),
            0,
        );
        let opaque = rustix::fs::setxattr(
            layers.path("upper/srv"),
            OPAQUE,
            b"y",
            rustix::fs::XattrFlags::empty(),
        );
        if whiteout.is_err() || opaque.is_err() {
            eprintln!("skipped: needs CAP_MKNOD and CAP_SYS_ADMIN");
            return;
        }

        assert_eq!(layers.read("/etc/passwd"), None);
        assert_eq!(layers.read("/srv/file"), None);
    }
}
