//! Progress: what a pull tells while it goes on.

use std::sync::Arc;

use keg_store::{Descriptor, Digest};

use crate::Reference;
use crate::registry::RateLimit;

/// What a pull tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// The reference is resolved: once, before any layer.
    Resolved {
        /// What is pulled.
        reference: Reference,
        /// What the registry serves under it.
        target: Descriptor,
        /// Layers, lowest first.
        layers: Vec<Descriptor>,
        /// How much the registry still lets be asked, if it said.
        limit: Option<RateLimit>,
    },
    /// A layer moved on.
    Layer {
        /// Digest of its blob.
        digest: Digest,
        /// What is going on.
        phase: LayerPhase,
        /// Bytes of the blob done in this phase.
        current_bytes: u64,
        /// Bytes of the blob.
        total_bytes: u64,
    },
}

/// The phases of a layer. Download and extraction overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerPhase {
    /// Waits for its turn.
    Waiting,
    /// Bytes come in, and are hashed and written.
    Downloading,
    /// The blob is stored and verified.
    Downloaded,
    /// The archive becomes a snapshot.
    Extracting,
    /// The snapshot is committed.
    Complete,
    /// The layer was here already.
    Exists,
    /// A transfer broke off and is tried again.
    Retrying,
    /// Bytes go out to a registry.
    Uploading,
    /// The registry has the layer now.
    Uploaded,
    /// The registry took the layer from another of its repositories.
    Mounted,
}

/// Is told what goes on. Called from several threads, and must not block for long.
pub type Progress = Arc<dyn Fn(PullEvent) + Send + Sync>;

/// Tells of one layer.
#[derive(Clone)]
pub(crate) struct LayerProgress {
    progress: Progress,
    digest: Digest,
    total_bytes: u64,
}

impl LayerProgress {
    pub(crate) fn new(progress: &Progress, layer: &Descriptor) -> Self {
        let digest = layer.digest.clone();
        Self { progress: Arc::clone(progress), digest, total_bytes: layer.size_bytes }
    }

    /// Tells nobody.
    pub(crate) fn silent(blob: &Descriptor) -> Self {
        let nobody: Progress = Arc::new(|_| {});
        Self::new(&nobody, blob)
    }

    /// Tells that the layer is in this phase, with so many bytes done.
    pub(crate) fn tell(&self, phase: LayerPhase, current_bytes: u64) {
        (self.progress)(PullEvent::Layer {
            digest: self.digest.clone(),
            phase,
            current_bytes,
            total_bytes: self.total_bytes,
        });
    }

    /// Tells that the layer has reached this phase with all its bytes.
    pub(crate) fn tell_all(&self, phase: LayerPhase) {
        self.tell(phase, self.total_bytes);
    }
}

impl std::fmt::Debug for LayerProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerProgress").field("digest", &self.digest).finish_non_exhaustive()
    }
}
