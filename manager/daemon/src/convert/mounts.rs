//! Mounts of a container.

use std::path::PathBuf;

use keg_engine::model::{Mount, MountSource, Propagation};
use keg_proto::keg::v1 as pb;
use tonic::Status;

use crate::status::invalid;

pub(super) fn mount_from_pb(mount: pb::Mount) -> Result<Mount, Status> {
    let source = match mount.r#type.as_str() {
        "bind" => {
            MountSource::Bind { path: PathBuf::from(mount.source), create: mount.create_source }
        }
        "volume" => MountSource::Volume { name: mount.source },
        "tmpfs" => MountSource::Tmpfs { options: mount.tmpfs_options },
        other => {
            let problem = format!("unknown type {other:?}: give \"bind\", \"volume\" or \"tmpfs\"");
            return Err(invalid("mount", problem));
        }
    };
    let propagation = Propagation::parse(&mount.propagation)
        .ok_or_else(|| invalid("mount", format!("unknown propagation {:?}", mount.propagation)))?;
    Ok(Mount { source, target: mount.target.into(), read_only: mount.read_only, propagation })
}

pub(super) fn mount_to_pb(mount: &Mount) -> pb::Mount {
    let (r#type, source, create_source) = match &mount.source {
        MountSource::Bind { path, create } => {
            ("bind", path.to_string_lossy().into_owned(), *create)
        }
        MountSource::Volume { name } => ("volume", name.clone(), false),
        MountSource::Tmpfs { .. } => ("tmpfs", String::new(), false),
    };
    pb::Mount {
        r#type: r#type.to_owned(),
        source,
        target: mount.target.to_string_lossy().into_owned(),
        read_only: mount.read_only,
        create_source,
        propagation: mount.propagation.as_str().to_owned(),
        tmpfs_options: match &mount.source {
            MountSource::Tmpfs { options } => options.clone(),
            MountSource::Bind { .. } | MountSource::Volume { .. } => Vec::new(),
        },
    }
}
