//! Media types: what a blob says it is (OCI image-spec, media-types.md; Docker's schema 2).

/// OCI index: manifests for several platforms.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI manifest: a configuration and layers.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, not compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker's index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Docker's manifests of before 2016, which are refused by name.
const DOCKER_SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// Layers: the base names, each of which may have `+gzip`, `.gzip` or `+zstd` behind it.
const LAYERS: [&str; 4] = [
    OCI_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// What a client accepts when it asks for a manifest.
pub const ACCEPT_MANIFESTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// Tells whether it is an index of either kind.
#[must_use]
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Tells whether it is a manifest of either kind.
#[must_use]
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Tells whether it is a configuration of either kind.
#[must_use]
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// Tells whether it is one of Docker's manifests that nobody can run any more.
#[must_use]
pub fn is_schema1(media_type: &str) -> bool {
    DOCKER_SCHEMA1.contains(&media_type)
}

/// Tells whether it is a layer in a form that can be unpacked. Which compression is used is seen
/// from the bytes: the two do not always agree in the wild.
#[must_use]
pub fn is_layer(media_type: &str) -> bool {
    LAYERS.iter().any(|base| {
        media_type
            .strip_prefix(base)
            .is_some_and(|rest| matches!(rest, "" | "+gzip" | ".gzip" | "+zstd" | ".zstd"))
    })
}

/// Returns a media type without its parameters, as it is compared.
#[must_use]
pub fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or(media_type).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_all_makers_are_known_and_others_are_not() {
        for good in [
            OCI_LAYER,
            OCI_LAYER_GZIP,
            OCI_LAYER_ZSTD,
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
        ] {
            assert!(is_layer(good), "{good}");
        }
        for bad in ["", "application/tar", OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+xz"]
        {
            assert!(!is_layer(bad), "{bad}");
        }
    }

    #[test]
    fn parameters_do_not_belong_to_the_essence() {
        assert_eq!(essence("application/json; charset=utf-8"), "application/json");
    }
}
