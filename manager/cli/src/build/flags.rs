//! Flags of a build whose values have parts: secrets, agents, outputs, contexts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use keg_proto::keg::v1::{
    BuildCacheSource, BuildCacheTarget, BuildContext, BuildLayout, BuildOutputKind,
    ProvenanceOptions, SbomOptions, build_cache_source, build_cache_target, build_context,
};

use super::call::{Call, CallKind};
use super::output::Destination;

/// A flag makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("--{flag} {value:?}: {problem}")]
pub(crate) struct FlagError {
    flag: &'static str,
    value: String,
    problem: String,
}

fn error(flag: &'static str, value: &str, problem: impl Into<String>) -> FlagError {
    FlagError { flag, value: value.to_owned(), problem: problem.into() }
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Variable(String),
}

/// Splits `a=b,c=d`; a quoted part, `"a=b,c"`, is one.
fn fields(text: &str) -> Vec<(String, String)> {
    let mut is_quoted = false;
    text.split(|letter| {
        is_quoted ^= letter == '"';
        letter == ',' && !is_quoted
    })
    .map(|part| part.replace('"', ""))
    .filter(|part| !part.is_empty())
    .map(|part| match part.split_once('=') {
        Some((key, value)) => (key.trim().to_ascii_lowercase(), value.to_owned()),
        None => (part.trim().to_owned(), String::new()),
    })
    .collect()
}

/// Reads `KIND[,format=json|text]`.
pub(crate) fn call(text: &str) -> Result<Call, FlagError> {
    let (kind, rest) = text.split_once(',').unwrap_or((text, ""));
    let kind = match kind.trim() {
        "" | "build" => CallKind::Build,
        "check" | "lint" => CallKind::Check,
        "outline" => CallKind::Outline,
        "targets" => CallKind::Targets,
        _ => return Err(error("call", text, "it is build, check, outline or targets")),
    };
    let mut is_json = false;
    for (key, value) in fields(rest) {
        match (key.as_str(), value.as_str()) {
            ("format", "json") => is_json = true,
            ("format", "text" | "") => is_json = false,
            ("format", _) => return Err(error("call", text, "the format is text or json")),
            (other, _) => return Err(error("call", text, format!("there is no field {other:?}"))),
        }
    }
    Ok(Call { kind, is_json })
}

/// Reads `id=ID[,src=FILE][,env=NAME][,type=file|env]`.
pub(crate) fn secret(text: &str) -> Result<(String, Secret), FlagError> {
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for (key, value) in fields(text) {
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => source = Some(value),
            "env" => variable = Some(value),
            "type" => kind = Some(value),
            other => return Err(error("secret", text, format!("there is no field {other:?}"))),
        }
    }
    let id = id
        .or_else(|| source.as_deref().and_then(|path| path.rsplit('/').next()).map(str::to_owned));
    let id =
        id.filter(|id| !id.is_empty()).ok_or_else(|| error("secret", text, "it needs id=ID"))?;
    let secret = match (kind.as_deref(), source, variable) {
        (_, None, Some(variable)) => Secret::Variable(variable),
        (Some("env"), Some(variable), _) => Secret::Variable(variable),
        (_, Some(source), None) => Secret::File(source.into()),
        // The variable of that name, if there is one, as BuildKit does.
        (_, None, None) if std::env::var_os(&id).is_some() => Secret::Variable(id.clone()),
        _ => return Err(error("secret", text, "it needs src=FILE or env=VARIABLE")),
    };
    Ok((id, secret))
}

/// Reads `default` or `ID[=SOCKET]`.
pub(crate) fn agents(texts: &[String]) -> Result<HashMap<String, PathBuf>, FlagError> {
    let mut agents = HashMap::new();
    for text in texts {
        let (id, socket) = match text.split_once('=') {
            Some((id, socket)) => (id, PathBuf::from(socket)),
            None => {
                let socket = std::env::var_os("SSH_AUTH_SOCK").ok_or_else(|| {
                    error("ssh", text, "SSH_AUTH_SOCK is not set: start ssh-agent")
                })?;
                (text.as_str(), PathBuf::from(socket))
            }
        };
        agents.insert(id.to_owned(), socket);
    }
    Ok(agents)
}

