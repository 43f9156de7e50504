//! Which mounts a container gets: what is asked for, then other containers', then the image's.
//!
//! Docker's rule: of two mounts with one target the more explicit one wins. A volume that nobody
//! names gets 64 random digits for a name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::EngineError;
use crate::model::{Mount, MountSource, Propagation, Record, Relabel, Submounts, VolumeMount};

/// Decides the mounts; `inherited` come from other containers, `of_image` are the targets of the
/// image's volumes. `new_name` makes names.
///
/// # Errors
/// Those of `new_name`.
pub(super) fn plan(
    asked: &[Mount],
    inherited: Vec<Mount>,
    of_image: &[String],
    mut new_name: impl FnMut() -> Result<String, EngineError>,
) -> Result<Vec<Mount>, EngineError> {
    let mut targets: BTreeSet<PathBuf> = BTreeSet::new();
    let mut mounts = Vec::new();
    let image_volumes = of_image.iter().map(|target| anonymous(Path::new("/").join(target)));
    for mut mount in asked.iter().cloned().chain(inherited).chain(image_volumes) {
        if !targets.insert(mount.target.clone()) {
            continue;
        }
        if let MountSource::Volume { name, .. } = &mut mount.source
            && name.is_empty()
        {
            *name = new_name()?;
        }
        mounts.push(mount);
    }
    Ok(mounts)
}

/// Splits `NAME[:ro|rw|z|Z]`.
///
/// # Errors
/// [`EngineError::InvalidField`] for another mode.
pub(super) fn volumes_from(text: &str) -> Result<(&str, Passed), EngineError> {
    let mut passed = Passed { read_only: false, relabel: Relabel::None };
    let Some((name, modes)) = text.split_once(':') else { return Ok((text, passed)) };
    for mode in modes.split(',') {
        match mode {
            "rw" | "" => {}
            "ro" => passed.read_only = true,
            "z" => passed.relabel = Relabel::Shared,
            "Z" => passed.relabel = Relabel::Private,
            _ => {
                return Err(EngineError::InvalidField {
                    field: "volumes-from",
                    problem: format!("unknown mode {mode:?}: give \"ro\", \"rw\", \"z\" or \"Z\""),
                });
            }
        }
    }
    Ok((name, passed))
}

/// How the mounts of another container are had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed {
    read_only: bool,
    relabel: Relabel,
}

/// The mounts that a container passes on; its memory file systems are its own.
pub(super) fn passed_on(from: &Record, passed: Passed) -> Vec<Mount> {
    from.mounts
        .iter()
        .filter(|mount| !matches!(mount.source, MountSource::Tmpfs { .. }))
        .cloned()
        .map(|mut mount| {
            mount.read_only |= passed.read_only;
            // That the first one had them relabelled does not give them to this one.
            mount.relabel = passed.relabel;
            // What it holds is decided by the container that had it first.
            if let MountSource::Volume { details, .. } = &mut mount.source {
                details.nocopy = true;
            }
            mount
        })
        .collect()
}

fn anonymous(target: PathBuf) -> Mount {
    Mount {
        source: MountSource::Volume { name: String::new(), details: VolumeMount::default() },
        target,
        read_only: false,
        propagation: Propagation::default(),
        submounts: Submounts::default(),
        relabel: Relabel::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mounts: &[Mount]) -> Vec<String> {
        mounts
            .iter()
            .map(|mount| {
                let source = match &mount.source {
                    MountSource::Volume { name, .. } => name.clone(),
                    MountSource::Bind { path, .. } => path.display().to_string(),
                    MountSource::Tmpfs { .. } => "tmpfs".to_owned(),
                };
                let access = if mount.read_only { "ro" } else { "rw" };
                format!("{source}:{}:{access}", mount.target.display())
            })
            .collect()
    }

    fn named(name: &str, target: &str) -> Mount {
        let mut mount = anonymous(target.into());
        mount.source =
            MountSource::Volume { name: name.to_owned(), details: VolumeMount::default() };
        mount
    }

    #[test]
    fn the_more_explicit_mount_of_a_target_wins() {
        let asked = [named("mine", "/a"), anonymous("/b".into())];
        let inherited = vec![named("theirs", "/a"), named("theirs", "/c")];
        let of_image = ["/c".to_owned(), "d".to_owned(), "/b".to_owned()];
        let mut count = 0;
        let mut new_name = || {
            count += 1;
            Ok(format!("new{count}"))
        };

        let mounts = plan(&asked, inherited, &of_image, &mut new_name).unwrap();

        assert_eq!(shown(&mounts), ["mine:/a:rw", "new1:/b:rw", "theirs:/c:rw", "new2:/d:rw"]);
    }

    #[test]
    fn mounts_are_passed_on_read_only_if_asked_and_memory_is_not() {
        let mut record = crate::spec::tests::record();
        let mut memory = anonymous("/tmp".into());
        memory.source = MountSource::Tmpfs { options: Vec::new() };
        record.mounts = vec![named("data", "/data"), memory];

        let passed = |read_only, relabel| Passed { read_only, relabel };
        assert_eq!(shown(&passed_on(&record, passed(true, Relabel::None))), ["data:/data:ro"]);
        record.mounts[0].relabel = Relabel::Private;
        let shared = passed_on(&record, passed(false, Relabel::Shared));
        assert_eq!(
            (shown(&shared), shared[0].relabel),
            (vec!["data:/data:rw".into()], Relabel::Shared)
        );
        assert_eq!(volumes_from("web:ro").unwrap(), ("web", passed(true, Relabel::None)));
        assert_eq!(volumes_from("web:ro,Z").unwrap(), ("web", passed(true, Relabel::Private)));
        assert_eq!(volumes_from("web").unwrap(), ("web", passed(false, Relabel::None)));
        assert!(volumes_from("web:maybe").is_err());
    }
}
