//! Commit: what a container changed becomes one more layer on its image.

use std::borrow::Cow;

use jiff::Timestamp;
use keg_store::{Digest, ErrorClass, Explain, Reason};
use serde_json::{Map, Value, json};

use crate::changes::{self, ChangeError};
use crate::diff::{DiffOptions, LayerCompression, Owners};
use crate::images::ImageError;
use crate::new_layer::{LayerSource, NewLayerError};
use crate::{ImageRecord, Images, Reference};

/// What is to be committed, and as what.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    /// Key of the container's snapshot.
    pub snapshot_key: String,
    /// How its ids are told on the disk.
    pub owners: Owners,
    /// Id of the image that the container was made from.
    pub base: String,
    /// What the container runs with: entries of a configuration's `config` object, which replace
    /// those of the image.
    pub config: Map<String, Value>,
    /// Changes to that, in the Dockerfile's words.
    pub changes: Vec<String>,
    /// Who makes the image.
    pub author: String,
    /// Comment for the history.
    pub message: String,
    /// The command that made the changes, for the history.
    pub created_by: String,
    /// Name for the image; `None`: it is known by its id.
    pub reference: Option<Reference>,
}

/// Why a container was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A change is not understood.
    #[error("cannot commit the container")]
    Change {
        /// Which, and why.
        #[source]
        source: ChangeError,
    },
    /// The name has a digest.
    #[error("{name:?} has a digest, and only a tag can be given to an image")]
    NotATag {
        /// The name.
        name: String,
    },
    /// The image below is not here any more.
    #[error("the image that the container was made from cannot be used")]
    Base {
        /// Why.
        #[source]
        source: Box<ImageError>,
    },
    /// The image below has a configuration that is no object.
    #[error("the configuration of image {id} cannot be built upon")]
    BaseConfig {
        /// The image.
        id: String,
    },
    /// The layer or the image cannot be stored.
    #[error("cannot commit the container")]
    Store {
        /// Why.
        #[source]
        source: NewLayerError,
    },
}

impl CommitError {
    fn cause(&self) -> Option<&dyn Explain> {
        match self {
            Self::Change { source } => Some(source),
            Self::Base { source } => Some(source.as_ref()),
            Self::Store { source } => Some(source),
            Self::NotATag { .. } | Self::BaseConfig { .. } => None,
        }
    }
}

impl Explain for CommitError {
    fn reason(&self) -> Reason {
        match self {
            Self::NotATag { .. } => Reason::InvalidReference,
            Self::BaseConfig { .. } => Reason::ImageMalformed,
            _ => self.cause().map_or(Reason::Internal, Explain::reason),
        }
    }

    fn class(&self) -> ErrorClass {
        self.cause().map_or_else(|| self.reason().class(), Explain::class)
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::NotATag { .. } => Some("leave the digest out".into()),
            Self::Base { .. } => Some(
                "pull the image again, or save the files by `keg export` and `keg import`".into(),
            ),
            _ => self.cause().and_then(Explain::remedy),
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        self.cause().map(Explain::operands).unwrap_or_default()
    }
}

impl Images {
    /// Makes an image of a container's image and of what the container changed. Blocks.
    ///
    /// # Errors
    /// [`CommitError`]; no name changes then.
    pub fn commit(&self, request: &CommitRequest) -> Result<ImageRecord, CommitError> {
        if let Some(name) = request.reference.as_ref().filter(|name| name.digest().is_some()) {
            return Err(CommitError::NotATag { name: name.to_string() });
        }
        let store = |source| CommitError::Store { source };
        let base = self
            .resolve(&request.base, None)
            .map_err(|source| CommitError::Base { source: Box::new(source) })?;
        let mut config = base_config(&base)?;
        // What is wrong with the changes is told before anything is stored.
        let run_with = run_config(&config, request)?;
        let lease = self.lease("commit").map_err(|source| store(NewLayerError::enter(source)))?;
        let below = diff_ids(&base);
        let source = LayerSource {
            snapshot_key: request.snapshot_key.clone(),
            options: DiffOptions { owners: request.owners.clone(), ..DiffOptions::default() },
            compression: LayerCompression::default(),
        };
        let layer = self.write_layer(&source, &below, &lease).map_err(store)?;
        complete(&mut config, run_with, request, &layer.diff_id);
        let document = Value::Object(config).to_string().into_bytes();
        let layers = base.layers.iter().cloned().chain([layer.blob]).collect();
        let target =
            self.write_image(&document, layers, Some(&layer.chain_id), &lease).map_err(store)?;
        let id = Digest::sha256(&document);
        self.enter_image(&target, &id, request.reference.as_ref(), lease).map_err(store)
    }
}

fn base_config(base: &ImageRecord) -> Result<Map<String, Value>, CommitError> {
    serde_json::from_slice(&base.config_json)
        .map_err(|_| CommitError::BaseConfig { id: base.id.to_string() })
}

/// The diff ids of an image, lowest first.
fn diff_ids(image: &ImageRecord) -> Vec<Digest> {
    image.config.rootfs().diff_ids().iter().filter_map(|id| id.parse().ok()).collect()
}

/// Puts together how the new image is run.
fn run_config(
    base: &Map<String, Value>,
    request: &CommitRequest,
) -> Result<Map<String, Value>, CommitError> {
    let mut config = match base.get("config") {
        Some(Value::Object(config)) => config.clone(),
        _ => Map::new(),
    };
    // Triggers are for who builds upon that image, not upon this one.
    config.remove("OnBuild");
    config.extend(request.config.clone());
    changes::apply(&request.changes, &mut config)
        .map_err(|source| CommitError::Change { source })?;
    Ok(config)
}

fn complete(
    document: &mut Map<String, Value>,
    config: Map<String, Value>,
    request: &CommitRequest,
    diff_id: &Digest,
) {
    let now = Timestamp::now().to_string();
    document.insert("config".to_owned(), Value::Object(config));
    document.insert("created".to_owned(), json!(now));
    // What Docker noted of the container that the image below was made in.
    document.remove("container");
    document.remove("container_config");
    match request.author.as_str() {
        "" => document.remove("author"),
        author => document.insert("author".to_owned(), json!(author)),
    };
    if let Some(Value::Array(diff_ids)) =
        document.get_mut("rootfs").and_then(|rootfs| rootfs.get_mut("diff_ids"))
    {
        diff_ids.push(json!(diff_id.as_str()));
    }
    let mut entry = json!({"created": now, "created_by": request.created_by});
    for (key, text) in [("author", &request.author), ("comment", &request.message)] {
        if !text.is_empty() {
            entry[key] = json!(text);
        }
    }
    match document.entry("history").or_insert_with(|| json!([])) {
        Value::Array(history) => history.push(entry),
        other => *other = json!([entry]),
    }
}

#[cfg(test)]
mod tests;
