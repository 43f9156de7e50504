//! Check: compares what the database names with what is on the disk, and what is on the disk with
//! what the database names.
//!
//! ```text
//! row without its bytes, bytes with another digest,      damage: something that is needed is
//! name of nothing, container without its layer           missing or wrong
//! file or directory that no row names                    debris: a crash left it, or it is just being
//!                                                        removed; the next collection takes it
//! file in the trash that is not being removed            debris: it could not be; the next start tries again
//! ```
//!
//! Presence and sizes are compared under the database's write lock, so that what comes and goes
//! meanwhile is not taken for damage; digests are read without it.

mod finding;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::metadata::{BlobInfo, SnapshotRow};
use crate::{
    CollectError, Digest, ErrorClass, Explain, Hasher, MetadataError, Namespace, Reason,
    Snapshotter, Store, WriteTx, collect, labels,
};

pub use self::finding::Finding;

/// How much of a blob is read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// What a check saw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// Everything that is not as it should be.
    pub findings: Vec<Finding>,
    /// Blobs looked at.
    pub blobs: u64,
    /// Bytes of those.
    pub blob_bytes: u64,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Names of images looked at.
    pub images: u64,
    /// Containers looked at.
    pub containers: u64,
}

/// Why a check could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The database failed.
    #[error("check: the store's database failed")]
    Metadata {
        /// How.
        #[from]
        source: MetadataError,
    },
    /// A directory cannot be listed.
    #[error("check: list {path:?}")]
    List {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// What is damaged was forgotten, and what nothing needs could not be removed.
    #[error("repair")]
    Collect {
        /// Why.
        #[source]
        source: CollectError,
    },
}

impl Explain for CheckError {
    fn reason(&self) -> Reason {
        match self {
            Self::Metadata { source } => source.reason(),
            Self::List { source, .. } => crate::io_reason(source),
            Self::Collect { source } => source.reason(),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Metadata { source } => source.class(),
            Self::List { .. } => self.reason().class(),
            Self::Collect { source } => source.class(),
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Metadata { source } => source.remedy(),
            Self::List { .. } => Some("see whether the disk is mounted and healthy".into()),
            Self::Collect { source } => source.remedy(),
        }
    }
}

/// Checks a store; with `reads_blobs` every blob is read and its digest compared.
///
/// # Errors
/// [`CheckError`] if it could not be made; damage is no error.
pub fn check(store: &Store, reads_blobs: bool) -> Result<Checked, CheckError> {
    let (mut checked, digests) = store.transaction(|tx| compare(store, tx))?;
    if reads_blobs {
        for digest in digests {
            if let Some(finding) = read_blob(store, &digest)
                && store.read(|tx| tx.is_blob_known(&digest))?
            {
                checked.findings.push(finding);
            }
        }
    }
    Ok(checked)
}

/// Forgets what is damaged, so that it can be fetched again, and removes what nothing needs. Another
/// check tells what is left.
///
/// # Errors
/// [`CheckError`].
pub fn repair(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    findings: &[Finding],
) -> Result<(), CheckError> {
    store.transaction(|tx| findings.iter().try_for_each(|finding| forget(store, tx, finding)))?;
    collect(store, snapshotters).map(drop).map_err(|source| CheckError::Collect { source })
}

fn forget(store: &Store, tx: &WriteTx<'_>, finding: &Finding) -> Result<(), MetadataError> {
    match finding {
        Finding::BlobMissing { digest }
        | Finding::BlobSize { digest, .. }
        | Finding::BlobDamaged { digest, .. }
        | Finding::BlobUnreadable { digest, .. } => {
            for (namespace, blob) in tx.all_blobs()? {
                if let (true, Ok(ns)) = (blob.digest == *digest, namespace.parse::<Namespace>()) {
                    tx.delete_blob(&ns, digest)?;
                }
            }
            // Without a row, what cannot be removed now is found again as debris.
            let _ = fs::remove_file(store.content().blob_path(digest));
        }
        Finding::SnapshotMissing { key } | Finding::SnapshotNeedsParent { key, .. } => {
            let rows = tx.all_snapshots()?;
            let is_parent = rows.iter().any(|row| row.info.parent.as_ref() == Some(key));
            for row in rows.iter().filter(|row| row.info.key == *key && !is_parent) {
                tx.delete_snapshot_number(row.number)?;
            }
        }
        Finding::ImageDangling { namespace, name, .. } => {
            if let Ok(ns) = namespace.parse::<Namespace>() {
                tx.delete_image(&ns, name)?;
            }
        }
        Finding::BlobNeedsBlob { .. }
        | Finding::BlobNeedsSnapshot { .. }
        | Finding::ContainerNeedsSnapshot { .. }
        | Finding::Database { .. }
        | Finding::Unnamed { .. } => {}
    }
    Ok(())
}

