//! One JSON object a line, for programs that show progress themselves.
//!
//! | "event" | other keys |
//! | --- | --- |
//! | `resolved` | `reference`, `digest`, `layers` (digests), `requests_left` (null: the registry does not say) |
//! | `pushing` | `reference`, `layers` (digests) |
//! | `layer` | `layer` (digest), `phase`, `current`, `total` (bytes) |
//! | `done` | `id`, `up_to_date` |
//! | `pushed` | `digest`, `size` (bytes), `missing` (platforms) |

use keg_proto::keg::v1::Descriptor;

use super::Step;
use crate::template::Value;

/// The line of a message.
pub(crate) fn line(step: &Step) -> String {
    let digests = |layers: &[Descriptor]| Value::texts(layers.iter().map(|layer| &layer.digest));
    let value = match step {
        Step::Pulling(resolved) => Value::record([
            ("event", Value::text("resolved")),
            ("reference", Value::text(&resolved.reference)),
            (
                "digest",
                resolved.target.as_ref().map_or(Value::Null, |target| Value::text(&target.digest)),
            ),
            ("layers", digests(&resolved.layers)),
            (
                "requests_left",
                resolved.limit.as_ref().map_or(Value::Null, |limit| Value::Int(limit.remaining)),
            ),
        ]),
        Step::Pushing(started) => Value::record([
            ("event", Value::text("pushing")),
            ("reference", Value::text(&started.reference)),
            ("layers", digests(&started.layers)),
        ]),
        Step::Layer(layer) => {
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
        Step::Pulled { id, up_to_date } => Value::record([
            ("event", Value::text("done")),
            ("id", if id.is_empty() { Value::Null } else { Value::text(id) }),
            ("up_to_date", Value::Bool(*up_to_date)),
        ]),
        Step::Pushed { target, missing } => Value::record([
            ("event", Value::text("pushed")),
            ("digest", Value::text(&target.digest)),
            ("size", Value::Int(target.size)),
            ("missing", Value::texts(missing)),
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
        let step = Step::Layer(LayerProgress {
            digest: "sha256:00".to_owned(),
            phase: LayerPhase::Downloading.into(),
            current: 5,
            total: 10,
        });

        assert_eq!(
            line(&step),
            "{\"event\":\"layer\",\"layer\":\"sha256:00\",\"phase\":\"downloading\",\"current\":5,\"total\":10}\n"
        );
    }
}
