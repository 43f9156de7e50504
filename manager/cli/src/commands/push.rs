//! `keg push`: sends an image to its registry.

use clap::Args;
use keg_proto::keg::v1::{ListImagesRequest, PushImageRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::transfer::TransferFlags;
use crate::progress::Progress;
use crate::{credentials, output, reference};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg tag app registry.example:5000/team/app:2.1
  keg push registry.example:5000/team/app:2.1
  keg push -a registry.example:5000/team/app    all tags of it

The image goes to the registry that its name begins with. What that has already is not sent again.")]
pub(crate) struct PushArgs {
    /// Push all tags of the repository
    #[arg(short = 'a', long)]
    all_tags: bool,
    #[command(flatten)]
    transfer: TransferFlags,
    /// The image: NAME[:TAG]
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// Nothing has that name.
#[derive(Debug, thiserror::Error)]
#[error("no image here is named {repository:?}")]
struct NoTags {
    repository: String,
}

/// Pushes, and prints the full name of each image.
pub(crate) async fn run(args: PushArgs, host: &str) -> Result<u8, Failure> {
    let request = PushImageRequest {
        platform: args.transfer.one_platform()?,
        referrers: args.transfer.referrers,
        ..PushImageRequest::default()
    };
    let daemon = Daemon::connect(host).await?;
    let images = if args.all_tags {
        all_tags(&daemon, &args.image).await?
    } else {
        if args.transfer.talks() && args.image != reference::with_default_tag(&args.image) {
            output::print_line("Using default tag: latest")?;
        }
        vec![args.image]
    };
    for image in images {
        let request = PushImageRequest { reference: image, ..request.clone() };
        let full_reference = push(&daemon, request, args.transfer.progress()).await?;
        if args.transfer.quiet {
            output::print_line(&full_reference)?;
        }
    }
    Ok(0)
}

/// All names of a repository.
async fn all_tags(daemon: &Daemon, repository: &str) -> Result<Vec<String>, Failure> {
    reference::without_tag(repository)?;
    let request =
        ListImagesRequest { reference: repository.to_owned(), ..ListImagesRequest::default() };
    let images = daemon.images().list(request).await?.into_inner().images;
    let wanted = |name: &String| {
        reference::familiar(reference::split(name).repository)
            == reference::familiar(&full_repository(repository))
    };
    let mut names: Vec<String> =
        images.into_iter().flat_map(|image| image.names).filter(wanted).collect();
    names.sort_unstable();
    if names.is_empty() {
        let repository = repository.to_owned();
        return Err(Failure::client(NoTags { repository })
            .with_remedy("list what there is with `keg images`, and name it by `keg tag`"));
    }
    Ok(names)
}

/// A repository with its registry.
fn full_repository(repository: &str) -> String {
    let registry = reference::registry(repository);
    match repository.strip_prefix(registry).and_then(|rest| rest.strip_prefix('/')) {
        Some(_) => repository.to_owned(),
        None if repository.contains('/') => format!("{registry}/{repository}"),
        None => format!("{registry}/library/{repository}"),
    }
}

async fn push(
    daemon: &Daemon,
    mut request: PushImageRequest,
    mut progress: Progress,
) -> Result<String, Failure> {
    let mut full_reference = request.reference.clone();
    request.auth = credentials::for_image(&request.reference);
    let mut events = daemon.images().push(request).await?.into_inner();
    while let Some(response) = events.message().await? {
        let Some(event) = response.event else { continue };
        if let keg_proto::keg::v1::push_image_response::Event::Started(started) = &event {
            full_reference.clone_from(&started.reference);
        }
        progress.show(&event.into())?;
    }
    Ok(full_reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_completed_as_the_daemon_does() {
        let table = [
            ("busybox", "docker.io/library/busybox"),
            ("a/b", "docker.io/a/b"),
            ("docker.io/a/b", "docker.io/a/b"),
            ("host:5000/a", "host:5000/a"),
        ];
        for (short, full) in table {
            assert_eq!(full_repository(short), full);
        }
    }
}