/// Compares presence and sizes; returns the digests of the blobs that are there as well.
fn compare(store: &Store, tx: &WriteTx<'_>) -> Result<(Checked, Vec<Digest>), CheckError> {
    let (blobs, snapshots) = (tx.all_blobs()?, tx.all_snapshots()?);
    let mut checked = Checked { snapshots: snapshots.len() as u64, ..Checked::default() };
    let problems = tx.integrity_problems()?;
    checked.findings.extend(problems.into_iter().map(|problem| Finding::Database { problem }));
    let whole = blob_files(store, &blobs, &mut checked)?;
    references(&blobs, &snapshots, &mut checked);
    snapshot_directories(store, &snapshots, &mut checked)?;
    let known: HashSet<(&str, &str)> =
        blobs.iter().map(|(namespace, blob)| (namespace.as_str(), blob.digest.as_str())).collect();
    for (namespace, name, digest) in tx.all_images()? {
        checked.images += 1;
        if !known.contains(&(namespace.as_str(), digest.as_str())) {
            checked.findings.push(Finding::ImageDangling { namespace, name, digest });
        }
    }
    containers(store, tx, &snapshots, &mut checked)?;
    Ok((checked, whole))
}

fn blob_files(
    store: &Store,
    blobs: &[(String, BlobInfo)],
    checked: &mut Checked,
) -> Result<Vec<Digest>, CheckError> {
    let mut sizes: HashMap<&Digest, u64> = HashMap::new();
    for (_, blob) in blobs {
        sizes.insert(&blob.digest, blob.size_bytes);
    }
    let mut whole = Vec::with_capacity(sizes.len());
    for (digest, wanted_bytes) in &sizes {
        checked.blobs += 1;
        let (digest, wanted_bytes) = ((*digest).clone(), *wanted_bytes);
        match fs::metadata(store.content().blob_path(&digest)) {
            Ok(metadata) if metadata.len() == wanted_bytes => {
                checked.blob_bytes += wanted_bytes;
                whole.push(digest);
            }
            Ok(metadata) => {
                let found_bytes = metadata.len();
                checked.findings.push(Finding::BlobSize { digest, wanted_bytes, found_bytes });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                checked.findings.push(Finding::BlobMissing { digest });
            }
            Err(error) => {
                checked.findings.push(Finding::BlobUnreadable { digest, kind: error.kind() });
            }
        }
    }
    for algorithm in ["sha256", "sha512"] {
        let dir = store.content().dir().join("blobs").join(algorithm);
        for (name, path) in list(&dir)? {
            let digest = format!("{algorithm}:{name}").parse::<Digest>();
            if !digest.is_ok_and(|digest| sizes.contains_key(&digest)) {
                checked.findings.push(unnamed(path));
            }
        }
    }
    Ok(whole)
}

