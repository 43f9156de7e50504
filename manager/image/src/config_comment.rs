//! What an export remembers of an image's configuration, and an import takes from it.
//!
//! A root file system alone says nothing of commands, environment or ports. Keg's exports carry
//! them as a comment on the archive (POSIX, pax, global header), which every other reader passes
//! over.

use serde_json::{Map, Value};

/// What such a comment begins with.
const MARK: &[u8] = b"keg.v1 image configuration: ";

/// The parts of a configuration that describe how to run what is in the archive.
const KEYS: [&str; 11] = [
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

/// Writes the comment for a configuration's `config` object.
#[must_use]
pub fn config_comment(config: &Map<String, Value>) -> Vec<u8> {
    [MARK, Value::Object(known(config)).to_string().as_bytes()].concat()
}

/// Reads the comment; `None` if it is another one, or makes no configuration.
pub(crate) fn config_of_comment(comment: &[u8]) -> Option<Map<String, Value>> {
    let config: Map<String, Value> = serde_json::from_slice(comment.strip_prefix(MARK)?).ok()?;
    let config = known(&config);
    // Whoever wrote it, it must be what a configuration can hold.
    serde_json::from_value::<oci_spec::image::Config>(Value::Object(config.clone())).ok()?;
    Some(config)
}

fn known(config: &Map<String, Value>) -> Map<String, Value> {
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    };
    config
        .iter()
        .filter(|(key, value)| KEYS.contains(&key.as_str()) && is_set(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn a_configuration_survives_as_a_comment() {
        let config = object(json!({
            "Cmd": ["redis-server"],
            "Env": ["A=1"],
            "ExposedPorts": {"6379/tcp": {}},
            "User": "",
            "Domainname": "left out",
        }));

        let read = config_of_comment(&config_comment(&config)).unwrap();

        assert_eq!(
            Value::Object(read),
            json!({"Cmd": ["redis-server"], "Env": ["A=1"], "ExposedPorts": {"6379/tcp": {}}})
        );
    }

    #[test]
    fn other_comments_mean_nothing() {
        for comment in [
            &b"made by tape"[..],
            b"keg.v1 image configuration: {",
            b"",
            b"keg.v1 image configuration: {\"Cmd\": 5}",
        ] {
            assert_eq!(config_of_comment(comment), None, "{comment:?}");
        }
    }
}
