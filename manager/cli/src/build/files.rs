//! Files of contexts, as the daemon asks for them. No link is followed, and nothing above a context's
//! root is ever opened.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use keg_proto::keg::v1::{
    ContextDirectory, ContextEntry, ContextListing, FetchFiles, FilePiece, ListContext,
};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat, statat};
use rustix::io::Errno;

/// Bytes of a file in one message.
const PIECE_BYTES: usize = 256 * 1024;

/// A directory whose files the daemon may ask for.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    /// Opens a directory.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    fn open_below(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        loop {
            match openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    /// Lists what is asked for.
    pub(crate) fn list(&self, question: &ListContext) -> io::Result<ContextListing> {
        let now_nsec = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        let directories = question
            .directories
            .iter()
            .map(|path| match self.directory(path) {
                Ok(entries) => Ok(ContextDirectory { exists: true, entries }),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
                    Ok(ContextDirectory::default())
                }
                Err(errno) => {
                    let error = io::Error::from(errno);
                    Err(io::Error::new(error.kind(), format!("{path:?}: {error}")))
                }
            })
            .collect::<io::Result<_>>()?;
        Ok(ContextListing { question: question.question, now_nsec, directories })
    }

    fn directory(&self, path: &str) -> Result<Vec<ContextEntry>, Errno> {
        let dir = self.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Removed meanwhile.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            };
            // A name that is not UTF-8 cannot be asked for, and is not told.
            let Ok(name_text) = name.to_str() else { continue };
            let link = if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                readlinkat(&dir, name, Vec::new())?.to_string_lossy().into_owned()
            } else {
                String::new()
            };
            let nsec = |secs: i64, nsec: u64| {
                secs.saturating_mul(1_000_000_000)
                    .saturating_add(i64::try_from(nsec).unwrap_or_default())
            };
            entries.push(ContextEntry {
                name: name_text.to_owned(),
                mode: stat.st_mode,
                size_bytes: stat.st_size,
                mtime_nsec: nsec(stat.st_mtime, stat.st_mtime_nsec),
                ctime_nsec: nsec(stat.st_ctime, stat.st_ctime_nsec),
                inode: stat.st_ino,
                link,
            });
        }
        Ok(entries)
    }

    /// Reads what is asked for, piece by piece.
    pub(crate) fn fetch(
        &self,
        question: &FetchFiles,
        mut send: impl FnMut(FilePiece) -> io::Result<()>,
    ) -> io::Result<()> {
        for (index, path) in question.paths.iter().enumerate() {
            let told =
                |error: io::Error| io::Error::new(error.kind(), format!("{path:?}: {error}"));
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let fd = self.open_below(path, flags).map_err(|errno| told(errno.into()))?;
            let file = File::from(fd);
            if !file.metadata().map_err(told)?.is_file() {
                return Err(told(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")));
            }
            send_all(file, question.question, index, &mut send).map_err(told)?;
        }
        Ok(())
    }
}

/// Sends a file to its end.
pub(crate) fn send_all(
    mut file: impl Read,
    question: u64,
    index: usize,
    send: &mut impl FnMut(FilePiece) -> io::Result<()>,
) -> io::Result<()> {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    loop {
        let mut data = Vec::new();
        file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut data)?;
        let end = data.len() < PIECE_BYTES;
        send(FilePiece { question, index, data, end })?;
        if end {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn list(root: &Root, path: &str) -> ContextDirectory {
        let question = ListContext { directories: vec![path.to_owned()], ..ListContext::default() };
        root.list(&question).expect("a listing").directories.remove(0)
    }

    fn fetch(root: &Root, path: &str) -> io::Result<Vec<u8>> {
        let question = FetchFiles { paths: vec![path.to_owned()], ..FetchFiles::default() };
        let mut bytes = Vec::new();
        root.fetch(&question, |piece| {
            bytes.extend(piece.data);
            Ok(())
        })?;
        Ok(bytes)
    }

    #[test]
    fn nothing_above_the_root_and_nothing_behind_a_link_is_given_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let inside = dir.path().join("inside");
        std::fs::create_dir_all(inside.join("sub")).expect("directories");
        std::fs::write(dir.path().join("secret"), "s").expect("a file");
        std::fs::write(inside.join("sub/file"), "f").expect("a file");
        symlink("../secret", inside.join("up")).expect("a link");
        symlink("..", inside.join("parent")).expect("a link");
        symlink("sub", inside.join("alias")).expect("a link");
        let root = Root::open(&inside).expect("the root");

        assert_eq!(fetch(&root, "sub/file").expect("the file"), b"f");
        for path in ["up", "../secret", "parent/secret", "/etc/passwd", "alias/file", "sub"] {
            assert!(fetch(&root, path).is_err(), "{path}");
        }
        assert!(!list(&root, "parent").exists && !list(&root, "..").exists);
        let link = list(&root, "").entries.into_iter().find(|entry| entry.name == "up");
        assert_eq!(link.expect("the link").link, "../secret");
    }
}
