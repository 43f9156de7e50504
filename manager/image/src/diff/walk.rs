//! Finds what differs, name by name, in the order of the names' bytes.
//!
//! Three walks, one visitor: a tree by itself; an overlay's upper directory over the lower ones; two
//! whole trees. A directory is told before what is in it.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::FileType;

use super::node::{Attributes, Node, is_opaque, names};
use super::{ChangeKind, DiffError};

/// Longest path, in bytes: what extraction takes, and the kernel.
const MAX_PATH_BYTES: usize = 4095;

/// What is told of a path.
pub(super) struct Change<'a> {
    /// Below the root, without a slash at either end.
    pub(super) path: &'a [u8],
    pub(super) kind: ChangeKind,
    /// What is there now; nothing if it is deleted.
    pub(super) node: Option<&'a Node<'a>>,
    /// Whether it is a directory of which nothing below shows.
    pub(super) is_opaque: bool,
}

/// Takes what a walk finds.
pub(super) trait Visitor {
    /// Takes one path.
    fn visit(&mut self, change: &Change<'_>) -> Result<(), DiffError>;
}

/// Walks everything below `dir`, which is at `path`.
pub(super) fn everything(
    dir: BorrowedFd<'_>,
    path: &[u8],
    visitor: &mut dyn Visitor,
) -> Result<(), DiffError> {
    // What the kernel shows of itself are not files: they have no size, and no end.
    if is_kernels(dir) {
        return Ok(());
    }
    for name in names(dir).map_err(DiffError::read(path, "list"))? {
        let path = join(path, name.to_bytes())?;
        // What a container deletes while it is archived is not there.
        let Some(node) = look(dir, &name, &path)? else { continue };
        one(&node, &path, visitor)?;
    }
    Ok(())
}

/// Walks one name and everything below it.
pub(super) fn one(
    node: &Node<'_>,
    path: &[u8],
    visitor: &mut dyn Visitor,
) -> Result<(), DiffError> {
    let change = Change { path, kind: ChangeKind::Added, node: Some(node), is_opaque: false };
    visitor.visit(&change)?;
    if node.is_dir() {
        let dir = node.open_dir().map_err(DiffError::read(path, "open"))?;
        everything(dir.as_fd(), path, visitor)?;
    }
    Ok(())
}

/// Directories that show through at one path, uppermost first.
#[derive(Debug, Clone, Default)]
pub(super) struct Below(Vec<Rc<OwnedFd>>);

/// What shows through at a name.
enum Lower {
    Nothing,
    /// Something that is no directory, in this one.
    Leaf(Rc<OwnedFd>),
    /// Directories, the first of which is in this one.
    Directory(Rc<OwnedFd>, Below),
}

/// Walks what directories show together, as an overlay of them would.
pub(super) fn merged(
    layers: &Below,
    path: &[u8],
    visitor: &mut dyn Visitor,
) -> Result<(), DiffError> {
    for name in layers.names(path)? {
        let path = join(path, name.to_bytes())?;
        let (parent, below) = match layers.child(&name, &path)? {
            Lower::Nothing => continue,
            Lower::Leaf(parent) => (parent, None),
            Lower::Directory(parent, below) => (parent, Some(below)),
        };
        let Some(node) = look(parent.as_fd(), &name, &path)? else { continue };
        let node = Some(&node);
        visitor.visit(&Change { path: &path, kind: ChangeKind::Added, node, is_opaque: false })?;
        if let Some(below) = below {
            merged(&below, &path, visitor)?;
        }
    }
    Ok(())
}

impl Below {
    pub(super) fn new(roots: Vec<OwnedFd>) -> Self {
        Self(roots.into_iter().map(Rc::new).collect())
    }

    /// The uppermost of the directories.
    pub(super) fn top(&self) -> Option<&OwnedFd> {
        self.0.first().map(Rc::as_ref)
    }

