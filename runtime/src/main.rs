//! The program `keg-runtime`: a command line like runc's around the library.

use std::process::ExitCode;

use keg_runtime::commands::{Cli, run};

fn main() -> ExitCode {
    run(Cli::read())
}
