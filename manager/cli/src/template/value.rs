//! What templates are filled with: JSON's types, with records told apart from maps.

use std::collections::BTreeMap;
use std::fmt;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// A value that a template can print, walk and compare.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Nothing.
    Null,
    /// An empty list, map or pointer that JSON shows as `null`, and how Go prints it.
    Nil(&'static str),
    /// The value of a field that JSON leaves out while it is empty, and that templates know all the same.
    Omitted(Box<Value>),
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// Values in order.
    List(Vec<Value>),
    /// Fields known in advance, in the order in which JSON shows them; asking for another field
    /// is an error.
    Record(Vec<(&'static str, Value)>),
    /// Any keys; asking for one that is absent gives nothing.
    Map(BTreeMap<String, Value>),
    /// A method such as `.Label "key"`: takes a key, and is absent from JSON.
    Lookup(BTreeMap<String, String>),
}

impl Value {
    /// A list that is not there.
    pub(crate) const NO_LIST: Self = Self::Nil("[]");
    /// A map that is not there.
    pub(crate) const NO_MAP: Self = Self::Nil("map[]");
    /// A number or an object that is not there.
    pub(crate) const NIL: Self = Self::Nil("<nil>");

    /// Makes a text.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Makes a record.
    pub(crate) fn record(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        Self::Record(fields.into_iter().collect())
    }

    /// Makes a map.
    pub(crate) fn map(entries: impl IntoIterator<Item = (String, Value)>) -> Self {
        Self::Map(entries.into_iter().collect())
    }

    /// Makes a map; one without entries is not there.
    pub(crate) fn map_or_nil(entries: impl IntoIterator<Item = (String, Value)>) -> Self {
        match Self::map(entries) {
            Self::Map(none) if none.is_empty() => Self::NO_MAP,
            map => map,
        }
    }

    /// Makes a method that looks keys up.
    pub(crate) fn lookup(entries: impl IntoIterator<Item = (String, String)>) -> Self {
        Self::Lookup(entries.into_iter().collect())
    }

    /// Makes a list of texts.
    pub(crate) fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    /// Makes a number of an unsigned one; what does not fit is the largest that does.
    pub(crate) fn unsigned(number: impl Into<u64>) -> Self {
        Self::Int(i64::try_from(number.into()).unwrap_or(i64::MAX))
    }

    /// What Go's templates take for true: anything but nothing, zero and emptiness.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Self::Null | Self::Nil(_) => false,
            Self::Omitted(value) => value.is_true(),
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Record(_) => true,
            Self::Map(entries) => !entries.is_empty(),
            Self::Lookup(entries) => !entries.is_empty(),
        }
    }

    /// The value itself, also of a field that JSON leaves out.
    pub(crate) fn plain(&self) -> &Self {
        match self {
            Self::Omitted(value) => value,
            value => value,
        }
    }

    fn is_in_json(&self) -> bool {
        !matches!(self, Self::Lookup(_) | Self::Omitted(_))
    }

    /// The type, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null | Self::Nil(_) => "nothing",
            Self::Omitted(value) => value.kind(),
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Record(_) => "an object",
            Self::Map(_) => "a map",
            Self::Lookup(_) => "a method",
        }
    }

    /// The value as compact JSON.
    pub(crate) fn to_json(&self) -> String {
        // Keys are strings and numbers are finite or become null, so this cannot fail; an empty
        // text would be seen at once if it did.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The value as JSON indented by four spaces, as `docker inspect` prints.
    pub(crate) fn to_pretty_json(&self) -> String {
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        match self.serialize(&mut serializer) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => String::new(),
        }
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(value),
            Json::Number(number) => match number.as_i64() {
                Some(whole) => Self::Int(whole),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::Text(text),
            Json::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Json::Object(entries) => {
                Self::Map(entries.into_iter().map(|(key, value)| (key, value.into())).collect())
            }
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null | Self::Nil(_) | Self::Lookup(_) => serializer.serialize_unit(),
            Self::Omitted(value) => value.serialize(serializer),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => {
                serializer.collect_map(entries.iter().filter(|(_, value)| value.is_in_json()))
            }
            Self::Record(fields) => {
                let mut map = serializer.serialize_map(None)?;
                for (name, value) in fields.iter().filter(|(_, value)| value.is_in_json()) {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

/// As Go prints values: `[a b]`, `map[k:v]`, `{x y}`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("<no value>"),
            Self::Nil(printed) => f.write_str(printed),
            Self::Omitted(value) => value.fmt(f),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(text) => f.write_str(text),
            Self::List(items) => {
                f.write_str("[")?;
                separated(f, items.iter(), |f, item| write!(f, "{item}"))?;
                f.write_str("]")
            }
            Self::Map(entries) => {
                f.write_str("map[")?;
                separated(f, entries.iter(), |f, (key, value)| write!(f, "{key}:{value}"))?;
                f.write_str("]")
            }
            Self::Lookup(entries) => {
                f.write_str("map[")?;
                separated(f, entries.iter(), |f, (key, value)| write!(f, "{key}:{value}"))?;
                f.write_str("]")
            }
            Self::Record(fields) => {
                f.write_str("{")?;
                let visible = fields.iter().filter(|(_, value)| !matches!(value, Self::Lookup(_)));
                separated(f, visible, |f, (_, value)| write!(f, "{value}"))?;
                f.write_str("}")
            }
        }
    }
}

/// Writes items with a space between them.
fn separated<'f, T>(
    f: &mut fmt::Formatter<'f>,
    items: impl Iterator<Item = T>,
    write: impl Fn(&mut fmt::Formatter<'f>, T) -> fmt::Result,
) -> fmt::Result {
    for (index, item) in items.enumerate() {
        if index > 0 {
            f.write_str(" ")?;
        }
        write(f, item)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_the_order_of_a_record_and_hides_methods() {
        let value = Value::record([
            ("b", Value::Int(1)),
            ("a", Value::Null),
            ("Label", Value::lookup([("k".to_owned(), "v".to_owned())])),
        ]);

        assert_eq!(value.to_json(), r#"{"b":1,"a":null}"#);
        assert_eq!(value.to_pretty_json(), "{\n    \"b\": 1,\n    \"a\": null\n}");
    }

    #[test]
    fn json_is_read_back_unchanged() {
        let source = r#"{"a":[1,2.5,"x",null,true],"b":{}}"#;

        let value = Value::from(serde_json::from_str::<serde_json::Value>(source).expect("json"));

        assert_eq!(value.to_json(), source);
    }
}
