//! `keg pull`: downloads an image.

use clap::Args;
use keg_proto::keg::v1::pull_image_response::Event;
use keg_proto::keg::v1::{ImageMeaningsRequest, PullImageRequest, RegistryAuth, RemoteTagsRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::transfer::TransferFlags;
use crate::progress::Progress;
use crate::{credentials, output, reference};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg pull busybox                        the newest version from the default registry
  keg pull registry.example:5000/app:2.1  from another registry
  keg pull busybox@sha256:…               exactly these bytes
  keg pull --platform linux/amd64,linux/arm64 busybox
  keg pull --all-platforms busybox        as it is, with attestations, to save or to push
  keg pull -a registry.example/team/app   all tags of it")]
pub(crate) struct PullArgs {
    /// All platforms and whatever else belongs to the image; unpacked is what this machine runs
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Pull all tags of the repository
    #[arg(short = 'a', long)]
    all_tags: bool,
    #[command(flatten)]
    transfer: TransferFlags,
    /// The image: NAME[:TAG] or NAME@DIGEST
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// Pulls, and prints the full name of each image.
pub(crate) async fn run(args: PullArgs, host: &str) -> Result<u8, Failure> {
    let mut platforms = args.transfer.platforms()?.into_iter();
    let request = PullImageRequest {
        platform: platforms.next(),
        more_platforms: platforms.collect(),
        all_platforms: args.all_platforms,
        referrers: args.transfer.referrers,
        ..PullImageRequest::default()
    };
    if args.all_tags {
        reference::without_tag(&args.image)?;
    }
    let daemon = Daemon::connect(host).await?;
    let images = if args.all_tags {
        all_tags(&daemon, &args.image).await?
    } else {
        let names_tag = args.image != reference::with_default_tag(&args.image);
        if names_tag && args.transfer.talks() {
            output::print_line("Using default tag: latest")?;
        }
        vec![args.image]
    };
    for image in images {
        let request = PullImageRequest { reference: image, ..request.clone() };
        let full_reference = pull(&daemon, request, args.transfer.progress()).await?;
        if args.transfer.talks() || args.transfer.quiet {
            output::print_line(&full_reference)?;
        }
    }
    Ok(0)
}

/// Pulls an image, showing how far it is; returns its full name. Credentials are added to the request.
///
/// # Errors
/// A [`Failure`] from the daemon, or if progress cannot be written.
pub(crate) async fn pull(
    daemon: &Daemon,
    mut request: PullImageRequest,
    mut progress: Progress,
) -> Result<String, Failure> {
    let mut full_reference = request.reference.clone();
    if reference::is_short(&request.reference) {
        request.auths = auths_for(daemon, &request.reference).await?;
    } else {
        request.auth = credentials::for_image(&request.reference);
    }
    let mut events = daemon.images().pull(request).await?.into_inner();
    while let Some(response) = events.message().await? {
        let Some(event) = response.event else {
            continue;
        };
        if let Event::Resolved(resolved) = &event {
            full_reference.clone_from(&resolved.reference);
        }
        progress.show(&event.into())?;
    }
    Ok(full_reference)
}

/// The credentials for each registry that a name without one may mean.
async fn auths_for(daemon: &Daemon, image: &str) -> Result<Vec<RegistryAuth>, Failure> {
    let request = ImageMeaningsRequest { reference: image.to_owned() };
    let meanings = daemon.images().meanings(request).await?.into_inner().references;
    let mut registries: Vec<&str> =
        meanings.iter().map(|meaning| reference::registry(meaning)).collect();
    registries.dedup();
    let auth = |registry: &str| {
        let auth = credentials::for_registry(registry)?;
        Some(RegistryAuth { registry: registry.to_owned(), ..auth })
    };
    Ok(registries.into_iter().filter_map(auth).collect())
}

/// The full names of all tags that a registry has of a repository.
async fn all_tags(daemon: &Daemon, repository: &str) -> Result<Vec<String>, Failure> {
    let request = RemoteTagsRequest {
        repository: repository.to_owned(),
        auth: credentials::for_image(repository),
    };
    Ok(daemon.images().remote_tags(request).await?.into_inner().references)
}
