//! Functions of templates: Go's built-in ones, and those that Docker's client adds.

use std::cmp::Ordering;

use super::{TemplateError, Value, printf};

/// Every function.
pub(super) const NAMES: [&str; 24] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not",
    "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate", "upper",
    "urlquery",
];

/// Calls a function.
pub(super) fn call(name: &str, arguments: Vec<Value>) -> Result<Value, TemplateError> {
    let call = Call { name, arguments };
    match name {
        "json" => Ok(Value::Text(call.one()?.to_json())),
        "len" => call.length(),
        "lower" => Ok(Value::Text(call.text_of_one()?.to_lowercase())),
        "upper" => Ok(Value::Text(call.text_of_one()?.to_uppercase())),
        "title" => Ok(Value::Text(title(call.text_of_one()?))),
        "urlquery" => Ok(Value::Text(url_query(call.text_of_one()?))),
        "join" => call.join(),
        "split" => call.split(),
        "pad" => call.pad(),
        "truncate" => call.truncate(),
        "index" => call.index(),
        "slice" => call.slice(),
        "not" => Ok(Value::Bool(!call.one()?.is_true())),
        "and" => call.first_that(|value| !value.is_true()),
        "or" => call.first_that(Value::is_true),
        "eq" => {
            let (left, others) = call.left_and_others()?;
            Ok(Value::Bool(others.iter().any(|right| left == right)))
        }
        "ne" => call.compare(Ordering::is_ne),
        "lt" => call.compare(Ordering::is_lt),
        "le" => call.compare(Ordering::is_le),
        "gt" => call.compare(Ordering::is_gt),
        "ge" => call.compare(Ordering::is_ge),
        "print" => Ok(Value::Text(print(&call.arguments, ""))),
        "println" => {
            let texts: Vec<String> = call.arguments.iter().map(Value::to_string).collect();
            Ok(Value::Text(texts.join(" ") + "\n"))
        }
        "printf" => match call.arguments.split_first() {
            Some((Value::Text(format), rest)) => Ok(Value::Text(printf::format(format, rest))),
            Some((other, _)) => Err(call.wrong_type(other)),
            None => Err(call.wrong_count("a format")),
        },
        _ => Err(TemplateError::NoFunction { name: name.to_owned(), known: NAMES.join(", ") }),
    }
}

/// A call under way.
struct Call<'a> {
    name: &'a str,
    arguments: Vec<Value>,
}

