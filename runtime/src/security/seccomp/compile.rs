//! A profile, compiled by libseccomp into one program per architecture.
//!
//! libseccomp could compile all architectures into one program, but its time grows far faster than
//! their number. Compiled one by one, they are joined in [`super::join`].

use std::fs::File;
use std::io::{Read as _, Seek as _};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::SeccompError;
use super::join::{self, Section};
use crate::sys::seccomp::{INSTRUCTIONS_MAX, Instruction};

/// `SCMP_FLTATR_CTL_OPTIMIZE`: a binary tree over the numbers, which the kernel also checks faster.
const BINARY_TREE: u32 = 2;
/// The kernel cuts error numbers off here.
const ERRNO_MAX: u32 = 4095;
/// A system call has six arguments.
const ARGUMENTS: usize = 6;

/// A rule whose action is known to be good.
struct Rule<'a> {
    action: ScmpAction,
    spec: &'a LinuxSyscall,
    index: usize,
}

/// Compiles a profile for all its architectures, the machine's own included.
pub(super) fn compile(profile: &LinuxSeccomp) -> Result<Vec<Instruction>, SeccompError> {
    let default =
        action(profile.default_action(), profile.default_errno_ret(), ".defaultErrnoRet")?;
    let mut rules = Vec::new();
    for (index, spec) in profile.syscalls().iter().flatten().enumerate() {
        let at = format!(".syscalls[{index}].errnoRet");
        let action = action(spec.action(), spec.errno_ret(), &at)?;
        // libseccomp takes no rule that says what the default says already.
        if action != default {
            rules.push(Rule { action, spec, index });
        }
    }

    let stub = wants_stub(profile);
    let mut sections = Vec::new();
    for (arch, scmp_arch) in architectures(profile) {
        let program = compile_for((arch, scmp_arch), default, &rules)?;
        let newest = if stub { newest_call(profile, scmp_arch) } else { None };
        sections.push(Section { arch, program, newest });
    }
    let joined = join::join(&sections);
    if joined.len() > INSTRUCTIONS_MAX {
        return Err(SeccompError::TooLong { instructions: joined.len() });
    }
    Ok(joined)
}

/// The machine's own architecture, then the profile's others.
fn architectures(profile: &LinuxSeccomp) -> Vec<(Arch, ScmpArch)> {
    let native = ScmpArch::native();
    let asked = |arch: &Arch| profile.architectures().iter().flatten().any(|other| other == arch);
    let (own, others): (Vec<_>, Vec<_>) = ARCHITECTURES
        .into_iter()
        .filter(|(arch, scmp)| *scmp == native || asked(arch))
        .partition(|(_, scmp)| *scmp == native);
    own.into_iter().chain(others).collect()
}

fn compile_for(
    (name, arch): (Arch, ScmpArch),
    default: ScmpAction,
    rules: &[Rule<'_>],
) -> Result<Vec<Instruction>, SeccompError> {
    let failed = |step| move |cause| SeccompError::Compile { at: String::new(), step, cause };
    let mut filter = ScmpFilterContext::new(default).map_err(failed("begin a filter"))?;
    let native = ScmpArch::native();
    if arch != native {
        filter
            .add_arch(arch)
            .and_then(|filter| filter.remove_arch(native))
            .map_err(|cause| SeccompError::Architecture { arch: name.to_string(), cause })?;
    }
    filter.set_ctl_optimize(BINARY_TREE).map_err(failed("choose a binary tree"))?;
    for rule in rules {
        add_rule(&mut filter, rule)?;
    }
    export(&filter)
}

fn add_rule(filter: &mut ScmpFilterContext, rule: &Rule<'_>) -> Result<(), SeccompError> {
    let args = rule.spec.args().as_deref().unwrap_or_default();
    let comparisons = args
        .iter()
        .map(|arg| comparison(arg, rule.index))
        .collect::<Result<Vec<ScmpArgCompare>, _>>()?;
    for name in rule.spec.names() {
        // A name that this libseccomp does not know is no call that it could let through.
        let Ok(call) = ScmpSyscall::from_name(name) else { continue };
        let failed = |cause| SeccompError::Compile {
            at: format!(".syscalls[{}]", rule.index),
            step: "add the rule",
            cause,
        };
        if comparisons.is_empty() {
            filter.add_rule(rule.action, call).map_err(failed)?;
        } else if repeats_an_argument(args) {
            // libseccomp knows no two conditions on one argument: each becomes a rule, any of which
            // is enough, as runc has always read it.
            for comparison in &comparisons {
                filter
                    .add_rule_conditional(rule.action, call, std::slice::from_ref(comparison))
                    .map_err(failed)?;
            }
        } else {
            filter.add_rule_conditional(rule.action, call, &comparisons).map_err(failed)?;
        }
    }
    Ok(())
}

fn repeats_an_argument(args: &[LinuxSeccompArg]) -> bool {
    args.iter().enumerate().any(|(at, arg)| args[..at].iter().any(|one| one.index() == arg.index()))
}

fn comparison(arg: &LinuxSeccompArg, rule: usize) -> Result<ScmpArgCompare, SeccompError> {
    let value = arg.value();
    let (operator, datum) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(value), arg.value_two().unwrap_or(0))
        }
    };
    let index = u32::try_from(arg.index()).ok().filter(|_| arg.index() < ARGUMENTS);
    let index = index.ok_or_else(|| {
        let why = format!("index {} is beyond the {ARGUMENTS} arguments of a call", arg.index());
        SeccompError::profile(format!(".syscalls[{rule}].args"), why)
    })?;
    Ok(ScmpArgCompare::new(index, operator, datum))
}