/// What a manifest or configuration refers to must be known; an index may list what is not here.
fn references(blobs: &[(String, BlobInfo)], snapshots: &[SnapshotRow], checked: &mut Checked) {
    let known: HashSet<(&str, &str)> =
        blobs.iter().map(|(namespace, blob)| (namespace.as_str(), blob.digest.as_str())).collect();
    let keys: HashSet<(&str, &str)> =
        snapshots.iter().map(|row| (row.namespace.as_str(), row.info.key.as_str())).collect();
    for (namespace, blob) in blobs {
        for (label, value) in &blob.labels {
            let target = (namespace.as_str(), value.as_str());
            let (digest, needs) = (blob.digest.clone(), value.clone());
            let is_listing = label
                .strip_prefix(labels::GC_REF_CONTENT)
                .is_some_and(|rest| rest.starts_with(".m."));
            if is_listing {
                continue;
            }
            if label.starts_with(labels::GC_REF_CONTENT) && !known.contains(&target) {
                checked.findings.push(Finding::BlobNeedsBlob { digest, needs });
            } else if label.starts_with(labels::GC_REF_SNAPSHOT) && !keys.contains(&target) {
                checked.findings.push(Finding::BlobNeedsSnapshot { digest, needs });
            }
        }
    }
}

fn snapshot_directories(
    store: &Store,
    snapshots: &[SnapshotRow],
    checked: &mut Checked,
) -> Result<(), CheckError> {
    let dir = store.root().join("snapshots");
    let mut keys: HashSet<(&str, &str, &str)> = HashSet::new();
    let identity = |row: &SnapshotRow| (row.namespace.clone(), row.snapshotter.clone());
    let owners: HashMap<String, _> =
        snapshots.iter().map(|row| (row.number.to_string(), identity(row))).collect();
    for row in snapshots {
        keys.insert((&row.namespace, &row.snapshotter, &row.info.key));
        if !dir.join(row.number.to_string()).join("fs").is_dir() {
            checked.findings.push(Finding::SnapshotMissing { key: row.info.key.clone() });
        }
    }
    for row in snapshots {
        if let Some(parent) = &row.info.parent
            && !keys.contains(&(row.namespace.as_str(), row.snapshotter.as_str(), parent.as_str()))
        {
            let (key, parent) = (row.info.key.clone(), parent.clone());
            checked.findings.push(Finding::SnapshotNeedsParent { key, parent });
        }
    }
    for (name, path) in list(&dir)? {
        if !owners.contains_key(&name) {
            checked.findings.push(unnamed(path));
        }
    }
    let left = store.trash().leftovers();
    let failed = |source| CheckError::List { path: store.root().join("trash"), source };
    checked.findings.extend(left.map_err(failed)?.into_iter().map(unnamed));
    Ok(())
}

fn containers(
    store: &Store,
    tx: &WriteTx<'_>,
    snapshots: &[SnapshotRow],
    checked: &mut Checked,
) -> Result<(), CheckError> {
    let keys: HashSet<(&str, &str, &str)> = snapshots
        .iter()
        .map(|row| (row.namespace.as_str(), row.snapshotter.as_str(), row.info.key.as_str()))
        .collect();
    let mut ids = HashSet::new();
    for (namespace, container, snapshotter, key) in tx.all_containers()? {
        checked.containers += 1;
        let is_known = keys.contains(&(namespace.as_str(), snapshotter.as_str(), key.as_str()));
        if !snapshotter.is_empty() && !is_known {
            let (container, snapshot) = (container.clone(), key);
            checked.findings.push(Finding::ContainerNeedsSnapshot { container, snapshot });
        }
        ids.insert(container);
    }
    let dir = store.root().join("containers");
    if dir.is_dir() {
        for (name, path) in list(&dir)? {
            if !ids.contains(&name) {
                checked.findings.push(unnamed(path));
            }
        }
    }
    Ok(())
}

fn read_blob(store: &Store, digest: &Digest) -> Option<Finding> {
    let mut hasher = Hasher::new(digest.algorithm());
    let read = File::open(store.content().blob_path(digest)).and_then(|mut file| {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                count => hasher.update(&buffer[..count]),
            }
        }
    });
    if let Err(error) = read {
        return Some(Finding::BlobUnreadable { digest: digest.clone(), kind: error.kind() });
    }
    let found = hasher.finish();
    (found != *digest).then(|| Finding::BlobDamaged { digest: digest.clone(), found })
}

fn unnamed(path: PathBuf) -> Finding {
    let size_bytes = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
    Finding::Unnamed { path, size_bytes }
}

fn list(dir: &Path) -> Result<Vec<(String, PathBuf)>, CheckError> {
    let failed = |source| CheckError::List { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        names.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests;
