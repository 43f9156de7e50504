//! What builds leave for later builds, and how it is bounded.
//!
//! | what | bound | what goes first |
//! | --- | --- | --- |
//! | results of steps | the setting | what was used least recently |
//! | files of contexts | a quarter of it | what was sent first |
//! | caches that steps mount | a quarter of it | what was mounted least recently |
//!
//! Results are looked at after each build; the others from time to time, when no build runs.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use jiff::{SignedDuration, Timestamp};
use keg_store::{BuildResult, Digest, Explain, Reason};

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

/// How often files of contexts and mounted caches are looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(600);

/// Kinds of what is there; BuildKit's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageKind {
    /// Results of steps: `regular`.
    Result,
    /// Files of contexts: `source.local`.
    Files,
    /// Caches that steps mount: `exec.cachemount`.
    Mounts,
}

/// What is to be removed only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// `id=`: keys that begin so.
    Id(String),
    /// `description=`: steps that have this in their text.
    Description(String),
    /// `type=`.
    Kind(UsageKind),
    /// `shared=`: whether an image has the layer too.
    Shared(bool),
}

/// A filter that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no filter of build caches")]
pub struct FilterError(String);

impl Explain for FilterError {
    fn reason(&self) -> Reason {
        Reason::InvalidArgument
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        let known = "write id=KEY, description=TEXT, shared=true|false, or \
                     type=regular|source.local|exec.cachemount";
        Some(known.into())
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let bad = || FilterError(text.to_owned());
        let (key, value) = text.split_once('=').ok_or_else(bad)?;
        Ok(match (key.trim_end_matches('~'), value) {
            ("id", value) => Self::Id(value.trim_start_matches("sha256:").to_owned()),
            ("description", value) => Self::Description(value.to_owned()),
            ("shared", "true") | ("private", "false") => Self::Shared(true),
            ("shared", "false") | ("private", "true") => Self::Shared(false),
            ("type", "regular") => Self::Kind(UsageKind::Result),
            ("type", "source.local") => Self::Kind(UsageKind::Files),
            ("type", "exec.cachemount") => Self::Kind(UsageKind::Mounts),
            _ => return Err(bad()),
        })
    }
}

/// What to remove.
#[derive(Debug, Clone, Default)]
pub struct Prune {
    /// Also what images share, files of contexts, and caches that steps mount.
    pub all: bool,
    /// Keeps this many bytes of what was used last.
    pub keep_bytes: u64,
    /// Keeps what was used within so many seconds.
    pub unused_for_secs: i64,
    /// Removes only what fits all of these.
    pub filters: Vec<Filter>,
}

impl Prune {
    /// Tells whether things of a kind are meant, and whether the caller said so.
    fn means(&self, kind: UsageKind) -> (bool, bool) {
        let mut kinds = self.filters.iter().filter_map(|filter| match filter {
            Filter::Kind(kind) => Some(*kind),
            _ => None,
        });
        let names_kinds = kinds.clone().next().is_some();
        let is_named = kinds.all(|named| named == kind) && names_kinds;
        (is_named || !names_kinds, is_named)
    }

    fn fits(&self, result: &BuildResult, is_shared: bool) -> bool {
        self.filters.iter().all(|filter| match filter {
            Filter::Id(start) => {
                result.key.trim_start_matches("sha256:").starts_with(start.as_str())
            }
            Filter::Description(text) => result.description.contains(text.as_str()),
            Filter::Kind(kind) => *kind == UsageKind::Result,
            Filter::Shared(wanted) => *wanted == is_shared,
        })
    }
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
        self.shared.blocking(move |shared| shared.prune(&prune)).await
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

    fn prune(&self, prune: &Prune) -> Result<Pruned, BuildError> {
        // What a build that was given up has done is a result like others.
        self.layers.commit(&[])?;
        let _still = self.layers.still();
        let in_use = self.layers.in_use();
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
            let asks_for_shared = prune.all || prune.filters.contains(&Filter::Shared(true));
            if keeps || (*is_shared && !asks_for_shared) || result.used_at > horizon {
                continue;
            }
            let is_in_use = result.snapshot.as_ref().is_some_and(|key| in_use.contains(key));
            if is_in_use || !prune.fits(result, *is_shared) {
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
        let removes_all = prune.all
            && prune.keep_bytes == 0
            && prune.unused_for_secs == 0
            && prune.filters.iter().all(|filter| matches!(filter, Filter::Kind(_)));
        let (means_files, names_files) = prune.means(UsageKind::Files);
        let (means_mounts, names_mounts) = prune.means(UsageKind::Mounts);
        if names_files || (removes_all && means_files) {
            pruned.freed_bytes +=
                self.content.forget().map_err(BuildError::io("remove files of earlier builds"))?;
        }
        if names_mounts || (removes_all && means_mounts) {
            pruned.freed_bytes += self.forget_mounts()?;
        }
        self.layers.store().trash().wait_until_empty();
        Ok(pruned)
    }

    /// Removes caches that steps mount.
    fn forget_mounts(&self) -> Result<u64, BuildError> {
        let failed = || BuildError::io("remove the caches of earlier builds");
        let caches = self.content.root().join("caches");
        let freed_bytes = tree_bytes(&caches);
        for entry in std::fs::read_dir(&caches).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let aside = self.content.temporary();
            // A step that has it mounted keeps what it has open; the next one begins anew.
            std::fs::rename(&path, &aside).map_err(failed())?;
            std::fs::remove_dir_all(&aside).map_err(failed())?;
        }
        Ok(freed_bytes)
    }

