//! What can be typed: the tree of commands, and the way from a command to its file.
//!
//! Every command has the short form and the long one that Docker has: `keg ps` is
//! `keg container ls`. Flags of a command are built only if it is the one that was typed.

use clap::{Parser, Subcommand};

use crate::client::{DEFAULT_HOST, DEFAULT_TLS_HOST, TlsOptions};
use crate::commands::{
    attach, build, builder, commit, completion, container_prune, cp, create, diff, events, exec,
    export, history, image_inspect, image_prune, image_referrers, images, import, info, inspect,
    kill, load, login, logout, logs, man, network, pause, port, ps, pull, push, rename, restart,
    rm, rmi, run, save, search, start, stats, stop, system_check, system_df, system_prune, tag,
    top, update, version, volume, wait,
};
use crate::failure::Failure;

/// Runs containers.
#[derive(Debug, Parser)]
#[command(
    name = "keg",
    version,
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Start here:
  keg run --rm busybox echo hello    run a command in a container
  keg run -it --rm busybox sh        run a shell in one
  keg ps -a                          see what runs, and what has ended
  keg COMMAND --help                 learn more, by example"
)]
pub(crate) struct Cli {
    /// Where the daemon is: unix://PATH, or tcp://HOST[:PORT] with TLS (default
    /// unix:///run/keg/kegd.sock)
    #[arg(short = 'H', long, env = "KEG_HOST", value_name = "URI")]
    host: Option<String>,
    /// Certificates for TCP.
    #[command(flatten)]
    pub(crate) tls: TlsOptions,
    /// Print version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Where the daemon is, by what was typed or by default.
    pub(crate) fn host(&self) -> String {
        let default = if self.tls.tlsverify { DEFAULT_TLS_HOST } else { DEFAULT_HOST };
        self.host.clone().unwrap_or_else(|| default.to_owned())
    }
}

/// The commands in their short forms, and the groups of the long ones.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Create a container from an image, and run it
    Run(Box<run::RunArgs>),
    /// Run one more process in a container that runs
    Exec(exec::ExecArgs),
    /// List containers
    Ps(ps::PsArgs),
    /// Make an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Download an image from a registry
    Pull(pull::PullArgs),
    /// Send an image to its registry
    Push(push::PushArgs),
    /// List images
    Images(images::ImagesArgs),
    /// Show what a container has written
    Logs(logs::LogsArgs),
    /// Show everything known of containers, images and networks
    Inspect(inspect::InspectArgs),
    /// Join the streams of a container that runs
    Attach(attach::AttachArgs),
    /// Create a container, and do not start it
    Create(Box<create::CreateArgs>),
    /// Start containers
    Start(start::StartArgs),
    /// Stop containers
    Stop(stop::StopArgs),
    /// Stop containers, and start them again
    Restart(stop::StopArgs),
    /// Send a signal to containers
    Kill(kill::KillArgs),
    /// Freeze the processes of containers
    Pause(pause::PauseArgs),
    /// Let the processes of paused containers go on
    Unpause(pause::PauseArgs),
    /// List the processes of a container
    Top(top::TopArgs),
    /// Show where a container's ports are published
    Port(port::PortArgs),
    /// Give a container another name
    Rename(rename::RenameArgs),
    /// Wait for containers to end, and print their exit codes
    Wait(wait::WaitArgs),
    /// Remove containers
    Rm(rm::RmArgs),
    /// Remove images
    Rmi(rmi::RmiArgs),
    /// Give an image another name
    Tag(tag::TagArgs),
    /// Make an image of a tar archive
    Import(import::ImportArgs),
    /// Make an image of what a container changed
    Commit(commit::CommitArgs),
    /// Copy files between a container and here
    Cp(cp::CpArgs),
    /// List what a container changed of its image's files
    Diff(diff::DiffArgs),
    /// Write a container's root file system as a tar archive
    Export(export::ExportArgs),
    /// Write images into an archive
    Save(save::SaveArgs),
    /// Take images out of an archive
    Load(load::LoadArgs),
    /// Show how an image was built
    History(history::HistoryArgs),
    /// Look for images in a registry
    Search(search::SearchArgs),
    /// Try credentials with a registry, and keep them
    Login(login::LoginArgs),
    /// Forget a registry's credentials
    Logout(logout::LogoutArgs),
    /// Show what containers use, as they use it
    Stats(stats::StatsArgs),
    /// Change limits and restart policies of containers
    Update(update::UpdateArgs),
    /// Show what happens, as it happens
    Events(events::EventsArgs),
    /// Show the daemon's settings, what it holds, and what the host offers
    Info(info::InfoArgs),
    /// Show versions
    Version(version::VersionArgs),
    /// Manage containers
    #[command(subcommand, arg_required_else_help = true)]
    Container(ContainerCommand),
    /// Manage what builds leave for later builds
    #[command(subcommand, arg_required_else_help = true)]
    Builder(builder::BuilderCommand),
    /// Manage images
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageCommand),
    /// Manage networks
    #[command(subcommand, arg_required_else_help = true)]
    Network(network::NetworkCommand),
    /// Manage the daemon
    #[command(subcommand, arg_required_else_help = true)]
    System(SystemCommand),
    /// Manage volumes
    #[command(subcommand, arg_required_else_help = true)]
    Volume(volume::VolumeCommand),
    /// Print a script that completes commands and flags in a shell
    Completion(completion::CompletionArgs),
    /// Write manual pages
    Man(man::ManArgs),
}

