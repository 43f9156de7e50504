//! Image references as people write them, and as they read them.

use crate::failure::Failure;

/// Registry that is meant when none is named.
const DEFAULT_REGISTRY: &str = "docker.io/";

/// Group that is meant when none is named, at the default registry.
const DEFAULT_GROUP: &str = "library/";

/// Leaves out what goes without saying: "docker.io/library/busybox:1" becomes "busybox:1".
pub(crate) fn familiar(reference: &str) -> &str {
    match reference.strip_prefix(DEFAULT_REGISTRY) {
        // A name below the group stays below it: "library/a/b" is not "a/b".
        Some(rest) => match rest.strip_prefix(DEFAULT_GROUP) {
            Some(name) if !name.contains('/') => name,
            _ => rest,
        },
        None => reference,
    }
}

/// A reference taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    /// Registry, group and name.
    pub(crate) repository: &'a str,
    /// Tag, if there is one.
    pub(crate) tag: Option<&'a str>,
    /// Digest, if there is one.
    pub(crate) digest: Option<&'a str>,
}

/// Takes a reference apart. What is malformed is left for the daemon to refuse.
pub(crate) fn split(reference: &str) -> Parts<'_> {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    match name.rsplit_once(':') {
        // In "host:5000/a" the colon belongs to the port.
        Some((repository, tag)) if !tag.contains('/') => {
            Parts { repository, tag: Some(tag), digest }
        }
        _ => Parts { repository: name, tag: None, digest },
    }
}

/// A name with a tag or digest where all tags are asked for.
#[derive(Debug, thiserror::Error)]
#[error("{image:?} names a tag or digest, and --all-tags asks for all tags")]
struct TagAndAllTags {
    image: String,
}

/// Makes sure that a reference is a repository's name alone.
///
/// # Errors
/// A usage failure if it has a tag or digest.
pub(crate) fn without_tag(reference: &str) -> Result<(), Failure> {
    match split(reference) {
        Parts { tag: None, digest: None, .. } => Ok(()),
        _ => {
            let image = reference.to_owned();
            Err(Failure::usage(TagAndAllTags { image }).with_remedy("leave it out"))
        }
    }
}

/// Whether an image's name leaves the registry out.
pub(crate) fn is_short(image: &str) -> bool {
    host(image).is_none()
}

/// The registry of an image: "docker.io", or what comes before the first slash if that looks like a
/// host's name.
pub(crate) fn registry(image: &str) -> &str {
    match host(image) {
        None | Some("index.docker.io") => DEFAULT_REGISTRY.trim_end_matches('/'),
        Some(host) => host,
    }
}

/// What comes before the first slash, if that looks like a host's name.
fn host(image: &str) -> Option<&str> {
    let (host, _) = image.split_once('/')?;
    let is_host = host == "localhost"
        || host.contains(['.', ':'])
        || host.contains(|c: char| c.is_ascii_uppercase());
    is_host.then_some(host)
}

/// The reference with the tag that is meant when none is named.
pub(crate) fn with_default_tag(reference: &str) -> String {
    match split(reference) {
        Parts { tag: None, digest: None, repository } => format!("{repository}:latest"),
        _ => reference.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn familiar_names_leave_out_the_defaults_only() {
        let table = [
            ("docker.io/library/busybox:latest", "busybox:latest"),
            ("docker.io/grafana/loki:1", "grafana/loki:1"),
            ("docker.io/library/a/b:1", "library/a/b:1"),
            ("localhost:5000/busybox:1", "localhost:5000/busybox:1"),
            ("quay.io/library/x@sha256:00", "quay.io/library/x@sha256:00"),
        ];
        for (full, short) in table {
            assert_eq!(familiar(full), short);
        }
    }

    #[test]
    fn the_registry_is_what_looks_like_a_host() {
        let table = [
            ("busybox", "docker.io"),
            ("grafana/loki", "docker.io"),
            ("index.docker.io/a/b", "docker.io"),
            ("quay.io/a/b:1", "quay.io"),
            ("localhost/a", "localhost"),
            ("host:5000/a", "host:5000"),
        ];
        for (image, expected) in table {
            assert_eq!(registry(image), expected, "{image}");
            assert_eq!(is_short(image), ["busybox", "grafana/loki"].contains(&image), "{image}");
        }
    }

    #[test]
    fn references_are_taken_apart() {
        let table = [
            ("busybox", "busybox", None, None, "busybox:latest"),
            ("a/b:1", "a/b", Some("1"), None, "a/b:1"),
            ("host:5000/a", "host:5000/a", None, None, "host:5000/a:latest"),
            ("host:5000/a:2", "host:5000/a", Some("2"), None, "host:5000/a:2"),
            ("a@sha256:00", "a", None, Some("sha256:00"), "a@sha256:00"),
            ("a:1@sha256:00", "a", Some("1"), Some("sha256:00"), "a:1@sha256:00"),
        ];
        for (reference, repository, tag, digest, tagged) in table {
            assert_eq!(split(reference), Parts { repository, tag, digest }, "{reference}");
            assert_eq!(with_default_tag(reference), tagged);
        }
    }
}
