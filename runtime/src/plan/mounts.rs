//! Mount entries of a specification, taken apart: what to mount, where, with which attributes.
//!
//! The options of one entry are a mixture of four things: attributes of the mount (`nosuid`),
//! propagation (`rslave`), requests to the runtime (`tmpcopyup`, `idmap`) and data for the file
//! system (`size=64k`). Later options win over earlier ones, as with mount(8).

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{PlanError, c_string};
use crate::sys::mount::attr;
use crate::user::IdMap;

/// Propagation of a mount (mount_namespaces(7)): one `MS_*` flag, for one mount or its whole tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE`.
    pub kind: u64,
    /// Whether mounts below follow.
    pub recursive: bool,
}

impl Propagation {
    /// Parses `private`, `rslave` and the like.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let (recursive, kind) = match word.strip_prefix('r') {
            Some(rest) => (true, rest),
            None => (false, word),
        };
        let kind = match kind {
            "private" => libc::MS_PRIVATE,
            "slave" => libc::MS_SLAVE,
            "shared" => libc::MS_SHARED,
            "unbindable" => libc::MS_UNBINDABLE,
            _ => return None,
        };
        Some(Self { kind, recursive })
    }
}

/// Attributes to set and to clear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttrChange {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
}

impl AttrChange {
    fn set(&mut self, bits: u64) {
        self.set |= bits;
        self.clear &= !bits;
    }

    fn clear(&mut self, bits: u64) {
        self.clear |= bits;
        self.set &= !bits;
    }

    /// The kernel wants the whole field of access-time modes cleared before one of them is set.
    fn set_atime(&mut self, mode: u64) {
        self.set = (self.set & !attr::ATIME) | mode;
        self.clear |= attr::ATIME;
    }

    /// Returns whether there is nothing to change.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// One parameter of a file system, as fsconfig(2) takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FsParameter {
    /// A key alone, as `noswap`.
    Flag(CString),
    /// A key with a value, as `size=64k`.
    Value(CString, CString),
}

impl FsParameter {
    /// Whether it is one of those that may be given of any mount, and that a bind mount ignores, as it
    /// does by mount(2).
    fn is_for_any_mount(&self) -> bool {
        const WORDS: [&CStr; 7] =
            [c"sync", c"async", c"dirsync", c"lazytime", c"nolazytime", c"mand", c"nomand"];
        matches!(self, Self::Flag(key) if WORDS.contains(&key.as_c_str()))
    }
}

impl std::fmt::Display for FsParameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(key) => f.write_str(&key.to_string_lossy()),
            Self::Value(key, value) => {
                write!(f, "{}={}", key.to_string_lossy(), value.to_string_lossy())
            }
        }
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// Absolute path on the host.
        path: PathBuf,
        /// Whether the mounts below come along.
        recursive: bool,
    },
    /// A file system of its own.
    Filesystem {
        /// Its type.
        kind: CString,
        /// The device, or the name that the mount table shows.
        source: CString,
        /// Its parameters.
        parameters: Vec<FsParameter>,
    },
    /// The container's own control groups, in the layout that the host has.
    Cgroups,
}

/// Who opens the source of a bind mount, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opener {
    /// The runtime, with the host's rights.
    Runtime,
    /// Init, in its copy of the host's mounts. The kernel (since Linux 6.8) lists mounts by the time of
    /// their making, so that one that follows a file system must be made after it to be listed after it.
    Init,
    /// Init, below the container's root, where an earlier entry has put the source.
    InsideRoot(PathBuf),
}

/// Whose view of ids a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdmapPlan {
    /// Whether mounts below are mapped too.
    pub recursive: bool,
    /// A map of the mount's own; `None` is the container's user namespace.
    pub own: Option<(IdMap, IdMap)>,
}

/// One validated entry of `mounts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    /// Where it appears, as written; resolved below the rootfs by the kernel.
    pub destination: PathBuf,
    /// What is mounted.
    pub source: MountSource,
    /// Who opens the source of a bind mount.
    pub opener: Opener,
    /// Attributes of the mount itself.
    pub attributes: AttrChange,
    /// Attributes of all mounts of the tree (`rro` and its like).
    pub recursive_attributes: AttrChange,
    /// Propagations, in the order given.
    pub propagation: Vec<Propagation>,
    /// The id map.
    pub idmap: Option<IdmapPlan>,
    /// Whether a tmpfs starts with a copy of what it covers (`tmpcopyup`).
    pub copy_up: bool,
    /// Whether an existing mount at the destination is changed instead of covered (`remount`).
    pub remount: bool,
}

