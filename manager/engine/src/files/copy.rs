//! Copies in both directions, by tar archives.
//!
//! What is written belongs to ids that the container's mounts know, also those that are shifted
//! for it; so files are made by a thread whose file system ids are those of the container's root.
//! That thread ends with the copy, and its ids with it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use keg_image::diff::{DiffOptions, archive_path, is_of_the_kernel};
use keg_image::extract::{ExtractError, Ownership, Unpacking, unpack};
use rustix::fs::FileType;
use rustix::thread::CapabilitiesSecureBits;
use tokio::sync::oneshot;

use super::path::{Asked, Found, PathStat, find, open_dir};
use super::stream::{ByteStream, PieceReader, PieceSender, inward, outward};
use super::view::View;
use super::{FilesError, owners};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::model::Record;

/// Entries that one copy may have.
const MAX_ENTRIES: u64 = 10_000_000;

/// What an archive that is to be copied was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySource {
    /// First part of all names in it.
    pub name: String,
    /// Whether that is a directory.
    pub is_dir: bool,
    /// Stands for what is in the directory.
    pub contents_only: bool,
}

/// Where to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyToTarget {
    /// Path in the container.
    pub path: String,
    /// `None`: the archive is extracted as it is, into a directory.
    pub source: Option<CopySource>,
    /// Gives the files to whom the archive says, and not to root.
    pub keep_owners: bool,
}

/// A copy into a container that is under way.
#[derive(Debug)]
pub struct CopyTo {
    pieces: PieceSender,
    outcome: oneshot::Receiver<Result<u64, EngineError>>,
}

impl CopyTo {
    /// Takes the next piece of the archive. Returns whether more is wanted; if not,
    /// [`Self::finish`] says why.
    pub async fn send(&self, piece: Bytes) -> bool {
        piece.is_empty() || self.pieces.send(Some(piece)).await.is_ok()
    }

    /// Ends the archive, and waits until all of it is there. Returns the bytes of the files.
    ///
    /// # Errors
    /// [`EngineError::Files`].
    pub async fn finish(self) -> Result<u64, EngineError> {
        let _ = self.pieces.send(None).await;
        drop(self.pieces);
        self.outcome.await.unwrap_or_else(|_| {
            Err(EngineError::File {
                action: "copy into",
                path: "a container".into(),
                source: std::io::ErrorKind::Interrupted.into(),
            })
        })
    }
}

impl Engine {
    /// Tells what is at a path in a container.
    ///
    /// # Errors
    /// [`EngineError::Files`].
    pub async fn stat_path(
        &self,
        name: &str,
        path: &str,
        follow: bool,
    ) -> Result<PathStat, EngineError> {
        let container = self.find(name)?;
        let (engine, asked) = (self.clone(), Asked::parse(path));
        Self::detached("a look at a file", async move {
            let view = View::open(&engine, &container).await?;
            let root = view.root()?;
            let looked = engine
                .blocking("a look at a file", move |_| {
                    Ok(find(root, &asked, follow).map(|found| found.describe(asked.name())))
                })
                .await;
            let wrap = wrapper(view.record());
            view.close().await;
            looked?.map_err(wrap)
        })
        .await
    }

    /// Copies what is at a path in a container out of it. With `follow`, what a link in the end
    /// leads to.
    ///
    /// # Errors
    /// [`EngineError::Files`] if nothing is there; what fails later is in the stream.
    pub async fn copy_from(
        &self,
        name: &str,
        path: &str,
        follow: bool,
    ) -> Result<(PathStat, ByteStream), EngineError> {
        let container = self.find(name)?;
        let (engine, asked) = (self.clone(), Asked::parse(path));
        let (mut writer, stream) = outward();
        let (told, stat) = oneshot::channel();
        tokio::spawn(async move {
            let view = match View::open(&engine, &container).await {
                Ok(view) => view,
                Err(error) => return drop(told.send(Err(error))),
            };
            let wrap = wrapper(view.record());
            let options = DiffOptions { owners: owners(view.record()), ..DiffOptions::default() };
            let root = match view.root() {
                Ok(root) => root,
                Err(error) => {
                    view.close().await;
                    return drop(told.send(Err(error)));
                }
            };
            let copied = tokio::task::spawn_blocking(move || {
                let found = match look_for_copy(&root, &asked, follow) {
                    Ok(found) => found,
                    Err(error) => return drop(told.send(Err(wrap(error)))),
                };
                let called = match asked.path.file_name() {
                    Some(name) => name.as_encoded_bytes().to_vec(),
                    None => b".".to_vec(),
                };
                if told.send(Ok(found.describe(asked.name()))).is_err() {
                    return;
                }
                let (parent, name) = (&found.parent, found.name.as_deref());
                let outcome = archive_path(
                    std::os::fd::AsFd::as_fd(parent),
                    name,
                    &called,
                    &options,
                    &mut writer,
                )
                .map(drop);
                writer.end(outcome.map_err(|error| wrap(FilesError::Archive(error))));
            });
            if let Err(error) = copied.await {
                tracing::error!(%error, "a copy out of a container died");
            }
            view.close().await;
        });
        let stat = stat.await.unwrap_or_else(|_| {
            Err(EngineError::File {
                action: "copy from",
                path: "a container".into(),
                source: std::io::ErrorKind::Interrupted.into(),
            })
        })?;
        Ok((stat, stream))
    }

