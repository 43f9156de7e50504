//! Import: an archive of a root filesystem becomes an image of one layer.
//!
//! A plain archive is stored compressed by zstd; one that is compressed is stored as it came. The
//! archive of an export of ours says how to run what is in it, and the image keeps that.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use jiff::Timestamp;
use keg_store::{
    Algorithm, ContentError, Descriptor, Digest, ErrorClass, Explain, Ingest, Labels, Reason,
    SnapshotError, labels,
};
use serde_json::{Map, Value, json};

use crate::changes::{self, ChangeError};
use crate::compression::Compression;
use crate::config_comment::config_of_comment;
use crate::extract::ExtractError;
use crate::feed::{Cut, Fed, feed};
use crate::images::ImageError;
use crate::media_type::{OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use crate::new_layer::{IngestWriter, commit_snapshot, write_documents};
use crate::pipeline::{self, RunError, Target, Wanted};
use crate::prepared::Prepared;
use crate::shared::{OperationLease, Shared};
use crate::{ImageRecord, Images, Platform, Reference};

/// Level of what is compressed here.
const ZSTD_LEVEL: i32 = 3;

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// Name for the image; `None`: it is known by its id.
    pub reference: Option<Reference>,
    /// Changes to the configuration, in the Dockerfile's words.
    pub changes: Vec<String>,
    /// Comment for the image's history.
    pub message: String,
    /// Platform; `None`: this machine's.
    pub platform: Option<Platform>,
}

/// Why an archive did not become an image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A change is not understood.
    #[error("cannot import the archive")]
    Change {
        /// Which, and why.
        #[from]
        source: ChangeError,
    },
    /// The name has a digest.
    #[error("{name:?} has a digest, and only a tag can be given to an image")]
    NotATag {
        /// The name.
        name: String,
    },
    /// The archive did not come to its end.
    #[error("the archive was not received to its end")]
    Receive {
        /// What the sender said.
        #[source]
        source: io::Error,
    },
    /// There was no archive.
    #[error("the archive is empty")]
    Empty,
    /// The archive could not be extracted.
    #[error("cannot import the archive")]
    Extract {
        /// Why.
        #[source]
        source: ExtractError,
    },
    /// The image could not be stored.
    #[error("cannot store the image")]
    Content {
        /// Why.
        #[source]
        source: ContentError,
    },
    /// The layer's snapshot could not be made.
    #[error("cannot make a snapshot of the archive")]
    Snapshot {
        /// Why.
        #[source]
        source: SnapshotError,
    },
    /// The image could not be named or read back.
    #[error("cannot enter the image")]
    Enter {
        /// Why.
        #[source]
        source: Box<ImageError>,
    },
    /// The caller went away, or the daemon is shutting down.
    #[error("the import was called off")]
    CalledOff,
}

impl ImportError {
    fn cause(&self) -> Option<&dyn Explain> {
        match self {
            Self::Change { source } => Some(source),
            Self::Extract { source } => Some(source),
            Self::Content { source } => Some(source),
            Self::Snapshot { source } => Some(source),
            Self::Enter { source } => Some(source.as_ref()),
            Self::NotATag { .. } | Self::Receive { .. } | Self::Empty | Self::CalledOff => None,
        }
    }
}

