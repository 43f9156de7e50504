//! Save: images become an archive that is an OCI layout and Docker's archive at once.
//!
//! ```text
//! oci-layout, index.json     OCI image-spec, image-layout.md
//! manifest.json              what `docker load` reads; its paths lead into blobs/, too
//! blobs/ALG/HEX              each blob once, however many images need it
//! ```
//!
//! The same images give the same bytes: names are sorted, times are zero.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use keg_store::{ContentError, Descriptor, Digest, ErrorClass, Explain, Reason};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::images::ImageError;
use crate::parts::Parts;
use crate::{ImageRecord, Images, Platform, Reference};

/// Annotation of an index entry that holds the whole name; containerd's.
pub(crate) const NAME_ANNOTATION: &str = "io.containerd.image.name";

/// Annotation of an index entry that holds the tag (OCI image-spec, annotations.md).
pub(crate) const TAG_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// What to save.
#[derive(Debug, Clone, Default)]
pub struct SaveRequest {
    /// A text that is a name saves the image under that name alone, a name without a tag under all tags
    /// of the repository; one that is an id saves it without a name.
    pub images: Vec<String>,
    /// The one platform to save of images of several; `None`: all that are here.
    pub platform: Option<Platform>,
    /// Whether what is here of what refers to the images, signatures for example, is saved too.
    pub referrers: bool,
}

