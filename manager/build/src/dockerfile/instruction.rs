//! Instructions: their flags and forms.

use super::heredoc::{Heredoc, raw_words};
use super::lines::Line;
use super::{Located, ParseError};

/// Names of all instructions.
pub(super) const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A command: words for the kernel, or a line for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `["program", "argument"]`.
    Exec(Vec<String>),
    /// Anything else.
    Shell(String),
}

/// A name and its value, neither of them read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Name.
    pub key: String,
    /// Value.
    pub value: String,
    /// Whether it was written as `NAME value`.
    pub is_legacy: bool,
}

/// What network a step has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Network {
    /// The build's.
    #[default]
    Default,
    /// None but its own loopback.
    None,
    /// The host's.
    Host,
}

impl Network {
    /// Reads the word for it.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "default" | "" | "bridge" => Some(Self::Default),
            "none" => Some(Self::None),
            "host" => Some(Self::Host),
            _ => None,
        }
    }

    /// Returns the word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

/// How a step is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Security {
    /// As every container.
    #[default]
    Sandbox,
    /// With all capabilities and all system calls.
    Insecure,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What it runs.
    pub command: Command,
    /// Values of `--mount`, variables not replaced.
    pub mounts: Vec<String>,
    /// Values of `--device`, likewise.
    pub devices: Vec<String>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// Texts that follow.
    pub heredocs: Vec<Heredoc>,
}

/// `COPY`, and what `ADD` shares with it. No variable is replaced yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copy {
    /// What is copied; heredocs by their marks.
    pub sources: Vec<String>,
    /// Where to.
    pub destination: String,
    /// `--from`.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`: the layer is independent of those below it.
    pub link: bool,
    /// `--parents`: directories of the source's path are kept.
    pub parents: bool,
    /// `--exclude`, several.
    pub exclude: Vec<String>,
    /// Texts that follow.
    pub heredocs: Vec<Heredoc>,
}

/// `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Add {
    /// What it shares with `COPY`.
    pub copy: Copy,
    /// `--checksum` of what is fetched.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: bool,
    /// `--unpack`; `None`: local archives are unpacked, remote ones not.
    pub unpack: Option<bool>,
}

/// What `HEALTHCHECK` runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthTest {
    /// Nothing, not even what the base has.
    None,
    /// This.
    Command(Command),
}

/// `HEALTHCHECK`. Durations are nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is run.
    pub test: HealthTest,
    /// `--interval`.
    pub interval_nsec: Option<i64>,
    /// `--timeout`.
    pub timeout_nsec: Option<i64>,
    /// `--start-period`.
    pub start_period_nsec: Option<i64>,
    /// `--start-interval`.
    pub start_interval_nsec: Option<i64>,
    /// `--retries`.
    pub retries: Option<i64>,
}