impl Explain for ImportError {
    fn reason(&self) -> Reason {
        match self {
            Self::NotATag { .. } => Reason::InvalidReference,
            Self::Receive { .. } | Self::Empty => Reason::InvalidArgument,
            _ => self.cause().map_or(Reason::Internal, Explain::reason),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::CalledOff => ErrorClass::Aborted,
            _ => self.cause().map_or_else(|| self.reason().class(), Explain::class),
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::NotATag { .. } => Some("leave the digest out".into()),
            Self::Receive { .. } => Some("send the archive again".into()),
            Self::Empty => Some("send a tar archive, plain or compressed by gzip or zstd".into()),
            _ => self.cause().and_then(Explain::remedy),
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        self.cause().map(Explain::operands).unwrap_or_default()
    }
}

/// A layer that is stored and extracted.
struct Imported {
    blob: Descriptor,
    diff_id: Digest,
    prepared: Prepared,
    /// What the archive says of itself.
    comment: Option<Vec<u8>>,
}

impl Images {
    /// Makes an image of an archive: tar, plain or compressed by gzip or zstd. Dropping the future
    /// calls the import off.
    ///
    /// # Errors
    /// [`ImportError`]; no name changes then.
    pub async fn import(
        &self,
        request: ImportRequest,
        mut archive: impl Stream<Item = io::Result<Bytes>> + Send + Unpin,
    ) -> Result<ImageRecord, ImportError> {
        if let Some(name) = request.reference.as_ref().filter(|name| name.digest().is_some()) {
            return Err(ImportError::NotATag { name: name.to_string() });
        }
        // What is wrong with the changes is told before anything is stored.
        changes::apply(&request.changes, &mut Map::new())?;
        let (feeder, fed) = feed();
        let images = self.clone();
        let storing = tokio::task::spawn_blocking(move || images.import_from(&request, fed));
        let received = feeder.pass(&mut archive).await;
        let stored = storing.await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ImportError::CalledOff),
        });
        received.map_err(|source| ImportError::Receive { source })?;
        stored
    }

    fn import_from(&self, request: &ImportRequest, fed: Fed) -> Result<ImageRecord, ImportError> {
        let shared = &self.shared;
        let enter = |source: ImageError| ImportError::Enter { source: Box::new(source) };
        let lease = OperationLease::new(shared, "import").map_err(|e| enter(e.into()))?;
        let imported = store_and_extract(shared, lease.id(), fed)?;
        let (diff_id, blob) = (imported.diff_id.clone(), imported.blob.clone());
        let mut config =
            imported.comment.as_deref().and_then(config_of_comment).unwrap_or_default();
        changes::apply(&request.changes, &mut config)?;
        let document = configuration(request, config, &diff_id);
        commit_snapshot(shared, lease.id(), imported.prepared, None, &diff_id)
            .map_err(|source| ImportError::Snapshot { source })?;
        let target = write_documents(shared, &document, vec![blob], Some(&diff_id), lease.id())
            .map_err(|source| ImportError::Content { source })?;
        let name = match &request.reference {
            Some(reference) => reference.to_string(),
            None => Digest::sha256(&document).to_string(),
        };
        shared
            .store
            .transaction(|tx| {
                self.name(tx, &name, &target)?;
                Ok::<_, ImageError>(tx.delete_lease(&shared.ns, lease.id())?)
            })
            .map_err(enter)?;
        lease.done();
        self.by_target(&target, None).map_err(enter)
    }
}

fn store_and_extract(shared: &Arc<Shared>, lease: &str, fed: Fed) -> Result<Imported, ImportError> {
    let mut prepared =
        Prepared::new(shared, lease, None).map_err(|source| ImportError::Snapshot { source })?;
    let target = Target {
        dir: &prepared.dir,
        whiteouts: prepared.whiteouts(),
        limits: &shared.limits,
        // How large the archive is will be known at its end; whoever sends it could as well send
        // it plain.
        compressed_bytes: u64::MAX,
        algorithm: Algorithm::Sha256,
        room: &shared.room,
    };
    let mut stored = None;
    let unpacked = pipeline::run(&target, |send| {
        stored = store(shared, lease, fed, send)?;
        Ok(())
    })
    .map_err(|error| match error {
        RunError::Produce(error) => error,
        RunError::Extract(source) => ImportError::Extract { source },
    })?;
    let blob = stored.ok_or(ImportError::CalledOff)?;
    let diff_id = unpacked.diff_id;
    let label = Labels::from([(labels::UNCOMPRESSED.to_owned(), diff_id.to_string())]);
    shared
        .store
        .transaction(|tx| tx.label_blob(&shared.ns, &blob.digest, &label))
        .map_err(|source| ImportError::Content { source: source.into() })?;
    let comment = unpacked.extracted.comment.clone();
    prepared.filled(unpacked.extracted);
    Ok(Imported { blob, diff_id, prepared, comment })
}

