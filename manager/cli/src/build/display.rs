//! Shows a build: lines as BuildKit's plain progress has them, a few lines that change on a terminal,
//! or the messages as JSON.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keg_proto::keg::v1::build_response::Event;
use keg_proto::keg::v1::{BuildFailure, BuildLog, BuildStep, BuildStepState, BuildWarning};
use serde_json::{Value, json};

/// Lines of a step's output that are kept for the report of its failure.
const KEPT_LINES: usize = 40;
/// Lines of a Dockerfile that are shown before and after what a check found.
const AROUND: usize = 2;
/// Lines of output that a running step shows on a terminal.
const SHOWN_LINES: usize = 6;

/// How a build is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Everything, line by line.
    Plain,
    /// A line per step, and the last lines of those that run.
    Terminal,
    /// JSON, a message per line.
    Json,
    /// Nothing but failures.
    Quiet,
}

impl Style {
    /// Chooses by what standard error is.
    pub(crate) fn auto() -> Self {
        if std::io::stderr().is_terminal() { Self::Terminal } else { Self::Plain }
    }
}

#[derive(Debug)]
struct Step {
    name: String,
    began: Instant,
    /// What is not a whole line yet.
    unfinished: Vec<u8>,
    lines: Vec<String>,
    is_over: bool,
}

/// Shows a build on standard error.
#[derive(Debug)]
pub(crate) struct Display {
    style: Style,
    steps: HashMap<u32, Step>,
    last_shown: Option<u32>,
    failed: Option<u32>,
    warnings: Vec<BuildWarning>,
    /// When steps that run began, for [`Style::Json`].
    started: HashMap<u32, Value>,
    /// Lines of the terminal that change.
    live_lines: usize,
}

impl Display {
    pub(crate) fn new(style: Style) -> Self {
        Self {
            style,
            steps: HashMap::new(),
            last_shown: None,
            failed: None,
            warnings: Vec::new(),
            started: HashMap::new(),
            live_lines: 0,
        }
    }

    /// Takes what the daemon tells.
    pub(crate) fn tell(&mut self, event: &Event) {
        let text = match (self.style, event) {
            (Style::Json, Event::Step(step)) => self.step_as_json(step),
            (Style::Json, event) => as_json(event),
            (_, Event::Step(step)) => self.step(step),
            (_, Event::Log(log)) => self.log(log),
            (Style::Plain, Event::Status(status)) if status.is_done => {
                let id = status.step;
                let mut text = self.separator(id);
                let size = if status.total > 1 {
                    format!(": {}", crate::humanize::size(u64::try_from(status.total).unwrap_or(0)))
                } else {
                    String::new()
                };
                let _ = writeln!(text, "#{id} {}{size} done", status.name);
                text
            }
            (_, Event::Warning(warning)) => {
                self.warnings.push(warning.clone());
                String::new()
            }
            _ => String::new(),
        };
        match self.style {
            Style::Terminal => self.redraw(&text),
            Style::Quiet => {}
            Style::Plain | Style::Json => put(&text),
        }
    }

    /// Returns what was warned of so far.
    pub(crate) fn warnings(&self) -> &[BuildWarning] {
        &self.warnings
    }

    /// Shows what is left to be shown.
    pub(crate) fn finish(&mut self) {
        if self.style == Style::Terminal {
            self.clear();
        }
        if self.style == Style::Json || self.warnings.is_empty() {
            return;
        }
        let mut text = String::new();
        for warning in &self.warnings {
            let line = match warning.line {
                0 => String::new(),
                line => format!(" (line {line})"),
            };
            let told = format!("{}: {}{line}", warning.check, warning.message);
            let _ = writeln!(text, " - {}", harmless(&told));
        }
        put(&format!("\n {} found:\n{text}", plural(self.warnings.len(), "warning")));
    }

