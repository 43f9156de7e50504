//! The stack of an image's snapshots, as far as it is committed.

use std::path::PathBuf;

use keg_store::{CommitOptions, Durability, Resource, SnapshotError};
use tokio::task::JoinSet;

use crate::implicit::inherit;
use crate::layer::{Layer, LayerError, Readied};
use crate::locks::NameGuard;
use crate::prepared::Prepared;
use crate::progress::LayerPhase;
use crate::registry::Repository;

/// Makes all layers of an image ready at once, from `repository` where their blobs are not here, and
/// commits each as soon as those below it are.
pub(crate) async fn unpack(
    layers: Vec<Layer>,
    repository: Option<Repository>,
) -> Result<(), LayerError> {
    let mut working = JoinSet::new();
    for (index, layer) in layers.iter().enumerate() {
        let (layer, repository) = (layer.clone(), repository.clone());
        working.spawn(async move { (index, layer.ready(repository).await) });
    }
    let mut ready: Vec<Option<Readied>> = layers.iter().map(|_| None).collect();
    let mut stack = Stack::default();
    while let Some(joined) = working.join_next().await {
        // Takes all that are done, so that one sync serves them.
        let mut joined = Some(joined);
        while let Some(result) = joined {
            let (index, outcome) = result.map_err(|error| layers[0].join_failure(error))?;
            ready[index] = Some(outcome?);
            joined = working.try_join_next();
        }
        let mut batch = Vec::new();
        while let Some(slot) = ready.get_mut(stack.height() + batch.len()) {
            let Some(readied) = slot.take() else { break };
            batch.push((layers[stack.height() + batch.len()].clone(), readied));
        }
        if !batch.is_empty() {
            stack = layers[0].blocking(move |_| stack.commit(batch)).await?;
        }
    }
    Ok(())
}

/// What is committed of an image, lowest first.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    chain_ids: Vec<String>,
    dirs: Vec<PathBuf>,
}

impl Stack {
    /// Returns how many layers are committed.
    pub(crate) fn height(&self) -> usize {
        self.chain_ids.len()
    }

    /// Puts layers, in order, on top of what is there; all that are extracted become durable together.
    pub(crate) fn commit(mut self, batch: Vec<(Layer, Readied)>) -> Result<Self, LayerError> {
        let mut pending: Vec<(Layer, Prepared, NameGuard)> = Vec::new();
        for (layer, readied) in batch {
            match readied {
                Readied::Exists => {
                    let (shared, key) = (&layer.transfer.shared, layer.chain_id.as_str());
                    let dir =
                        shared.snapshotter.directory(&shared.ns, key).map_err(layer.snapshot())?;
                    self.push(&layer, dir);
                }
                Readied::Extracted { prepared, guard } => {
                    let lower: Vec<PathBuf> = self.dirs.iter().rev().cloned().collect();
                    inherit(&prepared.dir, &prepared.implicit_dirs, &lower).map_err(|source| {
                        let path = prepared.dir.clone();
                        let operation = "set the attributes of directories in";
                        layer.snapshot()(SnapshotError::Io { operation, path, source })
                    })?;
                    self.push(&layer, prepared.dir.clone());
                    pending.push((layer, prepared, guard));
                }
                // A snapshotter that copies needs the parent before it can begin.
                Readied::Stored { guard } => {
                    let parent = self.chain_ids.last().map(String::as_str);
                    let prepared = layer.extract_stored(parent)?;
                    self.push(&layer, prepared.dir.clone());
                    self.make_durable(vec![(layer, prepared, guard)])?;
                }
            }
        }
        self.make_durable(pending)?;
        Ok(self)
    }

    fn push(&mut self, layer: &Layer, dir: PathBuf) {
        self.chain_ids.push(layer.chain_id.to_string());
        self.dirs.push(dir);
    }

    fn make_durable(&self, layers: Vec<(Layer, Prepared, NameGuard)>) -> Result<(), LayerError> {
        let Some((first, ..)) = layers.first() else { return Ok(()) };
        let shared = &first.transfer.shared;
        shared.snapshotter.sync().map_err(first.snapshot())?;
        // The files are durable; that they are layers, nobody knows before the image's name, which is last.
        shared
            .store
            .transaction_outliving(Durability::Crash, |tx| {
                for (layer, prepared, _) in &layers {
                    let name = layer.chain_id.as_str();
                    let options = CommitOptions {
                        parent: self.below(name),
                        usage: Some(prepared.usage),
                        ..CommitOptions::default()
                    };
                    shared.snapshotter.commit_in(tx, &shared.ns, name, &prepared.key, &options)?;
                    let resource = Resource::Snapshot {
                        snapshotter: shared.snapshotter.name().to_owned(),
                        key: name.to_owned(),
                    };
                    tx.add_to_lease(&shared.ns, &layer.transfer.lease, &resource)?;
                }
                Ok(())
            })
            .map_err(first.snapshot())?;
        for (layer, prepared, guard) in layers {
            prepared.committed();
            layer.transfer.progress.tell_all(LayerPhase::Complete);
            drop(guard);
        }
        Ok(())
    }

    /// Returns the chain id below the given one.
    fn below(&self, chain_id: &str) -> Option<String> {
        let at = self.chain_ids.iter().position(|id| id == chain_id)?;
        at.checked_sub(1).map(|below| self.chain_ids[below].clone())
    }
}
