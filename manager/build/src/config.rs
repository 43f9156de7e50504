//! An image's configuration while it is being built (OCI image-spec, config.md).
//!
//! What the base image says and this program does not know of stays as it is.

use jiff::Timestamp;
use keg_image::Platform;
use serde_json::{Map, Value, json};

/// What BuildKit writes into each entry of a history, and other programs look for.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// `PATH` of an image that has none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A configuration.
#[derive(Debug, Clone)]
pub(crate) struct ImageConfig {
    /// All but `config`, `history` and `rootfs`.
    document: Map<String, Value>,
    /// The object `config`.
    config: Map<String, Value>,
    history: Vec<Value>,
}

impl ImageConfig {
    /// That of `scratch`.
    pub(crate) fn empty(platform: &Platform) -> Self {
        let mut document = Map::new();
        document.insert("os".to_owned(), json!(platform.os));
        document.insert("architecture".to_owned(), json!(platform.architecture));
        if !platform.variant.is_empty() {
            document.insert("variant".to_owned(), json!(platform.variant));
        }
        let mut config = Map::new();
        config.insert("Env".to_owned(), json!([format!("PATH={DEFAULT_PATH}")]));
        config.insert("WorkingDir".to_owned(), json!("/"));
        Self { document, config, history: Vec::new() }
    }

    /// That of a base image.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let mut document: Map<String, Value> = serde_json::from_slice(bytes)?;
        let object = |value: Option<Value>| match value {
            Some(Value::Object(object)) => object,
            _ => Map::new(),
        };
        let config = object(document.remove("config"));
        let history = match document.remove("history") {
            Some(Value::Array(history)) => history,
            _ => Vec::new(),
        };
        // Of the container that a base was once committed from; not true of this image.
        let stale = ["rootfs", "created", "container", "container_config", "docker_version"];
        // Nor is a cache of the base's layers one of this image's.
        for stale in
            stale.into_iter().chain(["moby.buildkit.cache.v0", "moby.buildkit.buildinfo.v1"])
        {
            document.remove(stale);
        }
        let mut this = Self { document, config, history };
        if this.env("PATH").is_none() {
            this.set_env("PATH", DEFAULT_PATH);
        }
        Ok(this)
    }

    /// Sets a member beside `config`.
    pub(crate) fn set_outside(&mut self, key: &str, value: Value) {
        self.document.insert(key.to_owned(), value);
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        self.config.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn list(&self, key: &str) -> Vec<String> {
        let list = self.config.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.config.insert(key.to_owned(), value);
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.config.remove(key);
    }

    /// Adds a member to an object, made if missing.
    pub(crate) fn insert(&mut self, key: &str, name: &str, value: Value) {
        let object = self.config.entry(key).or_insert_with(|| json!({}));
        if !object.is_object() {
            *object = json!({});
        }
        if let Value::Object(object) = object {
            object.insert(name.to_owned(), value);
        }
    }

    pub(crate) fn push(&mut self, key: &str, text: &str) {
        match self.config.entry(key).or_insert_with(|| json!([])) {
            Value::Array(list) => list.push(json!(text)),
            other => *other = json!([text]),
        }
    }

    pub(crate) fn env(&self, name: &str) -> Option<String> {
        self.list("Env")
            .iter()
            .filter_map(|entry| entry.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
    }

    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        let mut env = self.list("Env");
        let entry = format!("{name}={value}");
        let same = |old: &&mut String| old.split_once('=').is_some_and(|(key, _)| key == name);
        match env.iter_mut().find(same) {
            Some(old) => *old = entry,
            None => env.push(entry),
        }
        self.set("Env", json!(env));
    }

    /// Returns the words that run a line for a shell.
    pub(crate) fn shell(&self) -> Vec<String> {
        let shell = self.list("Shell");
        if shell.is_empty() { vec!["/bin/sh".to_owned(), "-c".to_owned()] } else { shell }
    }

    /// Notes a step. `created`: when its layer was made, if it made one; else it is filled in later.
    pub(crate) fn note(&mut self, created_by: String, created: Option<Timestamp>, has_layer: bool) {
        let mut entry = Map::new();
        if let Some(created) = created {
            entry.insert("created".to_owned(), json!(created.to_string()));
        }
        entry.insert("created_by".to_owned(), json!(created_by));
        entry.insert("comment".to_owned(), json!(COMMENT));
        if !has_layer {
            entry.insert("empty_layer".to_owned(), json!(true));
        }
        self.history.push(Value::Object(entry));
    }

    /// Writes the configuration of an image of these layers, lowest first. All times are `epoch` if
    /// it is given.
    pub(crate) fn finish(&self, diff_ids: &[String], epoch: Option<Timestamp>) -> Vec<u8> {
        let mut history = self.history.clone();
        fill_times(&mut history, epoch);
        let last = history.iter().rev().find_map(|entry| entry.get("created").cloned());
        let created = match epoch {
            Some(epoch) => Some(json!(epoch.to_string())),
            None => last,
        };
        let mut document = self.document.clone();
        if let Some(created) = created {
            document.insert("created".to_owned(), created);
        }
        document.insert("config".to_owned(), Value::Object(self.config.clone()));
        document.insert("history".to_owned(), Value::Array(history));
        document.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
        Value::Object(document).to_string().into_bytes()
    }
}

