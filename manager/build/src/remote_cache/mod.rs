//! Build caches that travel: results of this machine's builds for others, and theirs for this one.
//!
//! ```text
//! --cache-to   results of the build ─▶ CacheConfig + blobs of layers ─┬▶ registry: a manifest, or an index
//!                                                                     ├▶ directory: an OCI layout
//!                                                                     └▶ the image's configuration
//! --cache-from CacheConfig ─▶ key of a step ─▶ blob, fetched when a step asks for it ─▶ a layer here
//! ```
//!
//! The documents are BuildKit's (`application/vnd.buildkit.cacheconfig.v0`, `moby.buildkit.cache.v0`), so
//! that registries, mirrors and clean-up tools treat both alike. The digests in them are of our own
//! making: neither finds the other's results, and both read past what they do not know.

mod config;
mod export;
mod import;

pub use export::CacheArchive;
pub(crate) use export::inline_records;
pub(crate) use import::Imports;
