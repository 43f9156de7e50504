//! Capabilities of a container's processes (capabilities(7)).

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// What a container has unless it is asked otherwise: what package managers, web servers and
/// programs that drop privileges need, the set that Docker made usual.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Every capability that Linux has.
const ALL: [Capability; 41] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Kill,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// No capability is called that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability {name:?}: give a name of capabilities(7), such as NET_ADMIN, or ALL")]
pub struct UnknownCapability {
    /// What was given.
    pub name: String,
}

/// The default set.
pub fn defaults() -> Capabilities {
    DEFAULT.into_iter().collect()
}

/// Every capability that the running kernel knows; a newer one could not be raised.
pub fn all(last_known: u8) -> Capabilities {
    ALL.into_iter().filter(|capability| number(*capability) <= last_known).collect()
}

/// Parses a name, with or without `CAP_` and in any case.
pub fn parse(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).parse().ok()
}

/// Adds to and takes from the default set; a privileged container starts from all.
///
/// # Errors
/// [`UnknownCapability`] if a name is none.
pub fn select(
    privileged: bool,
    add: &[String],
    drop: &[String],
    last_known: u8,
) -> Result<Capabilities, UnknownCapability> {
    let is_all = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let mut selected = match (privileged || is_all(add), is_all(drop)) {
        (true, false) => all(last_known),
        (true, true) if privileged => all(last_known),
        (false, false) => defaults(),
        _ => Capabilities::new(),
    };
    for name in drop.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
        selected.remove(&known(name)?);
    }
    for name in add.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
        selected.insert(known(name)?);
    }
    Ok(selected)
}

fn known(name: &str) -> Result<Capability, UnknownCapability> {
    parse(name).ok_or_else(|| UnknownCapability { name: name.to_owned() })
}

/// The five sets of a process: root has what the container may have, others gain it by programs
/// with file capabilities only. The inheritable set is empty, as it would hand capabilities to
/// programs that were never meant to have them (CVE-2022-24769).
pub fn for_process(selected: &Capabilities, is_root: bool) -> LinuxCapabilities {
    let own = if is_root { selected.clone() } else { Capabilities::new() };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(selected.clone()))
        .set_effective(Some(own.clone()))
        .set_permitted(Some(own))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

/// The bit of a capability in the kernel's masks (linux/capability.h).
fn number(capability: Capability) -> u8 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn additions_and_removals_combine_as_docker_does() {
        let table: [(bool, &[&str], &[&str], usize); 8] = [
            (false, &[], &[], 14),
            (false, &["NET_ADMIN"], &[], 15),
            (false, &["cap_net_admin"], &["CHOWN"], 14),
            (false, &[], &["ALL"], 0),
            (false, &["CHOWN"], &["all"], 1),
            (false, &["ALL"], &[], 41),
            (false, &["ALL"], &["SYS_ADMIN"], 40),
            (true, &[], &[], 41),
        ];
        for (privileged, add, drop, count) in table {
            let selected = select(privileged, &names(add), &names(drop), 40).unwrap();

            assert_eq!(selected.len(), count, "{privileged} +{add:?} -{drop:?}");
        }
    }

    #[test]
    fn a_capability_newer_than_the_kernel_is_not_given() {
        assert_eq!(all(37).len(), 38);
        assert!(!all(37).contains(&Capability::Bpf));
    }

    #[test]
    fn unknown_names_are_refused() {
        let error = select(false, &names(&["FLY"]), &[], 40).unwrap_err();

        assert_eq!(error, UnknownCapability { name: "FLY".into() });
    }

    #[test]
    fn a_user_other_than_root_holds_nothing() {
        let sets = for_process(&defaults(), false);

        assert_eq!(sets.bounding().as_ref().map(|set| set.len()), Some(14));
        assert_eq!(sets.effective().as_ref().map(|set| set.len()), Some(0));
        assert!(sets.inheritable().is_none());
    }
}
