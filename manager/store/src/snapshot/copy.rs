//! Snapshots as whole copies: slow and large, but without any demand on the kernel.

use std::os::unix::fs::chown;
use std::path::Path;

use super::copy_tree::copy_tree;
use super::dirs::make_dir;
use super::layout::{DirectorySnapshotter, Layout, Parts};
use super::{Mount, SnapshotError};
use crate::{IdRange, Store};

/// Keeps each snapshot as a complete tree; blocks are shared where the file system can.
pub type CopySnapshotter = DirectorySnapshotter<CopyLayout>;

/// A directory holds everything that the snapshot shows, with host ids.
#[derive(Debug, Clone)]
pub struct CopyLayout;

impl CopySnapshotter {
    /// Returns the snapshotter of a store.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        Self::with_layout(store, CopyLayout)
    }
}

impl Layout for CopyLayout {
    const NAME: &'static str = "copy";
    const IS_DIFFERENCE: bool = false;

    fn fill(
        &self,
        dir: &Path,
        parent: Option<&Path>,
        id_range: Option<IdRange>,
    ) -> Result<(), SnapshotError> {
        let files = dir.join("fs");
        make_dir(&files, 0o755)?;
        match (parent, id_range) {
            (Some(parent), _) => copy_tree(parent, &files, id_range),
            (None, Some(range)) => chown(&files, Some(range.base), Some(range.base))
                .map_err(SnapshotError::io("give away", &files)),
            (None, None) => Ok(()),
        }
    }

    fn mount(&self, parts: Parts) -> Mount {
        let access = if parts.is_view { "ro" } else { "rw" };
        Mount {
            type_: "bind".to_owned(),
            source: parts.files,
            options: vec!["rbind".to_owned(), access.to_owned()],
        }
    }
}
