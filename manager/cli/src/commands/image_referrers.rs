//! `keg image referrers`: lists what refers to an image in its registry.

use clap::Args;
use keg_proto::keg::v1::{ImageReferrersRequest, Referrer};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::platform;
use crate::table::{Columns, RowFormat};
use crate::template::Value;
use crate::{credentials, humanize, output};

/// Columns of `image referrers`.
const COLUMNS: Columns = Columns {
    table: "{{.Digest}}\t{{.ArtifactType}}\t{{.Size}}",
    quiet: "{{.Digest}}",
    titles: &[
        ("Annotations", "ANNOTATIONS"),
        ("ArtifactType", "TYPE"),
        ("Digest", "DIGEST"),
        ("MediaType", "MEDIA TYPE"),
        ("Size", "SIZE"),
    ],
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg image referrers registry.example/app:1
  keg image referrers --type application/spdx+json --format json registry.example/app:1

Signatures, bills of materials and the like refer to an image and are kept beside it. `keg pull
--referrers` brings them, `keg push --referrers` and `keg save --referrers` pass them on.")]
pub(crate) struct ImageReferrersArgs {
    /// Print as "json", "table TEMPLATE" or by a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// What refers to the image of this platform, as in linux/arm64, instead of to the whole
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Print digests only
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Keep those of this type
    #[arg(long = "type", value_name = "TYPE")]
    artifact_type: Option<String>,
    /// The image: NAME[:TAG] or NAME@DIGEST
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// Lists them.
pub(crate) async fn run(args: ImageReferrersArgs, host: &str) -> Result<u8, Failure> {
    let platform =
        args.platform.as_deref().map(platform::parse).transpose().map_err(Failure::usage)?;
    let format =
        RowFormat::new(args.format.as_deref(), args.quiet, COLUMNS).map_err(Failure::senseless)?;
    let daemon = Daemon::connect(host).await?;
    let request = ImageReferrersRequest {
        auth: credentials::for_image(&args.image),
        reference: args.image,
        platform,
        artifact_type: args.artifact_type.unwrap_or_default(),
    };
    let found = daemon.images().referrers(request).await?.into_inner().referrers;
    let rows = found.iter().map(row);
    output::print(&format.render(COLUMNS, rows).map_err(Failure::senseless)?)?;
    Ok(0)
}

fn row(referrer: &Referrer) -> Value {
    let target = referrer.target.clone().unwrap_or_default();
    let mut annotations: Vec<String> =
        referrer.annotations.iter().map(|(name, value)| format!("{name}={value}")).collect();
    annotations.sort_unstable();
    Value::record([
        ("Annotations", Value::Text(annotations.join(","))),
        ("ArtifactType", Value::text(&referrer.artifact_type)),
        ("Digest", Value::Text(target.digest)),
        ("MediaType", Value::Text(target.media_type)),
        ("Size", Value::Text(humanize::size(u64::try_from(target.size).unwrap_or(0)))),
    ])
}