/// An instruction; variables in it are not replaced yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the Dockerfile's")]
pub enum Instruction {
    From { image: String, platform: Option<String>, name: Option<String> },
    Add(Add),
    Arg(Vec<(String, Option<String>)>),
    Cmd(Command),
    Copy(Copy),
    Entrypoint(Command),
    Env(Vec<Pair>),
    Expose(String),
    Healthcheck(Health),
    Label(Vec<Pair>),
    Maintainer(String),
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    Stopsignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

impl Instruction {
    /// Returns its name, in upper case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::From { .. } => "FROM",
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// Reads an instruction.
///
/// # Errors
/// [`ParseError::Unknown`], [`ParseError::Malformed`].
pub(crate) fn parse_line(line: &Line, escape: char) -> Result<Located, ParseError> {
    let first = *line.range.start();
    let text = line.text.trim();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let Some(name) = NAMES.iter().find(|name| name.eq_ignore_ascii_case(word)).copied() else {
        return Err(ParseError::Unknown { line: first, word: word.chars().take(64).collect() });
    };
    let instruction = read(name, rest.trim(), line, escape)
        .map_err(|problem| ParseError::Malformed { line: first, instruction: name, problem })?;
    Ok(Located {
        instruction,
        text: text.to_owned(),
        range: line.range.clone(),
        has_empty_continuation: line.has_empty_continuation,
    })
}

type Problem = String;

fn read(name: &str, rest: &str, line: &Line, escape: char) -> Result<Instruction, Problem> {
    let (flags, rest) = Flags::take(rest, escape);
    let instruction = match name {
        "FROM" => from(&flags, rest)?,
        "RUN" => run(&flags, rest, line)?,
        "COPY" => Instruction::Copy(copy(&flags, rest, line)?),
        "ADD" => add(&flags, rest, line)?,
        "HEALTHCHECK" => health(&flags, rest)?,
        _ => {
            flags.only(&[])?;
            plain(name, rest, line, escape)?
        }
    };
    Ok(instruction)
}

/// Instructions that take no flags.
fn plain(name: &str, rest: &str, line: &Line, escape: char) -> Result<Instruction, Problem> {
    let needed = || match rest {
        "" => Err("it needs an argument".to_owned()),
        rest => Ok(rest.to_owned()),
    };
    Ok(match name {
        "ARG" => Instruction::Arg(args(&needed()?, escape)?),
        "CMD" => Instruction::Cmd(command(rest)),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)),
        "ENV" => Instruction::Env(pairs(&needed()?, escape)?),
        "LABEL" => Instruction::Label(pairs(&needed()?, escape)?),
        "EXPOSE" => Instruction::Expose(needed()?),
        "MAINTAINER" => Instruction::Maintainer(needed()?),
        "ONBUILD" => onbuild(&needed()?, line, escape)?,
        "SHELL" => match json(rest) {
            Some(words) if !words.is_empty() => Instruction::Shell(words),
            _ => return Err("it takes a list, as in [\"/bin/bash\", \"-c\"]".to_owned()),
        },
        "STOPSIGNAL" => Instruction::Stopsignal(single(&needed()?)?),
        "USER" => Instruction::User(single(&needed()?)?),
        "VOLUME" => {
            let paths = list(&needed()?);
            if paths.iter().any(|path| path.trim().is_empty()) {
                return Err("a path is empty".to_owned());
            }
            Instruction::Volume(paths)
        }
        _ => Instruction::Workdir(needed()?),
    })
}

fn single(rest: &str) -> Result<String, Problem> {
    // A variable's substitute may hold a blank.
    if rest.contains(char::is_whitespace) && !rest.contains(['$', '"', '\'']) {
        return Err("it takes one argument".to_owned());
    }
    Ok(rest.to_owned())
}

fn from(flags: &Flags, rest: &str) -> Result<Instruction, Problem> {
    flags.only(&["platform"])?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (image, name) = match words.as_slice() {
        [image] => (*image, None),
        [image, middle, name] if middle.eq_ignore_ascii_case("as") => (*image, Some(*name)),
        _ => return Err("write FROM IMAGE, or FROM IMAGE AS NAME".to_owned()),
    };
    let name = name.map(str::to_ascii_lowercase);
    if let Some(name) = &name {
        let mut letters = name.chars();
        let starts = letters.next().is_some_and(|letter| letter.is_ascii_lowercase());
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if !starts || !letters.all(valid) {
            return Err(format!(
                "{name:?} is no name for a stage: a letter, then letters, digits, \"-\", \"_\", \".\""
            ));
        }
    }
    Ok(Instruction::From { image: image.to_owned(), platform: flags.value("platform"), name })
}

fn run(flags: &Flags, rest: &str, line: &Line) -> Result<Instruction, Problem> {
    flags.only(&["mount", "network", "security", "device"])?;
    if rest.is_empty() {
        return Err("there is nothing to run".to_owned());
    }
    let network = flags.value("network").unwrap_or_default();
    let security = match flags.value("security").as_deref() {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => {
            return Err(format!("--security is sandbox or insecure, not {other:?}"));
        }
    };
    Ok(Instruction::Run(Run {
        command: command(rest),
        mounts: flags.values("mount"),
        devices: flags.values("device"),
        network: Network::parse(&network)
            .filter(|_| network != "bridge")
            .ok_or_else(|| format!("--network is default, none or host, not {network:?}"))?,
        security,
        heredocs: line.heredocs.clone(),
    }))
}

const COPY_FLAGS: [&str; 6] = ["from", "chown", "chmod", "link", "parents", "exclude"];

fn copy(flags: &Flags, rest: &str, line: &Line) -> Result<Copy, Problem> {
    flags.only(&COPY_FLAGS)?;
    copy_fields(flags, rest, line)
}

