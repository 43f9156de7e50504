//! Which namespaces a container makes and joins, and how ids and clocks look in them.

use std::path::PathBuf;

use super::PlanError;
use crate::namespaces::{NamespaceKind, NamespaceSet};
use crate::user::IdMap;

/// A namespace that exists already and is to be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedNamespace {
    /// Its kind.
    pub kind: NamespaceKind,
    /// The file that names it.
    pub path: PathBuf,
}

/// Offset of one clock in a new time namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeOffset {
    /// `monotonic` or `boottime`.
    pub clock: String,
    /// Whole seconds.
    pub secs: i64,
    /// Nanoseconds on top.
    pub nanosecs: u32,
}

/// Which namespaces the container lives in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespacePlan {
    /// Those that are made.
    pub new: NamespaceSet,
    /// Those that are joined.
    pub joined: Vec<JoinedNamespace>,
    /// User ids, if a user namespace is made.
    pub uid_map: IdMap,
    /// Group ids, if a user namespace is made.
    pub gid_map: IdMap,
    /// Clocks, if a time namespace is made.
    pub time_offsets: Vec<TimeOffset>,
}

impl NamespacePlan {
    /// Returns whether the container is in a namespace of this kind other than the runtime's.
    #[must_use]
    pub fn has(&self, kind: NamespaceKind) -> bool {
        self.new.contains(kind) || self.joins(kind)
    }

    /// Returns whether a namespace of this kind is joined.
    #[must_use]
    pub fn joins(&self, kind: NamespaceKind) -> bool {
        self.joined.iter().any(|joined| joined.kind == kind)
    }
}

/// Validates `linux.namespaces` and what depends on it.
pub(super) fn namespaces(linux: &oci_spec::runtime::Linux) -> Result<NamespacePlan, PlanError> {
    let mut plan = NamespacePlan {
        uid_map: IdMap::new(linux.uid_mappings().as_deref().unwrap_or_default()),
        gid_map: IdMap::new(linux.gid_mappings().as_deref().unwrap_or_default()),
        ..NamespacePlan::default()
    };
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let kind = NamespaceKind::from(namespace.typ());
        if plan.has(kind) {
            return Err(PlanError::Invalid {
                field: format!("linux.namespaces[{index}].type"),
                value: kind.file_name().to_owned(),
                expected: "each kind once",
            });
        }
        match namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
            None => plan.new = plan.new.with(kind),
            Some(path) if path.is_absolute() => {
                plan.joined.push(JoinedNamespace { kind, path: path.to_owned() });
            }
            Some(path) => {
                return Err(PlanError::NotAbsolute {
                    field: format!("linux.namespaces[{index}].path"),
                    path: path.to_owned(),
                });
            }
        }
    }
    plan.joined.sort_by_key(|joined| joined.kind);
    let missing = |field: &str| PlanError::Missing { field: field.to_owned() };
    if plan.new.contains(NamespaceKind::User) {
        if plan.uid_map.is_empty() {
            return Err(missing("linux.uidMappings"));
        }
        if plan.gid_map.is_empty() {
            return Err(missing("linux.gidMappings"));
        }
    } else if !plan.has(NamespaceKind::User) && !plan.uid_map.is_empty() {
        return Err(PlanError::Needs {
            field: "linux.uidMappings".to_owned(),
            needs: "a user namespace (linux.namespaces)",
        });
    }
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        if !plan.new.contains(NamespaceKind::Time) {
            return Err(PlanError::Needs {
                field: "linux.timeOffsets".to_owned(),
                needs: "a new time namespace (linux.namespaces)",
            });
        }
        plan.time_offsets.push(TimeOffset {
            clock: clock.clone(),
            secs: offset.secs().unwrap_or(0),
            nanosecs: offset.nanosecs().unwrap_or(0),
        });
    }
    Ok(plan)
}
