//! Base images: found here, or pulled with the client's credentials.

use std::collections::HashMap;
use std::sync::Arc;

use keg_image::{ImageError, ImageRecord, Images, Platform, PullRequest, Reference};
use keg_store::Digest;
use serde_json::Value;

use crate::build::Build;
use crate::error::BuildError;
use crate::inputs::Material;
use crate::layers::{Files, Layer};

impl Build {
    /// Returns an image that is here for a platform, or pulls it.
    pub(crate) async fn image(
        self: &Arc<Self>,
        name: &str,
        platform: &Platform,
    ) -> Result<keg_image::ImageRecord, BuildError> {
        let found = {
            let (name, platform) = (name.to_owned(), platform.clone());
            self.shared
                .blocking(move |shared| Ok(image_here(&shared.images, &name, &platform)))
                .await?
        };
        // A name that stands for one image gives that, whatever its platform.
        let fits = |image: &keg_image::ImageRecord| {
            image.platform.architecture.is_empty() || platform.rank(&image.platform).is_some()
        };
        if let (Ok(image), false) = (&found, self.request.pull)
            && fits(image)
        {
            self.note_image(name, image);
            return Ok(image.clone());
        }
        if let Err(source) = Reference::parse(name) {
            // An id is a name that no registry knows.
            return found.map_err(|_| BuildError::Reference { name: name.to_owned(), source });
        }
        let mut credentials = HashMap::new();
        for meaning in self.shared.images.meanings(name).unwrap_or_default() {
            let registry = meaning.domain().to_owned();
            credentials.insert(registry.clone(), self.credentials(&registry).await?);
        }
        let request = |reference: Reference| PullRequest {
            credentials: credentials.get(reference.domain()).cloned().flatten(),
            ..PullRequest::new(reference, Some(platform.clone()))
        };
        let step = self.progress.step(format!("[internal] load metadata for {name}"));
        // Layers are told of by the images' own pull; here it is one step.
        let unheard: keg_image::Progress = Arc::new(|_| {});
        match (self.shared.images.pull_by_name(name, request, unheard).await, found) {
            (Ok(pulled), _) => {
                step.done();
                self.note_image(name, &pulled.image);
                Ok(pulled.image)
            }
            (Err(error), Ok(image)) if !fits(&image) => {
                step.failed(error.to_string());
                Err(BuildError::BasePlatform {
                    image: name.to_owned(),
                    found: image.platform.to_string(),
                    wanted: platform.to_string(),
                    source: Box::new(error),
                })
            }
            (Err(error), _) => {
                step.failed(error.to_string());
                Err(BuildError::Pull { image: name.to_owned(), source: Box::new(error) })
            }
        }
    }

    fn note_image(&self, name: &str, image: &keg_image::ImageRecord) {
        self.inputs.note_material(Material::Image {
            name: name.to_owned(),
            platform: image.platform.to_string(),
            digest: image.target.digest.to_string(),
        });
    }

    /// Returns an image's files.
    pub(crate) fn image_files(&self, image: &keg_image::ImageRecord) -> Result<Files, BuildError> {
        let Some(top) = image.chain_ids.last() else { return Ok(Files::empty()) };
        let dirs = self.shared.layers.image_dirs(&image.chain_ids)?;
        let config: Value = serde_json::from_slice(&image.config_json).unwrap_or_default();
        let diff_ids = config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
        let mut below: Option<Arc<Layer>> = None;
        for (index, dir) in dirs.into_iter().enumerate() {
            let (Some(chain_id), Some(blob), Some(diff_id)) = (
                image.chain_ids.get(index),
                image.layers.get(index),
                diff_ids
                    .get(index)
                    .and_then(Value::as_str)
                    .and_then(|id| id.parse::<Digest>().ok()),
            ) else {
                return Err(BuildError::Malformed {
                    problem: format!("the image {} does not name all its layers", image.id),
                });
            };
            let is_whole = self.shared.layers.are_whole();
            below = Some(Layer::of_image(dir, below, chain_id, &diff_id, blob, is_whole));
        }
        Ok(Files { id: top.to_string(), top: below })
    }
}

/// Returns the image of a platform, unpacked, or the one that there is for another.
fn image_here(images: &Images, name: &str, platform: &Platform) -> Result<ImageRecord, ImageError> {
    match images.resolve(name, Some(platform)) {
        Err(ImageError::NotForPlatform { .. }) => images.resolve(name, None),
        Ok(image) => images.ensure_unpacked(&image).map(|()| image),
        Err(error) => Err(error),
    }
}
