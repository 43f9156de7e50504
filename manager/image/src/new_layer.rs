//! New layers: what a container or a build step changed becomes a blob and a snapshot, and layers
//! with a configuration become an image.
//!
//! ```text
//!                    ┌─▶ compress ─▶ hash ─▶ blob
//! snapshot ─▶ diff ──┤
//!                    └─▶ diff id ─▶ extract ─▶ committed snapshot
//! ```
//!
//! The snapshot is made by extracting what is stored, and not by renaming the one that was written
//! in: so it has an image's owners and not the container's, the container goes on, and a machine
//! that pulls the image gets the very same files.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use keg_store::{
    Algorithm, CommitOptions, ContentError, Descriptor, Digest, ErrorClass, Explain, Ingest,
    MetadataError, Reason, Resource, SnapshotError,
};
use serde_json::json;

use crate::diff::{DiffError, DiffOptions, LayerCompression, LayerWriter, diff_trees, diff_upper};
use crate::extract::ExtractError;
use crate::manifest::chain_ids;
use crate::media_type::{OCI_CONFIG, OCI_MANIFEST};
use crate::pipeline::{self, RunError, Target, Wanted};
use crate::prepared::Prepared;
use crate::record::{config_labels, layer_labels, manifest_labels};
use crate::shared::{OperationLease, Shared};
use crate::{ImageError, ImageRecord, Images, Reference};

/// Size of the pieces that go to the extraction.
const PIECE_BYTES: usize = 256 * 1024;

/// Where a layer comes from.
#[derive(Debug, Clone)]
pub struct LayerSource {
    /// Key of the active snapshot whose changes are the layer. It stays as it is.
    pub snapshot_key: String,
    /// Owners and times.
    pub options: DiffOptions,
    /// How it is stored.
    pub compression: LayerCompression,
}

/// A layer that is stored, and its snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// The layer as it is stored.
    pub blob: Descriptor,
    /// Digest of its archive before compression.
    pub diff_id: Digest,
    /// Key of the committed snapshot that shows it and everything below it.
    pub chain_id: Digest,
}

/// Why a layer or an image was not made.
#[derive(Debug, thiserror::Error)]
pub enum NewLayerError {
    /// What changed cannot be read, or cannot be a layer.
    #[error("the changes cannot be made a layer")]
    Diff {
        /// Why.
        #[source]
        source: DiffError,
    },
    /// The layer's snapshot cannot be filled.
    #[error("the new layer cannot be unpacked")]
    Extract {
        /// Why.
        #[source]
        source: ExtractError,
    },
    /// The layer cannot be stored.
    #[error("the new layer cannot be stored")]
    Content {
        /// Why.
        #[source]
        source: ContentError,
    },
    /// The snapshot cannot be made.
    #[error("the new layer's snapshot cannot be made")]
    Snapshot {
        /// Why.
        #[source]
        source: SnapshotError,
    },
    /// The image cannot be named or read back.
    #[error("the image cannot be entered")]
    Enter {
        /// Why.
        #[source]
        source: Box<ImageError>,
    },
}

impl NewLayerError {
    fn cause(&self) -> &dyn Explain {
        match self {
            Self::Diff { source } => source,
            Self::Extract { source } => source,
            Self::Content { source } => source,
            Self::Snapshot { source } => source,
            Self::Enter { source } => source.as_ref(),
        }
    }

    pub(crate) fn content(source: ContentError) -> Self {
        Self::Content { source }
    }

    pub(crate) fn snapshot(source: SnapshotError) -> Self {
        Self::Snapshot { source }
    }

    pub(crate) fn enter(source: impl Into<ImageError>) -> Self {
        Self::Enter { source: Box::new(source.into()) }
    }
}

impl Explain for NewLayerError {
    fn reason(&self) -> Reason {
        self.cause().reason()
    }

    fn class(&self) -> ErrorClass {
        self.cause().class()
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        self.cause().remedy()
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        self.cause().operands()
    }
}

/// Keeps what an operation makes until it has a name. When it is dropped, what has none is left to
/// the collection, after an hour.
#[derive(Debug)]
pub struct ImageLease(OperationLease);

impl ImageLease {
    /// The lease's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0.id()
    }
}

