//! Diffs: what a container or a build step changed becomes a layer's archive, or a list.
//!
//! ```text
//!  overlay's upper directory ─┐
//!  two whole trees ───────────┼─▶ walk ─▶ archive ─▶ compress ─▶ blob
//!  one tree, or a part of it ─┘      └──▶ list of changes
//! ```
//!
//! The reverse of [`extract`](crate::extract): extracting a diff gives the tree that it was made of,
//! with contents, modes, owners, times to the nanosecond, extended attributes, capabilities, hard
//! links, symbolic links, devices, FIFOs and holes. Sockets are left out. Deletions become
//! whiteouts (OCI image-spec, layer.md). The same tree gives the same bytes, compressed or not.
//!
//! # For a builder
//! After a step has run in an active snapshot, `Images::write_layer` stores the step's layer and
//! makes its snapshot, ready to be the next step's parent:
//!
//! ```text
//! write_layer(LayerSource { key, owners, .. }, parent, lease) ─▶ NewLayer { blob, diff_id, chain_id }
//! … further steps …
//! write_image(config, layers, lease) ─▶ manifest        name it, and end the lease
//! ```
//!
//! [`DiffOptions::timestamps`] makes builds reproducible: [`Timestamps::Clamp`] is what
//! `SOURCE_DATE_EPOCH` asks for, [`Timestamps::Rewrite`] what `rewrite-timestamp` does.
//!
//! # Invariants
//! - No link is followed, and nothing but directories and regular files is opened, so that a tree
//!   which somebody is writing to leads nowhere.
//! - Archives have the container's ids, never the host's ([`Owners`]).

mod archive;
mod compress;
mod error;
mod header;
mod node;
mod owners;
mod walk;

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use archive::Archiver;
use node::{Node, open_root};
use walk::{Below, Change, Visitor};

pub use compress::{LayerCompression, LayerWriter, WrittenLayer};
pub use error::DiffError;
pub use owners::{IdExtent, Owners};

/// Which times the files of an archive have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timestamps {
    /// Their own.
    #[default]
    Keep,
    /// Their own, but none later than this.
    Clamp {
        /// Seconds since 1970.
        latest_secs: i64,
    },
    /// All the same.
    Rewrite {
        /// Seconds since 1970.
        secs: i64,
    },
}

