//! The images of a namespace: found, listed, named, removed. Pulling and importing are added by
//! their own modules.
//!
//! A name is a row of the store's images: `docker.io/library/busybox:latest` with a tag,
//! `docker.io/library/busybox@sha256:…` with a digest. An image that lost its last name but is to be
//! kept has a row named by its id, `sha256:…`, so that it can be listed and removed.

mod error;

use std::collections::BTreeMap;
use std::sync::Arc;

use keg_store::{
    Collected, Descriptor, Digest, Image, Labels, MetadataError, Namespace, Snapshotter, Store,
    WriteTx, collect,
};

use crate::manifest::ManifestError;
use crate::record::Loader;
use crate::{ImageRecord, Platform, Reference, ShortNameError};

pub use self::error::ImageError;

/// How many ids an ambiguity is told with.
const MAX_TOLD_IDS: usize = 5;

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// Id of the container.
    pub container: String,
    /// Id of the image that it was made from.
    pub image_id: Digest,
    /// Whether it runs.
    pub is_running: bool,
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// Ids of images and layers that are gone.
    pub deleted: Vec<String>,
}

/// The images of one namespace. Clones share everything; the methods that are not `async` may
/// block on the disk.
#[derive(Debug, Clone)]
pub struct Images {
    pub(crate) shared: Arc<crate::shared::Shared>,
}

impl Images {
    /// Returns the images of a namespace, whose layers are kept by `snapshotter`.
    #[must_use]
    pub fn new(
        store: Store,
        snapshotter: Arc<dyn Snapshotter>,
        namespace: Namespace,
        options: crate::ImagesOptions,
    ) -> Self {
        let shared = crate::shared::Shared::new(store, snapshotter, namespace, options);
        Self { shared: Arc::new(shared) }
    }

