//! What `COPY` and `ADD` copy: paths with wildcards become a list of files with their digests.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use keg_store::{Algorithm, Hasher};
use rustix::fs::FileType;

use crate::context::{ClientContext, join};
use crate::error::BuildError;
use crate::ignore::{Ignore, PathPattern};
use crate::session::{Entry, Kind};
use crate::tree::{self, Tree, TreeError};

/// Links followed on the way to one file, as in the kernel.
const MAX_LINKS: usize = 40;

/// Where sources are taken from.
#[derive(Debug, Clone)]
pub(crate) enum Files {
    /// The client's files.
    Client(Arc<ClientContext>),
    /// Files on this machine, some of them ignored.
    Tree(Arc<Tree>, Arc<Ignore>),
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ItemKind {
    Directory,
    Link {
        target: String,
    },
    /// `inode` tells names of the same file, if it has several.
    File {
        origin: Origin,
        digest: String,
        inode: Option<(u64, u64)>,
    },
    Node {
        mode: u32,
        device: u64,
    },
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In a file of its own.
    Stored(PathBuf),
    /// In the tree that the source is of.
    InTree,
    /// Here.
    Inline(Vec<u8>),
}

/// A file to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Path below the source; empty for the source itself.
    pub(crate) path: String,
    pub(crate) kind: ItemKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime_nsec: i64,
}

/// One source, with all that is in it; the source itself comes first, each directory before what it
/// holds.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Path as it is in the context or tree.
    pub(crate) path: String,
    /// Name that a file keeps in a directory.
    pub(crate) name: String,
    /// Directories that `--parents` keeps.
    pub(crate) parents: String,
    pub(crate) items: Vec<Item>,
    /// The tree that the items are in, unless they are the client's.
    pub(crate) tree: Option<Arc<Tree>>,
}

impl Source {
    pub(crate) fn is_dir(&self) -> bool {
        self.items.first().is_some_and(|item| item.kind == ItemKind::Directory)
    }

    /// A text as a file.
    pub(crate) fn inline(name: &str, text: String, mtime_nsec: i64) -> Self {
        let bytes = text.into_bytes();
        let digest = keg_store::Digest::sha256(&bytes).hex().to_owned();
        let kind = ItemKind::File { origin: Origin::Inline(bytes), digest, inode: None };
        let item = Item { path: String::new(), kind, mode: 0o644, uid: 0, gid: 0, mtime_nsec };
        Self::single(name, item)
    }

    /// A file that is stored.
    pub(crate) fn stored(name: &str, path: PathBuf, digest: &str, mtime_nsec: i64) -> Self {
        let kind =
            ItemKind::File { origin: Origin::Stored(path), digest: digest.to_owned(), inode: None };
        let item = Item { path: String::new(), kind, mode: 0o600, uid: 0, gid: 0, mtime_nsec };
        Self::single(name, item)
    }

    fn single(name: &str, item: Item) -> Self {
        Self {
            path: name.to_owned(),
            name: name.to_owned(),
            parents: String::new(),
            items: vec![item],
            tree: None,
        }
    }

    /// Adds all that matters of the source to a digest; not its times.
    pub(crate) fn hash(&self, hasher: &mut Hasher) {
        let mut field = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        field(if self.is_dir() { "" } else { &self.name });
        field(&self.parents);
        field(&self.items.len().to_string());
        for item in &self.items {
            field(&item.path);
            field(&format!("{:o} {} {}", item.mode, item.uid, item.gid));
            match &item.kind {
                ItemKind::Directory => field("directory"),
                ItemKind::Link { target } => {
                    field("link");
                    field(target);
                }
                ItemKind::File { digest, .. } => {
                    field("file");
                    field(digest);
                }
                ItemKind::Node { mode, device } => field(&format!("node {mode:o} {device}")),
            }
        }
    }
}

/// Takes `.`, `..` and needless slashes out of a path; above the root is the root.
pub(crate) fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    kept.join("/")
}

fn has_wildcard(path: &str) -> bool {
    path.contains(['*', '?', '[', '\\'])
}