/// The long forms of what concerns containers.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ContainerCommand {
    /// Join the streams of a container that runs
    Attach(attach::AttachArgs),
    /// Make an image of what a container changed
    Commit(commit::CommitArgs),
    /// Copy files between a container and here
    Cp(cp::CpArgs),
    /// Create a container, and do not start it
    Create(Box<create::CreateArgs>),
    /// List what a container changed of its image's files
    Diff(diff::DiffArgs),
    /// Run one more process in a container that runs
    Exec(exec::ExecArgs),
    /// Write a container's root file system as a tar archive
    Export(export::ExportArgs),
    /// Show everything known of containers
    Inspect(inspect::ContainerInspectArgs),
    /// Send a signal to containers
    Kill(kill::KillArgs),
    /// Show what a container has written
    Logs(logs::LogsArgs),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::PsArgs),
    /// Freeze the processes of containers
    Pause(pause::PauseArgs),
    /// Show where a container's ports are published
    Port(port::PortArgs),
    /// Remove all containers that do not run
    Prune(container_prune::ContainerPruneArgs),
    /// Give a container another name
    Rename(rename::RenameArgs),
    /// Stop containers, and start them again
    Restart(stop::StopArgs),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(rm::RmArgs),
    /// Create a container from an image, and run it
    Run(Box<run::RunArgs>),
    /// Start containers
    Start(start::StartArgs),
    /// Show what containers use, as they use it
    Stats(stats::StatsArgs),
    /// Stop containers
    Stop(stop::StopArgs),
    /// List the processes of a container
    Top(top::TopArgs),
    /// Let the processes of paused containers go on
    Unpause(pause::PauseArgs),
    /// Change limits and restart policies of containers
    Update(update::UpdateArgs),
    /// Wait for containers to end, and print their exit codes
    Wait(wait::WaitArgs),
}

/// The long forms of what concerns images.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ImageCommand {
    /// Make an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Show how an image was built
    History(history::HistoryArgs),
    /// Make an image of a tar archive
    Import(import::ImportArgs),
    /// Show everything known of images
    Inspect(image_inspect::ImageInspectArgs),
    /// Take images out of an archive
    Load(load::LoadArgs),
    /// List images
    #[command(visible_alias = "list")]
    Ls(images::ImagesArgs),
    /// Remove images that nothing needs
    Prune(image_prune::ImagePruneArgs),
    /// Download an image from a registry
    Pull(pull::PullArgs),
    /// Send an image to its registry
    Push(push::PushArgs),
    /// List what refers to an image in its registry
    Referrers(image_referrers::ImageReferrersArgs),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(rmi::RmiArgs),
    /// Write images into an archive
    Save(save::SaveArgs),
    /// Give an image another name
    Tag(tag::TagArgs),
}

