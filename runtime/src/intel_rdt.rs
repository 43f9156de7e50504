//! Shares of the processor's cache and memory bandwidth (runtime-spec, config-linux.md, "IntelRdt";
//! the kernel's resctrl file system).
//!
//! ```text
//! /sys/fs/resctrl/CLOS/schemata          what the class of service may use
//!                     /tasks             who is in it: written with init's number
//!                     /mon_groups/ID/    counters of this container alone
//! ```
//!
//! A class that the specification names and that exists already is joined, never changed unless a
//! schema is given, and never removed; one that was made for the container goes with it.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

/// Where resctrl is mounted by convention.
pub const MOUNT: &str = "/sys/fs/resctrl";

/// What resctrl calls itself.
const RDTGROUP_SUPER_MAGIC: FsType = FsType(0x0765_5821);

/// Why the shares cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IntelRdtError {
    /// The kernel or the processor lacks it, or nobody has mounted it.
    #[error("linux.intelRdt: resctrl is not mounted on {MOUNT}: mount -t resctrl resctrl {MOUNT}")]
    NotMounted,
    /// The name would lead elsewhere.
    #[error("linux.intelRdt.closID: {name:?} is not the name of a directory")]
    Name {
        /// The name.
        name: String,
    },
    /// A directory or file refuses.
    #[error("linux.intelRdt: {action} {path:?}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// What was made for a container, kept to remove it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedRdt {
    group: PathBuf,
    /// Whether the class is the container's own.
    made_group: bool,
    monitor: Option<PathBuf>,
}

/// Returns whether resctrl is mounted here.
#[must_use]
pub fn is_mounted() -> bool {
    statfs(MOUNT).is_ok_and(|stat| stat.filesystem_type() == RDTGROUP_SUPER_MAGIC)
}

/// Makes or finds the class that `spec` asks for, below `root` (see [`MOUNT`]), sets its schemata
/// and puts `init` into it.
///
/// # Errors
/// [`IntelRdtError`]; what was made is removed again.
pub fn apply(
    root: &Path,
    spec: &LinuxIntelRdt,
    id: &str,
    init: Pid,
) -> Result<SavedRdt, IntelRdtError> {
    let name = spec.clos_id().as_deref().unwrap_or(id);
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(IntelRdtError::Name { name: name.to_owned() });
    }
    let group = root.join(name);
    let made_group = make_directory(&group)?;
    let mut saved = SavedRdt { group, made_group, monitor: None };
    let filled = fill(spec, id, init, &mut saved);
    if filled.is_err() {
        // The failure itself is what the user must see.
        let _ = saved.remove();
    }
    filled.map(|()| saved)
}

fn fill(
    spec: &LinuxIntelRdt,
    id: &str,
    init: Pid,
    saved: &mut SavedRdt,
) -> Result<(), IntelRdtError> {
    let lines: Vec<&str> = [spec.l3_cache_schema(), spec.mem_bw_schema()]
        .into_iter()
        .filter_map(|schema| schema.as_deref())
        .chain(spec.schemata().iter().flatten().map(String::as_str))
        .collect();
    if !lines.is_empty() {
        write(&saved.group.join("schemata"), &format!("{}\n", lines.join("\n")))?;
    }
    #[allow(deprecated, reason = "older bundles ask for monitoring by the two old names")]
    let monitors = [spec.enable_monitoring(), spec.enable_cmt(), spec.enable_mbm()];
    if monitors.iter().any(|wanted| **wanted == Some(true)) {
        let monitor = saved.group.join("mon_groups").join(id);
        make_directory(&monitor)?;
        saved.monitor = Some(monitor);
    }
    saved.enter(init)
}

impl SavedRdt {
    /// Puts a further process of the container into its class.
    ///
    /// # Errors
    /// [`IntelRdtError::Io`].
    pub fn enter(&self, pid: Pid) -> Result<(), IntelRdtError> {
        std::iter::once(&self.group)
            .chain(&self.monitor)
            .try_for_each(|directory| write(&directory.join("tasks"), &pid.to_string()))
    }

    /// Removes what was made for the container. What is gone already is no error.
    ///
    /// # Errors
    /// [`IntelRdtError::Io`].
    pub fn remove(&self) -> Result<(), IntelRdtError> {
        let own = self.made_group.then_some(&self.group);
        for path in self.monitor.iter().chain(own) {
            match std::fs::remove_dir(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => result.map_err(io("remove", path))?,
            }
        }
        Ok(())
    }
}

/// Returns whether the directory is new.
fn make_directory(path: &Path) -> Result<bool, IntelRdtError> {
    match std::fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(io("create", path)(source)),
    }
}

fn write(path: &Path, text: &str) -> Result<(), IntelRdtError> {
    std::fs::File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(io("write", path))
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> IntelRdtError {
    let path = path.to_owned();
    move |source| IntelRdtError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> LinuxIntelRdt {
        serde_json::from_str(json).unwrap()
    }

    /// A class as the kernel makes it.
    fn class(root: &Path, name: &str) {
        std::fs::create_dir_all(root.join(name).join("mon_groups")).unwrap();
        std::fs::write(root.join(name).join("schemata"), "").unwrap();
        std::fs::write(root.join(name).join("tasks"), "").unwrap();
    }

    #[test]
    fn a_class_that_exists_is_joined_and_stays() {
        let root = tempfile::tempdir().unwrap();
        class(root.path(), "gold");
        let wanted = spec(r#"{"closID":"gold","l3CacheSchema":"L3:0=f","schemata":["MB:0=50"]}"#);

        let saved = apply(root.path(), &wanted, "c", Pid::from_raw(42)).unwrap();

        let read =
            |name: &str| std::fs::read_to_string(root.path().join("gold").join(name)).unwrap();
        assert_eq!(read("schemata"), "L3:0=f\nMB:0=50\n");
        assert_eq!(read("tasks"), "42");
        saved.remove().unwrap();
        assert!(root.path().join("gold").exists());
    }

    #[test]
    fn a_class_that_cannot_be_filled_is_removed_again() {
        let root = tempfile::tempdir().unwrap();

        // A plain directory has no file `tasks`, as a class of the kernel's would.
        let error = apply(root.path(), &spec("{}"), "c", Pid::from_raw(42)).unwrap_err();

        assert!(error.to_string().contains("tasks"), "{error}");
        assert!(!root.path().join("c").exists());
    }

    #[test]
    fn a_name_does_not_lead_out() {
        let root = tempfile::tempdir().unwrap();
        for name in ["..", ".", "", "a/b", "/etc"] {
            let wanted = spec(&format!(r#"{{"closID":{name:?}}}"#));

            let error = apply(root.path(), &wanted, "c", Pid::from_raw(42)).unwrap_err();

            assert!(matches!(error, IntelRdtError::Name { .. }), "{name:?}: {error}");
        }
    }
}
