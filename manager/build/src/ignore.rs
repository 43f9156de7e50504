//! `.dockerignore`: which files of a context do not exist for the build.
//!
//! Patterns are matched against whole paths, from the context's root on; a match of a directory is one
//! of all that is in it; the last pattern that matches decides, and `!` brings files back.
//!
//! ```text
//! *  any characters but /     **  any characters     ?  one but /     [a-z] [^a-z]     \  escapes
//! ```
//!
//! Matching takes time in proportion to pattern and path, whatever the pattern is.

/// Largest file of patterns that is read, and most patterns.
const MAX_PATTERNS: usize = 10_000;

/// Why patterns were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// A bracket that is not closed, or an empty range.
    #[error("the pattern {pattern:?} is malformed: a bracket is not closed, or empty")]
    Malformed {
        /// The pattern.
        pattern: String,
    },
    /// A lone exclamation mark.
    #[error("the pattern \"!\" excludes nothing from nothing")]
    LoneException,
    /// More than anybody writes.
    #[error("there are more than {MAX_PATTERNS} patterns")]
    TooMany,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Exact(char),
    /// One character but `/`.
    One,
    /// Any number of characters but `/`.
    Some,
    /// Any number of characters.
    Any,
    /// Nothing, or anything that ends in `/`.
    Directories,
    /// One character of a set, or not of it.
    Class {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A pattern over paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    parts: Vec<Part>,
    /// The whole of it, if nothing in it stands for anything else: most patterns are so.
    literal: Option<String>,
    /// What comes before the first character that can stand for others.
    start: String,
}

impl PathPattern {
    /// Reads a pattern; leading and trailing slashes mean nothing.
    ///
    /// # Errors
    /// [`IgnoreError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let malformed = || IgnoreError::Malformed { pattern: text.to_owned() };
        let mut parts = Vec::new();
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            parts.push(match letter {
                '*' if letters.next_if_eq(&'*').is_some() => {
                    while letters.next_if_eq(&'*').is_some() {}
                    letters.next_if_eq(&'/');
                    if letters.peek().is_none() { Part::Any } else { Part::Directories }
                }
                '*' => Part::Some,
                '?' => Part::One,
                '[' => class(&mut letters).ok_or_else(malformed)?,
                '\\' => Part::Exact(letters.next().unwrap_or('\\')),
                letter => Part::Exact(letter),
            });
        }
        let exact = |part: &Part| match part {
            Part::Exact(letter) => Some(*letter),
            _ => None,
        };
        let start: String = parts.iter().map_while(exact).collect();
        let is_literal = start.chars().count() == parts.len();
        Ok(Self { parts, literal: is_literal.then(|| start.clone()), start })
    }

    /// Tells whether the pattern matches the whole of a path.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let letters: Vec<char> = path.chars().collect();
        self.reached(&letters)[letters.len()]
    }

    /// Tells whether the pattern matches a path, or a directory that the path is in.
    #[must_use]
    pub fn matches_or_parent(&self, path: &str) -> bool {
        if let Some(literal) = &self.literal {
            let rest = path.strip_prefix(literal.as_str());
            return rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        }
        if !path.starts_with(&self.start) {
            return false;
        }
        let letters: Vec<char> = path.chars().collect();
        let reached = self.reached(&letters);
        (0..=letters.len())
            .any(|at| reached[at] && (at == letters.len() || (at > 0 && letters[at] == '/')))
    }

    /// For each length, whether the pattern matches that much of the beginning.
    fn reached(&self, letters: &[char]) -> Vec<bool> {
        let mut reached = vec![false; letters.len() + 1];
        reached[0] = true;
        for part in &self.parts {
            let mut next = vec![false; letters.len() + 1];
            match part {
                Part::Any | Part::Some | Part::Directories => {
                    spread(part, &reached, letters, &mut next)
                }
                Part::Exact(_) | Part::One | Part::Class { .. } => {
                    for (at, letter) in letters.iter().enumerate() {
                        next[at + 1] = reached[at] && fits(part, *letter);
                    }
                }
            }
            reached = next;
        }
        reached
    }
}

fn spread(part: &Part, reached: &[bool], letters: &[char], next: &mut [bool]) {
    let mut active = false;
    for at in 0..=letters.len() {
        let before = at.checked_sub(1).map(|before| letters[before]);
        if *part == Part::Some && before == Some('/') {
            active = false;
        }
        match part {
            Part::Directories => {
                next[at] = reached[at] || (active && before == Some('/'));
                active |= reached[at];
            }
            _ => {
                active |= reached[at];
                next[at] = active;
            }
        }
    }
}

fn fits(part: &Part, letter: char) -> bool {
    match part {
        Part::Exact(exact) => *exact == letter,
        Part::One => letter != '/',
        Part::Class { is_negated, ranges } => {
            let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&letter));
            letter != '/' && inside != *is_negated
        }
        Part::Some | Part::Any | Part::Directories => false,
    }
}

