//! What takes how much of the disk: the rows of `system df`, and the tables of `system df -v`.

use jiff::Timestamp;
use keg_proto::keg::v1::{
    BuildCacheUsage, ContainerUsage, ImageSummary, ImageUsage, UsageResponse, VolumeUsage,
};

use super::{container, image, volume};
use crate::table::{Columns, RowFormat};
use crate::template::Value;
use crate::{humanize, moment};

/// Columns of `system df`.
pub(crate) const COLUMNS: Columns = Columns {
    table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    quiet: "{{.Type}}",
    titles: &[
        ("Active", "ACTIVE"),
        ("Reclaimable", "RECLAIMABLE"),
        ("Size", "SIZE"),
        ("TotalCount", "TOTAL"),
        ("Type", "TYPE"),
    ],
};

const IMAGE_COLUMNS: Columns = Columns {
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
    quiet: "{{.ID}}",
    titles: &[
        ("Containers", "CONTAINERS"),
        ("CreatedSince", "CREATED"),
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("SharedSize", "SHARED SIZE"),
        ("Size", "SIZE"),
        ("Tag", "TAG"),
        ("UniqueSize", "UNIQUE SIZE"),
    ],
};

const CONTAINER_COLUMNS: Columns = Columns {
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.LogSize}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
    quiet: "{{.ID}}",
    titles: &[
        ("Command", "COMMAND"),
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("LogSize", "LOGS"),
        ("Names", "NAMES"),
        ("RunningFor", "CREATED"),
        ("Size", "SIZE"),
        ("Status", "STATUS"),
    ],
};

const VOLUME_COLUMNS: Columns = Columns {
    table: "{{.Name}}\t{{.Links}}\t{{.Size}}",
    quiet: "{{.Name}}",
    titles: &[("Links", "LINKS"), ("Name", "VOLUME NAME"), ("Size", "SIZE")],
};

const CACHE_COLUMNS: Columns = Columns {
    table: "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}",
    quiet: "{{.ID}}",
    titles: &[
        ("CacheType", "CACHE TYPE"),
        ("CreatedSince", "CREATED"),
        ("ID", "CACHE ID"),
        ("LastUsedSince", "LAST USED"),
        ("Shared", "SHARED"),
        ("Size", "SIZE"),
        ("UsageCount", "USAGE"),
    ],
};

/// The rows of `system df`: Docker's four, and what Keg accounts for besides.
pub(crate) fn rows(usage: &UsageResponse) -> Vec<Value> {
    let images = &usage.images;
    let used = |image: &&ImageUsage| summary(image).containers > 0;
    let unused_bytes: i64 =
        images.iter().filter(|image| !used(image)).map(|image| image.unique_bytes).sum();
    let containers = &usage.containers;
    let runs = |container: &&ContainerUsage| is_alive(container);
    let size = |container: &ContainerUsage| container.size_bytes + container.log_bytes;
    let idle_bytes = containers.iter().filter(|c| !runs(c)).map(size).sum();
    let volumes = &usage.volumes;
    let linked = |volume: &&VolumeUsage| volume.links > 0;
    let cache = &usage.build_cache;
    vec![
        row(
            "Images",
            Some((images.len(), images.iter().filter(used).count())),
            usage.layers_bytes,
            unused_bytes.min(usage.layers_bytes),
        ),
        row(
            "Containers",
            Some((containers.len(), containers.iter().filter(runs).count())),
            containers.iter().map(size).sum(),
            idle_bytes,
        ),
        row(
            "Local Volumes",
            Some((volumes.len(), volumes.iter().filter(linked).count())),
            volumes.iter().map(|volume| volume.size_bytes).sum(),
            volumes.iter().filter(|v| !linked(v)).map(|volume| volume.size_bytes).sum(),
        ),
        row(
            "Build Cache",
            Some((cache.len(), cache.iter().filter(|record| record.is_in_use).count())),
            cache_bytes(usage),
            cache.iter().filter(|record| !record.is_in_use).map(own_bytes).sum(),
        ),
        row("Blobs", None, usage.blobs_bytes, 0),
        row("Transfers", None, usage.transfers_bytes, 0),
        row("Unneeded", None, usage.garbage_bytes, usage.garbage_bytes),
        row("Database", None, usage.other_bytes, 0),
    ]
}

fn row(kind: &str, counts: Option<(usize, usize)>, bytes: i64, reclaimable: i64) -> Value {
    let (total, active) = match counts {
        Some((total, active)) => (total.to_string(), active.to_string()),
        None => (String::new(), String::new()),
    };
    let share = match bytes {
        ..=0 => String::new(),
        bytes => format!(" ({}%)", reclaimable.saturating_mul(100) / bytes),
    };
    Value::record([
        ("Active", Value::Text(active)),
        ("Reclaimable", Value::Text(size(reclaimable) + &share)),
        ("Size", Value::Text(size(bytes))),
        ("TotalCount", Value::Text(total)),
        ("Type", Value::text(kind)),
    ])
}

