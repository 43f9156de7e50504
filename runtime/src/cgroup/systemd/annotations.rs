//! Properties that the bundle wants its unit to have: annotations `org.systemd.property.NAME`, as runc
//! takes them.
//!
//! ```text
//! "org.systemd.property.CollectMode": "'inactive-or-failed'"
//! "org.systemd.property.TimeoutStopUSec": "uint64 123456789"
//! "org.systemd.property.TimeoutStopSec": "1.5"                the same in seconds
//! "org.systemd.property.After": "['network.target']"
//! ```
//!
//! A value is written in the text format of GVariant: what `busctl` and `gdbus` print. Numbers
//! without a type are `int32`, those with a point `double`.

use std::collections::HashMap;

use super::super::error::CgroupError;
use super::wire::Variant;

/// What the annotations begin with.
pub(in crate::cgroup) const PREFIX: &str = "org.systemd.property.";

/// Shorter names does no property have.
const MIN_NAME_BYTES: usize = 3;
const SEC_USEC: f64 = 1_000_000.0;

/// A property that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cgroup) struct Asked {
    pub(super) name: String,
    pub(super) value: Variant,
}

/// Reads the properties, sorted by their names.
pub(in crate::cgroup) fn read(
    annotations: &HashMap<String, String>,
) -> Result<Vec<Asked>, CgroupError> {
    let mut asked = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        let refuse = |why| CgroupError::UnitProperty { key: key.clone(), value: text.clone(), why };
        if name.len() < MIN_NAME_BYTES || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(refuse(
                "the name of a property has three letters or more, and nothing else",
            ));
        }
        let value = Text(text.trim()).value().filter(|(_, rest)| rest.0.is_empty());
        let (value, _) = value.ok_or_else(|| {
            refuse("expected a boolean, a number such as 'uint64 5', a string in quotes or a list")
        })?;
        asked.push(match in_seconds(name) {
            Some(stem) => Asked {
                name: format!("{stem}USec"),
                value: to_usec(&value).ok_or_else(|| refuse("expected a number of seconds"))?,
            },
            None => Asked { name: name.to_owned(), value },
        });
    }
    asked.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(asked)
}

/// The name of a duration without its unit, if that is seconds: units' files have those, the bus has
/// microseconds.
fn in_seconds(name: &str) -> Option<&str> {
    name.strip_suffix("Sec").filter(|stem| stem.ends_with(|last: char| last.is_ascii_lowercase()))
}

fn to_usec(seconds: &Variant) -> Option<Variant> {
    let whole = |seconds: u64| seconds.checked_mul(1_000_000);
    let usec = match seconds {
        Variant::Byte(seconds) => whole((*seconds).into()),
        Variant::Short(seconds) => whole(u64::try_from(*seconds).ok()?),
        Variant::UnsignedShort(seconds) => whole((*seconds).into()),
        Variant::Int(seconds) => whole(u64::try_from(*seconds).ok()?),
        Variant::Unsigned(seconds) => whole((*seconds).into()),
        Variant::Long(seconds) => whole(u64::try_from(*seconds).ok()?),
        Variant::Number(seconds) => whole(*seconds),
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a fraction of a microsecond is cut off, and the range was looked at"
        )]
        Variant::Double(seconds) => {
            let usec = seconds * SEC_USEC;
            (0.0..1.8e19).contains(&usec).then_some(usec as u64)
        }
        _ => None,
    }?;
    Some(Variant::Number(usec))
}

/// The rest of a text. Each function takes something off its begin, and gives what is left.
#[derive(Debug, Clone, Copy)]
struct Text<'a>(&'a str);

type Taken<'a, T> = Option<(T, Text<'a>)>;

