//! References: the names of images as people type them (distribution's grammar, by hand).
//!
//! ```text
//! reference  = name [ ":" tag ] [ "@" digest ]
//! name       = [ domain "/" ] component { "/" component }
//! domain     = host [ ":" port ]             host = name, IPv4, or IPv6 in brackets
//! component  = alnum { separator alnum }     alnum = [a-z0-9]+, separator = "." | "_" | "__" | "-"+
//! tag        = [A-Za-z0-9_] [A-Za-z0-9_.-]{0,127}
//! ```
//!
//! As Docker does it, the part before the first slash is a domain only if it has a dot, a colon or a
//! capital, or is `localhost`; otherwise the domain is `docker.io`, where a name without a slash means
//! `library/NAME`. A reference without tag and digest means `:latest`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use keg_store::{Digest, DigestError, Explain, Reason};

/// The registry of names without a domain.
pub const DEFAULT_DOMAIN: &str = "docker.io";

/// What Docker once called its registry.
const LEGACY_DOMAIN: &str = "index.docker.io";

/// Where the default registry keeps names without a slash.
const OFFICIAL: &str = "library/";

/// The tag that is meant if none is given.
const DEFAULT_TAG: &str = "latest";

/// Longest path of a repository, in bytes.
const MAX_PATH: usize = 255;

/// Longest tag, in bytes.
const MAX_TAG: usize = 128;

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// There is nothing.
    #[error("the image's name is empty")]
    Empty,
    /// The name has capitals.
    #[error("image {0:?}: the repository's name must be lower-case")]
    Uppercase(String),
    /// The name is an image id.
    #[error("image {0:?}: 64 hexadecimal digits are an id, not a name")]
    LooksLikeId(String),
    /// The domain is malformed.
    #[error("image {text:?}: {domain:?} is not a registry's host name")]
    Domain {
        /// The whole text.
        text: String,
        /// Its domain.
        domain: String,
    },
    /// The path is malformed.
    #[error("image {text:?}: {path:?} is not a repository's name")]
    Path {
        /// The whole text.
        text: String,
        /// Its path.
        path: String,
    },
    /// The path is too long.
    #[error("image {0:?}: the repository's name has more than 255 characters")]
    TooLong(String),
    /// The tag is malformed.
    #[error("image {text:?}: {tag:?} is not a tag")]
    Tag {
        /// The whole text.
        text: String,
        /// Its tag.
        tag: String,
    },
    /// The digest is malformed.
    #[error("image {text:?} has a malformed digest")]
    Digest {
        /// The whole text.
        text: String,
        /// What is wrong with the digest.
        #[source]
        source: DigestError,
    },
}

impl Explain for ReferenceError {
    fn reason(&self) -> Reason {
        Reason::InvalidReference
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Uppercase(_) => "write the repository's name in lower case".into(),
            Self::LooksLikeId(_) => "give a name, or only a beginning of the id".into(),
            Self::Digest { .. } => {
                "write the digest as sha256: and 64 lower-case hexadecimal digits".into()
            }
            _ => "write the image as [HOST[:PORT]/]NAME[:TAG] or NAME@sha256:DIGEST".into(),
        })
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        let text = match self {
            Self::Empty => return Vec::new(),
            Self::Uppercase(text) | Self::LooksLikeId(text) | Self::TooLong(text) => text,
            Self::Domain { text, .. }
            | Self::Path { text, .. }
            | Self::Tag { text, .. }
            | Self::Digest { text, .. } => text,
        };
        vec![("image", text.clone())]
    }
}

