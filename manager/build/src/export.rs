//! The result of a build becomes an image, or an index of several with what is attested of them.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use keg_image::diff::{DiffOptions, Timestamps, archive_trees};
use keg_image::manifest::chain_ids;
use keg_image::{ImageRecord, Listed, Platform, Reference};
use keg_store::{Descriptor, Digest};
use serde_json::{Value, json};

use crate::build::{Build, Finished};
use crate::error::BuildError;
use crate::inputs::Material;
use crate::layers::Layer;
use crate::provenance::{Subject, image_subjects, with_subjects};
use crate::remote_cache::{CacheArchive, inline_records};
use crate::scope::Scope;
use crate::sources::ItemKind;
use crate::tree::Tree;

/// What a build has made.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// The image, if one was made.
    pub image: Option<ImageRecord>,
    /// Digest of the image's manifest, or of its index.
    pub target: Option<Descriptor>,
    /// What it was made of: names and digests.
    pub materials: Vec<(String, String)>,
    /// Bytes of files that the client sent.
    pub sent_bytes: u64,
    /// The files.
    pub files: ResultFiles,
    /// Results for directories of the client.
    pub caches: Vec<CacheArchive>,
}

/// The files of a result, as long as nobody removes them from the cache.
#[derive(Debug, Clone, Default)]
pub struct ResultFiles {
    epoch_secs: Option<i64>,
    parts: Vec<PartFiles>,
}

/// The files of a result for one platform.
#[derive(Debug, Clone)]
struct PartFiles {
    /// Directory that they are below, if there are several platforms.
    below: Option<String>,
    dirs: Vec<PathBuf>,
    /// Names and contents of further files.
    beside: Vec<(String, Vec<u8>)>,
}

impl ResultFiles {
    /// Writes the files as a tar archive. Blocks.
    ///
    /// # Errors
    /// [`BuildError::Tree`], [`BuildError::Diff`]; a part of the archive is then written.
    pub fn archive(&self, mut output: impl Write) -> Result<(), BuildError> {
        let options = DiffOptions {
            timestamps: match self.epoch_secs {
                Some(latest_secs) => Timestamps::Clamp { latest_secs },
                None => Timestamps::Keep,
            },
            ..DiffOptions::default()
        };
        let mut trees = Vec::new();
        for part in &self.parts {
            for (name, bytes) in &part.beside {
                let name = match &part.below {
                    Some(directory) => format!("{directory}/{name}"),
                    None => name.clone(),
                };
                write_entry(&mut output, &name, bytes)
                    .map_err(BuildError::io("archive what is attested"))?;
            }
            if !part.dirs.is_empty() {
                trees.push((Tree::layers(&part.dirs)?, part.below.as_deref()));
            }
        }
        let trees: Vec<_> = trees.iter().map(|(tree, below)| (tree.root(), *below)).collect();
        archive_trees(&trees, &options, output)
            .map(drop)
            .map_err(|source| BuildError::Diff { source })
    }
}

/// A build for one platform that has ended well.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    pub(crate) build: Arc<Build>,
    pub(crate) finished: Finished,
}

/// An image that is made, and not stored yet.
struct Made {
    variant: Variant,
    config: Vec<u8>,
    /// As they are stored, lowest first.
    blobs: Vec<Descriptor>,
    chain: Vec<(Arc<Layer>, Digest)>,
}

/// Makes images of what the builds of a request have come to, names them, and keeps what was done.
/// There is at least one variant.
pub(crate) async fn export(variants: Vec<Variant>) -> Result<Built, BuildError> {
    let Some(first) = variants.first().cloned() else { return Ok(Built::default()) };
    let build = &first.build;
    let (image, own) = if build.request.makes_image {
        let (image, own) = export_images(&variants).await?;
        (Some(image), own)
    } else {
        let keeping = Arc::clone(build);
        build.shared.blocking(move |_| keeping.keep(&[])).await?;
        (None, first.finished.stage.files.layers())
    };
    let caches = build.export_caches(&own).await?;
    let mut files = ResultFiles { epoch_secs: build.epoch_secs, parts: Vec::new() };
    if build.request.sends_files {
        for variant in &variants {
            files.parts.push(PartFiles {
                below: (variants.len() > 1).then(|| directory_of(&variant.build.platform)),
                dirs: variant.finished.stage.files.dirs(),
                beside: attested_files(variant).await?,
            });
        }
    }
    build.warn_of_unused();
    Ok(Built {
        target: image.as_ref().map(|image| image.target.clone()),
        image,
        materials: build.materials(),
        sent_bytes: build.sent_bytes().await,
        files,
        caches,
    })
}