    /// Begins a copy into a container.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`]; what fails later is told by [`CopyTo::finish`].
    pub fn copy_to(&self, name: &str, target: CopyToTarget) -> Result<CopyTo, EngineError> {
        let container = self.find(name)?;
        let engine = self.clone();
        let (pieces, reader) = inward();
        let (told, outcome) = oneshot::channel();
        tokio::spawn(async move {
            let view = match View::open(&engine, &container).await {
                Ok(view) => view,
                Err(error) => return drop(told.send(Err(error))),
            };
            let wrap = wrapper(view.record());
            let written = match view.root() {
                Ok(root) => write(view.record(), root, target, reader).await,
                Err(error) => {
                    view.close().await;
                    return drop(told.send(Err(error)));
                }
            };
            view.close().await;
            let _ = told.send(written.map_err(wrap));
        });
        Ok(CopyTo { pieces, outcome })
    }
}

/// Finds what is to be copied, and refuses what has no end.
fn look_for_copy(root: &OwnedFd, asked: &Asked, follow: bool) -> Result<Found, FilesError> {
    let found = find(root, asked, follow)?;
    let is_kernels = match found.is_dir() {
        true => open_dir(root, &found.path())
            .is_ok_and(|dir| is_of_the_kernel(std::os::fd::AsFd::as_fd(&dir))),
        false => is_of_the_kernel(std::os::fd::AsFd::as_fd(&found.parent)),
    };
    if is_kernels {
        return Err(FilesError::Kernel { path: found.path().to_string_lossy().into_owned() });
    }
    Ok(found)
}

/// Extracts what comes into a container, on a thread of its own.
async fn write(
    record: &Record,
    root: OwnedFd,
    target: CopyToTarget,
    reader: PieceReader,
) -> Result<u64, FilesError> {
    let owners = owners(record);
    let (done, outcome) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("keg-copy".to_owned()).spawn(move || {
        let outcome = become_root_of(&owners).and_then(|()| {
            let (path, rename) = destination(&root, &target)?;
            let ownership = match target.keep_owners {
                true => Ownership::Mapped(owners),
                false => Ownership::Root(owners),
            };
            let unpacking = Unpacking { root, path, ownership, rename };
            unpack(reader, unpacking, MAX_ENTRIES)
                .map(|extracted| extracted.usage.size_bytes)
                .map_err(FilesError::Extract)
        });
        // Whoever waited may be gone.
        let _ = done.send(outcome);
    });
    if let Err(source) = spawned {
        let (action, path) = ("start a thread for", "the copy".to_owned());
        return Err(FilesError::Io { action, path, source });
    }
    outcome.await.unwrap_or_else(|_| {
        let problem = "the copy died";
        Err(FilesError::Extract(ExtractError::Archive { problem }))
    })
}

/// Gives this thread the file system ids of a container's root, and keeps its capabilities.
fn become_root_of(owners: &keg_image::diff::Owners) -> Result<(), FilesError> {
    let (Some(uid), Some(gid)) = (owners.user_to_disk(0), owners.group_to_disk(0)) else {
        return Ok(());
    };
    if uid == 0 && gid == 0 {
        return Ok(());
    }
    let path = std::path::Path::new("the container's ids");
    // Without this, another id than 0 would take the capabilities of file systems away.
    rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
        .map_err(FilesError::at("use", path))?;
    nix::unistd::setfsgid(nix::unistd::Gid::from_raw(gid));
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(uid));
    Ok(())
}

/// How names begin in an archive, and in the container.
type Rename = Option<(Vec<u8>, Vec<u8>)>;

