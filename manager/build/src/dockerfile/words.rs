//! Words: quotes, escapes, and variables with all their modifiers.
//!
//! ```text
//! $NAME  ${NAME}   ${NAME:-word} ${NAME-word}   ${NAME:+word} ${NAME+word}   ${NAME:?why} ${NAME?why}
//! ${NAME#pattern} ${NAME##pattern}   ${NAME%pattern} ${NAME%%pattern}
//! ${NAME/pattern/text} ${NAME//pattern/text}          in patterns: * and ?, and escapes
//! ```
//!
//! With a colon, an empty value counts as unset. What is neither quoted nor escaped is split at
//! blanks by [`Words::split`], and values are split with it.

use std::iter::Peekable;
use std::str::Chars;

use super::pattern::Pattern;

/// How deeply `${A:-${B:-…}}` may be nested.
const MAX_DEPTH: usize = 64;

/// Why a word could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// A quote without its end.
    #[error("a {quote} is not closed")]
    Unclosed {
        /// The quote.
        quote: char,
    },
    /// `${` without `}`.
    #[error("\"${{\" without \"}}\"")]
    MissingBrace,
    /// `${}` or the like.
    #[error("\"${{\" without the name of a variable")]
    MissingName,
    /// `${A^}` or the like.
    #[error("${{{name}{modifier}…}} has a modifier that does not exist")]
    Modifier {
        /// The variable.
        name: String,
        /// What follows it.
        modifier: String,
    },
    /// `${A?why}` for a variable that is not set.
    #[error("{name}: {why}")]
    Required {
        /// The variable.
        name: String,
        /// What the file says about it.
        why: String,
    },
    /// Nested without end.
    #[error("variables are nested more than {MAX_DEPTH} deep")]
    TooDeep,
}