/// What becomes of the result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Output {
    /// Form; `None`: an image here, and nothing else.
    pub(crate) kind: Option<BuildOutputKind>,
    /// Where what is sent goes.
    pub(crate) destination: Option<Destination>,
    /// Names for the image besides those of `-t`.
    pub(crate) names: Vec<String>,
    /// Makes no image.
    pub(crate) no_image: bool,
}

/// Reads `DIRECTORY`, `-`, or `type=local|tar|oci|docker|image|registry|cacheonly[,dest=…][,name=…]`.
pub(crate) fn output(text: &str) -> Result<Output, FlagError> {
    if text == "-" {
        return Ok(files(Destination::Stdout));
    }
    if !text.contains('=') {
        return Ok(files(Destination::Directory(text.into())));
    }
    let fields = OutputFields::read(text)?;
    let needed = || {
        let destination = fields.destination.clone();
        destination.ok_or_else(|| error("output", text, "it needs dest=PATH"))
    };
    let to_file = |path: String| match path.as_str() {
        "-" => Destination::Stdout,
        path => Destination::File(path.into()),
    };
    let names = fields.names.clone();
    Ok(match fields.kind.as_str() {
        "local" => files(Destination::Directory(needed()?.into())),
        "tar" => files(to_file(needed()?)),
        // Docker's own image store is ours.
        "docker" if fields.destination.is_none() => Output { names, ..Output::default() },
        "oci" | "docker" => {
            let destination = if fields.is_directory {
                Destination::Directory(needed()?.into())
            } else {
                to_file(needed()?)
            };
            Output {
                kind: Some(BuildOutputKind::Archive),
                destination: Some(destination),
                names,
                no_image: false,
            }
        }
        "registry" => Output { kind: Some(BuildOutputKind::Push), names, ..Output::default() },
        "image" => {
            let kind = fields.pushes.then_some(BuildOutputKind::Push);
            Output { kind, names, ..Output::default() }
        }
        "cacheonly" => Output { no_image: true, ..Output::default() },
        _ => {
            let problem = "the type is local, tar, oci, docker, image, registry or cacheonly";
            return Err(error("output", text, problem));
        }
    })
}

/// The fields of an `--output`.
#[derive(Debug, Default)]
struct OutputFields {
    kind: String,
    destination: Option<String>,
    names: Vec<String>,
    pushes: bool,
    /// An archive is unpacked.
    is_directory: bool,
}

impl OutputFields {
    fn read(text: &str) -> Result<Self, FlagError> {
        let mut found = Self::default();
        for (key, value) in fields(text) {
            let is_yes = matches!(value.as_str(), "" | "true" | "1");
            match (key.as_str(), value.as_str()) {
                ("type", _) => found.kind = value,
                ("dest", _) => found.destination = Some(value),
                // Several names stand in quotes: "name=a,b".
                ("name", _) => found.names.extend(value.split(',').map(str::to_owned)),
                ("push", _) => found.pushes = is_yes,
                ("tar", _) => found.is_directory = !is_yes,
                // What images are made of here.
                ("compression", "zstd") | ("oci-mediatypes", "" | "true" | "1") => {}
                // Done to all that is built: with SOURCE_DATE_EPOCH nothing in a layer is later, layers are
                // unpacked and kept, and each of several platforms has a directory.
                ("rewrite-timestamp" | "unpack" | "store" | "platform-split", _) if is_yes => {}
                ("rewrite-timestamp" | "unpack" | "store" | "platform-split", _) => {
                    let problem =
                        format!("{key} is true for all that is built here, and not optional");
                    return Err(error("output", text, problem));
                }
                ("compression" | "oci-mediatypes", _) => {
                    let problem =
                        "images here have OCI's media types and layers by zstd, no others";
                    return Err(error("output", text, problem));
                }
                (other, _) => {
                    return Err(error("output", text, format!("there is no field {other:?}")));
                }
            }
        }
        Ok(found)
    }
}

fn files(destination: Destination) -> Output {
    Output {
        kind: Some(BuildOutputKind::Files),
        destination: Some(destination),
        names: Vec::new(),
        no_image: true,
    }
}

