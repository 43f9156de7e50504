//! Mounts of a container.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use keg_engine::model::{Mount, MountSource, Propagation, Relabel, Submounts, VolumeMount};
use keg_engine::volumes::DRIVER;
use keg_proto::keg::v1 as pb;
use tonic::Status;

use crate::status::invalid;

/// Converts a mount of a request.
///
/// # Errors
/// `INVALID_ARGUMENT` for an unknown type or propagation.
pub(super) fn mount_from_pb(mount: pb::Mount) -> Result<Mount, Status> {
    let source = match mount.r#type.as_str() {
        "bind" => {
            MountSource::Bind { path: PathBuf::from(mount.source), create: mount.create_source }
        }
        "volume" => MountSource::Volume {
            name: mount.source,
            details: VolumeMount {
                nocopy: mount.volume_nocopy,
                subpath: mount.volume_subpath,
                driver: mount.volume_driver,
                options: mount.volume_options.into_iter().collect(),
                labels: mount.volume_labels.into_iter().collect(),
            },
        },
        "tmpfs" => MountSource::Tmpfs { options: mount.tmpfs_options },
        other => {
            let problem = format!("unknown type {other:?}: give \"bind\", \"volume\" or \"tmpfs\"");
            return Err(invalid("mount", problem));
        }
    };
    let propagation = Propagation::parse(&mount.propagation)
        .ok_or_else(|| invalid("mount", format!("unknown propagation {:?}", mount.propagation)))?;
    let submounts = match mount.bind_recursive.as_str() {
        "" | "enabled" => Submounts::Enabled,
        "disabled" => Submounts::Disabled,
        "writable" => Submounts::Writable,
        other => {
            let problem = format!(
                "unknown value {other:?} of bind-recursive: give \"enabled\", \"disabled\" or \
                 \"writable\""
            );
            return Err(invalid("mount", problem));
        }
    };
    let relabel = match mount.selinux_relabel.as_str() {
        "" => Relabel::None,
        "shared" => Relabel::Shared,
        "private" => Relabel::Private,
        other => {
            let problem =
                format!("unknown selinux_relabel {other:?}: give \"shared\" or \"private\"");
            return Err(invalid("mount", problem));
        }
    };
    Ok(Mount {
        source,
        target: mount.target.into(),
        read_only: mount.read_only,
        propagation,
        submounts,
        relabel,
    })
}

/// Converts a mount as it was asked for.
pub(super) fn mount_to_pb(mount: &Mount) -> pb::Mount {
    let mut converted = pb::Mount {
        target: mount.target.to_string_lossy().into_owned(),
        read_only: mount.read_only,
        propagation: mount.propagation.as_str().to_owned(),
        bind_recursive: match mount.submounts {
            Submounts::Enabled => "",
            Submounts::Disabled => "disabled",
            Submounts::Writable => "writable",
        }
        .to_owned(),
        selinux_relabel: match mount.relabel {
            Relabel::None => "",
            Relabel::Shared => "shared",
            Relabel::Private => "private",
        }
        .to_owned(),
        ..pb::Mount::default()
    };
    match &mount.source {
        MountSource::Bind { path, create } => {
            "bind".clone_into(&mut converted.r#type);
            converted.source = path.to_string_lossy().into_owned();
            converted.create_source = *create;
        }
        MountSource::Volume { name, details } => {
            let map = |pairs: &std::collections::BTreeMap<String, String>| {
                pairs.clone().into_iter().collect::<HashMap<_, _>>()
            };
            "volume".clone_into(&mut converted.r#type);
            converted.source.clone_from(name);
            converted.volume_nocopy = details.nocopy;
            converted.volume_subpath.clone_from(&details.subpath);
            converted.volume_driver.clone_from(&details.driver);
            converted.volume_options = map(&details.options);
            converted.volume_labels = map(&details.labels);
        }
        MountSource::Tmpfs { options } => {
            "tmpfs".clone_into(&mut converted.r#type);
            converted.tmpfs_options.clone_from(options);
        }
    }
    converted
}

/// The options of a mount, as `-v` has them.
fn mode(mount: &Mount) -> String {
    let access = if mount.read_only { "ro" } else { "" };
    let words = [access, mount.relabel.as_str()].into_iter().filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(",")
}

/// Converts a mount as it is; `volumes` is the directory of all volumes.
pub(super) fn mount_point_to_pb(mount: &Mount, volumes: &Path) -> pb::MountPoint {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut point = pb::MountPoint {
        destination: text(&mount.target),
        mode: mode(mount),
        writable: !mount.read_only,
        ..pb::MountPoint::default()
    };
    match &mount.source {
        MountSource::Bind { path, .. } => {
            "bind".clone_into(&mut point.r#type);
            point.source = text(path);
            mount.propagation.as_str().clone_into(&mut point.propagation);
        }
        MountSource::Volume { name, details } => {
            "volume".clone_into(&mut point.r#type);
            point.name.clone_from(name);
            point.source = text(&volumes.join(name).join("_data").join(&details.subpath));
            if details.subpath.is_empty() {
                point.source = text(&volumes.join(name).join("_data"));
            }
            DRIVER.clone_into(&mut point.driver);
        }
        MountSource::Tmpfs { .. } => "tmpfs".clone_into(&mut point.r#type),
    }
    point
}