impl<'a> Text<'a> {
    fn value(self) -> Taken<'a, Variant> {
        match self.0.as_bytes().first()? {
            b'\'' | b'"' => self.string().map(|(text, rest)| (Variant::Text(text), rest)),
            b'[' => self.list("as"),
            b'@' => {
                let (signature, rest) = Self(&self.0[1..]).word();
                match signature.strip_prefix('a') {
                    Some(_) => rest.list(signature),
                    None => rest.typed(signature),
                }
            }
            b'0'..=b'9' | b'-' | b'+' | b'.' => {
                let (number, rest) = self.word();
                let kind = if is_fraction(number) { "d" } else { "i" };
                Some((scalar(kind, number)?, rest))
            }
            _ => {
                let (word, rest) = self.word();
                match word {
                    "true" | "false" => Some((Variant::Bool(word == "true"), rest)),
                    _ => rest.typed(TYPES.iter().find(|(name, _)| *name == word)?.1),
                }
            }
        }
    }

    /// A value after the name of its type.
    fn typed(self, signature: &str) -> Taken<'a, Variant> {
        if signature == "s" {
            return self.string().map(|(text, rest)| (Variant::Text(text), rest));
        }
        let (word, rest) = self.word();
        Some((scalar(signature, word)?, rest))
    }

    /// What ends at a space or a sign.
    fn word(self) -> (&'a str, Self) {
        let end = self.0.find(|letter: char| letter.is_whitespace() || ",]".contains(letter));
        let (word, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        (word, Self(rest.trim_start()))
    }

    fn string(self) -> Taken<'a, String> {
        let quote = self.0.chars().next().filter(|quote| "'\"".contains(*quote))?;
        let mut text = String::new();
        let mut letters = self.0.char_indices().skip(1);
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => text.push(match letters.next()?.1 {
                    'n' => '\n',
                    't' => '\t',
                    // Of the others, those that stand for themselves.
                    same @ ('\\' | '\'' | '"') => same,
                    _ => return None,
                }),
                end if end == quote => return Some((text, Self(self.0[at + 1..].trim_start()))),
                other => text.push(other),
            }
        }
        None
    }

    fn list(self, signature: &str) -> Taken<'a, Variant> {
        let mut rest = Self(self.0.strip_prefix('[')?.trim_start());
        let (mut texts, mut numbers, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        while !rest.0.starts_with(']') {
            let element;
            (element, rest) = rest.typed(signature.strip_prefix('a')?)?;
            match element {
                Variant::Text(text) => texts.push(text),
                Variant::Unsigned(number) => numbers.push(number),
                Variant::Byte(byte) => bytes.push(byte),
                _ => return None,
            }
            match rest.0.strip_prefix(',') {
                Some(next) => rest = Self(next.trim_start()),
                None if rest.0.starts_with(']') => {}
                None => return None,
            }
        }
        let list = match signature {
            "as" => Variant::Texts(texts),
            "au" => Variant::Numbers(numbers),
            "ay" => Variant::Bytes(bytes),
            _ => return None,
        };
        Some((list, Self(rest.0[1..].trim_start())))
    }
}

/// GVariant's words for types, and D-Bus' letters.
const TYPES: [(&str, &str); 10] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
];

fn is_fraction(number: &str) -> bool {
    !number.contains("0x") && number.contains(['.', 'e', 'E'])
}

fn scalar(signature: &str, word: &str) -> Option<Variant> {
    let number = || integer(word);
    Some(match signature {
        "b" => Variant::Bool(word.parse().ok()?),
        "y" => Variant::Byte(number()?.try_into().ok()?),
        "n" => Variant::Short(number()?.try_into().ok()?),
        "q" => Variant::UnsignedShort(number()?.try_into().ok()?),
        "i" => Variant::Int(number()?.try_into().ok()?),
        "u" => Variant::Unsigned(number()?.try_into().ok()?),
        "x" => Variant::Long(number()?.try_into().ok()?),
        "t" => Variant::Number(number()?.try_into().ok()?),
        "d" => Variant::Double(word.parse().ok()?),
        _ => return None,
    })
}