/// The scanner that BuildKit takes if nobody names one.
const DEFAULT_SCANNER: &str = "docker/buildkit-syft-scanner:stable-1";

/// Reads what is on or off.
fn switch(flag: &'static str, text: &str, value: &str) -> Result<bool, FlagError> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(error(flag, text, format!("{other:?} is neither true nor false"))),
    }
}

/// A cache, and the directory that it is in or goes into.
pub(crate) type Cache<T> = (T, Option<PathBuf>);

/// Reads `NAME`, or `type=registry,ref=NAME`, or `type=local,src=DIRECTORY[,tag=…][,digest=…]`. A
/// directory is asked for under `context`.
pub(crate) fn cache_from(text: &str, context: &str) -> Result<Cache<BuildCacheSource>, FlagError> {
    let bad = |problem: String| error("cache-from", text, problem);
    let mut source = BuildCacheSource::default();
    if !text.contains('=') {
        source.place = Some(build_cache_source::Place::Registry(text.to_owned()));
        return Ok((source, None));
    }
    let (mut kind, mut name, mut directory) = (None, None, None);
    for (key, value) in fields(text) {
        match key.as_str() {
            "type" => kind = Some(value),
            "ref" => name = Some(value),
            "src" => directory = Some(PathBuf::from(value)),
            "tag" => source.tag = value,
            "digest" => source.digest = value,
            other => return Err(bad(format!("there is no field {other:?}"))),
        }
    }
    match (kind.as_deref(), name, directory) {
        (Some("registry"), Some(name), None) => {
            source.place = Some(build_cache_source::Place::Registry(name));
            Ok((source, None))
        }
        (Some("local"), None, Some(directory)) => {
            source.place = Some(build_cache_source::Place::Directory(context.to_owned()));
            Ok((source, Some(directory)))
        }
        (Some("registry"), ..) => Err(bad("it needs ref=NAME".to_owned())),
        (Some("local"), ..) => Err(bad("it needs src=DIRECTORY".to_owned())),
        _ => Err(bad("the type is registry or local".to_owned())),
    }
}

/// Reads `NAME`, `type=registry,ref=NAME`, `type=local,dest=DIRECTORY` or `type=inline`, with
/// `mode=min|max` and so on.
pub(crate) fn cache_to(text: &str, context: &str) -> Result<Cache<BuildCacheTarget>, FlagError> {
    let bad = |problem: String| error("cache-to", text, problem);
    let mut target = BuildCacheTarget::default();
    if !text.contains('=') && text != "inline" {
        target.place = Some(build_cache_target::Place::Registry(text.to_owned()));
        return Ok((target, None));
    }
    let (mut kind, mut name, mut directory) = (None, None, None);
    for (key, value) in fields(text) {
        match (key.as_str(), value.as_str()) {
            ("inline", "") => kind = Some("inline".to_owned()),
            ("type", _) => kind = Some(value),
            ("ref", _) => name = Some(value),
            ("dest", _) => directory = Some(PathBuf::from(value)),
            ("tag", _) => target.tag = value,
            ("mode", "min") => target.all_stages = false,
            ("mode", "max") => target.all_stages = true,
            ("ignore-error", value) => target.ignores_errors = switch("cache-to", text, value)?,
            ("image-manifest", value) => target.as_index = !switch("cache-to", text, value)?,
            // What is done anyway.
            ("oci-mediatypes", "" | "true" | "1") | ("compression", "zstd") => {}
            ("mode", other) => return Err(bad(format!("the mode is min or max, not {other:?}"))),
            ("compression" | "oci-mediatypes", _) => {
                return Err(bad("layers are stored in OCI's form, as zstd".to_owned()));
            }
            (other, _) => return Err(bad(format!("there is no field {other:?}"))),
        }
    }
    match (kind.as_deref(), name, directory) {
        (Some("inline"), None, None) => {
            target.place = Some(build_cache_target::Place::Inline(true));
            Ok((target, None))
        }
        (Some("registry"), Some(name), None) => {
            target.place = Some(build_cache_target::Place::Registry(name));
            Ok((target, None))
        }
        (Some("local"), None, Some(directory)) => {
            target.place = Some(build_cache_target::Place::Directory(context.to_owned()));
            Ok((target, Some(directory)))
        }
        (Some("registry"), ..) => Err(bad("it needs ref=NAME".to_owned())),
        (Some("local"), ..) => Err(bad("it needs dest=DIRECTORY".to_owned())),
        (Some("inline"), ..) => Err(bad("it goes into the image, and nowhere else".to_owned())),
        _ => Err(bad("the type is registry, local or inline".to_owned())),
    }
}

