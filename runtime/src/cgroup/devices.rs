//! Which devices the processes of a container may open and make.
//!
//! The rules of a bundle are a history: each changes what the ones before it allowed. Both kernels'
//! interfaces want the outcome instead, a default and the exceptions from it. [`Policy`] is that
//! outcome; v1 gets it by `devices.allow` and `devices.deny`, v2 as a small program in eBPF.
//!
//! Invariant: an exception never loses a part of what it covers. A rule that would cut a hole into
//! an earlier, wider one is refused, since v1 cannot express it (it would silently do nothing).

use nix::errno::Errno;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::dir::Dir;
use super::error::CgroupError;
use crate::sys::bpf::{self, Instruction};

/// Block or character device; the values are the kernel's `BPF_DEVCG_DEV_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Block = 1,
    Char = 2,
}

/// What may be done with a device; the bits are the kernel's `BPF_DEVCG_ACC_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Access(u8);

impl Access {
    const MKNOD: Self = Self(1);
    const ALL: Self = Self(7);

    fn parse(text: &str) -> Option<Self> {
        text.bytes()
            .try_fold(0, |bits, byte| match byte {
                b'm' => Some(bits | 1),
                b'r' => Some(bits | 2),
                b'w' => Some(bits | 4),
                // Some bundles write "rwa"; runc passes over it.
                b'a' => Some(bits),
                _ => None,
            })
            .map(Self)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// A set of devices: a kind, and numbers of which `None` means any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Devices {
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
}

impl Devices {
    fn all(kind: Kind) -> Self {
        Self { kind, major: None, minor: None }
    }

    fn covers(self, other: Self) -> bool {
        self.kind == other.kind
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
    }

    fn meets(self, other: Self) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && meet(self.major, other.major) && meet(self.minor, other.minor)
    }
}

/// A default for all devices, and the exceptions from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    allow: bool,
    /// In the order of the rules, in which v1 lists them.
    exceptions: Vec<(Devices, Access)>,
}

/// What every container may use, whatever its bundle says (runtime-spec, config-linux.md, “Default
/// Devices”): null, zero, full, random, urandom, tty, ptmx, pseudo-terminals. Beyond the specification,
/// as every runtime has it: /dev/net/tun, which programs for private networks expect to open once it is
/// bound into their container; only who rules its network namespace can make anything by it. Any
/// device node may be made, since making one gives no access to it.
const DEFAULT_CHAR_DEVICES: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (10, Some(200)),
    (136, None),
];

impl Policy {
    /// Plays the rules of a bundle, then allows what every container may use. What no rule
    /// mentions is denied.
    ///
    /// # Errors
    /// [`CgroupError::DeviceRule`] for a rule that makes no sense or cannot be expressed.
    pub(super) fn from_rules(rules: &[LinuxDeviceCgroup]) -> Result<Self, CgroupError> {
        let mut policy = Self { allow: false, exceptions: Vec::new() };
        for (index, rule) in rules.iter().enumerate() {
            policy.play(rule).map_err(|why| CgroupError::DeviceRule { index, why })?;
        }
        for kind in [Kind::Block, Kind::Char] {
            policy.permit(Devices::all(kind), Access::MKNOD);
        }
        for (major, minor) in DEFAULT_CHAR_DEVICES {
            let devices = Devices { kind: Kind::Char, major: Some(major), minor };
            policy.permit(devices, Access::ALL);
        }
        Ok(policy)
    }

