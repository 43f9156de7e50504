//! Profiles against a small interpreter of their programs, and against the kernel.

use super::*;
use crate::console::{connect_stream, send_descriptor};
use crate::state_store::OciState;
use proptest::prelude::*;

pub(super) fn profile(json: serde_json::Value) -> LinuxSeccomp {
    serde_json::from_value(json).unwrap()
}

/// A call as the kernel shows it to a filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) arch: u32,
    pub(super) number: u32,
    pub(super) args: [u64; 6],
}

pub(super) const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;

/// Runs a filter as the kernel would, for the instructions that libseccomp and we use.
pub(super) fn run(program: &[Instruction], call: Call) -> u32 {
    let mut data = [0_u32; 16];
    data[0] = call.number;
    data[1] = call.arch;
    for (at, arg) in call.args.iter().enumerate() {
        data[4 + 2 * at] = u32::try_from(arg & 0xffff_ffff).unwrap();
        data[5 + 2 * at] = u32::try_from(arg >> 32).unwrap();
    }
    let (mut at, mut accumulator, mut memory) = (0, 0_u32, [0_u32; 16]);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        let branch = |taken: bool| usize::from(if taken { jt } else { jf });
        let k_index = k as usize;
        match code {
            0x20 => accumulator = data[k_index / 4],
            0x02 => memory[k_index] = accumulator,
            0x60 => accumulator = memory[k_index],
            0x54 => accumulator &= k,
            0x05 => at += k_index,
            0x15 => at += branch(accumulator == k),
            0x25 => at += branch(accumulator > k),
            0x35 => at += branch(accumulator >= k),
            0x06 => return k,
            other => panic!("unknown instruction {other:#x}"),
        }
        at += 1;
    }
}

fn outcome(json: serde_json::Value, call: Call) -> u32 {
    run(&compile::compile(&profile(json)).unwrap(), call)
}

#[test]
fn what_a_filter_lets_pass_is_known_without_running_it() {
    let waiting = [libc::SYS_recvmsg, libc::SYS_close];
    let passes = |rule: serde_json::Value| {
        let json = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        Program::prepare(&profile(json), None).unwrap().lets_pass(&waiting)
    };
    let refuse = |name: &str| serde_json::json!({"names": [name], "action": "SCMP_ACT_ERRNO"});
    assert!(passes(refuse("acct")));
    assert!(!passes(refuse("recvmsg")));
    assert!(!passes(serde_json::json!({"names": ["close"], "action": "SCMP_ACT_LOG"})));
    // It depends on an argument.
    assert!(!passes(serde_json::json!({"names": ["close"], "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_EQ"}]})));

    let json = serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["recvmsg", "close"], "action": "SCMP_ACT_ALLOW"}]});
    let narrow = Program::prepare(&profile(json), None).unwrap();
    assert!(narrow.lets_pass(&waiting));
    assert!(!narrow.lets_pass(&[libc::SYS_accept4]));
}

fn call(arch: u32, number: u32) -> Call {
    Call { arch, number, args: [0; 6] }
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number.unsigned_abs()
}

fn number(name: &str, arch: libseccomp::ScmpArch) -> u32 {
    let call = libseccomp::ScmpSyscall::from_name_by_arch(name, arch).unwrap();
    u32::try_from(call.as_raw_syscall()).unwrap()
}

#[test]
fn every_action_reaches_the_kernel_as_it_is_meant() {
    for (action, value, expected) in [
        ("SCMP_ACT_KILL", None, libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", None, libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", None, KILL),
        ("SCMP_ACT_TRAP", None, libc::SECCOMP_RET_TRAP),
        ("SCMP_ACT_ERRNO", None, errno(libc::EPERM)),
        ("SCMP_ACT_ERRNO", Some(libc::EXDEV), errno(libc::EXDEV)),
        ("SCMP_ACT_ERRNO", Some(0), errno(0)),
        ("SCMP_ACT_TRACE", Some(7), libc::SECCOMP_RET_TRACE | 7),
        ("SCMP_ACT_TRACE", None, libc::SECCOMP_RET_TRACE | 1),
        ("SCMP_ACT_LOG", None, libc::SECCOMP_RET_LOG),
        ("SCMP_ACT_NOTIFY", None, libc::SECCOMP_RET_USER_NOTIF),
    ] {
        let mut rule = serde_json::json!({ "names": ["getcwd"], "action": action });
        if let Some(value) = value {
            rule["errnoRet"] = value.into();
        }
        let json = serde_json::json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
        let getcwd = number("getcwd", libseccomp::ScmpArch::X8664);

        assert_eq!(outcome(json, call(X86_64, getcwd)), expected, "{action} {value:?}");
    }
}

