//! `keg builder`: what builds leave for later builds.

use clap::{Args, Subcommand};
use keg_proto::keg::v1::{BuildDiskUsageRequest, PruneBuildsRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::humanize;
use crate::options::size;
use crate::output;
use crate::table::{Columns, RowFormat};
use crate::template::Value;

/// What is done about it.
#[derive(Debug, Subcommand)]
pub(crate) enum BuilderCommand {
    /// Make an image from a Dockerfile
    Build(Box<super::build::BuildArgs>),
    /// Show what builds have left for later builds
    Du(DuArgs),
    /// Remove what builds have left for later builds
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg builder du
  keg builder du --format json")]
pub(crate) struct DuArgs {
    /// Show as a table, as JSON, or by a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const COLUMNS: Columns = Columns {
    table: "{{.ID}}\t{{.Shared}}\t{{.Size}}\t{{.UsageCount}}\t{{.Description}}",
    quiet: "{{.ID}}",
    titles: &[
        ("ID", "ID"),
        ("Shared", "SHARED"),
        ("Size", "SIZE"),
        ("UsageCount", "USES"),
        ("Description", "STEP"),
    ],
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg builder prune              what no image has
  keg builder prune --all        everything, caches that steps mount included
  keg builder prune --keep-storage 5g
  keg builder prune --filter until=168h --filter type=exec.cachemount")]
pub(crate) struct PruneArgs {
    /// Also what images have too, sent files, and caches that steps mount
    #[arg(short = 'a', long)]
    all: bool,
    /// Do not ask; there is no question, since nothing is lost but time
    #[arg(short = 'f', long)]
    force: bool,
    /// Keep this much of what was used last
    #[arg(long, value_name = "SIZE")]
    keep_storage: Option<String>,
    /// Remove only what fits: until=24h, id=ID, description=TEXT, shared=true|false,
    /// type=regular|source.local|exec.cachemount
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
}

/// A filter that is none.
#[derive(Debug, thiserror::Error)]
#[error("--filter {filter:?}: write until=24h, with s, m, h or d")]
struct BadFilter {
    filter: String,
}

/// Reads `until=24h`.
fn until_secs(filter: &str) -> Result<i64, BadFilter> {
    let bad = || BadFilter { filter: filter.to_owned() };
    let text = filter.strip_prefix("until=").ok_or_else(bad)?;
    let unit = text.chars().last().ok_or_else(bad)?;
    let secs = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let count: i64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
    count.checked_mul(secs).filter(|secs| *secs >= 0).ok_or_else(bad)
}

/// Does what was typed.
pub(crate) async fn run(command: BuilderCommand, host: &str) -> Result<u8, Failure> {
    match command {
        BuilderCommand::Build(args) => super::build::run(*args, host).await,
        BuilderCommand::Du(args) => du(args, host).await,
        BuilderCommand::Prune(args) => prune(args, host).await,
    }
}

fn bytes(count: i64) -> String {
    humanize::size(u64::try_from(count).unwrap_or_default())
}

async fn du(args: DuArgs, host: &str) -> Result<u8, Failure> {
    let format =
        RowFormat::new(args.format.as_deref(), false, COLUMNS).map_err(Failure::senseless)?;
    let daemon = Daemon::connect(host).await?;
    let usage = daemon.builds().disk_usage(BuildDiskUsageRequest {}).await?.into_inner();
    let rows = usage.entries.iter().map(|entry| {
        Value::record([
            ("ID", Value::text(humanize::short_id(&entry.id))),
            ("Shared", Value::Bool(entry.is_shared)),
            ("Size", Value::text(bytes(entry.size_bytes))),
            ("UsageCount", Value::unsigned(entry.uses)),
            ("Description", Value::text(humanize::ellipsis(&entry.description, 60))),
        ])
    });
    output::print(&format.render(COLUMNS, rows).map_err(Failure::senseless)?)?;
    if args.format.is_some() {
        return Ok(0);
    }
    let own: i64 =
        usage.entries.iter().filter(|entry| !entry.is_shared).map(|entry| entry.size_bytes).sum();
    let shared: i64 =
        usage.entries.iter().filter(|entry| entry.is_shared).map(|entry| entry.size_bytes).sum();
    for (name, count) in [
        ("Steps", own),
        ("Shared with images", shared),
        ("Sent files", usage.context_bytes),
        ("Mounted caches", usage.mount_bytes),
        ("Reclaimable", own + usage.context_bytes + usage.mount_bytes),
    ] {
        output::print_line(&format!("{name}: {}", bytes(count)))?;
    }
    Ok(0)
}

async fn prune(args: PruneArgs, host: &str) -> Result<u8, Failure> {
    let keep_bytes =
        args.keep_storage.as_deref().map(size::bytes).transpose().map_err(Failure::usage)?;
    let (until, filters): (Vec<String>, Vec<String>) =
        args.filters.into_iter().partition(|filter| filter.starts_with("until="));
    let mut unused_for_secs = 0;
    for filter in until {
        unused_for_secs = until_secs(&filter).map_err(Failure::usage)?.max(unused_for_secs);
    }
    let daemon = Daemon::connect(host).await?;
    let keep_bytes = keep_bytes.unwrap_or(0);
    let request = PruneBuildsRequest { all: args.all, keep_bytes, unused_for_secs, filters };
    let pruned = daemon.builds().prune(request).await?.into_inner();
    for id in &pruned.deleted {
        output::print_line(id)?;
    }
    output::print_line(&format!("Total reclaimed space: {}", bytes(pruned.freed_bytes)))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_duration_with_a_unit() {
        assert_eq!(until_secs("until=90m").expect("a duration"), 5400);
        for bad in ["until=", "until=h", "until=9", "until=-1h", "since=1h"] {
            assert!(until_secs(bad).is_err(), "{bad}");
        }
    }
}
