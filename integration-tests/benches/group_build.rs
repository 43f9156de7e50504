//! Builds against the peers: nothing changed, a change near the end, many small steps, many files.
//!
//! Each engine has a daemon (or a store) and a directory of its own, and the same base: static busybox.
//! Docker is Debian's dockerd, with its classic builder and with the BuildKit in it, as far as there is a
//! client that speaks with that; buildah is Debian's, with a layer per step where a cache is measured,
//! since it has none otherwise, and as it comes where none is. Steps have no network. What is measured is
//! the client, from its start to its end; the processor's time is that of the whole machine meanwhile, so
//! nothing else may run. A peer that fails, after several tries, is left out of the task.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use keg_fixtures::{Buildah, Daemon, Dockerd, Image, Scratch, programs};

use crate::group_engine::settled;
use crate::machine::Machine;
use crate::report::{self, BenchResult, Comparison};
use crate::runner::{self, Sample, Side};

/// Small files of the program that is built.
const SOURCES: usize = 200;
/// Steps of the build that has many.
const STEPS: usize = 20;
/// Files of the large context.
const FILES: usize = 10_000;
/// Bytes in each of them, about what a source file has.
const FILE_BYTES: usize = 4096;

/// Most rounds of the long tasks.
const LONG_ROUNDS_MAX: usize = 5;
/// How often a peer may try: BuildKit's sessions end early now and then on a machine that is busy.
const TRIES: usize = 3;

