//! `keg build`: makes an image from a Dockerfile.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use keg_proto::keg::v1::{
    BuildCall, BuildContext, BuildDebugShell, BuildDone, BuildNetwork, BuildOutput,
    BuildOutputKind, BuildStart, build_context,
};
use serde_json::json;

use crate::build::agent::Agents;
use crate::build::call::{self, Call, CallKind};
use crate::build::display::{Display, Style};
use crate::build::files::Root;
use crate::build::flags;
use crate::build::limits::StepLimits;
use crate::build::session::{Offer, build};
use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::{platform, size};
use crate::{output, terminal};

/// Octets of standard input that tell an archive from a Dockerfile.
const HEAD_BYTES: u64 = 512;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProgressKind {
    /// A few lines that change on a terminal, else plain
    Auto,
    /// Everything, line by line
    Plain,
    /// A few lines that change
    Tty,
    /// A JSON message per line
    Rawjson,
    /// Failures only
    Quiet,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg build -t app .                                 build the Dockerfile in this directory
  keg build -t app:1 -t app:latest -f ci/Dockerfile .
  keg build --target test --build-arg VERSION=3 .
  keg build --secret id=token,src=token.txt .        for RUN --mount=type=secret,id=token
  keg build -o out .                                 put the files of the result into a directory
  keg build --call outline --target test .           what that stage can be given
  keg build --debug-shell .                          enter the container of a step that fails
  keg build --platform linux/amd64,linux/arm64 -t app --push .
  keg build --cache-to type=registry,ref=r.example/app:cache,mode=max --cache-from r.example/app:cache .
  keg build --provenance=mode=max --sbom=r.example/scanner -t app .
  keg build -t app - < Dockerfile                    without any files
  keg build https://example.org/app.git#main:docker  a repository, a branch, a directory")]
pub(crate) struct BuildArgs {
    /// Name the image; may be given several times
    #[arg(short = 't', long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,
    /// Dockerfile; relative to this directory, or in an archive or repository to its root
    #[arg(short = 'f', long, value_name = "FILE|-")]
    file: Option<String>,
    /// Give an ARG a value; without a value it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    build_args: Vec<String>,
    /// Build this stage, and what it needs
    #[arg(long, value_name = "STAGE", default_value = "", hide_default_value = true)]
    target: String,
    /// Do not use results of earlier builds
    #[arg(long)]
    no_cache: bool,
    /// Do not use them for these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Ask registries for newer base images
    #[arg(long)]
    pull: bool,
    /// Platforms of the image, as in linux/amd64,linux/arm64: several make an index of one image each
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    platform: Vec<String>,
    /// Look for results of other machines: IMAGE, type=registry,ref=NAME or type=local,src=DIRECTORY
    #[arg(long, value_name = "WHERE")]
    cache_from: Vec<String>,
    /// Put results where other machines find them: type=registry,ref=NAME, type=local,dest=DIRECTORY or
    /// type=inline; with mode=max those of all stages
    #[arg(long, value_name = "WHERE")]
    cache_to: Vec<String>,
    /// Attest how the image was made (SLSA): mode=min|max,version=v1|v0.2
    #[arg(
        long,
        value_name = "OPTIONS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    provenance: Option<String>,
    /// Attest what the image is made of, as this scanner's image sees it
    #[arg(
        long,
        value_name = "IMAGE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    sbom: Option<String>,
    /// Attest: type=provenance,mode=max or type=sbom,generator=IMAGE
    #[arg(long, value_name = "type=TYPE,OPTIONS")]
    attest: Vec<String>,
    /// Enter the container of a step that fails, as the step left it; with --target also the result
    #[arg(long, conflicts_with_all = ["quiet", "check"])]
    debug_shell: bool,
    /// Offer a secret to RUN --mount=type=secret
    #[arg(long = "secret", value_name = "id=ID,src=FILE|env=NAME")]
    secrets: Vec<String>,
    /// Offer an SSH agent to RUN --mount=type=ssh
    #[arg(long = "ssh", value_name = "default|ID[=SOCKET]")]
    agents: Vec<String>,
    /// Label the image
    #[arg(long = "label", value_name = "NAME[=VALUE]")]
    labels: Vec<String>,
    /// Network of RUN: default, none or host
    #[arg(long, value_name = "NETWORK", default_value = "default", hide_default_value = true)]
    network: String,
    /// How progress is shown
    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        default_value = "auto",
        env = "BUILDKIT_PROGRESS"
    )]
    progress: ProgressKind,
    /// Print the image's id and nothing else
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Write the image's id into a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what is known of the result into a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Put the result elsewhere: DIRECTORY, -, or type=local|tar|oci|docker|image|registry,dest=…
    #[arg(short = 'o', long, value_name = "WHERE")]
    output: Option<String>,
    /// Push the image under its names
    #[arg(long, conflicts_with = "output")]
    push: bool,
    /// Make an image here; done unless --output says otherwise
    #[arg(long)]
    load: bool,
    /// Add a named context: NAME=PATH, NAME=URL, NAME=docker-image://IMAGE or NAME=oci-layout://DIRECTORY[:TAG]
    #[arg(long = "build-context", value_name = "NAME=WHERE")]
    build_contexts: Vec<String>,
    /// Add an entry to /etc/hosts of steps
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    extra_hosts: Vec<String>,
    /// Size of /dev/shm of steps, such as 64m
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    #[command(flatten)]
    limits: StepLimits,
    /// Limits of steps: nofile=1024:2048
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    ulimits: Vec<String>,
    /// Allow steps what they ask for: security.insecure, network.host, device[=NAME]
    #[arg(long = "allow", value_name = "WHAT", value_delimiter = ',')]
    allow: Vec<String>,
    /// Check the Dockerfile and build nothing, as --call check
    #[arg(long)]
    check: bool,
    /// In place of a build: check, outline (what the target can be given) or targets
    #[arg(
        long,
        value_name = "KIND[,format=json]",
        default_value = "build",
        hide_default_value = true,
        conflicts_with = "check"
    )]
    call: String,
    /// Directory, URL, or - for standard input: a Dockerfile or an archive
    #[arg(value_name = "PATH|URL|-")]
    context: String,
}

