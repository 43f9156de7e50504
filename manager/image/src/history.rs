//! History: the steps by which an image was built, with what each added.

use jiff::Timestamp;
use keg_store::Digest;

use crate::images::ImageError;
use crate::{ImageRecord, Images, Platform};

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryStep {
    /// When.
    pub created_at: Option<Timestamp>,
    /// The instruction.
    pub created_by: String,
    /// Who.
    pub author: String,
    /// A remark.
    pub comment: String,
    /// Digest of the layer that it made, if it made one.
    pub layer: Option<Digest>,
    /// Bytes of that layer, unpacked.
    pub size_bytes: u64,
}

impl Images {
    /// Returns an image and the steps by which it was built, the last first.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn history(
        &self,
        text: &str,
        platform: Option<&Platform>,
    ) -> Result<(ImageRecord, Vec<HistoryStep>), ImageError> {
        let image = self.resolve(text, platform)?;
        let loader = self.loader();
        let sizes = image.chain_ids.iter().map(|chain_id| loader.unpacked_bytes(chain_id));
        let mut layers = image.layers.iter().map(|layer| layer.digest.clone()).zip(sizes);
        let mut steps: Vec<HistoryStep> = Vec::new();
        for told in image.config.history().iter().flatten() {
            let made = if told.empty_layer() == Some(true) { None } else { layers.next() };
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            steps.push(HistoryStep {
                created_at: told.created().as_deref().and_then(|text| text.parse().ok()),
                created_by: text(told.created_by()),
                author: text(told.author()),
                comment: text(told.comment()),
                size_bytes: made.as_ref().map_or(0, |(_, bytes)| *bytes),
                layer: made.map(|(digest, _)| digest),
            });
        }
        // Some tools tell of no history, or of a part.
        steps.extend(layers.map(|(digest, size_bytes)| HistoryStep {
            layer: Some(digest),
            size_bytes,
            ..HistoryStep::default()
        }));
        steps.reverse();
        Ok((image, steps))
    }
}
