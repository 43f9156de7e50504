//! Paths below the container's root, resolved by the kernel and pinned by descriptors.
//!
//! A path out of an image or a specification is never used as a string: openat2(2) resolves it as
//! if the root were `/`, so `..` and absolute links stay inside and magic links are refused, and
//! what is mounted goes onto the descriptor that came out (CVE-2021-30465).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};

/// How many links one path may go through, as in the kernel.
const MAX_LINKS: u32 = 40;

/// What is created where a destination does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// The root of a container's file system.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Root {
    /// Takes a descriptor of the root directory.
    #[must_use]
    pub fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// Opens `path` with `flags` below the root, following links inside it.
    ///
    /// # Errors
    /// The kernel's; `ELOOP` for a magic link.
    pub fn open(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        self.open_how(path, flags, ResolveFlag::RESOLVE_NO_MAGICLINKS)
    }

    /// Opens `path` with `flags` below the root, without following any link.
    ///
    /// # Errors
    /// The kernel's; `ELOOP` for a link.
    pub fn open_plain(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        self.open_how(path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS)
    }

    fn open_how(&self, path: &Path, flags: OFlag, how: ResolveFlag) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | how);
        loop {
            // The kernel gives up with EAGAIN when a rename elsewhere races with `..`.
            match openat2(&self.0, path, how) {
                Err(Errno::EAGAIN) => {}
                result => return result,
            }
        }
    }

    /// Pins the place `path` names, and creates it and the directories above where they are
    /// missing. Links are followed inside the root, also those that lead nowhere yet.
    ///
    /// # Errors
    /// The kernel's; `ELOOP` after 40 links.
    pub fn open_or_create(&self, path: &Path, missing: Missing) -> Result<OwnedFd, Errno> {
        match self.open(path, OFlag::O_PATH) {
            Err(Errno::ENOENT) => self.create(path, missing),
            result => result,
        }
    }

    fn create(&self, path: &Path, missing: Missing) -> Result<OwnedFd, Errno> {
        let mut links = 0;
        let mut pending: VecDeque<OsString> = names(path).collect();
        let mut reached = PathBuf::new();
        let mut place = self.open(Path::new("/"), OFlag::O_PATH)?;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                // `reached` holds no link, so its parent is what `..` means.
                reached.pop();
                place = self.open_plain(&reached, OFlag::O_PATH)?;
                continue;
            }
            let kind = if pending.is_empty() { missing } else { Missing::Directory };
            let next = open_child_or_create(&place, &name, kind)?;
            if SFlag::from_bits_truncate(fstat(&next)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFLNK {
                reached.push(&name);
                place = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::ELOOP);
            }
            let target = PathBuf::from(readlinkat(&next, "")?);
            if target.is_absolute() {
                reached.clear();
                place = self.open(Path::new("/"), OFlag::O_PATH)?;
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                pending.push_front(name);
            }
        }
        Ok(place)
    }

    /// Pins the directory that holds `path`, created if missing, and returns it with the last name.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` if `path` names no entry of a directory.
    pub fn open_parent<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), Errno> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let parent = path.parent().unwrap_or_else(|| Path::new("/"));
        Ok((self.open_or_create(parent, Missing::Directory)?, name))
    }
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn open_child_or_create(parent: &OwnedFd, name: &OsStr, kind: Missing) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH);
    match openat2(parent, name, how) {
        Err(Errno::ENOENT) => {}
        result => return result,
    }
    let created = match kind {
        Missing::Directory => mkdirat(parent, name, Mode::from_bits_truncate(0o755)),
        Missing::File => mknodat(parent, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0),
    };
    match created {
        Ok(()) | Err(Errno::EEXIST) => openat2(parent, name, how),
        Err(errno) => Err(errno),
    }
}

/// Returns `path` without `.`, `..` and doubled slashes, absolute; `..` at the root stays there.
/// For comparing destinations as text, never for opening them.
#[must_use]
pub fn lexically_clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(OsStr::from_bytes(name.as_bytes())),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::fcntl::open;
    use proptest::prelude::*;

    use super::*;

    fn root(directory: &Path) -> Root {
        Root::new(open(directory, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap())
    }

    fn real(fd: &OwnedFd) -> PathBuf {
        use std::os::fd::AsRawFd;
        std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
    }

    #[test]
    fn missing_directories_and_the_file_are_created() {
        let dir = tempfile::tempdir().unwrap();

        let fd = root(dir.path()).open_or_create(Path::new("/a/b/c"), Missing::File).unwrap();

        assert_eq!(real(&fd), dir.path().join("a/b/c"));
        assert!(dir.path().join("a/b/c").is_file());
    }

    #[test]
    fn links_that_lead_nowhere_yet_are_followed_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("var")).unwrap();
        symlink("/run", dir.path().join("var/run")).unwrap();
        symlink("../../../../etc", dir.path().join("var/up")).unwrap();

        let root = root(dir.path());
        let run = root.open_or_create(Path::new("/var/run/x"), Missing::Directory).unwrap();
        let etc = root.open_or_create(Path::new("/var/up/y"), Missing::Directory).unwrap();

        assert_eq!(real(&run), dir.path().join("run/x"));
        assert_eq!(real(&etc), dir.path().join("etc/y"));
    }

    #[test]
    fn a_circle_of_links_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();

        let error = root(dir.path()).open_or_create(Path::new("/a/x"), Missing::File).unwrap_err();

        assert_eq!(error, Errno::ELOOP);
    }

    #[test]
    fn magic_links_are_refused() {
        let error = root(Path::new("/proc")).open(Path::new("self/root"), OFlag::O_PATH);

        assert_eq!(error.unwrap_err(), Errno::ELOOP);
    }

    #[test]
    fn cleaning_is_by_text_and_stops_at_the_root() {
        let cases =
            [("/a/./b//c", "/a/b/c"), ("proc", "/proc"), ("/../../x", "/x"), ("/a/..", "/")];
        for (path, clean) in cases {
            assert_eq!(lexically_clean(Path::new(path)), Path::new(clean), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_root(
            parts in prop::collection::vec(
                prop::sample::select(vec!["..", "a", "link", "up", "abs", "."]), 1..8)
        ) {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("a")).unwrap();
            symlink("a/missing", dir.path().join("link")).unwrap();
            symlink("../..", dir.path().join("up")).unwrap();
            symlink("/abs-target", dir.path().join("abs")).unwrap();

            let path = Path::new("/").join(parts.join("/"));
            if let Ok(fd) = root(dir.path()).open_or_create(&path, Missing::Directory) {
                prop_assert!(real(&fd).starts_with(dir.path()), "{path:?} led to {:?}", real(&fd));
            }
        }
    }
}