/// Looks at the entries together: destinations that are written as paths of the host below `rootfs`
/// are cut to what they mean inside, as runc does, and each bind mount gets its [`Opener`].
///
/// `shares_ids`: whether init has the host's rights, being in the host's user namespace and in a mount
/// namespace that is a copy of the host's.
pub(super) fn arrange(mounts: &mut [MountPlan], rootfs: &Path, shares_ids: bool) {
    // Of the host's own root every path is below.
    let inside =
        |path: &Path| path.strip_prefix(rootfs).ok().map(|inner| Path::new("/").join(inner));
    let inside = |path: &Path| rootfs.parent().and_then(|_| inside(path));
    for mount in mounts.iter_mut() {
        if let Some(destination) = inside(&mount.destination) {
            mount.destination = destination;
        }
    }
    let mut after_filesystem = false;
    for index in 0..mounts.len() {
        let (before, mount) = (&mounts[..index], &mounts[index]);
        let MountSource::Bind { path, .. } = &mount.source else {
            after_filesystem = true;
            continue;
        };
        let made_before = inside(path)
            .filter(|inner| before.iter().any(|other| inner.starts_with(&other.destination)));
        mounts[index].opener = match made_before {
            Some(inner) => Opener::InsideRoot(inner),
            None if shares_ids && after_filesystem && mount.idmap.is_none() => Opener::Init,
            None => Opener::Runtime,
        };
    }
}

impl MountPlan {
    /// Plans to show the host's socket `path` at `destination`.
    #[must_use]
    pub fn of_socket(path: PathBuf, destination: PathBuf) -> Self {
        Self {
            destination,
            source: MountSource::Bind { path, recursive: false },
            opener: Opener::Runtime,
            attributes: AttrChange { set: attr::NOSUID | attr::NODEV | attr::NOEXEC, clear: 0 },
            recursive_attributes: AttrChange::default(),
            propagation: vec![Propagation { kind: libc::MS_PRIVATE, recursive: false }],
            idmap: None,
            copy_up: false,
            remount: false,
        }
    }

    /// Returns whether the mount asks to be read-only.
    #[must_use]
    pub fn is_readonly(&self) -> bool {
        self.attributes.set & attr::RDONLY != 0
    }

    /// Validates the entry `mounts[index]`. `bundle` is where relative sources start.
    ///
    /// # Errors
    /// [`PlanError`] naming the entry.
    pub fn from_spec(index: usize, mount: &Mount, bundle: &Path) -> Result<Self, PlanError> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        if mount.destination().as_os_str().is_empty() {
            return Err(PlanError::Missing { field: field("destination") });
        }
        c_string(&field("destination"), mount.destination().as_os_str().as_bytes())?;
        let mut options = Options::default();
        for word in mount.options().iter().flatten() {
            options.add(word, &field("options"))?;
        }
        let source = options.source(mount, bundle, &field)?;
        let idmap = options.idmap(mount, &source, &field)?;
        Ok(Self {
            destination: mount.destination().clone(),
            source,
            opener: Opener::Runtime,
            attributes: options.attributes,
            recursive_attributes: options.recursive_attributes,
            propagation: options.propagation,
            idmap,
            copy_up: options.copy_up,
            remount: options.remount,
        })
    }
}

/// What one pass over the words found.
#[derive(Debug, Default)]
struct Options {
    attributes: AttrChange,
    recursive_attributes: AttrChange,
    propagation: Vec<Propagation>,
    parameters: Vec<FsParameter>,
    bind: Option<bool>,
    idmap: Option<bool>,
    copy_up: bool,
    remount: bool,
}

impl Options {
    fn add(&mut self, word: &str, field: &str) -> Result<(), PlanError> {
        match word {
            "defaults" | "" => {}
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "remount" => self.remount = true,
            // Old words without a meaning of their own any more: a file system that has lists of
            // access or version numbers has them always. What `sync` and its like take back is the
            // kernel's to know, as they are.
            "silent" | "loud" | "acl" | "noacl" | "iversion" | "noiversion" => {}
            _ => {
                let recursive = word.strip_prefix('r');
                if let Some(propagation) = Propagation::parse(word) {
                    self.propagation.push(propagation);
                } else if !apply_attribute(&mut self.attributes, word)
                    && !recursive
                        .is_some_and(|word| apply_attribute(&mut self.recursive_attributes, word))
                {
                    self.parameters.push(parameter(word, field)?);
                }
            }
        }
        Ok(())
    }

