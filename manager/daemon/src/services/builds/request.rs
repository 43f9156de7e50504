//! `BuildStart` becomes a request of the builder.

use keg_build::dockerfile::Network;
use keg_build::{BuildRequest, ContextSource};
use keg_engine::model::Ulimit;
use keg_image::Reference;
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
        let needs_image = matches!(output, Output::Archive | Output::Push);
        let network = match start.network() {
            pb::BuildNetwork::Unspecified => Network::Default,
            pb::BuildNetwork::None => Network::None,
            pb::BuildNetwork::Host => Network::Host,
        };
        for allowed in &start.allow {
            if !matches!(allowed.as_str(), "security.insecure" | "network.host") {
                return Err(invalid(
                    "allow",
                    format!("{allowed:?} is neither security.insecure nor network.host"),
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
            context: start.context.as_ref().map(source).transpose()?,
            named_contexts,
            tags,
            target: Some(start.target.clone()).filter(|target| !target.is_empty()),
            platform: start.platform.as_ref().map(convert::platform_from_pb),
            network,
            extra_hosts: start
                .extra_hosts
                .iter()
                .map(|text| host(text))
                .collect::<Result<_, _>>()?,
            shm_size_bytes: u64::try_from(start.shm_size_bytes).ok().filter(|bytes| *bytes > 0),
            ulimits: start.ulimits.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
            allow_insecure: allows("security.insecure"),
            allow_host_network: allows("network.host"),
            makes_image: !start.no_image || needs_image,
            check_only: start.check,
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
        Ok(Self { request, output })
    }
}

fn source(context: &pb::BuildContext) -> Result<ContextSource, Status> {
    use pb::build_context::Source;

    Ok(match context.source.as_ref() {
        Some(Source::Client(identity)) => ContextSource::Client { identity: identity.clone() },
        Some(Source::Archive(true)) => ContextSource::Archive,
        Some(Source::Url(url)) => ContextSource::Remote { url: url.clone() },
        Some(Source::Image(reference)) => ContextSource::Image { reference: reference.clone() },
        Some(Source::Archive(false)) | None => {
            return Err(invalid("context", "it does not say where its files come from"));
        }
    })
}

fn host(text: &str) -> Result<(String, std::net::IpAddr), Status> {
    let bad = || invalid("extra_hosts", format!("{text:?} is not NAME:ADDRESS"));
    let (name, address) = text.split_once(['=', ':']).ok_or_else(bad)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Ok((name.to_owned(), address.parse().map_err(|_| bad())?))
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