    /// Returns what was found wrong with a Dockerfile, each with its lines.
    pub(crate) fn report(&mut self, source: &str) -> String {
        if self.style == Style::Terminal {
            self.clear();
        }
        if self.style == Style::Json {
            return String::new();
        }
        let lines: Vec<&str> = source.lines().collect();
        let mut text = String::new();
        for warning in &self.warnings {
            let _ = writeln!(text, "WARNING: {} - {}", warning.check, rule_address(&warning.check));
            let _ = writeln!(text, "{}", harmless(&warning.message));
            let blamed = usize::try_from(warning.line).unwrap_or(usize::MAX);
            let first = blamed.saturating_sub(AROUND).max(1);
            let shown = lines.iter().enumerate().map(|(index, line)| (index + 1, line));
            let shown = shown.filter(|(number, _)| (first..=blamed + AROUND).contains(number));
            if blamed > 0 && !lines.is_empty() {
                let _ = writeln!(text, "Dockerfile:{blamed}\n--------------------");
                for (number, line) in shown {
                    let mark = if number == blamed { ">>>" } else { "   " };
                    let _ = writeln!(text, "{number:4} | {mark} {}", harmless(line));
                }
                text.push_str("--------------------\n");
            }
            text.push('\n');
        }
        match self.warnings.len() {
            0 => text.push_str("Check complete, no warnings found.\n"),
            1 => text.push_str("Check complete, 1 warning has been found!\n"),
            count => {
                let _ = writeln!(text, "Check complete, {count} warnings have been found!");
            }
        }
        text
    }

    /// Makes room for a shell, and says where it is; what the step that failed wrote comes first.
    pub(crate) fn make_room(&mut self, place: &str) {
        if self.style == Style::Terminal {
            self.clear();
        }
        let mut text = String::new();
        // That the step has failed may not have been told yet.
        let step = self.steps.values().find(|step| place.ends_with(&step.name));
        for line in step.filter(|_| self.style == Style::Terminal).map_or(&[][..], |s| &s.lines) {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "\nA shell {}; exit leaves it.", harmless(place));
        put(&text);
    }

    /// Shows where the build failed.
    pub(crate) fn failure(&mut self, failure: &BuildFailure) {
        if self.style == Style::Json {
            return;
        }
        if self.style == Style::Terminal {
            self.clear();
        }
        let mut text = String::new();
        if let Some(step) = self.failed.and_then(|id| self.steps.get(&id)) {
            let _ = writeln!(text, "------\n > {}:", harmless(&step.name));
            for line in &step.lines {
                let _ = writeln!(text, "{line}");
            }
            let _ = writeln!(text, "------");
        }
        let _ = writeln!(text, "Dockerfile:{}\n--------------------", failure.blamed_first);
        for (number, line) in (failure.first_line..).zip(&failure.lines) {
            let is_blamed = (failure.blamed_first..=failure.blamed_last).contains(&number);
            let mark = if is_blamed { ">>>" } else { "   " };
            let _ = writeln!(text, "{number:4} | {mark} {}", harmless(line));
        }
        let _ = writeln!(text, "--------------------");
        put(&text);
    }

    /// A step as BuildKit's rawjson has it: once when it begins, once when it has ended.
    fn step_as_json(&mut self, step: &BuildStep) -> String {
        let at = time(step.at.as_ref());
        let mut fields = json!({"digest": vertex(step.id), "name": step.name});
        let state = step.state();
        if state == BuildStepState::Started {
            self.started.insert(step.id, at.clone());
            fields["started"] = at;
        } else {
            fields["started"] = self.started.remove(&step.id).unwrap_or_default();
            fields["completed"] = at;
            fields["cached"] = json!(state == BuildStepState::Cached);
            if state == BuildStepState::Canceled {
                fields["error"] = json!("canceled");
            } else if !step.error.is_empty() {
                fields["error"] = json!(step.error);
            }
        }
        format!("{}\n", json!({"vertexes": [fields]}))
    }