impl Call<'_> {
    fn wrong_count(&self, takes: &'static str) -> TemplateError {
        TemplateError::ArgumentCount {
            function: self.name.to_owned(),
            takes,
            got: self.arguments.len(),
        }
    }

    fn wrong_type(&self, value: &Value) -> TemplateError {
        TemplateError::ArgumentType { function: self.name.to_owned(), got: value.kind() }
    }

    fn one(&self) -> Result<&Value, TemplateError> {
        match self.arguments.as_slice() {
            [one] => Ok(one),
            _ => Err(self.wrong_count("one argument")),
        }
    }

    fn text_of_one(&self) -> Result<&str, TemplateError> {
        match self.one()? {
            Value::Text(text) => Ok(text),
            other => Err(self.wrong_type(other)),
        }
    }

    fn length(&self) -> Result<Value, TemplateError> {
        let length = match self.one()? {
            Value::Text(text) => text.len(),
            Value::List(items) => items.len(),
            Value::Map(entries) => entries.len(),
            Value::Null | Value::Nil(_) => 0,
            other => return Err(self.wrong_type(other)),
        };
        Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
    }

    fn join(&self) -> Result<Value, TemplateError> {
        match self.arguments.as_slice() {
            [Value::List(items), Value::Text(separator)] => {
                let texts: Vec<String> = items.iter().map(Value::to_string).collect();
                Ok(Value::Text(texts.join(separator)))
            }
            [Value::Null | Value::Nil(_), Value::Text(_)] => Ok(Value::text("")),
            [Value::List(_), other] | [other, _] => Err(self.wrong_type(other)),
            _ => Err(self.wrong_count("a list and a separator")),
        }
    }

    fn split(&self) -> Result<Value, TemplateError> {
        match self.arguments.as_slice() {
            [Value::Text(text), Value::Text(separator)] => {
                Ok(Value::texts(text.split(separator.as_str())))
            }
            [Value::Text(_), other] | [other, _] => Err(self.wrong_type(other)),
            _ => Err(self.wrong_count("a text and a separator")),
        }
    }

    fn pad(&self) -> Result<Value, TemplateError> {
        match self.arguments.as_slice() {
            [Value::Text(text), Value::Int(before), Value::Int(after)] => {
                if text.is_empty() {
                    return Ok(Value::text(""));
                }
                let spaces = |count: i64| " ".repeat(usize::try_from(count).unwrap_or(0));
                Ok(Value::Text(format!("{}{text}{}", spaces(*before), spaces(*after))))
            }
            _ => Err(self.wrong_count("a text and two numbers")),
        }
    }

    fn truncate(&self) -> Result<Value, TemplateError> {
        match self.arguments.as_slice() {
            [Value::Text(text), Value::Int(length)] => {
                let length = usize::try_from(*length).unwrap_or(0);
                Ok(Value::Text(text.chars().take(length).collect()))
            }
            [Value::Text(_), other] | [other, _] => Err(self.wrong_type(other)),
            _ => Err(self.wrong_count("a text and a length")),
        }
    }

    fn index(&self) -> Result<Value, TemplateError> {
        let Some((first, keys)) = self.arguments.split_first() else {
            return Err(self.wrong_count("a list or a map, and keys"));
        };
        let mut value = first.clone();
        for key in keys {
            value = match (&value, key) {
                (Value::List(items), Value::Int(index)) => {
                    let found = usize::try_from(*index).ok().and_then(|index| items.get(index));
                    found
                        .cloned()
                        .ok_or(TemplateError::OutOfRange { index: *index, length: items.len() })?
                }
                (Value::Map(entries), Value::Text(key)) => {
                    entries.get(key).map_or_else(|| Value::text(""), |found| found.plain().clone())
                }
                (Value::Record(fields), Value::Text(key)) => {
                    let found = fields.iter().find(|(name, _)| name == key);
                    found.map_or(Value::Null, |(_, value)| value.plain().clone())
                }
                (Value::Nil("map[]"), Value::Text(_)) => Value::text(""),
                (Value::Null | Value::Nil(_), _) => Value::Null,
                (other, _) => return Err(self.wrong_type(other)),
            };
        }
        Ok(value)
    }

    fn slice(&self) -> Result<Value, TemplateError> {
        let bounds = |length: usize| -> Result<std::ops::Range<usize>, TemplateError> {
            let at = |place: usize, default: usize| match self.arguments.get(place) {
                None => Ok(default),
                Some(Value::Int(index)) => match usize::try_from(*index) {
                    Ok(index) if index <= length => Ok(index),
                    _ => Err(TemplateError::OutOfRange { index: *index, length }),
                },
                Some(other) => Err(self.wrong_type(other)),
            };
            let start = at(1, 0)?;
            Ok(start..at(2, length)?.max(start))
        };
        match self.arguments.first() {
            Some(Value::Text(text)) => {
                let bytes = &text.as_bytes()[bounds(text.len())?];
                Ok(Value::Text(String::from_utf8_lossy(bytes).into_owned()))
            }
            Some(Value::List(items)) => Ok(Value::List(items[bounds(items.len())?].to_vec())),
            Some(other) => Err(self.wrong_type(other)),
            None => Err(self.wrong_count("a text or a list, and bounds")),
        }
    }

    /// The first argument that passes the test, else the last.
    fn first_that(&self, test: impl Fn(&Value) -> bool) -> Result<Value, TemplateError> {
        let found = self.arguments.iter().find(|value| test(value)).or(self.arguments.last());
        found.cloned().ok_or_else(|| self.wrong_count("at least one argument"))
    }

    fn left_and_others(&self) -> Result<(&Value, &[Value]), TemplateError> {
        match self.arguments.split_first() {
            Some((left, others)) if !others.is_empty() => Ok((left, others)),
            _ => Err(self.wrong_count("two arguments")),
        }
    }

    fn compare(&self, test: impl Fn(Ordering) -> bool) -> Result<Value, TemplateError> {
        let [left, right] = self.arguments.as_slice() else {
            return Err(self.wrong_count("two arguments"));
        };
        let ordering = match (left, right) {
            (Value::Int(left), Value::Int(right)) => left.cmp(right),
            (Value::Text(left), Value::Text(right)) => left.cmp(right),
            (Value::Float(left), Value::Float(right)) => left.total_cmp(right),
            (left, right) if left == right => Ordering::Equal,
            (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
            (_, other) => return Err(self.wrong_type(other)),
        };
        Ok(Value::Bool(test(ordering)))
    }
}

/// Go's `print`: a space between operands when neither is a text.
fn print(values: &[Value], start: &str) -> String {
    let mut out = start.to_owned();
    for (index, value) in values.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|before| values.get(before));
        let is_text = |value: &Value| matches!(value, Value::Text(_));
        if before.is_some_and(|before| !is_text(before) && !is_text(value)) {
            out.push(' ');
        }
        out.push_str(&value.to_string());
    }
    out
}

/// Makes the first letter of each word a capital.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for character in text.chars() {
        if inside {
            out.push(character);
        } else {
            out.extend(character.to_uppercase());
        }
        inside = character.is_alphanumeric() || character == '_' || character == '\'';
    }
    out
}

/// Escapes text for the query of a URL.
fn url_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
