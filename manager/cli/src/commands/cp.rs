//! `keg cp`: copies files between a container and here.
//!
//! ```text
//!  here ── pack ──▶ pipe ──▶ CopyTo ──▶ container        CONTAINER:PATH names one side,
//!  here ◀─ unpack ◀─ pipe ◀─ CopyFrom ◀─ container       "-" on the other is a tar stream
//! ```
//!
//! The daemon decides what a path in a container means, and this program what one here does; both
//! by Docker's rules.

use std::fs;
use std::io::{self, IsTerminal as _, PipeReader, PipeWriter};
use std::path::{Path, PathBuf};

use clap::Args;
use futures_util::stream;
use keg_proto::keg::v1::copy_from_response::Part as Incoming;
use keg_proto::keg::v1::copy_to_request::Part as Outgoing;
use keg_proto::keg::v1::{
    CopyFromRequest, CopyFromResponse, CopySource, CopyToRequest, CopyToStart, PathStat,
};
use tonic::Streaming;

use crate::archive::{LocalError, Unpack, pack, unpack};
use crate::client::Daemon;
use crate::failure::Failure;
use crate::humanize;
use crate::output;
use crate::terminal::stdio::Stdio;

/// Bytes of an archive in one message.
const PIECE_BYTES: usize = 256 * 1024;

/// Bits of a mode that tell a directory from the rest (stat(2)).
const FILE_TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg cp web:/etc/nginx/nginx.conf .       a file out of a container
  keg cp site/. web:/srv                   what is in a directory, into a container
  keg cp web:/var/log - | tar tv           a tar stream

A container need not run. A slash at the end says that a path is a directory; \"/.\" at the end, that
what is in it is meant and not the directory.")]
pub(crate) struct CpArgs {
    /// Keep owners, instead of giving the files to whoever is at the destination
    #[arg(short = 'a', long)]
    archive: bool,
    /// Copy what a link leads to, instead of the link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Do not tell how much was copied
    #[arg(short = 'q', long)]
    quiet: bool,
    /// What to copy
    #[arg(value_name = "CONTAINER:PATH|PATH|-")]
    source: String,
    /// Where to
    #[arg(value_name = "CONTAINER:PATH|PATH|-")]
    destination: String,
}

/// Why nothing is copied.
#[derive(Debug, thiserror::Error)]
enum CpError {
    #[error("neither side names a container")]
    NoContainer,
    #[error("both sides name a container")]
    TwoContainers,
    #[error("{} is a file", path.display())]
    NotADirectory { path: PathBuf },
    #[error("{} is not there", path.display())]
    Missing { path: PathBuf },
    #[error("the daemon did not say what it sends")]
    NoStat,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Stream,
    Local(String),
    Container { name: String, path: String },
}

/// Copies.
pub(crate) async fn run(args: CpArgs, host: &str) -> Result<u8, Failure> {
    let remedy = "name one as CONTAINER:PATH";
    match (Side::parse(&args.source), Side::parse(&args.destination)) {
        (Side::Container { .. }, Side::Container { .. }) => {
            Err(Failure::senseless(CpError::TwoContainers).with_remedy(
                "copy to here first, or send one copy to the other: \
                              `keg cp A:/x - | keg cp - B:/y`",
            ))
        }
        (Side::Container { name, path }, target) => {
            let daemon = Daemon::connect(host).await?;
            copy_out(&daemon, &args, &name, path, target).await
        }
        (source, Side::Container { name, path }) => {
            let daemon = Daemon::connect(host).await?;
            copy_in(&daemon, &args, source, &name, path).await
        }
        _ => Err(Failure::senseless(CpError::NoContainer).with_remedy(remedy)),
    }
}

impl Side {
    /// Reads an argument as Docker does: what is an absolute path, or begins with a dot, is here.
    fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        match text.split_once(':') {
            Some((name, path))
                if !name.is_empty() && !name.contains('/') && !name.starts_with('.') =>
            {
                Self::Container { name: name.to_owned(), path: path.to_owned() }
            }
            _ => Self::Local(text.to_owned()),
        }
    }
}

