//! Patterns of a shell, as far as variables have them: `*`, `?`, and escapes.

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Part>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// This character.
    Exact(char),
    /// Any one character.
    One,
    /// Any number of characters.
    Any,
}

impl Pattern {
    /// Reads a pattern; there is none that is malformed.
    pub(crate) fn parse(text: &str, escape: char) -> Self {
        let mut parts = Vec::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            parts.push(match letter {
                '*' => Part::Any,
                '?' => Part::One,
                letter if letter == escape => Part::Exact(letters.next().unwrap_or(letter)),
                letter => Part::Exact(letter),
            });
        }
        Self(parts)
    }

    /// Takes the shortest or the longest match off the beginning.
    pub(crate) fn trim_start(&self, value: &str, longest: bool) -> String {
        let letters: Vec<char> = value.chars().collect();
        let cut = choose(&ends(&self.0, &letters), longest).unwrap_or(0);
        letters[cut..].iter().collect()
    }

    /// Takes the shortest or the longest match off the end.
    pub(crate) fn trim_end(&self, value: &str, longest: bool) -> String {
        let parts: Vec<Part> = self.0.iter().rev().copied().collect();
        let letters: Vec<char> = value.chars().rev().collect();
        let cut = choose(&ends(&parts, &letters), longest).unwrap_or(0);
        letters[cut..].iter().rev().collect()
    }

    /// Replaces the first longest match, or all of them. What matches nothing replaces nothing.
    pub(crate) fn replace(&self, value: &str, with: &str, all: bool) -> String {
        let letters: Vec<char> = value.chars().collect();
        let mut output = String::new();
        let mut at = 0;
        while at < letters.len() {
            match choose(&ends(&self.0, &letters[at..]), true) {
                Some(length) if length > 0 => {
                    output.push_str(with);
                    at += length;
                    if !all {
                        break;
                    }
                }
                _ => {
                    output.push(letters[at]);
                    at += 1;
                }
            }
        }
        output.extend(&letters[at..]);
        output
    }
}

/// Returns for each length whether the pattern matches that many characters from the beginning.
/// Takes time in proportion to both lengths, however many stars there are.
fn ends(parts: &[Part], letters: &[char]) -> Vec<bool> {
    let mut reached = vec![false; letters.len() + 1];
    reached[0] = true;
    for part in parts {
        let mut next = vec![false; letters.len() + 1];
        match part {
            Part::Any => {
                let mut from = false;
                for (at, slot) in next.iter_mut().enumerate() {
                    from |= reached[at];
                    *slot = from;
                }
            }
            Part::One | Part::Exact(_) => {
                for at in 0..letters.len() {
                    let fits = *part == Part::One || *part == Part::Exact(letters[at]);
                    next[at + 1] = reached[at] && fits;
                }
            }
        }
        reached = next;
    }
    reached
}

fn choose(ends: &[bool], longest: bool) -> Option<usize> {
    if longest { ends.iter().rposition(|end| *end) } else { ends.iter().position(|end| *end) }
}
