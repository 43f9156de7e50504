//! The processes of a container in columns that people choose: by the host's ps(1), whose options
//! these are.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::engine::Engine;
use crate::error::EngineError;

/// How long `ps` may take.
const PS_TIMEOUT: Duration = Duration::from_secs(30);
/// The column that tells whose a line is.
const PID: &str = "PID";

/// What `ps` printed of some processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessTable {
    /// Titles of the columns.
    pub titles: Vec<String>,
    /// A row for each process, of as many cells.
    pub rows: Vec<Vec<String>>,
}

/// Why `ps` could not list processes.
#[derive(Debug, thiserror::Error)]
pub enum PsError {
    /// It cannot be executed.
    #[error("execute ps")]
    Execute(#[source] std::io::Error),
    /// It did not end in time.
    #[error("ps did not end within {} s", PS_TIMEOUT.as_secs())]
    TimedOut,
    /// It refused.
    #[error("ps failed: {complaint}")]
    Failed {
        /// What it wrote to standard error.
        complaint: String,
    },
    /// It cannot be told whose a line is.
    #[error("ps printed no column {PID}: choose it too")]
    NoPid,
}

impl Engine {
    /// Lists the processes of a container by `ps` of the host with these options.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`], [`EngineError::Ps`].
    pub async fn top_by_ps(
        &self,
        name: &str,
        options: &[String],
    ) -> Result<ProcessTable, EngineError> {
        let pids: HashSet<u32> =
            self.top(name).await?.into_iter().map(|process| process.pid).collect();
        let list: Vec<String> = pids.iter().map(u32::to_string).collect();
        let only = ["-q".to_owned(), list.join(",")];
        // Some options exclude -q, which others need, since they choose too little by themselves.
        let printed = match run_ps(options.iter().chain(&only)).await {
            Err(PsError::Failed { .. }) => run_ps(options).await,
            other => other,
        };
        let printed = printed.map_err(EngineError::Ps)?;
        select(&printed, &pids).ok_or(EngineError::Ps(PsError::NoPid))
    }
}

async fn run_ps(options: impl IntoIterator<Item = &String>) -> Result<String, PsError> {
    let command = Command::new("ps").args(options).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PS_TIMEOUT, command)
        .await
        .map_err(|_| PsError::TimedOut)?
        .map_err(PsError::Execute)?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let complaint = complaint.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(PsError::Failed { complaint: complaint.trim().to_owned() });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Keeps the titles and the lines of these processes; `None` if no line says whose it is. The last
/// column takes what is left of a line.
fn select(printed: &str, pids: &HashSet<u32>) -> Option<ProcessTable> {
    let mut lines = printed.lines();
    let titles: Vec<String> = lines.next()?.split_whitespace().map(str::to_owned).collect();
    let pid_column = titles.iter().position(|title| title == PID)?;
    let rows = lines.filter_map(|line| {
        let cells = cells(line, titles.len());
        let pid = cells.get(pid_column)?.parse().ok()?;
        pids.contains(&pid).then_some(cells)
    });
    Some(ProcessTable { rows: rows.collect(), titles })
}

fn cells(line: &str, columns: usize) -> Vec<String> {
    let mut rest = line.trim();
    let mut cells = Vec::new();
    while cells.len() + 1 < columns {
        let (cell, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        cells.push(cell.to_owned());
        rest = after.trim_start();
    }
    cells.push(rest.to_owned());
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_others_are_left_out_and_commands_kept_whole() {
        let printed = "  PID USER     COMMAND\n   10 root     sleep  1 2\n   11 me       sh\n";

        let table = select(printed, &HashSet::from([10])).unwrap();

        assert_eq!(table.titles, ["PID", "USER", "COMMAND"]);
        assert_eq!(table.rows, [["10", "root", "sleep  1 2"]]);
    }

    #[test]
    fn without_a_column_of_process_ids_nothing_can_be_told() {
        assert_eq!(select("USER COMMAND\nroot sh\n", &HashSet::from([1])), None);
    }
}
