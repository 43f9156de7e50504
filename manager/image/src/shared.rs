//! What all operations of one [`Images`](crate::Images) share.

use std::sync::Arc;

use keg_store::{Namespace, Snapshotter, Store};

/// Settings of everything that is done with images.
#[derive(Debug, Clone, Default)]
pub struct ImagesOptions {}

/// The parts behind the handle.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) snapshotter: Arc<dyn Snapshotter>,
    pub(crate) ns: Namespace,
}

impl Shared {
    pub(crate) fn new(
        store: Store,
        snapshotter: Arc<dyn Snapshotter>,
        ns: Namespace,
        _options: ImagesOptions,
    ) -> Self {
        Self { store, snapshotter, ns }
    }
}