    fn step(&mut self, message: &BuildStep) -> String {
        let id = message.id;
        let state = message.state();
        if state == BuildStepState::Started {
            self.steps.insert(
                id,
                Step {
                    name: message.name.clone(),
                    began: Instant::now(),
                    unfinished: Vec::new(),
                    lines: Vec::new(),
                    is_over: false,
                },
            );
            return match self.style {
                Style::Plain => {
                    let separator = self.separator(id);
                    format!("{separator}#{id} {}\n", harmless(&message.name))
                }
                _ => String::new(),
            };
        }
        let rest = self.flush(id);
        let Some(step) = self.steps.get_mut(&id) else { return rest };
        step.is_over = true;
        let secs = step.began.elapsed().as_secs_f32();
        let name = harmless(&step.name);
        if state == BuildStepState::Failed {
            self.failed = Some(id);
        }
        let outcome = match state {
            BuildStepState::Cached => "CACHED".to_owned(),
            BuildStepState::Failed => format!("ERROR: {}", harmless(&message.error)),
            BuildStepState::Canceled => "CANCELED".to_owned(),
            _ => format!("DONE {secs:.1}s"),
        };
        match self.style {
            Style::Plain => {
                let separator = self.separator(id);
                format!("{rest}{separator}#{id} {outcome}\n")
            }
            Style::Terminal if state == BuildStepState::Cached => format!(" => CACHED {name}\n"),
            Style::Terminal if state == BuildStepState::Failed => format!(" => ERROR {name}\n"),
            Style::Terminal if state == BuildStepState::Canceled => {
                format!(" => CANCELED {name}\n")
            }
            Style::Terminal => format!(" => {name}  {secs:.1}s\n"),
            _ => String::new(),
        }
    }

    fn log(&mut self, message: &BuildLog) -> String {
        let Some(step) = self.steps.get_mut(&message.step) else { return String::new() };
        step.unfinished.extend_from_slice(&message.data);
        let mut lines = Vec::new();
        while let Some(end) = step.unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = step.unfinished.drain(..=end).collect();
            lines.push(line);
        }
        lines.into_iter().map(|line| self.line(message.step, &line)).collect()
    }

    /// Shows what a step has written without ending the line.
    fn flush(&mut self, id: u32) -> String {
        let rest = self.steps.get_mut(&id).map(|step| std::mem::take(&mut step.unfinished));
        match rest {
            Some(rest) if !rest.is_empty() => self.line(id, &rest),
            _ => String::new(),
        }
    }

    fn line(&mut self, id: u32, bytes: &[u8]) -> String {
        let Some(step) = self.steps.get_mut(&id) else { return String::new() };
        let text = String::from_utf8_lossy(bytes);
        // Of a line that writes over itself, the last state counts.
        let text = text.trim_end_matches(['\n', '\r']);
        let text = harmless(text.rsplit('\r').next().unwrap_or(text));
        let secs = step.began.elapsed().as_secs_f32();
        let line = format!("{secs:.3} {text}");
        if step.lines.len() == KEPT_LINES {
            step.lines.remove(0);
        }
        step.lines.push(line.clone());
        if self.style != Style::Plain {
            return String::new();
        }
        let separator = self.separator(id);
        format!("{separator}#{id} {line}\n")
    }

    /// An empty line where another step goes on than the one before.
    fn separator(&mut self, id: u32) -> String {
        let before = self.last_shown.replace(id);
        if before.is_some_and(|before| before != id) { "\n".to_owned() } else { String::new() }
    }

    /// Puts finished lines above those that change, and draws these anew.
    fn redraw(&mut self, finished: &str) {
        let mut text = erase(self.live_lines);
        text.push_str(finished);
        let width = usize::from(
            rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |size| size.ws_col),
        )
        .max(20);
        let mut running: Vec<(&u32, &Step)> =
            self.steps.iter().filter(|(_, step)| !step.is_over).collect();
        running.sort_by_key(|(id, _)| **id);
        self.live_lines = 0;
        for (_, step) in running {
            let secs = step.began.elapsed().as_secs_f32();
            let line = format!(" => {}  {secs:.1}s", harmless(&step.name));
            let _ = writeln!(text, "{}", cut(&line, width));
            self.live_lines += 1;
            let first = step.lines.len().saturating_sub(SHOWN_LINES);
            for line in &step.lines[first..] {
                let _ = writeln!(text, "{}", cut(&format!(" => # {line}"), width));
                self.live_lines += 1;
            }
        }
        put(&text);
    }

    fn clear(&mut self) {
        put(&erase(self.live_lines));
        self.live_lines = 0;
    }
}

