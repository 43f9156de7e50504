//! Makes libseccomp's program for one architecture shorter, without a change of what it decides.
//!
//! libseccomp asks for each call by itself, in a tree of some five hundred instructions. But most calls
//! that follow one another in number share their fate, so the numbers fall into a few dozen ranges:
//!
//! ```text
//! number ──▶ tree over the ranges ──▶ return                         (no argument matters)
//!                                └──▶ libseccomp's own instructions  (arguments are looked at)
//! ```
//!
//! The kernel translates a filter into machine code at every start of a container and runs it at every
//! system call, so a program of a third of the length is worth both.
//!
//! The ranges are found by running the program: its behaviour can change only at numbers that it
//! compares with. What this module does not understand it leaves as it is.

use super::join::{
    ARCHITECTURE, IF_AT_LEAST, IF_EQUAL, IF_GREATER, JUMP, LOAD_WORD, NUMBER, RETURN,
};
use crate::sys::seccomp::Instruction;

/// What becomes of a call once its number is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Return(u32),
    /// The program goes on at this instruction, which loads an argument.
    Arguments(usize),
}

/// The numbers from `from` up to the next range's.
#[derive(Debug, Clone, Copy)]
struct Range {
    from: u32,
    fate: Fate,
}

/// Returns a program that does for the numbers from `lowest` to `highest` what `program` does, if the
/// architecture is `token`; `program` itself where that would not be shorter. The number must have
/// been loaded when it begins.
pub(super) fn shorten(
    program: &[Instruction],
    token: u32,
    lowest: u32,
    highest: u32,
) -> Vec<Instruction> {
    let shorter = ranges(program, token, lowest, highest)
        .and_then(|ranges| layout(program, &ranges))
        .filter(|shorter| shorter.len() < program.len());
    shorter.unwrap_or_else(|| program.to_vec())
}

fn ranges(program: &[Instruction], token: u32, lowest: u32, highest: u32) -> Option<Vec<Range>> {
    // A number at which the behaviour may change begins a range.
    let mut begins = vec![lowest];
    for Instruction { code, k, .. } in program {
        match *code {
            IF_EQUAL => begins.extend([Some(*k), k.checked_add(1)].into_iter().flatten()),
            IF_GREATER => begins.extend(k.checked_add(1)),
            IF_AT_LEAST => begins.push(*k),
            _ => {}
        }
    }
    begins.retain(|number| (lowest..=highest).contains(number));
    begins.sort_unstable();
    begins.dedup();
    let mut ranges: Vec<Range> = Vec::new();
    for from in begins {
        let fate = fate(program, token, from)?;
        if ranges.last().is_none_or(|last| last.fate != fate) {
            ranges.push(Range { from, fate });
        }
    }
    Some(ranges)
}

/// Runs `program` until it returns or loads an argument; `None` if it does what is not understood.
pub(super) fn fate(program: &[Instruction], token: u32, number: u32) -> Option<Fate> {
    let mut at = 0;
    let mut accumulator = None;
    loop {
        let Instruction { code, jt, jf, k } = *program.get(at)?;
        let distance = match code {
            LOAD_WORD if k == NUMBER => {
                accumulator = Some(number);
                0
            }
            LOAD_WORD if k == ARCHITECTURE => {
                accumulator = Some(token);
                0
            }
            LOAD_WORD => return Some(Fate::Arguments(at)),
            JUMP => usize::try_from(k).ok()?,
            IF_EQUAL => usize::from(if accumulator? == k { jt } else { jf }),
            IF_GREATER => usize::from(if accumulator? > k { jt } else { jf }),
            IF_AT_LEAST => usize::from(if accumulator? >= k { jt } else { jf }),
            RETURN => return Some(Fate::Return(k)),
            _ => return None,
        };
        at += 1 + distance;
    }
}

fn layout(program: &[Instruction], ranges: &[Range]) -> Option<Vec<Instruction>> {
    let (first, others) = ranges.split_first()?;
    let tree = tree(program, first.fate, others)?;
    Some([vec![Instruction { code: LOAD_WORD, jt: 0, jf: 0, k: NUMBER }], tree].concat())
}