/// Where the files for a platform go, if there are several: as with BuildKit.
fn directory_of(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

/// Makes the images; returns the one for this machine, or the first, and all their layers.
async fn export_images(variants: &[Variant]) -> Result<(ImageRecord, Vec<Arc<Layer>>), BuildError> {
    let build = Arc::clone(&variants[0].build);
    let wants_statements =
        build.request.provenance.is_some() || build.request.sbom_scanner.is_some();
    let mut scans = Vec::new();
    for variant in variants {
        scans.push(match &build.request.sbom_scanner {
            Some(scanner) => variant.build.scan(&variant.finished, &scanner.familiar()).await?,
            None => Vec::new(),
        });
    }
    let step = build.progress.step("exporting to image");
    let mut made = Vec::new();
    for variant in variants {
        made.push(variant.make().await?);
    }
    step.status("exporting layers", 1, 1, true);
    let own = made.iter().flat_map(|one| one.chain.iter().map(|(layer, _)| Arc::clone(layer)));
    let own: Vec<Arc<Layer>> = own.collect();
    let working = Arc::clone(&build);
    let image = build
        .shared
        .blocking(move |_| {
            let chains: Vec<_> = made.iter().flat_map(|one| one.chain.iter().cloned()).collect();
            working.keep(&chains)?;
            match made.as_slice() {
                [one] if !wants_statements => {
                    let top = one.chain.last().map(|(_, id)| id);
                    working.name_image(&one.config, one.blobs.clone(), top)
                }
                several => working.name_index(several, scans),
            }
        })
        .await?;
    step.status(format!("writing image {}", image.id), 1, 1, true);
    for tag in &build.request.tags {
        step.status(format!("naming to {tag}"), 1, 1, true);
    }
    step.done();
    Ok((image, own))
}

/// Returns what is attested of files that are sent, as files beside them.
async fn attested_files(variant: &Variant) -> Result<Vec<(String, Vec<u8>)>, BuildError> {
    let build = &variant.build;
    let mut statements = Vec::new();
    if let Some(wanted) = &build.request.provenance {
        statements.push(("provenance.json".to_owned(), build.provenance(wanted)?));
    }
    if let Some(scanner) = &build.request.sbom_scanner {
        let scans = build.scan(&variant.finished, &scanner.familiar()).await?;
        let name = |index: usize| match index {
            0 => "sbom.spdx.json".to_owned(),
            index => format!("sbom-{index}.spdx.json"),
        };
        statements.extend(scans.into_iter().enumerate().map(|(index, one)| (name(index), one)));
    }
    if statements.is_empty() {
        return Ok(Vec::new());
    }
    let dirs = variant.finished.stage.files.dirs();
    let subjects = build.shared.blocking(move |_| file_subjects(&dirs)).await?;
    Ok(statements
        .into_iter()
        .map(|(name, statement)| {
            (name, with_subjects(statement, &subjects).to_string().into_bytes())
        })
        .collect())
}

/// Returns the regular files of a result with their digests.
fn file_subjects(dirs: &[PathBuf]) -> Result<Vec<Subject>, BuildError> {
    if dirs.is_empty() {
        return Ok(Vec::new());
    }
    let tree = Arc::new(Tree::layers(dirs)?);
    let source = crate::sources::select_all(&tree)?;
    Ok(source
        .items
        .iter()
        .filter_map(|item| match &item.kind {
            ItemKind::File { digest, .. } => Some(Subject {
                name: item.path.clone(),
                digest: format!("sha256:{digest}").parse().ok()?,
            }),
            _ => None,
        })
        .collect())
}

impl Variant {
    /// Makes blobs of the layers, and the configuration.
    async fn make(&self) -> Result<Made, BuildError> {
        let Self { build, finished } = self;
        let stage = &finished.stage;
        let mut layers = stage.files.layers();
        layers.reverse();
        let mut working = Vec::new();
        for layer in &layers {
            let (shared, layer) = (Arc::clone(&build.shared), Arc::clone(layer));
            let epoch_secs = build.epoch_secs;
            working.push(tokio::task::spawn_blocking(move || {
                shared.layers.export(&layer, epoch_secs)
            }));
        }
        let mut exported = Vec::new();
        for work in working {
            exported.push(work.await.map_err(|source| BuildError::Panicked { source })??);
        }
        let diff_ids: Vec<String> = exported.iter().map(|layer| layer.diff_id.clone()).collect();
        let digests: Vec<Digest> = diff_ids.iter().filter_map(|id| id.parse().ok()).collect();
        let mut config = stage.config.clone();
        for (key, value) in &build.request.labels {
            config.insert("Labels", key, json!(value));
        }
        if build.wants_inline_cache()
            && let Some((key, records)) = inline_records(&build.inputs.seen(), &exported)
        {
            config.set_outside(key, records);
        }
        let epoch = build.epoch_secs.and_then(|secs| Timestamp::from_second(secs).ok());
        Ok(Made {
            variant: self.clone(),
            config: config.finish(&diff_ids, epoch),
            blobs: exported.iter().filter_map(|layer| layer.descriptor()).collect(),
            chain: layers.into_iter().zip(chain_ids(&digests)).collect(),
        })
    }
}

impl Build {
    /// Tells whether the layers of a stage are layers of the image, as far as the file alone tells.
    pub(crate) fn ships(&self, index: usize) -> bool {
        let scope = Scope { config: None, args: &self.global_args };
        let mut at = self.target().ok().filter(|_| self.request.makes_image);
        while let Some(shipped) = at.filter(|shipped| *shipped != index) {
            let base = &self.file.stages[shipped].base;
            let base = self.file.words().one(base, &scope).unwrap_or_default();
            let is_context = self.request.named_contexts.contains_key(&base);
            at = self.find_stage(&base, shipped).filter(|_| !is_context);
        }
        at.is_some()
    }

    /// Begins to make the blob of a layer while later steps run. Who needs it waits for it, and is told
    /// if it failed.
    pub(crate) fn export_early(&self, layer: &Arc<Layer>) {
        let (shared, layer) = (Arc::clone(&self.shared), Arc::clone(layer));
        let epoch_secs = self.epoch_secs;
        self.inputs.begin(move || drop(shared.layers.export(&layer, epoch_secs)));
    }

    /// Returns what the build is made of: names and digests.
    fn materials(&self) -> Vec<(String, String)> {
        let pairs = self.inputs.materials().into_iter().map(|material| match material {
            Material::Image { name, digest, .. } => (name, digest),
            Material::Address { url, digest } => (url, digest),
        });
        pairs.collect()
    }

    /// Stores images under one index, with what is attested of them, and gives it its names.
    fn name_index(
        &self,
        images: &[Made],
        scans: Vec<Vec<Value>>,
    ) -> Result<ImageRecord, BuildError> {
        let store = &self.shared.images;
        let lease = store.lease("build")?;
        let written = |source| BuildError::Write { source: Box::new(source) };
        let mut listed = Vec::new();
        for (made, scans) in images.iter().zip(scans) {
            let top = made.chain.last().map(|(_, id)| id);
            let manifest = store
                .write_image(&made.config, made.blobs.clone(), top, &lease)
                .map_err(written)?;
            let build = &made.variant.build;
            let subjects = image_subjects(&self.request.tags, &build.platform, &manifest.digest);
            let mut statements: Vec<Value> = scans;
            if let Some(wanted) = &self.request.provenance {
                statements.push(build.provenance(wanted)?);
            }
            let statements = statements.into_iter().map(|one| with_subjects(one, &subjects));
            listed.push(Listed {
                manifest,
                platform: build.platform.clone(),
                statements: statements.collect(),
            });
        }
        let index = store.write_index(&listed, &lease).map_err(written)?;
        let id = Digest::sha256(&images[0].config);
        let image =
            store.enter_image(&index, &id, self.request.tags.first(), lease).map_err(written)?;
        let failed = |source| BuildError::Image { source: Box::new(source) };
        for tag in self.request.tags.iter().skip(1) {
            store.tag(&self.request.tags[0].to_string(), tag).map_err(failed)?;
        }
        match self.request.tags.first() {
            Some(tag) => store.resolve(&tag.to_string(), None).map_err(failed),
            None => Ok(image),
        }
    }

    /// Stores the image's documents and gives it its names, unless all that is there already.
    fn name_image(
        &self,
        config: &[u8],
        layers: Vec<Descriptor>,
        top: Option<&Digest>,
    ) -> Result<ImageRecord, BuildError> {
        let images = &self.shared.images;
        let id = Digest::sha256(config);
        let failed = |source| BuildError::Image { source: Box::new(source) };
        let is_whole = |image: &ImageRecord| image.id == id && image.layers == layers;
        let known = |name: &str| images.resolve(name, None).ok().filter(is_whole);
        let tags: Vec<String> = self.request.tags.iter().map(Reference::to_string).collect();
        let mut found = None;
        for name in tags.iter().map(String::as_str).chain([id.as_str()]) {
            found = known(name);
            if found.is_some() {
                break;
            }
        }
        let image = match found {
            Some(image) => image,
            None => {
                let lease = images.lease("build")?;
                let target = images
                    .write_image(config, layers, top, &lease)
                    .map_err(|source| BuildError::Write { source: Box::new(source) })?;
                images
                    .enter_image(&target, &id, self.request.tags.first(), lease)
                    .map_err(|source| BuildError::Write { source: Box::new(source) })?
            }
        };
        let unnamed: Vec<&Reference> =
            self.request.tags.iter().filter(|tag| !image.names.contains(tag)).collect();
        if unnamed.is_empty() {
            return Ok(image);
        }
        for tag in unnamed {
            images.tag(image.id.as_str(), tag).map_err(failed)?;
        }
        images.resolve(image.id.as_str(), None).map_err(failed)
    }
}

/// Writes a file as an entry of an archive that goes on.
fn write_entry(output: &mut impl Write, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    const BLOCK_BYTES: usize = 512;
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    output.write_all(header.as_bytes())?;
    output.write_all(bytes)?;
    let padding = bytes.len().next_multiple_of(BLOCK_BYTES) - bytes.len();
    output.write_all(&[0; BLOCK_BYTES][..padding])
}