    fn play(&mut self, rule: &LinuxDeviceCgroup) -> Result<(), &'static str> {
        let major = parse_number(rule.major())?;
        let minor = parse_number(rule.minor())?;
        let access = Access::parse(rule.access().as_deref().unwrap_or("rwm"))
            .ok_or("access is made of the letters r, w and m")?;
        let access = if access.is_empty() { Access::ALL } else { access };
        let kinds: &[Kind] = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => &[Kind::Block, Kind::Char],
            LinuxDeviceType::B => &[Kind::Block],
            LinuxDeviceType::C | LinuxDeviceType::U => &[Kind::Char],
            LinuxDeviceType::P => return Err("a FIFO is no device: use the type a, b or c"),
        };
        if kinds.len() == 2 && major.is_none() && minor.is_none() && access == Access::ALL {
            *self = Self { allow: rule.allow(), exceptions: Vec::new() };
            return Ok(());
        }
        for &kind in kinds {
            let devices = Devices { kind, major, minor };
            if rule.allow() == self.allow {
                self.revoke(devices, access)?;
            } else {
                self.except(devices, access);
            }
        }
        Ok(())
    }

    /// Adds a permission on top of everything else; where it is given already, nothing changes.
    fn permit(&mut self, devices: Devices, access: Access) {
        if self.allow {
            // Exceptions deny; what they deny of the defaults is denied on purpose (`allow a`, then
            // `deny`), and v1 could not cut the default out of a wider one either.
            return;
        }
        self.except(devices, access);
    }

    fn except(&mut self, devices: Devices, access: Access) {
        match self.exceptions.iter_mut().find(|(excepted, _)| *excepted == devices) {
            Some((_, granted)) => *granted = granted.or(access),
            None => self.exceptions.push((devices, access)),
        }
    }

    /// Takes exceptions back, as a rule demands that agrees with the default.
    fn revoke(&mut self, devices: Devices, access: Access) -> Result<(), &'static str> {
        for (excepted, granted) in &mut self.exceptions {
            if devices.covers(*excepted) {
                *granted = granted.without(access);
            } else if devices.meets(*excepted) && !granted.and(access).is_empty() {
                return Err("would cut a hole into an earlier rule that covers more devices; \
                            put the narrow devices into rules of their own");
            }
        }
        self.exceptions.retain(|(_, granted)| !granted.is_empty());
        Ok(())
    }

    /// Writes the policy into v1's controller.
    pub(super) fn write_v1(&self, dir: &Dir) -> Result<(), CgroupError> {
        let (reset, except) = if self.allow {
            ("devices.allow", "devices.deny")
        } else {
            ("devices.deny", "devices.allow")
        };
        dir.write(reset, "a")?;
        let lines: Vec<String> =
            self.exceptions.iter().map(|(devices, access)| v1_line(*devices, *access)).collect();
        dir.write_each(except, &lines)
    }

    /// Attaches the policy to a cgroup of v2, in the place of an earlier one.
    pub(super) fn attach_v2(&self, dir: &Dir) -> Result<(), CgroupError> {
        let failed = |step| {
            let dir = dir.path().to_owned();
            move |errno| CgroupError::DeviceFilter { step, dir, errno }
        };
        let program = bpf::load_device_filter(&self.program()).map_err(failed("load"))?;
        let attached = bpf::attached_device_filters(dir.fd()).map_err(failed("look up"))?;
        let program = std::os::fd::AsFd::as_fd(&program);
        if let [only] = attached.as_slice() {
            let only = std::os::fd::AsFd::as_fd(only);
            match bpf::attach_device_filter(dir.fd(), program, Some(only)) {
                // Before Linux 5.6 nothing can be replaced: attach, then take the old one off.
                Err(Errno::EINVAL) => {}
                outcome => return outcome.map_err(failed("replace")),
            }
        }
        bpf::attach_device_filter(dir.fd(), program, None).map_err(failed("attach"))?;
        for old in &attached {
            bpf::detach_device_filter(dir.fd(), std::os::fd::AsFd::as_fd(old))
                .map_err(failed("detach the old one from"))?;
        }
        Ok(())
    }

    /// The policy as a program: for each exception, jump to the next unless everything matches.
    fn program(&self) -> Vec<Instruction> {
        let mut program = vec![
            asm::load_word(asm::KIND, 0),
            asm::move_register(asm::ACCESS, asm::KIND),
            asm::and(asm::KIND, 0xffff),
            asm::shift_right(asm::ACCESS, 16),
            asm::load_word(asm::MAJOR, 4),
            asm::load_word(asm::MINOR, 8),
        ];
        for (devices, access) in &self.exceptions {
            program.extend(self.exception(*devices, *access));
        }
        program.extend([asm::result(self.allow), asm::exit()]);
        program
    }

    fn exception(&self, devices: Devices, access: Access) -> Vec<Instruction> {
        let mut tests = vec![asm::unless_equal(asm::KIND, devices.kind as u32)];
        if self.allow {
            // Denied if anything of what is asked for is excepted.
            tests.push(asm::move_register(asm::SCRATCH, asm::ACCESS));
            tests.push(asm::and(asm::SCRATCH, i32::from(access.0)));
            tests.push(asm::if_equal(asm::SCRATCH, 0));
        } else if access != Access::ALL {
            // Allowed only if all that is asked for is excepted.
            tests.push(asm::move_register(asm::SCRATCH, asm::ACCESS));
            tests.push(asm::and(asm::SCRATCH, i32::from(!access.0)));
            tests.push(asm::unless_equal(asm::SCRATCH, 0));
        }
        if let Some(major) = devices.major {
            tests.push(asm::unless_equal(asm::MAJOR, major));
        }
        if let Some(minor) = devices.minor {
            tests.push(asm::unless_equal(asm::MINOR, minor));
        }
        tests.extend([asm::result(!self.allow), asm::exit()]);
        asm::jump_to_end(&mut tests);
        tests
    }
}

