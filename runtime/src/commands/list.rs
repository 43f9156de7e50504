//! `list`: all containers below the root, as a table or as JSON.

use std::io::Write;

use clap::{Args, ValueEnum};

use super::state::Row;
use super::{CommandError, Context};
use crate::state_store::{StateStore, StoreError};

#[derive(Debug, Args)]
pub(super) struct List {
    /// Form of the output.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl List {
    pub(super) fn run(self, context: &Context) -> Result<u8, CommandError> {
        if context.root_is_chosen && !context.store.exists() {
            return Err(StoreError::NoRoot { path: context.store.root().to_owned() }.into());
        }
        let print = || CommandError::io("print the list");
        let mut out = std::io::stdout().lock();
        if self.quiet {
            for (id, _) in context.store.list()? {
                writeln!(out, "{id}").map_err(print())?;
            }
            return Ok(0);
        }
        let states = load(&context.store)?;
        let rows: Vec<Row<'_>> = states
            .iter()
            .map(|(state, lifecycle, owner)| Row::new(state, *lifecycle, user_name(*owner)))
            .collect();
        let text = match self.format {
            Format::Json if rows.is_empty() => "null".to_owned(),
            Format::Json => serde_json::to_string(&rows).unwrap_or_default(),
            Format::Table => table(&rows),
        };
        write!(out, "{text}").map_err(print())?;
        Ok(0)
    }
}

type Listed = (crate::state_store::SavedState, crate::lifecycle::Lifecycle, u32);

/// A container that vanishes or is half made while the list is read is no error of the list.
fn load(store: &StateStore) -> Result<Vec<Listed>, CommandError> {
    let mut states = Vec::new();
    for (id, owner) in store.list()? {
        let Ok(dir) = store.open(&id) else { continue };
        if let Ok(Some(state)) = dir.load() {
            let lifecycle = dir.observe(&state);
            states.push((state, lifecycle, owner));
        }
    }
    Ok(states)
}

/// Returns the user's name, or `#` and the number.
fn user_name(uid: u32) -> String {
    std::fs::read_to_string("/etc/passwd")
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
        .unwrap_or_else(|| format!("#{uid}"))
}

/// Formats as Go's tabwriter does with a least width of 12, a padding of 3 and spaces.
fn table(rows: &[Row<'_>]) -> String {
    let mut lines: Vec<[String; 6]> =
        vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        [
            row.id.to_owned(),
            row.pid.to_string(),
            row.status.to_owned(),
            row.bundle.display().to_string(),
            row.created.to_owned(),
            row.owner.clone(),
        ]
    }));
    let width = |column: usize| {
        let longest = lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        (longest + 3).max(12)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}"));
        }
        text.push_str(&line[5]);
        text.push('\n');
    }
    text
}
