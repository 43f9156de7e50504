//! A container becomes an image.

use keg_image::{CommitRequest, ImageRecord, Reference};

use super::export::own_config;
use super::owners;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::lifecycle::Lifecycle;

/// How to commit.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Name for the image; `None`: it is known by its id.
    pub reference: Option<Reference>,
    /// Who makes the image.
    pub author: String,
    /// Comment for the image's history.
    pub message: String,
    /// Changes to the configuration, in the Dockerfile's words.
    pub changes: Vec<String>,
    /// Freezes the container meanwhile.
    pub pause: bool,
}

impl Engine {
    /// Makes an image of a container's image and of what the container changed.
    ///
    /// # Errors
    /// [`EngineError::Commit`]; the container is as it was then.
    pub async fn commit(
        &self,
        name: &str,
        options: CommitOptions,
    ) -> Result<ImageRecord, EngineError> {
        let container = self.find(name)?;
        let engine = self.clone();
        Self::detached("a commit", async move {
            let runs = matches!(container.record().lifecycle, Lifecycle::Running { .. });
            // One that ends before it can be frozen is still of one moment, or will be.
            let paused = options.pause && runs && engine.freeze(&container).await;
            let record = container.record();
            let request = CommitRequest {
                snapshot_key: record.snapshot_key.clone(),
                owners: owners(&record),
                base: record.image.id.clone(),
                config: own_config(&record),
                changes: options.changes,
                author: options.author,
                message: options.message.clone(),
                created_by: record.process.args.join(" "),
                reference: options.reference,
            };
            let committed = engine
                .blocking("a commit", move |shared| {
                    shared
                        .images
                        .commit(&request)
                        .map_err(|source| EngineError::Commit(Box::new(source)))
                })
                .await;
            if paused && let Err(error) = engine.resume(container.id().as_str()).await {
                tracing::warn!(container = %container.id(), error = %error.chain(),
                    "a container that was paused for a commit cannot go on");
            }
            let image = committed?;
            let comment = ("comment", options.message);
            engine.tell(&record, "commit", &[comment, ("imageID", image.id.to_string())]);
            Ok(image)
        })
        .await
    }
}