fn v1_line(devices: Devices, access: Access) -> String {
    let kind = match devices.kind {
        Kind::Block => 'b',
        Kind::Char => 'c',
    };
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let (major, minor) = (number(devices.major), number(devices.minor));
    let access: String = [('r', 2), ('w', 4), ('m', 1)]
        .into_iter()
        .filter_map(|(letter, bit)| (access.0 & bit != 0).then_some(letter))
        .collect();
    format!("{kind} {major}:{minor} {access}")
}

/// A number of a rule; absent and -1 mean any.
fn parse_number(number: Option<i64>) -> Result<Option<u32>, &'static str> {
    match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| "major and minor are numbers of a device, or -1 for any"),
    }
}

/// The few instructions of eBPF that the filter is made of.
mod asm {
    use super::Instruction;

    /// Where the kernel passes the request: `struct bpf_cgroup_dev_ctx`.
    const CONTEXT: u8 = 1;
    const RESULT: u8 = 0;
    pub(super) const KIND: u8 = 2;
    pub(super) const ACCESS: u8 = 3;
    pub(super) const MAJOR: u8 = 4;
    pub(super) const MINOR: u8 = 5;
    pub(super) const SCRATCH: u8 = 6;

    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const MOVE_REGISTER: u8 = 0xbc;
    pub(super) const MOVE_IMMEDIATE: u8 = 0xb4;
    pub(super) const AND_IMMEDIATE: u8 = 0x54;
    pub(super) const SHIFT_RIGHT: u8 = 0x74;
    pub(super) const JUMP_EQUAL: u8 = 0x16;
    pub(super) const JUMP_NOT_EQUAL: u8 = 0x56;
    pub(super) const EXIT: u8 = 0x95;

    fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction { code, registers: to | from << 4, offset, immediate }
    }

    pub(super) fn load_word(to: u8, offset: i16) -> Instruction {
        instruction(LOAD_WORD, to, CONTEXT, offset, 0)
    }

    pub(super) fn move_register(to: u8, from: u8) -> Instruction {
        instruction(MOVE_REGISTER, to, from, 0, 0)
    }

    pub(super) fn and(register: u8, mask: i32) -> Instruction {
        instruction(AND_IMMEDIATE, register, 0, 0, mask)
    }

    pub(super) fn shift_right(register: u8, bits: i32) -> Instruction {
        instruction(SHIFT_RIGHT, register, 0, 0, bits)
    }

    /// Leaves the block unless a register holds `value`, compared as 32 bits (Linux 5.1).
    pub(super) fn unless_equal(register: u8, value: u32) -> Instruction {
        instruction(JUMP_NOT_EQUAL, register, 0, 0, value.cast_signed())
    }

    /// Leaves the block if a register holds `value`.
    pub(super) fn if_equal(register: u8, value: u32) -> Instruction {
        instruction(JUMP_EQUAL, register, 0, 0, value.cast_signed())
    }

    pub(super) fn result(allow: bool) -> Instruction {
        instruction(MOVE_IMMEDIATE, RESULT, 0, 0, i32::from(allow))
    }

    pub(super) fn exit() -> Instruction {
        instruction(EXIT, 0, 0, 0, 0)
    }

    /// Aims every jump of a block behind its end.
    pub(super) fn jump_to_end(block: &mut [Instruction]) {
        let length = block.len();
        for (at, instruction) in block.iter_mut().enumerate() {
            if matches!(instruction.code, JUMP_EQUAL | JUMP_NOT_EQUAL) {
                // A block has at most ten instructions.
                instruction.offset = i16::try_from(length - at - 1).unwrap_or(i16::MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(allow: bool, kind: &str, numbers: [Option<i64>; 2], access: &str) -> LinuxDeviceCgroup {
        let [major, minor] = numbers;
        serde_json::from_value(serde_json::json!({
            "allow": allow, "type": kind, "major": major, "minor": minor, "access": access,
        }))
        .unwrap()
    }

    /// Runs the program as the kernel would.
    fn run(program: &[Instruction], kind: Kind, access: Access, numbers: [u32; 2]) -> bool {
        let context = [u32::from(access.0) << 16 | kind as u32, numbers[0], numbers[1]];
        let mut registers = [0_u32; 11];
        let mut at = 0;
        loop {
            let Instruction { code, registers: fields, offset, immediate } = program[at];
            let (to, from) = (usize::from(fields & 15), usize::from(fields >> 4));
            let value = immediate.cast_unsigned();
            let jump = |taken: bool| if taken { offset.cast_unsigned().into() } else { 0_usize };
            match code {
                asm::LOAD_WORD => registers[to] = context[usize::try_from(offset).unwrap() / 4],
                asm::MOVE_REGISTER => registers[to] = registers[from],
                asm::MOVE_IMMEDIATE => registers[to] = value,
                asm::AND_IMMEDIATE => registers[to] &= value,
                asm::SHIFT_RIGHT => registers[to] >>= value,
                asm::JUMP_EQUAL => at += jump(registers[to] == value),
                asm::JUMP_NOT_EQUAL => at += jump(registers[to] != value),
                asm::EXIT => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            }
            at += 1;
        }
    }

    /// What v1's controller answers (security/device_cgroup.c): one exception must cover a
    /// permission whole, and a denial counts as soon as it touches.
    fn model(policy: &Policy, kind: Kind, access: Access, numbers: [u32; 2]) -> bool {
        let asked = Devices { kind, major: Some(numbers[0]), minor: Some(numbers[1]) };
        let excepted = policy.exceptions.iter().any(|(devices, granted)| {
            devices.covers(asked)
                && if policy.allow {
                    !granted.and(access).is_empty()
                } else {
                    access.without(*granted).is_empty()
                }
        });
        excepted != policy.allow
    }

    #[test]
    fn without_rules_only_the_defaults_are_allowed() {
        let program = Policy::from_rules(&[]).unwrap().program();

        for (kind, access, numbers, allowed) in [
            (Kind::Char, Access::ALL, [1, 3], true),
            (Kind::Char, Access::ALL, [136, 77], true),
            (Kind::Char, Access(2), [1, 1], false),
            (Kind::Char, Access::MKNOD, [1, 1], true),
            (Kind::Block, Access::MKNOD, [8, 0], true),
            (Kind::Block, Access(2), [8, 0], false),
            (Kind::Char, Access(6), [10, 200], true),
            (Kind::Char, Access(2), [10, 229], false),
        ] {
            assert_eq!(run(&program, kind, access, numbers), allowed, "{kind:?} {numbers:?}");
        }
    }

    #[test]
    fn a_later_rule_changes_an_earlier_one() {
        let rules = [
            rule(true, "c", [Some(10), Some(229)], "rwm"),
            rule(false, "c", [Some(10), None], "w"),
        ];

        let policy = Policy::from_rules(&rules).unwrap();

        let lines: Vec<_> =
            policy.exceptions.iter().map(|(devices, access)| v1_line(*devices, *access)).collect();
        assert!(lines.contains(&"c 10:229 rm".to_owned()), "{lines:?}");
    }

    #[test]
    fn a_rule_without_a_type_never_allows_more_than_its_numbers() {
        let rules = [rule(true, "a", [Some(10), Some(200)], "rwm")];

        let program = Policy::from_rules(&rules).unwrap().program();

        assert!(run(&program, Kind::Char, Access(6), [10, 200]));
        assert!(run(&program, Kind::Block, Access(6), [10, 200]));
        assert!(!run(&program, Kind::Char, Access(2), [1, 1]));
    }

    #[test]
    fn a_hole_in_a_wider_rule_is_refused() {
        let rules =
            [rule(true, "c", [Some(10), None], "rw"), rule(false, "c", [Some(10), Some(1)], "r")];

        let refused = Policy::from_rules(&rules).unwrap_err();

        assert!(matches!(refused, CgroupError::DeviceRule { index: 1, .. }), "{refused}");
    }

    #[test]
    fn nonsense_is_refused_with_its_position() {
        for bad in [
            rule(true, "c", [Some(-2), None], "r"),
            rule(true, "c", [Some(1 << 40), None], "r"),
            rule(true, "c", [None, None], "rx"),
            rule(true, "p", [None, None], "r"),
        ] {
            let rules = [rule(false, "a", [None, None], "rwm"), bad];
            let refused = Policy::from_rules(&rules).unwrap_err();
            assert!(matches!(refused, CgroupError::DeviceRule { index: 1, .. }), "{refused}");
        }
    }

    fn any_rule() -> impl Strategy<Value = LinuxDeviceCgroup> {
        let number = || prop_oneof![Just(None), Just(Some(-1)), (0_i64..4).prop_map(Some)];
        (any::<bool>(), "[abc]", number(), number(), "[rwm]{0,3}").prop_map(
            |(allow, kind, major, minor, access)| rule(allow, &kind, [major, minor], &access),
        )
    }

    proptest! {
        #[test]
        fn the_program_answers_as_v1_does(
            rules in prop::collection::vec(any_rule(), 0..8),
            char_device in any::<bool>(),
            access in 1_u8..8,
            numbers in [0_u32..5, 0_u32..5],
        ) {
            let kind = if char_device { Kind::Char } else { Kind::Block };
            if let Ok(policy) = Policy::from_rules(&rules) {
                prop_assert_eq!(
                    run(&policy.program(), kind, Access(access), numbers),
                    model(&policy, kind, Access(access), numbers)
                );
            }
        }

        #[test]
        fn the_last_rule_that_names_a_device_decides(
            rules in prop::collection::vec(any_rule(), 0..8),
            numbers in [2_u32..5, 0_u32..5],
        ) {
            // Major numbers from 2 to 4 belong to no default; reading is one bit, so no two
            // exceptions must come together.
            if let Ok(policy) = Policy::from_rules(&rules) {
                let read = Access(2);
                let asked = Devices { kind: Kind::Char, major: Some(numbers[0]), minor: Some(numbers[1]) };
                let last = rules.iter().rev().find(|rule| {
                    let access = rule.access().clone().unwrap_or_default();
                    let devices = Devices {
                        kind: Kind::Char,
                        major: parse_number(rule.major()).unwrap(),
                        minor: parse_number(rule.minor()).unwrap(),
                    };
                    rule.typ() != Some(LinuxDeviceType::B)
                        && (access.is_empty() || access.contains('r'))
                        && devices.covers(asked)
                });
                let allowed = last.is_some_and(LinuxDeviceCgroup::allow);
                prop_assert_eq!(run(&policy.program(), Kind::Char, read, numbers), allowed);
            }
        }
    }
}
