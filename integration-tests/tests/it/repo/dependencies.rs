//! Crates depend on each other in one direction – ARCHITECTURE.md.

use std::collections::BTreeMap;

use super::metadata;

/// Each of our crates, and those of ours that it may depend on.
const ALLOWED: [(&str, &[&str]); 13] = [
    ("keg-runtime", &[]),
    ("keg-shim", &["keg-proto", "keg-ttrpc"]),
    ("keg-proto", &[]),
    ("keg-ttrpc", &["keg-proto"]),
    ("keg-tls", &[]),
    ("keg-store", &[]),
    ("keg-image", &["keg-store"]),
    ("keg-network", &["keg-store"]),
    ("keg-engine", &["keg-store", "keg-image", "keg-network", "keg-proto", "keg-ttrpc"]),
    ("keg-build", &["keg-store", "keg-image", "keg-network", "keg-engine"]),
    (
        "keg-daemon",
        &[
            "keg-store",
            "keg-image",
            "keg-network",
            "keg-engine",
            "keg-build",
            "keg-proto",
            "keg-tls",
        ],
    ),
    ("keg-cli", &["keg-proto", "keg-tls"]),
    // The benchmarks' floor makes what the runtime makes, from the profile that the engine writes.
    ("keg-integration-tests", &["keg-proto", "keg-ttrpc", "keg-engine", "keg-runtime"]),
];

#[test]
fn our_crates_depend_only_downwards() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();

    for package in metadata["packages"].as_array().unwrap() {
        if !package["source"].is_null() {
            continue;
        }
        let name = package["name"].as_str().unwrap();
        let may = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in ARCHITECTURE.md"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            let ours = dependency["path"].is_string();
            assert!(!ours || may.contains(&on), "{name} must not depend on {on}");
        }
    }
}

#[test]
fn no_crate_of_ours_is_published_by_accident() {
    let metadata = metadata();

    for package in metadata["packages"].as_array().unwrap() {
        if package["source"].is_null() {
            assert_eq!(package["publish"], serde_json::json!([]), "{}", package["name"]);
            assert_eq!(package["license"], "Apache-2.0", "{}", package["name"]);
        }
    }
}

#[test]
fn every_dependency_comes_from_the_registry() {
    let metadata = metadata();

    for package in metadata["packages"].as_array().unwrap() {
        if let Some(source) = package["source"].as_str() {
            assert!(source.starts_with("registry+"), "{} comes from {source}", package["name"]);
        }
    }
}
