//! How much a directory takes.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes and inodes of a snapshot, its parents not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of the files' contents: hard links once, holes not.
    pub size_bytes: u64,
    /// Files, directories and everything else that has an inode.
    pub inodes: u64,
}

/// Size of the blocks that `st_blocks` counts.
const STAT_BLOCK_BYTES: u64 = 512;

/// Measures the tree at `dir`, the directory itself included.
///
/// # Errors
/// If something in it cannot be looked at; what vanishes meanwhile is not counted.
pub fn measure(dir: &Path) -> io::Result<Usage> {
    let mut usage = Usage { size_bytes: 0, inodes: 1 };
    let mut seen = HashSet::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(pending_dir) = pending.pop() {
        let entries = match fs::read_dir(&pending_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && pending_dir != dir => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // A container may write while it is measured.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if metadata.is_dir() {
                pending.push(entry.path());
            } else if metadata.nlink() > 1 && !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            usage.inodes += 1;
            if metadata.is_file() {
                usage.size_bytes += metadata.len().min(metadata.blocks() * STAT_BLOCK_BYTES);
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once_and_holes_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), vec![1; 10_000]).unwrap();
        fs::hard_link(path("a"), path("b")).unwrap();
        fs::create_dir(path("d")).unwrap();
        fs::File::create(path("d/hole")).unwrap().set_len(1 << 30).unwrap();

        let usage = measure(dir.path()).unwrap();

        assert_eq!(usage, Usage { size_bytes: 10_000, inodes: 4 });
    }
}