/// A file of the client cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
struct FileError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |source| Failure::client(FileError { path, source })
}

/// Builds, and prints the image's id if it is asked to be quiet.
pub(crate) async fn run(args: BuildArgs, host: &str) -> Result<u8, Failure> {
    let style = match (args.quiet, args.progress) {
        (true, _) | (_, ProgressKind::Quiet) => Style::Quiet,
        (_, ProgressKind::Auto) => Style::auto(),
        (_, ProgressKind::Plain) => Style::Plain,
        (_, ProgressKind::Tty) => Style::Terminal,
        (_, ProgressKind::Rawjson) => Style::Json,
    };
    let mut offer = Offer {
        agents: Agents::new(flags::agents(&args.agents).map_err(Failure::usage)?),
        ..Offer::default()
    };
    for secret in &args.secrets {
        let (id, secret) = flags::secret(secret).map_err(Failure::usage)?;
        offer.secrets.insert(id, secret);
    }
    if args.debug_shell && !terminal::stdin_is_terminal() {
        return Err(Failure::senseless(NoTerminal));
    }
    let call =
        flags::call(if args.check { "check" } else { &args.call }).map_err(Failure::usage)?;
    let start = BuildStart {
        check: call.kind == CallKind::Check,
        call: match call.kind {
            CallKind::Build | CallKind::Check => BuildCall::Unspecified,
            CallKind::Outline => BuildCall::Outline,
            CallKind::Targets => BuildCall::Targets,
        }
        .into(),
        ..start(&args, &mut offer)?
    };
    let (name, text) = (start.dockerfile_name.clone(), start.dockerfile.clone());
    let daemon = Daemon::connect(host).await?;
    let mut display = Display::new(style);
    let outcome = build(&daemon, start, offer, &mut display).await;
    if call.kind == CallKind::Check {
        let text = text.unwrap_or_default();
        output::print(&match call.is_json {
            true => call::check_json(display.warnings(), &name, &text),
            false => display.report(&text),
        })?;
        return outcome.map(|_| u8::from(!display.warnings().is_empty()));
    }
    display.finish();
    let done = outcome?;
    if call.kind != CallKind::Build {
        return described(call, &done);
    }
    if let Some(path) = &args.iidfile {
        fs::write(path, &done.image_id).map_err(unreadable(path))?;
    }
    if let Some(path) = &args.metadata_file {
        let text = serde_json::to_vec_pretty(&metadata(&args, &done)).unwrap_or_default();
        fs::write(path, text).map_err(unreadable(path))?;
    }
    if args.quiet && !done.image_id.is_empty() {
        output::print_line(&done.image_id)?;
    }
    Ok(0)
}

/// Prints what was asked for in place of a build.
fn described(call: Call, done: &BuildDone) -> Result<u8, Failure> {
    let outline = done.outline.as_ref().map(|outline| match call.is_json {
        true => call::outline_json(outline),
        false => call::outline_text(outline),
    });
    let targets = done.targets.as_ref().map(|targets| match call.is_json {
        true => call::targets_json(targets),
        false => call::targets_text(targets),
    });
    output::print(&outline.or(targets).unwrap_or_default())?;
    Ok(0)
}

