//! `BuildStart` becomes a request of the builder.

use keg_build::dockerfile::Network;
use keg_build::{
    BuildRequest, CachePlace, CacheSource, CacheTarget, ContextSource, DebugShell, Provenance,
    ProvenanceVersion,
};
use keg_engine::model::Ulimit;
use keg_image::{Platform, Reference};
use keg_proto::keg::v1 as pb;
use tonic::Status;

use crate::convert;
use crate::status::{invalid, to_status};

/// What becomes of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    None,
    Files,
    Archive,
    Push,
}

/// What a client wants.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) request: BuildRequest,
    pub(super) output: Output,
    /// What is to be told in place of a build.
    pub(super) call: pb::BuildCall,
}

impl Wanted {
    pub(super) fn parse(start: pb::BuildStart) -> Result<Self, Status> {
        let output = match start.output.as_ref().map(|output| output.kind()) {
            None => Output::None,
            Some(pb::BuildOutputKind::Files) => Output::Files,
            Some(pb::BuildOutputKind::Archive) => Output::Archive,
            Some(pb::BuildOutputKind::Push) => Output::Push,
            Some(pb::BuildOutputKind::Unspecified) => {
                return Err(invalid("output", "it says nothing of the form"));
            }
        };
        if output == Output::Push && start.tags.is_empty() {
            return Err(invalid("tags", "an image that is pushed needs a name"));
        }
        let call = start.call();
        let needs_image = matches!(output, Output::Archive | Output::Push);
        let network = match start.network() {
            pb::BuildNetwork::Unspecified => Network::Default,
            pb::BuildNetwork::None => Network::None,
            pb::BuildNetwork::Host => Network::Host,
        };
        for allowed in &start.allow {
            let is_device = allowed == "device" || allowed.starts_with("device=");
            if !is_device && !matches!(allowed.as_str(), "security.insecure" | "network.host") {
                return Err(invalid(
                    "allow",
                    format!("{allowed:?} is not security.insecure, network.host or device"),
                ));
            }
        }
        let allows = |what: &str| start.allow.iter().any(|allowed| allowed == what);
        let named_contexts = start
            .named_contexts
            .iter()
            .map(|(name, context)| Ok((name.clone(), source(context)?)))
            .collect::<Result<_, Status>>()?;
        let tags = start
            .tags
            .iter()
            .map(|tag| Reference::parse(tag).map_err(|error| to_status(&error)))
            .collect::<Result<_, Status>>()?;
        let request = BuildRequest {
            context: match start.context.as_ref().map(source).transpose()? {
                Some(ContextSource::Layout { .. }) => {
                    return Err(invalid("context", "an image can be a named context only"));
                }
                context => context,
            },
            named_contexts,
            tags,
            target: Some(start.target.clone()).filter(|target| !target.is_empty()),
            platforms: platforms(&start),
            cache_from: start.cache_from.iter().map(cache_source).collect::<Result<_, _>>()?,
            cache_to: start.cache_to.iter().map(cache_target).collect::<Result<_, _>>()?,
            provenance: start.provenance.as_ref().map(provenance).transpose()?,
            sbom_scanner: start
                .sbom
                .as_ref()
                .map(|sbom| Reference::parse(&sbom.scanner).map_err(|error| to_status(&error)))
                .transpose()?,
            debug_shell: match start.debug_shell() {
                pb::BuildDebugShell::Unspecified => DebugShell::Never,
                pb::BuildDebugShell::OnFailure => DebugShell::OnFailure,
                pb::BuildDebugShell::Always => DebugShell::Always,
            },
            sends_files: output == Output::Files,
            network,
            extra_hosts: convert::network::extra_hosts_from_pb(&start.extra_hosts)?
                .into_iter()
                .map(|host| (host.name, host.address))
                .collect(),
            shm_size_bytes: u64::try_from(start.shm_size_bytes).ok().filter(|bytes| *bytes > 0),
            ulimits: start.ulimits.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
            resources: convert::resources_from_pb(start.resources.unwrap_or_default())?,
            cgroup_parent: start.cgroup_parent,
            allow_insecure: allows("security.insecure"),
            allow_host_network: allows("network.host"),
            allow_devices: start
                .allow
                .iter()
                .filter_map(|allowed| allowed.strip_prefix("device"))
                .map(|name| name.trim_start_matches('=').to_owned())
                .collect(),
            makes_image: !start.no_image || needs_image,
            check_only: start.check || call != pb::BuildCall::Unspecified,
            dockerfile: start.dockerfile,
            dockerfile_name: match start.dockerfile_name.as_str() {
                "" => "Dockerfile".to_owned(),
                name => name.to_owned(),
            },
            dockerignore: start.dockerignore,
            build_args: start.build_args.into_iter().collect(),
            labels: start.labels.into_iter().collect(),
            no_cache: start.no_cache,
            no_cache_filter: start.no_cache_filter,
            pull: start.pull,
        };
        Ok(Self { request, output, call })
    }
}