#[test]
fn values_that_an_action_cannot_carry_are_refused() {
    for (action, value) in [
        ("SCMP_ACT_ERRNO", 4096),
        ("SCMP_ACT_TRACE", 65_536),
        ("SCMP_ACT_KILL", 1),
        ("SCMP_ACT_ALLOW", 1),
    ] {
        let json = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["getcwd"], "action": action, "errnoRet": value }],
        });
        let refused = compile::compile(&profile(json)).err().map(|error| error.to_string());
        let refused = refused.unwrap_or_default();
        assert!(refused.starts_with("linux.seccomp.syscalls[0].errnoRet: "), "{action}: {refused}");
    }
}

#[test]
fn operators_compare_all_64_bits() {
    let high = 1_u64 << 40;
    for (op, value, two, arg, matches) in [
        ("SCMP_CMP_EQ", high | 5, None, high | 5, true),
        ("SCMP_CMP_EQ", high | 5, None, 5, false),
        ("SCMP_CMP_NE", 5, None, high | 5, true),
        ("SCMP_CMP_NE", 5, None, 5, false),
        ("SCMP_CMP_LT", 6, None, 5, true),
        ("SCMP_CMP_LT", 6, None, 6, false),
        ("SCMP_CMP_LE", 6, None, 6, true),
        ("SCMP_CMP_LE", 6, None, high, false),
        ("SCMP_CMP_GE", high, None, high, true),
        ("SCMP_CMP_GE", high, None, 7, false),
        ("SCMP_CMP_GT", 6, None, high, true),
        ("SCMP_CMP_GT", 6, None, 6, false),
        ("SCMP_CMP_MASKED_EQ", 0x7e02_0000, Some(0), 0x11, true),
        ("SCMP_CMP_MASKED_EQ", 0x7e02_0000, Some(0), 0x2000_0000, false),
        ("SCMP_CMP_MASKED_EQ", 0xf, Some(3), 0x13, true),
    ] {
        let json = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [
                { "index": 2, "value": value, "valueTwo": two, "op": op },
            ] }],
        });
        let mut call = call(X86_64, number("clone", libseccomp::ScmpArch::X8664));
        call.args[2] = arg;

        let expected = if matches { errno(libc::EPERM) } else { ALLOW };
        assert_eq!(outcome(json, call), expected, "{op} {value:#x} {arg:#x}");
    }
}

#[test]
fn different_arguments_are_all_needed_and_repeated_ones_any() {
    for (indexes, args, matches) in [
        ([0, 1], [1, 2, 0, 0, 0, 0], true),
        ([0, 1], [1, 0, 0, 0, 0, 0], false),
        ([0, 0], [1, 0, 0, 0, 0, 0], true),
        ([0, 0], [2, 0, 0, 0, 0, 0], true),
        ([0, 0], [3, 0, 0, 0, 0, 0], false),
    ] {
        let json = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["dup2"], "action": "SCMP_ACT_ERRNO", "args": [
                { "index": indexes[0], "value": 1, "op": "SCMP_CMP_EQ" },
                { "index": indexes[1], "value": 2, "op": "SCMP_CMP_EQ" },
            ] }],
        });
        let number = number("dup2", libseccomp::ScmpArch::X8664);

        let expected = if matches { errno(libc::EPERM) } else { ALLOW };
        let outcome = outcome(json, Call { arch: X86_64, number, args });
        assert_eq!(outcome, expected, "{indexes:?} {args:?}");
    }
}

