//! Files of containers.

use keg_engine::files::{CopySource, CopyToTarget, PathStat};
use keg_image::diff::{ChangeKind, PathChange};
use keg_proto::keg::v1 as pb;

use super::timestamp_to_pb;

/// Converts what is at a path.
pub(crate) fn path_stat_to_pb(stat: PathStat) -> pb::PathStat {
    pb::PathStat {
        name: stat.name,
        size_bytes: i64::try_from(stat.size_bytes).unwrap_or(i64::MAX),
        mode: stat.mode,
        modified_at: Some(timestamp_to_pb(stat.modified_at)),
        link_target: stat.link_target,
    }
}

/// Converts what became of a path.
pub(crate) fn change_to_pb(change: &PathChange) -> pb::FileChange {
    let kind = match change.kind {
        ChangeKind::Added => pb::FileChangeKind::Added,
        ChangeKind::Modified => pb::FileChangeKind::Modified,
        ChangeKind::Deleted => pb::FileChangeKind::Deleted,
    };
    pb::FileChange { kind: kind.into(), path: change.path.to_string_lossy().into_owned() }
}

/// Converts where to copy.
pub(crate) fn copy_target_from_pb(start: pb::CopyToStart) -> CopyToTarget {
    CopyToTarget {
        path: start.path,
        source: start.source.map(|source| CopySource {
            name: source.name,
            is_dir: source.is_dir,
            contents_only: source.contents_only,
        }),
        keep_owners: start.keep_owners,
    }
}
