//! Changes to an image's configuration, in the Dockerfile's words: `CMD`, `ENV`, `EXPOSE`, …

use std::borrow::Cow;

use keg_store::{Explain, Reason};
use serde_json::{Map, Value, json};

/// Why a change was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the change {change:?} is not understood: {problem}")]
pub struct ChangeError {
    /// The change.
    pub change: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Explain for ChangeError {
    fn reason(&self) -> Reason {
        Reason::InvalidArgument
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        Some(
            "write it as in a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, \
             USER, VOLUME or WORKDIR"
                .into(),
        )
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        vec![("change", self.change.clone())]
    }
}

/// Applies changes to a configuration's `config` object, in order.
pub(crate) fn apply(
    changes: &[String],
    config: &mut Map<String, Value>,
) -> Result<(), ChangeError> {
    for change in changes {
        apply_one(change.trim(), config)
            .map_err(|problem| ChangeError { change: change.clone(), problem })?;
    }
    Ok(())
}

fn apply_one(change: &str, config: &mut Map<String, Value>) -> Result<(), &'static str> {
    let (word, rest) = change.split_once([' ', '\t']).unwrap_or((change, ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err("something must follow the first word");
    }
    match word.to_ascii_uppercase().as_str() {
        "CMD" => set(config, "Cmd", json!(command(rest))),
        "ENTRYPOINT" => set(config, "Entrypoint", json!(command(rest))),
        "ENV" => {
            for (name, value) in pairs(rest)? {
                set_env(config, &name, &value);
            }
        }
        "LABEL" => {
            for (name, value) in pairs(rest)? {
                object(config, "Labels").insert(name, Value::String(value));
            }
        }
        "EXPOSE" => {
            for port in words(rest)? {
                for port in ports(&port)? {
                    object(config, "ExposedPorts").insert(port, json!({}));
                }
            }
        }
        "VOLUME" => {
            let paths = match list(rest) {
                Some(paths) => paths,
                None => words(rest)?,
            };
            for path in paths {
                object(config, "Volumes").insert(path, json!({}));
            }
        }
        "ONBUILD" => match config.entry("OnBuild").or_insert_with(|| json!([])) {
            Value::Array(triggers) => triggers.push(json!(rest)),
            other => *other = json!([rest]),
        },
        "STOPSIGNAL" => set(config, "StopSignal", json!(rest)),
        "USER" => set(config, "User", json!(rest)),
        "WORKDIR" => {
            let before = config.get("WorkingDir").and_then(Value::as_str).unwrap_or("/");
            let path = if rest.starts_with('/') {
                rest.to_owned()
            } else {
                format!("{}/{rest}", before.trim_end_matches('/'))
            };
            set(config, "WorkingDir", json!(path));
        }
        _ => return Err("the first word is none that changes a configuration"),
    }
    Ok(())
}

fn set(config: &mut Map<String, Value>, key: &str, value: Value) {
    config.insert(key.to_owned(), value);
}

/// Returns an object in the configuration, made if it is missing.
fn object<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = config.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(object) => object,
        _ => unreachable!("it was made an object a line above"),
    }
}

fn set_env(config: &mut Map<String, Value>, name: &str, value: &str) {
    let entry = json!(format!("{name}={value}"));
    let Value::Array(env) = config.entry("Env").or_insert_with(|| json!([])) else {
        config.insert("Env".to_owned(), json!([entry]));
        return;
    };
    let prefix = format!("{name}=");
    let same = |entry: &&mut Value| entry.as_str().is_some_and(|text| text.starts_with(&prefix));
    match env.iter_mut().find(same) {
        Some(before) => *before = entry,
        None => env.push(entry),
    }
}

/// Reads a command: a JSON list, or words for a shell.
fn command(text: &str) -> Vec<String> {
    list(text).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// Reads `NAME=VALUE …`, or of old `NAME VALUE`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let first = text.split([' ', '\t']).next().unwrap_or(text);
    if !first.contains('=') {
        let (name, value) =
            text.split_once([' ', '\t']).ok_or("a name needs a value: write NAME=VALUE")?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words(text)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err("each word must be NAME=VALUE"),
        })
        .collect()
}

/// Splits a text into words; quotes keep blanks, a backslash keeps the next character.
fn words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            (' ' | '\t', None) => words.extend(word.take()),
            (mark @ ('"' | '\''), None) => {
                quote = Some(mark);
                word.get_or_insert_default();
            }
            (mark, Some(open)) if mark == open => quote = None,
            ('\\', open) if open != Some('\'') => {
                let next = letters.next().ok_or("nothing follows the last backslash")?;
                word.get_or_insert_default().push(next);
            }
            (letter, _) => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

/// Reads `80`, `53/udp` or `8000-8010/tcp`.
fn ports(text: &str) -> Result<Vec<String>, &'static str> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err("the protocol of a port is tcp, udp or sctp");
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| text.parse::<u16>().map_err(|_| "a port is a number up to 65535");
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err("a range of ports begins with the lower one");
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn applied(changes: &[&str]) -> Result<Value, ChangeError> {
        let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
        let mut config = Map::new();
        apply(&changes, &mut config)?;
        Ok(Value::Object(config))
    }

    #[test]
    fn every_word_changes_what_it_does_in_a_dockerfile() {
        let config = applied(&[
            r#"CMD ["redis-server", "--port", "1"]"#,
            "entrypoint exec top -b",
            r#"ENV A=1 B="two words" C=a\ b"#,
            "ENV A changed",
            "EXPOSE 80 53/UDP 8000-8002",
            r#"LABEL a.b="c d""#,
            "ONBUILD RUN true",
            "STOPSIGNAL SIGQUIT",
            "USER 1:2",
            r#"VOLUME ["/data", "/a b"]"#,
            "VOLUME /c /d",
            "WORKDIR /srv",
            "WORKDIR app",
        ])
        .unwrap();

        assert_eq!(
            config,
            json!({
                "Cmd": ["redis-server", "--port", "1"],
                "Entrypoint": ["/bin/sh", "-c", "exec top -b"],
                "Env": ["A=changed", "B=two words", "C=a b"],
                "ExposedPorts":
                    {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}},
                "Labels": {"a.b": "c d"},
                "OnBuild": ["RUN true"],
                "StopSignal": "SIGQUIT",
                "User": "1:2",
                "Volumes": {"/data": {}, "/a b": {}, "/c": {}, "/d": {}},
                "WorkingDir": "/srv/app",
            })
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_and_told() {
        for bad in [
            "",
            "CMD",
            "RUN x",
            "ENV A",
            "ENV A=1 B",
            "ENV A=\"x",
            "EXPOSE x",
            "EXPOSE 9-1",
            "EXPOSE 1/icmp",
            "EXPOSE 70000",
            "LABEL =x",
            "VOLUME a\\",
        ] {
            let refused = applied(&[bad]).unwrap_err();

            assert_eq!(refused.change, bad);
        }
    }

    proptest! {
        #[test]
        fn no_change_makes_the_parser_panic(text in "(CMD|ENV|EXPOSE|LABEL|VOLUME)? ?\\PC{0,60}") {
            let _ = applied(&[&text]);
        }
    }
}
