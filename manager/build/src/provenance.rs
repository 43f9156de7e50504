//! How an image was made, as SLSA provenance 0.2 or 1 in BuildKit's form
//! (moby/buildkit, docs/attestations/slsa-provenance.md).
//!
//! The short form has times, the frontend and what went in. The full one has the Dockerfile, build
//! arguments, the names of secrets and the steps besides; never a secret's value, which the builder
//! does not keep. With `SOURCE_DATE_EPOCH` it is the same for the same inputs.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use keg_image::{Platform, Reference};
use keg_store::Digest;
use serde_json::{Value, json};

use crate::build::{Build, host_platform};
use crate::dockerfile::{Instruction, MountKind, RunMount};
use crate::error::BuildError;
use crate::inputs::Material;
use crate::request::{ContextSource, Provenance, ProvenanceVersion};

/// What kind of build it is: parameters and steps are to be read as Keg writes them.
const BUILD_TYPE: &str = "urn:keg:dockerfile:v1";
/// Member names of BuildKit's additions to version 0.2.
const METADATA: &str = "https://mobyproject.org/buildkit@v1#metadata";
/// Letters of an invocation's id.
const ID_LETTERS: usize = 25;

/// What can be attested of: its names, and the digest of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) digest: Digest,
}

/// Names of what steps mount, and whether they need it.
type Needs = BTreeMap<String, bool>;

/// Makes a statement about subjects (in-toto attestation framework).
pub(crate) fn with_subjects(mut statement: Value, subjects: &[Subject]) -> Value {
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|subject| json!({"name": subject.name, "digest": digest_set(subject.digest.as_str())}))
        .collect();
    statement["subject"] = json!(subjects);
    statement
}

/// Returns the subjects of an image: its names, or one that says nothing.
pub(crate) fn image_subjects(
    tags: &[Reference],
    platform: &Platform,
    manifest: &Digest,
) -> Vec<Subject> {
    let named = |name| Subject { name, digest: manifest.clone() };
    if tags.is_empty() {
        return vec![named("_".to_owned())];
    }
    tags.iter().map(|tag| named(package_url(tag, &platform.to_string()))).collect()
}

impl Build {
    /// Tells how the result was made; a statement without subjects.
    pub(crate) fn provenance(&self, wanted: &Provenance) -> Result<Value, BuildError> {
        let (started, finished) = match self.epoch_secs.map(Timestamp::from_second) {
            Some(Ok(epoch)) => (epoch, epoch),
            _ => (self.inputs.started, Timestamp::now()),
        };
        let facts = Facts {
            wanted,
            materials: self.inputs.materials().iter().map(material).collect(),
            config_source: self.config_source(),
            request: self.parameters(wanted.is_full)?,
            steps: if wanted.is_full { self.steps() } else { Value::Null },
            source: if wanted.is_full { self.source() } else { Value::Null },
            platform: host_platform().to_string(),
            id: self.invocation_id(started),
            started: started.to_string(),
            finished: finished.to_string(),
        };
        Ok(match wanted.version {
            ProvenanceVersion::V02 => facts.version_02(),
            ProvenanceVersion::V1 => facts.version_1(),
        })
    }

    fn config_source(&self) -> Value {
        let mut source = json!({"path": self.request.dockerfile_name});
        if let Some(ContextSource::Remote { url }) = &self.request.context {
            source["uri"] = json!(url);
            let found = self.inputs.materials().into_iter().find_map(|material| match material {
                Material::Address { url: other, digest } if other == *url => Some(digest),
                _ => None,
            });
            if let Some(digest) = found {
                source["digest"] = digest_set(&digest);
            }
        }
        source
    }

    /// What the client asked for.
    fn parameters(&self, is_full: bool) -> Result<Value, BuildError> {
        let mut args: BTreeMap<String, &str> = BTreeMap::new();
        if is_full {
            let build_args = self.request.build_args.iter();
            args.extend(
                build_args.map(|(key, value)| (format!("build-arg:{key}"), value.as_str())),
            );
            let labels = self.request.labels.iter();
            args.extend(labels.map(|(key, value)| (format!("label:{key}"), value.as_str())));
        }
        if let Some(target) = &self.request.target {
            args.insert("target".to_owned(), target);
        }
        let mut request = json!({"frontend": "dockerfile.v0", "args": args});
        if matches!(self.request.context, Some(ContextSource::Client { .. })) {
            request["locals"] = json!([{"name": "context"}, {"name": "dockerfile"}]);
        }
        if is_full {
            let (secrets, agents) = self.needs()?;
            let listed = |needs: Needs| -> Vec<Value> {
                needs
                    .into_iter()
                    .map(|(id, required)| match required {
                        true => json!({"id": id}),
                        false => json!({"id": id, "optional": true}),
                    })
                    .collect()
            };
            request["secrets"] = json!(listed(secrets));
            request["ssh"] = json!(listed(agents));
        }
        Ok(request)
    }