#[test]
fn an_argument_beyond_the_sixth_is_refused() {
    let json = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["dup2"], "action": "SCMP_ACT_ERRNO", "args": [
            { "index": 6, "value": 1, "op": "SCMP_CMP_EQ" },
        ] }],
    });

    let refused = compile::compile(&profile(json)).err().map(|error| error.to_string());

    let expected = "linux.seccomp.syscalls[0].args: index 6 is beyond the 6 arguments of a call";
    assert_eq!(refused.as_deref(), Some(expected));
}

#[test]
fn unknown_calls_are_skipped() {
    let json = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["no_such_call", "getcwd"], "action": "SCMP_ACT_ERRNO" }],
    });

    let getcwd = number("getcwd", libseccomp::ScmpArch::X8664);

    assert_eq!(outcome(json, call(X86_64, getcwd)), errno(libc::EPERM));
}

#[test]
fn calls_newer_than_the_profile_look_absent_unless_it_says_so_itself() {
    for (default, value, expected) in [
        ("SCMP_ACT_ERRNO", None, errno(libc::ENOSYS)),
        ("SCMP_ACT_ERRNO", Some(libc::EACCES), errno(libc::ENOSYS)),
        ("SCMP_ACT_ERRNO", Some(libc::ENOSYS), errno(libc::ENOSYS)),
        ("SCMP_ACT_KILL_PROCESS", None, errno(libc::ENOSYS)),
        ("SCMP_ACT_LOG", None, libc::SECCOMP_RET_LOG),
        ("SCMP_ACT_ALLOW", None, ALLOW),
    ] {
        let rule_action =
            if default == "SCMP_ACT_ALLOW" { "SCMP_ACT_ERRNO" } else { "SCMP_ACT_ALLOW" };
        let mut json = serde_json::json!({
            "defaultAction": default,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{ "names": ["read", "openat2"], "action": rule_action }],
        });
        if let Some(value) = value {
            json["defaultErrnoRet"] = value.into();
        }
        let program = compile::compile(&profile(json)).unwrap();

        for arch in [X86_64, X86] {
            assert_eq!(run(&program, call(arch, 9999)), expected, "{default} {arch:#x}");
        }
        assert_eq!(run(&program, call(X86_64, X32_BIT | 9999)), expected, "{default} x32");
    }
}

#[test]
fn architectures_that_are_not_named_are_killed() {
    let json = serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW" }],
    });
    let program = compile::compile(&profile(json)).unwrap();

    assert_eq!(run(&program, call(X86_64, 0)), ALLOW);
    assert_eq!(run(&program, call(X86, 3)), KILL);
    assert_eq!(run(&program, call(X86_64, X32_BIT)), KILL);
    assert_eq!(run(&program, call(0xc000_00b7, 63)), KILL);
}

/// libseccomp's own program for all architectures at once.
fn in_one_piece(profile: &LinuxSeccomp) -> Vec<Instruction> {
    use libseccomp::{ScmpAction, ScmpArch, ScmpFilterContext, ScmpSyscall};
    let mut filter = ScmpFilterContext::new(ScmpAction::Errno(libc::EPERM)).unwrap();
    filter.set_ctl_optimize(2).unwrap();
    filter.add_arch(ScmpArch::X86).unwrap().add_arch(ScmpArch::X32).unwrap();
    for rule in profile.syscalls().iter().flatten() {
        for name in rule.names() {
            let call = ScmpSyscall::from_name(name).unwrap();
            filter.add_rule(ScmpAction::Allow, call).unwrap();
        }
    }
    let mut file = tempfile::tempfile().unwrap();
    filter.export_bpf(&file).unwrap();
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    join::decode(&bytes)
}

