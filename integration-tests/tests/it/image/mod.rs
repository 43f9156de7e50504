//! Images by `keg` and kegd: registries that work, registries that do not, and hostile layers.

mod bad_registry;
mod layers;
mod pull;