impl Files {
    async fn list(&self, directory: &str) -> Result<Option<BTreeMap<String, Kind>>, BuildError> {
        match self {
            Self::Client(context) => Ok(context.list(directory).await?.map(|names| {
                names.values().map(|entry| (entry.name.clone(), entry.kind)).collect()
            })),
            Self::Tree(tree, _) => {
                let names = match tree.open_dir(directory) {
                    Ok(dir) => tree::names(dir.as_fd()),
                    Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
                    Err(errno) => Err(errno),
                };
                let names = names.map_err(TreeError::io("list", directory))?;
                Ok(Some(
                    names.into_iter().map(|name| (name.name.clone(), kind_of(&name))).collect(),
                ))
            }
        }
    }

    fn ignores(&self, path: &str) -> bool {
        match self {
            Self::Client(context) => context.ignores(path),
            Self::Tree(_, ignore) => ignore.ignores(path),
        }
    }

    /// Returns the paths that a source stands for, sorted. One without wildcards stands for itself,
    /// whether it exists or not.
    pub(crate) async fn expand(&self, pattern: &str) -> Result<Vec<String>, BuildError> {
        let pattern = clean(pattern);
        if !has_wildcard(&pattern) {
            return Ok(vec![pattern]);
        }
        let malformed = |source| BuildError::Pattern { pattern: pattern.clone(), source };
        let mut found = vec![String::new()];
        let components: Vec<&str> = pattern.split('/').collect();
        for (index, component) in components.iter().enumerate() {
            if *component == "**" {
                return self.expand_deep(found, &components[index..], &pattern).await;
            }
            let mut next = Vec::new();
            let compiled = if has_wildcard(component) {
                Some(PathPattern::parse(component).map_err(malformed)?)
            } else {
                None
            };
            for directory in &found {
                let Some(names) = self.list(directory).await? else { continue };
                for name in names.keys() {
                    let fits = match &compiled {
                        Some(pattern) => pattern.matches(name),
                        None => name == component,
                    };
                    if fits {
                        next.push(join(directory, name));
                    }
                }
            }
            found = next;
        }
        found.retain(|path| !self.ignores(path));
        Ok(found)
    }

    /// Matches the rest of a pattern that begins with `**` against all that is below.
    async fn expand_deep(
        &self,
        starts: Vec<String>,
        rest: &[&str],
        pattern: &str,
    ) -> Result<Vec<String>, BuildError> {
        let compiled = PathPattern::parse(&rest.join("/"))
            .map_err(|source| BuildError::Pattern { pattern: pattern.to_owned(), source })?;
        let mut found = Vec::new();
        for start in starts {
            let mut pending = vec![String::new()];
            while let Some(below) = pending.pop() {
                let Some(names) = self.list(&join(&start, &below)).await? else { continue };
                for (name, kind) in names {
                    let path = join(&below, &name);
                    if compiled.matches(&path) {
                        found.push(join(&start, &path));
                    }
                    if kind == Kind::Directory {
                        pending.push(path);
                    }
                }
            }
        }
        found.retain(|path| !self.ignores(path));
        found.sort();
        Ok(found)
    }

    /// Collects a source with all that is in it. `has_digests`: whether files of a tree are hashed.
    pub(crate) async fn select(
        &self,
        path: &str,
        exclude: &Arc<Ignore>,
        has_digests: bool,
    ) -> Result<Source, BuildError> {
        match self {
            Self::Client(context) => select_from_client(context, path, exclude).await,
            Self::Tree(tree, ignore) => {
                let (tree, ignore, exclude) =
                    (Arc::clone(tree), Arc::clone(ignore), Arc::clone(exclude));
                let path = path.to_owned();
                tokio::task::spawn_blocking(move || {
                    select_from_tree(&tree, &path, &ignore, &exclude, has_digests)
                })
                .await
                .map_err(|source| BuildError::Panicked { source })?
            }
        }
    }
}

fn kind_of(name: &tree::Name) -> Kind {
    match name.file_type() {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    }
}

