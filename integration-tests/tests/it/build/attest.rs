//! What is attested of an image – moby/buildkit, docs/attestations.

use keg_fixtures::requires;
use serde_json::{Value, json};

use super::Project;

const FILE: &str = "FROM BASE AS tools
RUN echo tool > /tool
FROM BASE
ARG VERSION
RUN --mount=type=secret,id=token echo $VERSION > /version
COPY --from=tools /tool /tool
";

/// The image's manifest and the statements of an index, by their types.
fn statements(project: &Project, index: &str) -> (String, Vec<(String, Value)>) {
    let index = project.document(index);
    let entries = index["manifests"].as_array().unwrap();
    let manifest = entries[0]["digest"].as_str().unwrap().to_owned();
    let attested = &entries[1];
    assert_eq!(attested["platform"], json!({"architecture": "unknown", "os": "unknown"}));
    assert_eq!(attested["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(attested["annotations"]["vnd.docker.reference.digest"], json!(manifest));
    let attestation = project.document(attested["digest"].as_str().unwrap());
    let read = |layer: &Value| {
        assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
        let statement = project.document(layer["digest"].as_str().unwrap());
        let kind = layer["annotations"]["in-toto.io/predicate-type"].as_str().unwrap().to_owned();
        assert_eq!(statement["predicateType"], json!(kind));
        assert_eq!(
            statement["subject"][0]["digest"]["sha256"],
            json!(manifest.trim_start_matches("sha256:"))
        );
        (kind, statement)
    };
    let layers = attestation["layers"].as_array().unwrap().iter().map(read).collect();
    (manifest, layers)
}

#[test]
fn provenance_tells_how_an_image_was_made_and_no_more_than_it_should() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", FILE)]);
    let args = ["--build-arg", "VERSION=hidden-1.2", "--provenance"];

    let full = project.build_target(&[args[0], args[1], "--provenance=mode=max"]);
    let short = project.build_target(&[args[0], args[1], "--provenance=mode=min,version=v0.2"]);

    let (_, full) = statements(&project, &full);
    let predicate = &full[0].1["predicate"];
    assert_eq!(full[0].0, "https://slsa.dev/provenance/v1");
    let request = &predicate["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:VERSION"], "hidden-1.2");
    assert_eq!(request["secrets"], json!([{"id": "token", "optional": true}]));
    let inside = &predicate["buildDefinition"]["resolvedDependencies"][0];
    assert!(inside["uri"].as_str().unwrap().starts_with("pkg:docker/127.0.0.1"), "{inside}");
    assert_eq!(inside["digest"]["sha256"].as_str().unwrap().len(), 64);
    let steps = predicate["buildDefinition"]["internalParameters"]["buildConfig"]["steps"].clone();
    let tells = |step: &Value| step["instruction"].as_str().unwrap().contains("/version");
    assert!(steps.as_array().unwrap().iter().any(tells), "{steps}");
    let (_, short) = statements(&project, &short);
    assert_eq!(short[0].0, "https://slsa.dev/provenance/v0.2");
    assert!(!short[0].1.to_string().contains("hidden-1.2"), "{}", short[0].1);
    assert_eq!(short[0].1["predicate"]["materials"][0]["digest"], inside["digest"]);
    // It runs as any other.
    assert_eq!(project.run("cat /version"), "hidden-1.2\n");
    let listed = project.daemon.keg(["images"]).success().stdout;
    assert_eq!(listed.matches("built").count(), 1, "{listed}");
}

#[test]
fn what_is_attested_is_the_same_for_the_same_inputs_with_an_epoch() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", "FROM BASE\nRUN echo x > /x\n")]);
    let args =
        ["--build-arg", "SOURCE_DATE_EPOCH=1000000000", "--provenance=mode=max", "--no-cache"];

    let first = project.build_target(&args);

    assert_eq!(project.build_target(&args), first);
}

/// A scanner that follows BuildKit's protocol, as far as a shell can.
const SCANNER: &str = r#"FROM BASE
COPY <<'SCAN' /scan
set -e
scan() {
  files=$(cd "$1" && find . -type f | wc -l)
  printf '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":{"name":"%s","files":%d,"tool":"%s"}}' \
    "$2" "$files" "$(cat "$1/tool" 2>/dev/null)" > "$BUILDKIT_SCAN_DESTINATION/$2.spdx.json"
}
scan "$BUILDKIT_SCAN_SOURCE" "$(basename "$BUILDKIT_SCAN_SOURCE")"
for extra in "$BUILDKIT_SCAN_SOURCE_EXTRAS"/*; do
  if [ -n "$BUILDKIT_SCAN_SOURCE_EXTRAS" ]; then scan "$extra" "$(basename "$extra")"; fi
done
if (echo x > "$BUILDKIT_SCAN_SOURCE/x") 2>/dev/null; then echo "the source can be written to"; exit 1; fi
SCAN
CMD ["/bin/sh", "/scan"]
"#;

#[test]
fn a_scanner_sees_the_result_and_what_it_finds_is_attested() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", SCANNER)]);
    let _ = project.build_only(&["-t", "localhost/scanner:1"]).success();
    let marked = FILE.replace("AS tools", "AS tools\nARG BUILDKIT_SBOM_SCAN_STAGE=true");
    project.write("Dockerfile", &marked);

    let index = project.build_target(&["--sbom=localhost/scanner:1", "--provenance=mode=min"]);

    let (_, found) = statements(&project, &index);
    let kinds: Vec<&str> = found.iter().map(|(kind, _)| kind.as_str()).collect();
    let spdx = "https://spdx.dev/Document";
    assert_eq!(kinds, [spdx, spdx, "https://slsa.dev/provenance/v1"]);
    let predicates: Vec<&Value> = found.iter().map(|(_, one)| &one["predicate"]).collect();
    assert_eq!(predicates[0]["name"], "sbom-tools");
    assert_eq!((&predicates[1]["name"], &predicates[1]["tool"]), (&json!("sbom"), &json!("tool")));
    assert!(predicates[1]["files"].as_i64().unwrap() > 2);
    // What the scanner did is not in the image.
    assert_eq!(project.run("ls /run/out /scan 2>/dev/null || echo none"), "none\n");
}

#[test]
fn files_have_what_is_attested_of_them_beside_them() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /sub/file\n")]);
    let out = project.scratch.path().join("out");

    let _ = project.build_only(&["--provenance=mode=min", "-o", out.to_str().unwrap()]).success();

    let statement: Value =
        serde_json::from_slice(&std::fs::read(out.join("provenance.json")).unwrap()).unwrap();
    assert_eq!(statement["subject"][0]["name"], "sub/file");
    assert!(out.join("sub/file").exists());
}

#[test]
fn a_scanner_that_says_nothing_fails_the_build() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", "FROM BASE\nCMD [\"true\"]\n")]);
    let _ = project.build_only(&["-t", "localhost/mute:1"]).success();

    let failed = project.build(&["--sbom=localhost/mute:1"]);

    assert!(failed.stderr.contains("wrote no /run/out/*.spdx.json"), "{failed:?}");
}
