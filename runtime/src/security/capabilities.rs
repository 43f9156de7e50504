//! The five capability sets of a process (capabilities(7); runtime-spec, config.md, “Linux Process”).

use std::collections::HashSet;

use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use oci_spec::runtime::{Capability, LinuxCapabilities};

use crate::sys::capability;

/// The kernel numbers capabilities with six bits.
const NUMBER_MAX: u8 = 63;

/// The capabilities that a process is to have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CapabilityPlan {
    bounding: CapsHashSet,
    effective: CapsHashSet,
    inheritable: CapsHashSet,
    permitted: CapsHashSet,
    ambient: CapsHashSet,
}

impl CapabilityPlan {
    /// Takes over what the bundle says. A set that it does not name is empty, and so are all where it
    /// says nothing: the process gets no capabilities that nobody asked for.
    pub fn from_spec(spec: Option<&LinuxCapabilities>) -> Self {
        let set = |set: &Option<HashSet<Capability>>| {
            set.iter().flatten().filter_map(|name| name.to_string().parse_name()).collect()
        };
        spec.map_or_else(Self::default, |spec| Self {
            bounding: set(spec.bounding()),
            effective: set(spec.effective()),
            inheritable: set(spec.inheritable()),
            permitted: set(spec.permitted()),
            ambient: set(spec.ambient()),
        })
    }

