//! What a build is asked to do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use keg_engine::model::Ulimit;
use keg_image::{Platform, Reference};

use crate::dockerfile::Network;

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
    /// Platform of the image; `None`: this machine's.
    pub platform: Option<Platform>,
    /// Network of steps that ask for none.
    pub network: Network,
    /// Further entries of `/etc/hosts`.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Bytes of `/dev/shm`.
    pub shm_size_bytes: Option<u64>,
    /// Limits of setrlimit(2).
    pub ulimits: Vec<Ulimit>,
    /// Steps may ask for `--security=insecure`.
    pub allow_insecure: bool,
    /// Steps may ask for `--network=host`.
    pub allow_host_network: bool,
    /// Makes an image of the result, so that it can be run.
    pub makes_image: bool,
    /// Parses and checks, and builds nothing.
    pub check_only: bool,
}
