//! `keg logout`: forgets a registry's credentials.

use clap::Args;

use super::login::registry_name;
use crate::failure::Failure;
use crate::{credentials, output};

#[derive(Debug, Args)]
#[command(after_help = "Example:
  keg logout registry.example:5000")]
pub(crate) struct LogoutArgs {
    /// The registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io", hide_default_value = true)]
    registry: String,
}

/// Forgets. The daemon has nothing to forget.
pub(crate) fn run(args: &LogoutArgs) -> Result<u8, Failure> {
    let registry = registry_name(&args.registry);
    match credentials::forget(registry).map_err(Failure::client)? {
        true => output::print_line(&format!("Removing login credentials for {registry}"))?,
        false => output::print_line(&format!("Not logged in to {registry}"))?,
    }
    Ok(0)
}