fn copy_fields(flags: &Flags, rest: &str, line: &Line) -> Result<Copy, Problem> {
    let mut words = list(rest);
    let destination = words.pop().unwrap_or_default();
    if words.is_empty() {
        return Err("it needs at least one source and a destination".to_owned());
    }
    if destination.is_empty() || words.iter().any(String::is_empty) {
        return Err("a source or the destination is empty".to_owned());
    }
    let many = words.len() > 1
        && !destination.ends_with('/')
        && destination != "."
        && !destination.ends_with("/.")
        && !destination.contains('$');
    if many && destination != ".." {
        return Err(format!(
            "with more than one source the destination is a directory and must end with a /: {destination:?}"
        ));
    }
    Ok(Copy {
        sources: words,
        destination,
        from: flags.value("from").filter(|from| !from.is_empty()),
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.switch("link")?,
        parents: flags.switch("parents")?,
        exclude: flags.values("exclude"),
        heredocs: line.heredocs.clone(),
    })
}

fn add(flags: &Flags, rest: &str, line: &Line) -> Result<Instruction, Problem> {
    flags.only(&["chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"])?;
    Ok(Instruction::Add(Add {
        copy: copy_fields(flags, rest, line)?,
        checksum: flags.value("checksum"),
        keep_git_dir: flags.switch("keep-git-dir")?,
        unpack: flags.value("unpack").map(|_| flags.switch("unpack")).transpose()?,
    }))
}

fn health(flags: &Flags, rest: &str) -> Result<Instruction, Problem> {
    flags.only(&["interval", "timeout", "start-period", "start-interval", "retries"])?;
    let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if rest.trim().is_empty() => HealthTest::None,
        "NONE" => return Err("NONE takes no argument".to_owned()),
        "CMD" if rest.trim().is_empty() => return Err("CMD needs a command".to_owned()),
        "CMD" => HealthTest::Command(command(rest.trim())),
        _ => return Err(format!("it is NONE or CMD, not {kind:?}")),
    };
    let time = |name: &str| -> Result<Option<i64>, Problem> {
        let Some(text) = flags.value(name) else { return Ok(None) };
        let nsec = duration_nsec(&text)
            .ok_or_else(|| format!("--{name}: {text:?} is no duration, such as 30s or 1m30s"))?;
        if nsec != 0 && nsec < 1_000_000 {
            return Err(format!("--{name} cannot be less than 1ms"));
        }
        Ok(Some(nsec).filter(|nsec| *nsec != 0))
    };
    let retries = match flags.value("retries") {
        None => None,
        Some(text) => Some(
            text.parse::<i64>()
                .ok()
                .filter(|count| *count >= 0)
                .ok_or_else(|| format!("--retries: {text:?} is no number"))?,
        ),
    };
    Ok(Instruction::Healthcheck(Health {
        test,
        interval_nsec: time("interval")?,
        timeout_nsec: time("timeout")?,
        start_period_nsec: time("start-period")?,
        start_interval_nsec: time("start-interval")?,
        retries: retries.filter(|count| *count != 0),
    }))
}

/// Reads a duration as Go writes it: `1h2m3.5s`, `100ms`.
fn duration_nsec(text: &str) -> Option<i64> {
    let mut rest = text;
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let length = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit_nsec = match &rest[..length] {
            "ns" => 1e0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return None,
        };
        total += number * unit_nsec;
        rest = &rest[length..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked against the bounds first")]
    (total < 9e18).then_some(total as i64)
}

fn onbuild(rest: &str, line: &Line, escape: char) -> Result<Instruction, Problem> {
    let word = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    match word.as_str() {
        "ONBUILD" => return Err("a trigger cannot be a trigger".to_owned()),
        "FROM" | "MAINTAINER" => return Err(format!("{word} cannot be a trigger")),
        _ => {}
    }
    // It must make sense now, although it is read again when it is carried out.
    let trigger = Line { text: rest.to_owned(), ..line.clone() };
    parse_line(&trigger, escape).map_err(|error| match error {
        ParseError::Malformed { instruction, problem, .. } => format!("{instruction}: {problem}"),
        ParseError::Unknown { word, .. } => format!("there is no instruction {word:?}"),
        other => other.to_string(),
    })?;
    let mut text = rest.to_owned();
    for heredoc in &line.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    Ok(Instruction::Onbuild(text))
}

fn command(rest: &str) -> Command {
    match json(rest) {
        Some(words) => Command::Exec(words),
        None => Command::Shell(rest.to_owned()),
    }
}

/// Reads a list of strings in JSON.
fn json(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

/// Reads a list in JSON, or words.
fn list(text: &str) -> Vec<String> {
    json(text).unwrap_or_else(|| text.split_whitespace().map(str::to_owned).collect())
}

/// Reads `NAME=VALUE …`, or of old `NAME VALUE`.
fn pairs(rest: &str, escape: char) -> Result<Vec<Pair>, Problem> {
    let words = raw_words(rest, escape);
    let first = words.first().cloned().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{first:?} has no value: write {first}=VALUE"))?;
        let value = value.trim_start().to_owned();
        return Ok(vec![Pair { key: key.to_owned(), value, is_legacy: true }]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(format!("{word:?} has no name before the =")),
            Some((key, value)) => {
                Ok(Pair { key: key.to_owned(), value: value.to_owned(), is_legacy: false })
            }
            None => {
                Err(format!("{word:?} has no =: write NAME=VALUE, values with blanks in quotes"))
            }
        })
        .collect()
}

fn args(rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>, Problem> {
    raw_words(rest, escape)
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(format!("{word:?} has no name before the =")),
            Some((key, value)) => Ok((key.to_owned(), Some(value.to_owned()))),
            None => Ok((word, None)),
        })
        .collect()
}