/// Decimal, `0x…` or, with a leading zero, octal.
fn integer(word: &str) -> Option<i128> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let number = match (digits.strip_prefix("0x"), digits.strip_prefix('0')) {
        (Some(digits), _) => u64::from_str_radix(digits, 16),
        (None, Some(digits)) if !digits.is_empty() => u64::from_str_radix(digits, 8),
        _ => digits.parse(),
    };
    let number =
        i128::from(number.ok().filter(|_| digits.starts_with(|one: char| one.is_ascii_digit()))?);
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(name: &str, text: &str) -> Result<Asked, CgroupError> {
        let annotations = HashMap::from([
            (format!("{PREFIX}{name}"), text.to_owned()),
            ("org.example.other".to_owned(), "x".to_owned()),
        ]);
        read(&annotations).map(|mut asked| asked.remove(0))
    }

    #[test]
    fn values_have_the_types_that_their_text_tells() {
        let texts = |all: &[&str]| Variant::Texts(all.iter().map(|&text| text.into()).collect());
        for (text, value) in [
            ("'inactive-or-failed'", Variant::Text("inactive-or-failed".into())),
            (r#""it's \"so\"\\""#, Variant::Text("it's \"so\"\\".into())),
            ("true", Variant::Bool(true)),
            ("boolean false", Variant::Bool(false)),
            ("5", Variant::Int(5)),
            ("-0x10", Variant::Int(-16)),
            ("010", Variant::Int(8)),
            ("1.5", Variant::Double(1.5)),
            ("uint64 123456789", Variant::Number(123_456_789)),
            ("@t 18446744073709551615", Variant::Number(u64::MAX)),
            ("int64 -1", Variant::Long(-1)),
            ("uint32 7", Variant::Unsigned(7)),
            ("uint16 7", Variant::UnsignedShort(7)),
            ("int16 -7", Variant::Short(-7)),
            ("byte 0xff", Variant::Byte(255)),
            ("['a', \"b\"]", texts(&["a", "b"])),
            ("@as []", texts(&[])),
            ("@au [1, 2]", Variant::Numbers(vec![1, 2])),
            ("@ay [0x01,0xff]", Variant::Bytes(vec![1, 255])),
        ] {
            let asked = Asked { name: "Some".into(), value };
            assert_eq!(read_one("Some", text).unwrap(), asked, "{text}");
        }
    }

    #[test]
    fn seconds_become_microseconds() {
        for (name, text, converted, usec) in [
            ("TimeoutStopSec", "1.5", "TimeoutStopUSec", 1_500_000),
            ("TimeoutStopSec", "uint64 3", "TimeoutStopUSec", 3_000_000),
            ("TimeoutStopSec", "7", "TimeoutStopUSec", 7_000_000),
        ] {
            let asked = Asked { name: converted.into(), value: Variant::Number(usec) };
            assert_eq!(read_one(name, text).unwrap(), asked, "{name} {text}");
        }
        let asked = read_one("TimeoutStopUSec", "uint64 3").unwrap();
        assert_eq!((asked.name.as_str(), asked.value), ("TimeoutStopUSec", Variant::Number(3)));
    }

    #[test]
    fn what_is_no_property_is_refused_with_its_annotation() {
        for (name, text) in [
            ("No", "true"),
            ("Not-A-Name", "true"),
            ("Some", ""),
            ("Some", "'open"),
            ("Some", "'a' 'b'"),
            ("Some", "bare"),
            ("Some", "['a' 'b']"),
            ("Some", "[1]"),
            ("Some", "byte 256"),
            ("Some", "uint32 -1"),
            ("Some", "3000000000"),
            ("Some", "@ad [1.0]"),
            ("TimeoutStopSec", "'1s'"),
            ("TimeoutStopSec", "-1"),
            ("TimeoutStopSec", "uint64 18446744073709551615"),
        ] {
            let error = read_one(name, text).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(text), "{name} {text}: {error}");
        }
    }
}