    /// Returns all images, the last built first.
    ///
    /// # Errors
    /// Only if the database fails: an image that cannot be read is left out, with a warning in the
    /// log.
    pub fn list(&self) -> Result<Vec<ImageRecord>, ImageError> {
        let mut records = Vec::new();
        for (target, rows) in by_target(self.rows()?) {
            match self.record(&target, &rows, None) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::warn!(name = rows[0].name, %error, "an image cannot be read");
                }
            }
        }
        records.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(records)
    }

    /// Returns the image that a text stands for: a name, an id, or an unambiguous beginning of an id.
    /// Of an image of several platforms, that for `platform`, or whichever is here.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::NotForPlatform`], [`ImageError::Ambiguous`].
    pub fn resolve(
        &self,
        text: &str,
        platform: Option<&Platform>,
    ) -> Result<ImageRecord, ImageError> {
        let found = self.find(text, platform);
        let Some(wanted) = platform else { return found };
        let is_other = match &found {
            Ok(image) => {
                // One that does not tell its platform is believed to be right.
                !image.platform.architecture.is_empty() && wanted.rank(&image.platform).is_none()
            }
            Err(ImageError::Manifest { source: ManifestError::Platform { .. }, .. }) => true,
            Err(_) => false,
        };
        match is_other {
            true => {
                Err(ImageError::NotForPlatform { image: text.to_owned(), platform: wanted.clone() })
            }
            false => found,
        }
    }

    fn find(&self, text: &str, platform: Option<&Platform>) -> Result<ImageRecord, ImageError> {
        let rows = self.rows()?;
        if let Some(target) = self.find_by_name(&rows, text) {
            let rows: Vec<Image> = rows.into_iter().filter(|row| row.target == target).collect();
            return self.record(&target, &rows, platform);
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if prefix.is_empty() || prefix.len() > 64 || !is_hex {
            // What cannot be a name is not looked for elsewhere.
            return Err(match Reference::parse(text) {
                Ok(_) => not_found(text),
                Err(source) => ImageError::Reference { source },
            });
        }
        let mut found: Vec<ImageRecord> =
            self.list()?.into_iter().filter(|record| record.id.hex().starts_with(prefix)).collect();
        found.dedup_by(|a, b| a.id == b.id);
        if found.len() > 1 {
            let ids =
                found.iter().take(MAX_TOLD_IDS).map(|record| record.id.hex()[..12].to_owned());
            return Err(ImageError::Ambiguous { prefix: text.to_owned(), ids: ids.collect() });
        }
        found.pop().ok_or_else(|| not_found(text))
    }

    /// Gives an image another name; a name in use moves, and the image that had it stays.
    ///
    /// # Errors
    /// As [`Self::resolve`]; [`ImageError::NotATag`] for a name with a digest.
    pub fn tag(&self, source: &str, name: &Reference) -> Result<(), ImageError> {
        if name.digest().is_some() {
            return Err(ImageError::NotATag { name: name.to_string() });
        }
        let image = self.resolve(source, None)?;
        self.shared.store.transaction(|tx| {
            self.name(tx, &name.to_string(), &image.target)?;
            // An id-name is for images that have no other.
            drop_row(tx, &self.shared.ns, image.id.as_str())
        })
    }

    /// Removes a name, and with the last name the image; or all of an image, given by its id.
    /// `users` are the containers there are. Collects what nothing needs any more.
    ///
    /// # Errors
    /// [`ImageError::InUse`] if a container needs the image: with `force`, only a running one
    /// matters, and only if the image was given by its id. [`ImageError::SeveralNames`] if an id has
    /// several names and `force` is not given.
    pub fn remove(
        &self,
        text: &str,
        force: bool,
        users: &[ImageUser],
    ) -> Result<Removed, ImageError> {
        let rows = self.rows()?;
        let named = self.find_row(&rows, text).map(|row| row.name.clone());
        let image = self.resolve(text, None)?;
        let all: Vec<String> = rows
            .iter()
            .filter(|row| row.target == image.target)
            .map(|row| row.name.clone())
            .collect();
        let user = users
            .iter()
            .filter(|user| user.image_id == image.id)
            .max_by_key(|user| user.is_running);
        let plan = plan_removal(text, &image, named, all, user, force)?;
        self.shared.store.transaction(|tx| {
            for name in &plan.names {
                drop_row(tx, &self.shared.ns, name)?;
            }
            if plan.keeps_image {
                tx.put_image(&self.shared.ns, image.id.as_str(), &image.target, &Labels::new())?;
            }
            Ok::<_, ImageError>(())
        })?;
        self.collect()?;
        let left = self.digests_of(&image.target)?;
        let mut untagged = plan.names;
        untagged.retain(|name| name != image.id.as_str());
        untagged.extend(gone_digests(&image, &left, &untagged));
        Ok(Removed { untagged, deleted: self.vanished(&image)? })
    }

    /// Removes everything that no image, container or lease needs.
    ///
    /// # Errors
    /// [`ImageError::Collect`].
    pub fn collect(&self) -> Result<Collected, ImageError> {
        collect(&self.shared.store, &[self.shared.snapshotter.as_ref()])
            .map_err(|source| ImageError::Collect { source })
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Returns what keeps the layers.
    #[must_use]
    pub fn snapshotter(&self) -> &Arc<dyn Snapshotter> {
        &self.shared.snapshotter
    }

    /// Lets `name` stand for `target`; an image that loses its last name by that gets its id's.
    pub(crate) fn name(
        &self,
        tx: &WriteTx<'_>,
        name: &str,
        target: &Descriptor,
    ) -> Result<(), ImageError> {
        let ns = &self.shared.ns;
        let Some(before) = tx.put_image(ns, name, target, &Labels::new())? else { return Ok(()) };
        let is_still_named =
            tx.images(ns)?.iter().any(|row| row.target.digest == before.target.digest);
        if is_still_named {
            return Ok(());
        }
        // What cannot be read any more is not worth keeping.
        if let Ok(image) = self.loader().load(&before.target, None) {
            tx.put_image(ns, image.id.as_str(), &before.target, &Labels::new())?;
        }
        Ok(())
    }

    /// Returns what a name may mean in registries, in the order in which they are to be asked.
    ///
    /// # Errors
    /// [`ShortNameError`] if it is malformed, or must name a registry.
    pub fn meanings(&self, text: &str) -> Result<Vec<Reference>, ShortNameError> {
        self.shared.short_names.meanings(text)
    }

    /// Returns the row that a text names in full, defaults filled in.
    fn find_row<'a>(&self, rows: &'a [Image], text: &str) -> Option<&'a Image> {
        self.shared.short_names.meanings_here(text).iter().find_map(|wanted| {
            let name = wanted.to_string();
            rows.iter().find(|row| row.name == name)
        })
    }

    /// Returns what a name stands for; one with a digest also where only a tag of the same repository
    /// stands for that digest.
    pub(crate) fn find_by_name(&self, rows: &[Image], text: &str) -> Option<Descriptor> {
        if let Some(row) = self.find_row(rows, text) {
            return Some(row.target.clone());
        }
        self.shared.short_names.meanings_here(text).iter().find_map(|wanted| {
            let digest = wanted.digest()?;
            let is_meant = |row: &&Image| {
                row.target.digest == *digest
                    && reference_of(&row.name)
                        .is_some_and(|name| name.repository() == wanted.repository())
            };
            rows.iter().find(is_meant).map(|row| row.target.clone())
        })
    }

    pub(crate) fn loader(&self) -> Loader<'_> {
        Loader {
            content: self.shared.store.content(),
            snapshotter: self.shared.snapshotter.as_ref(),
            ns: &self.shared.ns,
        }
    }

    /// Reads the image of `target` with all names that stand for it.
    pub(crate) fn by_target(
        &self,
        target: &Descriptor,
        platform: Option<&Platform>,
    ) -> Result<ImageRecord, ImageError> {
        let rows: Vec<Image> =
            self.rows()?.into_iter().filter(|row| row.target.digest == target.digest).collect();
        self.record(target, &rows, platform)
    }

    fn rows(&self) -> Result<Vec<Image>, MetadataError> {
        self.shared.store.read(|tx| tx.images(&self.shared.ns))
    }

    fn record(
        &self,
        target: &Descriptor,
        rows: &[Image],
        platform: Option<&Platform>,
    ) -> Result<ImageRecord, ImageError> {
        let name = rows.first().map_or_else(|| target.digest.to_string(), |row| row.name.clone());
        let mut record = self.loader().load(target, platform).map_err(ImageError::load(&name))?;
        for reference in rows.iter().filter_map(|row| reference_of(&row.name)) {
            let digest = format!("{}@{}", reference.repository(), target.digest);
            if !record.digests.contains(&digest) {
                record.digests.push(digest);
            }
            if reference.digest().is_none() {
                record.names.push(reference);
            }
        }
        Ok(record)
    }

    /// Returns the names with digests that an image has by its other names.
    pub(crate) fn digests_of(&self, target: &Descriptor) -> Result<Vec<String>, MetadataError> {
        let mut digests = Vec::new();
        for row in self.rows()?.iter().filter(|row| row.target.digest == target.digest) {
            if let Some(reference) = reference_of(&row.name) {
                digests.push(format!("{}@{}", reference.repository(), target.digest));
            }
        }
        Ok(digests)
    }

    /// Returns which parts of an image are not here any more: its id and its chain ids.
    pub(crate) fn vanished(&self, image: &ImageRecord) -> Result<Vec<String>, ImageError> {
        let ns = &self.shared.ns;
        let mut gone = Vec::new();
        let config = self.shared.store.content().info(ns, &image.id);
        let content = |source| ImageError::Content { image: image.id.to_string(), source };
        if config.map_err(content)?.is_none() {
            gone.push(image.id.to_string());
        }
        for chain_id in image.chain_ids.iter().rev() {
            if self.shared.snapshotter.stat(ns, chain_id.as_str()).is_err() {
                gone.push(chain_id.to_string());
            }
        }
        Ok(gone)
    }
}