/// The tables of `system df -v`.
pub(crate) fn tables(usage: &UsageResponse, now: Timestamp) -> String {
    let style = container::RowStyle { now, truncate: true, with_created_at: false };
    let image_style = image::RowStyle { now, truncate: true, with_created_at: false };
    let cache_title = format!("Build cache usage: {}", size(cache_bytes(usage)));
    let parts = [
        ("Images space usage:", IMAGE_COLUMNS, image_rows(usage, image_style)),
        ("Containers space usage:", CONTAINER_COLUMNS, container_rows(usage, style)),
        ("Local Volumes space usage:", VOLUME_COLUMNS, volume_rows(usage)),
        (&cache_title, CACHE_COLUMNS, cache_rows(usage, now)),
    ];
    let mut text = String::new();
    for (title, columns, rows) in parts {
        // Templates of our own, with fields of our own.
        let table = RowFormat::new(None, false, columns)
            .and_then(|format| format.render(columns, rows))
            .unwrap_or_default();
        text += &format!("{title}\n\n{table}\n");
    }
    text + &format!(
        "Blobs: {}, transfers: {}, unneeded: {}, database: {}. Free on the disk: {} of {}\n",
        size(usage.blobs_bytes),
        size(usage.transfers_bytes),
        size(usage.garbage_bytes),
        size(usage.other_bytes),
        size(usage.disk_free_bytes),
        size(usage.disk_bytes),
    )
}

/// Everything as one value, for templates and JSON.
pub(crate) fn everything(usage: &UsageResponse, now: Timestamp) -> Value {
    // Programs get ids in full.
    let style = container::RowStyle { now, truncate: false, with_created_at: true };
    let image_style = image::RowStyle { now, truncate: false, with_created_at: true };
    Value::record([
        ("Images", Value::List(image_rows(usage, image_style))),
        ("Containers", Value::List(container_rows(usage, style))),
        ("Volumes", Value::List(volume_rows(usage))),
        ("BuildCache", Value::List(cache_rows(usage, now))),
        ("LayersBytes", Value::Int(usage.layers_bytes)),
        ("BlobsBytes", Value::Int(usage.blobs_bytes)),
        ("TransfersBytes", Value::Int(usage.transfers_bytes)),
        ("UnneededBytes", Value::Int(usage.garbage_bytes)),
        ("OtherBytes", Value::Int(usage.other_bytes)),
        ("DiskBytes", Value::Int(usage.disk_bytes)),
        ("DiskFreeBytes", Value::Int(usage.disk_free_bytes)),
    ])
}

fn image_rows(usage: &UsageResponse, style: image::RowStyle) -> Vec<Value> {
    let of_image = |used: &ImageUsage| {
        let more = [
            ("SharedSize", Value::Text(size(used.shared_bytes))),
            ("UniqueSize", Value::Text(size(used.unique_bytes))),
            ("VirtualSize", Value::Text(size(summary(used).size_bytes))),
        ];
        let rows = image::rows(&summary(used), style);
        rows.into_iter().map(|row| with(row, more.clone())).collect::<Vec<_>>()
    };
    usage.images.iter().flat_map(of_image).collect()
}

/// A record with further fields, or others in place of its own.
fn with(row: Value, more: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    match row {
        Value::Record(mut fields) => {
            for (name, value) in more {
                fields.retain(|(present, _)| *present != name);
                fields.push((name, value));
            }
            Value::Record(fields)
        }
        other => other,
    }
}

fn container_rows(usage: &UsageResponse, style: container::RowStyle) -> Vec<Value> {
    let of_container = |used: &ContainerUsage| {
        let row = container::row(&used.summary.clone().unwrap_or_default(), style);
        with(
            row,
            [
                ("LocalVolumes", Value::Text(used.volumes.to_string())),
                ("LogSize", Value::Text(size(used.log_bytes))),
                ("Size", Value::Text(size(used.size_bytes))),
            ],
        )
    };
    usage.containers.iter().map(of_container).collect()
}

fn volume_rows(usage: &UsageResponse) -> Vec<Value> {
    let of_volume = |used: &VolumeUsage| {
        let row = volume::row(&used.volume.clone().unwrap_or_default());
        with(
            row,
            [
                ("Links", Value::Text(used.links.to_string())),
                ("Size", Value::Text(size(used.size_bytes))),
            ],
        )
    };
    usage.volumes.iter().map(of_volume).collect()
}

