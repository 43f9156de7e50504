//! What an OCI runtime that is not ours says that it can do (runtime-spec, features.md).
//!
//! A runtime does not refuse what it does not know: runc before 1.2 mounts what is to have an id map
//! as if it had none, and the container's files belong to nobody. So it is asked before.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Deserialize;

/// Answers by program.
static ANSWERS: Mutex<Option<HashMap<PathBuf, Answer>>> = Mutex::new(None);

/// What a program said, which holds as long as it is the same file.
#[derive(Debug, Clone, Copy)]
struct Answer {
    changed: Option<SystemTime>,
    lacks_id_maps: bool,
}

/// The little that matters of `RUNTIME features`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Features {
    linux: LinuxFeatures,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LinuxFeatures {
    mount_extensions: MountExtensions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MountExtensions {
    idmap: Extension,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Extension {
    enabled: bool,
}

/// Whether a runtime says what it can do, and id maps of mounts are not among it. One that does not say
/// is taken at its best.
pub(crate) fn lacks_id_maps(program: &Path) -> bool {
    let changed = std::fs::metadata(program).and_then(|file| file.modified()).ok();
    let mut answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
    let answers = answers.get_or_insert_default();
    match answers.get(program) {
        Some(answer) if answer.changed == changed => answer.lacks_id_maps,
        _ => {
            let lacks_id_maps = ask(program);
            answers.insert(program.to_owned(), Answer { changed, lacks_id_maps });
            lacks_id_maps
        }
    }
}

fn ask(program: &Path) -> bool {
    let output = Command::new(program).arg("features").stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success() && says_no(&output.stdout))
}

fn says_no(features: &[u8]) -> bool {
    serde_json::from_slice::<Features>(features)
        .is_ok_and(|features| !features.linux.mount_extensions.idmap.enabled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_runtime_that_says_so_lacks_id_maps() {
        for (features, lacks) in [
            (r#"{"ociVersionMax":"1.0.2-dev","linux":{"namespaces":["user"]}}"#, true),
            (r#"{"linux":{"mountExtensions":{"idmap":{"enabled":false}}}}"#, true),
            (r#"{"linux":{"mountExtensions":{"idmap":{"enabled":true}}}}"#, false),
            ("unknown command: features", false),
        ] {
            assert_eq!(says_no(features.as_bytes()), lacks, "{features}");
        }
        assert!(!lacks_id_maps(Path::new("/no/such/runtime")));
    }
}
