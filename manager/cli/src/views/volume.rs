//! Volumes: the rows of `volume ls`, and `volume inspect`.

use keg_proto::keg::v1::Volume;

use super::{label_lookup, labels_map, labels_text};
use crate::table::Columns;
use crate::template::Value;
use crate::{humanize, moment};

/// Columns of `volume ls`.
pub(crate) const COLUMNS: Columns = Columns {
    table: "{{.Driver}}\t{{.Name}}",
    quiet: "{{.Name}}",
    titles: &[
        ("Availability", "AVAILABILITY"),
        ("Driver", "DRIVER"),
        ("Group", "GROUP"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Size", "SIZE"),
        ("Status", "STATUS"),
    ],
};

/// A row of `volume ls`.
pub(crate) fn row(volume: &Volume) -> Value {
    Value::record([
        ("Availability", Value::text("N/A")),
        ("Driver", Value::text(&volume.driver)),
        ("Group", Value::text("N/A")),
        ("Label", label_lookup(&volume.labels)),
        ("Labels", Value::Text(labels_text(&volume.labels))),
        ("Links", Value::Text(volume.containers.len().to_string())),
        ("Mountpoint", Value::text(&volume.mountpoint)),
        ("Name", Value::text(&volume.name)),
        ("Scope", Value::text("local")),
        ("Size", Value::Text(volume.size_bytes.map_or("N/A".to_owned(), humanize::size))),
        ("Status", Value::text("N/A")),
    ])
}

/// One volume as `inspect` shows it.
pub(crate) fn inspect(volume: &Volume) -> Value {
    let or_null = |pairs: &std::collections::HashMap<String, String>| {
        if pairs.is_empty() { Value::NO_MAP } else { labels_map(pairs) }
    };
    let mut containers = volume.containers.clone();
    containers.sort_unstable();
    Value::record([
        ("CreatedAt", Value::Text(moment::rfc3339(volume.created_at.as_ref()))),
        ("Driver", Value::text(&volume.driver)),
        ("Labels", or_null(&volume.labels)),
        ("Mountpoint", Value::text(&volume.mountpoint)),
        ("Name", Value::text(&volume.name)),
        ("Options", or_null(&volume.options)),
        ("Scope", Value::text("local")),
        (
            "Keg",
            Value::record([
                ("Anonymous", Value::Bool(volume.anonymous)),
                ("Containers", Value::texts(&containers)),
            ]),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::RowFormat;

    fn volume() -> Volume {
        Volume {
            name: "data".to_owned(),
            driver: "local".to_owned(),
            mountpoint: "/var/lib/keg/volumes/data/_data".to_owned(),
            labels: [("tier".to_owned(), "db".to_owned())].into(),
            ..Volume::default()
        }
    }

    #[test]
    fn volume_ls_looks_like_dockers() {
        let text = RowFormat::new(None, false, COLUMNS)
            .and_then(|format| format.render(COLUMNS, [row(&volume())]))
            .expect("a table");

        assert_eq!(text, "DRIVER    VOLUME NAME\nlocal     data\n");
    }

    #[test]
    fn inspect_has_dockers_structure() {
        let json = inspect(&volume()).to_json();

        assert!(json.contains(r#""Labels":{"tier":"db"}"#), "{json}");
        assert!(json.contains(r#""Options":null,"Scope":"local""#), "{json}");
    }
}
