//! Flags of a build whose values have parts: secrets, agents, outputs, contexts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use keg_proto::keg::v1::{BuildContext, BuildOutputKind, build_context};

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

/// Splits `a=b,c=d`.
fn fields(text: &str) -> Vec<(String, String)> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| match part.split_once('=') {
            Some((key, value)) => (key.trim().to_ascii_lowercase(), value.to_owned()),
            None => (part.trim().to_owned(), String::new()),
        })
        .collect()
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

/// Reads `DIRECTORY`, `-`, or `type=local|tar|oci|docker|image|registry[,dest=…][,name=…]`.
pub(crate) fn output(text: &str) -> Result<Output, FlagError> {
    if text == "-" {
        return Ok(files(Destination::Stdout));
    }
    if !text.contains('=') {
        return Ok(files(Destination::Directory(text.into())));
    }
    let (mut kind, mut destination, mut names, mut pushes) = (None, None, Vec::new(), false);
    for (key, value) in fields(text) {
        match key.as_str() {
            "type" => kind = Some(value),
            "dest" => destination = Some(value),
            "name" => names.push(value),
            "push" => pushes = matches!(value.as_str(), "" | "true" | "1"),
            other => return Err(error("output", text, format!("there is no field {other:?}"))),
        }
    }
    let needed = || destination.clone().ok_or_else(|| error("output", text, "it needs dest=PATH"));
    let to_file = |path: String| match path.as_str() {
        "-" => Destination::Stdout,
        path => Destination::File(path.into()),
    };
    Ok(match kind.as_deref() {
        Some("local") => files(Destination::Directory(needed()?.into())),
        Some("tar") => files(to_file(needed()?)),
        Some("oci" | "docker") => Output {
            kind: Some(BuildOutputKind::Archive),
            destination: Some(to_file(needed()?)),
            names,
            no_image: false,
        },
        Some("registry") => {
            Output { kind: Some(BuildOutputKind::Push), names, ..Output::default() }
        }
        Some("image") => {
            Output { kind: pushes.then_some(BuildOutputKind::Push), names, ..Output::default() }
        }
        _ => {
            return Err(error(
                "output",
                text,
                "the type is local, tar, oci, docker, image or registry",
            ));
        }
    })
}

fn files(destination: Destination) -> Output {
    Output {
        kind: Some(BuildOutputKind::Files),
        destination: Some(destination),
        names: Vec::new(),
        no_image: true,
    }
}

/// Whether a context is fetched by the daemon.
pub(crate) fn is_remote(text: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@", "github.com/"]
        .iter()
        .any(|start| text.starts_with(start))
}

/// Reads `NAME=PATH`, `NAME=docker-image://IMAGE` or `NAME=URL`. Returns the name, what the daemon is
/// told, and the directory to serve.
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
    if is_remote(value) {
        return Ok((name.to_owned(), source(build_context::Source::Url(value.to_owned())), None));
    }
    let path = PathBuf::from(value);
    let identity = identity(&path);
    Ok((name.to_owned(), source(build_context::Source::Client(identity)), Some(path)))
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
        for bad in ["type=local", "type=floppy,dest=x", "type=tar,dest=x,colour=red"] {
            assert!(output(bad).is_err(), "{bad}");
        }
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