    /// Adds capabilities to the bounding, effective and permitted sets, as `exec --cap` does, and to the
    /// ambient one if they are inheritable already: never do they become so, since any program that the
    /// process executes could then have them (CVE-2022-29162). Names are as in the bundle.
    ///
    /// # Errors
    /// [`UnknownCapability`] with the name that no kernel knows.
    pub fn add<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), UnknownCapability> {
        for name in names {
            let cap = name.parse_name().ok_or_else(|| UnknownCapability { name: name.into() })?;
            for set in [&mut self.bounding, &mut self.effective, &mut self.permitted] {
                set.insert(cap);
            }
            if self.inheritable.contains(&cap) {
                self.ambient.insert(cap);
            }
        }
        Ok(())
    }

    /// Returns an inheritable capability that is not in the bounding set, if there is one.
    #[must_use]
    pub fn unbounded_inheritable(&self) -> Option<String> {
        self.inheritable.difference(&self.bounding).map(ToString::to_string).min()
    }

    /// Returns the names of ambient capabilities that cannot be had, since they are not both permitted
    /// and inheritable.
    #[must_use]
    pub fn vain_ambient(&self) -> Vec<String> {
        let mut vain: Vec<String> = self
            .ambient
            .iter()
            .filter(|cap| !(self.permitted.contains(cap) && self.inheritable.contains(cap)))
            .map(ToString::to_string)
            .collect();
        vain.sort_unstable();
        vain
    }

    /// Takes from the bounding set of this process what the plan does not have in it, capabilities
    /// that only a newer kernel knows included.
    ///
    /// # Errors
    /// `EPERM` without CAP_SETPCAP.
    pub fn apply_bounding(&self) -> Result<(), Errno> {
        for number in 0..=NUMBER_MAX {
            if self.bounding.iter().any(|cap| cap.index() == number) {
                continue;
            }
            match capability::drop_from_bounding_set(number) {
                Ok(()) => {}
                Err(Errno::EINVAL) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Gives this process the other four sets. The user must have been changed before, with
    /// capabilities kept.
    ///
    /// What this process does not have itself it cannot give: that is left out, as the runtime-spec
    /// demands of a runtime with limited privileges. So is an ambient capability that is not both
    /// permitted and inheritable.
    ///
    /// # Errors
    /// The kernel's answer; `EPERM` only if a security module forbids it.
    pub fn apply(&self) -> Result<(), Errno> {
        let held = caps::read(None, CapSet::Permitted).map_err(|_| Errno::last())?;
        let available =
            |wanted: &CapsHashSet| -> CapsHashSet { wanted.intersection(&held).copied().collect() };
        let permitted = available(&self.permitted);
        let inheritable = available(&self.inheritable);
        let effective = self.effective.intersection(&permitted).copied().collect();
        // After a change of user nothing is effective, but all is permitted: raise what is needed
        // for the inheritable set first, and lower the permitted set last.
        set(CapSet::Effective, &effective)?;
        set(CapSet::Inheritable, &inheritable)?;
        set(CapSet::Permitted, &permitted)?;
        caps::clear(None, CapSet::Ambient).map_err(|_| Errno::last())?;
        for cap in &self.ambient {
            if permitted.contains(cap) && inheritable.contains(cap) {
                caps::raise(None, CapSet::Ambient, *cap).map_err(|_| Errno::last())?;
            }
        }
        Ok(())
    }
}

/// A capability whose name no kernel knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability {name:?}: names are like CAP_NET_ADMIN, see capabilities(7)")]
pub struct UnknownCapability {
    /// The name as it was given.
    pub name: String,
}

fn set(set: CapSet, caps: &CapsHashSet) -> Result<(), Errno> {
    caps::set(None, set, caps).map_err(|_| Errno::last())
}

trait ParseName {
    fn parse_name(&self) -> Option<caps::Capability>;
}

impl ParseName for str {
    /// Reads a name in any case, with or without `CAP_`.
    fn parse_name(&self) -> Option<caps::Capability> {
        let upper = self.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        format!("CAP_{bare}").parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> LinuxCapabilities {
        serde_json::from_value(json).unwrap()
    }

    /// The sets of the calling thread, as the kernel tells them.
    fn status() -> Vec<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"]
            .iter()
            .map(|key| {
                let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
                u64::from_str_radix(line.trim(), 16).unwrap()
            })
            .collect()
    }

    #[test]
    fn every_capability_of_the_specification_is_known() {
        for cap in caps::all() {
            let json = serde_json::json!({ "bounding": [cap.to_string()] });
            let plan = CapabilityPlan::from_spec(Some(&spec(json)));
            assert_eq!(plan.bounding, CapsHashSet::from([cap]));
        }
    }

    #[test]
    fn names_are_read_with_and_without_prefix() {
        for name in ["CAP_NET_ADMIN", "net_admin", "cap_net_admin", "NET_ADMIN"] {
            let mut plan = CapabilityPlan::from_spec(None);
            plan.add([name]).unwrap();
            let expected = CapsHashSet::from([caps::Capability::CAP_NET_ADMIN]);
            assert_eq!(plan.effective, expected);
        }
    }

    #[test]
    fn what_is_added_becomes_ambient_only_if_it_was_inheritable_and_never_inheritable() {
        let json = serde_json::json!({ "inheritable": ["CAP_CHOWN", "CAP_KILL"] });
        let mut plan = CapabilityPlan::from_spec(Some(&spec(json)));
        let inheritable = plan.inheritable.clone();

        plan.add(["CAP_SYSLOG", "CAP_KILL"]).unwrap();

        assert_eq!(plan.inheritable, inheritable);
        assert_eq!(plan.ambient, CapsHashSet::from([caps::Capability::CAP_KILL]));
        assert_eq!(plan.permitted.len(), 2);
    }

    #[test]
    fn an_unknown_name_is_told() {
        let unknown = CapabilityPlan::from_spec(None).add(["CAP_FLY"]).unwrap_err();

        assert_eq!(unknown.name, "CAP_FLY");
    }

    #[test]
    fn the_kernel_reports_exactly_the_planned_sets() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let plan = CapabilityPlan::from_spec(Some(&spec(serde_json::json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            "effective": ["CAP_CHOWN"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL", "CAP_NET_RAW"],
        }))));

        // Capabilities belong to a thread: this one is thrown away afterwards.
        let sets = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                plan.apply_bounding().unwrap();
                plan.apply().unwrap();
                status()
            });
            thread.join().unwrap()
        });

        let (chown, kill, net_raw) = (1 << 0, 1 << 5, 1 << 13);
        assert_eq!(sets, [kill, chown | kill, chown, chown | kill | net_raw, kill]);
    }

    #[test]
    fn what_the_runtime_does_not_have_is_left_out() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let all = serde_json::json!(["CAP_CHOWN", "CAP_KILL", "CAP_SYS_BOOT"]);
        let plan = CapabilityPlan::from_spec(Some(&spec(serde_json::json!({
            "bounding": all, "effective": all, "permitted": all, "inheritable": all, "ambient": all,
        }))));

        let sets = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                caps::drop(None, CapSet::Effective, caps::Capability::CAP_SYS_BOOT).unwrap();
                caps::drop(None, CapSet::Permitted, caps::Capability::CAP_SYS_BOOT).unwrap();
                plan.apply_bounding().unwrap();
                plan.apply().unwrap();
                status()
            });
            thread.join().unwrap()
        });

        let (chown, kill, boot) = (1 << 0, 1 << 5, 1 << 22);
        assert_eq!(
            sets,
            [chown | kill, chown | kill, chown | kill, chown | kill | boot, chown | kill]
        );
    }

    #[test]
    fn without_capabilities_in_the_bundle_the_process_has_none() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let plan = CapabilityPlan::from_spec(None);

        let sets = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                plan.apply_bounding().unwrap();
                plan.apply().unwrap();
                status()
            });
            thread.join().unwrap()
        });

        assert_eq!(sets, [0; 5]);
    }
}
