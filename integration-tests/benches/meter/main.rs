//! Runs one command and prints what it cost: `keg-meter PROGRAM [ARGUMENT …]`.
//!
//! The kernel counts towards a program's peak of memory what the process had before it executed the
//! program. A large harness would be seen in every figure of a small program, so this one stands in
//! between:
//!
//! ```text
//! harness (10 MiB) ── exec ──▶ keg-meter (0.5 MiB) ── fork, exec ──▶ the command
//!    ◀── "CODE WALL_NSEC CPU_USEC PEAK_KIB" ── wait4 ──────────────────┘
//! ```
//!
//! The command's standard input and output are `/dev/null`, its standard error is this one's. The
//! clock runs from before the fork until the command has been waited for.

mod sys;

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("usage: keg-meter PROGRAM [ARGUMENT ...]");
        return ExitCode::FAILURE;
    };
    let mut command = Command::new(&program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
    let begin = Instant::now();
    let usage = command.spawn().and_then(|child| sys::wait_with_usage(&child));
    let wall = begin.elapsed();
    match usage {
        Ok(usage) => {
            let (wall, cpu) = (wall.as_nanos(), usage.cpu.as_micros());
            println!("{} {wall} {cpu} {}", usage.code, usage.peak_kib);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("keg-meter: cannot run {}: {error}", program.display());
            ExitCode::FAILURE
        }
    }
}
