//! References, manifests, registries; pull, unpack, import.
