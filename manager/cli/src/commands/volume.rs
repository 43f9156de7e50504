//! `keg volume`: directories that outlive containers.

use clap::{Args, Subcommand};
use keg_proto::keg::v1::{
    CreateVolumeRequest, ErrorReason, InspectVolumeRequest, ListVolumesRequest,
    PruneVolumesRequest, RemoveVolumeRequest, VolumeFilterValues,
};

use crate::client::Daemon;
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::options::filters::Filters;
use crate::options::{environment, policy};
use crate::table::RowFormat;
use crate::template::{Template, Value};
use crate::views::volume::{COLUMNS, inspect as inspect_view, row};
use crate::{humanize, output};

/// Filters of `volume ls` that the daemon knows.
const LIST_FILTERS: [&str; 5] = ["dangling", "driver", "label", "name", "anonymous"];

/// What can be done with volumes.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum VolumeCommand {
    /// Make a volume
    Create(CreateArgs),
    /// Show everything known of volumes
    Inspect(InspectArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Remove the volumes that no container uses
    Prune(PruneArgs),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg volume create data
  keg run -d -v data:/var/lib/data IMAGE
  keg volume create --opt type=tmpfs --opt device=tmpfs --opt o=size=64m fast
  keg volume create --opt type=nfs --opt o=addr=10.0.0.1,rw --opt device=:/export shared
  keg volume create --opt type=none --opt o=bind --opt device=/srv/data here")]
pub(crate) struct CreateArgs {
    /// Driver
    #[arg(short = 'd', long, value_name = "NAME", default_value = "local")]
    driver: String,
    /// Set a label (NAME[=VALUE])
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Set an option of the driver: type, device or o, as mount(8) has them
    #[arg(short = 'o', long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Name (default: 64 random digits)
    #[arg(value_name = "VOLUME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Print as "json" or by a Go template
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names of volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg volume ls
  keg volume ls -f dangling=true                     those that no container uses
  keg volume ls --format '{{.Name}} {{.Mountpoint}}'")]
pub(crate) struct ListArgs {
    /// Keep those that match (dangling=true|false, driver, label, name, anonymous=true|false)
    #[arg(short = 'f', long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print as "json", "table TEMPLATE" or by a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print names only
    #[arg(short = 'q', long)]
    quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg volume prune                        what nobody named and no container uses
  keg volume prune -a -f                  what no container uses, without a question
  keg volume prune --filter label!=keep")]
pub(crate) struct PruneArgs {
    /// Remove those too that somebody named
    #[arg(short = 'a', long)]
    all: bool,
    /// Keep to those that match (label=NAME[=VALUE], label!=NAME[=VALUE], all=true)
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short = 'f', long)]
    force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  keg volume rm data")]
pub(crate) struct RemoveArgs {
    /// Do not mind volumes that do not exist
    #[arg(short = 'f', long)]
    force: bool,
    /// Names of volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// Does what was typed.
pub(crate) async fn run(command: VolumeCommand, host: &str) -> Result<u8, Failure> {
    match command {
        VolumeCommand::Create(args) => create(args, host).await,
        VolumeCommand::Inspect(args) => inspect(args, host).await,
        VolumeCommand::Ls(args) => list(args, host).await,
        VolumeCommand::Prune(args) => prune(args, host).await,
        VolumeCommand::Rm(args) => remove(args, host).await,
    }
}

async fn create(args: CreateArgs, host: &str) -> Result<u8, Failure> {
    let request = CreateVolumeRequest {
        name: args.name.unwrap_or_default(),
        driver: args.driver,
        options: policy::pairs(&args.opt).map_err(Failure::usage)?,
        labels: environment::labels(&[], &args.label).map_err(Failure::usage)?,
    };
    let daemon = Daemon::connect(host).await?;
    let made = daemon.volumes().create(request).await?.into_inner();
    output::print_line(&made.volume.unwrap_or_default().name)?;
    Ok(0)
}

async fn inspect(args: InspectArgs, host: &str) -> Result<u8, Failure> {
    let template = Template::parse_format(args.format.as_deref()).map_err(Failure::senseless)?;
    let daemon = Daemon::connect(host).await?;
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in args.volumes {
        match daemon.volumes().inspect(InspectVolumeRequest { name, size: false }).await {
            Ok(answer) => {
                found.push(inspect_view(&answer.into_inner().volume.unwrap_or_default()));
            }
            Err(status) => failures.push(Failure::from(status)),
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

async fn list(args: ListArgs, host: &str) -> Result<u8, Failure> {
    let format =
        RowFormat::new(args.format.as_deref(), args.quiet, COLUMNS).map_err(Failure::senseless)?;
    let filters = Filters::parse(&args.filter, &LIST_FILTERS).map_err(Failure::senseless)?;
    let request = ListVolumesRequest {
        filters: filters.into_message(|values| VolumeFilterValues { values }),
        // Nothing shows sizes unless it was asked for by name.
        sizes: args.format.is_some() && format.may_read("Size") && !is_json(&args.format),
    };
    let daemon = Daemon::connect(host).await?;
    let volumes = daemon.volumes().list(request).await?.into_inner().volumes;
    let rows = volumes.iter().map(row);
    output::print(&format.render(COLUMNS, rows).map_err(Failure::senseless)?)?;
    Ok(0)
}

/// Whether the format is the one that shows every field, measured or not.
fn is_json(format: &Option<String>) -> bool {
    matches!(format.as_deref(), Some("json" | "{{json .}}"))
}

async fn prune(args: PruneArgs, host: &str) -> Result<u8, Failure> {
    let filters =
        Filters::parse(&args.filter, &["label", "label!", "all"]).map_err(Failure::senseless)?;
    let all = args.all || filters.values("all").iter().any(|value| value == "true" || value == "1");
    let which = if all { "all" } else { "anonymous" };
    let warning =
        format!("This will remove {which} local volumes not used by at least one container.");
    if !args.force && !confirm(&warning)? {
        return Ok(0);
    }
    let mut filters = filters.into_message(|values| VolumeFilterValues { values });
    filters.remove("all");
    let daemon = Daemon::connect(host).await?;
    let pruned = daemon.volumes().prune(PruneVolumesRequest { all, filters }).await?.into_inner();
    if !pruned.volumes.is_empty() {
        output::print_line(&format!("Deleted Volumes:\n{}\n", pruned.volumes.join("\n")))?;
    }
    let reclaimed = humanize::size(pruned.reclaimed_bytes);
    output::print_line(&format!("Total reclaimed space: {reclaimed}"))?;
    Ok(0)
}

async fn remove(args: RemoveArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let (daemon, force) = (&daemon, args.force);
    output::for_each(&args.volumes, |name| async move {
        let request = RemoveVolumeRequest { name: name.to_owned() };
        match daemon.volumes().remove(request).await.map_err(Failure::from) {
            Err(failure) if force && failure.reason() == Some(ErrorReason::VolumeNotFound) => {
                Ok(name.to_owned())
            }
            Err(failure) => Err(failure),
            Ok(_) => Ok(name.to_owned()),
        }
    })
    .await
}
