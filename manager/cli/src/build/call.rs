//! What `--call` prints in place of a build: in buildx's words for people, and as the same documents for
//! programs.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keg_proto::keg::v1::{BuildLines, BuildOutline, BuildOutlineOffer, BuildTargets, BuildWarning};
use serde_json::{Map, Value, json};

use super::display::{harmless, rule_address};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// A build.
    Build,
    /// What is doubtful in the Dockerfile.
    Check,
    /// What the target can be given.
    Outline,
    /// What stages there are.
    Targets,
}

/// `--call`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) kind: CallKind,
    /// Whether it is printed for programs.
    pub(crate) is_json: bool,
}

/// Puts rows under a heading, columns as wide as their widest word and `gap` apart.
fn table(rows: &[Vec<String>], gap: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column) + gap).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A text of a Dockerfile as a cell.
fn cell(text: &str) -> String {
    harmless(text).to_string()
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.into_iter().map(cell).collect()
}

/// Says what a target can be given, for people.
pub(crate) fn outline_text(outline: &BuildOutline) -> String {
    let mut text = String::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() { "(default)" } else { &outline.name };
        let mut rows = vec![row(["TARGET:", name])];
        if !outline.description.is_empty() {
            rows.push(row(["DESCRIPTION:", &outline.description]));
        }
        text.push_str(&table(&rows, 1));
        text.push('\n');
    }
    if !outline.args.is_empty() {
        let mut rows = vec![row(["BUILD ARG", "VALUE", "DESCRIPTION"])];
        rows.extend(outline.args.iter().map(|arg| row([&arg.name, &arg.value, &arg.description])));
        text.push_str(&table(&rows, 3));
        text.push('\n');
    }
    for (heading, offers) in [("SECRET", &outline.secrets), ("SSH", &outline.agents)] {
        if offers.is_empty() {
            continue;
        }
        let mut rows = vec![row([heading, "REQUIRED"])];
        let required = |offer: &BuildOutlineOffer| if offer.is_required { "true" } else { "" };
        rows.extend(offers.iter().map(|offer| row([&offer.id, required(offer)])));
        text.push_str(&table(&rows, 3));
        text.push('\n');
    }
    text
}

/// Says what stages there are, for people.
pub(crate) fn targets_text(targets: &BuildTargets) -> String {
    let mut rows = vec![row(["TARGET", "DESCRIPTION"])];
    for target in &targets.targets {
        let name = match (target.name.as_str(), target.is_default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        rows.push(row([&name, &target.description]));
    }
    table(&rows, 1)
}

/// A document without the fields that say nothing.
fn document<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    let fields = fields.into_iter().filter(|(_, value)| says(value));
    Value::Object(fields.map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
}

fn location(lines: Option<&BuildLines>) -> Value {
    match lines {
        Some(BuildLines { first, last }) => {
            json!({"ranges": [{"start": {"line": first}, "end": {"line": last}}]})
        }
        None => Value::Null,
    }
}

fn encoded(source: &str) -> Value {
    json!([STANDARD.encode(source)])
}

fn print(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Says what a target can be given, for programs.
pub(crate) fn outline_json(outline: &BuildOutline) -> String {
    let args = outline.args.iter().map(|arg| {
        document([
            ("name", json!(arg.name)),
            ("description", json!(arg.description)),
            ("value", json!(arg.value)),
            ("location", location(arg.lines.as_ref())),
        ])
    });
    let offers = |offers: &[BuildOutlineOffer]| -> Value {
        let offers = offers.iter().map(|offer| {
            document([
                ("name", json!(offer.id)),
                ("required", json!(offer.is_required)),
                ("location", location(offer.lines.as_ref())),
            ])
        });
        offers.collect()
    };
    print(&document([
        ("name", json!(outline.name)),
        ("description", json!(outline.description)),
        ("args", args.collect()),
        ("secrets", offers(&outline.secrets)),
        ("ssh", offers(&outline.agents)),
        ("sources", encoded(&outline.source)),
    ]))
}

/// Says what stages there are, for programs.
pub(crate) fn targets_json(targets: &BuildTargets) -> String {
    let list = targets.targets.iter().map(|target| {
        document([
            ("name", json!(target.name)),
            ("default", json!(target.is_default)),
            ("description", json!(target.description)),
            ("base", json!(target.base)),
            ("platform", json!(target.platform)),
            ("location", location(target.lines.as_ref())),
        ])
    });
    print(&json!({"targets": list.collect::<Value>(), "sources": encoded(&targets.source)}))
}

/// Says what is doubtful in a Dockerfile, for programs.
pub(crate) fn check_json(warnings: &[BuildWarning], name: &str, source: &str) -> String {
    let list = warnings.iter().map(|warning| {
        let lines = BuildLines { first: warning.line, last: warning.line };
        document([
            ("ruleName", json!(warning.check)),
            ("description", json!(warning.description)),
            ("url", json!(rule_address(&warning.check))),
            ("detail", json!(warning.message)),
            ("location", location(Some(&lines).filter(|lines| lines.first > 0))),
        ])
    });
    let source = document([
        ("filename", json!(name)),
        ("language", json!("Dockerfile")),
        ("data", json!(STANDARD.encode(source))),
    ]);
    print(&json!({"warnings": list.collect::<Value>(), "sources": [source]}))
}

#[cfg(test)]
mod tests {
    use keg_proto::keg::v1::{BuildOutlineArg, BuildTarget};

    use super::*;

    #[test]
    fn an_outline_is_as_buildx_prints_it() {
        let lines = Some(BuildLines { first: 2, last: 2 });
        let arg = |name: &str, value: &str, description: &str| BuildOutlineArg {
            name: name.to_owned(),
            value: value.to_owned(),
            description: description.to_owned(),
            lines,
        };
        let secret = BuildOutlineOffer { id: "token".to_owned(), is_required: true, lines };
        let outline = BuildOutline {
            name: "target".to_owned(),
            description: "is built".to_owned(),
            args: vec![arg("BAR", "678", "is a number"), arg("LONGER", "", "")],
            secrets: vec![secret],
            agents: Vec::new(),
            source: "FROM x\n".to_owned(),
        };

        assert_eq!(
            outline_text(&outline),
            "TARGET:      target\nDESCRIPTION: is built\n\n\
             BUILD ARG   VALUE   DESCRIPTION\nBAR         678     is a number\nLONGER\n\n\
             SECRET   REQUIRED\ntoken    true\n\n"
        );
        let value: Value = serde_json::from_str(&outline_json(&outline)).unwrap();
        assert_eq!(value["args"][0]["location"]["ranges"][0]["start"]["line"], 2);
        assert_eq!(value["args"][1].get("value"), None);
        assert_eq!(
            value["secrets"][0],
            json!({
                "name": "token", "required": true, "location": location(lines.as_ref()),
            })
        );
        assert_eq!(value["sources"], json!(["RlJPTSB4Cg=="]));
    }

    #[test]
    fn targets_without_a_name_are_listed_too() {
        let target = |name: &str, is_default| BuildTarget {
            name: name.to_owned(),
            is_default,
            ..BuildTarget::default()
        };
        let text = |targets| targets_text(&BuildTargets { targets, source: String::new() });

        assert_eq!(
            text(vec![target("build", false), target("", false), target("app", true)]),
            "TARGET        DESCRIPTION\nbuild\n\napp (default)\n"
        );
        assert_eq!(text(vec![target("", true)]), "TARGET    DESCRIPTION\n(default)\n");
    }
}