async fn copy_out(
    daemon: &Daemon,
    args: &CpArgs,
    container: &str,
    path: String,
    target: Side,
) -> Result<u8, Failure> {
    let contents_only = path == "." || path.ends_with("/.") || path.trim_matches('/').is_empty();
    let request =
        CopyFromRequest { container: container.to_owned(), path, follow_link: args.follow_link };
    let mut pieces = daemon.files().copy_from(request).await?.into_inner();
    let stat = match pieces.message().await?.and_then(|message| message.part) {
        Some(Incoming::Stat(stat)) => stat,
        _ => return Err(Failure::client(CpError::NoStat)),
    };
    let Side::Local(target) = target else {
        let stdout = Stdio::new(io::stdout());
        while let Some(data) = next_piece(&mut pieces).await? {
            let written = stdout.write_all(&data).await;
            written.map_err(|error| Failure::stream(&error, "write to standard output"))?;
        }
        return Ok(0);
    };
    let plan = plan_local(&target, &stat, contents_only, args.archive)?;
    let (reader, writer) = io::pipe().map_err(|error| Failure::stream(&error, "make a pipe"))?;
    let shown = target.clone();
    let unpacking = tokio::task::spawn_blocking(move || unpack(io::BufReader::new(reader), &plan));
    let fed = feed(&mut pieces, writer).await;
    let unpacked = join(unpacking.await)?;
    // What the daemon says explains an archive that ends early.
    fed?;
    let bytes = unpacked.map_err(Failure::client)?;
    tell(args, bytes, &shown);
    Ok(0)
}

/// Decides, by Docker's rules, into which directory here a copy goes, and as what.
fn plan_local(
    target: &str,
    stat: &PathStat,
    contents_only: bool,
    keep_owners: bool,
) -> Result<Unpack, Failure> {
    let path = Path::new(target);
    let is_dir = stat.mode & FILE_TYPE == DIRECTORY;
    let must_be_dir = target.ends_with('/') || target.ends_with("/.");
    let existing = fs::metadata(path).ok();
    let as_new = || {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        (parent, name.unwrap_or_default())
    };
    let (dir, rename) = match existing {
        Some(metadata) if metadata.is_dir() => (path.to_owned(), contents_only.then(String::new)),
        Some(_) if is_dir || must_be_dir => {
            let path = path.to_owned();
            return Err(Failure::client(CpError::NotADirectory { path })
                .with_remedy("name a directory, or a path that is not there"));
        }
        None if must_be_dir && !is_dir => {
            let path = path.to_owned();
            return Err(Failure::client(CpError::Missing { path })
                .with_remedy("make the directory first, or leave out the slash"));
        }
        _ => {
            let (dir, name) = as_new();
            (dir, Some(name))
        }
    };
    Ok(Unpack { dir, rename, keep_owners })
}

async fn copy_in(
    daemon: &Daemon,
    args: &CpArgs,
    source: Side,
    container: &str,
    path: String,
) -> Result<u8, Failure> {
    let shown = format!("{container}:{path}");
    let start = |source| CopyToStart {
        container: container.to_owned(),
        path,
        source,
        keep_owners: args.archive,
    };
    let Side::Local(source) = source else {
        let stdin = rustix::io::dup(rustix::stdio::stdin())
            .map(PipeReader::from)
            .map_err(|errno| Failure::stream(&errno.into(), "read standard input"))?;
        let (requests, failure) = requests(start(None), stdin);
        let response = daemon.files().copy_to(requests).await;
        if let Ok(error) = failure.await {
            return Err(Failure::stream(&error, "read standard input"));
        }
        response?;
        return Ok(0);
    };
    let (path, named) = look(&source, args.follow_link)?;
    let follow = args.follow_link || source.ends_with('/') || named.contents_only;
    let name = named.name.clone();
    let (reader, writer) = io::pipe().map_err(|error| Failure::stream(&error, "make a pipe"))?;
    let packing = tokio::task::spawn_blocking(move || {
        pack(&path, &name, follow, io::BufWriter::with_capacity(PIECE_BYTES, writer))
    });
    let (requests, _) = requests(start(Some(named)), reader);
    let response = daemon.files().copy_to(requests).await;
    // What the daemon says explains why nobody reads the archive.
    let copied = response?.into_inner();
    join(packing.await)?.map_err(Failure::client)?;
    tell(args, u64::try_from(copied.size_bytes).unwrap_or(0), &shown);
    Ok(0)
}

/// What is to be copied, and what it is called.
fn look(source: &str, follow: bool) -> Result<(PathBuf, CopySource), Failure> {
    let failed = |action| {
        move |error| {
            let path = PathBuf::from(source);
            Failure::client(LocalError::Io { action, path, source: error })
        }
    };
    let contents_only = source == "." || source.ends_with("/.");
    let must_be_dir = contents_only || source.ends_with('/');
    let path = Path::new(source);
    let metadata = match follow || must_be_dir {
        true => fs::metadata(path),
        false => fs::symlink_metadata(path),
    }
    .map_err(failed("look at"))?;
    if must_be_dir && !metadata.is_dir() {
        return Err(Failure::client(CpError::NotADirectory { path: path.to_owned() })
            .with_remedy("leave out the slash"));
    }
    let name = match path.file_name() {
        Some(name) => name.to_owned(),
        // "." and "..": only the whole path has a name.
        None => {
            let whole = fs::canonicalize(path).map_err(failed("look at"))?;
            whole.file_name().map_or_else(|| "root".into(), ToOwned::to_owned)
        }
    };
    let name = name.to_string_lossy().into_owned();
    Ok((path.to_owned(), CopySource { name, is_dir: metadata.is_dir(), contents_only }))
}

