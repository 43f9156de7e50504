//! Layers as blobs: made when an image or a cache needs them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use keg_image::diff::{
    DiffOptions, LayerCompression, LayerWriter, Timestamps, diff_trees, diff_upper,
};
use keg_image::{Images, LooseLayer};
use keg_store::{Algorithm, Descriptor, Digest, Ingest, Labels, labels};
use serde::{Deserialize, Serialize};

use super::{Files, LEASE, Layer, Layers, lock};
use crate::error::BuildError;

/// Tells what is being received apart.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A layer as a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exported {
    pub(crate) diff_id: String,
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size_bytes: u64,
}

impl Exported {
    /// A layer that came as a blob.
    pub(crate) fn stored(blob: &Descriptor, diff_id: &Digest) -> Self {
        Self {
            diff_id: diff_id.to_string(),
            media_type: blob.media_type.clone(),
            digest: blob.digest.to_string(),
            size_bytes: blob.size_bytes,
        }
    }

    pub(crate) fn descriptor(&self) -> Option<Descriptor> {
        Some(Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.parse().ok()?,
            size_bytes: self.size_bytes,
        })
    }
}

impl Layers {
    /// Makes the blob of a layer, unless it has one. Blocks, for as long as its compression takes.
    pub(crate) fn export(
        &self,
        layer: &Layer,
        epoch_secs: Option<i64>,
    ) -> Result<Exported, BuildError> {
        let _one_at_a_time = lock(&layer.exporting);
        if let Some(exported) = layer.exported()
            && self.adopts(&exported)?
        {
            return Ok(exported);
        }
        let shared = &self.shared;
        let lower: Vec<PathBuf> = Files { id: String::new(), top: layer.below.clone() }.dirs();
        // Another build may be making the same blob of the same snapshot.
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("build-layer-{}-{count}", layer.state().key);
        let mut ingest = shared.store.content().ingest(&shared.ns, &name, Algorithm::Sha256)?;
        ingest.restart()?;
        let options = DiffOptions {
            timestamps: match epoch_secs {
                Some(latest_secs) => Timestamps::Clamp { latest_secs },
                None => Timestamps::Keep,
            },
            ..DiffOptions::default()
        };
        let writing = BuildError::io("compress a layer");
        let writer = LayerWriter::new(IngestWriter(ingest.transient()), LayerCompression::Zstd)
            .map_err(writing)?;
        let writer = match lower.first() {
            Some(base) if layer.is_whole => diff_trees(base, &layer.dir, &options, writer),
            _ => diff_upper(&layer.dir, &lower, &options, writer),
        };
        let writer = writer.map_err(|source| BuildError::Diff { source })?;
        let written = writer.finish().map_err(BuildError::io("compress a layer"))?;
        let ingest = written.output.0;
        let size_bytes = ingest.offset_bytes();
        let label = (labels::UNCOMPRESSED.to_owned(), written.diff_id.to_string());
        let blob_labels: Labels = [label].into();
        let digest = ingest.commit(Some(size_bytes), None, &blob_labels, Some(LEASE))?;
        let exported = Exported {
            diff_id: written.diff_id.to_string(),
            media_type: LayerCompression::Zstd.media_type().to_owned(),
            digest: digest.to_string(),
            size_bytes,
        };
        layer.state().exported = Some(exported.clone());
        Ok(exported)
    }

    /// Makes a layer of a blob that is here, on top of `below`. Blocks.
    pub(crate) fn unpack(
        &self,
        images: &Images,
        layer: &LooseLayer,
        below: &Files,
        created: Timestamp,
        exported: Exported,
    ) -> Result<Arc<Layer>, BuildError> {
        let upper = self.take(below, None)?;
        if let Err(source) = images.unpack_layer(layer, &upper.dir, &below.dirs()) {
            self.discard(&upper);
            return Err(BuildError::CacheLayer { source: Box::new(source) });
        }
        Ok(self.filled_from(upper, below.top.clone(), created, exported))
    }

    /// Whether the blob is here still.
    fn adopts(&self, exported: &Exported) -> Result<bool, BuildError> {
        let Some(descriptor) = exported.descriptor() else { return Ok(false) };
        Ok(self.shared.store.content().info(&self.shared.ns, &descriptor.digest)?.is_some())
    }

    /// Notes the blobs of layers that got theirs after they were committed, so that results keep
    /// them. Blocks.
    pub(crate) fn keep_blobs(&self, layers: &[Arc<Layer>]) -> Result<(), BuildError> {
        let shared = &self.shared;
        shared.store.transaction(|tx| {
            for layer in layers {
                let state = layer.state().clone();
                if let Some(exported) = state.exported.filter(|_| state.is_committed)
                    && let Some(blob) = exported.descriptor()
                {
                    let details = serde_json::to_string(&exported).unwrap_or_default();
                    tx.set_build_blob(&shared.ns, &state.key, &blob.digest, &details)?;
                }
            }
            Ok::<_, keg_store::MetadataError>(())
        })?;
        Ok(())
    }
}

/// Lets a compressor write into an ingest.
struct IngestWriter(Ingest);

impl std::io::Write for IngestWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
