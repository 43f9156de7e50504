//! config.json and process.json, read as runc reads them.
//!
//! A document that holds together is read once, and that is all. One that does not gets a second look:
//! what may be absent is filled in, and capabilities that nobody knows are left out and told
//! (runtime-spec 1.3, config.md, "Linux Process": they are to be warned of, not to fail).

use oci_spec::runtime::{Capability, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What was read.
#[derive(Debug)]
pub struct Document<T> {
    /// The content.
    pub content: T,
    /// Names of capabilities that were left out.
    pub unknown_capabilities: Vec<String>,
}

/// Reads a config.json.
///
/// # Errors
/// Where and why it is none.
pub fn read_spec(text: &[u8]) -> Result<Document<Spec>, serde_json::Error> {
    let mut document = read(text, |document, unknown| {
        if let Some(process) = document.get_mut("process").filter(|process| process.is_object()) {
            mend_process(process, unknown);
        }
    })?;
    forget_absent_limit(&mut document.content, text);
    Ok(document)
}

/// The parser makes zero of a limit of processes that is absent; only the text tells them apart.
fn forget_absent_limit(spec: &mut Spec, text: &[u8]) {
    let resources = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    let Some(resources) = resources else { return };
    if resources.pids().is_none_or(|pids| pids.limit() != 0) {
        return;
    }
    let written = serde_json::from_slice::<Value>(text)
        .is_ok_and(|document| document.pointer("/linux/resources/pids/limit").is_some());
    if !written {
        resources.set_pids(None);
    }
}

/// Reads a process.json, as `exec --process` takes it.
///
/// # Errors
/// Where and why it is none.
pub fn read_process(text: &[u8]) -> Result<Document<Process>, serde_json::Error> {
    read(text, mend_process)
}

fn read<T: DeserializeOwned>(
    text: &[u8],
    mend: fn(&mut Value, &mut Vec<String>),
) -> Result<Document<T>, serde_json::Error> {
    let first = match serde_json::from_slice(text) {
        Ok(content) => return Ok(Document { content, unknown_capabilities: Vec::new() }),
        Err(error) => error,
    };
    // What is no JSON at all is told with its place.
    let Ok(mut document) = serde_json::from_slice::<Value>(text) else { return Err(first) };
    let mut unknown_capabilities = Vec::new();
    let before = document.clone();
    mend(&mut document, &mut unknown_capabilities);
    if document == before {
        return Err(first);
    }
    let content = serde_json::from_value(document)?;
    Ok(Document { content, unknown_capabilities })
}

fn mend_process(process: &mut Value, unknown: &mut Vec<String>) {
    let Some(fields) = process.as_object_mut() else { return };
    if fields.get("user").is_none_or(Value::is_null) {
        fields.insert("user".to_owned(), json!({}));
    }
    // It is refused later, by its name.
    fields.entry("cwd").or_insert_with(|| json!(""));
    let flags = fields.get_mut("scheduler").and_then(|scheduler| scheduler.get_mut("flags"));
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        // The parser has other names than the specification.
        *flag = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => json!("SCHED_RESET_ON_FORK"),
            Some("SCHED_FLAG_DL_OVERRUN") => json!("SCHED_FLAG_D_L_OVERRUN"),
            _ => continue,
        };
    }
    let sets = fields.get_mut("capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        let Some(names) = set.as_array_mut() else { continue };
        names.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            if let (false, Some(name)) = (known, name.as_str())
                && !unknown.iter().any(|other| other == name)
            {
                unknown.push(name.to_owned());
            }
            known || !name.is_string()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_absent_is_filled_in() {
        let document = read_process(br#"{"args":["/bin/env"],"cwd":"/"}"#).unwrap();

        assert_eq!((document.content.user().uid(), document.content.user().gid()), (0, 0));
        assert!(document.unknown_capabilities.is_empty());
    }

    #[test]
    fn unknown_capabilities_are_left_out_and_told_once() {
        let text = br#"{"process":{"cwd":"/","user":{"uid":1},"capabilities":{
            "bounding":["CAP_FLY","CAP_KILL"],"effective":["CAP_FLY","WALK"]}}}"#;

        let document = read_spec(text).unwrap();

        assert_eq!(document.unknown_capabilities, ["CAP_FLY", "WALK"]);
        let process = document.content.process().as_ref().unwrap();
        let capabilities = process.capabilities().as_ref().unwrap();
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 1);
        assert!(capabilities.effective().as_ref().unwrap().is_empty());
    }

    #[test]
    fn a_limit_that_is_absent_is_not_zero() {
        for (pids, limit) in [("{}", None), (r#"{"limit":0}"#, Some(0))] {
            let text = format!(r#"{{"linux":{{"resources":{{"pids":{pids}}}}}}}"#);

            let spec = read_spec(text.as_bytes()).unwrap().content;

            let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
            assert_eq!(resources.pids().map(|pids| pids.limit()), limit, "{pids}");
        }
    }

    #[test]
    fn every_scheduler_flag_has_the_specifications_name() {
        for flag in [
            "RESET_ON_FORK",
            "RECLAIM",
            "DL_OVERRUN",
            "KEEP_POLICY",
            "KEEP_PARAMS",
            "UTIL_CLAMP_MIN",
            "UTIL_CLAMP_MAX",
        ] {
            let text = json!({"cwd": "/", "user": {}, "scheduler": {
                "policy": "SCHED_OTHER", "flags": [format!("SCHED_FLAG_{flag}")],
            }});

            let process = read_process(text.to_string().as_bytes()).unwrap().content;

            assert_eq!(process.scheduler().as_ref().unwrap().flags().as_ref().unwrap().len(), 1);
        }
    }

    #[test]
    fn what_cannot_be_mended_is_refused_with_its_place() {
        for text in ["", "{", r#"{"process":{"cwd":"/","user":{},"args":7}}"#] {
            assert!(read_spec(text.as_bytes()).is_err(), "{text:?}");
        }
        let error = read_spec(b"{\n\"process\": {\"cwd\": 7, \"user\": {}}}").unwrap_err();
        assert_eq!(error.line(), 2);
    }
}
