//! Checks: what a Dockerfile does that it probably should not. Names and meanings are those of
//! BuildKit's build checks (docs.docker.com, "Build checks").
//!
//! Most look at the file alone. `UndefinedVar` and `InvalidBaseImagePlatform` are made while a stage is
//! built, when it is known what its base image sets; `CopyIgnoredFile` needs the context's patterns.

use std::collections::BTreeSet;

use keg_image::Reference;

use crate::build::Build;
use crate::dockerfile::{Command, Dockerfile, Instruction, Located, Stage};
use crate::error::BuildError;
use crate::request::ContextSource;
use crate::scope::Scope;
use crate::sources::clean;

/// A finding: name of the check, line, what is wrong.
pub(crate) type Finding = (&'static str, usize, String);

/// Words in names of variables that promise a secret.
const SECRET_WORDS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// What `# check=` says.
#[derive(Debug, Default)]
struct Directive {
    skipped: Vec<String>,
    experimental: Vec<String>,
    is_error: bool,
}

impl Directive {
    fn of(file: &Dockerfile) -> Self {
        let mut directive = Self::default();
        let names = |list: &str| list.split(',').map(|name| name.trim().to_owned()).collect();
        for part in file.directives.check.as_deref().unwrap_or_default().split(';') {
            match part.trim().split_once('=') {
                Some(("skip", list)) => directive.skipped = names(list),
                Some(("experimental", list)) => directive.experimental = names(list),
                Some(("error", value)) => directive.is_error = value.trim() == "true",
                _ => {}
            }
        }
        directive
    }

    fn skips(&self, check: &str) -> bool {
        self.skipped.iter().any(|skip| skip == "all" || skip == check)
    }

    fn tries(&self, check: &str) -> bool {
        self.experimental.iter().any(|name| name == "all" || name == check)
    }
}

impl Build {
    /// Warns of everything that is found in the file.
    ///
    /// # Errors
    /// [`BuildError::Findings`] if there is something, and the file says that this is an error.
    pub(crate) fn check_findings(&self) -> Result<(), BuildError> {
        let mut found = findings(&self.file);
        bases(&self.file, &self.global_args, &mut found);
        let directive = Directive::of(&self.file);
        found.retain(|(check, ..)| !directive.skips(check));
        found.sort_by_key(|(_, line, _)| *line);
        let count = found.len();
        for (check, line, message) in found {
            self.progress.warn(Some(line), check, message);
        }
        if directive.is_error && count > 0 {
            return Err(BuildError::Findings { count });
        }
        Ok(())
    }

    /// Warns of files that are to be copied and that the context leaves out.
    pub(crate) async fn check_copies(&self) -> Result<(), BuildError> {
        let Some(ContextSource::Client { identity }) = &self.request.context else { return Ok(()) };
        if Directive::of(&self.file).skips("CopyIgnoredFile") {
            return Ok(());
        }
        let ignore = self.ignore("", identity).await?;
        for located in self.file.stages.iter().flat_map(|stage| &stage.instructions) {
            let copy = match &located.instruction {
                Instruction::Copy(copy) if copy.from.is_none() => copy,
                Instruction::Add(add) => &add.copy,
                _ => continue,
            };
            for source in
                copy.sources.iter().filter(|source| !source.contains(['$', '*', '?', '<', '[']))
            {
                let path = clean(source);
                if !path.is_empty() && !crate::remote::is_remote(source) && ignore.ignores(&path) {
                    let message = format!("{source:?} is copied, and .dockerignore leaves it out");
                    self.progress.warn(Some(*located.range.start()), "CopyIgnoredFile", message);
                }
            }
        }
        Ok(())
    }

    /// Warns of variables that an instruction uses and that nothing has set.
    pub(crate) fn warn_of_unset(&self, located: &Located, scope: &Scope<'_>) {
        if Directive::of(&self.file).skips("UndefinedVar") {
            return;
        }
        for name in unset_in(&self.file, located, scope) {
            let message = format!("nothing sets the variable ${name}");
            self.progress.warn(Some(*located.range.start()), "UndefinedVar", message);
        }
    }
}

/// Returns the variables that an instruction uses, that are not set, and that have no substitute.
fn unset_in(file: &Dockerfile, located: &Located, scope: &Scope<'_>) -> Vec<String> {
    let copied = |copy: &crate::dockerfile::Copy| {
        let mut texts: Vec<String> =
            copy.sources.iter().filter(|source| !source.contains("<<")).cloned().collect();
        texts.push(copy.destination.clone());
        texts.extend([&copy.chown, &copy.chmod].into_iter().flatten().cloned());
        texts
    };
    let texts = match &located.instruction {
        Instruction::Env(pairs) | Instruction::Label(pairs) => {
            pairs.iter().map(|pair| pair.value.clone()).collect()
        }
        Instruction::Arg(list) => list.iter().filter_map(|(_, value)| value.clone()).collect(),
        Instruction::Copy(copy) => copied(copy),
        Instruction::Add(add) => copied(&add.copy),
        Instruction::Expose(text)
        | Instruction::Stopsignal(text)
        | Instruction::User(text)
        | Instruction::Workdir(text) => vec![text.clone()],
        Instruction::Volume(paths) => paths.clone(),
        _ => Vec::new(),
    };
    let mut names: Vec<String> =
        texts.iter().flat_map(|text| file.words().unset(text, scope)).collect();
    // One that is declared may be without a value on purpose.
    names.retain(|name| !scope.args.iter().any(|(declared, _)| declared == name));
    // `ENV PATH=$PATH:/x` and the like may set what was not there.
    if let Instruction::Env(pairs) = &located.instruction {
        names.retain(|name| !pairs.iter().any(|pair| pair.key == *name));
    }
    names.sort();
    names.dedup();
    names
}

/// Looks a file through, with what `# check=` leaves out.
pub(crate) fn findings(file: &Dockerfile) -> Vec<Finding> {
    let mut found = Vec::new();
    stages(file, &mut found);
    casing(file, &mut found);
    let mut absolute: BTreeSet<String> = BTreeSet::new();
    for stage in &file.stages {
        let mut has_directory = absolute.contains(&stage.base.to_ascii_lowercase());
        let mut has_shell = false;
        let mut seen = [false; 3];
        for located in &stage.instructions {
            let line = *located.range.start();
            instruction(located, has_shell, &mut found);
            let slot = match &located.instruction {
                Instruction::Cmd(_) => 0,
                Instruction::Entrypoint(_) => 1,
                Instruction::Healthcheck(_) => 2,
                Instruction::Shell(_) => {
                    has_shell = true;
                    continue;
                }
                Instruction::Workdir(path) if path.starts_with(['/', '$']) => {
                    has_directory = true;
                    continue;
                }
                Instruction::Workdir(path) if !has_directory => {
                    let message =
                        format!("{path:?} is relative: what it means depends on the base image");
                    found.push(("WorkdirRelativePath", line, message));
                    continue;
                }
                _ => continue,
            };
            if std::mem::replace(&mut seen[slot], true) {
                let name = located.instruction.name();
                let message = format!("a stage has one {name}: the last is the one that counts");
                found.push(("MultipleInstructionsDisallowed", line, message));
            }
        }
        if has_directory {
            absolute.extend(stage.name.clone());
        }
    }
    let directive = Directive::of(file);
    if directive.tries("InvalidDefinitionDescription") {
        descriptions(file, &mut found);
    }
    found
}

/// Instructions that are written in another case than most.
fn casing(file: &Dockerfile, found: &mut Vec<Finding>) {
    let located = |located: &Located| (located.text.clone(), *located.range.start());
    let mut words: Vec<(String, usize)> = file.global_args.iter().map(located).collect();
    for stage in &file.stages {
        words.push((stage.text.clone(), *stage.range.start()));
        words.extend(stage.instructions.iter().map(located));
    }
    let words: Vec<(String, usize)> = words
        .into_iter()
        .map(|(text, line)| (text.split_whitespace().next().unwrap_or_default().to_owned(), line))
        .collect();
    let is_lower = |word: &str| word.bytes().all(|letter| letter.is_ascii_lowercase());
    let is_upper = |word: &str| word.bytes().all(|letter| letter.is_ascii_uppercase());
    let lower = words.iter().filter(|(word, _)| is_lower(word)).count();
    let upper = words.iter().filter(|(word, _)| is_upper(word)).count();
    let most_are_lower = lower > upper;
    for (word, line) in words {
        let fits = if most_are_lower { is_lower(&word) } else { is_upper(&word) };
        if !fits {
            let case = if most_are_lower { "lower" } else { "upper" };
            let message = format!("{word:?} should be in {case} case, as most instructions are");
            found.push(("ConsistentInstructionCasing", line, message));
        }
    }
}

/// Base images: what their names are made of.
fn bases(file: &Dockerfile, globals: &[(String, Option<String>)], found: &mut Vec<Finding>) {
    let declared = |name: &str| globals.iter().any(|(key, _)| key == name).then(String::new);
    // With nothing but what the file itself says.
    let mut defaults: Vec<(String, Option<String>)> = globals
        .iter()
        .filter(|(key, _)| key.starts_with("BUILD") || key.starts_with("TARGET"))
        .cloned()
        .collect();
    for (key, default) in file.global_args.iter().flat_map(|located| match &located.instruction {
        Instruction::Arg(list) => list.clone(),
        _ => Vec::new(),
    }) {
        let scope = Scope { config: None, args: &defaults };
        let value = default.and_then(|text| file.words().one(&text, &scope).ok());
        if value.is_some() || !defaults.iter().any(|(known, _)| *known == key) {
            crate::scope::set_arg(&mut defaults, &key, value);
        }
    }
    for (index, stage) in file.stages.iter().enumerate() {
        let line = *stage.range.start();
        let texts = [Some(&stage.base), stage.platform.as_ref()];
        for name in texts.into_iter().flatten().flat_map(|text| file.words().unset(text, &declared))
        {
            let message = format!("no ARG before the first FROM declares {name}");
            found.push(("UndefinedArgInFrom", line, message));
        }
        let scope = Scope { config: None, args: &defaults };
        let Ok(base) = file.words().one(&stage.base, &scope) else { continue };
        let is_stage = file.stages[..index].iter().any(|other| other.name.as_ref() == Some(&base));
        let is_valid = base == "scratch" || is_stage || Reference::parse(&base).is_ok();
        if stage.base.contains('$') && !is_valid {
            let message = format!(
                "without build arguments {} is {base:?}, which names no image: give its ARG a default",
                stage.base
            );
            found.push(("InvalidDefaultArgInFrom", line, message));
        }
    }
}

/// Comments above definitions that do not begin with what is defined.
fn descriptions(file: &Dockerfile, found: &mut Vec<Finding>) {
    let mut definitions: Vec<(&str, usize, Vec<String>)> = Vec::new();
    let args = |located: &Located| match &located.instruction {
        Instruction::Arg(list) => list.iter().map(|(key, _)| key.clone()).collect(),
        _ => Vec::new(),
    };
    for located in &file.global_args {
        definitions.push(("ARG", *located.range.start(), args(located)));
    }
    for stage in &file.stages {
        definitions.push(("FROM", *stage.range.start(), stage.name.iter().cloned().collect()));
        for located in &stage.instructions {
            definitions.push(("ARG", *located.range.start(), args(located)));
        }
    }
    for (instruction, line, names) in definitions {
        let above = line.checked_sub(2).and_then(|index| file.source.get(index));
        let Some(comment) = above.and_then(|above| above.trim().strip_prefix('#')) else {
            continue;
        };
        let is_directive = comment.split_once('=').is_some_and(|(key, _)| {
            matches!(key.trim().to_ascii_lowercase().as_str(), "syntax" | "escape" | "check")
        });
        let first = comment.split_whitespace().next().unwrap_or_default();
        if names.is_empty() || is_directive || names.iter().any(|name| name == first) {
            continue;
        }
        let message = format!(
            "the comment above {instruction} should begin with what it is about: # {} …",
            names[0]
        );
        found.push(("InvalidDefinitionDescription", line, message));
    }
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
        if names_one_platform(stage) {
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

/// Whether a stage is for one platform, and is not called so either.
fn names_one_platform(stage: &Stage) -> bool {
    let Some(platform) = stage.platform.as_deref() else { return false };
    let name = stage.name.as_deref().unwrap_or_default();
    let is_called_so = platform.split('/').skip(1).any(|part| name.contains(part));
    !platform.contains('$') && !is_called_so
}

fn instruction(located: &Located, has_shell: bool, found: &mut Vec<Finding>) {
    let line = *located.range.start();
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
        // Who has chosen a shell wants one.
        Instruction::Cmd(Command::Shell(_)) | Instruction::Entrypoint(Command::Shell(_))
            if !has_shell =>
        {
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
        Instruction::Expose(ports) => expose(ports, line, found),
        _ => {}
    }
}

fn expose(ports: &str, line: usize, found: &mut Vec<Finding>) {
    for port in ports.split_whitespace().filter(|port| !port.contains('$')) {
        if port.contains(':') {
            let message = format!(
                "{port:?} has an address or a port of the host: which are published is said by `keg run -p`"
            );
            found.push(("ExposeInvalidFormat", line, message));
        }
        if port.chars().any(|letter| letter.is_ascii_uppercase()) {
            let message = format!("the protocol of {port:?} should be in lower case");
            found.push(("ExposeProtoCasing", line, message));
        }
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
        let mut globals = vec![("TARGETPLATFORM".to_owned(), Some("linux/amd64".to_owned()))];
        for located in &file.global_args {
            let Instruction::Arg(list) = &located.instruction else { continue };
            globals.extend(list.clone());
        }
        let mut found = findings(&file);
        bases(&file, &globals, &mut found);
        let directive = Directive::of(&file);
        found.retain(|(check, ..)| !directive.skips(check));
        found.into_iter().map(|(check, ..)| check).collect()
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
            ("FROM a\nRUN x\ncopy a b", "ConsistentInstructionCasing"),
            ("FROM a\nRUN x \\\n\n y", "NoEmptyContinuation"),
            ("FROM a\nMAINTAINER x", "MaintainerDeprecated"),
            ("FROM a\nWORKDIR x", "WorkdirRelativePath"),
            ("FROM a\nCMD x", "JSONArgsRecommended"),
            ("FROM a\nENV a b", "LegacyKeyValueFormat"),
            ("FROM a\nARG API_TOKEN", "SecretsUsedInArgOrEnv"),
            ("FROM a\nENV db_pword=x", "SecretsUsedInArgOrEnv"),
            ("FROM a\nEXPOSE 80/TCP", "ExposeProtoCasing"),
            ("FROM a\nEXPOSE 127.0.0.1:80:80", "ExposeInvalidFormat"),
            ("FROM a\nCMD [\"x\"]\nCMD [\"y\"]", "MultipleInstructionsDisallowed"),
            ("FROM a\nHEALTHCHECK NONE\nHEALTHCHECK NONE", "MultipleInstructionsDisallowed"),
            ("FROM a:${TAG:-1}$OTHER", "UndefinedArgInFrom"),
            ("ARG TAG\nFROM a:$TAG", "InvalidDefaultArgInFrom"),
            (
                "# check=experimental=all\n# the version\nARG V=1\nFROM a:$V",
                "InvalidDefinitionDescription",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(checks(text), [expected], "{text}");
        }
    }

    #[test]
    fn what_is_as_it_should_be_is_not_complained_of() {
        for good in [
            "FROM a AS b\nWORKDIR /x\nENV A=1\nCMD [\"x\"]\n",
            "# check=skip=JSONArgsRecommended\nFROM a\nCMD x",
            "# check=skip=all\nFROM a as B\nCMD x",
            "FROM a\nSHELL [\"/bin/sh\"]\nCMD x",
            "FROM a AS b\nWORKDIR /x\nWORKDIR y\nFROM b\nWORKDIR z",
            "FROM --platform=linux/amd64 a AS build-amd64",
            "ARG TAG=1\nFROM a:$TAG",
            "from a\nrun x\ncmd [\"y\"]",
            "FROM a\nENV PUBLIC_KEY=x MONKEY=y",
            "# check=experimental=all\n# V is the version\nARG V=1\nFROM a:$V",
            "FROM a\nEXPOSE 80/tcp $PORT",
        ] {
            assert_eq!(checks(good), Vec::<&str>::new(), "{good}");
        }
    }

    #[test]
    fn variables_that_nothing_sets_are_found_where_they_are_replaced() {
        let args = [("A".to_owned(), Some("1".to_owned())), ("B".to_owned(), None)];
        let scope = Scope { config: None, args: &args };
        let unset = |text: &str| {
            let file = Dockerfile::parse(&format!("FROM x\n{text}")).unwrap();
            unset_in(&file, &file.stages[0].instructions[0], &scope)
        };

        assert_eq!(unset("COPY $A $C /${D:-x}"), ["C"]);
        assert_eq!(unset("ENV X=$A Y=$E"), ["E"]);
        assert_eq!(unset("WORKDIR /$F"), ["F"]);
        for fine in
            ["ENV PATH=$PATH:/x", "USER $B", "RUN echo $UNSET", "CMD [\"$UNSET\"]", "USER $A"]
        {
            assert!(unset(fine).is_empty(), "{fine}");
        }
    }
}