/// Two stages: what is compiled, and what is shipped, with its settings copied last.
const STAGED: &str = "FROM BASE AS build
WORKDIR /src
COPY src ./
RUN cat *.c > /program
RUN mkdir -p /out/bin && cp /program /out/bin/program
FROM BASE
RUN mkdir -p /etc/app /var/lib/app
COPY --from=build /out /usr/local
ENV MODE=production
COPY settings /etc/app/settings
RUN wc -l /etc/app/settings > /etc/app/lines
CMD [\"/usr/local/bin/program\"]
";

type Task = fn(&[Builder<'_>], &Scratch, usize) -> anyhow::Result<Comparison>;
/// What is compared; the last two take long.
const TASKS: [Task; 4] = [unchanged, late_change, many_steps, many_files];

/// Measures the group.
///
/// # Errors
/// If our programs or all peers are missing, or a run fails.
pub(crate) fn measure(rounds: usize) -> anyhow::Result<BenchResult> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the build group starts daemons as root: run it as root");
    }
    let (keg, image) = Daemon::with_busybox();
    let keg = keg.logging("info");
    let docker = Dockerd::new();
    docker.import_busybox();
    let buildah = programs::installed("buildah").map(|_| Buildah::new());
    if let Some(buildah) = &buildah {
        buildah.import(&Image::busybox().with_history(), "bench");
    }
    let scratch = Scratch::new();
    let mut builders = vec![Builder::keg(&keg, &image)];
    builders.push(Builder::classic(&docker));
    builders.extend(Builder::buildkit(&docker, &scratch)?);
    builders.extend(buildah.as_ref().map(Builder::buildah));

    let few = rounds.clamp(1, LONG_ROUNDS_MAX);
    let mut comparisons = Vec::new();
    for (task, rounds) in TASKS.into_iter().zip([rounds, rounds, few, few]) {
        let comparison = task(&builders, &scratch, rounds)?;
        // Who ends the group early has what is done.
        println!("{}", report::comparison_table(&comparison));
        comparisons.push(comparison);
    }
    Ok(BenchResult {
        group: "build".into(),
        date: report::today()?,
        machine: Machine::here(),
        versions: builders.iter().map(|one| (one.name.clone(), one.version())).collect(),
        setting: "images on static busybox, steps without a network".into(),
        comparisons,
        measures: Vec::new(),
    })
}

/// Builds what was built a moment ago.
fn unchanged(
    builders: &[Builder<'_>],
    scratch: &Scratch,
    rounds: usize,
) -> anyhow::Result<Comparison> {
    let task = "rebuild, nothing changed";
    compare(task, builders, scratch, rounds, staged_project, |builder, context, _| {
        builder.build(context, &[])
    })
}

/// Builds after a file was changed that the last steps but one copies.
fn late_change(
    builders: &[Builder<'_>],
    scratch: &Scratch,
    rounds: usize,
) -> anyhow::Result<Comparison> {
    let task = "rebuild, one file changed, late";
    compare(task, builders, scratch, rounds, staged_project, |builder, context, round| {
        fs::write(context.join("settings"), format!("round {round}\n"))?;
        builder.build(context, &[])
    })
}

/// Builds many steps without a cache.
fn many_steps(
    builders: &[Builder<'_>],
    scratch: &Scratch,
    rounds: usize,
) -> anyhow::Result<Comparison> {
    let task = format!("{STEPS} steps, nothing cached");
    let project = |_: &Path| {
        let steps = (1..=STEPS).map(|step| format!("RUN echo {step} > /step{step}\n"));
        Ok(format!("FROM BASE\n{}", steps.collect::<String>()))
    };
    compare(&task, builders, scratch, rounds, project, |builder, context, _| {
        builder.build(context, builder.anew)
    })
}

/// Builds with a large context of which one file was changed.
fn many_files(
    builders: &[Builder<'_>],
    scratch: &Scratch,
    rounds: usize,
) -> anyhow::Result<Comparison> {
    let task = format!("{FILES} files, one changed");
    let project = |context: &Path| {
        for file in 0..FILES {
            let directory = context.join(format!("files/{:02}", file % 100));
            fs::create_dir_all(&directory)?;
            let line = format!("{file} is the number of this file, which is like others.\n");
            let content = line.repeat(FILE_BYTES.div_ceil(line.len()));
            fs::write(directory.join(format!("file{file}")), content)?;
        }
        Ok("FROM BASE\nCOPY files /files\nRUN ls /files > /list\n".to_owned())
    };
    compare(&task, builders, scratch, rounds, project, |builder, context, round| {
        fs::write(context.join("files/07/file7"), format!("round {round}\n"))?;
        builder.build(context, &[])
    })
}

/// Fills a directory for [`STAGED`].
fn staged_project(context: &Path) -> anyhow::Result<String> {
    let sources = context.join("src");
    fs::create_dir_all(&sources)?;
    for file in 0..SOURCES {
        let content = format!("int number{file}(void) {{ return {file}; }}\n").repeat(40);
        fs::write(sources.join(format!("file{file}.c")), content)?;
    }
    fs::write(context.join("settings"), "as they come\n")?;
    Ok(STAGED.to_owned())
}

/// Gives each builder a project, builds it once, and compares what `run` does then.
fn compare(
    task: &str,
    builders: &[Builder<'_>],
    scratch: &Scratch,
    rounds: usize,
    project: impl Fn(&Path) -> anyhow::Result<String>,
    run: impl Fn(&Builder<'_>, &Path, usize) -> anyhow::Result<Sample>,
) -> anyhow::Result<Comparison> {
    eprintln!("{task}");
    let (project, run) = (&project, &run);
    let place = task.replace(|letter: char| !letter.is_alphanumeric(), "-");
    let mut sides = Vec::new();
    for (index, builder) in builders.iter().enumerate() {
        let context = scratch.directory(&format!("{place}/{index}"));
        let file = project(&context)?.replace("BASE", &builder.base);
        fs::write(context.join("Dockerfile"), file)?;
        if let Err(error) = builder.tried(|| builder.build(&context, &[])) {
            if index == 0 {
                return Err(error);
            }
            eprintln!("left out: {}: {error:#}", builder.name);
            continue;
        }
        let round = Cell::new(0);
        let side = Side::new(&builder.name, move || {
            round.set(round.get() + 1);
            builder.tried(|| run(builder, &context, round.get()))
        });
        sides.push(side);
    }
    Ok(Comparison { task: task.to_owned(), figures: runner::compare_long(&mut sides, rounds)? })
}

/// Makes a command, from the words that follow the program.
type Words<'a> = Box<dyn Fn(&[&str]) -> Command + 'a>;

/// The name of our side.
const KEG: &str = "keg";

/// A command line that builds.
struct Builder<'a> {
    name: String,
    command: Words<'a>,
    /// The words that build, up to the context.
    words: Vec<&'static str>,
    /// What leaves the cache out.
    anew: &'static [&'static str],
    base: String,
}

impl<'a> Builder<'a> {
    fn keg(keg: &'a Daemon, image: &str) -> Self {
        Self {
            name: KEG.into(),
            command: Box::new(|words| keg.keg_command(words)),
            words: vec!["build", "--network", "none", "-t", "bench:built"],
            anew: &["--no-cache"],
            base: image.to_owned(),
        }
    }

    fn classic(docker: &'a Dockerd) -> Self {
        let command = |words: &[&str]| {
            let mut command = docker.docker_command(words);
            command.env("DOCKER_BUILDKIT", "0");
            command
        };
        Self { name: "docker, classic".into(), ..Self::docker(Box::new(command)) }
    }

    fn docker(command: Words<'a>) -> Self {
        Self {
            name: "docker".into(),
            command,
            words: vec!["build", "--network", "none", "-t", "bench:built"],
            anew: &["--no-cache"],
            base: Dockerd::BUSYBOX.to_owned(),
        }
    }

    /// BuildKit, by the first client that can: newer ones need buildx, those before 23 do not.
    fn buildkit(docker: &'a Dockerd, scratch: &Scratch) -> anyhow::Result<Option<Self>> {
        let context = scratch.directory("buildkit");
        fs::write(context.join("Dockerfile"), format!("FROM {}\n", Dockerd::BUSYBOX))?;
        let found = programs::installed("docker").into_iter();
        for client in found.chain([PathBuf::from("/usr/bin/docker")]) {
            let variables: Vec<(OsString, OsString)> = docker
                .docker_command(["version"])
                .get_envs()
                .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
                .collect();
            let command = move |words: &[&str]| {
                let mut command = Command::new(&client);
                command.args(words).envs(variables.iter().cloned()).env("DOCKER_BUILDKIT", "1");
                command
            };
            let builder =
                Self { name: "docker, BuildKit".into(), ..Self::docker(Box::new(command)) };
            match builder.tried(|| builder.build(&context, &[])) {
                Ok(_) => return Ok(Some(builder)),
                Err(error) => eprintln!("not with BuildKit: {error:#}"),
            }
        }
        Ok(None)
    }

    fn buildah(buildah: &'a Buildah) -> Self {
        Self {
            name: "buildah".into(),
            command: Box::new(|words| buildah.command(words)),
            words: vec!["build", "--layers", "--network", "none", "-t", "localhost/built"],
            // As it comes, it makes one layer of all steps, and keeps nothing.
            anew: &["--no-cache", "--layers=false"],
            base: "localhost/bench".into(),
        }
    }

    fn build(&self, context: &Path, further: &[&str]) -> anyhow::Result<Sample> {
        let context = context.to_str().context("a directory's name is not UTF-8")?;
        let words: Vec<&str> = self.words.iter().chain(further).copied().chain([context]).collect();
        settled(&(self.command)(&words))
    }

    /// Does something, again if it fails and is a peer's.
    fn tried(&self, run: impl Fn() -> anyhow::Result<Sample>) -> anyhow::Result<Sample> {
        let tries = if self.name == KEG { 1 } else { TRIES };
        let mut outcome = run();
        for _ in 1..tries {
            let Err(error) = &outcome else { break };
            eprintln!("once more: {}: {error:#}", self.name);
            outcome = run();
        }
        outcome
    }

    fn version(&self) -> String {
        let output = (self.command)(&["--version"]).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let number = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
        text.split_whitespace().find(number).unwrap_or_default().trim_matches(',').to_owned()
    }
}
