//! `--filter KEY=VALUE`.

use std::collections::{BTreeMap, HashMap};

/// Why filters cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    /// No `=`.
    #[error("{text:?} is no filter: give KEY=VALUE")]
    NoValue { text: String },
    /// A key that the command does not know.
    #[error("there is no filter {key:?}; there are {known}")]
    UnknownKey { key: String, known: String },
}

/// Values by key; values of one key are alternatives, all keys must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filters {
    by_key: BTreeMap<String, Vec<String>>,
}

impl Filters {
    /// Understands filters with the keys that a command knows.
    ///
    /// # Errors
    /// [`FilterError`] for a filter without `=`, and for another key.
    pub(crate) fn parse(texts: &[String], known: &[&str]) -> Result<Self, FilterError> {
        let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in texts {
            let (key, value) =
                text.split_once('=').ok_or_else(|| FilterError::NoValue { text: text.clone() })?;
            let key = key.trim().to_ascii_lowercase();
            if !known.contains(&key.as_str()) {
                return Err(FilterError::UnknownKey { key, known: known.join(", ") });
            }
            by_key.entry(key).or_default().push(value.trim().to_owned());
        }
        Ok(Self { by_key })
    }

    /// The values of one key; none if it was not given.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// The filters as a message has them.
    pub(crate) fn into_message<T>(self, values: impl Fn(Vec<String>) -> T) -> HashMap<String, T> {
        self.by_key.into_iter().map(|(key, list)| (key, values(list))).collect()
    }
}

/// Whether labels have what a `label` filter asks for: "name", or "name=value".
pub(crate) fn has_label(labels: &HashMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_key_are_collected() {
        let texts = ["status=exited", "label=a=1", "STATUS=created"].map(str::to_owned);

        let filters = Filters::parse(&texts, &["status", "label"]).expect("filters");

        assert_eq!(filters.values("status"), ["exited", "created"]);
        assert_eq!(filters.values("label"), ["a=1"]);
        assert!(filters.values("name").is_empty());
    }

    #[test]
    fn other_keys_and_bare_words_are_refused() {
        assert!(Filters::parse(&["colour=blue".to_owned()], &["status"]).is_err());
        assert!(Filters::parse(&["status".to_owned()], &["status"]).is_err());
    }

    #[test]
    fn labels_match_by_name_or_by_name_and_value() {
        let labels = HashMap::from([("a".to_owned(), "1".to_owned())]);

        for (wanted, matches) in [("a", true), ("a=1", true), ("a=2", false), ("b", false)] {
            assert_eq!(has_label(&labels, wanted), matches, "{wanted}");
        }
    }
}
