//! Ingests: blobs on their way in, which a broken transfer can resume.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{ContentError, ContentStore};
use crate::metadata::Durability;
use crate::store::sync_dir;
use crate::{Algorithm, Digest, Hasher, Labels, Namespace, Resource};

/// How much is read at once while the hash of an earlier attempt is computed again.
const REHASH_BUFFER_BYTES: usize = 256 * 1024;

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
    content: ContentStore,
    namespace: Namespace,
    dir: PathBuf,
    file: File,
    algorithm: Algorithm,
    hasher: Hasher,
    offset_bytes: u64,
    is_transient: bool,
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
        Ok(Self {
            content: content.clone(),
            namespace: ns.clone(),
            dir: dir.to_owned(),
            file,
            algorithm,
            hasher,
            offset_bytes,
            is_transient: false,
        })
    }

    /// Makes it an ingest that nobody will resume: dropping it throws the bytes away.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.is_transient = true;
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
            .map_err(ContentError::io("write the file", &self.dir.join("data")))?;
        self.hasher.update(bytes);
        self.offset_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Opens what was received so far for reading, from its beginning.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn reader(&self) -> Result<File, ContentError> {
        let path = self.dir.join("data");
        File::open(&path).map_err(ContentError::io("open the file", &path))
    }

    /// Throws away what was received, and starts from nothing.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn restart(&mut self) -> Result<(), ContentError> {
        let path = self.dir.join("data");
        self.file.set_len(0).map_err(ContentError::io("truncate the file", &path))?;
        self.file.rewind().map_err(ContentError::io("rewind the file", &path))?;
        self.hasher = Hasher::new(self.algorithm);
        self.offset_bytes = 0;
        Ok(())
    }

    /// Verifies size and digest, and makes the bytes a blob of the namespace: durable, named,
    /// entered with `labels`, kept by `lease`. Returns its digest.
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
        let found = self.hasher.clone().finish();
        if let Err(error) = verify(self.offset_bytes, &found, size_bytes, digest) {
            self.discard()?;
            return Err(error);
        }
        let data = self.dir.join("data");
        self.file
            .set_permissions(Permissions::from_mode(0o444))
            .map_err(ContentError::io("protect the file", &data))?;
        self.file.sync_all().map_err(ContentError::io("sync the file", &data))?;
        let path = self.content.blob_path(&found);
        self.content.database().transaction(Durability::PowerCut, |tx| {
            fs::rename(&data, &path).map_err(ContentError::io("rename to", &path))?;
            if let Some(parent) = path.parent() {
                sync_dir(parent).map_err(ContentError::io("sync the directory", parent))?;
            }
            tx.enter_blob(&self.namespace, &found, self.offset_bytes, labels)?;
            if let Some(lease) = lease {
                tx.add_to_lease(&self.namespace, lease, &Resource::Blob(found.clone()))?;
            }
            Ok::<_, ContentError>(())
        })?;
        // The blob is in; what is left of the ingest is debris, which the collector finds too.
        if let Err(error) = self.discard() {
            tracing::warn!(%error, "an ingest's directory is left behind");
        }
        Ok(found)
    }

    /// Throws the ingest away.
    ///
    /// # Errors
    /// If the directory cannot be removed.
    pub fn discard(self) -> Result<(), ContentError> {
        fs::remove_dir_all(&self.dir).map_err(ContentError::io("remove the directory", &self.dir))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.is_transient && self.dir.exists() {
            // What stays is debris, which the collector finds.
            let _ = fs::remove_dir_all(&self.dir);
        }
        self.content.release(&self.dir);
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

impl ContentStore {
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
