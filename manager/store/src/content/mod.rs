//! Content: immutable blobs, each named by its digest.
//!
//! ```text
//! content/                    an OCI image layout: other tools can read it
//! ├── oci-layout
//! ├── index.json
//! ├── blobs/ALG/HEX           verified, mode 0444
//! └── ingest/HASH/{ref,data}  being received; HASH is that of namespace and reference
//! ```
//!
//! A blob's way in: written and hashed at once, size and digest compared, synced, renamed into
//! `blobs/`, its directory synced, entered in the database. The entry need not be durable itself: what
//! names an image or a container is, and makes all entries before it so. Bytes with a wrong digest never get
//! a name. Rename and entry happen under the database's write lock, as does the collector's removal,
//! so that neither can come between the other's steps.

mod error;
mod ingest;

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use error::ContentError;
pub use ingest::{Ingest, IngestStatus, Sealed};

use crate::metadata::{Database, Durability};
use crate::store::sync_dir;
use crate::trash::Trash;
use crate::{Algorithm, BlobInfo, Digest, Labels, Namespace, Resource};

/// What says that a directory is an OCI layout (OCI image-spec, image-layout.md).
const OCI_LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}\n";

/// An index without entries: names are kept in the database.
const EMPTY_INDEX: &str = "{\"schemaVersion\":2,\"manifests\":[]}\n";

/// A file of more bytes than that is removed in the background: the time that it takes grows with it.
const QUICKLY_REMOVED_BYTES: u64 = 1 << 20;

/// The blobs of a store; clones share it.
#[derive(Debug, Clone)]
pub struct ContentStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    database: Database,
    trash: Trash,
    /// Directories of the ingests that a writer of this process has open.
    writing: Mutex<HashSet<PathBuf>>,
    /// Tells blobs apart that are stored in one go.
    counter: AtomicU64,
}

