//! Heredocs: `<<NAME`, `<<-NAME` (leading tabs go), `<<"NAME"` (variables stay).

use super::words::Words;

/// A text that follows an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// What ends it.
    pub name: String,
    /// The number before `<<`: a file descriptor of a shell.
    pub descriptor: String,
    /// Whether variables in it are replaced.
    pub expands: bool,
    /// Whether tabs at the beginning of its lines are left out.
    pub strips_tabs: bool,
    /// Its text, lines with their ends.
    pub content: String,
}

impl Heredoc {
    /// Returns the text as it is meant: without leading tabs if the mark says so.
    #[must_use]
    pub fn text(&self) -> String {
        if !self.strips_tabs {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// Returns the heredocs that an instruction announces, without their content.
pub(super) fn announced(line: &str, escape: char) -> Vec<Heredoc> {
    let mut words = line.split_ascii_whitespace();
    let mut verb = words.next().unwrap_or_default();
    if verb.eq_ignore_ascii_case("ONBUILD") {
        verb = words.next().unwrap_or_default();
    }
    let takes = ["RUN", "COPY", "ADD"].iter().any(|name| verb.eq_ignore_ascii_case(name));
    if !takes || !line.contains("<<") {
        return Vec::new();
    }
    raw_words(line, escape).iter().filter_map(|word| parse(word, escape)).collect()
}

/// Reads a word as the mark of a heredoc, if it is one.
pub(crate) fn parse(word: &str, escape: char) -> Option<Heredoc> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (descriptor, rest) = word.split_at(digits);
    let rest = rest.strip_prefix("<<")?;
    let (strips_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let unset = |_: &str| None;
    let words = Words::new(escape).split(rest, &unset).ok()?;
    let [name] = words.as_slice() else { return None };
    if name.is_empty() {
        return None;
    }
    Some(Heredoc {
        expands: !rest.contains(['"', '\'', escape]),
        name: name.clone(),
        descriptor: descriptor.to_owned(),
        strips_tabs,
        content: String::new(),
    })
}

/// Splits a text at blanks that are neither quoted nor escaped; quotes and escapes stay.
pub(crate) fn raw_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            (blank, None) if blank.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            (mark @ ('"' | '\''), None) => quote = Some(mark),
            (mark, Some(open)) if mark == open => quote = None,
            (mark, open) if mark == escape && open != Some('\'') => {
                word.push(mark);
                word.extend(letters.next());
                continue;
            }
            _ => {}
        }
        word.push(letter);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}
