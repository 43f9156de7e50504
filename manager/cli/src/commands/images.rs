//! `keg images`: lists images.

use clap::Args;
use jiff::Timestamp;
use keg_proto::keg::v1::{ImageSummary, ListImagesRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::filters::{Filters, has_label};
use crate::table::RowFormat;
use crate::views::image::{COLUMNS, COLUMNS_WITH_DIGESTS, RowStyle, rows};
use crate::views::tree;
use crate::{moment, output};

/// Filters that this command knows.
const FILTERS: [&str; 6] = ["before", "dangling", "label", "reference", "since", "until"];

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg images                              all images
  keg images busybox                      all versions of one
  keg images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
  keg images --tree                       the platforms of each, and which of them are here
  keg images -q -f dangling=true          ids of those without a name")]
pub(crate) struct ImagesArgs {
    /// Show all images (they always are: Keg keeps no intermediate ones)
    #[arg(short = 'a', long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Keep images that match (dangling=true|false, label=NAME[=VALUE], reference=PATTERN,
    /// before=IMAGE, since=IMAGE, until=MOMENT|DURATION)
    #[arg(short = 'f', long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print as "json", "table TEMPLATE" or by a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not cut ids
    #[arg(long)]
    no_trunc: bool,
    /// Print ids only
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Show the platforms of each image below it
    #[arg(long, conflicts_with_all = ["format", "quiet"])]
    tree: bool,
    /// Keep images of this name; *, ? and [...] stand for any letters
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
}

/// Lists.
pub(crate) async fn run(args: ImagesArgs, host: &str) -> Result<u8, Failure> {
    let columns = if args.digests { COLUMNS_WITH_DIGESTS } else { COLUMNS };
    let format =
        RowFormat::new(args.format.as_deref(), args.quiet, columns).map_err(Failure::senseless)?;
    let filters = Filters::parse(&args.filter, &FILTERS).map_err(Failure::senseless)?;
    let last = |key: &str| filters.values(key).last().cloned().unwrap_or_default();
    let until = match filters.values("until") {
        [] => None,
        [.., text] => {
            moment::from_proto(&moment::parse(text, Timestamp::now()).map_err(Failure::senseless)?)
        }
    };

    let daemon = Daemon::connect(host).await?;
    let request = ListImagesRequest {
        reference: args.name.clone().unwrap_or_else(|| last("reference")),
        before: last("before"),
        since: last("since"),
        with_variants: args.tree,
    };
    let images = daemon.images().list(request).await?.into_inner().images;
    let kept: Vec<&ImageSummary> =
        images.iter().filter(|image| keeps(&filters, until, image)).collect();
    if args.tree {
        output::print(&tree::text(kept))?;
        return Ok(0);
    }

    let style = RowStyle {
        now: Timestamp::now(),
        truncate: !args.no_trunc,
        with_created_at: format.may_read("CreatedAt"),
    };
    let listed = kept.into_iter().flat_map(|image| {
        let mut rows = rows(image, style);
        // An id that is asked for alone is wanted once.
        if args.quiet && args.format.is_none() {
            rows.truncate(1);
        }
        rows
    });
    output::print(&format.render(columns, listed).map_err(Failure::senseless)?)?;
    Ok(0)
}

/// Whether an image passes the filters that concern what is shown of it.
fn keeps(filters: &Filters, until: Option<Timestamp>, image: &ImageSummary) -> bool {
    let created_at = image.created_at.as_ref().and_then(moment::from_proto);
    if let Some(until) = until
        && created_at.is_none_or(|created_at| created_at >= until)
    {
        return false;
    }
    let dangling = filters.values("dangling");
    let is_dangling = image.names.is_empty();
    let wants = |value: &String| matches!(value.as_str(), "true" | "1") == is_dangling;
    (dangling.is_empty() || dangling.iter().any(wants))
        && filters.values("label").iter().all(|wanted| has_label(&image.labels, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn filters_keep_what_they_say() {
        let named = ImageSummary {
            names: vec!["a:1".to_owned()],
            labels: HashMap::from([("x".to_owned(), "1".to_owned())]),
            ..ImageSummary::default()
        };
        let dangling = ImageSummary::default();
        let table: [(&[&str], bool, bool); 5] = [
            (&[], true, true),
            (&["dangling=true"], false, true),
            (&["dangling=false"], true, false),
            (&["label=x=1"], true, false),
            (&["label=x=2"], false, false),
        ];
        for (texts, keeps_named, keeps_dangling) in table {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            let filters = Filters::parse(&texts, &FILTERS).expect("filters");
            assert_eq!(keeps(&filters, None, &named), keeps_named, "{texts:?}");
            assert_eq!(keeps(&filters, None, &dangling), keeps_dangling, "{texts:?}");
        }
    }
}