/// What a removal will do.
#[derive(Debug, PartialEq, Eq)]
struct RemovalPlan {
    /// Rows that go.
    names: Vec<String>,
    /// Whether the image stays, by its id alone.
    keeps_image: bool,
}

/// Decides which rows go. `named` is the row that the text names, if it is a name; `all` are the
/// rows of the image.
fn plan_removal(
    text: &str,
    image: &ImageRecord,
    named: Option<String>,
    all: Vec<String>,
    user: Option<&ImageUser>,
    force: bool,
) -> Result<RemovalPlan, ImageError> {
    let in_use = |user: &ImageUser| ImageError::InUse {
        image: text.to_owned(),
        container: user.container.clone(),
        is_running: user.is_running,
    };
    let Some(named) = named else {
        return match user {
            Some(user) if user.is_running || !force => Err(in_use(user)),
            _ if all.len() > 1 && !force => {
                Err(ImageError::SeveralNames { image: text.to_owned(), names: all })
            }
            _ => Ok(RemovalPlan { names: all, keeps_image: false }),
        };
    };
    let is_last = all.iter().all(|name| *name == named);
    let (names, keeps_image) = match user {
        Some(user) if is_last && !force => return Err(in_use(user)),
        Some(user) if is_last && user.is_running => (vec![named], *image.id.as_str() != *text),
        _ => (vec![named], false),
    };
    Ok(RemovalPlan { names, keeps_image })
}

/// Returns the names with digests that an image had and has no more, except those told already.
pub(crate) fn gone_digests(image: &ImageRecord, left: &[String], told: &[String]) -> Vec<String> {
    let is_gone = |digest: &&String| !left.contains(digest) && !told.contains(digest);
    image.digests.iter().filter(is_gone).cloned().collect()
}

fn not_found(text: &str) -> ImageError {
    ImageError::NotFound { image: text.to_owned() }
}

fn by_target(rows: Vec<Image>) -> Vec<(Descriptor, Vec<Image>)> {
    let mut groups: BTreeMap<Digest, (Descriptor, Vec<Image>)> = BTreeMap::new();
    for row in rows {
        let group = groups
            .entry(row.target.digest.clone())
            .or_insert_with(|| (row.target.clone(), Vec::new()));
        group.1.push(row);
    }
    groups.into_values().collect()
}

/// Returns the reference that a row is named by, if it is not named by an id.
fn reference_of(name: &str) -> Option<Reference> {
    if name.parse::<Digest>().is_ok() { None } else { Reference::parse(name).ok() }
}

/// Deletes a row that may be gone already.
pub(crate) fn drop_row(tx: &WriteTx<'_>, ns: &Namespace, name: &str) -> Result<(), ImageError> {
    match tx.delete_image(ns, name) {
        Ok(()) | Err(MetadataError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
