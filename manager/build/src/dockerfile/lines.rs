//! Lines: directives at the top, comments, continued lines, heredocs.

use std::ops::RangeInclusive;

use super::ParseError;
use super::heredoc::{self, Heredoc};

/// Largest Dockerfile that is read.
pub const MAX_BYTES: usize = 16 << 20;

/// An instruction as it stands in the file, continued lines joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The whole of it.
    pub text: String,
    /// Lines of the file that it takes, the first being 1.
    pub range: RangeInclusive<usize>,
    /// Texts that follow it.
    pub heredocs: Vec<Heredoc>,
    /// Whether an empty line is in the middle of it.
    pub has_empty_continuation: bool,
}

/// What comments at the top say about the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: the frontend that the file is written for.
    pub syntax: Option<String>,
    /// `# escape=`.
    pub escape: char,
    /// `# check=`: which checks are left out.
    pub check: Option<String>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: None }
    }
}

/// Splits a file into instructions.
///
/// # Errors
/// [`ParseError`] for a bad directive or a heredoc without end.
pub(super) fn split(text: &str) -> Result<(Directives, Vec<Line>), ParseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let directives = directives(&lines)?;
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = bare(lines[at]).trim_start();
        if line.is_empty() || line.starts_with('#') {
            at += 1;
            continue;
        }
        let (line, next) = instruction(&lines, at, directives.escape)?;
        if !line.text.trim().is_empty() {
            found.push(line);
        }
        at = next;
    }
    Ok((directives, found))
}

/// A line without its end.
fn bare(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

/// Reads `# key=value` lines, up to the first line that is something else.
fn directives(lines: &[&str]) -> Result<Directives, ParseError> {
    let mut directives = Directives::default();
    let mut seen = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some((key, value)) = bare(line)
            .trim_start()
            .strip_prefix('#')
            .and_then(|comment| comment.trim_start().split_once('='))
        else {
            break;
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        let known = matches!(key.as_str(), "syntax" | "escape" | "check");
        if !known {
            break;
        }
        let line = index + 1;
        if seen.contains(&key) {
            return Err(ParseError::RepeatedDirective { line, name: key });
        }
        match key.as_str() {
            "syntax" => directives.syntax = Some(value.to_owned()),
            "check" => directives.check = Some(value.to_owned()),
            _ => {
                directives.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    other => {
                        return Err(ParseError::Escape { line, found: other.to_owned() });
                    }
                }
            }
        }
        seen.push(key);
    }
    Ok(directives)
}

/// Joins the lines of the instruction that begins at `at`; returns where the next may begin.
fn instruction(lines: &[&str], at: usize, escape: char) -> Result<(Line, usize), ParseError> {
    let mut text = String::new();
    let mut has_empty_continuation = false;
    let mut last = at;
    let (first, mut goes_on) = continued(bare(lines[at]).trim_start(), escape);
    text.push_str(first);
    let mut next = at + 1;
    while goes_on && next < lines.len() {
        let line = bare(lines[next]);
        next += 1;
        if line.trim_start().starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            has_empty_continuation = true;
            continue;
        }
        let (part, more) = continued(line, escape);
        text.push_str(part);
        goes_on = more;
        last = next - 1;
    }
    let wanted = heredoc::announced(&text, escape);
    let mut heredocs = Vec::new();
    for mut heredoc in wanted {
        let mut is_closed = false;
        while next < lines.len() {
            let line = lines[next];
            next += 1;
            let mark = bare(line);
            let mark = if heredoc.strips_tabs { mark.trim_start_matches('\t') } else { mark };
            if mark == heredoc.name {
                is_closed = true;
                break;
            }
            heredoc.content.push_str(line);
        }
        if !is_closed {
            return Err(ParseError::OpenHeredoc { line: at + 1, name: heredoc.name });
        }
        last = next - 1;
        heredocs.push(heredoc);
    }
    let text = text.trim_end().to_owned();
    Ok((Line { text, range: at + 1..=last + 1, heredocs, has_empty_continuation }, next))
}

/// Takes the escape character off the end of a line that goes on; two of them are one that is meant.
fn continued(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(file: &str) -> Vec<(String, RangeInclusive<usize>)> {
        split(file).unwrap().1.into_iter().map(|line| (line.text, line.range)).collect()
    }

    #[test]
    fn continued_lines_are_joined_and_comments_in_them_left_out() {
        let file = "FROM a\n\n# x\nRUN one \\\n  # not this\n\n  two \\  \n  three\nCMD x";

        assert_eq!(
            texts(file),
            [
                ("FROM a".to_owned(), 1..=1),
                ("RUN one   two   three".to_owned(), 4..=8),
                ("CMD x".to_owned(), 9..=9)
            ]
        );
        assert!(split(file).unwrap().1[1].has_empty_continuation);
    }

    #[test]
    fn directives_stand_at_the_top_and_nowhere_else() {
        let (directives, _) = split("# syntax=docker/dockerfile:1\n# ESCAPE = `\nFROM a").unwrap();
        assert_eq!(directives.syntax.as_deref(), Some("docker/dockerfile:1"));
        assert_eq!(directives.escape, '`');

        for late in ["# a comment\n# escape=`\nFROM a", "\n# escape=`\n", "FROM a\n# escape=`"] {
            assert_eq!(split(late).unwrap().0.escape, '\\', "{late}");
        }
        assert!(matches!(split("# escape=x\n"), Err(ParseError::Escape { line: 1, .. })));
        assert!(matches!(
            split("# escape=`\n# escape=`\n"),
            Err(ParseError::RepeatedDirective { line: 2, .. })
        ));
    }

    #[test]
    fn a_doubled_escape_does_not_continue_a_line() {
        assert_eq!(texts("RUN a \\\\\nCMD b").len(), 2);
        assert_eq!(texts("# escape=`\nRUN a `\n b\nRUN c:\\\nCMD d").len(), 3);
    }

    #[test]
    fn heredocs_belong_to_their_instruction() {
        let file = "RUN <<-A cat <<'B'\n\tone\n\tA\n$two\nB\nCMD x\n";
        let (_, lines) = split(file).unwrap();

        assert_eq!(lines[0].range, 1..=5);
        let contents: Vec<&str> = lines[0].heredocs.iter().map(|h| h.content.as_str()).collect();
        assert_eq!(contents, ["\tone\n", "$two\n"]);
        assert!(lines[0].heredocs[0].expands && !lines[0].heredocs[1].expands);
        assert_eq!(lines[1].text, "CMD x");
        assert!(matches!(split("COPY <<X /a\nb"), Err(ParseError::OpenHeredoc { line: 1, .. })));
    }

    proptest! {
        #[test]
        fn no_file_makes_the_splitter_panic(file in "(RUN |COPY |#|<<E|E|\\\\|\n|\r|\t| |x|')*") {
            let _ = split(&file);
        }
    }
}
