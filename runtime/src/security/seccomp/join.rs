//! Programs of several architectures, joined into one.
//!
//! ```text
//! load the architecture
//! is it A? ─▶ newer than all calls that the profile names? ─▶ ENOSYS
//!             no ─▶ A's program, as libseccomp made it and `shorten` left it
//! is it B? ─▶ …
//! neither  ─▶ kill
//! ```
//!
//! Jumps of classic BPF are relative, so a program may be put anywhere. x32 shares x86-64's
//! architecture and differs by a bit in the call's number.

use oci_spec::runtime::Arch;

use super::shorten::shorten;
use crate::sys::seccomp::Instruction;

/// A program for one architecture.
pub(super) struct Section {
    pub(super) arch: Arch,
    pub(super) program: Vec<Instruction>,
    /// The highest number of a call that the profile names, if newer ones must look absent.
    pub(super) newest: Option<u32>,
}

/// Where `struct seccomp_data` has the call's number and the architecture.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
/// Set in the number of every call of x32.
const X32_BIT: u32 = 0x4000_0000;

// Codes of classic BPF, from its class, size or operation, and mode or source.
pub(super) const LOAD_WORD: u16 = 0x20;
pub(super) const JUMP: u16 = 0x05;
pub(super) const IF_EQUAL: u16 = 0x15;
pub(super) const IF_GREATER: u16 = 0x25;
pub(super) const IF_AT_LEAST: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// Joins programs; each architecture may come once.
pub(super) fn join(sections: &[Section]) -> Vec<Instruction> {
    let mut blocks: Vec<(u32, Vec<Instruction>)> = Vec::new();
    for section in sections.iter().filter(|section| section.arch != Arch::ScmpArchX32) {
        let x32 = match section.arch {
            Arch::ScmpArchX86_64 => {
                Some(sections.iter().find(|other| other.arch == Arch::ScmpArchX32))
            }
            _ => None,
        };
        blocks.push((section.arch as u32, block(section, x32)));
    }

    let mut joined = vec![load(ARCHITECTURE)];
    // What is still to be jumped over from the first test on: the other tests, the return, blocks.
    let mut distance = 2 * blocks.len() + 1;
    for (token, block) in &blocks {
        distance -= 2;
        joined.extend([skip_unless(IF_EQUAL, *token), jump(distance)]);
        distance += block.len();
    }
    joined.push(kill());
    joined.extend(blocks.into_iter().flat_map(|(_, block)| block));
    joined
}

/// What is done for one architecture. `x32` is there for x86-64 only: its section, or none.
fn block(section: &Section, x32: Option<Option<&Section>>) -> Vec<Instruction> {
    let own = guarded(section);
    let Some(x32) = x32 else {
        return [vec![load(NUMBER)], own].concat();
    };
    let other = x32.map_or_else(|| vec![kill()], guarded);
    let head = vec![load(NUMBER), skip_unless(IF_AT_LEAST, X32_BIT), jump(own.len())];
    [head, own, other].concat()
}

/// A program behind the test for calls that it could not know. The number is loaded already.
fn guarded(section: &Section) -> Vec<Instruction> {
    let mut guarded = Vec::with_capacity(section.program.len() + 2);
    if let Some(newest) = section.newest {
        guarded.extend([skip_unless(IF_GREATER, newest), not_implemented()]);
    }
    let (token, lowest, highest) = match section.arch {
        Arch::ScmpArchX32 => (Arch::ScmpArchX86_64 as u32, X32_BIT, u32::MAX),
        Arch::ScmpArchX86_64 => (Arch::ScmpArchX86_64 as u32, 0, X32_BIT - 1),
        other => (other as u32, 0, u32::MAX),
    };
    guarded.extend(shorten(&section.program, token, lowest, highest));
    guarded
}

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD_WORD, jt: 0, jf: 0, k: offset }
}

/// Skips the next instruction unless the test holds.
fn skip_unless(code: u16, value: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 1, k: value }
}

fn jump(distance: usize) -> Instruction {
    // Programs that are too long for the kernel are refused before they are loaded.
    Instruction { code: JUMP, jt: 0, jf: 0, k: u32::try_from(distance).unwrap_or(u32::MAX) }
}

fn kill() -> Instruction {
    Instruction { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS }
}

fn not_implemented() -> Instruction {
    let value = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    Instruction { code: RETURN, jt: 0, jf: 0, k: value }
}

/// The size of an instruction in a file.
pub(super) const INSTRUCTION_BYTES: usize = 8;

/// Reads instructions as libseccomp and our cache write them; a rest is cut off.
pub(super) fn decode(bytes: &[u8]) -> Vec<Instruction> {
    let (instructions, _) = bytes.as_chunks::<INSTRUCTION_BYTES>();
    instructions
        .iter()
        .map(|&[code_0, code_1, jt, jf, k_0, k_1, k_2, k_3]| Instruction {
            code: u16::from_ne_bytes([code_0, code_1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k_0, k_1, k_2, k_3]),
        })
        .collect()
}

/// Writes instructions as [`decode`] reads them.
pub(super) fn encode(instructions: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(instructions.len() * INSTRUCTION_BYTES);
    for Instruction { code, jt, jf, k } in instructions {
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(&[*jt, *jf]);
        bytes.extend_from_slice(&k.to_ne_bytes());
    }
    bytes
}