/// The platforms that are asked for, each once.
fn platforms(start: &pb::BuildStart) -> Vec<Platform> {
    let mut platforms: Vec<Platform> = Vec::new();
    for platform in start.platforms.iter().chain(&start.platform) {
        let platform = convert::platform_from_pb(platform);
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    platforms
}

fn cache_source(source: &pb::BuildCacheSource) -> Result<CacheSource, Status> {
    use pb::build_cache_source::Place;

    match &source.place {
        Some(Place::Registry(name)) => {
            let reference = Reference::parse(name).map_err(|error| to_status(&error))?;
            Ok(CacheSource::Registry { reference })
        }
        Some(Place::Directory(context)) => Ok(CacheSource::Directory {
            context: context.clone(),
            tag: tag(&source.tag),
            digest: Some(source.digest.clone()).filter(|digest| !digest.is_empty()),
        }),
        None => Err(invalid("cache_from", "it does not say where the cache is")),
    }
}

fn cache_target(target: &pb::BuildCacheTarget) -> Result<CacheTarget, Status> {
    use pb::build_cache_target::Place;

    let place = match &target.place {
        Some(Place::Registry(name)) => {
            let reference = Reference::parse(name).map_err(|error| to_status(&error))?;
            CachePlace::Registry { reference }
        }
        Some(Place::Directory(context)) => {
            CachePlace::Directory { context: context.clone(), tag: tag(&target.tag) }
        }
        Some(Place::Inline(true)) => CachePlace::Inline,
        Some(Place::Inline(false)) | None => {
            return Err(invalid("cache_to", "it does not say where the cache goes"));
        }
    };
    Ok(CacheTarget {
        place,
        all_stages: target.all_stages,
        ignores_errors: target.ignores_errors,
        as_index: target.as_index,
    })
}

fn tag(tag: &str) -> String {
    if tag.is_empty() { "latest".to_owned() } else { tag.to_owned() }
}

fn provenance(options: &pb::ProvenanceOptions) -> Result<Provenance, Status> {
    Ok(Provenance {
        is_full: options.is_full,
        builder_id: options.builder_id.clone(),
        is_reproducible: options.is_reproducible,
        version: match options.version.as_str() {
            "" | "v1" => ProvenanceVersion::V1,
            "v0.2" => ProvenanceVersion::V02,
            other => {
                return Err(invalid("provenance", format!("{other:?} is neither v0.2 nor v1")));
            }
        },
    })
}

fn source(context: &pb::BuildContext) -> Result<ContextSource, Status> {
    use pb::build_context::Source;

    Ok(match context.source.as_ref() {
        Some(Source::Client(identity)) => ContextSource::Client { identity: identity.clone() },
        Some(Source::Archive(true)) => ContextSource::Archive,
        Some(Source::Url(url)) => ContextSource::Remote { url: url.clone() },
        Some(Source::Image(reference)) => ContextSource::Image { reference: reference.clone() },
        Some(Source::Layout(layout)) => {
            let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
            ContextSource::Layout { tag: given(&layout.tag), digest: given(&layout.digest) }
        }
        Some(Source::Archive(false)) | None => {
            return Err(invalid("context", "it does not say where its files come from"));
        }
    })
}

fn ulimit(text: &str) -> Result<Ulimit, Status> {
    let bad = || invalid("ulimits", format!("{text:?} is not NAME=SOFT[:HARD]"));
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        text => text.parse().map_err(|_| bad()),
    };
    Ok(Ulimit { name: name.to_owned(), soft: number(soft)?, hard: number(hard)? })
}