/// What is to be attested.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Attestations {
    /// How the image was made.
    pub(crate) provenance: Option<ProvenanceOptions>,
    /// Provenance goes with images only, not beside files.
    pub(crate) inline_only: bool,
    /// Who looks at what it is made of.
    pub(crate) sbom: Option<SbomOptions>,
}

impl Attestations {
    /// Reads `--provenance`: `true`, `false`, or `mode=min|max[,version=…][,builder-id=…]…`.
    pub(crate) fn provenance(&mut self, text: &str) -> Result<(), FlagError> {
        let bad = |problem: String| error("provenance", text, problem);
        let mut options = ProvenanceOptions { is_full: true, ..ProvenanceOptions::default() };
        let mut wanted = true;
        self.inline_only = false;
        for (key, value) in fields(text) {
            match (key.as_str(), value.as_str()) {
                ("true" | "1", "") => {}
                ("false" | "0", "") => wanted = false,
                ("disabled", value) => wanted = !switch("provenance", text, value)?,
                ("mode", "min") => options.is_full = false,
                ("mode", "max") => options.is_full = true,
                ("version", "v1" | "v0.2") => options.version = value,
                ("builder-id", _) => options.builder_id = value,
                ("reproducible", value) => {
                    options.is_reproducible = switch("provenance", text, value)?;
                }
                ("inline-only", value) => self.inline_only = switch("provenance", text, value)?,
                ("mode" | "version", other) => {
                    return Err(bad(format!(
                        "{key} cannot be {other:?}: mode=min|max, version=v1|v0.2"
                    )));
                }
                (other, _) => return Err(bad(format!("there is no field {other:?}"))),
            }
        }
        self.provenance = wanted.then_some(options);
        Ok(())
    }

    /// Reads `--sbom`: `true`, `false`, or the image of a scanner, `generator=IMAGE`.
    pub(crate) fn sbom(&mut self, text: &str) -> Result<(), FlagError> {
        let mut scanner = Some(DEFAULT_SCANNER.to_owned());
        for (key, value) in fields(text) {
            match (key.as_str(), value.as_str()) {
                ("true" | "1", "") => {}
                ("false" | "0", "") => scanner = None,
                ("disabled", value) if switch("sbom", text, value)? => scanner = None,
                ("disabled", _) => {}
                ("generator", _) => scanner = Some(value),
                (image, "") => scanner = Some(image.to_owned()),
                (other, _) => {
                    return Err(error("sbom", text, format!("there is no field {other:?}")));
                }
            }
        }
        self.sbom = scanner.map(|scanner| SbomOptions { scanner });
        Ok(())
    }

    /// Reads `--attest`: `type=provenance,…` or `type=sbom,…`.
    pub(crate) fn attest(&mut self, text: &str) -> Result<(), FlagError> {
        let (mut kind, mut rest) = (None, Vec::new());
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("type", value)) => kind = Some(value),
                _ => rest.push(part),
            }
        }
        match kind {
            Some("provenance") => self.provenance(&rest.join(",")),
            Some("sbom") => self.sbom(&rest.join(",")),
            _ => Err(error("attest", text, "the type is provenance or sbom")),
        }
    }
}

/// Whether a context is fetched by the daemon.
pub(crate) fn is_remote(text: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@", "github.com/"]
        .iter()
        .any(|start| text.starts_with(start))
}

