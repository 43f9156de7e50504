//! What containers use: the rows of `stats`.

use keg_proto::keg::v1::ContainerStats;

use crate::humanize;
use crate::table::Columns;
use crate::template::Value;

/// What Docker shows for a number of a container that does not run.
const NONE: &str = "--";

/// Columns of `stats`.
pub(crate) const COLUMNS: Columns = Columns {
    table: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    quiet: "{{.ID}}",
    titles: &[
        ("BlockIO", "BLOCK I/O"),
        ("CPUPerc", "CPU %"),
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("MemPerc", "MEM %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("Name", "NAME"),
        ("NetIO", "NET I/O"),
        ("PIDs", "PIDS"),
    ],
};

/// A row of `stats`. `asked` are the containers as they were typed, if any were.
pub(crate) fn row(stats: &ContainerStats, truncate: bool, asked: &[String]) -> Value {
    let id = if truncate { humanize::short_id(&stats.id) } else { &stats.id };
    let of_running = |text: String| if stats.is_running { text } else { NONE.to_owned() };
    let pair = |a: String, b: String| match stats.is_running {
        true => format!("{a} / {b}"),
        false => format!("{NONE} / {NONE}"),
    };
    let memory_percent = match stats.memory_limit_bytes {
        0 => 0.0,
        limit => stats.memory_bytes as f64 * 100.0 / limit as f64,
    };
    Value::record([
        (
            "BlockIO",
            Value::Text(pair(
                humanize::size(stats.block_read_bytes),
                humanize::size(stats.block_written_bytes),
            )),
        ),
        ("CPUPerc", Value::Text(of_running(format!("{:.2}%", stats.cpu_percent)))),
        ("Container", Value::text(typed(stats, asked).unwrap_or(id))),
        ("ID", Value::text(id)),
        ("MemPerc", Value::Text(of_running(format!("{memory_percent:.2}%")))),
        (
            "MemUsage",
            Value::Text(pair(
                humanize::binary_size(stats.memory_bytes),
                humanize::binary_size(stats.memory_limit_bytes),
            )),
        ),
        ("Name", Value::text(&stats.name)),
        (
            "NetIO",
            Value::Text(pair(
                humanize::size(stats.network_received_bytes),
                humanize::size(stats.network_sent_bytes),
            )),
        ),
        ("PIDs", Value::Text(of_running(stats.pids.to_string()))),
    ])
}

/// How a container was called: by its name, or by the beginning of its id.
fn typed<'a>(stats: &ContainerStats, asked: &'a [String]) -> Option<&'a str> {
    let of_name = asked.iter().find(|text| **text == stats.name);
    of_name.or_else(|| asked.iter().find(|text| stats.id.starts_with(*text))).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::RowFormat;

    #[test]
    fn the_table_has_dockers_columns() {
        let running = ContainerStats {
            id: "0123456789abcdef".to_owned(),
            name: "web".to_owned(),
            cpu_percent: 12.345,
            memory_bytes: 1 << 20,
            memory_limit_bytes: 4 << 20,
            network_received_bytes: 1500,
            network_sent_bytes: 20,
            block_read_bytes: 4096,
            pids: 3,
            is_running: true,
            ..ContainerStats::default()
        };
        let stopped = ContainerStats { name: "db".to_owned(), ..ContainerStats::default() };
        let format = RowFormat::new(None, false, COLUMNS).expect("a format");

        let table = format
            .render(COLUMNS, [&running, &stopped].map(|stats| row(stats, true, &[])))
            .expect("a table");

        let lines: Vec<&str> = table.lines().collect();
        let header = "CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O       BLOCK I/O    PIDS";
        assert_eq!(lines[0].trim_end(), header);
        assert!(
            lines[1].starts_with("0123456789ab   web       12.35%    1MiB / 4MiB         25.00%")
        );
        assert!(lines[1].contains("1.5kB / 20B"), "{}", lines[1]);
        assert!(lines[2].contains("-- / --"), "{}", lines[2]);
        for (typed, shown) in [("web", "web"), ("0123", "0123"), ("other", "0123456789ab")] {
            let json = row(&running, true, &[typed.to_owned()]).to_json();
            assert!(json.contains(&format!(r#""Container":"{shown}""#)), "{json}");
        }
    }
}