    /// Removes the least used results beyond the limit, and those that nothing has used for long.
    pub(crate) fn stay_bounded(&self) -> Result<(), BuildError> {
        let limit_bytes = self.settings.cache_bytes;
        let results = self.results()?;
        let own = results.iter().filter(|(_, is_shared)| !is_shared);
        let sum: u64 = own.clone().map(|(result, _)| result.size_bytes).sum();
        let keep_secs = i64::try_from(self.settings.cache_keep_secs).unwrap_or(i64::MAX);
        let horizon = Timestamp::now().checked_sub(SignedDuration::from_secs(keep_secs));
        let is_old = |result: &BuildResult| horizon.as_ref().is_ok_and(|at| result.used_at < *at);
        if keep_secs > 0 && own.clone().any(|(result, _)| is_old(result)) {
            self.bound(&Prune { unused_for_secs: keep_secs, ..Prune::default() })?;
        }
        if sum > limit_bytes {
            // None kept is what a limit of nothing asks for, and not what it says to a person.
            let keep_bytes = (limit_bytes / 10 * 9).max(1);
            self.bound(&Prune { keep_bytes, ..Prune::default() })?;
        }
        self.bound_files()
    }

    fn bound(&self, prune: &Prune) -> Result<(), BuildError> {
        let pruned = self.prune(prune)?;
        tracing::info!(
            results = pruned.deleted.len(),
            bytes = pruned.freed_bytes,
            "the build cache was over its limits"
        );
        Ok(())
    }

    /// Removes files of contexts and mounted caches beyond the limit, unless a build may be using them.
    fn bound_files(&self) -> Result<(), BuildError> {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|at| at.elapsed() < LOOKED_AT_EVERY) {
            return Ok(());
        }
        let Ok(_alone) = self.running.try_write() else { return Ok(()) };
        *looked = Some(Instant::now());
        let failed = || BuildError::io("keep what builds leave within its limit");
        let limit_bytes = self.settings.cache_bytes / 4;
        let root = self.content.root();
        let mut files = Vec::new();
        for directory in list(&root.join("files")).map_err(failed())? {
            files.extend(list(&directory.path).map_err(failed())?);
        }
        for file in beyond(files, limit_bytes) {
            std::fs::remove_file(&file).map_err(failed())?;
        }
        let mut caches = list(&root.join("caches")).map_err(failed())?;
        for cache in &mut caches {
            cache.bytes = tree_bytes(&cache.path);
            // Touched whenever it is mounted.
            let name = std::fs::metadata(cache.path.join("name"));
            cache.used = name.and_then(|name| name.modified()).unwrap_or(cache.used);
        }
        for cache in beyond(caches, limit_bytes) {
            std::fs::remove_dir_all(&cache).map_err(failed())?;
        }
        Ok(())
    }
}

/// Something that can be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Left {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn list(directory: &Path) -> std::io::Result<Vec<Left>> {
    use std::os::unix::fs::MetadataExt;

    std::fs::read_dir(directory)?
        .map(|entry| {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let (bytes, used) = (metadata.blocks() * 512, metadata.modified()?);
            Ok(Left { path: entry.path(), bytes, used })
        })
        .collect()
}

/// Returns what has to go so that the rest fits, the oldest first.
fn beyond(mut left: Vec<Left>, limit_bytes: u64) -> Vec<PathBuf> {
    let mut sum: u64 = left.iter().map(|one| one.bytes).sum();
    if sum <= limit_bytes {
        return Vec::new();
    }
    left.sort_by_key(|one| one.used);
    let mut gone = Vec::new();
    for one in left {
        if sum <= limit_bytes / 4 * 3 {
            break;
        }
        sum -= one.bytes;
        gone.push(one.path);
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(key: &str, description: &str) -> BuildResult {
        BuildResult {
            key: format!("sha256:{key}"),
            result: String::new(),
            snapshotter: String::new(),
            snapshot: None,
            blob: None,
            details: String::new(),
            description: description.to_owned(),
            size_bytes: 1,
            created_at: Timestamp::UNIX_EPOCH,
            used_at: Timestamp::UNIX_EPOCH,
            uses: 1,
        }
    }

    #[test]
    fn what_is_removed_fits_all_filters() {
        let prune = |filters: &[&str]| Prune {
            filters: filters.iter().map(|text| text.parse().unwrap()).collect(),
            ..Prune::default()
        };
        let one = result("abc", "RUN make");

        assert!(prune(&[]).fits(&one, true));
        assert!(prune(&["id=sha256:ab", "description~=make", "shared=false"]).fits(&one, false));
        assert!(!prune(&["id=b"]).fits(&one, false));
        assert!(!prune(&["description=make", "private=true"]).fits(&one, true));
        assert!(!prune(&["type=exec.cachemount"]).fits(&one, false));
        for bad in ["id", "type=x", "shared=maybe", "colour=red"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_that_are_not_named_stay() {
        let prune = |text: &str| Prune { filters: vec![text.parse().unwrap()], ..Prune::default() };

        assert_eq!(Prune::default().means(UsageKind::Mounts), (true, false));
        assert_eq!(prune("type=exec.cachemount").means(UsageKind::Mounts), (true, true));
        assert_eq!(prune("type=exec.cachemount").means(UsageKind::Files), (false, false));
    }

    #[test]
    fn the_oldest_goes_until_the_rest_fits_with_room_to_spare() {
        let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        let left = |path: &str, bytes, secs| Left { path: path.into(), bytes, used: at(secs) };
        let all = || vec![left("new", 40, 3), left("old", 40, 1), left("middle", 40, 2)];

        assert!(beyond(all(), 120).is_empty());
        assert_eq!(beyond(all(), 119), [PathBuf::from("old")]);
        assert_eq!(beyond(all(), 60), [PathBuf::from("old"), PathBuf::from("middle")]);
    }
}
