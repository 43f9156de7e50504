//! The result of a build becomes an image.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use keg_image::diff::{DiffOptions, Timestamps, archive_tree};
use keg_image::manifest::chain_ids;
use keg_image::{ImageRecord, Reference};
use keg_store::{Descriptor, Digest};
use serde_json::json;

use crate::build::{Build, Finished};
use crate::error::BuildError;
use crate::layers::Layer;
use crate::tree::Tree;

/// What a build has made.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// The image, if one was made.
    pub image: Option<ImageRecord>,
    /// Digest of the image's manifest, or of its index.
    pub target: Option<Descriptor>,
    /// What it was made of: names and digests.
    pub materials: Vec<(String, String)>,
    /// Bytes of files that the client sent.
    pub sent_bytes: u64,
    /// The files.
    pub files: ResultFiles,
}

/// The files of a result, as long as nobody removes them from the cache.
#[derive(Debug, Clone, Default)]
pub struct ResultFiles {
    dirs: Vec<PathBuf>,
    epoch_secs: Option<i64>,
}

impl ResultFiles {
    /// Writes the files as a tar archive. Blocks.
    ///
    /// # Errors
    /// [`BuildError::Tree`], [`BuildError::Diff`]; a part of the archive is then written.
    pub fn archive(&self, output: impl Write) -> Result<(), BuildError> {
        let options = DiffOptions {
            timestamps: match self.epoch_secs {
                Some(latest_secs) => Timestamps::Clamp { latest_secs },
                None => Timestamps::Keep,
            },
            ..DiffOptions::default()
        };
        if self.dirs.is_empty() {
            return Ok(());
        }
        let tree = Tree::layers(&self.dirs)?;
        archive_tree(tree.root(), &options, output)
            .map(drop)
            .map_err(|source| BuildError::Diff { source })
    }
}

impl Build {
    /// Makes an image of a stage, names it, and keeps what was done.
    pub(crate) async fn export(self: &Arc<Self>, finished: &Finished) -> Result<Built, BuildError> {
        let mut image = None;
        if self.request.makes_image {
            image = Some(self.export_image(finished).await?);
        } else {
            let build = Arc::clone(self);
            self.shared.blocking(move |_| build.keep(&[])).await?;
        }
        Ok(Built {
            target: image.as_ref().map(|image| image.target.clone()),
            image,
            materials: self.materials().into_iter().collect(),
            sent_bytes: self.sent_bytes().await,
            files: ResultFiles { dirs: finished.stage.files.dirs(), epoch_secs: self.epoch_secs },
        })
    }

    async fn export_image(
        self: &Arc<Self>,
        finished: &Finished,
    ) -> Result<ImageRecord, BuildError> {
        let step = self.progress.step("exporting to image");
        let stage = Arc::clone(&finished.stage);
        let mut layers = stage.files.layers();
        layers.reverse();
        let mut working = Vec::new();
        for layer in &layers {
            let (shared, layer) = (Arc::clone(&self.shared), Arc::clone(layer));
            let epoch_secs = self.epoch_secs;
            working.push(tokio::task::spawn_blocking(move || {
                shared.layers.export(&layer, epoch_secs)
            }));
        }
        let mut exported = Vec::new();
        for work in working {
            exported.push(work.await.map_err(|source| BuildError::Panicked { source })??);
        }
        step.status("exporting layers", 1, 1, true);
        let diff_ids: Vec<String> = exported.iter().map(|layer| layer.diff_id.clone()).collect();
        let digests: Vec<Digest> = diff_ids.iter().filter_map(|id| id.parse().ok()).collect();
        let blobs: Vec<Descriptor> =
            exported.iter().filter_map(|layer| layer.descriptor()).collect();
        let mut config = stage.config.clone();
        for (key, value) in &self.request.labels {
            config.insert("Labels", key, json!(value));
        }
        let epoch = self.epoch_secs.and_then(|secs| Timestamp::from_second(secs).ok());
        let config = config.finish(&diff_ids, epoch);
        let chain: Vec<(Arc<Layer>, Digest)> =
            layers.iter().cloned().zip(chain_ids(&digests)).collect();
        let build = Arc::clone(self);
        let image = self
            .shared
            .blocking(move |_| {
                build.keep(&chain)?;
                build.name_image(&config, blobs, chain.last().map(|(_, id)| id))
            })
            .await?;
        step.status(format!("writing image {}", image.id), 1, 1, true);
        for tag in &self.request.tags {
            step.status(format!("naming to {tag}"), 1, 1, true);
        }
        step.done();
        Ok(image)
    }

    /// Stores the image's documents and gives it its names, unless all that is there already.
    fn name_image(
        &self,
        config: &[u8],
        layers: Vec<Descriptor>,
        top: Option<&Digest>,
    ) -> Result<ImageRecord, BuildError> {
        let images = &self.shared.images;
        let id = Digest::sha256(config);
        let failed = |source| BuildError::Image { source: Box::new(source) };
        let is_whole = |image: &ImageRecord| image.id == id && image.layers == layers;
        let known = |name: &str| images.resolve(name, None).ok().filter(is_whole);
        let tags: Vec<String> = self.request.tags.iter().map(Reference::to_string).collect();
        let mut found = None;
        for name in tags.iter().map(String::as_str).chain([id.as_str()]) {
            found = known(name);
            if found.is_some() {
                break;
            }
        }
        let image = match found {
            Some(image) => image,
            None => {
                let lease = images.lease("build")?;
                let target = images
                    .write_image(config, layers, top, &lease)
                    .map_err(|source| BuildError::Write { source: Box::new(source) })?;
                images
                    .enter_image(&target, &id, self.request.tags.first(), lease)
                    .map_err(|source| BuildError::Write { source: Box::new(source) })?
            }
        };
        let unnamed: Vec<&Reference> =
            self.request.tags.iter().filter(|tag| !image.names.contains(tag)).collect();
        if unnamed.is_empty() {
            return Ok(image);
        }
        for tag in unnamed {
            images.tag(image.id.as_str(), tag).map_err(failed)?;
        }
        images.resolve(image.id.as_str(), None).map_err(failed)
    }
}