    fn source(
        &mut self,
        mount: &Mount,
        bundle: &Path,
        field: &dyn Fn(&str) -> String,
    ) -> Result<MountSource, PlanError> {
        let kind = mount.typ().as_deref().unwrap_or("");
        let named = mount.source().as_deref();
        let recursive = self.bind.unwrap_or(false);
        if self.remount {
            // It is there already: neither type nor source say anything about it.
            return Ok(MountSource::Filesystem {
                kind: CString::default(),
                source: CString::default(),
                parameters: match self.bind {
                    Some(_) => Vec::new(),
                    None => std::mem::take(&mut self.parameters),
                },
            });
        }
        if self.bind.is_some() || kind == "bind" || kind == "rbind" {
            let path = named
                .filter(|path| !path.as_os_str().is_empty())
                .ok_or_else(|| PlanError::Missing { field: field("source") })?;
            c_string(&field("source"), path.as_os_str().as_bytes())?;
            if let Some(parameter) = self.parameters.iter().find(|one| !one.is_for_any_mount()) {
                return Err(PlanError::Invalid {
                    field: field("options"),
                    value: parameter.to_string(),
                    expected: "options of mounts only, since a bind mount has no file system of \
                               its own to give others to",
                });
            }
            return Ok(MountSource::Bind {
                path: bundle.join(path),
                recursive: recursive || kind == "rbind",
            });
        }
        match kind {
            "" => Err(PlanError::Missing { field: field("type") }),
            "cgroup" | "cgroup2" => Ok(MountSource::Cgroups),
            _ => {
                let source = named.map_or(kind.as_bytes(), |path| path.as_os_str().as_bytes());
                Ok(MountSource::Filesystem {
                    kind: c_string(&field("type"), kind.as_bytes())?,
                    source: c_string(&field("source"), source)?,
                    parameters: std::mem::take(&mut self.parameters),
                })
            }
        }
    }

    fn idmap(
        &self,
        mount: &Mount,
        source: &MountSource,
        field: &dyn Fn(&str) -> String,
    ) -> Result<Option<IdmapPlan>, PlanError> {
        let uids = IdMap::new(mount.uid_mappings().as_deref().unwrap_or_default());
        let gids = IdMap::new(mount.gid_mappings().as_deref().unwrap_or_default());
        if uids.is_empty() != gids.is_empty() {
            return Err(PlanError::Missing {
                field: field(if uids.is_empty() { "uidMappings" } else { "gidMappings" }),
            });
        }
        let recursive = match (self.idmap, uids.is_empty()) {
            (None, true) => return Ok(None),
            (asked, _) => asked.unwrap_or(false),
        };
        if !matches!(source, MountSource::Bind { .. }) {
            return Err(PlanError::Invalid {
                field: field("options"),
                value: "idmap".to_owned(),
                expected: "only on a bind mount",
            });
        }
        let own = (!uids.is_empty()).then_some((uids, gids));
        Ok(Some(IdmapPlan { recursive, own }))
    }
}

/// Applies `word` if it names an attribute of a mount.
fn apply_attribute(change: &mut AttrChange, word: &str) -> bool {
    match word {
        "ro" => change.set(attr::RDONLY),
        "rw" => change.clear(attr::RDONLY),
        "nosuid" => change.set(attr::NOSUID),
        "suid" => change.clear(attr::NOSUID),
        "nodev" => change.set(attr::NODEV),
        "dev" => change.clear(attr::NODEV),
        "noexec" => change.set(attr::NOEXEC),
        "exec" => change.clear(attr::NOEXEC),
        "nodiratime" => change.set(attr::NODIRATIME),
        "diratime" => change.clear(attr::NODIRATIME),
        "nosymfollow" => change.set(attr::NOSYMFOLLOW),
        "symfollow" => change.clear(attr::NOSYMFOLLOW),
        "noatime" => change.set_atime(attr::NOATIME),
        "strictatime" => change.set_atime(attr::STRICTATIME),
        // The mode without a bit of its own is the kernel's default, relatime.
        "relatime" | "atime" | "norelatime" | "nostrictatime" => change.set_atime(0),
        _ => return false,
    }
    true
}

