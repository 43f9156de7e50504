//! Images for several platforms – docs.docker.com, "Multi-platform builds".

use keg_fixtures::{Registry, requires};
use serde_json::{Value, json};

use super::Project;

const FILE: &str = "FROM --platform=$BUILDPLATFORM BASE AS build
ARG BUILDPLATFORM
ARG TARGETPLATFORM
ARG TARGETOS
ARG TARGETARCH
ARG TARGETVARIANT
RUN echo \"$BUILDPLATFORM $TARGETPLATFORM $TARGETOS $TARGETARCH $TARGETVARIANT\" > /args; cat /proc/sys/kernel/random/uuid > /id
FROM --platform=$BUILDPLATFORM BASE AS common
RUN cat /proc/sys/kernel/random/uuid > /id
FROM scratch
COPY --from=build /args /
COPY --from=common /id /
CMD [\"/none\"]
";

fn host() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

#[test]
fn one_build_makes_an_index_of_an_image_for_each_platform() {
    requires!(root, registry);
    let registry = Registry::new();
    let project = Project::new(&[("Dockerfile", FILE)]);
    let name = format!("{}/several:1", registry.address());
    let metadata = project.scratch.path().join("metadata.json");
    let args = ["-t", &name, "--platform", "linux/s390x,linux/arm/v7", "--push", "--metadata-file"];

    let built = project.build_only(&[&args[..], &[metadata.to_str().unwrap()]].concat()).success();

    assert!(built.stderr.contains("[linux/arm/v7 build 2/2] RUN"), "{}", built.stderr);
    let value: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    let index = project.document(value["containerimage.digest"].as_str().unwrap());
    let platforms: Vec<&Value> =
        index["manifests"].as_array().unwrap().iter().map(|entry| &entry["platform"]).collect();
    assert_eq!(
        platforms,
        [
            &json!({"os": "linux", "architecture": "s390x"}),
            &json!({"os": "linux", "architecture": "arm", "variant": "v7"})
        ]
    );
    // What the registry has is what was built, and each finds its own.
    let mut ids = Vec::new();
    for (platform, words) in [("linux/s390x", "s390x "), ("linux/arm/v7", "arm v7")] {
        let out = project.scratch.path().join(platform.replace('/', "-"));
        let file = format!("FROM {name}\n");
        project.write("Dockerfile", &file);
        let _ = project
            .build_only(&["--platform", platform, "--pull", "-o", out.to_str().unwrap()])
            .success();
        let args = std::fs::read_to_string(out.join("args")).unwrap();
        assert_eq!(args, format!("linux/{} {platform} linux {words}\n", host()));
        ids.push(std::fs::read_to_string(out.join("id")).unwrap());
    }
    // What does not depend on the platform was done once.
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn an_image_says_no_more_of_its_processor_than_it_needs() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);

    let manifest = project.build_target(&[]);

    let manifest = project.document(&manifest);
    let config = project.document(manifest["config"]["digest"].as_str().unwrap());
    assert_eq!((&config["architecture"], &config["variant"]), (&json!(host()), &Value::Null));
}

#[test]
fn a_command_for_another_processor_needs_an_emulator_and_says_so() {
    requires!(root);
    // None that anybody has an emulator for.
    let platform = "linux/pdp11";
    let project = Project::new(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /file\n")]);
    let _ = project.build_only(&["--platform", platform, "-t", "localhost/foreign:1"]).success();
    project.write("Dockerfile", "FROM localhost/foreign:1\nCOPY Dockerfile /\nRUN [\"/file\"]\n");

    let failed = project.build(&["--platform", platform]);

    assert_ne!(failed.exit_code, 0);
    for word in [platform, "QEMU", "binfmt_misc", "Dockerfile:3"] {
        assert!(failed.stderr.contains(word), "{word}: {}", failed.stderr);
    }
}

#[test]
fn files_of_several_platforms_have_a_directory_each() {
    requires!(root);
    let file = "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /of/$TARGETARCH\n";
    let project = Project::new(&[("Dockerfile", file)]);
    let out = project.scratch.path().join("out");
    let archive = project.scratch.path().join("out.tar");
    let platforms = ["--platform", "linux/amd64,linux/arm/v7", "--provenance"];
    let build = |place: &str| {
        let _ = project.build_only(&[&platforms[..], &["-o", place]].concat()).success();
    };

    build(out.to_str().unwrap());
    build(&format!("type=tar,dest={}", archive.display()));

    let mut expected = Vec::new();
    for (directory, architecture) in [("linux_amd64", "amd64"), ("linux_arm_v7", "arm")] {
        for name in [format!("of/{architecture}"), "provenance.json".to_owned()] {
            let name = format!("{directory}/{name}");
            assert!(out.join(&name).is_file(), "{name}");
            expected.push(name);
        }
    }
    let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
    let mut files: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.header().entry_type().is_file())
        .map(|entry| entry.path().unwrap().display().to_string())
        .collect();
    files.sort();
    expected.sort();
    assert_eq!(files, expected);
}
