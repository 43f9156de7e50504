//! Removes all containers that do not run.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::lifecycle::Lifecycle;
use crate::model::Record;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ids of the containers.
    pub containers: Vec<String>,
    /// Bytes of their writable layers.
    pub reclaimed_bytes: u64,
}

/// Which containers are meant.
#[derive(Debug, Default)]
struct Selection {
    labels: Vec<(String, Option<String>)>,
    labels_not: Vec<(String, Option<String>)>,
    until: Option<Timestamp>,
}

impl Engine {
    /// Removes all containers that do not run and match the filters (`label`, `label!`, `until`).
    /// One that cannot be removed, or was started meanwhile, is left.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] for a filter that makes no sense.
    pub async fn prune(
        &self,
        filters: BTreeMap<String, Vec<String>>,
    ) -> Result<Pruned, EngineError> {
        let selection = Selection::parse(&filters)?;
        let engine = self.clone();
        Self::detached("a removal", async move {
            let mut pruned = Pruned::default();
            for container in engine.all() {
                let record = container.record();
                let is_idle = matches!(
                    record.lifecycle,
                    Lifecycle::Created { .. } | Lifecycle::Exited { .. } | Lifecycle::Dead { .. }
                );
                if !is_idle || !selection.matches(&record) {
                    continue;
                }
                let key = record.snapshot_key.clone();
                let size = engine
                    .blocking("a container's size", move |shared| {
                        Ok(shared.snapshotter.usage(&shared.settings.namespace, &key)?.size_bytes)
                    })
                    .await
                    .unwrap_or(0);
                match engine.remove_container(&container, false, false).await {
                    Ok(()) => {
                        pruned.containers.push(record.id.as_str().to_owned());
                        pruned.reclaimed_bytes += size;
                    }
                    Err(EngineError::Running { .. } | EngineError::BeingRemoved { .. }) => {}
                    Err(error) => {
                        tracing::warn!(container = %record.id, error = %error.chain(),
                            "a container that does not run cannot be removed");
                    }
                }
            }
            Ok(pruned)
        })
        .await
    }
}

impl Selection {
    fn parse(filters: &BTreeMap<String, Vec<String>>) -> Result<Self, EngineError> {
        let invalid = |problem: String| EngineError::InvalidField { field: "filter", problem };
        let label = |text: &String| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text.clone(), None),
        };
        let mut selection = Self::default();
        for (key, values) in filters {
            match key.as_str() {
                "label" => selection.labels = values.iter().map(label).collect(),
                "label!" => selection.labels_not = values.iter().map(label).collect(),
                "until" => {
                    for value in values {
                        let moment = moment(value).ok_or_else(|| {
                            invalid(format!("{value:?} is no moment: give RFC 3339, or seconds"))
                        })?;
                        // Several: the earliest, so that none takes more than another alone.
                        let earliest = selection.until.map_or(moment, |until| until.min(moment));
                        selection.until = Some(earliest);
                    }
                }
                _ => return Err(invalid(format!("there is no filter {key:?}"))),
            }
        }
        Ok(selection)
    }

    fn matches(&self, record: &Record) -> bool {
        let labels = &record.config.labels;
        let has = |(key, value): &(String, Option<String>)| {
            labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        self.labels.iter().all(has)
            && !self.labels_not.iter().any(has)
            && self.until.is_none_or(|until| record.created_at < until)
    }
}

fn moment(text: &str) -> Option<Timestamp> {
    match text.parse::<i64>() {
        Ok(seconds) => Timestamp::from_second(seconds).ok(),
        Err(_) => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::record;

    fn selected(filters: &[(&str, &str)], record: &Record) -> Option<bool> {
        let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in filters {
            by_key.entry((*key).to_owned()).or_default().push((*value).to_owned());
        }
        Selection::parse(&by_key).ok().map(|selection| selection.matches(record))
    }

    #[test]
    fn filters_choose_by_label_and_by_age() {
        let mut record = record();
        record.config.labels.insert("tier".into(), "db".into());
        record.created_at = Timestamp::from_second(1000).unwrap();

        assert_eq!(selected(&[], &record), Some(true));
        assert_eq!(selected(&[("label", "tier=db"), ("until", "1001")], &record), Some(true));
        assert_eq!(selected(&[("label", "tier"), ("label", "web")], &record), Some(false));
        assert_eq!(selected(&[("label!", "tier=db")], &record), Some(false));
        assert_eq!(selected(&[("label!", "tier=web")], &record), Some(true));
        assert_eq!(selected(&[("until", "1970-01-01T00:16:40Z")], &record), Some(false));
        assert_eq!(selected(&[("until", "soon")], &record), None);
        assert_eq!(selected(&[("colour", "blue")], &record), None);
    }
}