/// Reads an action with its value; without one, errors are `EPERM` and traces 1, as in runc.
fn action(
    action: LinuxSeccompAction,
    value: Option<u32>,
    at: &str,
) -> Result<ScmpAction, SeccompError> {
    let bounded = match value {
        None => Errno::EPERM as u16,
        Some(value) => u16::try_from(value)
            .ok()
            .filter(|_| value <= ERRNO_MAX || action != LinuxSeccompAction::ScmpActErrno)
            .ok_or_else(|| SeccompError::profile(at, format!("{value} is too large")))?,
    };
    let takes_value =
        matches!(action, LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace);
    if value.is_some() && !takes_value {
        return Err(SeccompError::profile(at, format!("{action} takes no value")));
    }
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(bounded.into()),
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(bounded),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
    })
}

/// Whether calls newer than all that the profile names must look as if the kernel did not have them.
///
/// A profile that forbids by default was written before they existed; a C library takes `ENOSYS` as a
/// reason to fall back to an older call, but `EPERM` or death as a failure. runc does so too.
fn wants_stub(profile: &LinuxSeccomp) -> bool {
    match profile.default_action() {
        LinuxSeccompAction::ScmpActAllow
        | LinuxSeccompAction::ScmpActLog
        | LinuxSeccompAction::ScmpActTrace => false,
        LinuxSeccompAction::ScmpActErrno => {
            profile.default_errno_ret() != Some(Errno::ENOSYS as u32)
        }
        _ => true,
    }
}

/// The highest number of a call that the profile names for this architecture.
fn newest_call(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    profile
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|rule| rule.names())
        .filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok())
        // Negative numbers are libseccomp's own, for calls that this architecture does not have.
        .filter_map(|call| u32::try_from(call.as_raw_syscall()).ok())
        .max()
}

/// Takes the compiled program over. This libseccomp writes it to a descriptor only.
fn export(filter: &ScmpFilterContext) -> Result<Vec<Instruction>, SeccompError> {
    let failed = |error: std::io::Error| {
        SeccompError::Export(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    };
    let memory = memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC).map_err(SeccompError::Export)?;
    filter.export_bpf(&memory).map_err(|cause| SeccompError::Compile {
        at: String::new(),
        step: "compile the filter",
        cause,
    })?;
    let mut file = File::from(memory);
    let mut bytes = Vec::new();
    file.rewind().map_err(failed)?;
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(join::decode(&bytes))
}