/// How to archive.
#[derive(Debug, Clone, Default)]
pub struct DiffOptions {
    /// How ids on the disk relate to ids in the archive.
    pub owners: Owners,
    /// Times in the archive.
    pub timestamps: Timestamps,
    /// Writes holes out, for readers that do not know them.
    pub fills_holes: bool,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It was there, and is another, or has other attributes, or something in it changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One line of a list of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathChange {
    /// What happened.
    pub kind: ChangeKind,
    /// Where, from the root of the tree on.
    pub path: PathBuf,
}

/// Writes what the overlay's directory `upper` changes of the directories `lower`, uppermost first,
/// as the archive of a layer.
///
/// # Errors
/// [`DiffError`]; `output` has then got a part of the archive.
pub fn diff_upper<W: Write>(
    upper: &Path,
    lower: &[PathBuf],
    options: &DiffOptions,
    output: W,
) -> Result<W, DiffError> {
    let root = open_root(upper)?;
    let below = open_all(lower)?;
    let mut archiver = Archiver::layer(output, options);
    if let Some(node) = changed_root(root.as_fd(), &below, options)? {
        archiver.root(&node)?;
    }
    walk::upper(root.as_fd(), &below, b"", false, &mut archiver)?;
    archiver.finish()
}

/// Writes what differs between the whole trees `base` and `tree` as the archive of a layer: for
/// snapshots that are copies. `base` has the archive's ids, `tree` those of the disk.
///
/// # Errors
/// [`DiffError`]; `output` has then got a part of the archive.
pub fn diff_trees<W: Write>(
    base: &Path,
    tree: &Path,
    options: &DiffOptions,
    output: W,
) -> Result<W, DiffError> {
    let (base, tree) = (open_root(base)?, open_root(tree)?);
    let mut archiver = Archiver::layer(output, options);
    let below = Below::new(vec![base]);
    if let Some(node) = changed_root(tree.as_fd(), &below, options)? {
        archiver.root(&node)?;
    }
    if let Some(base) = below.top() {
        let same = |before: &Node<'_>, now: &Node<'_>| same_owner(before, now, options);
        walk::trees(base.as_fd(), tree.as_fd(), &same, &mut archiver)?;
    }
    archiver.finish()
}

/// Writes whole trees as one archive, without their roots and without any mark, each below the directory that is named beside it, if one is; it
/// has no entry of its own.
///
/// # Errors
/// [`DiffError`]; `output` has then got a part of the archive.
pub fn archive_trees<W: Write>(
    trees: &[(BorrowedFd<'_>, Option<&str>)],
    options: &DiffOptions,
    mut output: W,
) -> Result<W, DiffError> {
    for (root, name) in trees {
        let prefix = name.map(|name| format!("{name}/")).unwrap_or_default();
        let mut archiver = Archiver::files(output, options, Some((b"", prefix.as_bytes())));
        walk::everything(*root, b"", &mut archiver)?;
        output = archiver.into_output();
    }
    header::end(&mut output).map_err(DiffError::write)?;
    Ok(output)
}

/// Writes what the directories `layers`, uppermost first, show together, with a comment on the
/// whole archive.
///
/// # Errors
/// [`DiffError`]; `output` has then got a part of the archive.
pub fn archive_merged<W: Write>(
    layers: &[PathBuf],
    comment: Option<&[u8]>,
    options: &DiffOptions,
    mut output: W,
) -> Result<W, DiffError> {
    if let Some(comment) = comment {
        header::global_comment(&mut output, comment).map_err(DiffError::write)?;
    }
    let mut archiver = Archiver::files(output, options, None);
    walk::merged(&open_all(layers)?, b"", &mut archiver)?;
    archiver.finish()
}

/// Tells whether a directory is of a file system that the kernel makes up, such as procfs: what is
/// there is no file that could be copied.
#[must_use]
pub fn is_of_the_kernel(dir: BorrowedFd<'_>) -> bool {
    walk::is_kernels(dir)
}

/// Writes what `name` is in the directory `parent`, with all that is below it, as an archive in
/// which it is called `called`. `None` for the name is the directory itself.
///
/// # Errors
/// [`DiffError`]; `output` has then got a part of the archive.
pub fn archive_path<W: Write>(
    parent: BorrowedFd<'_>,
    name: Option<&CStr>,
    called: &[u8],
    options: &DiffOptions,
    output: W,
) -> Result<W, DiffError> {
    let given = name.map_or(&b"."[..], CStr::to_bytes);
    let mut archiver = Archiver::files(output, options, Some((given, called)));
    let node = Node::look(parent, name.unwrap_or(c"."))
        .and_then(|node| node.ok_or(rustix::io::Errno::NOENT))
        .map_err(DiffError::read(given, "look at"))?;
    walk::one(&node, given, &mut archiver)?;
    archiver.finish()
}

/// Lists what the overlay's directory `upper` changes of the directories `lower`, uppermost first.
/// A directory in which something changed is listed too.
///
/// # Errors
/// [`DiffError`].
pub fn changes_of_upper(upper: &Path, lower: &[PathBuf]) -> Result<Vec<PathChange>, DiffError> {
    let root = open_root(upper)?;
    let mut list = List::default();
    walk::upper(root.as_fd(), &open_all(lower)?, b"", true, &mut list)?;
    Ok(list.0)
}

/// Lists what differs between the whole trees `base` and `tree`.
///
/// # Errors
/// [`DiffError`].
pub fn changes_of_trees(
    base: &Path,
    tree: &Path,
    owners: &Owners,
) -> Result<Vec<PathChange>, DiffError> {
    let (base, tree) = (open_root(base)?, open_root(tree)?);
    let options = DiffOptions { owners: owners.clone(), ..DiffOptions::default() };
    let same = |before: &Node<'_>, now: &Node<'_>| same_owner(before, now, &options);
    let mut list = List::default();
    walk::trees(base.as_fd(), tree.as_fd(), &same, &mut list)?;
    Ok(list.0)
}

#[derive(Default)]
struct List(Vec<PathChange>);

impl Visitor for List {
    fn visit(&mut self, change: &Change<'_>) -> Result<(), DiffError> {
        use std::os::unix::ffi::OsStrExt;

        let path = Path::new("/").join(std::ffi::OsStr::from_bytes(change.path));
        self.0.push(PathChange { kind: change.kind, path });
        Ok(())
    }
}

fn open_all(paths: &[PathBuf]) -> Result<Below, DiffError> {
    Ok(Below::new(paths.iter().map(|path| open_root(path)).collect::<Result<_, _>>()?))
}

/// Returns the root if it looks otherwise than the one below, or than a new one if there is none.
fn changed_root<'a>(
    root: BorrowedFd<'a>,
    below: &Below,
    options: &DiffOptions,
) -> Result<Option<Node<'a>>, DiffError> {
    let look = |dir: BorrowedFd<'a>| {
        Node::look(dir, c".")
            .and_then(|node| node.ok_or(rustix::io::Errno::NOENT))
            .map_err(DiffError::read(b".", "look at"))
    };
    let now = look(root)?;
    let xattrs =
        |node: &Node<'_>| node.xattrs().map_err(DiffError::read(b".", "read the attributes of"));
    let is_same = match below.top() {
        Some(top) => {
            let before = Node::look(top.as_fd(), c".")
                .and_then(|node| node.ok_or(rustix::io::Errno::NOENT))
                .map_err(DiffError::read(b".", "look at"))?;
            before.stat.st_mode == now.stat.st_mode
                && same_owner(&before, &now, options)
                && xattrs(&before)? == xattrs(&now)?
        }
        None => {
            now.stat.st_mode & 0o7777 == 0o755
                && options.owners.user_to_archive(now.stat.st_uid) == 0
                && options.owners.group_to_archive(now.stat.st_gid) == 0
                && xattrs(&now)?.is_empty()
        }
    };
    Ok((!is_same).then_some(now))
}

/// Compares owners, those of what is below being the archive's already.
fn same_owner(before: &Node<'_>, now: &Node<'_>, options: &DiffOptions) -> bool {
    before.stat.st_uid == options.owners.user_to_archive(now.stat.st_uid)
        && before.stat.st_gid == options.owners.group_to_archive(now.stat.st_gid)
}

#[cfg(test)]
mod tests;