/// Searches the middle of `others`; what is below all of them is `first`.
fn tree(program: &[Instruction], first: Fate, others: &[Range]) -> Option<Vec<Instruction>> {
    let (below, middle, above) = match others.len() {
        0 => return leaf(program, first),
        length => (&others[..length / 2], others[length / 2], &others[length / 2 + 1..]),
    };
    let low = tree(program, first, below)?;
    let high = tree(program, middle.fate, above)?;
    let test = |jt, jf| Instruction { code: IF_AT_LEAST, jt, jf, k: middle.from };
    let head = match u8::try_from(low.len()) {
        Ok(distance) => vec![test(distance, 0)],
        Err(_) => {
            let jump = Instruction { code: JUMP, jt: 0, jf: 0, k: u32::try_from(low.len()).ok()? };
            vec![test(0, 1), jump]
        }
    };
    Some([head, low, high].concat())
}

fn leaf(program: &[Instruction], fate: Fate) -> Option<Vec<Instruction>> {
    match fate {
        Fate::Return(action) => Some(vec![Instruction { code: RETURN, jt: 0, jf: 0, k: action }]),
        Fate::Arguments(start) => rest(program, start),
    }
}

/// Copies what can be reached from `start`. Jumps lead forward only, and what lies between their ends
/// becomes less, never more.
fn rest(program: &[Instruction], start: usize) -> Option<Vec<Instruction>> {
    let mut reached = vec![false; program.len()];
    *reached.get_mut(start)? = true;
    let mut kept = Vec::new();
    for (at, instruction) in program.iter().enumerate().skip(start) {
        if !reached[at] {
            continue;
        }
        kept.push(at);
        for next in successors(at, *instruction)? {
            *reached.get_mut(next)? = true;
        }
    }
    let place = |at: usize| kept.binary_search(&at).ok();
    let mut copy = Vec::with_capacity(kept.len());
    for (new, &at) in kept.iter().enumerate() {
        let mut instruction = *program.get(at)?;
        let distance = |target: usize| place(target)?.checked_sub(new + 1);
        let next = at + 1;
        match instruction.code {
            JUMP => {
                let target = next + usize::try_from(instruction.k).ok()?;
                instruction.k = u32::try_from(distance(target)?).ok()?;
            }
            code if is_conditional(code) => {
                let (yes, no) = (usize::from(instruction.jt), usize::from(instruction.jf));
                instruction.jt = u8::try_from(distance(next + yes)?).ok()?;
                instruction.jf = u8::try_from(distance(next + no)?).ok()?;
            }
            _ => {}
        }
        copy.push(instruction);
    }
    Some(copy)
}

fn successors(at: usize, instruction: Instruction) -> Option<Vec<usize>> {
    let Instruction { code, jt, jf, k } = instruction;
    let next = at + 1;
    Some(match code {
        RETURN => Vec::new(),
        JUMP => vec![next + usize::try_from(k).ok()?],
        code if is_conditional(code) => vec![next + usize::from(jt), next + usize::from(jf)],
        // Another kind of jump or return would be copied wrongly.
        code if matches!(code & CLASS, RETURN | JUMP) => return None,
        _ => vec![next],
    })
}

/// The bits of a code that tell the class of the instruction.
const CLASS: u16 = 0x07;

fn is_conditional(code: u16) -> bool {
    matches!(code, IF_EQUAL | IF_GREATER | IF_AT_LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    #[test]
    fn what_is_not_understood_stays_as_it_is() {
        // Divides the number by two before it compares.
        let program = [
            instruction(LOAD_WORD, 0, 0, NUMBER),
            instruction(0x34, 0, 0, 2),
            instruction(IF_EQUAL, 0, 1, 7),
            instruction(RETURN, 0, 0, 1),
            instruction(RETURN, 0, 0, 2),
        ];

        let same = shorten(&program, 0, 0, u32::MAX);

        assert_eq!(same.len(), program.len());
    }

    #[test]
    fn a_chain_of_equal_fates_becomes_one_range() {
        let mut program = vec![instruction(LOAD_WORD, 0, 0, NUMBER)];
        for number in 10..20_u8 {
            program.push(instruction(IF_EQUAL, 20 - number, 0, number.into()));
        }
        program.extend([instruction(RETURN, 0, 0, 1), instruction(RETURN, 0, 0, 2)]);

        let short = shorten(&program, 0, 0, u32::MAX);

        assert!(short.len() < program.len(), "{} instructions", short.len());
        for number in 0..30 {
            assert_eq!(fate(&short, 0, number), fate(&program, 0, number), "{number}");
        }
    }
}
