//! `keg.v1.Storage`.

use std::collections::HashMap;
use std::path::Path;

use keg_engine::Engine;
use keg_engine::volumes::{VolumeDetails, VolumeQuery};
use keg_image::{ImageRecord, Images};
use keg_proto::keg::v1 as pb;
use keg_store::{Checked, Digest, Explain, Finding, directory_bytes};
use tonic::{Request, Response, Status};

use crate::convert;
use crate::status::to_status;

/// The service.
#[derive(Debug)]
pub(crate) struct Storage {
    engine: Engine,
    images: Images,
}

impl Storage {
    /// Accounts for the root directory.
    pub(crate) fn new(engine: Engine, images: Images) -> Self {
        Self { engine, images }
    }

    /// Runs `work`, which waits for the disk, on a thread made for waiting.
    async fn blocking<T: Send + 'static, E: Explain + Send + 'static>(
        &self,
        work: impl FnOnce(&Engine, &Images) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Status> {
        let (engine, images) = (self.engine.clone(), self.images.clone());
        tokio::task::spawn_blocking(move || work(&engine, &images))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| to_status(&error))
    }
}

#[tonic::async_trait]
impl pb::storage_server::Storage for Storage {
    async fn usage(
        &self,
        _request: Request<pb::UsageRequest>,
    ) -> Result<Response<pb::UsageResponse>, Status> {
        let images = self.blocking(|_, images| images.list()).await?;
        let store = self.blocking(|_, images| images.store().usage()).await?;
        let measured = self.blocking(|engine, engine_images| {
            let usage = pb::UsageResponse {
                containers: containers(engine, engine_images),
                ..disk(&engine.settings().root)
            };
            Ok::<_, keg_engine::EngineError>(usage)
        });
        let query = VolumeQuery { sizes: true, ..VolumeQuery::default() };
        let volumes = self.engine.volumes(query).await.map_err(|error| to_status(&error))?;
        let usage = pb::UsageResponse {
            volumes: volumes.iter().map(volume_usage).collect(),
            images: image_usages(&self.engine, &self.images, &images),
            layers_bytes: bytes(store.layers_bytes),
            blobs_bytes: bytes(store.blobs_bytes),
            transfers_bytes: bytes(store.transfers_bytes),
            garbage_bytes: bytes(store.garbage_bytes),
            other_bytes: bytes(store.other_bytes),
            ..measured.await?
        };
        Ok(Response::new(with_volume_counts(usage, &volumes)))
    }

    async fn check(
        &self,
        request: Request<pb::CheckRequest>,
    ) -> Result<Response<pb::CheckResponse>, Status> {
        let pb::CheckRequest { read_blobs, repair } = request.into_inner();
        let checked = self
            .blocking(move |_, images| {
                let first = keg_store::check(images.store(), read_blobs)?;
                if !repair || first.findings.is_empty() {
                    return Ok::<_, keg_store::CheckError>(report(&first, None));
                }
                let snapshotter = images.snapshotter().as_ref();
                keg_store::repair(images.store(), &[snapshotter], &first.findings)?;
                // What was forgotten may leave names of nothing behind.
                let second = keg_store::check(images.store(), read_blobs)?;
                keg_store::repair(images.store(), &[snapshotter], &second.findings)?;
                let left = keg_store::check(images.store(), read_blobs)?;
                Ok(report(&first, Some(&left)))
            })
            .await?;
        Ok(Response::new(checked))
    }

    async fn collect(
        &self,
        _request: Request<pb::CollectRequest>,
    ) -> Result<Response<pb::CollectResponse>, Status> {
        let collected = self
            .blocking(|_, images| {
                let collected = images.collect()?;
                images.store().trash().wait_until_empty();
                Ok::<_, keg_image::ImageError>(collected)
            })
            .await?;
        Ok(Response::new(pb::CollectResponse {
            blobs: bytes(collected.blobs),
            blobs_bytes: bytes(collected.blob_bytes),
            snapshots: bytes(collected.snapshots),
            snapshots_bytes: bytes(collected.snapshot_bytes),
            transfers: bytes(collected.ingests),
        }))
    }
}