/// Reads a set of characters behind its opening bracket.
fn class(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Part> {
    let is_negated = letters.next_if(|letter| matches!(letter, '^' | '!')).is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match letters.next()? {
            ']' if !ranges.is_empty() => return Some(Part::Class { is_negated, ranges }),
            ']' => return None,
            '\\' => letters.next()?,
            letter => letter,
        };
        let high = if letters.next_if_eq(&'-').is_some() {
            match letters.next()? {
                ']' => return None,
                '\\' => letters.next()?,
                letter => letter,
            }
        } else {
            low
        };
        ranges.push((low, high));
    }
}

/// The patterns of a `.dockerignore`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    rules: Vec<(PathPattern, bool)>,
}

impl Ignore {
    /// Reads a file of patterns.
    ///
    /// # Errors
    /// [`IgnoreError`].
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self::from_lines(text.lines().filter(|line| !line.starts_with('#')))
    }

    /// Takes patterns one by one, as `--exclude` has them.
    ///
    /// # Errors
    /// [`IgnoreError`].
    pub fn from_lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        let mut rules = Vec::new();
        for line in lines {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let (is_exception, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            if is_exception && pattern.is_empty() {
                return Err(IgnoreError::LoneException);
            }
            let pattern = clean(pattern);
            if pattern.is_empty() {
                continue;
            }
            if rules.len() == MAX_PATTERNS {
                return Err(IgnoreError::TooMany);
            }
            rules.push((PathPattern::parse(&pattern)?, is_exception));
        }
        Ok(Self { rules })
    }

    /// Tells whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Tells whether a path, relative and without `..`, is left out.
    #[must_use]
    pub fn ignores(&self, path: &str) -> bool {
        let mut ignored = false;
        for (pattern, is_exception) in &self.rules {
            if ignored == *is_exception && pattern.matches_or_parent(path) {
                ignored = !is_exception;
            }
        }
        ignored
    }

    /// Tells whether nothing in a directory that is left out can be brought back.
    #[must_use]
    pub fn ignores_all_below(&self, directory: &str) -> bool {
        if !self.ignores(directory) {
            return false;
        }
        let inside = format!("{directory}/");
        !self.rules.iter().any(|(pattern, is_exception)| {
            let start = &pattern.start;
            *is_exception && (start.starts_with(&inside) || inside.starts_with(start.as_str()))
        })
    }
}

/// Takes `.`, `..` and needless slashes out of a pattern, as Go's `filepath.Clean` does: what leads
/// above the root stays so, and matches nothing.
fn clean(pattern: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for component in pattern.split('/') {
        match (component, kept.last()) {
            ("" | ".", _) => {}
            ("..", Some(last)) if *last != ".." => {
                kept.pop();
            }
            ("..", None) if pattern.starts_with('/') => {}
            (other, _) => kept.push(other),
        }
    }
    kept.join("/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_dockers_do() {
        let table = [
            ("*.md", "a.md", true),
            ("*.md", "b/a.md", false),
            ("**/*.md", "a.md", true),
            ("**/*.md", "b/c/a.md", true),
            ("**", "a/b", true),
            ("a/**", "a/b/c", true),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            ("/abs", "abs", true),
            ("dir", "dir/sub/file", true),
            ("dir/", "dir/file", true),
            ("dir", "directory", false),
            ("*/x", "a/x/y", true),
            ("./a/../b", "b", true),
            (".", "a", false),
            ("../a", "a", false),
            ("/../a", "a", true),
            ("b/../../a", "a", false),
        ];
        for (pattern, path, expected) in table {
            let ignore = Ignore::parse(pattern).unwrap();
            assert_eq!(ignore.ignores(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_match_decides_and_exceptions_bring_back() {
        let ignore = Ignore::parse(
            "# comment\n\n*.md\n!README*.md\nREADME-secret.md\nnode_modules\n!node_modules/keep\n",
        )
        .unwrap();

        assert!(ignore.ignores("x.md") && !ignore.ignores("README.md"));
        assert!(ignore.ignores("README-secret.md"));
        assert!(ignore.ignores("node_modules/a") && !ignore.ignores("node_modules/keep/b"));
        assert!(!ignore.ignores_all_below("node_modules"));
        assert!(ignore.ignores_all_below("node_modules/a"));
        assert!(Ignore::parse("a\n").unwrap().ignores_all_below("a"));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for bad in ["[a", "[]", "[a-]", "!"] {
            assert!(Ignore::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_longer_than_others() {
        let ignore = Ignore::parse(&format!("{}b", "*a".repeat(2000))).unwrap();
        let path = "a".repeat(4000);

        let started = std::time::Instant::now();
        assert!(!ignore.ignores(&path));
        // By trying every way it would take longer than the universe has existed.
        assert!(started.elapsed().as_secs() < 30);
    }

    proptest! {
        #[test]
        fn no_pattern_makes_the_matcher_panic(pattern in "[a*?/!\\[\\]^.\\\\-]{0,20}", path in "[a/.]{0,20}") {
            if let Ok(ignore) = Ignore::parse(&pattern) {
                let _ = (ignore.ignores(&path), ignore.ignores_all_below(&path));
            }
        }
    }
}
