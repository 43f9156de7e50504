//! `keg inspect`: shows everything known of containers, images, networks and volumes.

use clap::{Args, ValueEnum};
use keg_proto::keg::v1::{
    ErrorReason, InspectContainerRequest, InspectImageRequest, InspectNetworkRequest,
    InspectVolumeRequest,
};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;
use crate::template::{Template, Value};
use crate::views;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg inspect web
  keg inspect -f '{{.State.Status}} {{.State.ExitCode}}' web
  keg inspect --type image busybox")]
pub(crate) struct InspectArgs {
    /// Print as "json" or by a Go template
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<String>,
    /// Look for objects of this kind only: container, image, network or
    /// volume
    #[arg(long, value_name = "KIND", hide_possible_values = true)]
    r#type: Option<Kind>,
    /// Measure what containers take on the disk
    #[arg(short = 's', long)]
    size: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ContainerInspectArgs {
    /// Print as "json" or by a Go template
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<String>,
    /// Measure what containers take on the disk
    #[arg(short = 's', long)]
    size: bool,
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Nothing has that name.
#[derive(Debug, thiserror::Error)]
#[error("there is no container, image, network or volume {name:?}")]
struct NothingOfThatName {
    name: String,
}

/// Shows objects of any kind.
pub(crate) async fn run(args: InspectArgs, host: &str) -> Result<u8, Failure> {
    show(&args.names, args.format.as_deref(), args.r#type, args.size, host).await
}

/// Shows containers.
pub(crate) async fn run_container(args: ContainerInspectArgs, host: &str) -> Result<u8, Failure> {
    show(&args.containers, args.format.as_deref(), Some(Kind::Container), args.size, host).await
}

/// Shows what is found, as one JSON list or a line each, and complains of what is not.
///
/// # Errors
/// A [`Failure`] if anything is not found, the template does not fit, or nothing can be written.
pub(crate) async fn show(
    names: &[String],
    format: Option<&str>,
    kind: Option<Kind>,
    size: bool,
    host: &str,
) -> Result<u8, Failure> {
    let template = Template::parse_format(format).map_err(Failure::senseless)?;
    let daemon = Daemon::connect(host).await?;
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match look_up(&daemon, name, kind, size).await {
            Ok(value) => found.push(value),
            Err(failure) => failures.push(failure),
        }
    }
    match template {
        None => output::print_line(&Value::List(found).to_pretty_json())?,
        Some(template) => {
            for value in &found {
                output::print_line(&template.render(value).map_err(Failure::client)?)?;
            }
        }
    }
    for failure in &failures {
        output::complain(&failure.render());
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::reported()) }
}

/// Finds a container of that name, else an image, a network, a volume, unless one kind is asked for.
async fn look_up(
    daemon: &Daemon,
    name: &str,
    kind: Option<Kind>,
    size: bool,
) -> Result<Value, Failure> {
    if kind.is_none_or(|kind| kind == Kind::Container) {
        let request = InspectContainerRequest { container: name.to_owned(), size };
        match daemon.containers().inspect(request).await.map_err(Failure::from) {
            Ok(response) => return Ok(views::container::inspect(response.get_ref())),
            Err(failure) if kind.is_none() && is_missing(&failure) => {}
            Err(failure) => return Err(failure),
        }
    }
    if kind.is_none_or(|kind| kind == Kind::Image) {
        let request = InspectImageRequest { image: name.to_owned() };
        match daemon.images().inspect(request).await.map_err(Failure::from) {
            Ok(response) => return Ok(views::image::inspect(response.get_ref())),
            Err(failure) if kind.is_none() && is_missing(&failure) => {}
            Err(failure) => return Err(failure),
        }
    }
    if kind.is_none_or(|kind| kind == Kind::Network) {
        let request = InspectNetworkRequest { network: name.to_owned() };
        match daemon.networks().inspect(request).await.map_err(Failure::from) {
            Ok(response) => return Ok(views::network::inspect(response.get_ref())),
            Err(failure) if kind.is_none() && is_missing(&failure) => {}
            Err(failure) => return Err(failure),
        }
    }
    let request = InspectVolumeRequest { name: name.to_owned(), size: false };
    match daemon.volumes().inspect(request).await.map_err(Failure::from) {
        Ok(response) => {
            Ok(views::volume::inspect(&response.into_inner().volume.unwrap_or_default()))
        }
        Err(failure) if kind.is_none() && is_missing(&failure) => {
            let remedy = "list what there is with `keg ps -a`, `keg images`, `keg network ls` and `keg volume ls`";
            let nothing = NothingOfThatName { name: name.to_owned() };
            Err(Failure::client(nothing).with_remedy(remedy))
        }
        Err(failure) => Err(failure),
    }
}

/// Whether the daemon has nothing of that name, or the name cannot be one of that kind.
fn is_missing(failure: &Failure) -> bool {
    matches!(
        failure.reason(),
        Some(
            ErrorReason::ContainerNotFound
                | ErrorReason::ImageNotFound
                | ErrorReason::NetworkNotFound
                | ErrorReason::VolumeNotFound
                | ErrorReason::UnsupportedByHost
                | ErrorReason::InvalidReference
                | ErrorReason::InvalidArgument
        )
    )
}
