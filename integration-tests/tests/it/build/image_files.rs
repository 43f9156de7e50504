//! The files of an image as a table, read from archives of layers or from overlayfs's directories.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// A name in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    kind: char,
    /// Permissions; of links, which have none, 0.
    mode: u32,
    owner: (u64, u64),
    target: String,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    None,
    Digest(String),
    /// In the base's archive, from an offset on so many bytes.
    InBase(u64, u64),
}

/// Path → what is there.
#[derive(Debug, Clone, Default)]
pub(super) struct ImageFiles(BTreeMap<String, Entry>);

impl ImageFiles {
    /// Reads the archive of a base's only layer; what its files hold is read when it matters.
    pub(super) fn of_base(layer: &Path) -> Self {
        let mut files = Self::default();
        files.add_archive(File::open(layer).unwrap(), true);
        files
    }

    /// Puts a layer on top, given as an archive.
    pub(super) fn add_layer(&mut self, layer: impl Read) {
        self.add_archive(layer, false);
    }

    fn add_archive(&mut self, layer: impl Read, is_base: bool) {
        let mut archive = tar::Archive::new(layer);
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
            if let Some(hidden) = name.strip_prefix(".wh.") {
                let hidden = if hidden == ".wh..opq" { "" } else { hidden };
                removed.push(format!("{directory}/{hidden}").trim_start_matches('/').to_owned());
                continue;
            }
            let header = entry.header();
            let kind = match header.entry_type() {
                tar::EntryType::Directory => 'd',
                tar::EntryType::Symlink => 'l',
                tar::EntryType::Link => 'h',
                tar::EntryType::Fifo => 'p',
                tar::EntryType::Char => 'c',
                tar::EntryType::Block => 'b',
                _ => 'f',
            };
            let mode = if kind == 'l' { 0 } else { header.mode().unwrap() & 0o7777 };
            let owner = (header.uid().unwrap(), header.gid().unwrap());
            let target = entry.link_name().unwrap().map(|target| target.display().to_string());
            let content = match kind {
                'f' if is_base => Content::InBase(entry.raw_file_position(), entry.size()),
                'f' => Content::Digest(digest(&mut entry)),
                _ => Content::None,
            };
            let target = target.unwrap_or_default();
            added.push((path, Entry { kind, mode, owner, target, content }));
        }
        self.apply(added, &removed);
    }

    /// Puts a layer on top, given as the directory that overlayfs keeps of it.
    pub(super) fn add_directory(&mut self, layer: &Path) {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        let mut pending = vec![String::new()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(layer.join(&directory)).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let path = format!("{directory}/{name}").trim_start_matches('/').to_owned();
                let metadata = entry.metadata().unwrap();
                let file_type = metadata.file_type();
                if file_type.is_char_device() && metadata.rdev() == 0 {
                    removed.push(path);
                    continue;
                }
                let kind = match file_type {
                    kind if kind.is_dir() => 'd',
                    kind if kind.is_symlink() => 'l',
                    kind if kind.is_fifo() => 'p',
                    kind if kind.is_char_device() => 'c',
                    kind if kind.is_block_device() => 'b',
                    _ => 'f',
                };
                let (mut target, mut content) = (String::new(), Content::None);
                match kind {
                    'd' => {
                        if is_opaque(&entry.path()) {
                            removed.push(format!("{path}/"));
                        }
                        pending.push(path.clone());
                    }
                    'l' => target = fs::read_link(entry.path()).unwrap().display().to_string(),
                    'f' => {
                        content = Content::Digest(digest(&mut File::open(entry.path()).unwrap()));
                    }
                    _ => {}
                }
                let mode = if kind == 'l' { 0 } else { metadata.mode() & 0o7777 };
                let owner = (metadata.uid().into(), metadata.gid().into());
                added.push((path, Entry { kind, mode, owner, target, content }));
            }
        }
        self.apply(added, &removed);
    }

    /// Takes away what a layer hides, a path with a slash at its end for all that is below, and adds
    /// what it has.
    fn apply(&mut self, added: Vec<(String, Entry)>, removed: &[String]) {
        let files = &mut self.0;
        for path in removed {
            files.retain(|other, _| {
                let rest = other.strip_prefix(path.as_str());
                let is_whole = path.ends_with('/') || path.is_empty();
                !rest.is_some_and(|rest| is_whole || rest.is_empty() || rest.starts_with('/'))
            });
        }
        for (path, mut entry) in added {
            if path.is_empty() || path == "." {
                continue;
            }
            if entry.kind == 'h' {
                let target = entry.target.trim_start_matches("./").trim_start_matches('/');
                let linked = files.get(target);
                entry = linked.unwrap_or_else(|| panic!("{path} links to {target}")).clone();
            }
            if entry.kind != 'd' && files.get(&path).is_some_and(|before| before.kind == 'd') {
                let below = format!("{path}/");
                files.retain(|other, _| !other.starts_with(&below));
            }
            files.insert(path, entry);
        }
    }

    /// Tells how two images on the same base differ, a line each; `left_out` are paths that nobody asks for.
    pub(super) fn differences(&self, theirs: &Self, base: &Path, left_out: &[&str]) -> Vec<String> {
        let resolved = |content: &Content| match content {
            Content::InBase(offset, size) => {
                let mut file = File::open(base).unwrap();
                file.seek(SeekFrom::Start(*offset)).unwrap();
                Content::Digest(digest(&mut file.take(*size)))
            }
            other => other.clone(),
        };
        let full = |entry: &Entry| Entry { content: resolved(&entry.content), ..entry.clone() };
        let mut lines = Vec::new();
        let paths: BTreeSet<&String> = self.0.keys().chain(theirs.0.keys()).collect();
        for path in paths.into_iter().filter(|path| !left_out.contains(&path.as_str())) {
            match (self.0.get(path), theirs.0.get(path)) {
                (Some(mine), Some(theirs)) if mine == theirs => {}
                (Some(mine), Some(theirs)) => {
                    if full(mine) != full(theirs) {
                        lines.push(format!("{path}: {mine:?}, and not {theirs:?}"));
                    }
                }
                (mine, _) => {
                    let whose = if mine.is_some() { "Keg" } else { "buildah" };
                    lines.push(format!("{path}: only with {whose}"));
                }
            }
        }
        lines
    }
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0_u8; 1];
    let read = rustix::fs::lgetxattr(directory, "trusted.overlay.opaque", &mut value[..]);
    read.is_ok() && value == *b"y"
}

fn digest(from: &mut impl Read) -> String {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).unwrap();
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
