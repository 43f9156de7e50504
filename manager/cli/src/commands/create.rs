//! `keg create`: makes a container and does not start it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};
use keg_proto::keg::v1::{CreateContainerResponse, ErrorReason, PullImageRequest};

use super::pull::pull;
use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::container::{ContainerFlags, PullPolicy, Surroundings};
use crate::progress::{Progress, ProgressStyle, Target};
use crate::{output, reference, terminal};

#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    next_display_order = None,
    override_usage = "keg create [OPTIONS] IMAGE [COMMAND] [ARG...]",
    after_help = "Example:
  keg create --name web -v /srv/www:/www:ro busybox httpd -f -h /www
  keg start web"
)]
pub(crate) struct CreateArgs {
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    flags: ContainerFlags,
}

/// The file for the container's id cannot be used.
#[derive(Debug, thiserror::Error)]
enum CidfileError {
    #[error("the file for the container's id, {}, exists already", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write the container's id into {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Makes a container, and prints its id.
pub(crate) async fn run(args: CreateArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let created = create(&daemon, &args.flags, false).await?;
    output::print_line(&created.id)?;
    Ok(0)
}

/// Makes the container that the flags describe, pulling its image as they say, and writes its id
/// into the file that they name. `detached` says that nobody joins it.
///
/// # Errors
/// A [`Failure`] of usage, from the daemon, or of that file.
pub(crate) async fn create(
    daemon: &Daemon,
    flags: &ContainerFlags,
    detached: bool,
) -> Result<CreateContainerResponse, Failure> {
    let surroundings = Surroundings::of_this_process()?;
    let request = flags.describe(&surroundings, terminal::size(), detached)?;
    let cidfile = flags.cidfile.as_deref().map(open_cidfile).transpose()?;
    if flags.pull == PullPolicy::Always {
        pull_for(daemon, flags).await?;
    }
    let first_try = daemon.containers().create(request.clone()).await.map_err(Failure::from);
    let created = match first_try {
        Err(failure) if may_pull(&failure, flags) => {
            let (image, _) = flags.image_and_command();
            if !flags.quiet && flags.progress != ProgressStyle::Json {
                let name = reference::with_default_tag(image);
                output::complain(&format!("Unable to find image '{name}' locally\n"));
            }
            pull_for(daemon, flags).await?;
            daemon.containers().create(request).await.map_err(Failure::from)
        }
        other => other,
    };
    let created = match created {
        Ok(created) => created.into_inner(),
        Err(failure) => {
            // The file promises a container that does not exist.
            if let Some(path) = &flags.cidfile {
                let _ = std::fs::remove_file(path);
            }
            return Err(failure);
        }
    };
    for warning in &created.warnings {
        output::complain(&format!("WARNING: {warning}\n"));
    }
    if let (Some(mut file), Some(path)) = (cidfile, &flags.cidfile) {
        file.write_all(created.id.as_bytes()).map_err(|source| {
            Failure::client(CidfileError::Write { path: path.clone(), source })
        })?;
    }
    Ok(created)
}

/// Whether the failure is one that a pull mends, and a pull is allowed.
fn may_pull(failure: &Failure, flags: &ContainerFlags) -> bool {
    failure.reason() == Some(ErrorReason::ImageNotFound) && flags.pull == PullPolicy::Missing
}

async fn pull_for(daemon: &Daemon, flags: &ContainerFlags) -> Result<(), Failure> {
    let (image, _) = flags.image_and_command();
    let progress =
        if flags.quiet { Progress::Silent } else { Progress::new(flags.progress, Target::Stderr) };
    let request = PullImageRequest {
        reference: image.to_owned(),
        platform: flags.platform()?,
        ..PullImageRequest::default()
    };
    pull(daemon, request, progress).await.map(drop)
}

/// Makes the file before the container, so that no container is made in vain.
fn open_cidfile(path: &Path) -> Result<File, Failure> {
    let path = path.to_owned();
    OpenOptions::new().write(true).create_new(true).open(&path).map_err(|source| {
        if source.kind() == std::io::ErrorKind::AlreadyExists {
            let remedy = "remove it, or name another one";
            return Failure::client(CidfileError::Exists { path }).with_remedy(remedy);
        }
        Failure::client(CidfileError::Write { path, source })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_exists_is_not_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("id");
        std::fs::write(&path, "old").expect("file");

        let failure = open_cidfile(&path).expect_err("the file exists");

        assert!(failure.render().contains("exists already"), "{}", failure.render());
        assert_eq!(std::fs::read_to_string(&path).expect("file"), "old");
    }
}
