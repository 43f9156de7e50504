//! Text to tokens: literal text outside of `{{ }}`, words and signs inside.

use super::{TemplateError, Value};

/// One token. Text and the bounds of actions are told apart, so that the parser needs no offsets.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Text outside of actions.
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// `.A.B`: the names; empty for the lone dot.
    Field(Vec<String>),
    /// `$` or `$x`, with its dollar.
    Variable(String),
    /// A keyword or a function.
    Word(String),
    /// A string, number, truth value or `nil`.
    Literal(Value),
    /// `|`
    Pipe,
    /// `(`
    OpenParenthesis,
    /// `)`
    CloseParenthesis,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `,`
    Comma,
}

impl Token {
    /// The token as messages show it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("the text {text:?}"),
            Self::Open => "\"{{\"".to_owned(),
            Self::Close => "\"}}\"".to_owned(),
            Self::Field(names) => format!("\".{}\"", names.join(".")),
            Self::Variable(name) | Self::Word(name) => format!("{name:?}"),
            Self::Literal(value) => value.to_json(),
            Self::Pipe => "\"|\"".to_owned(),
            Self::OpenParenthesis => "\"(\"".to_owned(),
            Self::CloseParenthesis => "\")\"".to_owned(),
            Self::Declare => "\":=\"".to_owned(),
            Self::Assign => "\"=\"".to_owned(),
            Self::Comma => "\",\"".to_owned(),
        }
    }
}

/// Splits a template into tokens.
pub(super) fn lex(source: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut trim_next = false;
    while at < source.len() {
        let rest = &source[at..];
        let (text, action) = match rest.find("{{") {
            Some(length) => (&rest[..length], Some(at + length)),
            None => (rest, None),
        };
        let mut text = if trim_next { text.trim_start() } else { text };
        let Some(open) = action else {
            push_text(&mut tokens, text);
            break;
        };
        let (start, trim_before) = action_start(source, open);
        if trim_before {
            text = text.trim_end();
        }
        push_text(&mut tokens, text);
        (at, trim_next) = lex_action(source, open, start, &mut tokens)?;
    }
    Ok(tokens)
}

/// Adds text, unless it is empty.
fn push_text(tokens: &mut Vec<Token>, text: &str) {
    if !text.is_empty() {
        tokens.push(Token::Text(text.to_owned()));
    }
}

/// Where the inside of the action at `open` starts, and whether `{{- ` trims before it.
fn action_start(source: &str, open: usize) -> (usize, bool) {
    let inside = &source[open + 2..];
    let trims = inside.strip_prefix('-').is_some_and(|rest| rest.starts_with(char::is_whitespace));
    (open + 2 + usize::from(trims), trims)
}

/// Reads one action; returns where text goes on, and whether `-}}` trims that text.
fn lex_action(
    source: &str,
    open: usize,
    start: usize,
    tokens: &mut Vec<Token>,
) -> Result<(usize, bool), TemplateError> {
    let unclosed = || TemplateError::Unclosed { offset: open };
    if let Some(comment) = source[start..].trim_start().strip_prefix("/*") {
        let after = comment.find("*/").map(|end| &comment[end + 2..]).ok_or_else(unclosed)?;
        let closed = after.trim_start();
        let (rest, trims) = match closed.strip_prefix("-}}") {
            Some(rest) => (rest, true),
            None => (closed.strip_prefix("}}").ok_or_else(unclosed)?, false),
        };
        return Ok((source.len() - rest.len(), trims));
    }
    tokens.push(Token::Open);
    let mut at = start;
    loop {
        let rest = &source[at..];
        let Some(first) = rest.chars().next() else {
            return Err(unclosed());
        };
        if let Some(after) = rest.strip_prefix("}}") {
            tokens.push(Token::Close);
            return Ok((source.len() - after.len(), false));
        }
        if first.is_whitespace() {
            if let Some(after) = rest.trim_start().strip_prefix("-}}") {
                tokens.push(Token::Close);
                return Ok((source.len() - after.len(), true));
            }
            at += first.len_utf8();
            continue;
        }
        let (token, length) = lex_token(rest, at)?;
        tokens.push(token);
        at += length;
    }
}

/// Reads one token inside an action; returns it with its length in bytes.
fn lex_token(rest: &str, offset: usize) -> Result<(Token, usize), TemplateError> {
    let first = rest.chars().next().unwrap_or('\0');
    match first {
        '|' => Ok((Token::Pipe, 1)),
        '(' => Ok((Token::OpenParenthesis, 1)),
        ')' => Ok((Token::CloseParenthesis, 1)),
        ',' => Ok((Token::Comma, 1)),
        '=' => Ok((Token::Assign, 1)),
        ':' if rest.starts_with(":=") => Ok((Token::Declare, 2)),
        '.' => Ok(lex_field(rest)),
        '$' => {
            let length = 1 + word_length(&rest[1..]);
            Ok((Token::Variable(rest[..length].to_owned()), length))
        }
        '"' | '`' | '\'' => lex_quoted(rest, first, offset),
        '0'..='9' | '-' | '+' => lex_number(rest, first, offset),
        _ if first.is_alphabetic() || first == '_' => {
            let length = word_length(rest);
            let token = match &rest[..length] {
                "true" => Token::Literal(Value::Bool(true)),
                "false" => Token::Literal(Value::Bool(false)),
                "nil" => Token::Literal(Value::Null),
                word => Token::Word(word.to_owned()),
            };
            Ok((token, length))
        }
        found => Err(TemplateError::UnexpectedCharacter { offset, found }),
    }
}

/// Bytes of the letters, digits and underscores that `text` begins with.
fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// Reads `.`, `.A`, `.A.B`.
fn lex_field(rest: &str) -> (Token, usize) {
    let mut names = Vec::new();
    let mut at = 0;
    while rest[at..].starts_with('.') {
        let length = word_length(&rest[at + 1..]);
        if length == 0 {
            break;
        }
        names.push(rest[at + 1..at + 1 + length].to_owned());
        at += 1 + length;
    }
    (Token::Field(names), at.max(1))
}

/// Reads "interpreted", `raw` or 'character'.
fn lex_quoted(rest: &str, quote: char, offset: usize) -> Result<(Token, usize), TemplateError> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        if character == quote {
            let literal = match quote {
                '\'' => Value::Int(text.chars().next().map_or(0, |c| i64::from(u32::from(c)))),
                _ => Value::Text(text),
            };
            return Ok((Token::Literal(literal), at + 1));
        }
        if character != '\\' || quote == '`' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some((_, 'n')) => text.push('\n'),
            Some((_, 't')) => text.push('\t'),
            Some((_, 'r')) => text.push('\r'),
            Some((_, escaped)) => text.push(escaped),
            None => break,
        }
    }
    Err(TemplateError::UnclosedString { offset })
}

/// Reads a whole or a decimal number.
fn lex_number(rest: &str, first: char, offset: usize) -> Result<(Token, usize), TemplateError> {
    let length = rest[1..]
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .map_or(rest.len(), |length| length + 1);
    let digits = &rest[..length];
    let value = match digits.parse::<i64>() {
        Ok(whole) => Value::Int(whole),
        Err(_) => Value::Float(
            digits
                .parse()
                .map_err(|_| TemplateError::UnexpectedCharacter { offset, found: first })?,
        ),
    };
    Ok((Token::Literal(value), length))
}