/// Stores the archive as a blob, and passes it on; `None` if it is not wanted to its end.
fn store(
    shared: &Arc<Shared>,
    lease: &str,
    mut fed: Fed,
    send: &mut dyn FnMut(Bytes) -> Wanted,
) -> Result<Option<Descriptor>, ImportError> {
    let content = |source| ImportError::Content { source };
    let ingest = shared
        .store
        .content()
        .ingest(&shared.ns, &shared.unique("import"), Algorithm::Sha256)
        .map_err(content)?
        .transient();
    let mut sink: Option<Sink> = None;
    let mut ingest = Some(ingest);
    while let Some(piece) = fed.next().map_err(|Cut| ImportError::CalledOff)? {
        if let Some(ingest) = ingest.take() {
            sink = Some(Sink::new(&piece, ingest)?);
        }
        if let Some(sink) = &mut sink {
            sink.write(&piece)?;
        }
        if send(piece) == Wanted::NoMore {
            return Ok(None);
        }
    }
    let (ingest, media_type) = sink.ok_or(ImportError::Empty)?.finish()?;
    let size_bytes = ingest.offset_bytes();
    let digest =
        ingest.commit(Some(size_bytes), None, &Labels::new(), Some(lease)).map_err(content)?;
    Ok(Some(Descriptor { media_type: media_type.to_owned(), digest, size_bytes }))
}

/// Where the archive is stored: as it comes, or compressed.
enum Sink {
    AsIs(Ingest, &'static str),
    Compressed(zstd::stream::write::Encoder<'static, IngestWriter>),
}

impl Sink {
    fn new(head: &[u8], ingest: Ingest) -> Result<Self, ImportError> {
        let extract = |source| ImportError::Extract { source };
        match Compression::detect(head).map_err(extract)? {
            Compression::Gzip => Ok(Self::AsIs(ingest, OCI_LAYER_GZIP)),
            Compression::Zstd => Ok(Self::AsIs(ingest, OCI_LAYER_ZSTD)),
            Compression::None => {
                zstd::stream::write::Encoder::new(IngestWriter(ingest), ZSTD_LEVEL)
                    .map(Self::Compressed)
                    .map_err(|source| extract(ExtractError::Read { source }))
            }
        }
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), ImportError> {
        match self {
            Self::AsIs(ingest, _) => {
                ingest.write(piece).map_err(|source| ImportError::Content { source })
            }
            Self::Compressed(encoder) => encoder.write_all(piece).map_err(sink_error),
        }
    }

    fn finish(self) -> Result<(Ingest, &'static str), ImportError> {
        match self {
            Self::AsIs(ingest, media_type) => Ok((ingest, media_type)),
            Self::Compressed(encoder) => {
                let writer = encoder.finish().map_err(sink_error)?;
                Ok((writer.0, OCI_LAYER_ZSTD))
            }
        }
    }
}

/// Takes out of an encoder's error what the ingest failed with.
fn sink_error(error: io::Error) -> ImportError {
    match error.downcast::<ContentError>() {
        Ok(source) => ImportError::Content { source },
        Err(source) => ImportError::Extract { source: ExtractError::Read { source } },
    }
}

/// Writes the configuration; the same archive, changes and time give the same bytes.
fn configuration(request: &ImportRequest, config: Map<String, Value>, diff_id: &Digest) -> Vec<u8> {
    let platform = request.platform.clone().unwrap_or_else(|| {
        let host = Platform::host();
        // What runs on this very processor is not known of what is imported.
        Platform { variant: String::new(), ..host }
    });
    let now = Timestamp::now().to_string();
    let mut document = json!({
        "created": now,
        "architecture": platform.architecture,
        "os": platform.os,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id.as_str()]},
        "history": [{"created": now, "comment": request.message, "created_by": "keg import"}],
    });
    if !platform.variant.is_empty() {
        document["variant"] = json!(platform.variant);
    }
    document.to_string().into_bytes()
}

#[cfg(test)]
mod tests;
