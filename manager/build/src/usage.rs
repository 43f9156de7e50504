//! What builds leave for later builds, and how it is bounded.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use keg_store::{BuildResult, Digest};

use crate::builder::{Builder, Shared};
use crate::content::tree_bytes;
use crate::error::BuildError;

/// What is there.
#[derive(Debug, Clone, Default)]
pub struct DiskUsage {
    /// Results of steps, the last used first, and whether an image has the same layer.
    pub results: Vec<(BuildResult, bool)>,
    /// Bytes of files of contexts.
    pub context_bytes: u64,
    /// Bytes of caches that steps mount.
    pub mount_bytes: u64,
}

/// What to remove.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prune {
    /// Also what images share, files of contexts, and caches that steps mount.
    pub all: bool,
    /// Keeps this many bytes of what was used last.
    pub keep_bytes: u64,
    /// Keeps what was used within so many seconds.
    pub unused_for_secs: i64,
}

/// What was removed.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// Keys of results.
    pub deleted: Vec<String>,
    /// Bytes that were freed.
    pub freed_bytes: u64,
}

impl Builder {
    /// Tells what earlier builds left.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn disk_usage(&self) -> Result<DiskUsage, BuildError> {
        self.shared
            .blocking(|shared| {
                let mut results = shared.results()?;
                results.reverse();
                Ok(DiskUsage {
                    results,
                    context_bytes: shared.content.size_bytes(),
                    mount_bytes: tree_bytes(&shared.content.root().join("caches")),
                })
            })
            .await
    }

    /// Removes what earlier builds left; what a running build uses stays until it has ended.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn prune(&self, prune: Prune) -> Result<Pruned, BuildError> {
        self.shared.blocking(move |shared| shared.prune(prune)).await
    }
}

impl Shared {
    /// Returns the results, those unused for the longest time first.
    fn results(&self) -> Result<Vec<(BuildResult, bool)>, BuildError> {
        let images =
            self.images.list().map_err(|source| BuildError::Image { source: Box::new(source) })?;
        let in_images: BTreeSet<String> =
            images.iter().flat_map(|image| image.chain_ids.iter().map(Digest::to_string)).collect();
        let ns = self.layers.ns();
        let results = self.layers.store().read(|tx| tx.build_results(ns))?;
        Ok(results
            .into_iter()
            .map(|result| {
                let is_shared =
                    result.snapshot.as_ref().is_some_and(|snapshot| in_images.contains(snapshot));
                (result, is_shared)
            })
            .collect())
    }

    fn prune(&self, prune: Prune) -> Result<Pruned, BuildError> {
        let results = self.results()?;
        let own = |(result, is_shared): &(BuildResult, bool)| {
            if *is_shared { 0 } else { result.size_bytes }
        };
        let mut left_bytes: u64 = results.iter().map(own).sum();
        let horizon = Timestamp::now()
            .checked_sub(SignedDuration::from_secs(prune.unused_for_secs))
            .unwrap_or(Timestamp::MIN);
        let mut pruned = Pruned::default();
        for entry in &results {
            let (result, is_shared) = entry;
            let keeps = left_bytes <= prune.keep_bytes && prune.keep_bytes > 0;
            if keeps || (*is_shared && !prune.all) || result.used_at > horizon {
                continue;
            }
            left_bytes -= own(entry);
            pruned.freed_bytes += own(entry);
            pruned.deleted.push(result.key.clone());
        }
        let ns = self.layers.ns();
        self.layers.store().transaction(|tx| {
            pruned.deleted.iter().try_for_each(|key| tx.delete_build_result(ns, key))
        })?;
        self.images.collect().map_err(|source| BuildError::Image { source: Box::new(source) })?;
        if prune.all && prune.keep_bytes == 0 && prune.unused_for_secs == 0 {
            pruned.freed_bytes += self.forget_files()?;
        }
        Ok(pruned)
    }

    /// Removes files of contexts, and caches that no step has mounted.
    fn forget_files(&self) -> Result<u64, BuildError> {
        let failed = || BuildError::io("remove the files of earlier builds");
        let mut freed_bytes = self.content.forget().map_err(failed())?;
        let caches = self.content.root().join("caches");
        freed_bytes += tree_bytes(&caches);
        for entry in std::fs::read_dir(&caches).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let aside = self.content.temporary();
            // A step that has it mounted keeps what it has open; the next one begins anew.
            std::fs::rename(&path, &aside).map_err(failed())?;
            std::fs::remove_dir_all(&aside).map_err(failed())?;
        }
        Ok(freed_bytes)
    }

    /// Removes the least used results beyond the limit.
    pub(crate) fn stay_bounded(&self) -> Result<(), BuildError> {
        let limit_bytes = self.settings.cache_bytes;
        let results = self.results()?;
        let sum: u64 = results
            .iter()
            .filter(|(_, is_shared)| !is_shared)
            .map(|(result, _)| result.size_bytes)
            .sum();
        if sum > limit_bytes {
            let kept = Prune { keep_bytes: limit_bytes / 10 * 9, ..Prune::default() };
            let pruned = self.prune(kept)?;
            tracing::info!(
                results = pruned.deleted.len(),
                bytes = pruned.freed_bytes,
                "the build cache was over its limit"
            );
        }
        Ok(())
    }
}
