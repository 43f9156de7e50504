//! Images: the rows of `images`, and `inspect`.

use jiff::Timestamp;
use keg_proto::keg::v1::{ImageSummary, InspectImageResponse};
use serde_json::{Map, Value as Json};

use super::{label_lookup, labels_text};
use crate::table::Columns;
use crate::template::Value;
use crate::{humanize, moment, reference};

/// What stands for a name, a tag or a digest that is not there.
const NONE: &str = "<none>";

/// What Docker shows of a time that it does not know.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Columns of `images`.
pub(crate) const COLUMNS: Columns = Columns {
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    quiet: "{{.ID}}",
    titles: &[
        ("Containers", "CONTAINERS"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedSince", "CREATED"),
        ("Digest", "DIGEST"),
        ("ID", "IMAGE ID"),
        ("Labels", "LABELS"),
        ("Repository", "REPOSITORY"),
        ("Size", "SIZE"),
        ("Tag", "TAG"),
    ],
};

/// Columns of `images --digests`.
pub(crate) const COLUMNS_WITH_DIGESTS: Columns = Columns {
    table: "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    ..COLUMNS
};

/// How rows are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowStyle {
    /// The present, from which ages are counted.
    pub(crate) now: Timestamp,
    /// Cuts ids.
    pub(crate) truncate: bool,
    /// Fills in `CreatedAt`, which needs the local time zone.
    pub(crate) with_created_at: bool,
}

/// The rows of an image: one for each name, or one if it has none.
pub(crate) fn rows(image: &ImageSummary, style: RowStyle) -> Vec<Value> {
    let digest = image.target.as_ref().map_or(NONE, |target| target.digest.as_str());
    if image.names.is_empty() {
        let repository = image
            .digests
            .first()
            .map_or(NONE, |name| reference::familiar(reference::split(name).repository));
        return vec![row(image, repository, NONE, digest, style)];
    }
    let row_of = |name: &String| {
        let parts = reference::split(reference::familiar(name));
        row(image, parts.repository, parts.tag.unwrap_or(NONE), digest, style)
    };
    image.names.iter().map(row_of).collect()
}

fn row(image: &ImageSummary, repository: &str, tag: &str, digest: &str, style: RowStyle) -> Value {
    let created = image.created_at.as_ref();
    let created_at = if style.with_created_at { moment::civil(created) } else { String::new() };
    let age = match created {
        Some(_) => {
            format!("{} ago", humanize::duration(moment::seconds_since(created, style.now)))
        }
        None => "N/A".to_owned(),
    };
    let id = if style.truncate { humanize::short_id(&image.id) } else { &image.id };
    let size_bytes = u64::try_from(image.size_bytes).unwrap_or(0);
    Value::record([
        ("Containers", Value::Text(image.containers.to_string())),
        ("CreatedAt", Value::Text(created_at)),
        ("CreatedSince", Value::Text(age)),
        ("Digest", Value::text(digest)),
        ("ID", Value::text(id)),
        ("Label", label_lookup(&image.labels)),
        ("Labels", Value::Text(labels_text(&image.labels))),
        ("Repository", Value::text(repository)),
        ("Size", Value::Text(humanize::size(size_bytes))),
        ("Tag", Value::text(tag)),
    ])
}

/// One image as `inspect` shows it. Its configuration is the very document of the image.
pub(crate) fn inspect(image: &InspectImageResponse) -> Value {
    let summary = image.summary.clone().unwrap_or_default();
    let document: Json = serde_json::from_slice(&image.config_json).unwrap_or(Json::Null);
    let familiar =
        |names: &[String]| Value::texts(names.iter().map(|name| reference::familiar(name)));
    let text = |key: &str| Value::text(document.get(key).and_then(Json::as_str).unwrap_or(""));
    let comment = document
        .get("history")
        .and_then(Json::as_array)
        .and_then(|history| history.last())
        .and_then(|step| step.get("comment"))
        .and_then(Json::as_str)
        .unwrap_or("");
    let layers = document.pointer("/rootfs/diff_ids").cloned().unwrap_or(Json::Array(Vec::new()));
    let descriptor = summary.target.as_ref().map_or(Value::NIL, |target| {
        Value::record([
            ("mediaType", Value::text(&target.media_type)),
            ("digest", Value::text(&target.digest)),
            ("size", Value::Int(target.size)),
        ])
    });
    Value::record([
        ("Id", Value::text(&summary.id)),
        ("RepoTags", familiar(&summary.names)),
        ("RepoDigests", familiar(&summary.digests)),
        ("Parent", Value::text("")),
        ("Comment", Value::text(comment)),
        ("Created", Value::Text(moment::rfc3339(summary.created_at.as_ref()))),
        ("DockerVersion", Value::text("")),
        ("Author", text("author")),
        ("Config", configuration(document.get("config").cloned())),
        ("Architecture", text("architecture")),
        ("Variant", text("variant")),
        ("Os", text("os")),
        ("Size", Value::Int(summary.size_bytes)),
        (
            "RootFS",
            Value::record([("Type", Value::text("layers")), ("Layers", Value::from(layers))]),
        ),
        ("Metadata", Value::record([("LastTagTime", Value::text(NO_TIME))])),
        ("Descriptor", descriptor),
        ("Keg", Value::record([("StoredSize", Value::Int(image.stored_bytes))])),
    ])
}