    fn child(&self, name: &CString, path: &[u8]) -> Result<Lower, DiffError> {
        let mut found = Vec::new();
        let mut first = None;
        for layer in &self.0 {
            let Some(node) = look(layer.as_fd(), name, path)? else { continue };
            if !node.is_dir() {
                // It hides what is below, and a directory above hides it.
                if found.is_empty() && !node.is_whiteout() {
                    return Ok(Lower::Leaf(Rc::clone(layer)));
                }
                break;
            }
            let dir = node.open_dir().map_err(DiffError::read(path, "open"))?;
            let is_last = is_opaque(&dir);
            first.get_or_insert_with(|| Rc::clone(layer));
            found.push(Rc::new(dir));
            if is_last {
                break;
            }
        }
        Ok(first.map_or(Lower::Nothing, |first| Lower::Directory(first, Self(found))))
    }

    /// The names that show through.
    fn names(&self, path: &[u8]) -> Result<Vec<CString>, DiffError> {
        let mut all = Vec::new();
        for layer in &self.0 {
            all.extend(names(layer.as_ref()).map_err(DiffError::read(path, "list"))?);
        }
        all.sort();
        all.dedup();
        Ok(all)
    }
}

/// Walks an overlay's upper directory. With `tells_hidden`, each name that an opaque directory hides is
/// told as deleted; an archive says that by one mark.
pub(super) fn upper(
    dir: BorrowedFd<'_>,
    below: &Below,
    path: &[u8],
    tells_hidden: bool,
    visitor: &mut dyn Visitor,
) -> Result<(), DiffError> {
    for name in names(dir).map_err(DiffError::read(path, "list"))? {
        let path = join(path, name.to_bytes())?;
        let Some(node) = look(dir, &name, &path)? else { continue };
        let lower = below.child(&name, &path)?;
        if node.is_whiteout() {
            if !matches!(lower, Lower::Nothing) {
                visitor.visit(&deleted(&path))?;
            }
            continue;
        }
        let kind = match lower {
            Lower::Nothing => ChangeKind::Added,
            Lower::Leaf(_) | Lower::Directory(..) => ChangeKind::Modified,
        };
        let opened = match node.is_dir() {
            true => Some(node.open_dir().map_err(DiffError::read(&path, "open"))?),
            false => None,
        };
        let Some(opened) = opened else {
            visitor.visit(&Change { path: &path, kind, node: Some(&node), is_opaque: false })?;
            continue;
        };
        let (below, is_opaque) = match lower {
            Lower::Directory(_, below) if is_opaque(&opened) => (below, true),
            Lower::Directory(_, below) => (below, false),
            Lower::Nothing | Lower::Leaf(_) => (Below::default(), false),
        };
        visitor.visit(&Change { path: &path, kind, node: Some(&node), is_opaque })?;
        if is_opaque && tells_hidden {
            for name in below.names(&path)? {
                let path = join(&path, name.to_bytes())?;
                let hidden = !matches!(below.child(&name, &path)?, Lower::Nothing);
                if hidden && look(opened.as_fd(), &name, &path)?.is_none() {
                    visitor.visit(&deleted(&path))?;
                }
            }
        }
        let below = if is_opaque { Below::default() } else { below };
        upper(opened.as_fd(), &below, &path, tells_hidden, visitor)?;
    }
    Ok(())
}

/// All names of each inode that has several, by inode and by name.
#[derive(Debug, Default)]
struct Links {
    by_inode: HashMap<(u64, u64), Vec<Vec<u8>>>,
}

impl Links {
    fn of(root: BorrowedFd<'_>) -> Result<Self, DiffError> {
        let mut links = Self::default();
        everything(root, b"", &mut links)?;
        Ok(links)
    }