/// Reads `NAME=PATH`, `NAME=docker-image://IMAGE`, `NAME=oci-layout://DIRECTORY[:TAG][@DIGEST]` or
/// `NAME=URL`. Returns the name, what the daemon is told, and the directory to serve.
pub(crate) fn named_context(
    text: &str,
) -> Result<(String, BuildContext, Option<PathBuf>), FlagError> {
    let (name, value) = text.split_once('=').ok_or_else(|| {
        error("build-context", text, "write NAME=PATH or NAME=docker-image://IMAGE")
    })?;
    let source = |source| BuildContext { source: Some(source) };
    if let Some(image) = value.strip_prefix("docker-image://") {
        return Ok((name.to_owned(), source(build_context::Source::Image(image.to_owned())), None));
    }
    if let Some(place) = value.strip_prefix("oci-layout://") {
        let (directory, layout) = layout(place);
        if directory.is_empty() {
            return Err(error("build-context", text, "write NAME=oci-layout://DIRECTORY[:TAG]"));
        }
        let source = source(build_context::Source::Layout(layout));
        return Ok((name.to_owned(), source, Some(directory.into())));
    }
    if is_remote(value) {
        return Ok((name.to_owned(), source(build_context::Source::Url(value.to_owned())), None));
    }
    let path = PathBuf::from(value);
    let identity = identity(&path);
    Ok((name.to_owned(), source(build_context::Source::Client(identity)), Some(path)))
}

/// Reads `DIRECTORY[:TAG][@DIGEST]`.
fn layout(place: &str) -> (&str, BuildLayout) {
    let (place, digest) = match place.rsplit_once('@') {
        Some((place, digest)) if digest.contains(':') => (place, digest),
        _ => (place, ""),
    };
    let (directory, tag) = match place.rsplit_once(':') {
        Some((directory, tag)) if !tag.contains('/') => (directory, tag),
        _ => (place, ""),
    };
    (directory, BuildLayout { tag: tag.to_owned(), digest: digest.to_owned() })
}