impl ContentStore {
    /// Prepares the directory.
    pub(crate) fn open(dir: &Path, database: Database, trash: Trash) -> Result<Self, ContentError> {
        for name in ["blobs", "blobs/sha256", "blobs/sha512", "ingest"] {
            let path = dir.join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(ContentError::io("make the directory", &path))?,
            }
        }
        for (name, text) in [("oci-layout", OCI_LAYOUT), ("index.json", EMPTY_INDEX)] {
            let path = dir.join(name);
            if !path.exists() {
                write_durably(&path, text.as_bytes())
                    .map_err(ContentError::io("write the file", &path))?;
            }
        }
        let shared = Shared {
            dir: dir.to_owned(),
            database,
            trash,
            writing: Mutex::default(),
            counter: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns the directory, an OCI layout whose index is empty.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Returns what is known of a blob, if the namespace knows it.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn info(&self, ns: &Namespace, digest: &Digest) -> Result<Option<BlobInfo>, ContentError> {
        Ok(self.shared.database.read(|tx| tx.find_blob(ns, digest))?)
    }

    /// Opens a blob for reading. It can be read to its end also if it is collected meanwhile.
    ///
    /// # Errors
    /// [`ContentError::NotFound`] if the namespace does not know the blob,
    /// [`ContentError::Vanished`] if it does and the bytes are not there.
    pub fn open_blob(&self, ns: &Namespace, digest: &Digest) -> Result<BlobReader, ContentError> {
        let info = self.info(ns, digest)?.ok_or_else(|| ContentError::NotFound {
            digest: digest.clone(),
            namespace: ns.clone(),
        })?;
        let path = self.blob_path(digest);
        let file = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ContentError::Vanished { digest: digest.clone() },
            _ => ContentError::Io { operation: "open the blob", path: path.clone(), source },
        })?;
        let size_bytes =
            file.metadata().map_err(ContentError::io("look at the blob", &path))?.len();
        if size_bytes != info.size_bytes {
            return Err(ContentError::Size {
                digest: digest.clone(),
                wanted_bytes: info.size_bytes,
                found_bytes: size_bytes,
            });
        }
        Ok(BlobReader { file, size_bytes })
    }

    /// Reads a small blob whole, and verifies its digest again.
    ///
    /// # Errors
    /// As [`Self::open_blob`]; [`ContentError::TooLarge`] above `limit_bytes`;
    /// [`ContentError::Digest`] if the bytes were damaged on disk.
    pub fn read_blob(
        &self,
        ns: &Namespace,
        digest: &Digest,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, ContentError> {
        let mut reader = self.open_blob(ns, digest)?;
        if reader.size_bytes > limit_bytes {
            return Err(ContentError::TooLarge {
                digest: digest.clone(),
                size_bytes: reader.size_bytes,
                limit_bytes,
            });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(reader.size_bytes).unwrap_or(0));
        reader
            .read_to_end(&mut bytes)
            .map_err(ContentError::io("read the blob", &self.blob_path(digest)))?;
        let mut hasher = crate::Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != *digest {
            return Err(ContentError::Digest { wanted: digest.clone(), found });
        }
        Ok(bytes)
    }

    /// Stores a small blob in one go and returns its digest (SHA-256). A blob that is here already
    /// gets the labels.
    ///
    /// # Errors
    /// If the disk or the database fails.
    pub fn write_blob(
        &self,
        ns: &Namespace,
        bytes: &[u8],
        labels: &Labels,
        lease: Option<&str>,
    ) -> Result<Digest, ContentError> {
        let digest = Digest::sha256(bytes);
        self.store_blob(ns, &digest, bytes, labels, lease)?;
        Ok(digest)
    }

    /// Stores a small blob in one go under the digest that it must have. A blob that is here already
    /// gets the labels.
    ///
    /// # Errors
    /// [`ContentError::Digest`] if the bytes have another digest; if the disk or the database fails.
    pub fn store_blob(
        &self,
        ns: &Namespace,
        digest: &Digest,
        bytes: &[u8],
        labels: &Labels,
        lease: Option<&str>,
    ) -> Result<(), ContentError> {
        if self.adopt(ns, digest, labels, lease)? {
            return Ok(());
        }
        // A reference of its own: two callers may store the same bytes at the same time.
        let count = self.shared.counter.fetch_add(1, Ordering::Relaxed);
        let mut ingest = self.ingest(ns, &format!("small-{count}-{digest}"), digest.algorithm())?;
        ingest.restart()?;
        ingest.write(bytes)?;
        let size_bytes = Some(bytes.len() as u64);
        ingest.commit(size_bytes, Some(digest), labels, lease).map(drop)
    }

    /// Enters a blob into the namespace whose bytes the store has already, from whatever
    /// namespace, and lets `lease` keep it. Returns whether it has it.
    ///
    /// # Errors
    /// If the database fails, and if there is no such lease.
    pub fn adopt(
        &self,
        ns: &Namespace,
        digest: &Digest,
        labels: &Labels,
        lease: Option<&str>,
    ) -> Result<bool, ContentError> {
        self.shared.database.transaction(Durability::Crash, |tx| {
            let Some(size_bytes) = tx.blob_size(digest)? else { return Ok(false) };
            if !self.blob_path(digest).exists() {
                return Ok(false);
            }
            tx.enter_blob(ns, digest, size_bytes, labels)?;
            if let Some(lease) = lease {
                tx.add_to_lease(ns, lease, &Resource::Blob(digest.clone()))?;
            }
            Ok(true)
        })
    }

    /// Begins to receive a blob, or goes on where an earlier attempt of the same reference broke
    /// off ([`Ingest::offset_bytes`]). Dropping the ingest keeps what was received.
    ///
    /// # Errors
    /// [`ContentError::Busy`] while another writer has the reference open.
    pub fn ingest(
        &self,
        ns: &Namespace,
        reference: &str,
        algorithm: Algorithm,
    ) -> Result<Ingest, ContentError> {
        Ingest::open(self.clone(), ns, reference, algorithm)
    }

    /// Returns the blobs that are being received, or whose reception broke off.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn ingests(&self) -> Result<Vec<IngestStatus>, ContentError> {
        ingest::list(self)
    }

    /// Returns where the bytes of a blob are.
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.shared.dir.join("blobs");
        path.push(digest.algorithm().as_str());
        path.push(digest.hex());
        path
    }

    pub(crate) fn ingest_dir(&self) -> PathBuf {
        self.shared.dir.join("ingest")
    }

    pub(crate) fn database(&self) -> &Database {
        &self.shared.database
    }

    /// Marks an ingest's directory as being written; `false` if it is already.
    fn claim(&self, dir: &Path) -> bool {
        let mut writing = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.insert(dir.to_owned())
    }

    fn release(&self, dir: &Path) {
        self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner).remove(dir);
    }

    /// Removes the files of blobs that no namespace knows any more; returns bytes and files freed.
    /// Each check and removal holds the database's write lock, in batches, so that a blob that is
    /// entered again meanwhile keeps its bytes.
    pub(crate) fn sweep_blobs(&self) -> Result<(u64, u64), ContentError> {
        const BATCH: usize = 128;
        let (mut bytes, mut files) = (0, 0);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let dir = self.shared.dir.join("blobs").join(algorithm.as_str());
            let unknown = self.unknown_files(&dir, algorithm)?;
            for batch in unknown.chunks(BATCH) {
                let (batch_bytes, batch_files) = self.remove_unknown(batch)?;
                (bytes, files) = (bytes + batch_bytes, files + batch_files);
            }
        }
        self.shared.trash.relieve();
        Ok((bytes, files))
    }

    /// Removes the files of those blobs that no namespace knows; another collection may have been first.
    fn remove_unknown(&self, digests: &[Digest]) -> Result<(u64, u64), ContentError> {
        let (mut bytes, mut files) = (0, 0);
        self.shared.database.transaction(Durability::PowerCut, |tx| {
            for digest in digests {
                if tx.is_blob_known(digest)? {
                    continue;
                }
                let path = self.blob_path(digest);
                let size = fs::metadata(&path).map_or(0, |meta| meta.len());
                let removed = match size > QUICKLY_REMOVED_BYTES {
                    true => self.shared.trash.throw(&path),
                    false => fs::remove_file(&path),
                };
                match removed {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    other => other.map_err(ContentError::io("remove the blob", &path))?,
                }
                bytes += size;
                files += 1;
            }
            Ok::<_, ContentError>(())
        })?;
        Ok((bytes, files))
    }

    fn unknown_files(&self, dir: &Path, algorithm: Algorithm) -> Result<Vec<Digest>, ContentError> {
        let known: HashSet<Digest> = self
            .shared
            .database
            .read(|tx| tx.all_blobs())?
            .into_iter()
            .map(|(_, blob)| blob.digest)
            .collect();
        let mut unknown = Vec::new();
        for entry in fs::read_dir(dir).map_err(ContentError::io("list the directory", dir))? {
            let entry = entry.map_err(ContentError::io("list the directory", dir))?;
            let name = entry.file_name();
            let text = format!("{}:{}", algorithm.as_str(), name.to_string_lossy());
            if let Ok(digest) = text.parse::<Digest>()
                && !known.contains(&digest)
            {
                unknown.push(digest);
            }
        }
        Ok(unknown)
    }
}

/// A blob, opened for reading from its beginning or at any place.
#[derive(Debug)]
pub struct BlobReader {
    file: File,
    size_bytes: u64,
}

impl BlobReader {
    /// Returns the blob's size.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Reads at an offset, and leaves the place of [`Read`] alone.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset_bytes)
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

/// Writes a file so that it is there whole or not at all, also after a power cut.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

#[cfg(test)]
mod tests;
