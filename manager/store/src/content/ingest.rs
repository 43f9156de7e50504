//! Ingests: blobs on their way in, which a broken transfer can resume.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{ContentError, ContentStore};
use crate::metadata::Durability;
use crate::store::sync_dir;
use crate::{Ahead, Algorithm, Digest, Hasher, Labels, Namespace, Resource};

/// How much is read at once while the hash of an earlier attempt is computed again.
const REHASH_BUFFER_BYTES: usize = 256 * 1024;

/// Most blobs that are entered in one transaction.
const BATCH: usize = 128;

/// How far a blob has come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestStatus {
    /// Namespace that receives it.
    pub namespace: String,
    /// Reference given by the writer.
    pub reference: String,
    /// Bytes received.
    pub offset_bytes: u64,
    /// When bytes last came in.
    pub updated_at: SystemTime,
    pub(crate) dir: PathBuf,
}

/// A blob that is being received. Dropping it keeps the bytes for another attempt, unless it is
/// [`transient`](Self::transient).
#[derive(Debug)]
pub struct Ingest {
    place: Place,
    namespace: Namespace,
    file: File,
    algorithm: Algorithm,
    hasher: Hasher,
    offset_bytes: u64,
    ahead: Ahead,
}

/// A blob that is received and verified, and neither durable nor entered yet
/// ([`ContentStore::commit_all`]). Dropping it is dropping its ingest.
#[derive(Debug)]
pub struct Sealed {
    place: Place,
    namespace: Namespace,
    digest: Digest,
    size_bytes: u64,
}

/// The directory of an ingest, which one writer has at a time.
#[derive(Debug)]
struct Place {
    content: ContentStore,
    dir: PathBuf,
    is_transient: bool,
}

impl Place {
    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_transient && self.dir.exists() {
            // What stays is debris, which the collector finds.
            let _ = fs::remove_dir_all(&self.dir);
        }
        self.content.release(&self.dir);
    }
}

impl Ingest {
    pub(super) fn open(
        content: ContentStore,
        ns: &Namespace,
        reference: &str,
        algorithm: Algorithm,
    ) -> Result<Self, ContentError> {
        let identity = format!("{ns}\n{reference}");
        let dir = content.ingest_dir().join(Digest::sha256(identity.as_bytes()).hex());
        if !content.claim(&dir) {
            return Err(ContentError::Busy { reference: reference.to_owned() });
        }
        Self::open_claimed(&content, ns, &dir, &identity, algorithm).inspect_err(|_| {
            content.release(&dir);
        })
    }

    fn open_claimed(
        content: &ContentStore,
        ns: &Namespace,
        dir: &Path,
        identity: &str,
        algorithm: Algorithm,
    ) -> Result<Self, ContentError> {
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(ContentError::io("make the directory", dir))?,
        }
        let (ref_path, data_path) = (dir.join("ref"), dir.join("data"));
        fs::write(&ref_path, identity).map_err(ContentError::io("write the file", &ref_path))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&data_path)
            .map_err(ContentError::io("open the file", &data_path))?;
        let (hasher, offset_bytes) = rehash(&mut file, algorithm)
            .map_err(ContentError::io("read what was received of", &data_path))?;
        let place = Place { content: content.clone(), dir: dir.to_owned(), is_transient: false };
        let ahead = Ahead::default();
        Ok(Self { place, namespace: ns.clone(), file, algorithm, hasher, offset_bytes, ahead })
    }

    /// Makes it an ingest that nobody will resume: dropping it throws the bytes away.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.place.is_transient = true;
        self
    }

    /// Returns how many bytes are here: where the next [`Self::write`] goes.
    #[must_use]
    pub fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// Appends bytes, and hashes them.
    ///
    /// # Errors
    /// If the disk fails. What is on disk then may be more than [`Self::offset_bytes`] says; a
    /// later attempt finds out.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        self.file
            .write_all(bytes)
            .map_err(ContentError::io("write the file", &self.place.data()))?;
        self.hasher.update(bytes);
        self.offset_bytes += bytes.len() as u64;
        self.ahead.grown(&self.file, self.offset_bytes);
        Ok(())
    }

    /// Opens what was received so far for reading, from its beginning.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn reader(&self) -> Result<File, ContentError> {
        let path = self.place.data();
        File::open(&path).map_err(ContentError::io("open the file", &path))
    }

    /// Throws away what was received, and starts from nothing.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn restart(&mut self) -> Result<(), ContentError> {
        let path = self.place.data();
        self.file.set_len(0).map_err(ContentError::io("truncate the file", &path))?;
        self.file.rewind().map_err(ContentError::io("rewind the file", &path))?;
        self.hasher = Hasher::new(self.algorithm);
        self.offset_bytes = 0;
        self.ahead = Ahead::default();
        Ok(())
    }

    /// Verifies size and digest, and makes the bytes a blob of the namespace: durable, named,
    /// entered with `labels`, kept by `lease`. Returns its digest.
    ///
    /// The entry outlives a power cut once a later change has that must; without it the bytes are debris.
    ///
    /// # Errors
    /// [`ContentError::Size`] and [`ContentError::Digest`] if the bytes are not what they should
    /// be; what was received is then thrown away.
    pub fn commit(
        self,
        size_bytes: Option<u64>,
        digest: Option<&Digest>,
        labels: &Labels,
        lease: Option<&str>,
    ) -> Result<Digest, ContentError> {
        let file = self.file.try_clone();
        let data = self.place.data();
        let sealed = self.seal(size_bytes, digest)?;
        file.and_then(|file| file.sync_data()).map_err(ContentError::io("sync the file", &data))?;
        let (content, found) = (sealed.place.content.clone(), sealed.digest.clone());
        content.enter(&mut [sealed], labels, lease)?;
        Ok(found)
    }

    /// Verifies size and digest, and keeps the bytes for [`ContentStore::commit_all`].
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn seal(
        self,
        size_bytes: Option<u64>,
        digest: Option<&Digest>,
    ) -> Result<Sealed, ContentError> {
        let found = self.hasher.clone().finish();
        if let Err(error) = verify(self.offset_bytes, &found, size_bytes, digest) {
            self.discard()?;
            return Err(error);
        }
        self.file
            .set_permissions(Permissions::from_mode(0o444))
            .map_err(ContentError::io("protect the file", &self.place.data()))?;
        let Self { place, namespace, offset_bytes, .. } = self;
        Ok(Sealed { place, namespace, digest: found, size_bytes: offset_bytes })
    }

    /// Throws the ingest away.
    ///
    /// # Errors
    /// If the directory cannot be removed.
    pub fn discard(self) -> Result<(), ContentError> {
        let dir = &self.place.dir;
        fs::remove_dir_all(dir).map_err(ContentError::io("remove the directory", dir))
    }
}