impl Images {
    /// Begins an operation that makes layers.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn lease(&self, operation: &str) -> Result<ImageLease, MetadataError> {
        OperationLease::new(&self.shared, operation).map(ImageLease)
    }

    /// Stores what changed in an active snapshot as a layer, and makes the layer's snapshot on top
    /// of `below`, the diff ids of the layers that the active snapshot stands on. Blocks.
    ///
    /// # Errors
    /// [`NewLayerError`]; nothing is left of the layer then that is not collected.
    pub fn write_layer(
        &self,
        source: &LayerSource,
        below: &[Digest],
        lease: &ImageLease,
    ) -> Result<NewLayer, NewLayerError> {
        let (shared, lease) = (&self.shared, lease.id());
        let (directory, lower) = self.parts(&source.snapshot_key)?;
        let parent = chain_ids(below).pop();
        // A difference needs no parent until it is committed; a copy does.
        let early = parent.as_ref().filter(|_| !shared.snapshotter.can_rebase());
        let mut prepared = Prepared::new(shared, lease, early.map(Digest::as_str))
            .map_err(NewLayerError::snapshot)?;
        let target = Target {
            dir: &prepared.dir,
            whiteouts: prepared.whiteouts(),
            limits: &shared.limits,
            // It is written here and now, by us.
            compressed_bytes: u64::MAX,
            algorithm: Algorithm::Sha256,
            room: &shared.room,
        };
        let mut stored = None;
        let is_copy = !shared.snapshotter.can_rebase();
        let unpacked = pipeline::run(&target, |send| {
            let mut tee = Tee::new(shared, source.compression, send)?;
            let written = match lower.first() {
                Some(base) if is_copy => {
                    diff_trees(base, &directory, &source.options, &mut tee).map(drop)
                }
                _ => diff_upper(&directory, &lower, &source.options, &mut tee).map(drop),
            };
            stored = tee.finish(written, lease)?;
            Ok(())
        })
        .map_err(|error| match error {
            RunError::Produce(error) => error,
            RunError::Extract(source) => NewLayerError::Extract { source },
        })?;
        let diff_id = unpacked.diff_id;
        let blob = stored.ok_or(NewLayerError::Extract {
            source: ExtractError::Archive { problem: "it was not taken to its end" },
        })?;
        shared
            .store
            .transaction(|tx| {
                tx.label_blob(&shared.ns, &blob.digest, &layer_labels(&diff_id, None))
            })
            .map_err(|source| NewLayerError::content(source.into()))?;
        prepared.filled(unpacked.extracted);
        let stack = [below, std::slice::from_ref(&diff_id)].concat();
        let chain_id = chain_ids(&stack).pop().unwrap_or_else(|| diff_id.clone());
        commit_snapshot(shared, lease, prepared, parent.as_ref(), &chain_id)
            .map_err(NewLayerError::snapshot)?;
        Ok(NewLayer { blob, diff_id, chain_id })
    }

    /// Stores an image's documents: its configuration, whose layers are `layers`, lowest first.
    /// The same configuration and layers give the same bytes. Blocks.
    ///
    /// # Errors
    /// [`NewLayerError::Content`].
    pub fn write_image(
        &self,
        config: &[u8],
        layers: Vec<Descriptor>,
        top: Option<&Digest>,
        lease: &ImageLease,
    ) -> Result<Descriptor, NewLayerError> {
        write_documents(&self.shared, config, layers, top, lease.id())
            .map_err(NewLayerError::content)
    }

    /// Gives an image its name, or the name that is its id, and ends the lease. Blocks.
    ///
    /// # Errors
    /// [`NewLayerError::Enter`].
    pub fn enter_image(
        &self,
        target: &Descriptor,
        config: &Digest,
        name: Option<&Reference>,
        lease: ImageLease,
    ) -> Result<ImageRecord, NewLayerError> {
        let shared = &self.shared;
        let name = name.map_or_else(|| config.to_string(), Reference::to_string);
        shared
            .store
            .transaction(|tx| {
                self.name(tx, &name, target)?;
                Ok::<_, ImageError>(tx.delete_lease(&shared.ns, lease.id())?)
            })
            .map_err(NewLayerError::enter)?;
        lease.0.done();
        self.by_target(target, None).map_err(NewLayerError::enter)
    }

    /// The directory of an active snapshot, and those below it, uppermost first.
    fn parts(&self, key: &str) -> Result<(PathBuf, Vec<PathBuf>), NewLayerError> {
        let (snapshotter, ns) = (&self.shared.snapshotter, &self.shared.ns);
        let parts = || {
            let directory = snapshotter.directory(ns, key)?;
            let lower = match snapshotter.stat(ns, key)?.parent {
                Some(parent) => snapshotter.layers(ns, &parent)?,
                None => Vec::new(),
            };
            Ok((directory, lower))
        };
        parts().map_err(NewLayerError::snapshot)
    }
}

