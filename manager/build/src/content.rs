//! Files of contexts, by the digest of their bytes, and what is known of where they came from.
//!
//! ```text
//! ROOT/build/files/HH/HEX        bytes; written once
//!           /contexts/HEX.json   path → what the client said of it, and its digest
//!           /caches/HEX/         RUN --mount=type=cache
//!           /tmp/                under construction; emptied at start
//! ```
//!
//! An index is written after the files it names are on the disk, so that it never promises what a
//! power cut took. A file of which nothing else is known but its digest is as good as any.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use keg_store::{Algorithm, Digest, Hasher};
use serde::{Deserialize, Serialize};

use crate::session::Entry;

/// Indexes that are kept in memory.
const MAX_INDEXES: usize = 16;

/// What is known of a file that was sent once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    size_bytes: u64,
    mtime_nsec: i64,
    ctime_nsec: i64,
    inode: u64,
    pub(crate) digest: String,
}

impl Known {
    /// Returns what is to be remembered of a file, unless it is so young that it may have changed
    /// without its times telling.
    pub(crate) fn new(entry: &Entry, digest: String, now_nsec: i64) -> Option<Self> {
        // Whole seconds come from a file system that has no finer ones.
        let coarse = entry.ctime_nsec % 1_000_000_000 == 0;
        let slack_nsec = if coarse { 2_000_000_000 } else { 20_000_000 };
        (entry.ctime_nsec < now_nsec - slack_nsec).then_some(Self {
            size_bytes: entry.size_bytes,
            mtime_nsec: entry.mtime_nsec,
            ctime_nsec: entry.ctime_nsec,
            inode: entry.inode,
            digest,
        })
    }

    /// Tells whether a file looks as it did.
    pub(crate) fn is(&self, entry: &Entry) -> bool {
        self.size_bytes == entry.size_bytes
            && self.mtime_nsec == entry.mtime_nsec
            && self.ctime_nsec == entry.ctime_nsec
            && self.inode == entry.inode
    }
}

/// Path → what is known of it.
pub(crate) type Index = HashMap<String, Known>;

/// The files that the builder keeps.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    counter: AtomicU64,
    indexes: Mutex<Vec<(String, Arc<Index>)>>,
}

impl Content {
    /// Opens the directory, and empties what was under construction.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        for name in ["", "files", "contexts", "caches"] {
            make(&root.join(name))?;
        }
        let tmp = root.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        make(&tmp)?;
        Ok(Self {
            shared: Arc::new(Shared {
                root: root.to_owned(),
                counter: AtomicU64::new(0),
                indexes: Mutex::default(),
            }),
        })
    }

    /// Returns the directory that holds all of it.
    pub(crate) fn root(&self) -> &Path {
        &self.shared.root
    }

    /// Returns where the bytes with a digest are.
    pub(crate) fn path(&self, hex: &str) -> PathBuf {
        self.shared.root.join("files").join(hex.get(..2).unwrap_or("00")).join(hex)
    }

    /// Returns a new name for something under construction.
    pub(crate) fn temporary(&self) -> PathBuf {
        let count = self.shared.counter.fetch_add(1, Ordering::Relaxed);
        self.shared.root.join("tmp").join(count.to_string())
    }

    /// Makes a new directory for something under construction; it goes with what is returned.
    pub(crate) fn temporary_dir(&self) -> io::Result<TemporaryDir> {
        let path = self.temporary();
        make(&path)?;
        // It may become the root of a context, and its mode that of a directory in an image; what is
        // above it keeps others out.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(TemporaryDir(path))
    }

    /// Begins to store a file.
    pub(crate) fn writer(&self) -> io::Result<FileWriter> {
        let path = self.temporary();
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok(FileWriter {
            content: self.clone(),
            path,
            file,
            hasher: Hasher::new(Algorithm::Sha256),
            size_bytes: 0,
            is_kept: false,
        })
    }

    /// Returns what is known of the files of a context.
    pub(crate) fn index(&self, context: &str) -> Arc<Index> {
        let mut indexes = self.shared.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = indexes.iter().position(|(name, _)| name == context) {
            let found = indexes.remove(at);
            let index = Arc::clone(&found.1);
            indexes.push(found);
            return index;
        }
        // One that cannot be read is one that knows nothing.
        let index: Index = fs::read(self.index_path(context))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let index = Arc::new(index);
        remember(&mut indexes, context, &index);
        index
    }

    /// Keeps an index. The files that it names must be on the disk.
    pub(crate) fn keep_index(&self, context: &str, index: Index) -> io::Result<()> {
        let temporary = self.temporary();
        let bytes = serde_json::to_vec(&index)?;
        // Not synced: one that a power cut spoils cannot be read, and the next build sends all anew.
        fs::write(&temporary, &bytes)?;
        fs::rename(&temporary, self.index_path(context))?;
        let mut indexes = self.shared.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        indexes.retain(|(name, _)| name != context);
        remember(&mut indexes, context, &Arc::new(index));
        Ok(())
    }

    /// Writes everything to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let root = File::open(&self.shared.root)?;
        Ok(rustix::fs::syncfs(&root)?)
    }

    /// Forgets all files and indexes; returns the bytes that were freed.
    pub(crate) fn forget(&self) -> io::Result<u64> {
        let freed = tree_bytes(&self.shared.root.join("files"));
        self.shared.indexes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for name in ["contexts", "files"] {
            let (path, aside) = (self.shared.root.join(name), self.temporary());
            fs::rename(&path, &aside)?;
            make(&path)?;
            fs::remove_dir_all(&aside)?;
        }
        Ok(freed)
    }

    /// Returns the bytes of all files.
    pub(crate) fn size_bytes(&self) -> u64 {
        tree_bytes(&self.shared.root.join("files"))
    }

    fn index_path(&self, context: &str) -> PathBuf {
        let name = Digest::sha256(context.as_bytes());
        self.shared.root.join("contexts").join(format!("{}.json", name.hex()))
    }
}