/// The configuration as the image has it; templates know the fields that it could have, too.
fn configuration(config: Option<Json>) -> Value {
    let Value::Map(mut fields) = Value::from(config.unwrap_or_else(|| Json::Object(Map::new())))
    else {
        return Value::NIL;
    };
    let text = || Value::text("");
    let no = || Value::Bool(false);
    for (name, zero) in [
        ("ArgsEscaped", no()),
        ("AttachStderr", no()),
        ("AttachStdin", no()),
        ("AttachStdout", no()),
        ("Cmd", Value::NO_LIST),
        ("Domainname", text()),
        ("Entrypoint", Value::NO_LIST),
        ("Env", Value::NO_LIST),
        ("ExposedPorts", Value::NO_MAP),
        ("Healthcheck", Value::NIL),
        ("Hostname", text()),
        ("Image", text()),
        ("Labels", Value::NO_MAP),
        ("OnBuild", Value::NO_LIST),
        ("OpenStdin", no()),
        ("Shell", Value::NO_LIST),
        ("StdinOnce", no()),
        ("StopSignal", text()),
        ("StopTimeout", Value::NIL),
        ("Tty", no()),
        ("User", text()),
        ("Volumes", Value::NO_MAP),
        ("WorkingDir", text()),
    ] {
        match fields.get_mut(name) {
            Some(field @ Value::Null) => *field = zero,
            Some(_) => {}
            None => {
                fields.insert(name.to_owned(), Value::Omitted(Box::new(zero)));
            }
        }
    }
    Value::Map(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::RowFormat;
    use crate::template::Template;
    use keg_proto::keg::v1::Descriptor;
    use prost_types::Timestamp as ProtoTimestamp;

    fn sample(names: &[&str]) -> ImageSummary {
        ImageSummary {
            id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            created_at: Some(ProtoTimestamp { seconds: 0, nanos: 0 }),
            size_bytes: 4_430_000,
            target: Some(Descriptor { digest: "sha256:feed".to_owned(), ..Descriptor::default() }),
            ..ImageSummary::default()
        }
    }

    fn style() -> RowStyle {
        let now = Timestamp::new(3 * 24 * 3600, 0).expect("a moment");
        RowStyle { now, truncate: true, with_created_at: false }
    }

    #[test]
    fn images_looks_like_dockers() {
        let image = sample(&["docker.io/library/busybox:latest", "localhost:5000/busybox:1"]);

        let text = RowFormat::new(None, false, COLUMNS)
            .and_then(|format| format.render(COLUMNS, rows(&image, style())))
            .expect("a table");

        assert_eq!(
            text,
            "REPOSITORY               TAG       IMAGE ID       CREATED      SIZE\n\
             busybox                  latest    0123456789ab   3 days ago   4.43MB\n\
             localhost:5000/busybox   1         0123456789ab   3 days ago   4.43MB\n"
        );
    }

    #[test]
    fn an_image_without_names_has_one_row() {
        let rows = rows(&sample(&[]), style());

        assert_eq!(rows.len(), 1);
        assert!(rows[0].to_json().contains(r#""Repository":"<none>","#), "{}", rows[0].to_json());
    }

    #[test]
    fn inspect_shows_the_images_own_configuration() {
        let config = br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"]},
            "rootfs":{"type":"layers","diff_ids":["sha256:aa"]}}"#;
        let response = InspectImageResponse {
            summary: Some(sample(&["docker.io/library/busybox:latest"])),
            config_json: config.to_vec(),
            ..InspectImageResponse::default()
        };

        let json = inspect(&response).to_json();

        let template =
            "{{.Config.User}}|{{.Config.Env}}|{{.Config.Labels}}|{{len .Config.Volumes}}";
        let told = Template::parse(template).and_then(|it| it.render(&inspect(&response)));
        assert_eq!(told.expect("fields that the image leaves out"), "|[]|map[]|0");
        for part in [
            r#""RepoTags":["busybox:latest"]"#,
            r#""Config":{"Cmd":["sh"]}"#,
            r#""Architecture":"amd64""#,
            r#""RootFS":{"Type":"layers","Layers":["sha256:aa"]}"#,
        ] {
            assert!(json.contains(part), "{part} in {json}");
        }
    }
}
