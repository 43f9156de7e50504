//! Kernel parameters: only those that belong to one of the container's own namespaces.

use super::PlanError;
use super::namespaces::NamespacePlan;
use crate::namespaces::NamespaceKind;

/// A kernel parameter of the container's namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Dotted name as written.
    pub name: String,
    /// Path below `/proc`.
    pub path: String,
    /// What is written.
    pub value: String,
}

/// Kernel parameters that belong to an IPC namespace, beside `fs.mqueue.*`.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Only what belongs to one of the container's own namespaces may be set: anything else would be
/// the host's.
pub(super) fn sysctls(
    linux: &oci_spec::runtime::Linux,
    namespaces: &NamespacePlan,
) -> Result<Vec<Sysctl>, PlanError> {
    let mut sysctls = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        // Slashes separate as well as dots; then a dot is part of a name (as of a VLAN's).
        let path = match (name.find('.'), name.find('/')) {
            (dot, Some(slash)) if dot.is_none_or(|dot| slash < dot) => name.clone(),
            _ => name
                .chars()
                .map(|c| match c {
                    '.' => '/',
                    '/' => '.',
                    c => c,
                })
                .collect(),
        };
        let dotted: String = path.replace('/', ".");
        let kind = if IPC_SYSCTLS.contains(&dotted.as_str()) || path.starts_with("fs/mqueue/") {
            NamespaceKind::Ipc
        } else if path.starts_with("net/") {
            NamespaceKind::Network
        } else if path == "kernel/domainname" || path == "kernel/hostname" {
            NamespaceKind::Uts
        } else if path.starts_with("user/") {
            NamespaceKind::User
        } else {
            return Err(PlanError::Invalid {
                field: "linux.sysctl".to_owned(),
                value: name.clone(),
                expected: "a parameter that belongs to a namespace, not to the whole host",
            });
        };
        if !namespaces.has(kind) {
            return Err(PlanError::Needs {
                field: format!("linux.sysctl {name}"),
                needs: "a namespace of its kind (linux.namespaces)",
            });
        }
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(PlanError::Invalid {
                field: "linux.sysctl".to_owned(),
                value: name.clone(),
                expected: "a name such as net.ipv4.ip_forward",
            });
        }
        sysctls.push(Sysctl {
            name: name.clone(),
            path: format!("sys/{path}"),
            value: value.clone(),
        });
    }
    sysctls.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sysctls)
}
