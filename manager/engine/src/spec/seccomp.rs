//! The default allow-list of system calls (runtime-spec, config-linux.md, “Seccomp”).
//!
//! The list itself is data, in `seccomp.rules`, so that it can be read and compared. Invariant: the
//! same capabilities give the same bytes, since runtimes cache compiled filters by their content.

use std::sync::LazyLock;

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

/// The list, as text.
const RULES: &str = include_str!("seccomp.rules");

/// `EPERM`, for every system call that is not on the list.
const DEFAULT_ERRNO: u32 = 1;

/// The list, parsed. A mistake in it is found by the tests below, not by a user.
static SECTIONS: LazyLock<Vec<Section>> = LazyLock::new(|| parse(RULES).unwrap_or_default());

/// When a section counts.
#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Always,
    Has(Capability),
    Lacks(Capability),
    Architecture(String),
}

/// What the list says of one or more system calls.
#[derive(Debug, Clone, PartialEq)]
enum Rule {
    Allow(Vec<String>),
    AllowIf { name: String, arg: LinuxSeccompArg },
    Fail { name: String, errno: u32 },
}

#[derive(Debug, Clone, PartialEq)]
struct Section {
    condition: Condition,
    rules: Vec<Rule>,
}

/// A line of the list that does not follow its grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number} of the system call list: {line:?}")]
struct Malformed {
    number: usize,
    line: String,
}

/// Returns the filter for a container with these capabilities on the host's architecture.
pub fn default_filter(capabilities: &Capabilities) -> LinuxSeccomp {
    let host = architecture();
    let mut allowed: Vec<String> = Vec::new();
    let mut special = Vec::new();
    for section in SECTIONS.iter().filter(|section| section.counts(capabilities, host)) {
        for rule in &section.rules {
            match rule {
                Rule::Allow(names) => allowed.extend(names.iter().cloned()),
                Rule::AllowIf { name, arg } => special.push(syscall(
                    vec![name.clone()],
                    LinuxSeccompAction::ScmpActAllow,
                    None,
                    Some(*arg),
                )),
                Rule::Fail { name, errno } => special.push(syscall(
                    vec![name.clone()],
                    LinuxSeccompAction::ScmpActErrno,
                    Some(*errno),
                    None,
                )),
            }
        }
    }
    allowed.sort_unstable();
    allowed.dedup();
    let mut syscalls = vec![syscall(allowed, LinuxSeccompAction::ScmpActAllow, None, None)];
    syscalls.append(&mut special);

    let mut filter = LinuxSeccomp::default();
    filter
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(DEFAULT_ERRNO))
        .set_architectures(Some(architectures(host)))
        .set_syscalls(Some(syscalls));
    filter
}

impl Section {
    fn counts(&self, capabilities: &Capabilities, host: &str) -> bool {
        match &self.condition {
            Condition::Always => true,
            Condition::Has(capability) => capabilities.contains(capability),
            Condition::Lacks(capability) => !capabilities.contains(capability),
            Condition::Architecture(name) => name == host,
        }
    }
}

/// The host's architecture, as GOARCH has it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The machine's own architecture, and the one whose programs it runs besides. x32, which Docker
/// lets in, is left out: nobody ships programs for it, and it doubles the filter.
fn architectures(host: &str) -> Vec<Arch> {
    match host {
        "amd64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
        "arm64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        "riscv64" => vec![Arch::ScmpArchRiscv64],
        "ppc64le" => vec![Arch::ScmpArchPpc64le],
        "s390x" => vec![Arch::ScmpArchS390x, Arch::ScmpArchS390],
        _ => vec![Arch::ScmpArchNative],
    }
}

fn syscall(
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    arg: Option<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall
        .set_names(names)
        .set_action(action)
        .set_errno_ret(errno)
        .set_args(arg.map(|arg| vec![arg]));
    syscall
}

fn parse(text: &str) -> Result<Vec<Section>, Malformed> {
    let mut sections: Vec<Section> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let malformed = || Malformed { number: index + 1, line: line.to_owned() };
        if words.is_empty() || words[0].starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            let condition = parse_condition(line).ok_or_else(malformed)?;
            sections.push(Section { condition, rules: Vec::new() });
            continue;
        }
        let section = sections.last_mut().ok_or_else(malformed)?;
        section.rules.push(parse_rule(&words).ok_or_else(malformed)?);
    }
    Ok(sections)
}