/// Where values of variables come from.
pub trait Variables {
    /// Returns the value of a variable, if it is set.
    fn value(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Variables for F {
    fn value(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// How words are read.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// The escape character, `\` or `` ` ``.
    pub escape: char,
    /// Quotes are characters like any other, as in the text of a heredoc.
    pub plain_quotes: bool,
}

impl Words {
    /// Returns the rules for a file with this escape character.
    #[must_use]
    pub fn new(escape: char) -> Self {
        Self { escape, plain_quotes: false }
    }

    /// Reads a text as one word: quotes and escapes go, variables are replaced.
    ///
    /// # Errors
    /// [`WordError`].
    pub fn one(self, text: &str, variables: &dyn Variables) -> Result<String, WordError> {
        let mut reader = Reader::new(self, text, variables);
        reader.until(None, false)?;
        Ok(reader.finish().join_plain())
    }

    /// Reads a text as words separated by blanks; a variable's value is split too, unless quoted.
    ///
    /// # Errors
    /// [`WordError`].
    pub fn split(self, text: &str, variables: &dyn Variables) -> Result<Vec<String>, WordError> {
        let mut reader = Reader::new(self, text, variables);
        reader.until(None, false)?;
        Ok(reader.finish().words())
    }

    /// Returns the variables that a text refers to and that have no value and no substitute.
    #[must_use]
    pub fn unset(self, text: &str, variables: &dyn Variables) -> Vec<String> {
        let (mut unset, substituted) = self.asked(text, variables);
        unset.retain(|name| !substituted.contains(name));
        unset
    }

    /// Returns the variables that a text refers to.
    #[must_use]
    pub fn names(self, text: &str) -> Vec<String> {
        self.asked(text, &|_: &str| None).0
    }

    /// Returns the variables that a text refers to and that have no value; also those of them that have
    /// a substitute.
    fn asked(self, text: &str, variables: &dyn Variables) -> (Vec<String>, Vec<String>) {
        let seen = std::cell::RefCell::new(Vec::new());
        let watch = |name: &str| {
            let value = variables.value(name);
            if value.is_none() {
                seen.borrow_mut().push(name.to_owned());
            }
            value
        };
        let mut reader = Reader::new(self, text, &watch);
        reader.ignores_substituted = true;
        // What is malformed is told elsewhere.
        let _ = reader.until(None, false);
        let substituted = std::mem::take(&mut reader.substituted);
        drop(reader);
        (seen.into_inner(), substituted)
    }
}

/// What was read: characters, and whether they may separate words.
#[derive(Debug, Default)]
struct Output {
    pieces: Vec<(char, bool)>,
    /// Positions at which something quoted, maybe empty, makes a word.
    quoted_at: Vec<usize>,
}

impl Output {
    fn join_plain(self) -> String {
        self.pieces.into_iter().map(|(letter, _)| letter).collect()
    }

    fn words(self) -> Vec<String> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quoted = self.quoted_at.into_iter().peekable();
        for (index, (letter, splits)) in self.pieces.into_iter().enumerate() {
            while quoted.next_if(|at| *at <= index).is_some() {
                word.get_or_insert_default();
            }
            if splits && letter.is_whitespace() {
                words.extend(word.take());
            } else {
                word.get_or_insert_default().push(letter);
            }
        }
        if quoted.next().is_some() {
            word.get_or_insert_default();
        }
        words.extend(word);
        words
    }
}

struct Reader<'a> {
    rules: Words,
    letters: Peekable<Chars<'a>>,
    variables: &'a dyn Variables,
    output: Output,
    depth: usize,
    ignores_substituted: bool,
    substituted: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(rules: Words, text: &'a str, variables: &'a dyn Variables) -> Self {
        Self {
            rules,
            letters: text.chars().peekable(),
            variables,
            output: Output::default(),
            depth: 0,
            ignores_substituted: false,
            substituted: Vec::new(),
        }
    }

    fn finish(self) -> Output {
        self.output
    }

    fn push(&mut self, letter: char, splits: bool) {
        self.output.pieces.push((letter, splits));
    }

    fn push_all(&mut self, text: &str, splits: bool) {
        self.output.pieces.extend(text.chars().map(|letter| (letter, splits)));
    }

    /// Reads up to an unquoted `stop`, or to the end. With `raw`, escapes stay, for a pattern.
    fn until(&mut self, stop: Option<char>, raw: bool) -> Result<(), WordError> {
        while let Some(letter) = self.letters.next() {
            if Some(letter) == stop {
                return Ok(());
            }
            match letter {
                '\'' if !self.rules.plain_quotes => self.single_quoted()?,
                '"' if !self.rules.plain_quotes => self.double_quoted(raw)?,
                '$' => {
                    let value = self.dollar()?;
                    self.push_all(&value, true);
                }
                letter if letter == self.rules.escape => match self.letters.next() {
                    Some(next) => {
                        if raw {
                            self.push(letter, false);
                        }
                        self.push(next, false);
                    }
                    None => self.push(letter, false),
                },
                letter => self.push(letter, true),
            }
        }
        if stop.is_some() { Err(WordError::MissingBrace) } else { Ok(()) }
    }

    fn single_quoted(&mut self) -> Result<(), WordError> {
        self.output.quoted_at.push(self.output.pieces.len());
        loop {
            match self.letters.next() {
                Some('\'') => return Ok(()),
                Some(letter) => self.push(letter, false),
                None => return Err(WordError::Unclosed { quote: '\'' }),
            }
        }
    }

    fn double_quoted(&mut self, raw: bool) -> Result<(), WordError> {
        self.output.quoted_at.push(self.output.pieces.len());
        loop {
            match self.letters.next() {
                Some('"') => return Ok(()),
                Some('$') => {
                    let value = self.dollar()?;
                    self.push_all(&value, false);
                }
                Some(letter) if letter == self.rules.escape => match self.letters.next() {
                    Some(next) => {
                        let escapes = matches!(next, '"' | '$') || next == self.rules.escape;
                        if raw || !escapes {
                            self.push(letter, false);
                        }
                        self.push(next, false);
                    }
                    None => return Err(WordError::Unclosed { quote: '"' }),
                },
                Some(letter) => self.push(letter, false),
                None => return Err(WordError::Unclosed { quote: '"' }),
            }
        }
    }

    /// Reads what follows a dollar sign.
    fn dollar(&mut self) -> Result<String, WordError> {
        if self.letters.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(self.variables.value(&name).unwrap_or_default());
        }
        self.letters.next();
        let name = self.name();
        if name.is_empty() {
            return Err(match self.letters.peek() {
                None => WordError::MissingBrace,
                Some(_) => WordError::MissingName,
            });
        }
        match self.letters.next() {
            None => Err(WordError::MissingBrace),
            Some('}') => Ok(self.variables.value(&name).unwrap_or_default()),
            Some(':') => match self.letters.next() {
                Some(kind @ ('-' | '+' | '?')) => self.conditional(&name, kind, true),
                Some(other) => Err(WordError::Modifier { name, modifier: format!(":{other}") }),
                None => Err(WordError::MissingBrace),
            },
            Some(kind @ ('-' | '+' | '?')) => self.conditional(&name, kind, false),
            Some(kind @ ('#' | '%')) => self.trimmed(&name, kind),
            Some('/') => self.replaced(&name),
            Some(other) => Err(WordError::Modifier { name, modifier: other.to_string() }),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        // `$1`, `$?` and the like are names of one character.
        if let Some(special) =
            self.letters.next_if(|letter| letter.is_ascii_digit() || "@*#?!".contains(*letter))
        {
            name.push(special);
            return name;
        }
        while let Some(letter) =
            self.letters.next_if(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
        {
            name.push(letter);
        }
        name
    }

    /// Reads a word inside braces, with variables of its own.
    fn inner(&mut self, stop: char, raw: bool) -> Result<String, WordError> {
        if self.depth >= MAX_DEPTH {
            return Err(WordError::TooDeep);
        }
        self.depth += 1;
        let outer = std::mem::take(&mut self.output);
        let read = self.until(Some(stop), raw);
        let inner = std::mem::replace(&mut self.output, outer);
        self.depth -= 1;
        read?;
        Ok(inner.join_plain())
    }

    fn conditional(
        &mut self,
        name: &str,
        kind: char,
        empty_is_unset: bool,
    ) -> Result<String, WordError> {
        if self.ignores_substituted {
            self.substituted.push(name.to_owned());
        }
        let word = self.inner('}', false)?;
        let value = self.variables.value(name);
        let set = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match (kind, set) {
            ('-', set) => Ok(set.unwrap_or(word)),
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (_, None) => {
                let why = match (word.is_empty(), empty_is_unset) {
                    (false, _) => word,
                    (true, true) => "must not be unset or empty".to_owned(),
                    (true, false) => "must not be unset".to_owned(),
                };
                Err(WordError::Required { name: name.to_owned(), why })
            }
        }
    }

    fn trimmed(&mut self, name: &str, kind: char) -> Result<String, WordError> {
        let longest = self.letters.next_if_eq(&kind).is_some();
        let pattern = Pattern::parse(&self.inner('}', true)?, self.rules.escape);
        let value = self.variables.value(name).unwrap_or_default();
        Ok(if kind == '#' {
            pattern.trim_start(&value, longest)
        } else {
            pattern.trim_end(&value, longest)
        })
    }

    fn replaced(&mut self, name: &str) -> Result<String, WordError> {
        let all = self.letters.next_if_eq(&'/').is_some();
        let pattern = Pattern::parse(&self.inner('/', true)?, self.rules.escape);
        let replacement = self.inner('}', false)?;
        let value = self.variables.value(name).unwrap_or_default();
        Ok(pattern.replace(&value, &replacement, all))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variables(name: &str) -> Option<String> {
        match name {
            "A" => Some("one two".to_owned()),
            "EMPTY" => Some(String::new()),
            "PATHS" => Some("/usr/lib/libc.so.6".to_owned()),
            "NAME" => Some("foobarfoo".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn one_word_follows_the_shells_rules() {
        let table = [
            ("plain", "plain"),
            ("$A", "one two"),
            ("a${A}b", "aone twob"),
            ("'$A'", "$A"),
            ("\"$A\"", "one two"),
            (r"\$A", "$A"),
            (r#""\$A \x""#, r"$A \x"),
            ("$", "$"),
            ("a$-b", "a$-b"),
            ("${UNSET:-x}", "x"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${A:+x}", "x"),
            ("${EMPTY:+x}", ""),
            ("${EMPTY+x}", "x"),
            ("${UNSET+x}", ""),
            ("${UNSET:-${ALSO:-$A}}", "one two"),
            ("${A:?needed}", "one two"),
            ("${PATHS#*/}", "usr/lib/libc.so.6"),
            ("${PATHS##*/}", "libc.so.6"),
            ("${PATHS%.*}", "/usr/lib/libc.so"),
            ("${PATHS%%.*}", "/usr/lib/libc"),
            ("${PATHS%.?}", "/usr/lib/libc.so"),
            ("${NAME/foo/x}", "xbarfoo"),
            ("${NAME//foo/x}", "xbarx"),
            ("${NAME//o*r/-}", "f-foo"),
            (r"${NAME/\*/x}", "foobarfoo"),
            ("${NAME/bar/}", "foofoo"),
            ("$UNSET", ""),
            (r"end\", r"end\"),
        ];
        for (text, expected) in table {
            assert_eq!(Words::new('\\').one(text, &variables).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn words_are_split_where_nothing_protects_them() {
        let table: [(&str, &[&str]); 6] = [
            ("a  b\tc", &["a", "b", "c"]),
            ("$A x", &["one", "two", "x"]),
            ("\"$A\" x", &["one two", "x"]),
            (r"a\ b", &["a b"]),
            ("'' x", &["", "x"]),
            ("x \"\"", &["x", ""]),
        ];
        for (text, expected) in table {
            assert_eq!(Words::new('\\').split(text, &variables).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn malformed_words_are_refused_with_what_is_wrong() {
        let error = |text: &str| Words::new('\\').one(text, &variables).unwrap_err();

        assert_eq!(error("'x"), WordError::Unclosed { quote: '\'' });
        assert_eq!(error("\"x"), WordError::Unclosed { quote: '"' });
        assert_eq!(error("${A"), WordError::MissingBrace);
        assert_eq!(error("${}"), WordError::MissingName);
        assert!(matches!(error("${A^}"), WordError::Modifier { .. }));
        assert!(matches!(error("${A:#x}"), WordError::Modifier { .. }));
        assert_eq!(error("${UNSET:?give it}").to_string(), "UNSET: give it");
        assert_eq!(error(&"${A:-".repeat(200)), WordError::TooDeep);
    }

    #[test]
    fn the_other_escape_character_and_plain_quotes_are_heeded() {
        let windows = Words::new('`');
        assert_eq!(windows.one(r"c:\x`$A", &variables).unwrap(), r"c:\x$A");

        let heredoc = Words { escape: '\\', plain_quotes: true };
        assert_eq!(heredoc.one(r#"it's "$A" \$A"#, &variables).unwrap(), r#"it's "one two" $A"#);
    }

    #[test]
    fn what_is_unset_is_known_unless_something_takes_its_place() {
        let unset = Words::new('\\').unset("$A $B ${C:-x} ${D}", &variables);

        assert_eq!(unset, ["B", "D"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[a$ {}:#%/\\\\'\"*?+-]{0,40}") {
            let _ = Words::new('\\').split(&text, &variables);
            let _ = Words::new('\\').unset(&text, &variables);
        }
    }
}