fn remember(indexes: &mut Vec<(String, Arc<Index>)>, context: &str, index: &Arc<Index>) {
    if indexes.len() == MAX_INDEXES {
        indexes.remove(0);
    }
    indexes.push((context.to_owned(), Arc::clone(index)));
}

fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Returns the bytes of a tree on the disk; what cannot be read counts nothing.
pub(crate) fn tree_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;

    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => {
                metadata.blocks() * 512 + tree_bytes(&entry.path())
            }
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// A directory that goes when nobody needs it any more.
#[derive(Debug)]
pub(crate) struct TemporaryDir(PathBuf);

impl TemporaryDir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = ?self.0, %error, "a temporary directory stays until the next start");
        }
    }
}

/// A file that is being stored. Dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub(crate) struct FileWriter {
    content: Content,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    size_bytes: u64,
    is_kept: bool,
}

impl FileWriter {
    /// Gives the file its name.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        let hasher = std::mem::replace(&mut self.hasher, Hasher::new(Algorithm::Sha256));
        let digest = hasher.finish();
        let path = self.content.path(digest.hex());
        if let Some(parent) = path.parent() {
            make(parent)?;
        }
        // What is there has been renamed into place whole, but may be from before a power cut.
        fs::rename(&self.path, &path)?;
        self.is_kept = true;
        Ok(digest)
    }

    /// Returns how much was written.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Kind;

    fn entry(ctime_nsec: i64) -> Entry {
        Entry {
            name: "a".into(),
            kind: Kind::File,
            mode: 0o644,
            size_bytes: 3,
            mtime_nsec: 5,
            ctime_nsec,
            inode: 7,
            link: String::new(),
        }
    }

    #[test]
    fn a_file_that_changed_a_moment_ago_is_not_trusted() {
        let now_nsec = 10_000_000_000;

        assert!(Known::new(&entry(9_999_000_001), "x".into(), now_nsec).is_none());
        assert!(Known::new(&entry(9_000_000_000), "x".into(), now_nsec).is_none());
        let known = Known::new(&entry(9_000_000_001), "x".into(), now_nsec).unwrap();
        assert!(known.is(&entry(9_000_000_001)) && !known.is(&entry(1)));
    }

    #[test]
    fn bytes_are_kept_under_their_digest_and_indexes_survive() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        let mut writer = content.writer().unwrap();
        writer.write_all(b"hello").unwrap();
        let digest = writer.finish().unwrap();
        let known = Known::new(&entry(1), digest.hex().to_owned(), 1 << 40).unwrap();
        content.keep_index("here", [("a".to_owned(), known.clone())].into()).unwrap();
        drop(content.writer().unwrap());

        let again = Content::open(dir.path()).unwrap();

        assert_eq!(fs::read(again.path(digest.hex())).unwrap(), b"hello");
        assert_eq!(again.index("here").get("a"), Some(&known));
        assert!(again.index("elsewhere").is_empty());
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }
}
