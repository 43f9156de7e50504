//! `keg search`: looks for images in a registry.

use clap::Args;
use keg_proto::keg::v1::{SearchRequest, SearchResult};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::filters::Filters;
use crate::table::{Columns, RowFormat};
use crate::template::Value;
use crate::{credentials, humanize, output, reference};

/// Filters that this command knows.
const FILTERS: [&str; 3] = ["is-automated", "is-official", "stars"];

/// Characters of a description that are shown.
const DESCRIPTION_CHARACTERS: usize = 45;

/// Columns of `search`.
const COLUMNS: Columns = Columns {
    table: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
    quiet: "{{.Name}}",
    titles: &[
        ("Description", "DESCRIPTION"),
        ("IsAutomated", "AUTOMATED"),
        ("IsOfficial", "OFFICIAL"),
        ("Name", "NAME"),
        ("StarCount", "STARS"),
    ],
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg search redis
  keg search registry.example:5000/team    repositories there with \"team\" in their name
  keg search -f is-official=true -f stars=100 nginx

Registries that offer no search are asked for the list of their repositories.")]
pub(crate) struct SearchArgs {
    /// Keep what matches (is-official=true|false, stars=NUMBER, is-automated=true|false)
    #[arg(short = 'f', long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print as "json", "table TEMPLATE" or by a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Most answers
    #[arg(long, value_name = "NUMBER", default_value_t = 25)]
    limit: u32,
    /// Do not cut descriptions
    #[arg(long)]
    no_trunc: bool,
    /// A part of the name
    #[arg(value_name = "[REGISTRY/]TERM")]
    term: String,
}

/// Stars are counted.
#[derive(Debug, thiserror::Error)]
#[error("stars={text:?} is no number")]
struct NotStars {
    text: String,
}

/// Looks, and lists.
pub(crate) async fn run(args: SearchArgs, host: &str) -> Result<u8, Failure> {
    let format =
        RowFormat::new(args.format.as_deref(), false, COLUMNS).map_err(Failure::senseless)?;
    let filters = Filters::parse(&args.filter, &FILTERS).map_err(Failure::senseless)?;
    let least_stars = match filters.values("stars") {
        [] => 0,
        [.., text] => {
            let not_stars = |_| Failure::senseless(NotStars { text: text.clone() });
            text.parse::<u32>().map_err(not_stars)?.into()
        }
    };
    let daemon = Daemon::connect(host).await?;
    let auth = credentials::for_registry(reference::registry(&args.term));
    let request = SearchRequest { term: args.term, limit: args.limit, auth };
    let found = daemon.registries().search(request).await?.into_inner().results;
    let kept = found.iter().filter(|result| keeps(&filters, least_stars, result));
    let rows = kept.map(|result| row(result, !args.no_trunc));
    output::print(&format.render(COLUMNS, rows).map_err(Failure::senseless)?)?;
    Ok(0)
}

fn keeps(filters: &Filters, least_stars: i64, result: &SearchResult) -> bool {
    let agrees = |key: &str, truth: bool| {
        let values = filters.values(key);
        values.is_empty() || values.iter().any(|v| matches!(v.as_str(), "true" | "1") == truth)
    };
    // No registry builds images automatically any more.
    result.stars >= least_stars
        && agrees("is-official", result.is_official)
        && agrees("is-automated", false)
}

fn row(result: &SearchResult, truncate: bool) -> Value {
    let description = result.description.replace(['\n', '\t', '\r'], " ");
    let description = match truncate {
        true => humanize::ellipsis(&description, DESCRIPTION_CHARACTERS),
        false => description,
    };
    let mark = |truth: bool| Value::text(if truth { "[OK]" } else { "" });
    Value::record([
        ("Description", Value::Text(description)),
        ("IsAutomated", mark(false)),
        ("IsOfficial", mark(result.is_official)),
        ("Name", Value::text(&result.name)),
        ("StarCount", Value::Text(result.stars.to_string())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_keep_what_they_say() {
        let result = SearchResult { stars: 5, is_official: true, ..SearchResult::default() };
        let table: [(&[&str], i64, bool); 4] = [
            (&[], 0, true),
            (&["is-official=false"], 0, false),
            (&["is-automated=true"], 0, false),
            (&[], 6, false),
        ];
        for (texts, least_stars, kept) in table {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            let filters = Filters::parse(&texts, &FILTERS).expect("filters");
            assert_eq!(keeps(&filters, least_stars, &result), kept, "{texts:?} {least_stars}");
        }
    }
}