fn base_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// Follows links in the client's files; they lead nowhere but into the context.
async fn resolve(
    context: &ClientContext,
    path: &str,
) -> Result<Option<(String, Option<Entry>)>, BuildError> {
    let mut pending: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut at = String::new();
    let mut entry = None;
    let mut links = 0;
    while let Some(component) = pending.pop() {
        match component.as_str() {
            "" | "." => continue,
            ".." => {
                at = at.rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap_or_default();
                entry = None;
                continue;
            }
            _ => {}
        }
        let Some(names) = context.list(&at).await? else { return Ok(None) };
        let Some(found) = names.get(&component) else { return Ok(None) };
        if found.kind == Kind::Link {
            links += 1;
            if links > MAX_LINKS {
                return Err(BuildError::LinkLoop { path: path.to_owned() });
            }
            if found.link.starts_with('/') {
                at = String::new();
            }
            entry = None;
            pending.extend(found.link.split('/').rev().map(str::to_owned));
            continue;
        }
        entry = Some(found.clone());
        at = join(&at, &component);
    }
    Ok(Some((at, entry)))
}

async fn select_from_client(
    context: &ClientContext,
    path: &str,
    exclude: &Ignore,
) -> Result<Source, BuildError> {
    // What is ignored was not listed.
    let missing = || {
        let is_ignored = context.ignores(&clean(path));
        BuildError::NoSource { path: path.to_owned(), is_ignored }
    };
    let (resolved, entry) = resolve(context, path).await?.ok_or_else(missing)?;
    let is_dir = entry.as_ref().is_none_or(|entry| entry.kind == Kind::Directory);
    if !resolved.is_empty() && !is_dir && context.ignores(&resolved) {
        return Err(BuildError::NoSource { path: path.to_owned(), is_ignored: true });
    }
    let mut found: Vec<(String, String, Option<Entry>)> =
        vec![(String::new(), resolved.clone(), entry)];
    if is_dir {
        if context.list(&resolved).await?.is_none() {
            return Err(missing());
        }
        context.list_below(&resolved).await?;
        collect(context, &resolved, "", exclude, &mut found).await?;
    }
    let files: Vec<(String, Entry)> = found
        .iter()
        .filter_map(|(_, path, entry)| {
            entry
                .clone()
                .filter(|entry| entry.kind == Kind::File)
                .map(|entry| (path.clone(), entry))
        })
        .collect();
    let digests = context.digests(&files).await?;
    let items = found
        .into_iter()
        .map(|(below, path, entry)| {
            let kind = match &entry {
                Some(entry) if entry.kind == Kind::Link => {
                    ItemKind::Link { target: entry.link.clone() }
                }
                Some(entry) if entry.kind == Kind::File => {
                    let digest = digests.get(&path).cloned().unwrap_or_default();
                    let origin = Origin::Stored(context.stored(&digest));
                    ItemKind::File { origin, digest, inode: None }
                }
                _ => ItemKind::Directory,
            };
            Item {
                path: below,
                kind,
                mode: entry.as_ref().map_or(0o755, |entry| entry.mode & 0o7777),
                uid: 0,
                gid: 0,
                mtime_nsec: entry.map_or(0, |entry| entry.mtime_nsec),
            }
        })
        .collect();
    Ok(Source {
        name: base_name(path),
        path: path.to_owned(),
        parents: String::new(),
        items,
        tree: None,
    })
}

/// Adds what is below a directory; directories that are ignored only if something in them is not.
async fn collect(
    context: &ClientContext,
    directory: &str,
    below: &str,
    exclude: &Ignore,
    found: &mut Vec<(String, String, Option<Entry>)>,
) -> Result<(), BuildError> {
    let Some(names) = context.list(directory).await? else { return Ok(()) };
    for entry in names.values() {
        let (path, relative) = (join(directory, &entry.name), join(below, &entry.name));
        if entry.kind != Kind::Directory {
            if !exclude.ignores(&relative) {
                found.push((relative, path, Some(entry.clone())));
            }
            continue;
        }
        if exclude.ignores_all_below(&relative) {
            continue;
        }
        let at = found.len();
        found.push((relative.clone(), path.clone(), Some(entry.clone())));
        Box::pin(collect(context, &path, &relative, exclude, found)).await?;
        let is_left_out = context.ignores(&path) || exclude.ignores(&relative);
        if is_left_out && found.len() == at + 1 {
            found.pop();
        }
    }
    Ok(())
}