/// Makes a filled snapshot durable under its chain id, on top of `parent`, unless there is one.
pub(crate) fn commit_snapshot(
    shared: &Shared,
    lease: &str,
    prepared: Prepared,
    parent: Option<&Digest>,
    chain_id: &Digest,
) -> Result<(), SnapshotError> {
    shared.snapshotter.sync()?;
    let key = chain_id.as_str();
    let is_new = shared.store.transaction(|tx| {
        let is_new = match shared.snapshotter.stat_in(tx, &shared.ns, key) {
            Ok(_) => false,
            Err(SnapshotError::NotFound { .. }) => {
                let options = CommitOptions {
                    usage: Some(prepared.usage),
                    parent: parent
                        .filter(|_| shared.snapshotter.can_rebase())
                        .map(Digest::to_string),
                    ..CommitOptions::default()
                };
                shared.snapshotter.commit_in(tx, &shared.ns, key, &prepared.key, &options)?;
                true
            }
            Err(error) => return Err(error),
        };
        let snapshotter = shared.snapshotter.name().to_owned();
        let resource = Resource::Snapshot { snapshotter, key: key.to_owned() };
        tx.add_to_lease(&shared.ns, lease, &resource)?;
        Ok(is_new)
    })?;
    if is_new {
        prepared.committed();
    }
    Ok(())
}

/// Stores a configuration and a manifest, `top` being the chain id of the uppermost layer.
pub(crate) fn write_documents(
    shared: &Shared,
    config: &[u8],
    layers: Vec<Descriptor>,
    top: Option<&Digest>,
    lease: &str,
) -> Result<Descriptor, ContentError> {
    let content = shared.store.content();
    let labels = config_labels(shared.snapshotter.name(), top);
    let digest = content.write_blob(&shared.ns, config, &labels, Some(lease))?;
    let config =
        Descriptor { media_type: OCI_CONFIG.to_owned(), digest, size_bytes: config.len() as u64 };
    let labels = manifest_labels(&config, &layers);
    let document = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": layers,
    });
    let bytes = document.to_string().into_bytes();
    let digest = content.write_blob(&shared.ns, &bytes, &labels, Some(lease))?;
    let (media_type, size_bytes) = (OCI_MANIFEST.to_owned(), bytes.len() as u64);
    Ok(Descriptor { media_type, digest, size_bytes })
}

/// Takes an archive, stores it compressed, and passes it on as it is.
struct Tee<'a> {
    compression: LayerCompression,
    blob: LayerWriter<IngestWriter>,
    piece: Vec<u8>,
    send: &'a mut dyn FnMut(Bytes) -> Wanted,
    wanted: Wanted,
}

impl<'a> Tee<'a> {
    fn new(
        shared: &Arc<Shared>,
        compression: LayerCompression,
        send: &'a mut dyn FnMut(Bytes) -> Wanted,
    ) -> Result<Self, NewLayerError> {
        let ingest = shared
            .store
            .content()
            .ingest(&shared.ns, &shared.unique("layer"), Algorithm::Sha256)
            .map_err(NewLayerError::content)?
            .transient();
        let blob = LayerWriter::new(IngestWriter(ingest), compression).map_err(write_error)?;
        let piece = Vec::with_capacity(PIECE_BYTES);
        Ok(Self { compression, blob, piece, send, wanted: Wanted::More })
    }

    fn pass_on(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.wanted = (self.send)(piece.into());
        match self.wanted {
            Wanted::More => Ok(()),
            Wanted::NoMore => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Ends the blob; `None` if the extraction failed, which then says why.
    fn finish(
        mut self,
        written: Result<(), DiffError>,
        lease: &str,
    ) -> Result<Option<Descriptor>, NewLayerError> {
        let ended =
            written.and_then(|()| self.pass_on().map_err(|source| DiffError::Write { source }));
        match ended {
            Err(_) if self.wanted == Wanted::NoMore => return Ok(None),
            Err(DiffError::Write { source }) => return Err(write_error(source)),
            Err(source) => return Err(NewLayerError::Diff { source }),
            Ok(()) => {}
        }
        let media_type = self.compression.media_type().to_owned();
        let written = self.blob.finish().map_err(write_error)?;
        let ingest = written.output.0;
        let size_bytes = ingest.offset_bytes();
        let labels = layer_labels(&written.diff_id, None);
        let digest = ingest
            .commit(Some(size_bytes), None, &labels, Some(lease))
            .map_err(NewLayerError::content)?;
        Ok(Some(Descriptor { media_type, digest, size_bytes }))
    }
}

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.blob.write_all(bytes)?;
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.pass_on()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lets an encoder write into an ingest.
#[derive(Debug)]
pub(crate) struct IngestWriter(pub(crate) Ingest);

impl Write for IngestWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes out of an encoder's error what the ingest failed with.
fn write_error(error: io::Error) -> NewLayerError {
    match error.downcast::<ContentError>() {
        Ok(source) => NewLayerError::Content { source },
        Err(source) => NewLayerError::Diff { source: DiffError::Write { source } },
    }
}
