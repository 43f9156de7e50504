//! `containerd-shim-keg-v2`: what containerd and `kegd` execute to have a container supervised.
//!
//! `start` executes this program again as the server, waits until that listens, and prints where;
//! `delete` cleans up after a server that was killed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use keg_proto::containerd::types::{RuntimeInfo, RuntimeRequest, RuntimeVersion};
use keg_shim::bootstrap::{Action, Flags, Input, socket_path};
use keg_shim::{cgroup, cleanup, server};
use prost::Message;

/// Most bytes that a daemon may say on standard input.
const MAX_INPUT_BYTES: u64 = 10 << 20;

/// Where the daemon takes events.
const EVENTS_ADDRESS: &str = "TTRPC_ADDRESS";

/// What a server says when it listens.
const READY: &[u8] = b"ready";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `start` and the server report to whoever reads their standard error; on success
            // nothing may stand there.
            eprintln!("containerd-shim-keg-v2: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let flags = Flags::parse(std::env::args_os().skip(1))?;
    match flags.action {
        Action::Version => {
            println!("containerd-shim-keg-v2:\n  Version:  {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Action::Info => info(),
        Action::Start => start(&flags),
        Action::Serve => serve(flags),
        Action::Delete => delete(&flags),
    }
}

fn read_input() -> anyhow::Result<Vec<u8>> {
    let mut input = Vec::new();
    io::stdin().take(MAX_INPUT_BYTES).read_to_end(&mut input).context("read standard input")?;
    Ok(input)
}

fn bundle_dir(flags: &Flags) -> anyhow::Result<PathBuf> {
    match &flags.bundle {
        Some(bundle) => Ok(bundle.clone()),
        None => std::env::current_dir().context("find the bundle: the working directory"),
    }
}

fn start(flags: &Flags) -> anyhow::Result<()> {
    let input = Input::decode(&read_input()?, flags);
    let (events, socket_dir) = match &input {
        Input::Params(params) => {
            (Some(params.containerd_ttrpc_address.as_str()), params.socket_dir.as_deref())
        }
        Input::Options(_) => (None, None),
    };
    let socket = socket_path(flags, socket_dir)?;
    let bundle = bundle_dir(flags)?;
    if let Some(options) = input.options().filter(|options| !options.shim_cgroup.is_empty()) {
        // The server inherits it; this process has only a moment to live.
        cgroup::join(options.shim_cgroup.as_ref())?;
    }
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    if let Some(bundle) = &flags.bundle {
        // Only if it must be: a change of directory takes a fork that copies this process.
        command.current_dir(bundle);
    }
    command.args(["-namespace", &flags.namespace, "-id", &flags.id]);
    command.arg("-address").arg(&flags.address).arg("-socket").arg(&socket);
    if let Some(events) = events.filter(|events| !events.is_empty()) {
        command.env(EVENTS_ADDRESS, events);
    }
    let (mut reports, report) = io::pipe().context("make a pipe to the server")?;
    let errors = report.try_clone().context("make a pipe to the server")?;
    command.stdin(Stdio::null()).stdout(report).stderr(errors);
    let server = command.spawn().context("execute the server")?;
    // The other end must be the server's alone, or its end would not be seen.
    drop(command);

    let mut said = Vec::new();
    reports.read_to_end(&mut said).context("read from the server")?;
    if said != READY {
        bail!("{}", String::from_utf8_lossy(&said).trim());
    }
    let address = format!("unix://{}", socket.display());
    server::write_address(&bundle, &address, server.id()).context("write into the bundle")?;
    let answer = input.answer(&address);
    io::stdout().write_all(&answer).context("print the address")
}

fn serve(flags: Flags) -> anyhow::Result<()> {
    rustix::process::setsid().context("leave the daemon's session")?;
    raise_oom_score();
    let socket = socket_path(&flags, None)?;
    let events = std::env::var_os(EVENTS_ADDRESS).filter(|events| !events.is_empty());
    let events =
        events.map(|events| match events.to_str().and_then(|text| text.strip_prefix("unix://")) {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(events),
        });
    server::run(flags, &socket, events, || {
        // If this fails, whoever called `start` is gone, and the server ends when nobody comes.
        let _ = report_ready();
    })?;
    Ok(())
}

/// Tells `start` that the server listens, and lets go of its streams.
fn report_ready() -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(READY)?;
    stdout.flush()?;
    let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Lets the kernel take the shim, when memory runs out, a little before the daemon that started it.
fn raise_oom_score() {
    let adjustment = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<i32>().ok();
    if let Some(inherited) = adjustment("/proc/self/oom_score_adj") {
        // Raising is always allowed; where /proc is not writable, nothing is lost.
        let _ = fs::write("/proc/self/oom_score_adj", (inherited + 1).min(1000).to_string());
    }
}

fn delete(flags: &Flags) -> anyhow::Result<()> {
    let response = cleanup::delete(flags, &bundle_dir(flags)?)?;
    io::stdout().write_all(&response.encode_to_vec()).context("print the outcome")
}

fn info() -> anyhow::Result<()> {
    let request = RuntimeRequest::decode(read_input()?.as_slice()).unwrap_or_default();
    let binary = keg_shim::bootstrap::runtime_of(request.options.as_ref());
    let info = RuntimeInfo {
        name: "io.containerd.keg.v2".to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RuntimeVersion::default()
        }),
        features: features(&binary),
        options: request.options,
        ..RuntimeInfo::default()
    };
    io::stdout().write_all(&info.encode_to_vec()).context("print what the runtime can do")
}

/// Asks the OCI runtime what it can do; one that does not say can do what it can.
fn features(binary: &Path) -> Option<prost_types::Any> {
    let output = Command::new(binary).arg("features").stdin(Stdio::null()).output().ok()?;
    output.status.success().then_some(prost_types::Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features".to_owned(),
        value: output.stdout,
    })
}