/// Puts findings into a report; those that are not `left` any more are repaired.
fn report(checked: &Checked, left: Option<&Checked>) -> pb::CheckResponse {
    let finding = |finding: &Finding, is_repaired: bool| pb::Finding {
        is_damage: finding.is_damage(),
        kind: finding.kind().to_owned(),
        object: finding.object(),
        problem: finding.problem(),
        remedy: finding.remedy().to_owned(),
        is_repaired,
    };
    let is_left = |found: &Finding| left.is_none_or(|left| left.findings.contains(found));
    let first = checked.findings.iter().map(|found| finding(found, !is_left(found)));
    let new = left.into_iter().flat_map(|left| &left.findings);
    let new = new.filter(|found| !checked.findings.contains(found));
    pb::CheckResponse {
        findings: first.chain(new.map(|found| finding(found, false))).collect(),
        blobs: bytes(checked.blobs),
        blobs_bytes: bytes(checked.blob_bytes),
        snapshots: bytes(checked.snapshots),
        images: bytes(checked.images),
        containers: bytes(checked.containers),
    }
}

/// What each image has in common with others, and what it has alone.
fn image_usages(engine: &Engine, images: &Images, list: &[ImageRecord]) -> Vec<pb::ImageUsage> {
    let users = engine.image_users();
    let mut chains: HashMap<&Digest, u32> = HashMap::new();
    let mut blobs: HashMap<&Digest, u32> = HashMap::new();
    for image in list {
        for chain_id in &image.chain_ids {
            *chains.entry(chain_id).or_default() += 1;
        }
        for layer in &image.layers {
            *blobs.entry(&layer.digest).or_default() += 1;
        }
    }
    list.iter()
        .map(|image| {
            let shared_bytes: u64 = image
                .chain_ids
                .iter()
                .filter(|chain_id| chains.get(chain_id).is_some_and(|count| *count > 1))
                .map(|chain_id| images.layer_bytes(chain_id))
                .sum();
            let stored_bytes: u64 = image
                .layers
                .iter()
                .filter(|layer| blobs.get(&layer.digest) == Some(&1))
                .map(|layer| layer.size_bytes)
                .sum();
            let containers = users.iter().filter(|user| user.image_id == image.id).count();
            pb::ImageUsage {
                image: Some(convert::image_to_pb(image, containers)),
                shared_bytes: bytes(shared_bytes),
                unique_bytes: bytes(image.size_bytes.saturating_sub(shared_bytes) + stored_bytes),
            }
        })
        .collect()
}

/// What each container has written. One that is being removed takes nothing.
fn containers(engine: &Engine, images: &Images) -> Vec<pb::ContainerUsage> {
    let all = keg_engine::ListQuery { all: true, ..keg_engine::ListQuery::default() };
    let records = engine.list(&all).unwrap_or_default();
    let namespace = &engine.settings().namespace;
    let logs = engine.settings().root.join("containers");
    let volumes = engine.settings().volumes();
    records
        .iter()
        .map(|record| {
            let id = record.id.as_str();
            let usage =
                images.snapshotter().usage(namespace, &record.snapshot_key).unwrap_or_default();
            pb::ContainerUsage {
                id: id.to_owned(),
                name: record.name.as_str().to_owned(),
                image: record.image.reference.clone(),
                command: record.config.command.clone(),
                size_bytes: bytes(usage.size_bytes),
                log_bytes: bytes(directory_bytes(&logs.join(id)).unwrap_or(0)),
                created_at: Some(convert::timestamp_to_pb(record.created_at)),
                state: record.lifecycle.name().to_owned(),
                volumes: 0,
                summary: Some(convert::summary_to_pb(
                    record,
                    &volumes,
                    &engine.endpoints(&record.id),
                )),
            }
        })
        .collect()
}

/// What a volume takes, and who uses it.
fn volume_usage(details: &VolumeDetails) -> pb::VolumeUsage {
    pb::VolumeUsage {
        name: details.volume.name.clone(),
        size_bytes: bytes(details.size_bytes.unwrap_or(0)),
        links: u32::try_from(details.users.len()).unwrap_or(u32::MAX),
        volume: Some(convert::volume_to_pb(details.clone())),
    }
}

/// Adds to each container how many volumes it uses.
fn with_volume_counts(
    mut usage: pb::UsageResponse,
    volumes: &[VolumeDetails],
) -> pb::UsageResponse {
    for container in &mut usage.containers {
        let uses = |details: &&VolumeDetails| details.users.contains(&container.id);
        container.volumes = u32::try_from(volumes.iter().filter(uses).count()).unwrap_or(u32::MAX);
    }
    usage
}

/// The file system that the root is on.
fn disk(root: &Path) -> pb::UsageResponse {
    match nix::sys::statvfs::statvfs(root) {
        Ok(told) => pb::UsageResponse {
            disk_bytes: bytes(told.blocks() * told.fragment_size()),
            disk_free_bytes: bytes(told.blocks_available() * told.fragment_size()),
            ..pb::UsageResponse::default()
        },
        Err(_) => pb::UsageResponse::default(),
    }
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