    /// The names that share an inode with this one, itself included.
    fn names(&self, node: &Node<'_>) -> &[Vec<u8>] {
        node.shared_inode().and_then(|inode| self.by_inode.get(&inode)).map_or(&[], Vec::as_slice)
    }
}

impl Visitor for Links {
    fn visit(&mut self, change: &Change<'_>) -> Result<(), DiffError> {
        if let Some(inode) = change.node.and_then(Node::shared_inode) {
            self.by_inode.entry(inode).or_default().push(change.path.to_vec());
        }
        Ok(())
    }
}

/// How two nodes of one name relate: whether they have the same owner.
pub(super) type SameOwner<'a> = &'a dyn Fn(&Node<'_>, &Node<'_>) -> bool;

/// Walks what differs between the trees `base` and `tree`. All names of an inode differ together,
/// since each of them is compared by what the inode is, and by its other names.
pub(super) fn trees(
    base: BorrowedFd<'_>,
    tree: BorrowedFd<'_>,
    same_owner: SameOwner<'_>,
    visitor: &mut dyn Visitor,
) -> Result<(), DiffError> {
    let mut trees = Trees {
        base_links: Links::of(base)?,
        tree_links: Links::of(tree)?,
        same_owner,
        differing: HashSet::new(),
    };
    // First what differs: a directory is told before what is in it, and often only because of that.
    trees.compare(base, tree, b"")?;
    trees.tell(base, tree, b"", visitor)
}

struct Trees<'a> {
    base_links: Links,
    tree_links: Links,
    same_owner: SameOwner<'a>,
    /// Paths of both trees at which they differ, or below which.
    differing: HashSet<Vec<u8>>,
}

