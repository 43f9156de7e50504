//! `ps`: the processes of a container, as the host's ps(1) shows them.

use std::io::Write;
use std::process::Command;

use clap::{Args, ValueEnum};
use nix::unistd::Pid;

use super::{CommandError, Context};
use crate::lifecycle::{Event, Lifecycle};
use crate::state_store::ContainerId;

#[derive(Debug, Args)]
pub(super) struct Ps {
    /// Form of the output; as JSON, process ids only.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Name of the container.
    id: String,
    /// Options for ps(1), which must print a column PID [default: -ef].
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS_OPTIONS")]
    options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Ps {
    pub(super) fn run(self, context: &Context) -> Result<u8, CommandError> {
        let dir = context.store.open(&ContainerId::new(self.id)?)?;
        let state = dir.load_existing()?;
        let lifecycle = dir.observe(&state);
        // Of a container that has stopped there is no process, or what it left behind.
        if lifecycle == Lifecycle::Creating {
            lifecycle.apply(Event::Signalled)?;
        }
        let pids = match state.open_cgroup() {
            Some(cgroup) => cgroup.pids().map_err(CommandError::Cgroup)?,
            None => lifecycle.init().into_iter().collect(),
        };
        let mut out = std::io::stdout().lock();
        if self.format == Format::Json {
            let numbers: Vec<i32> = pids.iter().map(|pid| pid.as_raw()).collect();
            let text = serde_json::to_string(&numbers).unwrap_or_default();
            return writeln!(out, "{text}").map(|()| 0).map_err(CommandError::io("print the list"));
        }
        let options = if self.options.is_empty() { vec!["-ef".to_owned()] } else { self.options };
        let output = Command::new("ps")
            .args(&options)
            .output()
            .map_err(CommandError::io("run ps, which the package procps provides"))?;
        if !output.status.success() {
            return Err(CommandError::Option {
                option: "PS_OPTIONS",
                value: options.join(" "),
                expected: "options that ps(1) takes",
            });
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let chosen = choose(&text, &pids).ok_or_else(|| CommandError::Option {
            option: "PS_OPTIONS",
            value: options.join(" "),
            expected: "options that make ps(1) print a column PID",
        })?;
        out.write_all(chosen.as_bytes()).map_err(CommandError::io("print the list"))?;
        Ok(0)
    }
}

/// The heading, and the lines whose PID is among `pids`; nothing without such a column.
fn choose(text: &str, pids: &[Pid]) -> Option<String> {
    let mut lines = text.lines();
    let heading = lines.next()?;
    let column = heading.split_whitespace().position(|name| name == "PID")?;
    let mut chosen = format!("{heading}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|field| field.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&Pid::from_raw(pid))) {
            chosen.push_str(line);
            chosen.push('\n');
        }
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_shown_wherever_the_column_is() {
        let pids = [Pid::from_raw(7), Pid::from_raw(70)];
        let text = "UID  PID CMD\nroot 7 a 8\nroot 8 b\nroot 70 c 7\n";

        assert_eq!(choose(text, &pids).unwrap(), "UID  PID CMD\nroot 7 a 8\nroot 70 c 7\n");
        assert_eq!(choose("CMD PID\nx 70\ny 71\n", &pids).unwrap(), "CMD PID\nx 70\n");
    }

    #[test]
    fn a_listing_without_process_ids_cannot_be_chosen_from() {
        assert_eq!(choose("CMD\nx\n", &[]), None);
        assert_eq!(choose("", &[]), None);
    }
}
