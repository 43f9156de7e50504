//! What a profile may say here.

use libseccomp::{ScmpAction, ScmpArch, ScmpFilterContext};
use oci_spec::runtime::LinuxSeccompFilterFlag::{
    self, SeccompFilterFlagLog, SeccompFilterFlagSpecAllow, SeccompFilterFlagTsync,
    SeccompFilterFlagWaitKillableRecv,
};

use super::compile::ARCHITECTURES;
use crate::sys::seccomp::{flag, knows_flags};

/// The actions of a rule.
pub const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// The comparisons of an argument.
pub const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

const FLAGS: [LinuxSeccompFilterFlag; 4] = [
    SeccompFilterFlagLog,
    SeccompFilterFlagSpecAllow,
    SeccompFilterFlagTsync,
    SeccompFilterFlagWaitKillableRecv,
];

/// The kernel's bit of a flag.
pub(super) fn bit(named: LinuxSeccompFilterFlag) -> libc::c_ulong {
    match named {
        SeccompFilterFlagLog => flag::LOG,
        SeccompFilterFlagSpecAllow => flag::SPEC_ALLOW,
        SeccompFilterFlagTsync => flag::TSYNC,
        SeccompFilterFlagWaitKillableRecv => flag::WAIT_KILLABLE_RECV,
    }
}

/// The flags of a filter that are understood.
pub fn known_flags() -> Vec<String> {
    FLAGS.iter().map(ToString::to_string).collect()
}

/// Those of them that the running kernel knows too.
pub fn supported_flags() -> Vec<String> {
    let supported = |named: &&LinuxSeccompFilterFlag| match bit(**named) {
        // It is known only together with a listener.
        flag::WAIT_KILLABLE_RECV => knows_flags(flag::WAIT_KILLABLE_RECV | flag::NEW_LISTENER),
        bit => knows_flags(bit),
    };
    FLAGS.iter().filter(supported).map(ToString::to_string).collect()
}

/// The architectures that this libseccomp can compile for on this machine.
pub fn architectures() -> Vec<String> {
    let can_compile = |arch: ScmpArch| {
        arch == ScmpArch::native()
            || ScmpFilterContext::new(ScmpAction::Allow)
                .and_then(|mut filter| filter.add_arch(arch).map(drop))
                .is_ok()
    };
    let mut names: Vec<_> = ARCHITECTURES
        .into_iter()
        .filter(|(_, arch)| can_compile(*arch))
        .map(|(arch, _)| arch.to_string())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        assert_eq!(known_flags()[3], "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV");
        assert!(architectures().contains(&"SCMP_ARCH_X86_64".to_owned()), "{:?}", architectures());
        for action in ACTIONS {
            let parsed: Result<oci_spec::runtime::LinuxSeccompAction, _> =
                serde_json::from_value(action.into());
            assert!(parsed.is_ok(), "{action}");
        }
        for operator in OPERATORS {
            let parsed: Result<oci_spec::runtime::LinuxSeccompOperator, _> =
                serde_json::from_value(operator.into());
            assert!(parsed.is_ok(), "{operator}");
        }
    }

    #[test]
    fn a_supported_flag_is_a_known_one() {
        let known = known_flags();

        assert!(supported_flags().iter().all(|flag| known.contains(flag)));
    }
}
