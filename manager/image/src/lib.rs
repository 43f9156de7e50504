//! References, manifests, registries; pull, unpack, import.
//!
//! ```text
//! Images ── resolve, list, tag, remove ──▶ keg-store
//!   │
//!   ├── pull ──▶ RegistryClient ──▶ bytes ──▶ blob (hash, write) ──▶ inflate ──▶ diff id, extract
//!   │                                          one stream per layer, layers in parallel
//!   └── import ─▶ tar ──▶ the same ──▶ an image of one layer
//! ```
//!
//! # Invariants
//! - Nothing that a registry or an archive says is believed: sizes and digests are verified, documents
//!   have limits, and a path in an archive is resolved below the layer's directory by the kernel.
//! - A name is given last: an image that has one is whole.
//! - Credentials go to the host that they are for, and never into a log or an error.

mod attested;
mod changes;
mod commit;
mod compression;
mod config_comment;
mod credentials;
pub mod diff;
mod download;
pub mod extract;
mod feed;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod history;
mod images;
mod implicit;
mod import;
mod layer;
mod load;
mod locks;
mod loose;
pub mod manifest;
pub mod media_type;
mod new_layer;
mod parts;
mod pipeline;
mod platform;
mod prepared;
mod progress;
mod prune;
mod pull;
mod push;
mod record;
mod reference;
mod referrers;
pub mod registry;
mod room;
mod save;
mod shared;
mod short_names;
mod stack;
mod standing;
mod transfer;
mod unpack;
mod variants;

#[cfg(test)]
mod testing;

pub use attested::Listed;
pub use changes::ChangeError;
pub use commit::{CommitError, CommitRequest};
pub use config_comment::config_comment;
pub use credentials::Credentials;
pub use download::DownloadError;
pub use history::HistoryStep;
pub use images::{ImageError, ImageUser, Images, Removed};
pub use import::{ImportError, ImportRequest};
pub use layer::LayerError;
pub use load::{LoadError, Loaded};
pub use loose::{Artifact, LooseLayer};
pub use new_layer::{ImageLease, LayerSource, NewLayer, NewLayerError};
pub use platform::{Platform, PlatformError};
pub use progress::{LayerPhase, Progress, PullEvent};
pub use prune::{PruneRequest, Pruned};
pub use pull::{Platforms, PullError, PullRequest, Pulled};
pub use push::{PushError, PushRequest, Pushed};
pub use record::ImageRecord;
pub use reference::{DEFAULT_DOMAIN, Reference, ReferenceError};
pub use referrers::{Referrers, ReferrersRequest};
pub use save::{SaveError, SaveRequest};
pub use shared::ImagesOptions;
pub use short_names::{ShortNameError, ShortNamePolicy, ShortNames};
pub use standing::NamedImage;
pub use variants::Variant;
