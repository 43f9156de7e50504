//! Checks: what a Dockerfile does that it probably should not. Names and meanings are those of
//! BuildKit's build checks.

use std::collections::BTreeSet;

use crate::build::Build;
use crate::dockerfile::{Command, Dockerfile, Instruction, Located};

/// A finding: name of the check, line, what is wrong.
pub(crate) type Finding = (&'static str, usize, String);

/// Words in names of variables that promise a secret.
const SECRET_WORDS: [&str; 8] =
    ["apikey", "auth", "credential", "key", "passwd", "password", "secret", "token"];

impl Build {
    /// Warns of everything that is found.
    pub(crate) fn warn_of_findings(&self) {
        for (check, line, message) in findings(&self.file) {
            self.progress.warn(Some(line), check, message);
        }
    }
}

/// Looks a file through; checks that the file itself leaves out are not made.
pub(crate) fn findings(file: &Dockerfile) -> Vec<Finding> {
    let mut found = Vec::new();
    stages(file, &mut found);
    for stage in &file.stages {
        let mut seen_cmd = [None::<usize>, None];
        for located in &stage.instructions {
            let line = *located.range.start();
            instruction(located, &mut found);
            let slot = match located.instruction {
                Instruction::Cmd(_) => 0,
                Instruction::Entrypoint(_) => 1,
                _ => continue,
            };
            if seen_cmd[slot].replace(line).is_some() {
                let name = located.instruction.name();
                let message = format!("a stage has one {name}: the last is the one that counts");
                found.push(("MultipleInstructionsDisallowed", line, message));
            }
        }
    }
    let skipped = skipped(file);
    found.retain(|(check, ..)| !skipped.iter().any(|skip| skip == "all" || skip == check));
    found.sort_by_key(|(_, line, _)| *line);
    found
}

fn skipped(file: &Dockerfile) -> Vec<String> {
    let directive = file.directives.check.as_deref().unwrap_or_default();
    directive
        .split(';')
        .filter_map(|part| part.trim().strip_prefix("skip="))
        .flat_map(|list| list.split(','))
        .map(|name| name.trim().to_owned())
        .collect()
}

fn stages(file: &Dockerfile, found: &mut Vec<Finding>) {
    let mut names = BTreeSet::new();
    for stage in &file.stages {
        let line = *stage.range.start();
        let words: Vec<&str> = stage.text.split_whitespace().collect();
        if let Some(name) = &stage.name {
            let written = words.last().copied().unwrap_or_default();
            if written.chars().any(|letter| letter.is_ascii_uppercase()) {
                found.push((
                    "StageNameCasing",
                    line,
                    format!("the stage name {written:?} should be in lower case"),
                ));
            }
            let keyword = words.iter().rev().nth(1).copied().unwrap_or_default();
            let from = words.first().copied().unwrap_or_default();
            let is_upper = |word: &str| word.chars().all(|letter| letter.is_ascii_uppercase());
            if is_upper(keyword) != is_upper(from) {
                found.push((
                    "FromAsCasing",
                    line,
                    format!("{from} and {keyword} are written in different cases"),
                ));
            }
            if !names.insert(name.clone()) {
                found.push((
                    "DuplicateStageName",
                    line,
                    format!("another stage is called {name:?}"),
                ));
            }
            if matches!(name.as_str(), "scratch" | "context") {
                found.push((
                    "ReservedStageName",
                    line,
                    format!("{name:?} means something else already"),
                ));
            }
        }
        if stage.platform.as_deref().is_some_and(|platform| !platform.contains('$')) {
            let message =
                "--platform names one platform: the image can be built for no other".to_owned();
            found.push(("FromPlatformFlagConstDisallowed", line, message));
        }
        if matches!(stage.platform.as_deref(), Some("$TARGETPLATFORM" | "${TARGETPLATFORM}")) {
            found.push((
                "RedundantTargetPlatform",
                line,
                "--platform=$TARGETPLATFORM is what is done anyway".to_owned(),
            ));
        }
    }
}

fn instruction(located: &Located, found: &mut Vec<Finding>) {
    let line = *located.range.start();
    if located.has_odd_case {
        let name = located.text.split_whitespace().next().unwrap_or_default();
        found.push((
            "ConsistentInstructionCasing",
            line,
            format!("{name:?} should be written in one case"),
        ));
    }
    if located.has_empty_continuation {
        let message = "an empty line is in the middle of the instruction".to_owned();
        found.push(("NoEmptyContinuation", line, message));
    }
    match &located.instruction {
        Instruction::Maintainer(_) => {
            let message =
                "MAINTAINER is of old: use LABEL org.opencontainers.image.authors".to_owned();
            found.push(("MaintainerDeprecated", line, message));
        }
        Instruction::Workdir(path) if !path.starts_with(['/', '$']) => {
            let message = format!("{path:?} is relative: what it means depends on the base image");
            found.push(("WorkdirRelativePath", line, message));
        }
        Instruction::Cmd(Command::Shell(_)) | Instruction::Entrypoint(Command::Shell(_)) => {
            let name = located.instruction.name();
            let message =
                format!("a {name} that is no list runs in a shell, which passes no signals on");
            found.push(("JSONArgsRecommended", line, message));
        }
        Instruction::Env(pairs) | Instruction::Label(pairs) => {
            if let Some(pair) = pairs.iter().find(|pair| pair.is_legacy) {
                let message = format!("write {}=… in place of a blank", pair.key);
                found.push(("LegacyKeyValueFormat", line, message));
            }
            if matches!(located.instruction, Instruction::Env(_)) {
                secrets(pairs.iter().map(|pair| pair.key.as_str()), line, found);
            }
        }
        Instruction::Arg(list) => secrets(list.iter().map(|(key, _)| key.as_str()), line, found),
        Instruction::Expose(ports)
            if ports.chars().any(|letter| letter.is_ascii_uppercase()) && !ports.contains('$') =>
        {
            found.push((
                "ExposeProtoCasing",
                line,
                "the protocol should be in lower case".to_owned(),
            ));
        }
        _ => {}
    }
}

fn secrets<'a>(names: impl Iterator<Item = &'a str>, line: usize, found: &mut Vec<Finding>) {
    for name in names {
        let lower = name.to_ascii_lowercase();
        let words: Vec<&str> = lower.split('_').collect();
        if words.iter().any(|word| SECRET_WORDS.contains(word)) && !words.contains(&"public") {
            let message = format!(
                "{name} looks like a secret, and would be in the image's history: use RUN --mount=type=secret"
            );
            found.push(("SecretsUsedInArgOrEnv", line, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(text: &str) -> Vec<&'static str> {
        let file = Dockerfile::parse(text).unwrap();
        findings(&file).into_iter().map(|(check, ..)| check).collect()
    }

    #[test]
    fn each_check_finds_what_it_is_for_and_nothing_else() {
        let table = [
            ("FROM a AS Build", "StageNameCasing"),
            ("FROM a as b", "FromAsCasing"),
            ("FROM a AS b\nFROM c AS b", "DuplicateStageName"),
            ("FROM a AS context", "ReservedStageName"),
            ("FROM --platform=linux/amd64 a", "FromPlatformFlagConstDisallowed"),
            ("FROM --platform=$TARGETPLATFORM a", "RedundantTargetPlatform"),
            ("FROM a\nRun x", "ConsistentInstructionCasing"),
            ("FROM a\nRUN x \\\n\n y", "NoEmptyContinuation"),
            ("FROM a\nMAINTAINER x", "MaintainerDeprecated"),
            ("FROM a\nWORKDIR x", "WorkdirRelativePath"),
            ("FROM a\nCMD x", "JSONArgsRecommended"),
            ("FROM a\nENV a b", "LegacyKeyValueFormat"),
            ("FROM a\nARG API_TOKEN", "SecretsUsedInArgOrEnv"),
            ("FROM a\nEXPOSE 80/TCP", "ExposeProtoCasing"),
            ("FROM a\nCMD [\"x\"]\nCMD [\"y\"]", "MultipleInstructionsDisallowed"),
        ];
        for (text, expected) in table {
            assert_eq!(checks(text), [expected], "{text}");
        }
        assert!(checks("FROM a AS b\nWORKDIR /x\nENV A=1\nCMD [\"x\"]\n").is_empty());
        assert!(checks("# check=skip=JSONArgsRecommended\nFROM a\nCMD x").is_empty());
    }
}
