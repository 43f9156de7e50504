//! Runs inside a container and tells what it sees, or does what a test wants done there.
//!
//! Statically linked, so that it runs in any root filesystem. `keg-probe SUBCOMMAND [ARGUMENT…]`:
//!
//! | subcommand | what it does |
//! | --- | --- |
//! | `report` | prints everything it sees as JSON (`keg_fixtures::Report`) |
//! | `try WHAT…` | tries each and prints the outcomes as JSON (see `attempts`) |
//! | `stat PATH…` | prints `{path: DeviceReport or null}` |
//! | `exit N` | exits with N |
//! | `die SIGNAL` | kills itself |
//! | `pause` | prints "ready", exits with 0 on SIGTERM or SIGINT |
//! | `stubborn` | the same, but SIGTERM and SIGINT do nothing |
//! | `signals` | prints "ready", then the name of each signal that arrives; exits on SIGTERM |
//! | `count MILLIS [LAST]` | prints 1, 2, 3, … a line every MILLIS |
//! | `clock MILLIS COUNT` | prints the time, COUNT times, every MILLIS: nanoseconds since 1970 in 19 digits |
//! | `lines COUNT BYTES` | prints COUNT numbered lines, each BYTES long |
//! | `both TEXT TEXT` | prints the first to standard output, the second to standard error |
//! | `echo` | copies standard input to standard output, then prints "end of input" |
//! | `eat MIB` | touches MIB of memory, prints "ate MIB", and exits |
//! | `fork N` | forks N children that stay, prints how many came to be, and ends them |
//! | `orphan` | leaves a grandchild that prints "orphan" and exits with 0 after its parent |
//! | `terminal` | prints the terminal's size now and on every change; exits on SIGTERM or end of input |
//! | `hunt` | prints "ready", then tries to overwrite any program that is not of this root filesystem |
//! | `serve PORT TEXT` | prints "ready", then tells everybody, by TCP and UDP, TEXT and whence they come |
//! | `ask HOST:PORT [udp]` | prints what a server says |
//! | `look-up NAME` | prints the addresses of a name, a line each |
//! | `pour PORT` | prints "ready", then writes into every connection as long as that takes it |
//! | `drink HOST:PORT MIB` | reads MIB mebibytes, prints how many microseconds that took |
//! | `knock HOST:PORT TIMES` | asks a server TIMES times, prints how many microseconds that took |
//! | `ask-names NAME TIMES` | asks the resolver TIMES times, prints how many microseconds that took |
//! | `ssh-keys SOCKET` | asks an SSH agent for its keys, prints their comments, a line each |
//! | `burn MILLIS` | uses processor time for MILLIS of wall time, prints how many it got |

mod actions;
mod attempts;
mod look;
mod network;

use std::env;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (subcommand, arguments) = match arguments.split_first() {
        Some((subcommand, rest)) => (subcommand.as_str(), rest),
        None => ("report", arguments.as_slice()),
    };
    let number = |index: usize| -> anyhow::Result<u64> {
        let text = arguments.get(index).with_context(|| format!("argument {index} is missing"))?;
        text.parse().with_context(|| format!("{text:?} is not a number"))
    };
    match subcommand {
        "report" => println!("{}", serde_json::to_string(&look::report())?),
        "try" => println!("{}", serde_json::to_string(&attempts::try_all(arguments))?),
        "stat" => println!("{}", serde_json::to_string(&look::stat(arguments))?),
        "exit" => return Ok(ExitCode::from(u8::try_from(number(0)?)?)),
        "die" => actions::die(arguments.first().context("signal?")?)?,
        "pause" => actions::pause()?,
        "stubborn" => actions::stubborn()?,
        "signals" => actions::signals()?,
        "count" => actions::count(number(0)?, number(1).ok())?,
        "clock" => actions::clock(number(0)?, number(1)?)?,
        "lines" => actions::lines(number(0)?, usize::try_from(number(1)?)?)?,
        "both" => actions::both(arguments)?,
        "echo" => actions::echo()?,
        "eat" => actions::eat(usize::try_from(number(0)?)?),
        "fork" => actions::fork_many(number(0)?)?,
        "orphan" => actions::orphan()?,
        "terminal" => actions::terminal()?,
        "hunt" => actions::hunt()?,
        "serve" => {
            network::serve(u16::try_from(number(0)?)?, arguments.get(1).context("text?")?)?;
        }
        "ssh-keys" => network::ssh_keys(arguments.first().context("socket?")?)?,
        "ask" => {
            let udp = arguments.get(1).is_some_and(|word| word == "udp");
            network::ask(arguments.first().context("address?")?, udp)?;
        }
        "look-up" => network::look_up(arguments.first().context("name?")?)?,
        "pour" => network::pour(u16::try_from(number(0)?)?)?,
        "drink" => network::drink(arguments.first().context("address?")?, number(1)?)?,
        "knock" => network::knock(arguments.first().context("address?")?, number(1)?)?,
        "ask-names" => network::ask_names(arguments.first().context("name?")?, number(1)?)?,
        "burn" => actions::burn(number(0)?)?,
        other => bail!("no such subcommand: {other}"),
    }
    Ok(ExitCode::SUCCESS)
}