/// The messages of a copy: where to, then the archive. A failed read ends them, and is reported
/// aside.
fn requests(
    start: CopyToStart,
    archive: PipeReader,
) -> (
    impl stream::Stream<Item = CopyToRequest> + Send + 'static,
    tokio::sync::oneshot::Receiver<io::Error>,
) {
    let message = |part| CopyToRequest { part: Some(part) };
    let first = message(Outgoing::Start(start));
    let (failed, failure) = tokio::sync::oneshot::channel();
    let rest = stream::unfold((Stdio::new(archive), failed), move |(archive, failed)| async move {
        let mut piece = vec![0; PIECE_BYTES];
        match archive.read(&mut piece).await {
            Ok(0) => None,
            Ok(length) => {
                piece.truncate(length);
                Some((message(Outgoing::Data(piece)), (archive, failed)))
            }
            Err(error) => {
                // Nobody waits for it only if the call has failed already.
                let _ = failed.send(error);
                None
            }
        }
    });
    (stream::StreamExt::chain(stream::iter([first]), rest), failure)
}

/// Writes the archive that comes into a pipe.
async fn feed(pieces: &mut Streaming<CopyFromResponse>, writer: PipeWriter) -> Result<(), Failure> {
    let pipe = Stdio::new(writer);
    while let Some(data) = next_piece(pieces).await? {
        // Whoever reads it has failed, and says why.
        if pipe.write_all(&data).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn next_piece(pieces: &mut Streaming<CopyFromResponse>) -> Result<Option<Vec<u8>>, Failure> {
    while let Some(message) = pieces.message().await? {
        if let Some(Incoming::Data(data)) = message.part {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// A thread that panicked takes the program with it.
fn join<T>(joined: Result<T, tokio::task::JoinError>) -> Result<T, Failure> {
    joined.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => Failure::client(error),
    })
}

fn tell(args: &CpArgs, bytes: u64, target: &str) {
    if !args.quiet && io::stderr().is_terminal() {
        let size = humanize::size(bytes);
        output::complain(&format!("Successfully copied {size} to {target}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_container_only_if_it_looks_like_one() {
        let container = |name: &str, path: &str| Side::Container {
            name: name.to_owned(),
            path: path.to_owned(),
        };
        let table = [
            ("-", Side::Stream),
            ("web:/etc", container("web", "/etc")),
            ("web:etc:x", container("web", "etc:x")),
            ("web:", container("web", "")),
            ("/a:b", Side::Local("/a:b".to_owned())),
            ("./a:b", Side::Local("./a:b".to_owned())),
            (":x", Side::Local(":x".to_owned())),
            ("plain", Side::Local("plain".to_owned())),
        ];
        for (text, side) in table {
            assert_eq!(Side::parse(text), side, "{text}");
        }
    }

    #[test]
    fn a_copy_lands_where_dockers_does() {
        let place = tempfile::tempdir().expect("a directory");
        let here = |path: &str| place.path().join(path).to_str().expect("text").to_owned();
        fs::create_dir(here("dir")).expect("a directory");
        fs::write(here("file"), "").expect("a file");
        let file = PathStat { mode: 0o100_644, ..PathStat::default() };
        let dir = PathStat { mode: 0o040_755, ..PathStat::default() };
        let plan = |target: &str, stat, contents| {
            plan_local(&here(target), stat, contents, false)
                .map(|plan| (plan.dir.to_str().expect("text").to_owned(), plan.rename))
                .ok()
        };

        assert_eq!(plan("dir", &file, false), Some((here("dir"), None)));
        assert_eq!(plan("dir", &dir, true), Some((here("dir"), Some(String::new()))));
        assert_eq!(plan("dir/file", &file, true), Some((here("dir"), Some("file".to_owned()))));
        assert_eq!(plan("dir/new/", &dir, false), Some((here("dir"), Some("new".to_owned()))));
        assert_eq!(plan("file", &dir, false), None);
        assert_eq!(plan("file/", &file, false), None);
        assert_eq!(plan("missing/", &file, false), None);
    }
}
