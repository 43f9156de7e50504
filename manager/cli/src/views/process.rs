//! Processes: the rows of `top`, in the columns of `ps -ef`.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use keg_proto::keg::v1::{Process, TopResponse, TopRow};

use crate::{moment, table};

/// Titles of the columns.
const TITLES: &str = "UID\tPID\tPPID\tC\tSTIME\tTTY\tTIME\tCMD";

/// Seconds after which the day of a start says more than its hour.
const DAY_SECS: i64 = 24 * 60 * 60;

/// The table of some processes.
pub(crate) fn table(processes: &[Process], now: Timestamp) -> String {
    let mut lines = vec![TITLES.to_owned()];
    lines.extend(processes.iter().map(|process| row(process, now)));
    table::align(&lines)
}

/// The table that the host's ps printed.
pub(crate) fn table_of_ps(response: &TopResponse) -> String {
    let mut lines = vec![response.titles.join("\t")];
    let line =
        |row: &TopRow| row.cells.iter().map(|cell| printable(cell)).collect::<Vec<_>>().join("\t");
    lines.extend(response.rows.iter().map(line));
    table::align(&lines)
}

/// What a process calls itself may hold what a table or a terminal would act upon.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn row(process: &Process, now: Timestamp) -> String {
    let age_secs = moment::seconds_since(process.started_at.as_ref(), now).max(1);
    let cpu_secs = process.cpu_usec / 1_000_000;
    let percent = i64::try_from(cpu_secs).unwrap_or(0) * 100 / age_secs;
    let user = match process.uid {
        0 => "root".to_owned(),
        uid => uid.to_string(),
    };
    let terminal = if process.terminal.is_empty() { "?" } else { &process.terminal };
    let command = printable(&process.command.join(" "));
    format!(
        "{user}\t{}\t{}\t{percent}\t{}\t{terminal}\t{:02}:{:02}:{:02}\t{command}",
        process.pid,
        process.parent_pid,
        started(process, age_secs),
        cpu_secs / 3600,
        cpu_secs / 60 % 60,
        cpu_secs % 60,
    )
}

/// "15:04" today, "Nov22" before.
fn started(process: &Process, age_secs: i64) -> String {
    match process.started_at.as_ref().and_then(moment::from_proto) {
        Some(moment) => {
            let form = if age_secs < DAY_SECS { "%H:%M" } else { "%b%d" };
            moment.to_zoned(TimeZone::system()).strftime(form).to_string()
        }
        None => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp as ProtoTimestamp;

    #[test]
    fn a_row_has_the_columns_of_ps() {
        let process = Process {
            pid: 42,
            parent_pid: 7,
            uid: 0,
            started_at: Some(ProtoTimestamp { seconds: 1000, nanos: 0 }),
            cpu_usec: 65_500_000,
            terminal: String::new(),
            command: vec!["sh".to_owned(), "-c".to_owned(), "a\tb".to_owned()],
        };

        let row = row(&process, Timestamp::new(1130, 0).expect("a moment"));

        let cells: Vec<&str> = row.split('\t').collect();
        assert_eq!(cells[..4], ["root", "42", "7", "50"]);
        assert_eq!(cells[5..], ["?", "00:01:05", "sh -c a?b"]);
    }
}