/// Moves up and erases lines.
fn erase(lines: usize) -> String {
    "\u{1b}[1A\u{1b}[2K".repeat(lines)
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width.saturating_sub(1)).collect()
}

/// Where a check is explained.
pub(crate) fn rule_address(check: &str) -> String {
    let mut name = String::new();
    let mut before = '-';
    for letter in check.chars() {
        // "JSONArgs" is two words.
        if letter.is_ascii_uppercase() && before.is_ascii_lowercase() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
        before = letter;
    }
    let name = name.replace("jsonargs", "json-args");
    format!("https://docs.docker.com/go/dockerfile/rule/{name}/")
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Text without control characters, by which output could take over the terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect()
}

fn put(text: &str) {
    // Who closed standard error does not want to know.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// A message in the form of BuildKit's rawjson: what buildx prints and other programs read.
fn as_json(event: &Event) -> String {
    let value = match event {
        Event::Log(log) => json!({"logs": [{
            "vertex": vertex(log.step), "stream": if log.is_stderr { 2 } else { 1 },
            "data": STANDARD.encode(&log.data), "timestamp": time(log.at.as_ref()),
        }]}),
        Event::Status(status) => json!({"statuses": [{
            "vertex": vertex(status.step), "id": status.name, "name": status.name,
            "current": status.current, "total": status.total, "done": status.is_done,
        }]}),
        Event::Warning(warning) => json!({"warnings": [{
            "short": STANDARD.encode(&warning.message), "check": warning.check,
            "range": [{"start": {"line": warning.line}, "end": {"line": warning.line}}],
        }]}),
        _ => return String::new(),
    };
    format!("{value}\n")
}

/// A step's number in the form of a digest, which is how BuildKit names steps.
fn vertex(step: u32) -> String {
    format!("sha256:{step:064x}")
}

fn time(at: Option<&prost_types::Timestamp>) -> Value {
    let at = at.and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok());
    at.map_or(Value::Null, |at| json!(at.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(id: u32, state: BuildStepState) -> Event {
        let name = format!("[1/2] RUN {id}");
        Event::Step(BuildStep { id, name, state: state.into(), ..BuildStep::default() })
    }

    #[test]
    fn plain_lines_are_numbered_and_steps_kept_apart() {
        let mut display = Display::new(Style::Plain);
        let mut shown = String::new();
        for event in [step(1, BuildStepState::Started), step(2, BuildStepState::Started)] {
            let Event::Step(message) = &event else { continue };
            shown.push_str(&display.step(message));
        }
        shown.push_str(&display.log(&BuildLog {
            step: 1,
            data: b"a\x1b[2J\nb".to_vec(),
            ..BuildLog::default()
        }));
        let Event::Step(done) = step(1, BuildStepState::Cached) else { return };
        shown.push_str(&display.step(&done));

        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "#1 [1/2] RUN 1");
        assert_eq!(lines[2], "#2 [1/2] RUN 2");
        assert!(lines[4].starts_with("#1 0.") && lines[4].ends_with("a [2J"), "{shown}");
        assert!(lines[5].ends_with(" b") && lines[6] == "#1 CACHED", "{shown}");
    }
}
