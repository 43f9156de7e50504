//! Images by `keg` and kegd: registries that work, registries that do not, hostile layers, archives, and
//! the store behind them.

mod archive;
mod bad_registry;
mod import_url;
mod interop;
mod layers;
mod login;
mod mirrors;
mod proxies;
mod pull;
mod standing;
mod store;
mod tokens;
mod whole;
