//! `containerd-shim-keg-v2`: what containerd and `kegd` execute to have a container supervised.
//!
//! `start` makes the sockets and a process that serves, and prints where; `delete` cleans up after a
//! server that was killed; `relay`, which only `kegd` calls, holds the streams of a container whose shim
//! is another's.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use keg_proto::containerd::types::{RuntimeInfo, RuntimeRequest, RuntimeVersion};
use keg_shim::bootstrap::{Action, Flags, Input, socket_path};
use keg_shim::relay::Relay;
use keg_shim::server::{self, Side, Sockets};
use keg_shim::{cgroup, cleanup};
use prost::Message;

/// Most bytes that a daemon may say on standard input.
const MAX_INPUT_BYTES: u64 = 10 << 20;

/// Where the daemon takes events.
const EVENTS_ADDRESS: &str = "TTRPC_ADDRESS";

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
        Action::Start => start(flags),
        Action::Serve => serve(flags),
        Action::Delete => delete(&flags),
        Action::Relay => relay(&flags),
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

fn start(flags: Flags) -> anyhow::Result<()> {
    let input = Input::decode(&read_input()?, &flags);
    let (events, socket_dir) = match &input {
        Input::Params(params) => {
            (Some(params.containerd_ttrpc_address.as_str()), params.socket_dir.as_deref())
        }
        Input::Options(_) => (None, None),
    };
    let events = match events {
        Some(address) if !address.is_empty() => Some(path_of(address)),
        _ => events_socket(),
    };
    let socket = socket_path(&flags, socket_dir)?;
    if let Some(bundle) = &flags.bundle {
        std::env::set_current_dir(bundle).with_context(|| format!("enter {bundle:?}"))?;
    }
    let bundle = std::env::current_dir().context("find the bundle: the working directory")?;
    if let Some(options) = input.options().filter(|options| !options.shim_cgroup.is_empty()) {
        // The server inherits it; this process has only a moment to live.
        cgroup::join(options.shim_cgroup.as_ref())?;
    }
    let sockets = Sockets::bind(&socket)?;
    match server::fork()? {
        Side::Server => {
            server::detach()?;
            raise_oom_score();
            Ok(server::run(flags, sockets, events)?)
        }
        Side::Starter { server } => {
            // What the daemon waits for is that the last end of it is closed.
            drop(sockets);
            let address = format!("unix://{}", socket.display());
            server::write_address(&bundle, &address, server).context("write into the bundle")?;
            io::stdout().write_all(&input.answer(&address)).context("print the address")
        }
    }
}

/// Serves in the foreground, as shims do that are given no command.
fn serve(flags: Flags) -> anyhow::Result<()> {
    let sockets = Sockets::bind(&socket_path(&flags, None)?)?;
    Ok(server::run(flags, sockets, events_socket())?)
}

/// Where the daemon takes events, if it says so in the environment.
fn events_socket() -> Option<PathBuf> {
    let address = std::env::var_os(EVENTS_ADDRESS).filter(|address| !address.is_empty())?;
    Some(address.to_str().map_or_else(|| PathBuf::from(&address), path_of))
}

fn path_of(address: &str) -> PathBuf {
    PathBuf::from(address.strip_prefix("unix://").unwrap_or(address))
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

/// Holds a process's streams in a process of its own; this one ends when the other is ready.
fn relay(flags: &Flags) -> anyhow::Result<()> {
    let bundle = bundle_dir(flags)?;
    std::env::set_current_dir(&bundle).with_context(|| format!("enter {bundle:?}"))?;
    let relay = Relay::prepare(flags, &bundle, &read_input()?)?;
    if let Side::Server = server::fork()? {
        server::detach()?;
        raise_oom_score();
        relay.run()?;
    }
    Ok(())
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