/// A shell needs somebody who types.
#[derive(Debug, thiserror::Error)]
#[error("--debug-shell needs a terminal, and standard input is none")]
struct NoTerminal;

/// What is known of the result, in buildx's words.
fn metadata(args: &BuildArgs, done: &BuildDone) -> serde_json::Value {
    let mut value = json!({
        "containerimage.config.digest": done.image_id,
        "image.name": args.tags.join(","),
        "keg.materials": done.materials,
        "keg.sent_bytes": done.sent_bytes,
    });
    if let Some(target) = &done.target {
        value["containerimage.digest"] = json!(target.digest);
        value["containerimage.descriptor"] = json!({
            "mediaType": target.media_type, "digest": target.digest, "size": target.size,
        });
    }
    value
}

fn start(args: &BuildArgs, offer: &mut Offer) -> Result<BuildStart, Failure> {
    let output = match (&args.output, args.push) {
        (Some(text), _) => flags::output(text).map_err(Failure::usage)?,
        (None, true) => flags::output("type=registry").map_err(Failure::usage)?,
        (None, false) => flags::Output::default(),
    };
    offer.destination.clone_from(&output.destination);
    let mut named_contexts = HashMap::new();
    for text in &args.build_contexts {
        let (name, context, directory) = flags::named_context(text).map_err(Failure::usage)?;
        if let Some(path) = directory {
            let root = Root::open(&path).map_err(unreadable(&path))?;
            offer.roots.insert(name.clone(), Arc::new(root));
        }
        named_contexts.insert(name, context);
    }
    let network = match args.network.as_str() {
        "default" | "" | "bridge" => BuildNetwork::Unspecified,
        "none" => BuildNetwork::None,
        "host" => BuildNetwork::Host,
        other => return Err(Failure::usage(Unknown { flag: "network", value: other.to_owned() })),
    };
    let mut start = BuildStart {
        named_contexts,
        tags: args.tags.iter().chain(&output.names).cloned().collect(),
        build_args: pairs(&args.build_args, true),
        target: args.target.clone(),
        labels: pairs(&args.labels, false),
        no_cache: args.no_cache,
        no_cache_filter: args.no_cache_filter.clone(),
        pull: args.pull,
        platforms: args
            .platform
            .iter()
            .map(|text| platform::parse(text))
            .collect::<Result<_, _>>()
            .map_err(Failure::usage)?,
        debug_shell: match (args.debug_shell, args.target.as_str()) {
            (false, _) => BuildDebugShell::Unspecified,
            (true, "") => BuildDebugShell::OnFailure,
            (true, _) => BuildDebugShell::Always,
        }
        .into(),
        network: network.into(),
        extra_hosts: args.extra_hosts.clone(),
        shm_size_bytes: args
            .shm_size
            .as_deref()
            .map(size::bytes)
            .transpose()
            .map_err(Failure::usage)?
            .unwrap_or(0),
        ulimits: args.ulimits.clone(),
        resources: Some(args.limits.describe().map_err(Failure::usage)?),
        cgroup_parent: args.limits.cgroup_parent.clone(),
        allow: args.allow.clone(),
        no_image: output.no_image && args.tags.is_empty() && !args.load,
        output: output.kind.map(|kind| BuildOutput { kind: kind.into() }),
        ..BuildStart::default()
    };
    // The epoch of the environment counts, as for other tools that make reproducible builds.
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        start.build_args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert(epoch);
    }
    caches(args, &mut start, offer)?;
    attestations(args, &mut start)?;
    context(args, &mut start, offer)?;
    Ok(start)
}

/// Says where results are looked for and where they go.
fn caches(args: &BuildArgs, start: &mut BuildStart, offer: &mut Offer) -> Result<(), Failure> {
    for (index, text) in args.cache_from.iter().enumerate() {
        let context = format!("cache-from {index}");
        let (source, directory) = flags::cache_from(text, &context).map_err(Failure::usage)?;
        // The first build has nothing to begin with, which the daemon tells of.
        if let Some(root) = directory.and_then(|directory| Root::open(&directory).ok()) {
            offer.roots.insert(context, Arc::new(root));
        }
        start.cache_from.push(source);
    }
    for (index, text) in args.cache_to.iter().enumerate() {
        let context = format!("cache-to {index}");
        let (target, directory) = flags::cache_to(text, &context).map_err(Failure::usage)?;
        if let Some(directory) = directory {
            fs::create_dir_all(&directory).map_err(unreadable(&directory))?;
            let root = Root::open(&directory).map_err(unreadable(&directory))?;
            offer.roots.insert(context, Arc::new(root));
            let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
            offer.caches.insert(number, directory);
        }
        start.cache_to.push(target);
    }
    Ok(())
}

