//! `keg network`: what containers reach each other and the world by.

pub(crate) mod connect;
pub(crate) mod create;
pub(crate) mod disconnect;
pub(crate) mod inspect;
pub(crate) mod ls;
pub(crate) mod prune;
pub(crate) mod rm;

use clap::Subcommand;

use crate::failure::Failure;

/// What can be done with networks.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum NetworkCommand {
    /// Put a container on a further network
    Connect(connect::ConnectArgs),
    /// Create a network
    Create(create::CreateArgs),
    /// Take a container from a network
    Disconnect(disconnect::DisconnectArgs),
    /// Show everything known of networks
    Inspect(inspect::NetworkInspectArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Remove the networks that no running container is on
    Prune(prune::PruneArgs),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(rm::RmArgs),
}

/// Does what was typed.
pub(crate) async fn run(command: NetworkCommand, host: &str) -> Result<u8, Failure> {
    match command {
        NetworkCommand::Connect(args) => connect::run(args, host).await,
        NetworkCommand::Create(args) => create::run(args, host).await,
        NetworkCommand::Disconnect(args) => disconnect::run(args, host).await,
        NetworkCommand::Inspect(args) => inspect::run(args, host).await,
        NetworkCommand::Ls(args) => ls::run(args, host).await,
        NetworkCommand::Prune(args) => prune::run(args, host).await,
        NetworkCommand::Rm(args) => rm::run(args, host).await,
    }
}
