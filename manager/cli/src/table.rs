//! Rows of objects as a table, as JSON lines or by a template: everything behind `--format`.
//!
//! A table is a template whose cells are separated by tabs. Its header is that same template,
//! filled with the titles of the fields in place of their values.

use crate::template::{Template, TemplateError, Value};

/// Narrowest column of a table, the space to its right counted.
const MIN_COLUMN_WIDTH: usize = 10;

/// Spaces between columns.
const COLUMN_GAP: usize = 3;

/// How a list command shows its rows.
#[derive(Debug, Clone)]
pub(crate) struct RowFormat {
    template: Template,
    has_header: bool,
}

/// What a list command shows if nothing is said, and how its columns are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    /// Template of the default table, without `table`.
    pub(crate) table: &'static str,
    /// Template for `--quiet`.
    pub(crate) quiet: &'static str,
    /// Fields and their titles.
    pub(crate) titles: &'static [(&'static str, &'static str)],
}

impl RowFormat {
    /// Understands `--format` and `--quiet`, as Docker does: nothing or `table` is the default table,
    /// `table TEMPLATE` another one, `json` one object a line, and the rest is a template.
    ///
    /// # Errors
    /// [`TemplateError`] if the template cannot be parsed.
    pub(crate) fn new(
        format: Option<&str>,
        quiet: bool,
        columns: Columns,
    ) -> Result<Self, TemplateError> {
        let (source, has_header) = match format {
            None | Some("" | "table") if quiet => (columns.quiet, false),
            None | Some("" | "table") => (columns.table, true),
            Some("json") => ("{{json .}}", false),
            Some(format) => match format.strip_prefix("table ") {
                Some(template) => (template.trim_start(), true),
                None => (format, false),
            },
        };
        Ok(Self { template: Template::parse(source)?, has_header })
    }

    /// Whether a row's field may be shown, so that it is worth computing.
    pub(crate) fn may_read(&self, field: &str) -> bool {
        self.template.may_read(field)
    }

    /// Fills in the rows, each on a line of its own.
    ///
    /// # Errors
    /// [`TemplateError`] if the template asks for a field that the rows do not have.
    pub(crate) fn render(
        &self,
        columns: Columns,
        rows: impl IntoIterator<Item = Value>,
    ) -> Result<String, TemplateError> {
        let mut lines = Vec::new();
        if self.has_header {
            let titles = Value::map(
                columns
                    .titles
                    .iter()
                    .map(|(field, title)| ((*field).to_owned(), Value::text(*title))),
            );
            lines.push(self.template.render(&header_record(titles))?);
        }
        for row in rows {
            lines.push(self.template.render(&row)?);
        }
        if self.has_header {
            return Ok(align(&lines));
        }
        Ok(lines.iter().map(|line| format!("{line}\n")).collect())
    }
}

/// The titles, with `.Label "key"` answering for itself.
fn header_record(titles: Value) -> Value {
    let Value::Map(mut entries) = titles else {
        return titles;
    };
    entries.insert("Label".to_owned(), Value::lookup([]));
    Value::Map(entries)
}

/// Sets tab-separated lines in columns, the last cell of a line excepted.
pub(crate) fn align(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines
        .iter()
        .flat_map(|line| line.split('\n'))
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        let padded = row.len().saturating_sub(1);
        for (column, cell) in row.iter().take(padded).enumerate() {
            let width = (cell.chars().count() + COLUMN_GAP).max(MIN_COLUMN_WIDTH);
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut out = String::new();
    for row in rows {
        let last = row.len().saturating_sub(1);
        for (column, cell) in row.into_iter().enumerate() {
            out.push_str(cell);
            if column < last {
                let width = widths.get(column).copied().unwrap_or(0);
                out.push_str(&" ".repeat(width.saturating_sub(cell.chars().count())));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns = Columns {
        table: "{{.ID}}\t{{.Names}}",
        quiet: "{{.ID}}",
        titles: &[("ID", "CONTAINER ID"), ("Names", "NAMES")],
    };

    fn render(format: Option<&str>, quiet: bool) -> String {
        let row = |id: &str, name: &str| {
            Value::record([("ID", Value::text(id)), ("Names", Value::text(name))])
        };
        RowFormat::new(format, quiet, COLUMNS)
            .and_then(|format| format.render(COLUMNS, [row("ab", "web"), row("cd", "db")]))
            .expect("a format that works")
    }

    #[test]
    fn formats_mean_what_they_mean_to_docker() {
        let table = "CONTAINER ID   NAMES\nab             web\ncd             db\n";
        assert_eq!(render(None, false), table);
        assert_eq!(render(Some("table"), false), table);
        assert_eq!(render(None, true), "ab\ncd\n");
        assert_eq!(
            render(Some("json"), false),
            "{\"ID\":\"ab\",\"Names\":\"web\"}\n{\"ID\":\"cd\",\"Names\":\"db\"}\n"
        );
        assert_eq!(render(Some("{{.Names}}"), false), "web\ndb\n");
        assert_eq!(
            render(Some("table {{.Names}}\\t{{.ID}}"), false),
            "NAMES     CONTAINER ID\nweb       ab\ndb        cd\n"
        );
        assert_eq!(render(Some("{{.Names}}"), true), "web\ndb\n");
    }

    #[test]
    fn columns_are_at_least_ten_wide_and_three_apart() {
        let lines = ["a\tb\tc".to_owned(), "0123456789\tb\tc".to_owned()];

        assert_eq!(align(&lines), "a            b         c\n0123456789   b         c\n");
    }
}