/// Why images were not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// An image is not here.
    #[error("cannot save {image}")]
    Find {
        /// What was asked for.
        image: String,
        /// Why.
        #[source]
        source: Box<ImageError>,
    },
    /// A blob cannot be read.
    #[error("cannot save {image}")]
    Content {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: ContentError,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write {
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Explain for SaveError {
    fn reason(&self) -> Reason {
        match self {
            Self::Find { source, .. } => source.reason(),
            Self::Content { source, .. } => source.reason(),
            Self::Write { source } => keg_store::io_reason(source),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Find { source, .. } => source.class(),
            Self::Content { source, .. } => source.class(),
            Self::Write { .. } => ErrorClass::Aborted,
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Find { source, .. } => source.remedy(),
            Self::Content { source, .. } => source.remedy(),
            Self::Write { .. } => Some("check where the archive is written to".into()),
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Find { image, .. } | Self::Content { image, .. } => {
                vec![("image", image.clone())]
            }
            Self::Write { .. } => Vec::new(),
        }
    }
}

/// An image and the names that it is saved under.
struct Chosen {
    image: ImageRecord,
    parts: Parts,
    names: Vec<Reference>,
}

impl Images {
    /// Writes images into an archive. Blocks.
    ///
    /// # Errors
    /// [`SaveError::Find`] before anything is written; otherwise the archive is incomplete.
    pub fn save(&self, request: &SaveRequest, output: impl Write) -> Result<(), SaveError> {
        let chosen = self.choose(request)?;
        let mut archive = Archive { builder: Builder::new(output) };
        archive.directory("blobs/")?;
        for algorithm in ["sha256", "sha512"] {
            if blobs(&chosen).any(|(blob, _)| blob.algorithm().as_str() == algorithm) {
                archive.directory(&format!("blobs/{algorithm}/"))?;
            }
        }
        let mut written = BTreeSet::new();
        for (digest, image) in blobs(&chosen) {
            if written.insert(digest) {
                self.save_blob(&mut archive, digest, image)?;
            }
        }
        for (document, bytes) in chosen.iter().flat_map(|chosen| &chosen.parts.documents) {
            if written.insert(&document.digest) {
                archive.file(&blob_path(&document.digest), bytes.len() as u64, bytes.as_slice())?;
            }
        }
        archive.document("index.json", &index(&chosen))?;
        archive.document("manifest.json", &docker_manifest(&chosen))?;
        archive.document("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
        let mut output = archive.builder.into_inner().map_err(written_error)?;
        output.flush().map_err(written_error)
    }

    fn choose(&self, request: &SaveRequest) -> Result<Vec<Chosen>, SaveError> {
        let platform = request.platform.as_ref();
        let mut chosen: BTreeMap<Digest, Chosen> = BTreeMap::new();
        for text in &request.images {
            for (text, name) in self.expand(text)? {
                let image = self.resolve(&text, platform).map_err(find_error(&text))?;
                let name = name.filter(|name| image.names.contains(name));
                let parts = self
                    .image_parts(&image, platform, request.referrers)
                    .map_err(|source| SaveError::Content { image: text.clone(), source })?;
                let entry = chosen.entry(parts.target.digest.clone()).or_insert_with(|| Chosen {
                    image,
                    parts,
                    names: Vec::new(),
                });
                entry.names.extend(name);
                entry.names.sort();
                entry.names.dedup();
            }
        }
        Ok(chosen.into_values().collect())
    }

    /// Returns what a text stands for: itself, or all tags of a repository.
    fn expand(&self, text: &str) -> Result<Vec<(String, Option<Reference>)>, SaveError> {
        let itself = || vec![(text.to_owned(), Reference::parse(text).ok())];
        let Ok(repository) = Reference::parse_untagged(text) else { return Ok(itself()) };
        if repository.tag().is_some() || repository.digest().is_some() {
            return Ok(itself());
        }
        let list = self.list().map_err(find_error(text))?;
        let names = list.into_iter().flat_map(|image| image.names);
        let tags: Vec<_> = names
            .filter(|name| name.repository() == repository.repository())
            .map(|name| (name.to_string(), Some(name)))
            .collect();
        // It may be the beginning of an id.
        Ok(if tags.is_empty() { itself() } else { tags })
    }

    fn save_blob<W: Write>(
        &self,
        archive: &mut Archive<W>,
        digest: &Digest,
        image: &ImageRecord,
    ) -> Result<(), SaveError> {
        let content = self.store().content();
        let blob = content
            .open_blob(&self.shared.ns, digest)
            .map_err(|source| SaveError::Content { image: image.display_name(), source })?;
        let size_bytes = blob.size_bytes();
        archive.file(&blob_path(digest), size_bytes, blob)
    }
}

/// Returns the blobs of images that are no manifests, with the image that needs each.
fn blobs(chosen: &[Chosen]) -> impl Iterator<Item = (&Digest, &ImageRecord)> {
    chosen.iter().flat_map(|Chosen { image, parts, .. }| {
        parts.layers.iter().chain(&parts.configs).map(move |blob| (&blob.digest, image))
    })
}

fn find_error(text: &str) -> impl FnOnce(ImageError) -> SaveError {
    let image = text.to_owned();
    move |source| SaveError::Find { image, source: Box::new(source) }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn index(chosen: &[Chosen]) -> Value {
    let mut manifests = Vec::new();
    for Chosen { image, parts, names } in chosen {
        let entry = |annotations: Value| {
            let Descriptor { media_type, digest, size_bytes } = &parts.target;
            let mut entry = json!({"mediaType": media_type, "digest": digest, "size": size_bytes});
            if *digest == image.manifest.digest {
                let Platform { os, architecture, variant } = &image.platform;
                entry["platform"] = json!({"os": os, "architecture": architecture});
                if !variant.is_empty() {
                    entry["platform"]["variant"] = json!(variant);
                }
            }
            if annotations != json!({}) {
                entry["annotations"] = annotations;
            }
            entry
        };
        if names.is_empty() {
            manifests.push(entry(json!({})));
        }
        for name in names {
            manifests.push(entry(json!({
                NAME_ANNOTATION: name.to_string(),
                TAG_ANNOTATION: name.tag().unwrap_or_default(),
            })));
        }
    }
    // Listed too, so that whoever reads the layout finds what refers to what.
    let mut seen = BTreeSet::new();
    let referrers = chosen.iter().flat_map(|chosen| &chosen.parts.referrers);
    for referrer in referrers.filter(|referrer| seen.insert(&referrer.digest)) {
        manifests.push(json!(referrer));
    }
    json!({
        "schemaVersion": 2,
        "mediaType": crate::media_type::OCI_INDEX,
        "manifests": manifests,
    })
}

fn docker_manifest(chosen: &[Chosen]) -> Value {
    chosen
        .iter()
        .map(|Chosen { image, names, .. }| {
            let layers: Vec<String> =
                image.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
            let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
            json!({"Config": blob_path(&image.id), "RepoTags": tags, "Layers": layers})
        })
        .collect()
}

/// An archive being written.
struct Archive<W: Write> {
    builder: Builder<W>,
}

impl<W: Write> Archive<W> {
    fn directory(&mut self, path: &str) -> Result<(), SaveError> {
        self.entry(path, EntryType::Directory, 0o755, 0, io::empty())
    }

    fn document(&mut self, path: &str, document: &Value) -> Result<(), SaveError> {
        let bytes = document.to_string().into_bytes();
        self.file(path, bytes.len() as u64, &*bytes)
    }

    fn file(&mut self, path: &str, size_bytes: u64, data: impl Read) -> Result<(), SaveError> {
        self.entry(path, EntryType::Regular, 0o644, size_bytes, data)
    }

    fn entry(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        size_bytes: u64,
        data: impl Read,
    ) -> Result<(), SaveError> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size_bytes);
        self.builder.append_data(&mut header, path, data).map_err(written_error)
    }
}

fn written_error(source: io::Error) -> SaveError {
    SaveError::Write { source }
}