/// Flags of an instruction, in order.
#[derive(Debug, Default)]
struct Flags(Vec<(String, Option<String>)>);

impl Flags {
    /// Takes the flags off the beginning of an instruction's arguments.
    fn take(text: &str, escape: char) -> (Self, &str) {
        let mut flags = Self::default();
        let mut rest = text;
        while rest.starts_with("--") {
            let (word, end) = first_word(rest, escape);
            rest = rest[end..].trim_start();
            if word == "--" {
                break;
            }
            let word = &word[2..];
            flags.0.push(match word.split_once('=') {
                Some((name, value)) => (name.to_ascii_lowercase(), Some(value.to_owned())),
                None => (word.to_ascii_lowercase(), None),
            });
        }
        (flags, rest)
    }

    fn only(&self, known: &[&str]) -> Result<(), Problem> {
        for (index, (name, _)) in self.0.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                return Err(format!("it has no flag --{name}"));
            }
            let repeats = matches!(name.as_str(), "mount" | "exclude");
            if !repeats && self.0[..index].iter().any(|(other, _)| other == name) {
                return Err(format!("--{name} is given twice"));
            }
        }
        for (name, value) in &self.0 {
            let stands_alone = ["link", "parents", "keep-git-dir", "unpack"];
            if value.is_none() && !stands_alone.contains(&name.as_str()) {
                return Err(format!("--{name} needs a value"));
            }
        }
        Ok(())
    }

    fn value(&self, name: &str) -> Option<String> {
        let (_, value) = self.0.iter().find(|(other, _)| other == name)?;
        Some(value.clone().unwrap_or_else(|| "true".to_owned()))
    }

    fn values(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(other, _)| other == name)
            .filter_map(|(_, value)| value.clone())
            .collect()
    }

    fn switch(&self, name: &str) -> Result<bool, Problem> {
        match self.value(name).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some(other) => Err(format!("--{name} is true or false, not {other:?}")),
        }
    }
}

/// Reads a word, quotes and escapes taken away; returns where it ends.
fn first_word(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match (letter, quote) {
            (blank, None) if blank.is_whitespace() => return (word, at),
            (mark @ ('"' | '\''), None) => quote = Some(mark),
            (mark, Some(open)) if mark == open => quote = None,
            (mark, open) if mark == escape && open != Some('\'') => {
                word.extend(letters.next().map(|(_, letter)| letter));
            }
            _ => word.push(letter),
        }
    }
    (word, text.len())
}

/// Reads a port or a range of ports, `8000-8010/udp`, as the configuration has them.
pub(crate) fn port_specs(text: &str) -> Result<Vec<String>, String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        other => return Err(format!("{other:?} is no protocol: tcp, udp or sctp")),
    };
    // `host:container` was allowed once; the container's port is what counts.
    let range = range.rsplit(':').next().unwrap_or(range);
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| {
        text.parse::<u16>().map_err(|_| format!("{text:?} is no port, a number up to 65535"))
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("{range:?}: a range begins with the lower port"));
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}
