//! Prune: removes images that nothing needs.

use std::collections::BTreeSet;

use jiff::Timestamp;
use keg_store::Digest;

use crate::images::{ImageError, drop_row, gone_digests};
use crate::{ImageRecord, ImageUser, Images};

/// Which images to remove.
#[derive(Debug, Clone, Default)]
pub struct PruneRequest {
    /// Also those with a name.
    pub all: bool,
    /// Only those built before this moment.
    pub until: Option<Timestamp>,
    /// Only those with all of these labels, `NAME` or `NAME=VALUE`.
    pub labels: Vec<String>,
    /// Only those with none of these labels.
    pub without_labels: Vec<String>,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// Ids of images and layers that are gone.
    pub deleted: Vec<String>,
    /// Bytes that this gave back.
    pub reclaimed_bytes: u64,
}

impl Images {
    /// Removes the images that a request is for and that no container uses.
    ///
    /// # Errors
    /// If the database or the disk fails.
    pub fn prune(&self, request: &PruneRequest, users: &[ImageUser]) -> Result<Pruned, ImageError> {
        let used: BTreeSet<&Digest> = users.iter().map(|user| &user.image_id).collect();
        let doomed: Vec<ImageRecord> = self
            .list()?
            .into_iter()
            .filter(|image| !used.contains(&image.id) && request.is_for(image))
            .collect();
        let targets: BTreeSet<&Digest> = doomed.iter().map(|image| &image.target.digest).collect();
        let ns = &self.shared.ns;
        let untagged = self.shared.store.transaction(|tx| {
            let rows = tx.images(ns)?;
            let names = rows.into_iter().filter(|row| targets.contains(&row.target.digest));
            let names: Vec<String> = names.map(|row| row.name).collect();
            for name in &names {
                drop_row(tx, ns, name)?;
            }
            Ok::<_, ImageError>(names)
        })?;
        let collected = self.collect()?;
        // Whoever prunes wants the room, and may need it for what comes next.
        self.shared.store.trash().wait_until_empty();
        let mut deleted = Vec::new();
        let mut untagged = untagged;
        for image in &doomed {
            let left = self.digests_of(&image.target)?;
            untagged.extend(gone_digests(image, &left, &untagged));
            for gone in self.vanished(image)? {
                // Layers are shared.
                if !deleted.contains(&gone) {
                    deleted.push(gone);
                }
            }
        }
        let is_name = |name: &String| name.parse::<Digest>().is_err();
        Ok(Pruned {
            untagged: untagged.into_iter().filter(is_name).collect(),
            deleted,
            reclaimed_bytes: collected.blob_bytes + collected.snapshot_bytes,
        })
    }
}

impl PruneRequest {
    fn is_for(&self, image: &ImageRecord) -> bool {
        let is_wanted = self.all || image.names.is_empty();
        let is_old = self
            .until
            .is_none_or(|until| image.created_at.is_some_and(|created_at| created_at < until));
        let labels = image.config.config().as_ref().and_then(|config| config.labels().as_ref());
        let has = |wanted: &String| {
            labels.is_some_and(|labels| match wanted.split_once('=') {
                Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
                None => labels.contains_key(wanted),
            })
        };
        is_wanted && is_old && self.labels.iter().all(has) && !self.without_labels.iter().any(has)
    }
}
