//! One JSON object a line, for programs that show progress themselves.
//!
//! | "event" | other keys |
//! | --- | --- |
//! | `resolved` | `reference`, `digest`, `layers` (digests) |
//! | `layer` | `layer` (digest), `phase`, `current`, `total` (bytes) |
//! | `done` | `id`, `up_to_date` |

use keg_proto::keg::v1::pull_image_response::Event;

use crate::template::Value;

/// The line of a message.
pub(crate) fn line(event: &Event) -> String {
    let value = match event {
        Event::Resolved(resolved) => Value::record([
            ("event", Value::text("resolved")),
            ("reference", Value::text(&resolved.reference)),
            (
                "digest",
                resolved.target.as_ref().map_or(Value::Null, |target| Value::text(&target.digest)),
            ),
            ("layers", Value::texts(resolved.layers.iter().map(|layer| &layer.digest))),
        ]),
        Event::Layer(layer) => {
            let name = layer.phase().as_str_name();
            let phase = name.strip_prefix("LAYER_PHASE_").unwrap_or(name).to_ascii_lowercase();
            Value::record([
                ("event", Value::text("layer")),
                ("layer", Value::text(&layer.digest)),
                ("phase", Value::Text(phase)),
                ("current", Value::Int(layer.current)),
                ("total", Value::Int(layer.total)),
            ])
        }
        Event::Done(done) => Value::record([
            ("event", Value::text("done")),
            ("id", done.image.as_ref().map_or(Value::Null, |image| Value::text(&image.id))),
            ("up_to_date", Value::Bool(done.up_to_date)),
        ]),
    };
    value.to_json() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use keg_proto::keg::v1::{LayerPhase, LayerProgress};

    #[test]
    fn a_layers_progress_is_one_object() {
        let event = Event::Layer(LayerProgress {
            digest: "sha256:00".to_owned(),
            phase: LayerPhase::Downloading.into(),
            current: 5,
            total: 10,
        });

        assert_eq!(
            line(&event),
            "{\"event\":\"layer\",\"layer\":\"sha256:00\",\"phase\":\"downloading\",\"current\":5,\"total\":10}\n"
        );
    }
}