/// The specification's architectures and libseccomp's. The specification's values are the numbers by
/// which the kernel tells a filter the architecture, but for x32, which it tells by the call's number.
pub(super) const ARCHITECTURES: [(Arch, ScmpArch); 23] = [
    (Arch::ScmpArchX86, ScmpArch::X86),
    (Arch::ScmpArchX86_64, ScmpArch::X8664),
    (Arch::ScmpArchX32, ScmpArch::X32),
    (Arch::ScmpArchArm, ScmpArch::Arm),
    (Arch::ScmpArchAarch64, ScmpArch::Aarch64),
    (Arch::ScmpArchMips, ScmpArch::Mips),
    (Arch::ScmpArchMips64, ScmpArch::Mips64),
    (Arch::ScmpArchMips64n32, ScmpArch::Mips64N32),
    (Arch::ScmpArchMipsel, ScmpArch::Mipsel),
    (Arch::ScmpArchMipsel64, ScmpArch::Mipsel64),
    (Arch::ScmpArchMipsel64n32, ScmpArch::Mipsel64N32),
    (Arch::ScmpArchPpc, ScmpArch::Ppc),
    (Arch::ScmpArchPpc64, ScmpArch::Ppc64),
    (Arch::ScmpArchPpc64le, ScmpArch::Ppc64Le),
    (Arch::ScmpArchS390, ScmpArch::S390),
    (Arch::ScmpArchS390x, ScmpArch::S390X),
    (Arch::ScmpArchParisc, ScmpArch::Parisc),
    (Arch::ScmpArchParisc64, ScmpArch::Parisc64),
    (Arch::ScmpArchRiscv64, ScmpArch::Riscv64),
    (Arch::ScmpArchLoongarch64, ScmpArch::Loongarch64),
    (Arch::ScmpArchM68k, ScmpArch::M68k),
    (Arch::ScmpArchSh, ScmpArch::Sh),
    (Arch::ScmpArchSheb, ScmpArch::Sheb),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::shorten::shorten;
    use super::super::tests::{Call, X86_64, profile, run};
    use super::*;

    /// Calls with and without conditions on their arguments, as in the default profiles of engines.
    fn default_like() -> LinuxSeccomp {
        let condition = |index: u8, op: &str, value: u64, two: u64| serde_json::json!([{"index": index, "op": op, "value": value, "valueTwo": two}]);
        let plain: Vec<String> = (0..300)
            .filter(|number| number % 17 != 3)
            .filter_map(|number| ScmpSyscall::from(number).get_name().ok())
            .filter(|name| !["clone", "personality", "socket"].contains(&name.as_str()))
            .collect();
        profile(serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                {"names": plain, "action": "SCMP_ACT_ALLOW"},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                 "args": condition(0, "SCMP_CMP_MASKED_EQ", 0x7e02_0000, 0)},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                 "args": condition(0, "SCMP_CMP_EQ", 0x2_0008, 0)},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                 "args": condition(0, "SCMP_CMP_EQ", 0, 0)},
                {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
                 "args": condition(0, "SCMP_CMP_NE", 40, 0)},
                {"names": ["kcmp"], "action": "SCMP_ACT_LOG",
                 "args": condition(2, "SCMP_CMP_GT", 1 << 33, 0)},
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            ],
        }))
    }

    fn long_and_short() -> (Vec<Instruction>, Vec<Instruction>) {
        let profile = default_like();
        let default = ScmpAction::Errno(1);
        let specs = profile.syscalls().as_deref().unwrap();
        let rules: Vec<Rule<'_>> = specs
            .iter()
            .enumerate()
            .map(|(index, spec)| {
                let action = action(spec.action(), spec.errno_ret(), "").unwrap();
                Rule { action, spec, index }
            })
            .collect();
        let long = compile_for((Arch::ScmpArchX86_64, ScmpArch::X8664), default, &rules).unwrap();
        let short = shorten(&long, X86_64, 0, (1 << 30) - 1);
        (long, short)
    }

    #[test]
    fn a_default_profile_becomes_less_than_half_as_long() {
        let (long, short) = long_and_short();

        assert!(2 * short.len() < long.len(), "{} of {}", short.len(), long.len());
    }

    #[test]
    fn the_short_program_decides_every_call_as_the_long_one() {
        let (long, short) = long_and_short();
        let interesting =
            [0, 1, 8, 40, 41, 0x2_0008, 0x1000_0000, 0x7e02_0000, 1 << 32, (1 << 33) + 1, u64::MAX];

        for number in 0..500 {
            for first in interesting {
                for third in [0, 1 << 33, (1 << 33) + 1, u64::MAX] {
                    let call = Call { arch: X86_64, number, args: [first, 0, third, 0, 0, 0] };
                    assert_eq!(run(&short, call), run(&long, call), "{call:?}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn no_number_and_no_argument_tells_them_apart(
            number in 0_u32..1 << 30,
            args in prop::array::uniform6(any::<u64>()),
        ) {
            let (long, short) = long_and_short();
            for number in [number, number % 450] {
                let call = Call { arch: X86_64, number, args };
                prop_assert_eq!(run(&short, call), run(&long, call), "{:?}", call);
            }
        }
    }
}
