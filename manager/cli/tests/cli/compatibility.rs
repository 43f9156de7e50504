//! COMPATIBILITY.md says what we have of Docker's command line; both programs are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The table.
const TABLE: &str = include_str!("../../COMPATIBILITY.md");

/// A row: names in the first cell, and the state.
struct Row {
    names: Vec<String>,
    state: String,
}

/// Rows by heading: "Commands", or the name of a command.
fn sections() -> BTreeMap<String, Vec<Row>> {
    let mut sections: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let mut heading = String::new();
    for line in TABLE.lines() {
        if let Some(title) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
            heading = title.trim_matches('`').to_owned();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", names, state, _, ""] = cells.as_slice()
            && names.starts_with('`')
        {
            let names = names.split(", ").map(|name| name.trim_matches('`').to_owned()).collect();
            let row = Row { names, state: (*state).to_owned() };
            sections.entry(heading.clone()).or_default().push(row);
        }
    }
    sections
}

/// What a program says of one of its commands; `None` if it does not know it.
fn help(program: &str, command: &str) -> Option<String> {
    let mut asked = Command::new(program);
    let output = asked.args(command.split_whitespace()).arg("--help").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Docker answers for a group what it would for the group's name alone.
    (output.status.success() && text.contains("Usage:")).then_some(text)
}

fn ours(command: &str) -> Option<String> {
    help(env!("CARGO_BIN_EXE_keg"), command)
}

/// The flags in a help text, `--help` excepted.
fn flags(help: &str) -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    for line in help.lines() {
        let indented = line.len() - line.trim_start().len();
        let words = line.trim_start();
        if (2..=6).contains(&indented) && words.starts_with('-') {
            let names = words.split_whitespace().take_while(|word| word.starts_with('-'));
            flags.extend(names.map(flag_name));
        }
        if let Some((_, aliases)) = line.split_once("[alias: ") {
            flags.extend(aliases.trim_end_matches(']').split(", ").map(flag_name));
        }
    }
    flags.retain(|flag| flag != "--help" && (flag != "-h" || help.contains("--hostname")));
    flags
}

/// "--flag" of "--flag[=<value>]," and of "-f,".
fn flag_name(word: &str) -> String {
    let end = word.find(|c: char| !c.is_alphanumeric() && c != '-').unwrap_or(word.len());
    word[..end].to_owned()
}

fn is_there(state: &str) -> bool {
    match state {
        "done" | "accepted" | "Keg's own" => true,
        "not yet" | "left out" => false,
        other => panic!("there is no state {other:?}"),
    }
}

#[test]
fn commands_are_there_or_not_as_the_table_says() {
    for row in &sections()["Commands"] {
        for name in &row.names {
            assert_eq!(ours(name).is_some(), is_there(&row.state), "{name}");
        }
    }
}

#[test]
fn flags_are_there_or_not_as_the_table_says() {
    let sections = sections();
    let done = sections["Commands"].iter().filter(|row| is_there(&row.state));
    for command in done.map(|row| &row.names[0]) {
        let have = flags(&ours(command).expect("a command that is done"));
        let rows = sections.get(command).map(Vec::as_slice).unwrap_or_default();
        for row in rows {
            for name in &row.names {
                assert_eq!(have.contains(name), is_there(&row.state), "{command} {name}");
            }
        }
        let told: BTreeSet<&String> = rows.iter().flat_map(|row| &row.names).collect();
        let untold: Vec<_> = have.iter().filter(|flag| !told.contains(flag)).collect();
        assert!(untold.is_empty(), "{command} {untold:?} is not in the table");
    }
}

#[test]
fn nothing_of_dockers_is_missing_from_the_table() {
    let version = Command::new("docker").arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    if !version.is_ok_and(|version| version.starts_with("Docker version 28.")) {
        eprintln!("skipped: there is no docker client 28 to ask");
        return;
    }
    let text = help("docker", "").expect("docker's help");
    let sections = sections();
    let told: BTreeSet<&String> = sections["Commands"].iter().flat_map(|row| &row.names).collect();
    for command in subcommands(&text) {
        let group = subcommands(&help("docker", &command).unwrap_or_default());
        let told_as_a_group = told.contains(&command);
        assert!(told_as_a_group || !group.is_empty(), "{command} is not in the table");
        for name in group.iter().filter(|_| !told_as_a_group) {
            let name = format!("{command} {name}");
            assert!(told.contains(&name), "{name} is not in the table");
        }
    }
    for (command, rows) in sections.iter().filter(|(heading, _)| *heading != "Commands") {
        let theirs = flags(&help("docker", command).unwrap_or_default());
        let told: BTreeSet<&String> = rows.iter().flat_map(|row| &row.names).collect();
        let untold: Vec<_> = theirs.iter().filter(|flag| !told.contains(flag)).collect();
        assert!(untold.is_empty(), "{command} {untold:?} is not in the table");
    }
}

/// The commands that Docker's help lists.
fn subcommands(help: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut inside = false;
    for line in help.lines() {
        if line.trim().is_empty() {
            inside = false;
        } else if line.ends_with("Commands:") {
            inside = true;
        } else if let (true, Some(name)) = (inside, line.split_whitespace().next()) {
            // A star marks a plugin, which is not Docker's own.
            let is_name =
                line.starts_with("  ") && !line.starts_with("   ") && !name.ends_with('*');
            commands.extend(is_name.then(|| name.to_owned()));
        }
    }
    commands
}
