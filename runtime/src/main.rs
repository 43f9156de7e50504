//! The program `keg-runtime`: a command line like runc's around the library.
//!
//! Where the program has an entry point of its own (`sys/entry`), this is not where it begins.

use std::process::ExitCode;

use keg_runtime::commands::{Cli, run};

fn main() -> ExitCode {
    run(Cli::read())
}