/// The long forms of what concerns the daemon.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum SystemCommand {
    /// Compare what is recorded with what is on the disk
    Check(system_check::CheckArgs),
    /// Show what takes how much of the disk
    Df(system_df::DfArgs),
    /// Remove what nothing uses
    Prune(system_prune::SystemPruneArgs),
    /// Show what happens, as it happens
    Events(events::EventsArgs),
    /// Show the daemon's settings, what it holds, and what the host offers
    Info(info::InfoArgs),
}

/// Does what was typed; returns the program's exit code.
///
/// # Errors
/// The [`Failure`] of the command.
pub(crate) async fn execute(command: Command, host: &str) -> Result<u8, Failure> {
    match command {
        Command::Attach(args) => attach::run(args, host).await,
        Command::Build(args) => build::run(*args, host).await,
        Command::Builder(command) => builder::run(command, host).await,
        Command::Completion(args) => completion::run(&args),
        Command::Container(command) => execute_container(command, host).await,
        Command::Commit(args) => commit::run(args, host).await,
        Command::Cp(args) => cp::run(args, host).await,
        Command::Create(args) => create::run(*args, host).await,
        Command::Diff(args) => diff::run(args, host).await,
        Command::Export(args) => export::run(args, host).await,
        Command::Events(args) => events::run(args, host).await,
        Command::History(args) => history::run(args, host).await,
        Command::Image(command) => execute_image(command, host).await,
        Command::Images(args) => images::run(args, host).await,
        Command::Import(args) => import::run(args, host).await,
        Command::Info(args) => info::run(args, host).await,
        Command::Exec(args) => exec::run(args, host).await,
        Command::Inspect(args) => inspect::run(args, host).await,
        Command::Kill(args) => kill::run(args, host).await,
        Command::Load(args) => load::run(args, host).await,
        Command::Login(args) => login::run(args, host).await,
        Command::Logout(args) => logout::run(&args),
        Command::Logs(args) => logs::run(args, host).await,
        Command::Man(args) => man::run(args),
        Command::Network(command) => network::run(command, host).await,
        Command::Port(args) => port::run(args, host).await,
        Command::Ps(args) => ps::run(args, host).await,
        Command::Pull(args) => pull::run(args, host).await,
        Command::Push(args) => push::run(args, host).await,
        Command::Pause(args) => pause::pause(args, host).await,
        Command::Rename(args) => rename::run(args, host).await,
        Command::Restart(args) => restart::run(args, host).await,
        Command::Rm(args) => rm::run(args, host).await,
        Command::Rmi(args) => rmi::run(args, host).await,
        Command::Run(args) => run::run(*args, host).await,
        Command::Save(args) => save::run(args, host).await,
        Command::Search(args) => search::run(args, host).await,
        Command::Start(args) => start::run(args, host).await,
        Command::Stats(args) => stats::run(args, host).await,
        Command::Stop(args) => stop::run(args, host).await,
        Command::System(SystemCommand::Check(args)) => system_check::run(args, host).await,
        Command::System(SystemCommand::Df(args)) => system_df::run(args, host).await,
        Command::Update(args) => update::run(args, host).await,
        Command::System(SystemCommand::Prune(args)) => system_prune::run(args, host).await,
        Command::System(SystemCommand::Events(args)) => events::run(args, host).await,
        Command::System(SystemCommand::Info(args)) => info::run(args, host).await,
        Command::Tag(args) => tag::run(args, host).await,
        Command::Version(args) => version::run(args, host).await,
        Command::Top(args) => top::run(args, host).await,
        Command::Unpause(args) => pause::unpause(args, host).await,
        Command::Volume(command) => volume::run(command, host).await,
        Command::Wait(args) => wait::run(args, host).await,
    }
}

