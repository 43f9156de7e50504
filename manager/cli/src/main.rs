//! `keg`: the command line that people type.
//!
//! A client of keg.v1 and nothing else: it parses, calls, formats and streams. One thread (but see
//! `terminal::stdio`), no work before the flags are parsed, no file read that was not asked for.
//!
//! ```text
//! cli ─▶ commands/* ─▶ options (flags to messages) ─▶ client ─▶ kegd
//!                  └─▶ views, table, template, humanize (messages to text)
//!                  └─▶ session, terminal, signals (streams)    progress (pulls)
//! ```
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "doc comments of options are their help, in which brackets mean that a part is optional"
)]

mod archive;
mod build;
mod cli;
mod client;
mod commands;
mod confirm;
mod credentials;
mod failure;
mod humanize;
mod moment;
mod options;
mod output;
mod progress;
mod reference;
mod session;
mod signals;
mod table;
mod template;
mod terminal;
mod upload;
mod views;

use std::io::Write as _;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser as _};

use crate::cli::Cli;
use crate::failure::{EXIT_ENGINE, Failure};

fn main() -> ExitCode {
    // A release build aborts on a panic, and drops nothing: the terminal must not stay raw.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        terminal::restore();
        report(panic);
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::complain(&failure.render());
            ExitCode::from(failure.exit_code())
        }
    }
}

/// TLS was asked for where there is none.
#[derive(Debug, thiserror::Error)]
#[error("--tlsverify asks for TLS, which {host:?} does not have")]
struct UnverifiedHost {
    host: String,
}

/// Does what was typed, on one thread.
fn run(cli: Cli) -> Result<u8, Failure> {
    let host = cli.host();
    if cli.tls.tlsverify && !host.starts_with("tcp://") {
        return Err(Failure::usage(UnverifiedHost { host }).with_remedy(
            "give --host tcp://HOST:PORT, or leave --tlsverify and KEG_TLS_VERIFY out",
        ));
    }
    cli.tls.install();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::stream(&error, "start"))?;
    let outcome = runtime.block_on(cli::execute(cli.command, &host));
    // A thread may wait for input that will never come: the end of the process ends it.
    runtime.shutdown_background();
    outcome
}

/// Prints help or what is wrong with what was typed, with the exit codes that Docker has for them.
fn explain(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody who left can be told.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = std::io::stdout().write_all(error.render().to_string().as_bytes());
            ExitCode::SUCCESS
        }
        // `keg` alone, while KEG_HOST counts as an argument.
        ErrorKind::MissingSubcommand => {
            let _ = Cli::command().print_help();
            ExitCode::SUCCESS
        }
        kind => {
            let text = error.render().to_string();
            output::complain(&text.replacen("error: ", "keg: ", 1));
            match kind {
                ErrorKind::InvalidSubcommand | ErrorKind::MissingRequiredArgument => {
                    ExitCode::FAILURE
                }
                // One argument too many; a flag that there is not is another mistake.
                ErrorKind::UnknownArgument if !is_flag(error) => ExitCode::FAILURE,
                _ => ExitCode::from(EXIT_ENGINE),
            }
        }
    }
}

/// Whether what the error is about begins as flags do.
fn is_flag(error: &clap::Error) -> bool {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.starts_with('-'),
        _ => true,
    }
}