/// A name for an image, complete: with its domain, its whole path, and a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses what people type, and fills in what they leave out: registry, `library/`, `:latest`.
    ///
    /// # Errors
    /// [`ReferenceError`] if the text does not follow the grammar.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let mut reference = Self::parse_untagged(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some(DEFAULT_TAG.to_owned());
        }
        Ok(reference)
    }

    /// Parses what people type, but leaves tag and digest out if they do.
    ///
    /// # Errors
    /// [`ReferenceError`] if the text does not follow the grammar.
    pub fn parse_untagged(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && text.bytes().all(is_hex) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (domain, rest) = split_domain(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(text, digest)?)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(parse_tag(text, tag)?)),
            None => (rest, None),
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(text.to_owned()));
        }
        if !is_domain(domain) {
            let domain = domain.to_owned();
            return Err(ReferenceError::Domain { text: text.to_owned(), domain });
        }
        if !path.split('/').all(is_component) {
            return Err(ReferenceError::Path { text: text.to_owned(), path: path.to_owned() });
        }
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        if path.len() > MAX_PATH {
            return Err(ReferenceError::TooLong(text.to_owned()));
        }
        Ok(Self { domain: domain.to_owned(), path, tag, digest })
    }

    /// Tells whether a text that people type leaves the registry out.
    #[must_use]
    pub fn is_short(text: &str) -> bool {
        split_domain(text).1.len() == text.len()
    }

    /// Returns the registry: `docker.io`, `localhost:5000`, …
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the repository below the registry: `library/busybox`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the tag, if there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, if there is one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns registry and repository: `docker.io/library/busybox`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Returns registry and repository as people write them: `busybox`.
    #[must_use]
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// Returns the whole reference as people write it: `busybox:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.with_suffixes(self.familiar_repository())
    }

    /// Returns what a registry is asked for: the digest if there is one, else the tag.
    #[must_use]
    pub fn tag_or_digest(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// Returns the reference to exactly these bytes in the same repository, without a tag.
    #[must_use]
    pub fn at_digest(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    fn with_suffixes(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }
}

impl fmt::Display for Reference {
    /// Writes the complete form: `docker.io/library/busybox:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffixes(self.repository()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((domain, rest))
            if domain == "localhost"
                || domain.contains(['.', ':'])
                || domain.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (domain, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn parse_digest(text: &str, digest: &str) -> Result<Digest, ReferenceError> {
    digest.parse().map_err(|source| ReferenceError::Digest { text: text.to_owned(), source })
}

fn parse_tag(text: &str, tag: &str) -> Result<String, ReferenceError> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_tag = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'));
    if is_tag {
        Ok(tag.to_owned())
    } else {
        Err(ReferenceError::Tag { text: text.to_owned(), tag: tag.to_owned() })
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                let is_address = address.bytes().all(|byte| is_hex_any(byte) || byte == b':');
                return is_address && !address.is_empty() && is_port_suffix(port);
            }
            None => return false,
        },
        None => domain.find(':').map_or((domain, ""), |at| domain.split_at(at)),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(is_label) && is_port_suffix(port)
}

/// Tells whether the text is empty, or a colon and digits.
fn is_port_suffix(text: &str) -> bool {
    match text.strip_prefix(':') {
        Some(port) => !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()),
        None => text.is_empty(),
    }
}