/// Not among them: sockets and System V's calls, whose direct numbers on x86 libseccomp 2.5 leaves out
/// when it compiles several architectures at once.
const SOME_CALLS: [&str; 8] =
    ["read", "mmap", "getcwd", "openat2", "_llseek", "clone", "time", "statx"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn joined_programs_decide_as_libseccomp_does_for_all_at_once(
        names in prop::sample::subsequence(SOME_CALLS.to_vec(), 1..8),
        first_arg in 0_u64..20,
    ) {
        let json = serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }],
        });
        let profile = profile(json);
        let ours = compile::compile(&profile).unwrap();
        let theirs = in_one_piece(&profile);

        for arch in [X86_64, X86] {
            for number in (0..460).chain((0..560).map(|number| number | X32_BIT)) {
                let call = Call { arch, number, args: [first_arg, 0, 0, 0, 0, 0] };
                let (ours, theirs) = (run(&ours, call), run(&theirs, call));
                // Beyond the newest call that is named, ours says ENOSYS.
                if ours != errno(libc::ENOSYS) {
                    prop_assert_eq!(ours, theirs, "{:?}", call);
                } else {
                    prop_assert_eq!(theirs, errno(libc::EPERM), "{:?}", call);
                }
            }
        }
    }
}

#[test]
fn the_kernel_enforces_a_loaded_program_from_the_cache_as_well() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let profile = profile(serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ESTALE }],
    }));

    for round in ["compiled", "cached"] {
        let program = Program::prepare(&profile, Some(dir.path())).unwrap();
        // A filter belongs to a thread: this one is thrown away afterwards.
        let answer = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sys::prctl::set_no_new_privs().unwrap();
                assert!(program.load().unwrap().is_none());
                rustix::process::getpriority_process(None)
            });
            thread.join().unwrap()
        });
        assert_eq!(answer.unwrap_err().raw_os_error(), libc::ESTALE, "{round}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{round}");
    }
}

#[test]
fn an_agent_gets_the_descriptor_and_decides() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let agent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let profile = profile(serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path,
        "listenerMetadata": "for the agent",
        "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{ "names": ["getpriority"], "action": "SCMP_ACT_NOTIFY" }],
    }));
    let mut program = Program::prepare(&profile, None).unwrap();
    // This test process has threads that must stay as they are.
    program.flags &= !(flag::TSYNC | flag::TSYNC_ESRCH);
    let listener = program.listener().unwrap().clone();

    let listening = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            program.load().unwrap().unwrap()
        });
        thread.join().unwrap()
    });
    let annotations = std::collections::HashMap::new();
    let bundle = std::path::Path::new("/bundle");
    let state = OciState { oci_version: "1.3.0", id: "c1", bundle, annotations: &annotations };
    let socket = connect_stream(&listener.path).unwrap();
    send_descriptor(&socket, &state.process_state(77, Some(&program)), &listening).unwrap();

    let (stream, _) = agent.accept().unwrap();
    let mut buffer = [0_u8; 4096];
    let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let message = nix::sys::socket::recvmsg::<nix::sys::socket::UnixAddr>(
        std::os::fd::AsRawFd::as_raw_fd(&stream),
        &mut parts,
        Some(&mut space),
        nix::sys::socket::MsgFlags::empty(),
    )
    .unwrap();
    let descriptors = message.cmsgs().unwrap().count();
    let length = message.bytes;
    let state: serde_json::Value = serde_json::from_slice(&buffer[..length]).unwrap();

    assert_eq!(descriptors, 1);
    assert_eq!(state["fds"], serde_json::json!(["seccompFd"]));
    assert_eq!(state["pid"], 77);
    assert_eq!(state["metadata"], "for the agent");
    assert_eq!(state["state"]["id"], "c1");
}

#[test]
fn notifications_that_nobody_could_answer_are_refused() {
    for (json, at) in [
        (serde_json::json!({ "defaultAction": "SCMP_ACT_NOTIFY" }), ".defaultAction"),
        (
            serde_json::json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a", "syscalls": [
                { "names": ["read", "write"], "action": "SCMP_ACT_NOTIFY" } ] }),
            ".syscalls[0]",
        ),
        (
            serde_json::json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                { "names": ["read"], "action": "SCMP_ACT_NOTIFY" } ] }),
            ".listenerPath",
        ),
    ] {
        let refused = Program::prepare(&profile(json), None).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("linux.seccomp{at}: ")), "{refused}");
    }
}
