//! `keg completion`: prints a script that completes commands and flags in a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  source <(keg completion bash)                                  for this shell
  keg completion bash > /etc/bash_completion.d/keg               for all
  keg completion zsh > \"${fpath[1]}/_keg\"
  keg completion fish > ~/.config/fish/completions/keg.fish")]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionArgs) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "keg", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
