//! Objects of the daemon as Docker's client shows them: rows of tables, and the JSON of `inspect`.
//! Pure: from messages to values.

pub(crate) mod container;
pub(crate) mod event;
pub(crate) mod history;
pub(crate) mod image;
pub(crate) mod network;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod stats;
pub(crate) mod system;
pub(crate) mod tree;
pub(crate) mod usage;
pub(crate) mod volume;

use std::collections::HashMap;

use crate::template::Value;

/// Labels as tables show them: "a=1,b=2", in order of their names.
fn labels_text(labels: &HashMap<String, String>) -> String {
    let mut pairs: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.sort_unstable();
    pairs.join(",")
}

/// Labels as `.Label "name"` looks them up.
fn label_lookup(labels: &HashMap<String, String>) -> Value {
    Value::lookup(labels.iter().map(|(name, value)| (name.clone(), value.clone())))
}

/// Labels as JSON shows them.
fn labels_map(labels: &HashMap<String, String>) -> Value {
    Value::map(labels.iter().map(|(name, value)| (name.clone(), Value::text(value))))
}

/// A list, or `null` where Docker has `null` for an empty one.
fn texts_or_null(texts: &[String]) -> Value {
    if texts.is_empty() { Value::NO_LIST } else { Value::texts(texts) }
}