/// What tells a directory from others: the machine and the path.
pub(crate) fn identity(path: &Path) -> String {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    format!("{}:{}", machine.trim(), path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_a_kind_and_a_form() {
        let is =
            |text: &str, kind, is_json| assert_eq!(call(text).unwrap(), Call { kind, is_json });

        is("build", CallKind::Build, false);
        is("lint", CallKind::Check, false);
        is("targets,format=json", CallKind::Targets, true);
        is("outline,format=text", CallKind::Outline, false);
        for bad in ["layers", "check,format=xml", "check,into=json"] {
            assert!(call(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn outputs_are_read_as_buildx_reads_them() {
        assert_eq!(
            output("out").expect("a directory").destination,
            Some(Destination::Directory("out".into()))
        );
        assert_eq!(output("-").expect("a pipe").destination, Some(Destination::Stdout));
        let tar = output("type=tar,dest=x.tar").expect("a file");
        assert_eq!((tar.kind, tar.no_image), (Some(BuildOutputKind::Files), true));
        let oci = output("type=oci,dest=-").expect("a pipe");
        assert_eq!(
            (oci.kind, oci.destination),
            (Some(BuildOutputKind::Archive), Some(Destination::Stdout))
        );
        assert_eq!(
            output("type=image,name=a,push=true").expect("a push").kind,
            Some(BuildOutputKind::Push)
        );
        let docker = output("type=docker,name=a").expect("an image here");
        assert_eq!((docker.kind, docker.no_image, docker.names.len()), (None, false, 1));
        assert!(output("type=cacheonly").expect("nothing").no_image);
        let layout = output("type=oci,dest=out,tar=false").expect("a layout");
        assert_eq!(layout.destination, Some(Destination::Directory("out".into())));
        assert!(output("type=image,name=a,compression=zstd,oci-mediatypes=true").is_ok());
        assert!(output("type=oci,dest=a,rewrite-timestamp=true,unpack=1,store").is_ok());
        assert!(output("type=oci,dest=a,rewrite-timestamp=false").is_err());
        for bad in [
            "type=local",
            "type=floppy,dest=x",
            "type=tar,dest=x,colour=red",
            "type=image,compression=gzip",
        ] {
            assert!(output(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn caches_are_read_as_buildx_reads_them() {
        use build_cache_source::Place as From;
        use build_cache_target::Place as To;

        let from = |text: &str| cache_from(text, "c").map(|(one, path)| (one.place, path));
        assert_eq!(from("a/b:c").expect("a name"), (Some(From::Registry("a/b:c".into())), None));
        assert_eq!(
            from("type=registry,ref=a").expect("a name").0,
            Some(From::Registry("a".into()))
        );
        assert_eq!(
            from("type=local,src=/x").expect("a directory"),
            (Some(From::Directory("c".into())), Some("/x".into()))
        );
        let to = |text: &str| cache_to(text, "c").expect("a cache").0;
        assert_eq!(to("type=inline").place, Some(To::Inline(true)));
        assert_eq!(to("inline").place, Some(To::Inline(true)));
        let max = to("type=registry,ref=a,mode=max,image-manifest=false,ignore-error=true");
        assert!(max.all_stages && max.as_index && max.ignores_errors);
        for bad in ["type=gha", "type=registry", "type=local,src=x", "type=inline,ref=x"] {
            assert!(cache_to(bad, "c").is_err(), "{bad}");
        }
        for bad in ["type=s3,bucket=x", "type=local", "type=registry,ref=a,mode=max"] {
            assert!(cache_from(bad, "c").is_err(), "{bad}");
        }
        assert!(cache_to("type=registry,ref=a,compression=estargz", "c").is_err());
    }

    #[test]
    fn attestations_have_short_and_long_forms() {
        let read = |text: &str| {
            let mut attestations = Attestations::default();
            attestations.attest(text).expect("an attestation");
            attestations
        };
        let full = read("type=provenance").provenance.expect("provenance");
        assert!(full.is_full && full.version.is_empty());
        let min = read("type=provenance,mode=min,version=v0.2,builder-id=me,inline-only=true");
        assert!(min.inline_only);
        let options = min.provenance.expect("provenance");
        assert_eq!((options.is_full, options.builder_id.as_str()), (false, "me"));
        assert_eq!(read("type=provenance,disabled=true").provenance, None);
        assert_eq!(read("type=sbom").sbom.expect("a scanner").scanner, DEFAULT_SCANNER);
        assert_eq!(read("type=sbom,generator=a/b:c").sbom.expect("a scanner").scanner, "a/b:c");
        let mut off = read("type=sbom");
        off.sbom("false").expect("off");
        assert_eq!(off.sbom, None);
        assert!(Attestations::default().attest("type=vex").is_err());
        assert!(Attestations::default().provenance("mode=medium").is_err());
    }

    #[test]
    fn layouts_are_named_by_tag_digest_or_neither() {
        let read = |text: &str| {
            let (name, context, directory) = named_context(text).expect("a context");
            let Some(build_context::Source::Layout(layout)) = context.source else {
                panic!("{text} is another kind of context");
            };
            (name, directory.expect("a directory"), layout.tag, layout.digest)
        };
        let of = |directory: &str, tag: &str, digest: &str| {
            ("base".to_owned(), PathBuf::from(directory), tag.to_owned(), digest.to_owned())
        };

        assert_eq!(read("base=oci-layout://a/b"), of("a/b", "", ""));
        assert_eq!(read("base=oci-layout:///a/b:1.2"), of("/a/b", "1.2", ""));
        assert_eq!(read("base=oci-layout:///a@sha256:ab"), of("/a", "", "sha256:ab"));
        assert_eq!(read("base=oci-layout:///a:x@sha256:ab"), of("/a", "x", "sha256:ab"));
        assert_eq!(read("base=oci-layout://./x:8/y"), of("./x:8/y", "", ""));
        assert!(named_context("base=oci-layout://:tag").is_err());
    }

    #[test]
    fn secrets_come_from_files_and_variables() {
        assert_eq!(secret("id=a,src=/x").expect("a file"), ("a".into(), Secret::File("/x".into())));
        assert_eq!(secret("src=/x/key").expect("a file").0, "key");
        assert_eq!(
            secret("id=a,env=B").expect("a variable"),
            ("a".into(), Secret::Variable("B".into()))
        );
        assert_eq!(
            secret("id=a,type=env,src=B").expect("a variable").1,
            Secret::Variable("B".into())
        );
        for bad in ["env=B", "id=no_such_variable_here", "id=a,where=b"] {
            assert!(secret(bad).is_err(), "{bad}");
        }
    }
}
