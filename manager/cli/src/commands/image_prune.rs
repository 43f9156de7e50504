//! `keg image prune`: removes images that nothing needs.

use clap::Args;
use jiff::Timestamp;
use keg_proto::keg::v1::{PruneImagesRequest, PruneImagesResponse};

use crate::client::Daemon;
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::options::filters::Filters;
use crate::{humanize, moment, output, reference};

/// Filters that this command knows.
const FILTERS: [&str; 3] = ["label", "label!", "until"];

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg image prune                             images without a name
  keg image prune -a --filter until=240h      all that no container uses and that are ten days old
  keg image prune -af --filter label!=keep    without asking, and not those with this label")]
pub(crate) struct ImagePruneArgs {
    /// Remove all images that no container uses, not only those without a name
    #[arg(short = 'a', long)]
    all: bool,
    /// Only images that match (until=MOMENT|DURATION, label=NAME[=VALUE], label!=NAME[=VALUE])
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short = 'f', long)]
    force: bool,
}

/// Removes, and prints what is gone.
pub(crate) async fn run(args: ImagePruneArgs, host: &str) -> Result<u8, Failure> {
    let request = request(args.all, &args.filter)?;
    let warning = match args.all {
        true => "This will remove all images without at least one container associated to them.",
        false => "This will remove all dangling images.",
    };
    if !args.force && !confirm(warning)? {
        return Ok(0);
    }
    let daemon = Daemon::connect(host).await?;
    let pruned = daemon.images().prune(request).await?.into_inner();
    output::print(&text(&pruned))?;
    let reclaimed = u64::try_from(pruned.reclaimed_bytes).unwrap_or(0);
    output::print_line(&format!("Total reclaimed space: {}", humanize::size(reclaimed)))?;
    Ok(0)
}

/// The request that flags stand for.
///
/// # Errors
/// A [`Failure`] for a filter that makes no sense.
pub(crate) fn request(all: bool, filters: &[String]) -> Result<PruneImagesRequest, Failure> {
    // "label!=x" has its `!` before the sign.
    let filters = Filters::parse(filters, &FILTERS).map_err(Failure::senseless)?;
    let until = match filters.values("until") {
        [] => None,
        [.., last] => Some(moment::parse(last, Timestamp::now()).map_err(Failure::senseless)?),
    };
    Ok(PruneImagesRequest {
        all,
        until,
        labels: filters.values("label").to_vec(),
        without_labels: filters.values("label!").to_vec(),
    })
}

/// What is gone, as Docker lists it.
pub(crate) fn text(pruned: &PruneImagesResponse) -> String {
    if pruned.untagged.is_empty() && pruned.deleted.is_empty() {
        return String::new();
    }
    let untagged =
        pruned.untagged.iter().map(|name| format!("untagged: {}\n", reference::familiar(name)));
    let deleted = pruned.deleted.iter().map(|id| format!("deleted: {id}\n"));
    let lines: String = untagged.chain(deleted).collect();
    format!("Deleted Images:\n{lines}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_fields() {
        let texts = ["label=a", "label!=b=1", "until=0"].map(str::to_owned);

        let request = request(true, &texts).expect("filters");

        assert_eq!(
            (request.labels, request.without_labels),
            (vec!["a".into()], vec!["b=1".into()])
        );
        assert_eq!(request.until.expect("a moment").seconds, 0);
    }
}