fn parse_condition(line: &str) -> Option<Condition> {
    let inner = line.strip_prefix('[')?.strip_suffix(']')?;
    match inner.split_once(' ') {
        None if inner == "always" => Some(Condition::Always),
        Some(("cap", name)) => super::capabilities::parse(name).map(Condition::Has),
        Some(("without", name)) => super::capabilities::parse(name).map(Condition::Lacks),
        Some(("arch", name)) => Some(Condition::Architecture(name.to_owned())),
        _ => None,
    }
}

fn parse_rule(words: &[&str]) -> Option<Rule> {
    match words {
        [name, "if", arg, operator, value] => {
            let value: u64 = value.parse().ok()?;
            let builder = LinuxSeccompArgBuilder::default()
                .index(arg.strip_prefix("arg")?.parse::<usize>().ok()?);
            let builder = match *operator {
                "==" => builder.value(value).op(LinuxSeccompOperator::ScmpCmpEq),
                "<" => builder.value(value).op(LinuxSeccompOperator::ScmpCmpLt),
                // In the OCI format the mask is `value`, and what must be left `valueTwo`.
                "&" => {
                    builder.value(value).value_two(0_u64).op(LinuxSeccompOperator::ScmpCmpMaskedEq)
                }
                _ => return None,
            };
            Some(Rule::AllowIf { name: (*name).to_owned(), arg: builder.build().ok()? })
        }
        [name, "fails", errno] => {
            Some(Rule::Fail { name: (*name).to_owned(), errno: errno.parse().ok()? })
        }
        names => {
            let valid = names.iter().all(|name| {
                name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
            });
            valid.then(|| Rule::Allow(names.iter().map(|name| (*name).to_owned()).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::capabilities;

    fn allows(filter: &LinuxSeccomp, name: &str) -> bool {
        filter.syscalls().as_ref().unwrap().iter().any(|syscall| {
            syscall.action() == LinuxSeccompAction::ScmpActAllow
                && syscall.args().is_none()
                && syscall.names().iter().any(|allowed| allowed == name)
        })
    }

    #[test]
    fn the_list_parses() {
        let sections = parse(RULES).unwrap();

        assert!(sections.len() > 10);
        assert_eq!(sections[0].condition, Condition::Always);
    }

    #[test]
    fn what_reaches_past_the_container_is_not_allowed_by_default() {
        let filter = default_filter(&capabilities::defaults());

        let refused = [
            "mount",
            "umount2",
            "unshare",
            "setns",
            "bpf",
            "init_module",
            "kexec_load",
            "reboot",
            "ptrace_none",
            "keyctl",
            "add_key",
            "request_key",
            "io_uring_setup",
            "io_uring_enter",
            "userfaultfd",
            "open_by_handle_at",
            "perf_event_open",
            "swapon",
            "pivot_root",
            "clock_settime",
            "socketcall",
            "quotactl",
            "nfsservctl",
            "vm86",
            "clone",
            "clone3",
            "socket",
            "personality",
            "iopl",
            "syslog",
            "acct",
            "kcmp",
            "lookup_dcookie",
        ];
        for name in refused {
            assert!(!allows(&filter, name), "{name}");
        }
        for name in ["read", "openat", "execve", "chroot", "ptrace", "futex"] {
            assert!(allows(&filter, name), "{name}");
        }
    }

    #[test]
    fn a_capability_brings_its_system_calls() {
        let mut more = capabilities::defaults();
        more.insert(Capability::SysAdmin);

        let filter = default_filter(&more);

        assert!(allows(&filter, "mount") && allows(&filter, "clone3"));
        assert!(!allows(&filter, "reboot"));
    }

    #[test]
    fn new_namespaces_need_a_capability() {
        let filter = default_filter(&capabilities::defaults());
        let json = serde_json::to_value(&filter).unwrap();

        let rule = json["syscalls"]
            .as_array()
            .unwrap()
            .iter()
            .find(|syscall| syscall["names"][0] == "clone")
            .unwrap();
        assert_eq!(rule["args"][0]["value"], 0x7e02_0000);
        assert_eq!(rule["args"][0]["valueTwo"], 0);
        assert_eq!(rule["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
    }

    #[test]
    fn the_same_capabilities_give_the_same_bytes() {
        let one = serde_json::to_string(&default_filter(&capabilities::defaults())).unwrap();
        let other = serde_json::to_string(&default_filter(&capabilities::defaults())).unwrap();

        assert_eq!(one, other);
    }

    #[test]
    fn malformed_lists_are_refused_with_their_line() {
        for text in
            ["read", "[sometimes]", "[cap CAP_NONE]", "[always]\nx if arg0 > 1", "[always]\nRead"]
        {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert_eq!(parse("[always]\n\nRead").unwrap_err().number, 3);
    }
}
