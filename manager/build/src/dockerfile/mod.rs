//! Dockerfiles: from text to instructions.
//!
//! ```text
//! text ──lines──▶ Line ──instruction──▶ Instruction ──words──▶ values, when variables are known
//!        directives, comments,            flags, forms
//!        continuations, heredocs
//! ```
//!
//! The rules are those of BuildKit's frontend (docs.docker.com, “Dockerfile reference”). Parsing
//! replaces no variables: what they stand for is known only when the instruction's turn comes.

mod device;
mod heredoc;
mod instruction;
mod lines;
mod mount;
mod pattern;
mod words;

use std::ops::RangeInclusive;

pub use device::RunDevice;
pub use heredoc::Heredoc;
pub(crate) use heredoc::parse as parse_heredoc;
pub use instruction::{
    Add, Command, Copy, Health, HealthTest, Instruction, Network, Pair, Run, Security,
};
pub(crate) use instruction::{parse_line, port_specs};
pub use lines::{Directives, Line, MAX_BYTES};
pub use mount::{MountKind, RunMount, Sharing};
pub use words::{Variables, WordError, Words};

/// Splits the text of a trigger, which may have heredocs.
pub(crate) fn split_trigger(text: &str) -> Result<Vec<Line>, ParseError> {
    lines::split(text).map(|(_, lines)| lines)
}

/// Why a Dockerfile could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Larger than anybody writes.
    #[error("the Dockerfile is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// Not a single instruction.
    #[error("the Dockerfile has no instructions")]
    Empty,
    /// A directive twice.
    #[error("line {line}: the directive {name:?} is given twice")]
    RepeatedDirective {
        /// Line.
        line: usize,
        /// Its name.
        name: String,
    },
    /// An escape character that there is not.
    #[error("line {line}: the escape character is \\ or `, not {found:?}")]
    Escape {
        /// Line.
        line: usize,
        /// What was given.
        found: String,
    },
    /// A heredoc that is not closed.
    #[error("line {line}: nothing closes the heredoc {name:?}")]
    OpenHeredoc {
        /// Line where it is announced.
        line: usize,
        /// What should close it.
        name: String,
    },
    /// An instruction that does not exist.
    #[error("line {line}: there is no instruction {word:?}{}", hint(.word))]
    Unknown {
        /// Line.
        line: usize,
        /// Its first word.
        word: String,
    },
    /// An instruction that is not written as it must be.
    #[error("line {line}: {instruction}: {problem}")]
    Malformed {
        /// Line.
        line: usize,
        /// The instruction's name.
        instruction: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Something before the first `FROM` that belongs into a stage.
    #[error("line {line}: {instruction} stands before the first FROM; only ARG may")]
    BeforeFrom {
        /// Line.
        line: usize,
        /// The instruction's name.
        instruction: &'static str,
    },
    /// No stage at all.
    #[error("the Dockerfile has no FROM")]
    NoStage,
}

impl ParseError {
    /// Returns the line that is to blame.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::RepeatedDirective { line, .. }
            | Self::Escape { line, .. }
            | Self::OpenHeredoc { line, .. }
            | Self::Unknown { line, .. }
            | Self::Malformed { line, .. }
            | Self::BeforeFrom { line, .. } => Some(*line),
            Self::TooLarge | Self::Empty | Self::NoStage => None,
        }
    }
}

/// Proposes the instruction that was probably meant.
fn hint(word: &str) -> String {
    if !word.is_ascii() {
        return String::new();
    }
    let word = word.to_ascii_uppercase();
    instruction::NAMES
        .iter()
        .map(|name| (distance(&word, name), !name.starts_with(&word[..word.len().min(1)]), name))
        .min()
        .filter(|(distance, ..)| *distance <= 2)
        .map(|(.., name)| format!(" (did you mean {name}?)"))
        .unwrap_or_default()
}

/// Letters to change, add or take away to make one word of another.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().take(32).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

/// An instruction and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// What it says.
    pub instruction: Instruction,
    /// The line as it was written, continuations joined.
    pub text: String,
    /// Lines of the file that it takes.
    pub range: RangeInclusive<usize>,
    /// Whether an empty line is in the middle of it.
    pub has_empty_continuation: bool,
}

/// A stage: a `FROM` and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What it is built on: an image, `scratch`, or an earlier stage; variables not replaced.
    pub base: String,
    /// `--platform`, variables not replaced.
    pub platform: Option<String>,
    /// Name, in lower case.
    pub name: Option<String>,
    /// Lines of the `FROM`.
    pub range: RangeInclusive<usize>,
    /// The `FROM` as it was written.
    pub text: String,
    /// What it does.
    pub instructions: Vec<Located>,
}

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// What comments at its top say.
    pub directives: Directives,
    /// `ARG`s before the first `FROM`.
    pub global_args: Vec<Located>,
    /// Stages, in order; never empty.
    pub stages: Vec<Stage>,
    /// Its lines, for reports.
    pub source: Vec<String>,
}

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// [`ParseError`], with the line.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_BYTES {
            return Err(ParseError::TooLarge);
        }
        let (directives, lines) = lines::split(text)?;
        if lines.is_empty() {
            return Err(ParseError::Empty);
        }
        let mut file = Self {
            global_args: Vec::new(),
            stages: Vec::new(),
            source: text.lines().map(str::to_owned).collect(),
            directives,
        };
        for line in &lines {
            let located = parse_line(line, file.directives.escape)?;
            match (located.instruction, file.stages.last_mut()) {
                (Instruction::From { image, platform, name }, _) => file.stages.push(Stage {
                    base: image,
                    platform,
                    name,
                    range: located.range,
                    text: located.text,
                    instructions: Vec::new(),
                }),
                (instruction, Some(stage)) => {
                    stage.instructions.push(Located { instruction, ..located });
                }
                (instruction @ Instruction::Arg(_), None) => {
                    file.global_args.push(Located { instruction, ..located });
                }
                (other, None) => {
                    let line = *located.range.start();
                    return Err(ParseError::BeforeFrom { line, instruction: other.name() });
                }
            }
        }
        if file.stages.is_empty() { Err(ParseError::NoStage) } else { Ok(file) }
    }

    /// Returns the rules by which this file's words are read.
    #[must_use]
    pub fn words(&self) -> Words {
        Words::new(self.directives.escape)
    }
}

#[cfg(test)]
mod tests;
