//! Unpacking later: an image whose blobs are here, and whose layers are not on the disk yet.
//!
//! An image of another platform than the one that was unpacked at its pull or load is in this state until
//! somebody wants to run it.

use std::sync::Arc;

use keg_store::Digest;
use tokio::runtime::Handle;

use crate::images::ImageError;
use crate::layer::{Layer, LayerError};
use crate::manifest::ManifestError;
use crate::progress::LayerProgress;
use crate::record::{config_labels, layer_labels};
use crate::shared::OperationLease;
use crate::stack::unpack;
use crate::transfer::Transfer;
use crate::{ImageRecord, Images};

impl Images {
    /// Sees to it that the layers of an image are on the disk. Blocks; where there is something to do, the
    /// thread must be one that tokio made for waiting.
    ///
    /// # Errors
    /// [`ImageError::Unpack`] if a layer is not here either, or cannot be unpacked.
    pub fn ensure_unpacked(&self, image: &ImageRecord) -> Result<(), ImageError> {
        let shared = &self.shared;
        let Some(top) = image.snapshot_parent() else { return Ok(()) };
        if shared.snapshotter.stat(&shared.ns, top).is_ok() {
            return Ok(());
        }
        let lease = OperationLease::new(shared, "unpack")?;
        let layers = self.layers_of(image, &lease)?;
        Handle::current().block_on(unpack(layers, None)).map_err(|source: LayerError| {
            ImageError::Unpack { image: image.display_name(), source: Box::new(source) }
        })?;
        shared.store.transaction(|tx| {
            let labels = config_labels(shared.snapshotter.name(), image.chain_ids.last());
            tx.label_blob(&shared.ns, &image.id, &labels)?;
            tx.delete_lease(&shared.ns, lease.id())
        })?;
        lease.done();
        Ok(())
    }

    fn layers_of(
        &self,
        image: &ImageRecord,
        lease: &OperationLease,
    ) -> Result<Vec<Layer>, ImageError> {
        let diff_ids = image.config.rootfs().diff_ids().iter().map(|text| text.parse());
        let diff_ids: Vec<Digest> = diff_ids.collect::<Result<_, _>>().map_err(|source| {
            let source = ManifestError::Digest { document: image.id.clone(), source };
            ImageError::Manifest { image: image.display_name(), source }
        })?;
        let parts = image.layers.iter().zip(diff_ids).zip(&image.chain_ids);
        let layers = parts.map(|((blob, diff_id), chain_id)| Layer {
            transfer: Transfer {
                shared: Arc::clone(&self.shared),
                blob: blob.clone(),
                lease: lease.id().to_owned(),
                progress: LayerProgress::silent(blob),
                labels: layer_labels(&diff_id, None),
            },
            diff_id,
            chain_id: chain_id.clone(),
        });
        Ok(layers.collect())
    }
}
