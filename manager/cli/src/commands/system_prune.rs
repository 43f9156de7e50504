//! `keg system prune`: removes what nothing uses, of all kinds.

use clap::Args;
use keg_proto::keg::v1::{
    CollectRequest, ContainerFilterValues, ContainerState, ListContainersRequest,
    NetworkFilterValues, PruneNetworksRequest, PruneVolumesRequest, RemoveContainerRequest,
    UsageRequest, VolumeFilterValues,
};

use super::image_prune;
use crate::client::Daemon;
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::options::filters::Filters;
use crate::{humanize, output};

/// Filters that every kind of object knows.
const FILTERS: [&str; 2] = ["label", "label!"];

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg system prune              stopped containers, networks and images that nothing uses
  keg system prune -af          without asking, and images with names too
  keg system df                 shows what that would give back")]
pub(crate) struct SystemPruneArgs {
    /// Remove all images that no container uses, not only those without a name
    #[arg(short = 'a', long)]
    all: bool,
    /// Only what matches (label=NAME[=VALUE], label!=NAME[=VALUE])
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short = 'f', long)]
    force: bool,
    /// Remove volumes too that nobody named and no container uses
    #[arg(long)]
    volumes: bool,
}

/// Removes, and prints what is gone.
pub(crate) async fn run(args: SystemPruneArgs, host: &str) -> Result<u8, Failure> {
    let filters = Filters::parse(&args.filter, &FILTERS).map_err(Failure::senseless)?;
    let images = image_prune::request(args.all, &args.filter)?;
    if !args.force && !confirm(&warning(&args))? {
        return Ok(0);
    }
    let daemon = Daemon::connect(host).await?;
    let before = taken(&daemon).await?;
    containers(&daemon, &filters).await?;
    let request = PruneNetworksRequest {
        filters: filters.clone().into_message(|values| NetworkFilterValues { values }),
    };
    let removed = daemon.networks().prune(request).await?.into_inner().networks;
    tell("Deleted Networks", &removed)?;
    if args.volumes {
        let request = PruneVolumesRequest {
            all: false,
            filters: filters.into_message(|values| VolumeFilterValues { values }),
        };
        let removed = daemon.volumes().prune(request).await?.into_inner().volumes;
        tell("Deleted Volumes", &removed)?;
    }
    let pruned = daemon.images().prune(images).await?.into_inner();
    output::print(&image_prune::text(&pruned))?;
    daemon.storage().collect(CollectRequest {}).await?;
    let reclaimed = before.saturating_sub(taken(&daemon).await?);
    output::print_line(&format!("Total reclaimed space: {}", humanize::size(reclaimed)))?;
    Ok(0)
}

fn warning(args: &SystemPruneArgs) -> String {
    let volumes =
        if args.volumes { "\n  - all anonymous volumes not used by any container" } else { "" };
    let images = match args.all {
        true => "all images without at least one container associated to them",
        false => "all dangling images",
    };
    format!(
        "This will remove:\n  - all stopped containers\n  - all networks not used by at least one \
         container{volumes}\n  - {images}\n  - what broken transfers and crashes left\n"
    )
}

/// Removes the containers that do not run.
async fn containers(daemon: &Daemon, filters: &Filters) -> Result<(), Failure> {
    let labels = filters.values("label").to_vec();
    let request = ListContainersRequest {
        all: true,
        limit: 0,
        sizes: false,
        filters: match labels.is_empty() {
            true => [].into(),
            false => [("label".to_owned(), ContainerFilterValues { values: labels })].into(),
        },
    };
    let listed = daemon.containers().list(request).await?.into_inner().containers;
    let unwanted = filters.values("label!");
    let mut removed = Vec::new();
    for container in listed {
        let is_stopped =
            matches!(container.state(), ContainerState::Created | ContainerState::Exited);
        let is_spared = unwanted
            .iter()
            .any(|label| crate::options::filters::has_label(&container.labels, label));
        if !is_stopped || is_spared {
            continue;
        }
        let request = RemoveContainerRequest {
            container: container.id.clone(),
            ..RemoveContainerRequest::default()
        };
        match daemon.containers().remove(request).await {
            Ok(_) => removed.push(container.id),
            // It may have been started or removed meanwhile; that is its own affair.
            Err(status) => output::complain(&Failure::from(status).render()),
        }
    }
    tell("Deleted Containers", &removed)
}

fn tell(title: &str, names: &[String]) -> Result<(), Failure> {
    if names.is_empty() {
        return Ok(());
    }
    output::print(&format!("{title}:\n{}\n\n", names.join("\n")))
}

/// Bytes of everything that a prune can give back.
async fn taken(daemon: &Daemon) -> Result<u64, Failure> {
    let usage = daemon.storage().usage(UsageRequest {}).await?.into_inner();
    let containers: i64 = usage.containers.iter().map(|one| one.size_bytes + one.log_bytes).sum();
    let volumes: i64 = usage.volumes.iter().map(|one| one.size_bytes).sum();
    let total = usage.layers_bytes
        + usage.blobs_bytes
        + usage.transfers_bytes
        + usage.garbage_bytes
        + containers
        + volumes;
    Ok(u64::try_from(total).unwrap_or(0))
}