/// Collects all of a tree, with digests. Blocks.
pub(crate) fn select_all(tree: &Arc<Tree>) -> Result<Source, BuildError> {
    select_from_tree(tree, "", &Ignore::default(), &Ignore::default(), true)
}

fn select_from_tree(
    tree: &Arc<Tree>,
    path: &str,
    ignore: &Ignore,
    exclude: &Ignore,
    has_digests: bool,
) -> Result<Source, BuildError> {
    let stat = tree.stat(path).map_err(TreeError::io("look at", path))?;
    let stat =
        stat.ok_or_else(|| BuildError::NoSource { path: path.to_owned(), is_ignored: false })?;
    let mut walk = Walk { tree, has_digests, ignore, exclude, items: Vec::new() };
    let name = tree::Name { name: base_name(path), stat };
    walk.add(path, "", &name, None)?;
    Ok(Source {
        name: base_name(path),
        path: path.to_owned(),
        parents: String::new(),
        items: walk.items,
        tree: Some(Arc::clone(tree)),
    })
}

struct Walk<'a> {
    tree: &'a Tree,
    has_digests: bool,
    ignore: &'a Ignore,
    exclude: &'a Ignore,
    items: Vec<Item>,
}

impl Walk<'_> {
    fn add(
        &mut self,
        path: &str,
        below: &str,
        name: &tree::Name,
        parent: Option<std::os::fd::BorrowedFd<'_>>,
    ) -> Result<(), TreeError> {
        let stat = &name.stat;
        let item = |kind| Item {
            path: below.to_owned(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime_nsec: stat
                .st_mtime
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::try_from(stat.st_mtime_nsec).unwrap_or_default()),
        };
        let kind = match name.file_type() {
            FileType::Directory => {
                self.items.push(item(ItemKind::Directory));
                return self.add_below(path, below);
            }
            FileType::Symlink => {
                let parent = parent.ok_or(rustix::io::Errno::LOOP);
                let target = parent.and_then(|parent| tree::read_link(parent, &name.name));
                ItemKind::Link { target: target.map_err(TreeError::io("read the link", path))? }
            }
            FileType::RegularFile => ItemKind::File {
                origin: Origin::InTree,
                digest: if self.has_digests { self.hash(path)? } else { String::new() },
                inode: (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino)),
            },
            FileType::Socket => return Ok(()),
            _ => ItemKind::Node { mode: stat.st_mode, device: stat.st_rdev },
        };
        self.items.push(item(kind));
        Ok(())
    }

    fn add_below(&mut self, path: &str, below: &str) -> Result<(), TreeError> {
        let dir = self.tree.open_dir(path).map_err(TreeError::io("open", path))?;
        let names = tree::names(dir.as_fd()).map_err(TreeError::io("list", path))?;
        for name in names {
            let (inner, relative) = (join(path, &name.name), join(below, &name.name));
            let is_dir = name.file_type() == FileType::Directory;
            let is_left_out = self.ignore.ignores(&inner) || self.exclude.ignores(&relative);
            let all =
                self.ignore.ignores_all_below(&inner) || self.exclude.ignores_all_below(&relative);
            if (is_dir && all) || (!is_dir && is_left_out) {
                continue;
            }
            let at = self.items.len();
            self.add(&inner, &relative, &name, Some(dir.as_fd()))?;
            if is_left_out && self.items.len() == at + 1 {
                self.items.pop();
            }
        }
        Ok(())
    }

    fn hash(&self, path: &str) -> Result<String, TreeError> {
        use std::io::Read;

        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
        let fd = self.tree.open(path, flags).map_err(TreeError::io("open", path))?;
        let mut file = std::fs::File::from(fd);
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let length = file
                .read(&mut buffer)
                .map_err(|source| TreeError::Content { path: path.to_owned(), source })?;
            if length == 0 {
                return Ok(hasher.finish().hex().to_owned());
            }
            hasher.update(&buffer[..length]);
        }
    }
}
