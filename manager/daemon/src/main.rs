//! kegd: configuration, wiring, and one thin file per gRPC service.
//!
//! ```text
//!  main ── config ──▶ daemon ── store, images, engine ──▶ recover ──▶ sockets ──▶ READY
//!                                                                        │
//!            services: system, images, containers, events ◀──────────────┘
//!            convert: messages ↔ the engine's types      status: errors → gRPC
//! ```
//!
//! Invariant: the daemon is disposable. SIGTERM ends it in seconds, SIGKILL at any instant; what
//! runs goes on, and the next daemon finds it.

mod allocator;
mod builder;
mod config;
mod convert;
mod daemon;
mod notify;
mod services;
mod socket;
mod status;
mod tls;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::config::{Arguments, Config, LogFormat};

/// Threads that run the daemon's tasks; what waits for the disk has threads of its own.
const WORKER_THREADS: usize = 2;
/// Threads that may wait for the disk at once.
const BLOCKING_THREADS: usize = 64;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = allocator::bound() {
        eprintln!("kegd: freed memory will be kept: {error}");
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kegd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(arguments)?;
    start_log(&config)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("cannot start the daemon's threads")?
        .block_on(daemon::run(config))
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_level)
        .with_context(|| format!("{:?} is not a log level", config.log_level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.log_format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}