fn parameter(word: &str, field: &str) -> Result<FsParameter, PlanError> {
    Ok(match word.split_once('=') {
        Some((key, value)) => {
            FsParameter::Value(c_string(field, key.as_bytes())?, c_string(field, value.as_bytes())?)
        }
        None => FsParameter::Flag(c_string(field, word.as_bytes())?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<MountPlan, PlanError> {
        MountPlan::from_spec(3, &serde_json::from_str(json).unwrap(), Path::new("/bundle"))
    }

    #[test]
    fn options_are_sorted_into_attributes_propagation_and_parameters() {
        let plan = plan(
            r#"{"destination":"/x","type":"tmpfs","source":"shm",
                "options":["nosuid","noexec","rslave","mode=1777","size=64k","noswap","tmpcopyup"]}"#,
        )
        .unwrap();

        assert_eq!(plan.attributes.set, attr::NOSUID | attr::NOEXEC);
        assert_eq!(plan.propagation, [Propagation { kind: libc::MS_SLAVE, recursive: true }]);
        assert!(plan.copy_up);
        let MountSource::Filesystem { parameters, .. } = plan.source else {
            panic!("a file system")
        };
        assert_eq!(
            parameters,
            [
                FsParameter::Value(c"mode".into(), c"1777".into()),
                FsParameter::Value(c"size".into(), c"64k".into()),
                FsParameter::Flag(c"noswap".into()),
            ]
        );
    }

    #[test]
    fn the_last_of_two_contrary_options_wins() {
        let plan = plan(
            r#"{"destination":"/x","source":"/y","options":["rbind","ro","rw","noatime","relatime"]}"#,
        )
        .unwrap();

        assert_eq!(plan.attributes.set, 0);
        assert_eq!(plan.attributes.clear, attr::RDONLY | attr::ATIME);
    }

    #[test]
    fn recursive_words_concern_the_tree_and_not_the_mount() {
        let plan =
            plan(r#"{"destination":"/x","source":"y","options":["bind","rro","rnosuid","rw"]}"#)
                .unwrap();

        assert_eq!(plan.recursive_attributes.set, attr::RDONLY | attr::NOSUID);
        assert_eq!(plan.attributes.clear, attr::RDONLY);
        assert_eq!(
            plan.source,
            MountSource::Bind { path: "/bundle/y".into(), recursive: false },
            "a relative source starts in the bundle"
        );
    }

    #[test]
    fn sources_are_opened_where_they_are_when_their_turn_comes() {
        let entries = [
            r#"{"destination":"/early","source":"/y","options":["bind"]}"#,
            r#"{"destination":"/tmp","type":"tmpfs"}"#,
            r#"{"destination":"/late","source":"/y","options":["bind"]}"#,
            r#"{"destination":"/b/rootfs/mnt","source":"/b/rootfs/early/x","options":["bind"]}"#,
            r#"{"destination":"/own","source":"/b/rootfs/own","options":["bind"]}"#,
        ];
        let mut mounts: Vec<MountPlan> = entries.iter().map(|json| plan(json).unwrap()).collect();

        arrange(&mut mounts, Path::new("/b/rootfs"), true);

        let openers: Vec<&Opener> = mounts.iter().map(|mount| &mount.opener).collect();
        let inside = Opener::InsideRoot("/early/x".into());
        let expected = [&Opener::Runtime, &Opener::Runtime, &Opener::Init, &inside, &Opener::Init];
        assert_eq!(openers, expected);
        assert_eq!(mounts[3].destination, Path::new("/mnt"));

        arrange(&mut mounts, Path::new("/b/rootfs"), false);
        assert_eq!(mounts[2].opener, Opener::Runtime, "init may not read it");
        arrange(&mut mounts, Path::new("/"), true);
        assert_eq!(mounts[3].opener, Opener::Init, "the host's root is not the container's");
    }

    #[test]
    fn half_an_id_map_is_refused() {
        let error = plan(
            r#"{"destination":"/x","source":"/y","options":["bind"],
                "uidMappings":[{"containerID":0,"hostID":1,"size":1}]}"#,
        )
        .unwrap_err();

        assert_eq!(error.to_string(), "config.json: mounts[3].gidMappings is missing");
    }

    #[test]
    fn a_bind_mount_takes_no_options_of_a_file_system() {
        let bind = |option: &str| {
            let entry =
                r#"{"destination":"/x","type":"bind","source":"/y","options":["ro","OPTION"]}"#;
            plan(&entry.replace("OPTION", option))
        };

        for option in ["sync", "nolazytime", "nodev", "rslave", "rro"] {
            assert!(bind(option).is_ok(), "{option}");
        }
        for option in ["nosuch", "mode=755", "sync=1"] {
            let error = bind(option).unwrap_err().to_string();
            assert!(error.contains("mounts[3].options") && error.contains(option), "{error}");
        }
    }

    #[test]
    fn an_id_map_on_a_file_system_of_its_own_is_refused() {
        let error = plan(r#"{"destination":"/x","type":"tmpfs","options":["idmap"]}"#).unwrap_err();

        assert!(error.to_string().contains("only on a bind mount"), "{error}");
    }
}
