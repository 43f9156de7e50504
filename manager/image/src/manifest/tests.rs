//! What is made of documents, good and bad.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn descriptor(media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256(b"x").as_str(), "size": 1})
}

fn parse(media_type: &str, document: &Value) -> Result<Document, ManifestError> {
    let bytes = serde_json::to_vec(document).unwrap();
    let target = Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::sha256(&bytes),
        size_bytes: bytes.len() as u64,
    };
    Document::parse(&target, &bytes)
}

fn manifest(media_type: &str, config: &str, layer: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor(config),
        "layers": [descriptor(layer)],
    })
}

#[test]
fn manifests_of_both_kinds_are_read_alike() {
    use media_type::*;

    let oci = parse(OCI_MANIFEST, &manifest(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_ZSTD)).unwrap();
    let gzip = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let docker = parse(DOCKER_MANIFEST, &manifest(DOCKER_MANIFEST, DOCKER_CONFIG, gzip)).unwrap();

    for (document, config) in [(oci, OCI_CONFIG), (docker, DOCKER_CONFIG)] {
        let Document::Manifest(manifest) = document else { panic!("not a manifest") };
        assert_eq!((manifest.config.media_type.as_str(), manifest.layers.len()), (config, 1));
    }
}

#[test]
fn documents_that_are_not_what_they_are_said_to_be_are_refused() {
    use media_type::*;

    let good = manifest(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER);
    let mut both = good.clone();
    both["manifests"] = json!([]);
    let mut version = good.clone();
    version["schemaVersion"] = json!(3);
    let artifact = manifest(OCI_MANIFEST, "application/vnd.cncf.helm.config.v1+json", OCI_LAYER);
    let odd_layer = manifest(OCI_MANIFEST, OCI_CONFIG, "text/plain");
    let mut many = good.clone();
    many["layers"] = json!(vec![descriptor(OCI_LAYER); MAX_LAYERS + 1]);
    let mut bad_digest = good.clone();
    bad_digest["config"]["digest"] = json!("sha256:../../etc/passwd");
    let mut large = good.clone();
    large["config"]["size"] = json!(MAX_CONFIG_BYTES + 1);
    let schema1 = json!({"schemaVersion": 1, "fsLayers": []});

    let error = |document: &Value| parse(OCI_MANIFEST, document).unwrap_err();
    assert!(parse(OCI_MANIFEST, &good).is_ok());
    assert!(matches!(parse(OCI_INDEX, &good), Err(ManifestError::Malformed { .. })));
    assert!(matches!(error(&both), ManifestError::Malformed { .. }));
    assert!(matches!(error(&version), ManifestError::Malformed { .. }));
    assert!(matches!(error(&artifact), ManifestError::MediaType { .. }));
    assert!(matches!(error(&odd_layer), ManifestError::MediaType { wanted: "a layer", .. }));
    assert!(matches!(error(&many), ManifestError::Malformed { .. }));
    assert!(matches!(
        error(&bad_digest),
        ManifestError::Digest { .. } | ManifestError::Syntax { .. }
    ));
    assert!(matches!(error(&large), ManifestError::TooLarge { .. }));
    assert!(matches!(error(&schema1), ManifestError::Schema1 { .. }));
    assert!(matches!(error(&json!([])), ManifestError::Syntax { .. }));
    assert!(matches!(parse("text/html", &json!({})), Err(ManifestError::MediaType { .. })));
}

#[test]
fn the_best_platform_is_chosen_and_attestations_never_are() {
    let entry = |digest: &[u8], os: &str, architecture: &str, variant: &str| {
        json!({
            "mediaType": media_type::OCI_MANIFEST,
            "digest": Digest::sha256(digest).as_str(),
            "size": 1,
            "platform": {"os": os, "architecture": architecture, "variant": variant},
        })
    };
    let index = json!({
        "schemaVersion": 2,
        "manifests": [
            entry(b"arm6", "linux", "arm", "v6"),
            entry(b"arm7", "linux", "arm", "v7"),
            entry(b"amd", "linux", "amd64", ""),
            entry(b"attestation", "unknown", "unknown", ""),
        ],
    });
    let Document::Index(index) = parse(media_type::OCI_INDEX, &index).unwrap() else {
        panic!("not an index")
    };
    let choose = |text: &str| index.choose(&text.parse().unwrap()).map(|d| d.digest.clone());

    assert_eq!(choose("linux/arm/v7").unwrap(), Digest::sha256(b"arm7"));
    assert_eq!(choose("linux/arm/v6").unwrap(), Digest::sha256(b"arm6"));
    assert_eq!(choose("linux/amd64").unwrap(), Digest::sha256(b"amd"));
    let refused = choose("linux/s390x").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no variant for linux/s390x, only for linux/arm/v6, linux/arm/v7, linux/amd64"
    );
}

#[test]
fn a_configuration_must_have_one_diff_id_per_layer() {
    let config = |diff_ids: &[&str]| {
        serde_json::to_vec(&json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"], "Volumes": null, "Healthcheck": {"Test": ["NONE"]}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))
        .unwrap()
    };
    let layer = Descriptor {
        media_type: media_type::OCI_LAYER.to_owned(),
        digest: Digest::sha256(b"l"),
        size_bytes: 1,
    };
    let manifest = Manifest { config: layer.clone(), layers: vec![layer.clone()] };

    let good = Config::parse(&manifest, &config(&[layer.digest.as_str()])).unwrap();

    assert_eq!(good.chain_ids(), std::slice::from_ref(&layer.digest));
    assert_eq!(good.platform().to_string(), "linux/amd64");
    assert!(good.check_platform(&"linux/arm64".parse().unwrap()).is_err());
    assert!(matches!(Config::parse(&manifest, &config(&[])), Err(ManifestError::Malformed { .. })));
    assert!(matches!(
        Config::parse(&manifest, &config(&["sha256:1"])),
        Err(ManifestError::Digest { .. })
    ));
}

#[test]
fn chain_ids_follow_the_specification() {
    let ids = [Digest::sha256(b"a"), Digest::sha256(b"b"), Digest::sha256(b"c")];

    let chain = chain_ids(&ids);

    assert_eq!(chain[0], ids[0]);
    assert_eq!(chain[1], Digest::sha256(format!("{} {}", ids[0], ids[1]).as_bytes()));
    assert_eq!(chain[2], Digest::sha256(format!("{} {}", chain[1], ids[2]).as_bytes()));
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
        let target = Descriptor {
            media_type: media_type::OCI_MANIFEST.to_owned(),
            digest: Digest::sha256(&bytes),
            size_bytes: bytes.len() as u64,
        };
        let _ = Document::parse(&target, &bytes);
    }
}
