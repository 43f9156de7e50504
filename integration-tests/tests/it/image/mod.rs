//! Images by `keg` and kegd: registries that work, and registries that do not.

mod pull;
