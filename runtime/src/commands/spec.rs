//! `spec`: a config.json to start from.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use nix::unistd::{getegid, geteuid};
use oci_spec::runtime as oci;
use serde_json::Value;

use super::CommandError;

/// What a new bundle starts with: a shell on a terminal, in all namespaces but the user's.
const TEMPLATE: &str = include_str!("spec.json");

#[derive(Debug, Args)]
pub(super) struct Spec {
    /// Directory that config.json is written to.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Make it for the present, unprivileged user.
    #[arg(long)]
    rootless: bool,
}

impl Spec {
    pub(super) fn run(self) -> Result<u8, CommandError> {
        let path = self.bundle.join("config.json");
        let malformed =
            |source| CommandError::Malformed { path: "spec.json (built in)".into(), source };
        let mut spec: oci::Spec = serde_json::from_str(TEMPLATE).map_err(malformed)?;
        if !crate::cgroup::is_unified() {
            remove_cgroup_namespace(&mut spec);
        }
        if self.rootless {
            make_rootless(&mut spec, geteuid().as_raw(), getegid().as_raw());
        }
        let text = serde_json::to_value(&spec)
            .and_then(|spec| serde_json::to_string_pretty(&Ordered::of(spec)))
            .map_err(malformed)?;
        let error = || CommandError::io(format!("write {path:?} (an existing one is kept)"));
        let mut file = File::create_new(&path).map_err(error())?;
        writeln!(file, "{text}").map_err(error())?;
        Ok(0)
    }
}

/// The document as people read it, and the same each time: what a container is before what it is in, and
/// lists that are sets sorted.
struct Ordered(Vec<(String, Value)>);

impl Ordered {
    fn of(spec: Value) -> Self {
        let Value::Object(mut fields) = spec else { return Self(Vec::new()) };
        let capabilities = fields
            .get_mut("process")
            .and_then(|process| process.get_mut("capabilities"))
            .and_then(Value::as_object_mut);
        for set in capabilities.into_iter().flat_map(|sets| sets.values_mut()) {
            if let Value::Array(names) = set {
                names.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            }
        }
        let first = ["ociVersion", "process", "root", "hostname", "mounts"];
        let mut pairs: Vec<_> =
            first.iter().filter_map(|name| fields.remove_entry(*name)).collect();
        pairs.extend(fields);
        Self(pairs)
    }
}

impl serde::Serialize for Ordered {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Where there are hierarchies of v1, a container sees the host's cgroups unless asked otherwise, as
/// with runc: what runs inside may look for its own by the host's path.
fn remove_cgroup_namespace(spec: &mut oci::Spec) {
    if let Some(linux) = spec.linux_mut() {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| namespace.typ() != oci::LinuxNamespaceType::Cgroup);
        linux.set_namespaces(Some(namespaces));
    }
}

/// The user becomes root of a user namespace; the network and the cgroup stay the host's, and with
/// them `/sys`.
fn make_rootless(spec: &mut oci::Spec, uid: u32, gid: u32) {
    let map = |host: u32| {
        oci::LinuxIdMappingBuilder::default()
            .container_id(0_u32)
            .host_id(host)
            .size(1_u32)
            .build()
            .ok()
            .map(|mapping| vec![mapping])
    };
    if let Some(linux) = spec.linux_mut() {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| namespace.typ() != oci::LinuxNamespaceType::Network);
        let mut user = oci::LinuxNamespace::default();
        user.set_typ(oci::LinuxNamespaceType::User);
        namespaces.push(user);
        linux.set_namespaces(Some(namespaces));
        linux.set_resources(None);
        linux.set_uid_mappings(map(uid));
        linux.set_gid_mappings(map(gid));
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if mount.destination().ends_with("sys") {
            mount.set_typ(Some("none".to_owned()));
            mount.set_source(Some("/sys".into()));
            let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
            mount.set_options(Some(options.map(str::to_owned).to_vec()));
        }
        // Only the user's own group has a name inside.
        if let Some(options) = mount.options_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
    if let Some(mounts) = spec.mounts_mut() {
        mounts.retain(|mount| mount.typ().as_deref() != Some("cgroup"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespaces::NamespaceKind;
    use crate::plan::ContainerPlan;

    #[test]
    fn the_template_is_a_valid_specification() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        let spec: oci::Spec = serde_json::from_str(TEMPLATE).unwrap();

        let plan = ContainerPlan::from_spec(spec, dir.path()).unwrap();

        assert_eq!(plan.oci_version, super::super::SPEC_VERSION);
        assert!(plan.namespaces.new.contains(NamespaceKind::Cgroup));
    }

    #[test]
    fn what_is_written_is_the_same_each_time_and_begins_with_the_process() {
        let text = || {
            let spec: oci::Spec = serde_json::from_str(TEMPLATE).unwrap();
            let ordered = Ordered::of(serde_json::to_value(&spec).unwrap());
            serde_json::to_string(&ordered).unwrap()
        };

        let first = text();

        assert!((0..20).all(|_| text() == first), "{first}");
        let place = |name: &str| first.find(&format!("\"{name}\":")).unwrap();
        assert!(place("ociVersion") < place("process") && place("process") < place("root"));
        let again: Value = serde_json::from_str(&first).unwrap();
        let all: Value =
            serde_json::to_value(serde_json::from_str::<oci::Spec>(TEMPLATE).unwrap()).unwrap();
        assert_eq!(again.as_object().unwrap().len(), all.as_object().unwrap().len());
    }

    #[test]
    fn the_rootless_one_maps_the_user_and_asks_for_no_privilege() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        let mut spec: oci::Spec = serde_json::from_str(TEMPLATE).unwrap();

        make_rootless(&mut spec, 1000, 1001);
        let plan = ContainerPlan::from_spec(spec, dir.path()).unwrap();

        assert_eq!(plan.namespaces.uid_map.to_host(0), Some(1000));
        assert_eq!(plan.namespaces.gid_map.to_host(0), Some(1001));
        assert!(!plan.namespaces.has(NamespaceKind::Network));
        assert!(plan.resources.is_none());
    }
}
