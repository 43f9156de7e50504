//! What a build is asked to do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use keg_engine::model::{Resources, Ulimit};
use keg_image::{Platform, Reference};

use crate::dockerfile::Network;
use crate::git::parse_bool;

/// Where files come from that are neither in a stage nor in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory of the client. The text tells it from other directories: a client gives the same
    /// one each time.
    Client {
        /// For example the machine and the directory's path.
        identity: String,
    },
    /// An archive that the client sends when it is asked for the file with the empty path.
    Archive,
    /// A URL of an archive or of a git repository.
    Remote {
        /// As `docker build` takes it.
        url: String,
    },
    /// An image.
    Image {
        /// Its name.
        reference: String,
    },
    /// An image in a directory of the client, an OCI layout, which is asked for by the context's name.
    Layout {
        /// Its tag; `None`: "latest", or the only one that there is.
        tag: Option<String>,
        /// Its digest, which then counts and not the tag.
        digest: Option<String>,
    },
}

/// A build.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// The Dockerfile; `None`: it is in the context, under `dockerfile_name`.
    pub dockerfile: Option<String>,
    /// Its name.
    pub dockerfile_name: String,
    /// Patterns of files to leave out of the main context; `None`: look in the context.
    pub dockerignore: Option<String>,
    /// The main context; `None`: there is none.
    pub context: Option<ContextSource>,
    /// Further contexts by name; they take the place of stages and images.
    pub named_contexts: BTreeMap<String, ContextSource>,
    /// Names for the image.
    pub tags: Vec<Reference>,
    /// Values of `ARG`s.
    pub build_args: BTreeMap<String, String>,
    /// Stage to build; `None`: the last.
    pub target: Option<String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Looks for no results of earlier builds.
    pub no_cache: bool,
    /// Does so for these stages.
    pub no_cache_filter: Vec<String>,
    /// Asks registries for newer base images.
    pub pull: bool,
    /// Platforms of the image: one image each. Empty: this machine's.
    pub platforms: Vec<Platform>,
    /// Network of steps that ask for none.
    pub network: Network,
    /// Further entries of `/etc/hosts`; `None`: the host's address, as the step sees it.
    pub extra_hosts: Vec<(String, Option<IpAddr>)>,
    /// Bytes of `/dev/shm`.
    pub shm_size_bytes: Option<u64>,
    /// Limits of setrlimit(2).
    pub ulimits: Vec<Ulimit>,
    /// Limits of each step. A result does not depend on them.
    pub resources: Resources,
    /// Where the control groups of steps are made; empty: where those of containers are.
    pub cgroup_parent: String,
    /// Steps may ask for `--security=insecure`.
    pub allow_insecure: bool,
    /// Steps may ask for `--network=host`.
    pub allow_host_network: bool,
    /// Devices that steps may ask for by `--device`, or `VENDOR/CLASS` for all of a kind; the empty name
    /// means all.
    pub allow_devices: Vec<String>,
    /// Makes an image of the result, so that it can be run.
    pub makes_image: bool,
    /// The result's files are sent to the client.
    pub sends_files: bool,
    /// Parses, and checks or describes; builds nothing.
    pub check_only: bool,
    /// Where results of other machines' builds are looked for, the first first.
    pub cache_from: Vec<CacheSource>,
    /// Where results of this build are put for other machines.
    pub cache_to: Vec<CacheTarget>,
    /// Tells how the image was made, as an attestation beside it.
    pub provenance: Option<Provenance>,
    /// Image of a scanner that tells what the image is made of, as an attestation beside it.
    pub sbom_scanner: Option<Reference>,
    /// When the client is offered a shell.
    pub debug_shell: DebugShell,
}

impl BuildRequest {
    /// Tells whether a build argument is given that means yes.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.build_args.get(name).and_then(|value| parse_bool(value)).unwrap_or(false)
    }
}

/// Where results of other machines' builds are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheSource {
    /// In a registry: a cache, or an image with one in its configuration.
    Registry {
        /// Its name.
        reference: Reference,
    },
    /// In a directory of the client, an OCI layout.
    Directory {
        /// Name of the context that it is asked for by.
        context: String,
        /// Tag of the cache.
        tag: String,
        /// Its digest, which then counts and not the tag.
        digest: Option<String>,
    },
}

/// Where results of a build go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// Into a registry.
    Registry {
        /// The name that it gets.
        reference: Reference,
    },
    /// Into a directory of the client, an OCI layout.
    Directory {
        /// Name of the context that it is asked for by.
        context: String,
        /// Tag that it gets.
        tag: String,
    },
    /// Into the image's configuration.
    Inline,
}

/// A place for results, and which go there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTarget {
    /// Where.
    pub place: CachePlace,
    /// Those of all stages, and not only those of the image's own layers.
    pub all_stages: bool,
    /// Goes on if they cannot be put there.
    pub ignores_errors: bool,
    /// Lists the layers in an index and not in a manifest.
    pub as_index: bool,
}

/// Version of the SLSA provenance predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProvenanceVersion {
    /// 0.2.
    V02,
    /// 1.
    #[default]
    V1,
}

/// What provenance tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provenance {
    /// Tells also the Dockerfile, build arguments, names of secrets and the steps.
    pub is_full: bool,
    /// Id of who builds.
    pub builder_id: String,
    /// Claims that the build is reproducible.
    pub is_reproducible: bool,
    /// Version of the predicate.
    pub version: ProvenanceVersion,
}

/// When the client is offered a shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DebugShell {
    /// Never.
    #[default]
    Never,
    /// When a step has failed.
    OnFailure,
    /// Also in the result, when all has gone well.
    Always,
}
