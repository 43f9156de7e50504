//! The steps by which an image was built.

use jiff::Timestamp;
use keg_proto::keg::v1::{HistoryStep, ImageHistoryResponse};

use crate::table::Columns;
use crate::template::Value;
use crate::{humanize, moment, reference};

/// Characters of an instruction that are shown.
const INSTRUCTION_CHARACTERS: usize = 45;

/// What stands for the id of a step: only the last is an image.
const MISSING: &str = "<missing>";

/// Columns of `history`.
pub(crate) const COLUMNS: Columns = Columns {
    table: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    quiet: "{{.ID}}",
    titles: &[
        ("Comment", "COMMENT"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("CreatedSince", "CREATED"),
        ("ID", "IMAGE"),
        ("Size", "SIZE"),
        ("Tags", "TAGS"),
    ],
};

/// How rows are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistoryStyle {
    /// The present, from which ages are counted.
    pub(crate) now: Timestamp,
    /// Cuts ids and instructions.
    pub(crate) truncate: bool,
    /// Shows ages and rounded sizes.
    pub(crate) for_people: bool,
}

/// The rows of a history, the last step first.
pub(crate) fn rows(history: &ImageHistoryResponse, style: HistoryStyle) -> Vec<Value> {
    let steps = history.steps.iter().enumerate();
    steps.map(|(index, step)| row(history, step, index == 0, style)).collect()
}

fn row(
    history: &ImageHistoryResponse,
    step: &HistoryStep,
    is_last: bool,
    style: HistoryStyle,
) -> Value {
    let created = step.created_at.as_ref();
    let created_at = moment::rfc3339(created);
    let created_since = match created {
        None => "N/A".to_owned(),
        Some(_) if style.for_people => {
            format!("{} ago", humanize::duration(moment::seconds_since(created, style.now)))
        }
        Some(_) => created_at.clone(),
    };
    let created_by = step.created_by.replace(['\t', '\n'], " ");
    let created_by = match style.truncate {
        true => humanize::ellipsis(&created_by, INSTRUCTION_CHARACTERS),
        false => created_by,
    };
    let id = match (is_last, style.truncate) {
        (false, _) => MISSING,
        (true, true) => humanize::short_id(&history.id),
        (true, false) => &history.id,
    };
    let size_bytes = u64::try_from(step.size_bytes).unwrap_or(0);
    let size = match style.for_people {
        true => humanize::size(size_bytes),
        false => size_bytes.to_string(),
    };
    let tags: Vec<&str> = match is_last {
        true => history.names.iter().map(|name| reference::familiar(name)).collect(),
        false => Vec::new(),
    };
    Value::record([
        ("Comment", Value::text(&step.comment)),
        ("CreatedAt", Value::Text(created_at)),
        ("CreatedBy", Value::Text(created_by)),
        ("CreatedSince", Value::Text(created_since)),
        ("ID", Value::text(id)),
        ("Size", Value::Text(size)),
        ("Tags", Value::Text(tags.join(", "))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::RowFormat;

    #[test]
    fn a_history_looks_like_dockers() {
        let step = |created_by: &str, size_bytes| HistoryStep {
            created_at: Some(prost_types::Timestamp::default()),
            created_by: created_by.to_owned(),
            size_bytes,
            ..HistoryStep::default()
        };
        let history = ImageHistoryResponse {
            steps: vec![
                step("CMD [\"sh\"]", 0),
                step("/bin/sh -c #(nop) ADD file:0123456789abcdef0123456789abcdef in /", 4_430_000),
            ],
            id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            names: Vec::new(),
        };
        let now = Timestamp::new(3 * 24 * 3600, 0).expect("a moment");
        let style = HistoryStyle { now, truncate: true, for_people: true };

        let text = RowFormat::new(None, false, COLUMNS)
            .and_then(|format| format.render(COLUMNS, rows(&history, style)))
            .expect("a table");

        assert_eq!(
            text,
            "IMAGE          CREATED      CREATED BY                                      SIZE      COMMENT\n\
             0123456789ab   3 days ago   CMD [\"sh\"]                                      0B        \n\
             <missing>      3 days ago   /bin/sh -c #(nop) ADD file:0123456789abcdef0…   4.43MB    \n"
        );
    }
}
