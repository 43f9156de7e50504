//! Entrances for the fuzz targets in `fuzz/`: each parser of something foreign, fed with any bytes.
//! Nothing here may panic, hang or grow without bounds, whatever comes.

use std::io::BufReader;
use std::path::Path;

use keg_store::{Descriptor, Digest};

use crate::extract::ArchiveReader;
use crate::manifest::{AnyDocument, Config, Document};
use crate::media_type::{OCI_INDEX, OCI_MANIFEST};
use crate::{Platform, Reference, ShortNamePolicy, ShortNames, registry};

/// A reference that people type.
pub fn reference(text: &str) {
    if let Ok(reference) = Reference::parse(text) {
        let again = Reference::parse(&reference.to_string());
        assert_eq!(again.ok().as_ref(), Some(&reference), "it changes when it is written");
    }
}

/// A manifest or index that a registry sends, and a configuration of the same bytes.
pub fn manifest(bytes: &[u8]) {
    for media_type in [OCI_MANIFEST, OCI_INDEX] {
        let target = Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::sha256(bytes),
            size_bytes: bytes.len() as u64,
        };
        match Document::parse(&target, bytes) {
            Ok(Document::Manifest(manifest)) => drop(Config::parse(&manifest, bytes)),
            Ok(Document::Index(index)) => drop(index.choose(&Platform::host()).cloned()),
            Err(_) => {}
        }
        drop(AnyDocument::parse(&target, bytes));
    }
}

/// An archive of a layer.
pub fn archive(bytes: &[u8]) {
    let mut reader = ArchiveReader::new(BufReader::new(bytes));
    while let Ok(Some(_)) = reader.next() {
        while let Ok(piece) = reader.data() {
            let count = piece.len();
            if count == 0 {
                break;
            }
            reader.consume(count);
        }
    }
}

/// An operator's `hosts.toml`.
pub fn hosts(text: &str) {
    registry::fuzz_hosts(text, Path::new("/certs.d/x.example/hosts.toml"));
}

/// A registry's `WWW-Authenticate`.
pub fn challenge(value: &str) {
    registry::fuzz_challenge(value);
}

/// A server's certificate that nobody vouches for.
pub fn certificate(bytes: &[u8]) {
    registry::fuzz_certificate(bytes);
}

/// A name without a registry, under a policy that makes several of it.
pub fn short_name(text: &str) {
    let names = ShortNames {
        policy: ShortNamePolicy::Search(vec!["a.example".to_owned(), "docker.io".to_owned()]),
        aliases: [("app".to_owned(), "registry.example/team/app".to_owned())].into(),
    };
    for meaning in names.meanings(text).into_iter().flatten() {
        assert_eq!(Reference::parse(&meaning.to_string()).ok(), Some(meaning));
    }
}
