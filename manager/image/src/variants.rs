//! Variants: the platforms that an image can be had for, and which of them are here.

use keg_store::{ContentError, Digest};

use crate::images::ImageError;
use crate::manifest::{Document, MAX_MANIFEST_BYTES};
use crate::media_type::is_index;
use crate::{ImageRecord, Images, Platform};

/// One platform's image of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Where it runs, if the index says.
    pub platform: Option<Platform>,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Whether its layers are here.
    pub is_here: bool,
    /// Bytes of its layers as stored.
    pub stored_bytes: u64,
    /// Bytes of its layers, unpacked; 0 if they are not.
    pub size_bytes: u64,
}

impl Images {
    /// Returns the platforms that the index of an image lists; none if its name stands for one image.
    ///
    /// # Errors
    /// If the database or the disk fails.
    pub fn variants(&self, image: &ImageRecord) -> Result<Vec<Variant>, ImageError> {
        if !is_index(&image.target.media_type) {
            return Ok(Vec::new());
        }
        let (content, ns) = (self.store().content(), &self.shared.ns);
        let failed =
            |source: ContentError| ImageError::Content { image: image.display_name(), source };
        let bytes =
            content.read_blob(ns, &image.target.digest, MAX_MANIFEST_BYTES).map_err(failed)?;
        let document = Document::parse(&image.target, &bytes)
            .map_err(|source| ImageError::Manifest { image: image.display_name(), source })?;
        let Document::Index(index) = document else { return Ok(Vec::new()) };
        let mut variants = Vec::new();
        for entry in index.entries {
            let record = self.loader().load(&entry.target, entry.platform.as_ref()).ok();
            let mut is_here = record.is_some();
            for layer in record.iter().flat_map(|record| &record.layers) {
                is_here &= content.info(ns, &layer.digest).map_err(failed)?.is_some();
            }
            let record = record.filter(|_| is_here);
            variants.push(Variant {
                platform: entry.platform,
                manifest: entry.target.digest,
                is_here,
                stored_bytes: record.as_ref().map_or(0, |record| record.stored_bytes),
                size_bytes: record.as_ref().map_or(0, |record| record.size_bytes),
            });
        }
        Ok(variants)
    }

    /// Returns what the layer takes, unpacked, that a chain id ends with; 0 if it is not unpacked here.
    #[must_use]
    pub fn layer_bytes(&self, chain_id: &Digest) -> u64 {
        self.loader().unpacked_bytes(chain_id)
    }
}