fn cache_rows(usage: &UsageResponse, now: Timestamp) -> Vec<Value> {
    let of_record = |record: &BuildCacheUsage| {
        Value::record([
            ("CacheType", Value::text(&record.r#type)),
            ("CreatedAt", Value::Text(moment::civil(record.created_at.as_ref()))),
            ("CreatedSince", Value::Text(ago(record.created_at.as_ref(), now))),
            ("Description", Value::text(&record.description)),
            ("ID", Value::text(humanize::short_id(&record.id))),
            ("InUse", Value::Text(record.is_in_use.to_string())),
            ("LastUsedAt", Value::Text(moment::civil(record.used_at.as_ref()))),
            ("LastUsedSince", Value::Text(ago(record.used_at.as_ref(), now))),
            ("Parent", Value::text("")),
            ("Shared", Value::Text(record.is_shared.to_string())),
            ("Size", Value::Text(size(record.size_bytes))),
            ("UsageCount", Value::Text(record.uses.to_string())),
        ])
    };
    usage.build_cache.iter().map(of_record).collect()
}

/// What the cache has that no image has.
fn cache_bytes(usage: &UsageResponse) -> i64 {
    usage.build_cache.iter().map(own_bytes).sum()
}

fn own_bytes(record: &BuildCacheUsage) -> i64 {
    if record.is_shared { 0 } else { record.size_bytes }
}

fn ago(moment: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    match moment {
        None => String::new(),
        Some(_) => format!("{} ago", humanize::duration(moment::seconds_since(moment, now))),
    }
}

fn is_alive(container: &ContainerUsage) -> bool {
    matches!(container.state.as_str(), "running" | "paused" | "restarting")
}

fn summary(used: &ImageUsage) -> ImageSummary {
    used.image.clone().unwrap_or_default()
}

fn size(bytes: i64) -> String {
    humanize::size(u64::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use keg_proto::keg::v1::{ContainerState, ContainerSummary, Volume};

    fn sample() -> UsageResponse {
        let image = |containers, unique_bytes| ImageUsage {
            image: Some(ImageSummary {
                id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
                names: vec!["docker.io/library/busybox:latest".to_owned()],
                size_bytes: 4_000_000,
                containers,
                ..ImageSummary::default()
            }),
            shared_bytes: 4_000_000 - unique_bytes,
            unique_bytes,
        };
        let container = |state: &str| ContainerUsage {
            state: state.to_owned(),
            size_bytes: 1000,
            ..ContainerUsage::default()
        };
        UsageResponse {
            images: vec![image(1, 1_000_000), image(0, 1_000_000)],
            containers: vec![container("running"), container("exited")],
            layers_bytes: 5_000_000,
            blobs_bytes: 2_000_000,
            ..UsageResponse::default()
        }
    }

    #[test]
    fn df_begins_like_dockers() {
        let text = RowFormat::new(None, false, COLUMNS)
            .and_then(|format| format.render(COLUMNS, rows(&sample())))
            .expect("a table");

        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE");
        assert_eq!(lines[1], "Images          2         1         5MB       1MB (20%)");
        assert_eq!(lines[2], "Containers      2         1         2kB       1kB (50%)");
        assert_eq!(lines[3], "Local Volumes   0         0         0B        0B");
        assert_eq!(lines[5].split_whitespace().collect::<Vec<_>>(), ["Blobs", "2MB", "0B", "(0%)"]);
    }

    #[test]
    fn every_table_of_df_v_can_be_filled() {
        let mut usage = sample();
        let volume = Some(Volume { name: "data".into(), ..Volume::default() });
        usage.volumes.push(VolumeUsage { name: "data".into(), size_bytes: 7, links: 2, volume });
        usage.build_cache.push(BuildCacheUsage { id: "abc".into(), ..BuildCacheUsage::default() });

        let text = tables(&usage, Timestamp::UNIX_EPOCH);

        for part in ["UNIQUE SIZE", "LOCAL VOLUMES", "data          2         7B", "CACHE ID"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn programs_get_of_everything_what_docker_tells() {
        let mut usage = sample();
        usage.containers[0].summary = Some(ContainerSummary {
            id: "fedcba9876543210".repeat(4),
            name: "web".into(),
            state: ContainerState::Running.into(),
            ..ContainerSummary::default()
        });
        let volume = Some(Volume { mountpoint: "/v".into(), ..Volume::default() });
        usage.volumes.push(VolumeUsage { size_bytes: 7, volume, ..VolumeUsage::default() });
        usage.build_cache.push(BuildCacheUsage { uses: 2, ..BuildCacheUsage::default() });

        let json = everything(&usage, Timestamp::UNIX_EPOCH).to_json();

        let told: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let of = |pointer: &str| told.pointer(pointer).and_then(serde_json::Value::as_str);
        for (pointer, text) in [
            ("/Images/0/Repository", "busybox"),
            ("/Images/0/VirtualSize", "4MB"),
            ("/Containers/0/ID", &"fedcba9876543210".repeat(4)),
            ("/Containers/0/Names", "web"),
            ("/Containers/0/Size", "1kB"),
            ("/Containers/0/State", "running"),
            ("/Volumes/0/Mountpoint", "/v"),
            ("/Volumes/0/Size", "7B"),
            ("/BuildCache/0/InUse", "false"),
            ("/BuildCache/0/UsageCount", "2"),
        ] {
            assert_eq!(of(pointer), Some(text), "{pointer} in {json}");
        }
    }
}