async fn execute_container(command: ContainerCommand, host: &str) -> Result<u8, Failure> {
    match command {
        ContainerCommand::Attach(args) => attach::run(args, host).await,
        ContainerCommand::Commit(args) => commit::run(args, host).await,
        ContainerCommand::Cp(args) => cp::run(args, host).await,
        ContainerCommand::Create(args) => create::run(*args, host).await,
        ContainerCommand::Diff(args) => diff::run(args, host).await,
        ContainerCommand::Export(args) => export::run(args, host).await,
        ContainerCommand::Exec(args) => exec::run(args, host).await,
        ContainerCommand::Inspect(args) => inspect::run_container(args, host).await,
        ContainerCommand::Kill(args) => kill::run(args, host).await,
        ContainerCommand::Logs(args) => logs::run(args, host).await,
        ContainerCommand::Ls(args) => ps::run(args, host).await,
        ContainerCommand::Pause(args) => pause::pause(args, host).await,
        ContainerCommand::Port(args) => port::run(args, host).await,
        ContainerCommand::Prune(args) => container_prune::run(args, host).await,
        ContainerCommand::Rename(args) => rename::run(args, host).await,
        ContainerCommand::Restart(args) => restart::run(args, host).await,
        ContainerCommand::Rm(args) => rm::run(args, host).await,
        ContainerCommand::Run(args) => run::run(*args, host).await,
        ContainerCommand::Start(args) => start::run(args, host).await,
        ContainerCommand::Stats(args) => stats::run(args, host).await,
        ContainerCommand::Stop(args) => stop::run(args, host).await,
        ContainerCommand::Update(args) => update::run(args, host).await,
        ContainerCommand::Top(args) => top::run(args, host).await,
        ContainerCommand::Unpause(args) => pause::unpause(args, host).await,
        ContainerCommand::Wait(args) => wait::run(args, host).await,
    }
}

async fn execute_image(command: ImageCommand, host: &str) -> Result<u8, Failure> {
    match command {
        ImageCommand::Build(args) => build::run(*args, host).await,
        ImageCommand::History(args) => history::run(args, host).await,
        ImageCommand::Import(args) => import::run(args, host).await,
        ImageCommand::Inspect(args) => image_inspect::run(args, host).await,
        ImageCommand::Load(args) => load::run(args, host).await,
        ImageCommand::Ls(args) => images::run(args, host).await,
        ImageCommand::Prune(args) => image_prune::run(args, host).await,
        ImageCommand::Pull(args) => pull::run(args, host).await,
        ImageCommand::Push(args) => push::run(args, host).await,
        ImageCommand::Referrers(args) => image_referrers::run(args, host).await,
        ImageCommand::Rm(args) => rmi::run(args, host).await,
        ImageCommand::Save(args) => save::run(args, host).await,
        ImageCommand::Tag(args) => tag::run(args, host).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    #[test]
    fn the_tree_of_commands_is_sound() {
        Cli::command().debug_assert();
        // Flags that are built only when needed must be built to be checked.
        let mut command = Cli::command();
        command.build();
        assert!(command.find_subcommand("run").is_some());
    }

    #[test]
    fn short_and_long_forms_take_the_same_flags() {
        let pairs = [
            (&["ps", "-aq", "--no-trunc"][..], &["container", "ls", "-aq", "--no-trunc"][..]),
            (&["images", "--digests"], &["image", "ls", "--digests"]),
            (&["rmi", "-f", "x"], &["image", "rm", "-f", "x"]),
            (&["run", "-it", "x", "-y"], &["container", "run", "-it", "x", "-y"]),
        ];
        for (short, long) in pairs {
            for words in [short, long] {
                let line = std::iter::once("keg").chain(words.iter().copied());
                assert!(Cli::try_parse_from(line).is_ok(), "{words:?}");
            }
        }
    }

    #[test]
    fn a_mistyped_command_is_answered_with_a_proposal() {
        let error = Cli::try_parse_from(["keg", "imagse"]).expect_err("no such command");

        assert_eq!(error.kind(), ErrorKind::InvalidSubcommand);
        assert!(error.to_string().contains("images"), "{error}");
    }

    #[test]
    fn every_command_explains_itself() {
        let mut command = Cli::command();
        command.build();
        for subcommand in command.get_subcommands() {
            assert!(subcommand.get_about().is_some(), "{}", subcommand.get_name());
        }
    }
}