    /// Names of secrets and of agents that the stages mount, and whether they need them.
    fn needs(&self) -> Result<(Needs, Needs), BuildError> {
        let (mut secrets, mut agents) = (Needs::new(), Needs::new());
        for index in self.needed(self.target()?) {
            for located in &self.file.stages[index].instructions {
                let Instruction::Run(run) = &located.instruction else { continue };
                for mount in run.mounts.iter().filter_map(|text| RunMount::parse(text).ok()) {
                    match mount.kind {
                        MountKind::Secret { id, required, .. } => {
                            *secrets.entry(id).or_insert(false) |= required;
                        }
                        MountKind::Ssh { id, required, .. } => {
                            *agents.entry(id).or_insert(false) |= required;
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok((secrets, agents))
    }

    /// The steps that led to the result, each under the digest of all that it depends on.
    fn steps(&self) -> Value {
        let mut seen = self.inputs.seen();
        seen.sort_by(|a, b| (a.result.created, &a.key).cmp(&(b.result.created, &b.key)));
        if self.epoch_secs.is_some() {
            // When each ran is no matter then.
            seen.sort_by(|a, b| a.key.cmp(&b.key));
        }
        let steps: Vec<Value> = seen
            .iter()
            .enumerate()
            .map(|(index, one)| {
                let mut step = json!({
                    "id": format!("step{index}"), "digest": one.key, "instruction": one.description,
                });
                let layer = one.result.files.top.as_ref().filter(|_| one.result.has_layer);
                if let Some(exported) = layer.and_then(|layer| layer.exported()) {
                    step["layer"] = json!({
                        "mediaType": exported.media_type, "digest": exported.digest,
                        "size": exported.size_bytes,
                    });
                }
                step
            })
            .collect();
        json!({"steps": steps})
    }

    fn source(&self) -> Value {
        let mut text = self.file.source.join("\n");
        text.push('\n');
        json!({"infos": [{
            "filename": self.request.dockerfile_name, "language": "Dockerfile",
            "data": STANDARD.encode(text),
        }]})
    }

    fn invocation_id(&self, started: Timestamp) -> String {
        let text = json!([
            started.as_nanosecond().to_string(),
            self.platform.to_string(),
            self.file.source,
            self.request.build_args,
        ]);
        Digest::sha256(text.to_string().as_bytes()).hex()[..ID_LETTERS].to_owned()
    }
}

/// What provenance is made of, in either version.
struct Facts<'a> {
    wanted: &'a Provenance,
    materials: Vec<Value>,
    config_source: Value,
    request: Value,
    /// Null in the short form.
    steps: Value,
    source: Value,
    platform: String,
    id: String,
    started: String,
    finished: String,
}

impl Facts<'_> {
    fn version_02(self) -> Value {
        let mut config_source = self.config_source;
        config_source["entryPoint"] = config_source["path"].take();
        if let Value::Object(fields) = &mut config_source {
            fields.remove("path");
        }
        let mut metadata = json!({
            "buildInvocationID": self.id,
            "buildStartedOn": self.started,
            "buildFinishedOn": self.finished,
            "completeness": {
                "parameters": self.wanted.is_full, "environment": true, "materials": false,
            },
            "reproducible": self.wanted.is_reproducible,
        });
        metadata[METADATA] =
            if self.wanted.is_full { json!({"source": self.source}) } else { json!({}) };
        let mut predicate = json!({
            "builder": {"id": self.wanted.builder_id},
            "buildType": BUILD_TYPE,
            "materials": self.materials,
            "invocation": {
                "configSource": config_source,
                "parameters": self.request,
                "environment": {"platform": self.platform},
            },
            "metadata": metadata,
        });
        if self.wanted.is_full {
            predicate["buildConfig"] = self.steps;
        }
        json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": "https://slsa.dev/provenance/v0.2",
            "predicate": predicate,
        })
    }

    fn version_1(self) -> Value {
        let mut internal = json!({"builderPlatform": self.platform});
        if self.wanted.is_full {
            internal["buildConfig"] = self.steps;
        }
        let metadata = if self.wanted.is_full { json!({"source": self.source}) } else { json!({}) };
        json!({
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {
                        "configSource": self.config_source,
                        "request": self.request,
                    },
                    "internalParameters": internal,
                    "resolvedDependencies": self.materials,
                },
                "runDetails": {
                    "builder": {"id": self.wanted.builder_id},
                    "metadata": {
                        "invocationId": self.id,
                        "startedOn": self.started,
                        "finishedOn": self.finished,
                        "buildkit_reproducible": self.wanted.is_reproducible,
                        "buildkit_completeness": {
                            "request": self.wanted.is_full, "resolvedDependencies": false,
                        },
                        "buildkit_metadata": metadata,
                    },
                },
            },
        })
    }
}