fn attestations(args: &BuildArgs, start: &mut BuildStart) -> Result<(), Failure> {
    let mut attestations = flags::Attestations::default();
    for text in &args.attest {
        attestations.attest(text).map_err(Failure::usage)?;
    }
    if let Some(text) = &args.provenance {
        attestations.provenance(text).map_err(Failure::usage)?;
    }
    if let Some(text) = &args.sbom {
        attestations.sbom(text).map_err(Failure::usage)?;
    }
    let is_files =
        start.output.as_ref().is_some_and(|output| output.kind() == BuildOutputKind::Files);
    start.provenance = attestations.provenance.filter(|_| !(attestations.inline_only && is_files));
    start.sbom = attestations.sbom;
    Ok(())
}

/// A flag has a value that it cannot have.
#[derive(Debug, thiserror::Error)]
#[error("--{flag} cannot be {value:?}")]
struct Unknown {
    flag: &'static str,
    value: String,
}

/// Reads `NAME=VALUE`; a name alone stands for the variable of the environment, if it is set.
fn pairs(texts: &[String], from_environment: bool) -> HashMap<String, String> {
    texts
        .iter()
        .filter_map(|text| match text.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), value.to_owned())),
            None if from_environment => std::env::var(text).ok().map(|value| (text.clone(), value)),
            None => Some((text.clone(), String::new())),
        })
        .collect()
}

/// Finds the context and the Dockerfile.
fn context(args: &BuildArgs, start: &mut BuildStart, offer: &mut Offer) -> Result<(), Failure> {
    let source = |source| Some(BuildContext { source: Some(source) });
    start.dockerfile_name = match args.file.as_deref() {
        None | Some("-") => "Dockerfile".to_owned(),
        Some(file) => file.to_owned(),
    };
    if flags::is_remote(&args.context) {
        start.context = source(build_context::Source::Url(args.context.clone()));
        return from_stdin_or_context(args, start);
    }
    if args.context == "-" {
        let mut head = Vec::new();
        let stdin = std::io::stdin();
        stdin
            .lock()
            .take(HEAD_BYTES)
            .read_to_end(&mut head)
            .map_err(|error| Failure::stream(&error, "read standard input"))?;
        if is_archive(&head) {
            offer.archive = Some(head);
            start.context = source(build_context::Source::Archive(true));
            return Ok(());
        }
        stdin
            .lock()
            .read_to_end(&mut head)
            .map_err(|error| Failure::stream(&error, "read standard input"))?;
        start.dockerfile = Some(String::from_utf8_lossy(&head).into_owned());
        return Ok(());
    }
    let directory = PathBuf::from(&args.context);
    let root = Root::open(&directory).map_err(unreadable(&directory))?;
    offer.roots.insert(String::new(), Arc::new(root));
    start.context = source(build_context::Source::Client(flags::identity(&directory)));
    if args.file.as_deref() == Some("-") {
        return from_stdin_or_context(args, start);
    }
    let file = match &args.file {
        Some(file) => PathBuf::from(file),
        None => directory.join("Dockerfile"),
    };
    let text = fs::read(&file).map_err(|source| {
        Failure::client(FileError { path: file.clone(), source })
            .with_remedy("name the Dockerfile by -f FILE, and the context at the end: `keg build -f ci/Dockerfile .`")
    })?;
    start.dockerfile = Some(String::from_utf8_lossy(&text).into_owned());
    start.dockerfile_name =
        file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    start.dockerignore = ignore_file(&directory, &file);
    Ok(())
}

/// Patterns beside the Dockerfile go before those of the context.
fn ignore_file(directory: &Path, file: &Path) -> Option<String> {
    let mut own = file.as_os_str().to_owned();
    own.push(".dockerignore");
    let read = |path: &Path| fs::read(path).ok();
    let bytes = read(Path::new(&own)).or_else(|| read(&directory.join(".dockerignore")));
    // An empty file says that nothing is left out, which the daemon need not look for again.
    Some(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
}

fn from_stdin_or_context(args: &BuildArgs, start: &mut BuildStart) -> Result<(), Failure> {
    if args.file.as_deref() == Some("-") {
        let mut text = Vec::new();
        std::io::stdin()
            .lock()
            .read_to_end(&mut text)
            .map_err(|error| Failure::stream(&error, "read standard input"))?;
        start.dockerfile = Some(String::from_utf8_lossy(&text).into_owned());
    }
    Ok(())
}

/// Whether standard input is an archive, compressed or not.
fn is_archive(head: &[u8]) -> bool {
    let compressed = [&b"\x1f\x8b"[..], b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"];
    compressed.iter().any(|magic| head.starts_with(magic))
        || head.get(257..).is_some_and(|rest| rest.starts_with(b"ustar"))
}