/// Gives steps without a layer the time of the layer before them, or, the first ones, of the first
/// layer that follows. So a build that changes nothing makes the same image again.
fn fill_times(history: &mut [Value], epoch: Option<Timestamp>) {
    let created_of = |entry: &Value| entry.get("created").cloned();
    let is_ours = |entry: &Value| entry.get("comment").and_then(Value::as_str) == Some(COMMENT);
    let first_without = history.iter().position(|entry| created_of(entry).is_none());
    let after = first_without
        .and_then(|first| history[first..].iter().find_map(created_of))
        .or_else(|| history.iter().rev().find_map(created_of));
    let mut time = after;
    let mut has_begun = false;
    for entry in history {
        let own = created_of(entry);
        let ours = is_ours(entry);
        let Value::Object(fields) = entry else { continue };
        let wanted = match (own, epoch) {
            (Some(_), Some(epoch)) if ours => Some(json!(epoch.to_string())),
            (Some(own), _) => {
                if has_begun {
                    time = Some(own);
                }
                continue;
            }
            (None, Some(epoch)) => Some(json!(epoch.to_string())),
            (None, None) => {
                has_begun = true;
                time.clone()
            }
        };
        if let Some(wanted) = wanted {
            fields.insert("created".to_owned(), wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(config: &ImageConfig, epoch: Option<Timestamp>) -> Value {
        serde_json::from_slice(&config.finish(&["sha256:x".to_owned()], epoch)).unwrap()
    }

    fn base() -> ImageConfig {
        let json =
            br#"{"os":"linux","architecture":"amd64","future":1,"created":"2001-01-01T00:00:00Z",
            "config":{"Env":["A=1"]},"history":[{"created":"2001-01-01T00:00:00Z"}],"rootfs":{}}"#;
        ImageConfig::from_json(json).unwrap()
    }

    #[test]
    fn steps_without_a_layer_have_the_time_of_one_with() {
        let mut config = base();
        config.note("ENV".into(), None, false);
        config.note("RUN".into(), Some("2020-01-01T00:00:00Z".parse().unwrap()), true);
        config.note("CMD".into(), None, false);

        let document = finished(&config, None);

        let times: Vec<&str> = document["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| &entry["created"].as_str().unwrap()[..4])
            .collect();
        assert_eq!(times, ["2001", "2020", "2020", "2020"]);
        assert_eq!(document["created"], "2020-01-01T00:00:00Z");
    }

    #[test]
    fn an_image_without_layers_of_its_own_is_as_old_as_its_base() {
        let mut config = base();
        config.note("CMD".into(), None, false);

        let document = finished(&config, None);

        assert_eq!(document["created"], "2001-01-01T00:00:00Z");
        assert_eq!(document["future"], 1);
        assert_eq!(document["config"]["Env"][1], format!("PATH={DEFAULT_PATH}"));
    }

    #[test]
    fn an_epoch_is_the_time_of_all_that_the_build_adds() {
        let mut config = base();
        config.note("RUN".into(), Some("2020-01-01T00:00:00Z".parse().unwrap()), true);
        config.note("CMD".into(), None, false);

        let document = finished(&config, Some(Timestamp::UNIX_EPOCH));

        assert_eq!(document["created"], "1970-01-01T00:00:00Z");
        assert_eq!(document["history"][0]["created"], "2001-01-01T00:00:00Z");
        assert_eq!(document["history"][1]["created"], "1970-01-01T00:00:00Z");
        assert_eq!(document["history"][2]["created"], "1970-01-01T00:00:00Z");
    }
}