/// Tells whether the text is runs of letters and digits with proper separators between them.
fn is_component(text: &str) -> bool {
    let is_alnum = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    if !(bytes.first().is_some_and(is_alnum) && bytes.last().is_some_and(is_alnum)) {
        return false;
    }
    bytes.split(is_alnum).filter(|separator| !separator.is_empty()).all(|separator| {
        matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
    })
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_hex_any(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_is_left_out_is_filled_in() {
        let long = "registry.example:5000/a/b_c/d-e:v1.2";
        for (typed, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1", "busybox:1"),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("library/app", "docker.io/library/app:latest", "app:latest"),
            ("docker.io/app", "docker.io/library/app:latest", "app:latest"),
            ("index.docker.io/app", "docker.io/library/app:latest", "app:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
            ("127.0.0.1:5000/a:x", "127.0.0.1:5000/a:x", "127.0.0.1:5000/a:x"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("[fd00::1]/a", "[fd00::1]/a:latest", "[fd00::1]/a:latest"),
            ("Host/app", "Host/app:latest", "Host/app:latest"),
            (long, long, long),
            ("a__b/c---d.e", "docker.io/a__b/c---d.e:latest", "a__b/c---d.e:latest"),
        ] {
            let reference = Reference::parse(typed).unwrap();

            assert_eq!(reference.to_string(), full, "{typed}");
            assert_eq!(reference.familiar(), familiar, "{typed}");
        }
    }

    #[test]
    fn a_digest_stands_without_a_tag_and_wins_over_one() {
        let plain = Reference::parse(&format!("busybox@{DIGEST}")).unwrap();
        let both = Reference::parse(&format!("busybox:1@{DIGEST}")).unwrap();

        assert_eq!((plain.tag(), plain.tag_or_digest()), (None, DIGEST));
        assert_eq!((both.tag(), both.tag_or_digest()), (Some("1"), DIGEST));
        assert_eq!(both.to_string(), format!("docker.io/library/busybox:1@{DIGEST}"));
        assert_eq!(both.at_digest(plain.digest().unwrap()), plain);
    }

    #[test]
    fn malformed_references_are_refused_each_for_its_reason() {
        use ReferenceError as E;

        let id = "0123456789abcdef".repeat(4);
        let is = |text: &str, wanted: fn(&E) -> bool| {
            let error = Reference::parse(text).unwrap_err();
            assert!(wanted(&error), "{text}: {error:?}");
        };
        is("", |e| matches!(e, E::Empty));
        is("Busybox", |e| matches!(e, E::Uppercase(_)));
        is("host.io/A/b", |e| matches!(e, E::Uppercase(_)));
        is(&id, |e| matches!(e, E::LooksLikeId(_)));
        is("-x.io/a", |e| matches!(e, E::Domain { .. }));
        is("x.io:/a", |e| matches!(e, E::Domain { .. }));
        is("x.io:80a/a", |e| matches!(e, E::Domain { .. }));
        is("[::1/a", |e| matches!(e, E::Domain { .. }));
        is("[]:1/a", |e| matches!(e, E::Domain { .. }));
        is("x..io/a", |e| matches!(e, E::Domain { .. }));
        for path in ["a//b", "/a", "a/", "_a", "a_", "a___b", "a..b", "a.-b", "a b", "ä", "../a"] {
            is(path, |e| matches!(e, E::Path { .. } | E::Domain { .. }));
        }
        is(&format!("x.io/{}", "a".repeat(256)), |e| matches!(e, E::TooLong(_)));
        is(&"a".repeat(256 - OFFICIAL.len()), |e| matches!(e, E::TooLong(_)));
        is("a:", |e| matches!(e, E::Tag { .. }));
        is("a:-x", |e| matches!(e, E::Tag { .. }));
        is("a:x:y", |e| matches!(e, E::Tag { .. }));
        is(&format!("a:{}", "t".repeat(129)), |e| matches!(e, E::Tag { .. }));
        is("a@sha256:12", |e| matches!(e, E::Digest { .. }));
        is("a@", |e| matches!(e, E::Digest { .. }));
    }

    #[test]
    fn the_longest_names_that_are_allowed_are_accepted() {
        let path = "a".repeat(MAX_PATH - OFFICIAL.len());
        let tag = "t".repeat(MAX_TAG);

        assert!(Reference::parse(&format!("{path}:{tag}")).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,300}") {
            let _ = Reference::parse(&text);
        }

        #[test]
        fn both_forms_are_parsed_to_the_same_reference(
            host in "([a-z]{1,5}\\.[a-z]{1,3}(:[0-9]{1,4})?/)?",
            path in "[a-z0-9]{1,6}((_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,3}(\\.[a-z0-9]{1,3})?){0,2}",
            tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,9})?",
            with_digest: bool,
        ) {
            let digest = if with_digest { format!("@{DIGEST}") } else { String::new() };
            let reference = Reference::parse(&format!("{host}{path}{tag}{digest}")).unwrap();

            prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
            prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
        }

        #[test]
        fn what_is_accepted_is_safe_as_a_path_below_a_registry(text in "[a-zA-Z0-9/:@._%?#-]{1,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert!(!reference.path().split('/').any(|part| part.is_empty() || part == ".."));
                prop_assert!(!reference.path().contains(['%', '?', '#', '@', ':']));
            }
        }
    }
}