fn material(material: &Material) -> Value {
    match material {
        Material::Image { name, platform, digest } => {
            let uri = match Reference::parse(name) {
                Ok(reference) => package_url(&reference, platform),
                Err(_) => name.clone(),
            };
            json!({"uri": uri, "digest": digest_set(digest)})
        }
        Material::Address { url, digest } => json!({"uri": url, "digest": digest_set(digest)}),
    }
}

/// A digest as in-toto has it; one without the name of its function is a commit.
fn digest_set(digest: &str) -> Value {
    match digest.split_once(':') {
        Some((algorithm, hex)) => json!({algorithm: hex}),
        None if digest.len() == 64 => json!({"sha256": digest}),
        None => json!({"sha1": digest}),
    }
}

/// An image's name as a package URL.
fn package_url(reference: &Reference, platform: &str) -> String {
    let path = reference.path();
    let name = match reference.domain() {
        "docker.io" => path.strip_prefix("library/").unwrap_or(path).to_owned(),
        domain => format!("{domain}/{path}"),
    };
    let tag = reference.tag().map(|tag| format!("@{tag}")).unwrap_or_default();
    let digest = reference.digest().map(|digest| format!("digest={digest}&")).unwrap_or_default();
    format!("pkg:docker/{name}{tag}?{digest}platform={}", platform.replace('/', "%2F"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_packages_and_commits_are_sha1() {
        let url = |name: &str| package_url(&name.parse().unwrap(), "linux/amd64");
        let digest = Digest::sha256(b"x");

        assert_eq!(url("alpine"), "pkg:docker/alpine@latest?platform=linux%2Famd64");
        assert_eq!(
            url("reg.example:5000/a/b:1"),
            "pkg:docker/reg.example:5000/a/b@1?platform=linux%2Famd64"
        );
        assert_eq!(
            url(&format!("alpine@{digest}")),
            format!("pkg:docker/alpine?digest={digest}&platform=linux%2Famd64")
        );
        let commit =
            Material::Address { url: "https://x/y.git#main".into(), digest: "ab".repeat(20) };
        assert_eq!(material(&commit)["digest"]["sha1"], "ab".repeat(20));
    }

    #[test]
    fn both_versions_say_the_same_in_their_own_words() {
        for is_full in [false, true] {
            let wanted = Provenance { is_full, builder_id: "me".into(), ..Provenance::default() };
            let facts = || Facts {
                wanted: &wanted,
                materials: vec![json!({"uri": "pkg:docker/alpine"})],
                config_source: json!({"path": "Dockerfile"}),
                request: json!({"frontend": "dockerfile.v0"}),
                steps: json!({"steps": []}),
                source: json!({"infos": []}),
                platform: "linux/amd64".into(),
                id: "id".into(),
                started: "s".into(),
                finished: "f".into(),
            };

            let (old, new) = (facts().version_02(), facts().version_1());

            assert_eq!(
                old["predicate"]["materials"],
                new["predicate"]["buildDefinition"]["resolvedDependencies"]
            );
            assert_eq!(old["predicate"]["builder"], new["predicate"]["runDetails"]["builder"]);
            let source = &old["predicate"]["invocation"]["configSource"];
            assert_eq!(*source, json!({"entryPoint": "Dockerfile"}));
            assert_eq!(old["predicate"].get("buildConfig").is_some(), is_full);
            let internal = &new["predicate"]["buildDefinition"]["internalParameters"];
            assert_eq!(internal.get("buildConfig").is_some(), is_full);
        }
    }
}