/// Decides, by Docker's rules, into which directory an archive goes and what its names become.
fn destination(root: &OwnedFd, target: &CopyToTarget) -> Result<(PathBuf, Rename), FilesError> {
    let asked = Asked::parse(&target.path);
    let followed = Asked { must_be_dir: false, ..asked.clone() };
    let text = || asked.path.to_string_lossy().into_owned();
    let found = match find(root, &followed, true) {
        Err(FilesError::NotFound { .. }) => None,
        other => Some(other?),
    };
    let (dir, rename) = match (found, &target.source) {
        (Some(found), source) if found.is_dir() => {
            let rename = source.as_ref().filter(|source| source.contents_only);
            (found.path(), rename.map(|source| (source.name.clone().into_bytes(), Vec::new())))
        }
        (Some(_), None) => return Err(FilesError::NotADirectory { path: text() }),
        (Some(_), Some(source)) if source.is_dir => {
            return Err(FilesError::DirectoryOverFile { path: text() });
        }
        (Some(_), Some(_)) if asked.must_be_dir => {
            return Err(FilesError::NotADirectory { path: text() });
        }
        (Some(found), Some(source)) => {
            let name = found.name.as_ref().map_or(&b""[..], |name| name.to_bytes()).to_vec();
            (found.dir, Some((source.name.clone().into_bytes(), name)))
        }
        (None, Some(source)) if source.is_dir || !asked.must_be_dir => {
            let dir = asked.path.parent().unwrap_or(&asked.path).to_owned();
            let name = asked.name().into_bytes();
            (dir, Some((source.name.clone().into_bytes(), name)))
        }
        (None, _) => return Err(FilesError::NotFound { path: text() }),
    };
    let opened = open_dir(root, &dir).map_err(FilesError::at("open", &dir))?;
    if is_of_the_kernel(std::os::fd::AsFd::as_fd(&opened)) {
        return Err(FilesError::Kernel { path: dir.to_string_lossy().into_owned() });
    }
    debug_assert!(
        rustix::fs::fstat(&opened)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    );
    Ok((dir, rename))
}

/// Tells of which container an error is.
fn wrapper(record: &Arc<Record>) -> impl Fn(FilesError) -> EngineError + use<> {
    let container = record.name.as_str().to_owned();
    move |source| EngineError::Files { container: container.clone(), source }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_copy_goes_where_dockers_does() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("dir")).unwrap();
        fs::write(place.path().join("file"), "").unwrap();
        let root: OwnedFd = File::open(place.path()).unwrap().into();
        let go = |path: &str, source: Option<(bool, bool)>| {
            let source = source.map(|(is_dir, contents_only)| CopySource {
                name: "src".into(),
                is_dir,
                contents_only,
            });
            let target = CopyToTarget { path: path.into(), source, keep_owners: false };
            destination(&root, &target).map(|(dir, rename)| {
                let rename = rename.map(|(_, to)| String::from_utf8(to).unwrap());
                (dir.to_str().unwrap().to_owned(), rename)
            })
        };
        let (file, dir, contents) = (Some((false, false)), Some((true, false)), Some((true, true)));

        assert_eq!(go("/dir", file).unwrap(), ("/dir".into(), None));
        assert_eq!(go("/dir/", dir).unwrap(), ("/dir".into(), None));
        assert_eq!(go("/dir", contents).unwrap(), ("/dir".into(), Some(String::new())));
        assert_eq!(go("/file", file).unwrap(), ("/".into(), Some("file".into())));
        assert_eq!(go("/dir/new", file).unwrap(), ("/dir".into(), Some("new".into())));
        assert_eq!(go("/dir/new/", dir).unwrap(), ("/dir".into(), Some("new".into())));
        assert_eq!(go("/new", contents).unwrap(), ("/".into(), Some("new".into())));
        assert_eq!(go("/dir", None).unwrap(), ("/dir".into(), None));

        assert!(matches!(go("/file", dir), Err(FilesError::DirectoryOverFile { .. })));
        assert!(matches!(go("/file/", file), Err(FilesError::NotADirectory { .. })));
        assert!(matches!(go("/file", None), Err(FilesError::NotADirectory { .. })));
        assert!(matches!(go("/new/", file), Err(FilesError::NotFound { .. })));
        assert!(matches!(go("/no/new", file), Err(FilesError::NotFound { .. })));
        assert!(matches!(go("/no", None), Err(FilesError::NotFound { .. })));
    }
}