impl Trees<'_> {
    /// Returns whether anything differs.
    fn compare(
        &mut self,
        base: BorrowedFd<'_>,
        tree: BorrowedFd<'_>,
        path: &[u8],
    ) -> Result<bool, DiffError> {
        let mut differs = false;
        for name in union(base, tree, path)? {
            let path = join(path, name.to_bytes())?;
            let (before, now) = (look(base, &name, &path)?, look(tree, &name, &path)?);
            let (Some(before), Some(now)) = (before, now) else {
                differs = true;
                continue;
            };
            let mut child_differs = !self.is_same(&before, &now, &path)?;
            if before.is_dir() && now.is_dir() {
                let (base, tree) = (open(&before, &path)?, open(&now, &path)?);
                child_differs |= self.compare(base.as_fd(), tree.as_fd(), &path)?;
            }
            if child_differs {
                self.differing.insert(path);
                differs = true;
            }
        }
        Ok(differs)
    }

    fn tell(
        &self,
        base: BorrowedFd<'_>,
        tree: BorrowedFd<'_>,
        path: &[u8],
        visitor: &mut dyn Visitor,
    ) -> Result<(), DiffError> {
        for name in union(base, tree, path)? {
            let path = join(path, name.to_bytes())?;
            match (look(base, &name, &path)?, look(tree, &name, &path)?) {
                (_, None) => visitor.visit(&deleted(&path))?,
                (None, Some(now)) => one(&now, &path, visitor)?,
                (Some(before), Some(now)) => {
                    if !self.differing.contains(&path) {
                        continue;
                    }
                    let kind = ChangeKind::Modified;
                    let node = Some(&now);
                    visitor.visit(&Change { path: &path, kind, node, is_opaque: false })?;
                    if !now.is_dir() {
                        continue;
                    }
                    let tree = open(&now, &path)?;
                    if before.is_dir() {
                        let base = open(&before, &path)?;
                        self.tell(base.as_fd(), tree.as_fd(), &path, visitor)?;
                    } else {
                        everything(tree.as_fd(), &path, visitor)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares two nodes by themselves, what is in a directory left out.
    fn is_same(&self, before: &Node<'_>, now: &Node<'_>, path: &[u8]) -> Result<bool, DiffError> {
        let (a, b) = (&before.stat, &now.stat);
        let same = a.st_mode == b.st_mode
            && (self.same_owner)(before, now)
            && (a.st_mtime, a.st_mtime_nsec) == (b.st_mtime, b.st_mtime_nsec)
            && xattrs(before, path)? == xattrs(now, path)?;
        if !same || now.is_dir() {
            return Ok(same);
        }
        if a.st_rdev != b.st_rdev
            || a.st_size != b.st_size
            || self.base_links.names(before) != self.tree_links.names(now)
        {
            return Ok(false);
        }
        match now.kind() {
            FileType::Symlink => {
                let target = |node: &Node<'_>| {
                    node.link_target().map_err(DiffError::read(path, "read the link"))
                };
                Ok(target(before)? == target(now)?)
            }
            // Whole seconds are what archives often have: such a time tells little.
            FileType::RegularFile if b.st_mtime_nsec == 0 => same_content(before, now, path),
            _ => Ok(true),
        }
    }
}

/// The names in two directories, sorted.
fn union(
    base: BorrowedFd<'_>,
    tree: BorrowedFd<'_>,
    path: &[u8],
) -> Result<Vec<CString>, DiffError> {
    let mut all = names(base).map_err(DiffError::read(path, "list"))?;
    all.extend(names(tree).map_err(DiffError::read(path, "list"))?);
    all.sort();
    all.dedup();
    Ok(all)
}

fn open(node: &Node<'_>, path: &[u8]) -> Result<OwnedFd, DiffError> {
    node.open_dir().map_err(DiffError::read(path, "open"))
}

fn same_content(before: &Node<'_>, now: &Node<'_>, path: &[u8]) -> Result<bool, DiffError> {
    let file = |node: &Node<'_>| node.open_file().map_err(DiffError::read(path, "open"));
    let (mut before, mut now) = (file(before)?, file(now)?);
    let (mut a, mut b) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let fill = |file: &mut File, buffer: &mut Vec<u8>| -> Result<usize, DiffError> {
            let mut filled = 0;
            while filled < buffer.len() {
                match file.read(&mut buffer[filled..]).map_err(DiffError::read(path, "read"))? {
                    0 => break,
                    count => filled += count,
                }
            }
            Ok(filled)
        };
        let (count_a, count_b) = (fill(&mut before, &mut a)?, fill(&mut now, &mut b)?);
        if a[..count_a] != b[..count_b] {
            return Ok(false);
        }
        if count_a < a.len() {
            return Ok(true);
        }
    }
}

fn look<'a>(
    dir: BorrowedFd<'a>,
    name: &'a CString,
    path: &[u8],
) -> Result<Option<Node<'a>>, DiffError> {
    Node::look(dir, name).map_err(DiffError::read(path, "look at"))
}

fn xattrs(node: &Node<'_>, path: &[u8]) -> Result<Attributes, DiffError> {
    node.xattrs().map_err(DiffError::read(path, "read the attributes of"))
}

fn deleted(path: &[u8]) -> Change<'_> {
    Change { path, kind: ChangeKind::Deleted, node: None, is_opaque: false }
}

/// Tells whether a directory is of a file system that the kernel makes up.
pub(super) fn is_kernels(dir: BorrowedFd<'_>) -> bool {
    // procfs, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, bpf (statfs(2)).
    const MAGIC: [u32; 8] = [
        0x9fa0,
        0x6265_6572,
        0x0027_e0eb,
        0x6367_7270,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
        0xcafe_4a11,
    ];
    rustix::fs::fstatfs(dir)
        .is_ok_and(|found| u32::try_from(found.f_type).is_ok_and(|magic| MAGIC.contains(&magic)))
}

/// Puts a name behind a path.
pub(super) fn join(path: &[u8], name: &[u8]) -> Result<Vec<u8>, DiffError> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    if joined.len() > MAX_PATH_BYTES {
        joined.truncate(64);
        return Err(DiffError::refused(&joined, "paths in it are longer than 4095 bytes"));
    }
    Ok(joined)
}
