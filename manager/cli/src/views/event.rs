//! Events: a line, or an object.

use keg_proto::keg::v1::Event;

use crate::moment;
use crate::template::Value;

/// An event as `events` prints it: moment, type, action, id, and what else is known.
pub(crate) fn line(event: &Event) -> String {
    let mut attributes: Vec<String> =
        event.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    attributes.sort_unstable();
    let details = match attributes.as_slice() {
        [] => String::new(),
        some => format!(" ({})", some.join(", ")),
    };
    let at = moment::local_nanos(event.time.as_ref());
    format!("{at} {} {} {}{details}", event.r#type, event.action, event.id)
}

/// An event as templates and JSON see it.
pub(crate) fn record(event: &Event) -> Value {
    let time = event.time.unwrap_or_default();
    let nanos = time.seconds.saturating_mul(1_000_000_000).saturating_add(time.nanos.into());
    let attributes =
        Value::map(event.attributes.iter().map(|(name, value)| (name.clone(), Value::text(value))));
    let mut fields = Vec::new();
    if event.r#type == "container" {
        // Docker's older names, which scripts still read.
        let image = event.attributes.get("image").map_or("", String::as_str);
        fields.extend([
            ("status", Value::text(&event.action)),
            ("id", Value::text(&event.id)),
            ("from", Value::text(image)),
        ]);
    }
    fields.extend([
        ("Type", Value::text(&event.r#type)),
        ("Action", Value::text(&event.action)),
        ("Actor", Value::record([("ID", Value::text(&event.id)), ("Attributes", attributes)])),
        ("scope", Value::text("local")),
        ("time", Value::Int(time.seconds)),
        ("timeNano", Value::Int(nanos)),
    ]);
    // What templates call by Go's names, JSON has in lower case already.
    for (name, in_json) in [
        ("Status", "status"),
        ("ID", "id"),
        ("From", "from"),
        ("Scope", "scope"),
        ("Time", "time"),
        ("TimeNano", "timeNano"),
    ] {
        let present = fields.iter().find(|(present, _)| *present == in_json);
        let value = present.map_or(Value::text(""), |(_, value)| value.clone());
        fields.push((name, Value::Omitted(Box::new(value))));
    }
    Value::Record(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Template;
    use prost_types::Timestamp as ProtoTimestamp;
    use std::collections::HashMap;

    fn sample() -> Event {
        Event {
            time: Some(ProtoTimestamp { seconds: 1_714_557_600, nanos: 5 }),
            r#type: "container".to_owned(),
            action: "die".to_owned(),
            id: "abc".to_owned(),
            attributes: HashMap::from([
                ("name".to_owned(), "web".to_owned()),
                ("exitCode".to_owned(), "0".to_owned()),
            ]),
        }
    }

    #[test]
    fn a_line_has_its_attributes_in_order() {
        let line = line(&sample());

        assert!(line.ends_with(" container die abc (exitCode=0, name=web)"), "{line}");
        assert!(line.contains(":00.000000005"), "{line}");
    }

    #[test]
    fn templates_have_gos_names_too() {
        let template = "{{.ID}} {{.id}} {{.Status}} {{.Scope}} {{.Time}} {{.Actor.ID}}{{.From}}";

        let told = Template::parse(template).and_then(|it| it.render(&record(&sample())));

        assert_eq!(told.expect("fields"), "abc abc die local 1714557600 abc");
    }

    #[test]
    fn json_has_dockers_keys() {
        assert_eq!(
            record(&sample()).to_json(),
            r#"{"status":"die","id":"abc","from":"","Type":"container","Action":"die","Actor":{"ID":"abc","Attributes":{"exitCode":"0","name":"web"}},"scope":"local","time":1714557600,"timeNano":1714557600000000005}"#
        );
    }
}
