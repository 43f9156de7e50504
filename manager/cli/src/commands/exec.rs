//! `keg exec`: runs one more process in a container that runs.

use std::path::PathBuf;

use clap::Args;
use keg_proto::keg::v1::ExecStart;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::environment;
use crate::session::{Session, SessionOptions, check_terminal};
use crate::terminal;
use crate::terminal::detach::DetachKeys;

#[derive(Debug, Args)]
#[command(
    override_usage = "keg exec [OPTIONS] CONTAINER COMMAND [ARG...]",
    after_help = "Examples:
  keg exec web ls /www
  keg exec -it web sh
  keg exec -u nobody -e DEBUG=1 web env
  tar -c . | keg exec -i web tar -x -C /www"
)]
pub(crate) struct ExecArgs {
    /// Run in the background
    #[arg(short = 'd', long)]
    detach: bool,
    /// Keys that leave the process and let it run
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    /// Set an environment variable (NAME=VALUE; NAME alone takes its value from here)
    #[arg(short = 'e', long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Send standard input
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give the process every capability
    #[arg(long)]
    privileged: bool,
    /// Give the process a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// User to run as
    #[arg(
        short = 'u',
        long,
        value_name = "USER[:GROUP]",
        default_value = "",
        hide_default_value = true
    )]
    user: String,
    /// Directory to start in
    #[arg(short = 'w', long, value_name = "DIR", default_value = "", hide_default_value = true)]
    workdir: String,
    /// The container, and the command with its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "CONTAINER COMMAND [ARG...]",
        num_args = 2..
    )]
    container_and_command: Vec<String>,
}

impl ExecArgs {
    /// What to run.
    fn start(&self) -> Result<ExecStart, Failure> {
        let host = |name: &str| std::env::var_os(name);
        let env =
            environment::variables(&self.env_file, &self.env, host).map_err(Failure::usage)?;
        let mut words = self.container_and_command.iter().cloned();
        Ok(ExecStart {
            container: words.next().unwrap_or_default(),
            command: words.collect(),
            env,
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            tty: self.tty,
            stdin: self.interactive && !self.detach,
            detach: self.detach,
            privileged: self.privileged,
            terminal_size: terminal::size().filter(|_| self.tty),
        })
    }
}

/// Runs the process; the exit code is its own.
pub(crate) async fn run(args: ExecArgs, host: &str) -> Result<u8, Failure> {
    let start = args.start()?;
    check_terminal(start.stdin, start.tty)?;
    let options = SessionOptions {
        container: start.container.clone(),
        tty: start.tty,
        stdin: start.stdin,
        stdout: true,
        stderr: true,
        detach_keys: args.detach_keys,
        sig_proxy: false,
    };
    let daemon = Daemon::connect(host).await?;
    let session = Session::exec(&daemon, start, options).await.map_err(Failure::of_exec)?;
    if args.detach {
        return Ok(0);
    }
    // Held until the end of this function, whichever way it is left.
    let _raw = session.take_terminal()?;
    session.run().await.map(|end| end.exit_code()).map_err(Failure::of_exec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Exec {
        #[command(flatten)]
        args: ExecArgs,
    }

    #[test]
    fn flags_end_at_the_container() {
        let words = ["exec", "-i", "-u", "nobody", "web", "sh", "-c", "-d", "--privileged"];

        let exec = Exec::try_parse_from(words).expect("flags");

        let start = exec.args.start().expect("a start");
        assert_eq!(start.container, "web");
        assert_eq!(start.command, ["sh", "-c", "-d", "--privileged"]);
        assert!(start.stdin && !start.detach && !start.privileged);
    }

    #[test]
    fn a_command_is_demanded() {
        assert!(Exec::try_parse_from(["exec", "web"]).is_err());
    }
}