impl Sealed {
    /// Returns the digest of the bytes.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns how many bytes there are.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl ContentStore {
    /// Makes received bytes blobs of their namespaces, as [`Ingest::commit`] does, with one wait for the
    /// disk for all of them.
    ///
    /// # Errors
    /// If the disk or the database fails; some of them may be in then.
    pub fn commit_all(
        &self,
        mut sealed: Vec<Sealed>,
        labels: &Labels,
        lease: Option<&str>,
    ) -> Result<(), ContentError> {
        if sealed.is_empty() {
            return Ok(());
        }
        let dir = self.ingest_dir();
        File::open(&dir)
            .and_then(|dir| Ok(rustix::fs::syncfs(dir)?))
            .map_err(ContentError::io("sync the file system of", &dir))?;
        sealed.chunks_mut(BATCH).try_for_each(|batch| self.enter(batch, labels, lease))
    }

    /// Gives synced bytes their names, and enters them.
    fn enter(
        &self,
        batch: &mut [Sealed],
        labels: &Labels,
        lease: Option<&str>,
    ) -> Result<(), ContentError> {
        self.database().transaction(Durability::Crash, |tx| {
            let mut parents = BTreeSet::new();
            for sealed in batch.iter() {
                let path = self.blob_path(&sealed.digest);
                fs::rename(sealed.place.data(), &path)
                    .map_err(ContentError::io("rename to", &path))?;
                parents.extend(path.parent().map(Path::to_owned));
            }
            for parent in &parents {
                sync_dir(parent).map_err(ContentError::io("sync the directory", parent))?;
            }
            for Sealed { namespace, digest, size_bytes, .. } in batch.iter() {
                tx.enter_blob(namespace, digest, *size_bytes, labels)?;
                if let Some(lease) = lease {
                    tx.add_to_lease(namespace, lease, &Resource::Blob(digest.clone()))?;
                }
            }
            Ok::<_, ContentError>(())
        })?;
        for sealed in batch {
            // What is left of the ingest goes with it.
            sealed.place.is_transient = true;
        }
        Ok(())
    }

    /// Removes an ingest that no writer has open; `false` if one has.
    pub(crate) fn remove_ingest(&self, status: &IngestStatus) -> Result<bool, ContentError> {
        if !self.claim(&status.dir) {
            return Ok(false);
        }
        let removed = fs::remove_dir_all(&status.dir);
        self.release(&status.dir);
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ContentError::Io {
                operation: "remove the directory",
                path: status.dir.clone(),
                source: error,
            }),
            _ => Ok(true),
        }
    }
}

/// Lists the ingests on disk; debris that has no readable reference gets an empty one.
pub(super) fn list(content: &ContentStore) -> Result<Vec<IngestStatus>, ContentError> {
    let root = content.ingest_dir();
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).map_err(ContentError::io("list the directory", &root))? {
        let dir = entry.map_err(ContentError::io("list the directory", &root))?.path();
        let identity = fs::read_to_string(dir.join("ref")).unwrap_or_default();
        let (namespace, reference) = identity.split_once('\n').unwrap_or_default();
        // It may be committed at this moment, and then is no ingest any more.
        let Ok(metadata) = fs::metadata(dir.join("data")).or_else(|_| fs::metadata(&dir)) else {
            continue;
        };
        found.push(IngestStatus {
            namespace: namespace.to_owned(),
            reference: reference.to_owned(),
            offset_bytes: if metadata.is_file() { metadata.len() } else { 0 },
            updated_at: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            dir,
        });
    }
    Ok(found)
}

fn verify(
    found_bytes: u64,
    found: &Digest,
    wanted_bytes: Option<u64>,
    wanted: Option<&Digest>,
) -> Result<(), ContentError> {
    let digest = wanted.unwrap_or(found).clone();
    match wanted_bytes {
        Some(wanted_bytes) if wanted_bytes != found_bytes => {
            return Err(ContentError::Size { digest, wanted_bytes, found_bytes });
        }
        _ => {}
    }
    match wanted {
        Some(wanted) if wanted != found => {
            Err(ContentError::Digest { wanted: wanted.clone(), found: found.clone() })
        }
        _ => Ok(()),
    }
}

/// Hashes what a file has, and leaves its place at the end.
fn rehash(file: &mut File, algorithm: Algorithm) -> io::Result<(Hasher, u64)> {
    let mut hasher = Hasher::new(algorithm);
    let mut offset_bytes = 0;
    if file.metadata()?.len() > 0 {
        let mut buffer = vec![0; REHASH_BUFFER_BYTES];
        file.seek(SeekFrom::Start(0))?;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            offset_bytes += count as u64;
        }
    }
    Ok((hasher, offset_bytes))
}
