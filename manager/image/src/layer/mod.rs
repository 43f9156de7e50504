//! Layers: a tar archive, perhaps compressed, becomes the directory of a snapshot
//! (OCI image-spec, layer.md).
//!
//! ```text
//! blob ─▶ Decompressor ─▶ unpack: tar parser ─▶ EntryPath ─▶ LayerRoot (openat2) ─▶ files, whiteouts
//! ```
//!
//! # Invariants
//! - The archive is hostile. A name in it is cleaned to an [`EntryPath`](path::EntryPath), resolved
//!   below the layer's root by the kernel, and used as (directory descriptor, one component); a symbolic
//!   link of the archive can lead to another place of the layer, never out of it.
//! - Nothing is followed in the last component, and nothing is read from the host.
//! - Memory does not grow with the size of files or headers; entries are counted.
//! - Attributes that steer overlayfs itself are never taken from an archive.

mod apply;
mod attributes;
mod decompress;
mod error;
mod header;
mod path;
mod root;
mod sparse;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::Path;

pub use decompress::{Compression, DecompressError, Decompressor};
pub use error::UnpackError;

/// How deletions of lower layers are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// As overlayfs reads them: a character device 0:0, and the attribute `trusted.overlay.opaque`.
    Overlay,
    /// As overlayfs reads them with `userxattr`: the attribute is `user.overlay.opaque`.
    OverlayUser,
    /// By deleting: the directory holds a copy of the lower layers.
    Delete,
}

/// What is allowed to an archive.
#[derive(Debug, Clone)]
pub struct UnpackOptions {
    /// How deletions are recorded.
    pub whiteouts: Whiteouts,
    /// Entries at most.
    pub max_entries: u64,
    /// Bytes of file content at most, holes not counted.
    pub max_bytes: u64,
    /// Bytes of headers of one entry at most, long names and PAX records included.
    pub max_header_bytes: u64,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self {
            whiteouts: Whiteouts::Overlay,
            max_entries: 10_000_000,
            max_bytes: 1 << 40,
            max_header_bytes: 1 << 20,
        }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of file content written.
    pub bytes: u64,
    /// Extended attributes that the file system does not hold; the files are there without them.
    pub attributes_left_out: u64,
}

/// Unpacks the archive (plain tar) that `reader` yields into the directory `root`.
///
/// Reads up to the end of the archive's last entry; what follows it, padding included, is left in
/// `reader`. Nothing is synced: committing the snapshot does that.
///
/// # Errors
/// [`UnpackError`]: the directory then holds a part of the layer and is to be thrown away.
pub fn unpack(
    reader: impl Read,
    root: &Path,
    options: &UnpackOptions,
) -> Result<Unpacked, UnpackError> {
    apply::Unpacker::new(root, options)?.run(reader)
}
