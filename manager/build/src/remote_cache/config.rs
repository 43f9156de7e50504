//! The document that says which results a cache holds, in BuildKit's form
//! (moby/buildkit, cache/remotecache/v1).
//!
//! BuildKit's records are a graph of digests; ours are a list: each of our keys stands for all that its
//! result depends on already. What only we need is in a member of its own, `keg`.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use keg_store::{Descriptor, Digest};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::inputs::Seen;
use crate::layers::{Exported, Layer};

/// Media type of the document.
pub(super) const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Member of an image's configuration that has the records.
pub(super) const INLINE: &str = "moby.buildkit.cache.v0";
/// Annotation with the digest of a layer before compression; containerd's.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// Annotation with the time of a layer; BuildKit's.
const CREATED: &str = "buildkit/createdat";

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct CacheConfig {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<CacheLayer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) records: Vec<CacheRecord>,
}

/// A layer, and the one that it lies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CacheLayer {
    pub(super) blob: String,
    /// Index of the layer below; -1 for none in this cache.
    #[serde(default)]
    pub(super) parent: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<LayerAnnotations>,
}

/// What else is known of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayerAnnotations {
    #[serde(default)]
    media_type: String,
    #[serde(default, rename = "diffID")]
    diff_id: String,
    #[serde(default)]
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
}

/// A result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CacheRecord {
    pub(super) digest: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<CacheResult>,
    /// Ours; absent in BuildKit's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) keg: Option<OwnRecord>,
}

/// Which layer a result is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CacheResult {
    pub(super) layer: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_at: Option<Timestamp>,
}

/// What we need of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OwnRecord {
    /// Stands for all files after the step.
    pub(super) result: String,
    /// The step, for people.
    pub(super) description: String,
}

/// A result as a build looks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// Stands for all files after the step.
    pub(super) result: String,
    pub(super) description: String,
    /// The layer that the step made, if it made one, and when.
    pub(super) layer: Option<(Exported, Timestamp)>,
}

impl CacheConfig {
    /// Describes results; each layer must have its blob. Returns also the layers, as they are listed.
    pub(super) fn of(seen: &[Seen]) -> (Self, Vec<Arc<Layer>>) {
        let mut config = Self::default();
        let mut layers: Vec<Arc<Layer>> = Vec::new();
        for one in seen {
            let mut results = Vec::new();
            if let Some(layer) = one.result.files.top.as_ref().filter(|_| one.result.has_layer) {
                let Some(index) = config.layer(layer, &mut layers) else { continue };
                results.push(CacheResult { layer: index, created_at: Some(one.result.created) });
            }
            config.records.push(CacheRecord {
                digest: one.key.clone(),
                layers: results,
                keg: Some(OwnRecord {
                    result: one.result.files.id.clone(),
                    description: one.description.clone(),
                }),
            });
        }
        (config, layers)
    }

    /// Enters a layer; returns its index, or nothing if it has no blob.
    fn layer(&mut self, layer: &Arc<Layer>, layers: &mut Vec<Arc<Layer>>) -> Option<usize> {
        let exported = layer.exported()?;
        if let Some(index) = self.layers.iter().position(|known| known.blob == exported.digest) {
            return Some(index);
        }
        self.layers.push(CacheLayer {
            blob: exported.digest,
            // What a result lies on is here before it is asked for.
            parent: -1,
            annotations: Some(LayerAnnotations {
                media_type: exported.media_type,
                diff_id: exported.diff_id,
                size: exported.size_bytes,
                created_at: Some(layer.created),
            }),
        });
        layers.push(Arc::clone(layer));
        Some(self.layers.len() - 1)
    }

    /// Returns the results that a build can use, by their keys.
    pub(super) fn results(&self) -> BTreeMap<String, Known> {
        let mut results = BTreeMap::new();
        for record in &self.records {
            let Some(own) = &record.keg else { continue };
            let layer = match record.layers.first() {
                None => None,
                Some(result) => match self.exported(result) {
                    Some(layer) => Some(layer),
                    // One that does not say enough is as good as none.
                    None => continue,
                },
            };
            let known =
                Known { result: own.result.clone(), description: own.description.clone(), layer };
            results.insert(record.digest.clone(), known);
        }
        results
    }

    fn exported(&self, result: &CacheResult) -> Option<(Exported, Timestamp)> {
        let layer = self.layers.get(result.layer)?;
        let annotations = layer.annotations.as_ref()?;
        let exported = Exported {
            diff_id: annotations.diff_id.parse::<Digest>().ok()?.to_string(),
            media_type: annotations.media_type.clone(),
            digest: layer.blob.parse::<Digest>().ok()?.to_string(),
            size_bytes: annotations.size,
        };
        let created = result.created_at.or(annotations.created_at);
        Some((exported, created.unwrap_or(Timestamp::UNIX_EPOCH)))
    }

    /// Returns a descriptor of each layer, as a manifest lists it.
    pub(super) fn layer_descriptors(&self) -> Vec<serde_json::Value> {
        let listed = self.layers.iter().filter_map(|layer| {
            let told = layer.annotations.as_ref()?;
            let mut annotations = json!({UNCOMPRESSED: told.diff_id});
            if let Some(created) = told.created_at {
                annotations[CREATED] = json!(created.to_string());
            }
            Some(json!({
                "mediaType": told.media_type, "digest": layer.blob, "size": told.size,
                "annotations": annotations,
            }))
        });
        listed.collect()
    }

    /// Returns the blobs of the layers.
    pub(super) fn blobs(&self) -> Vec<Descriptor> {
        self.layers
            .iter()
            .filter_map(|layer| {
                let told = layer.annotations.as_ref()?;
                Some(Descriptor {
                    media_type: told.media_type.clone(),
                    digest: layer.blob.parse().ok()?,
                    size_bytes: told.size,
                })
            })
            .collect()
    }

    /// Puts the layers into another order: those of an image, of which records then give the index.
    /// What is not among them is left out.
    pub(super) fn in_image(&self, image: &[Exported]) -> Vec<CacheRecord> {
        let place = |result: &CacheResult| {
            let blob = &self.layers.get(result.layer)?.blob;
            let layer = image.iter().position(|exported| exported.digest == *blob)?;
            Some(CacheResult { layer, created_at: result.created_at })
        };
        self.records
            .iter()
            .filter_map(|record| {
                let layers: Vec<CacheResult> = record.layers.iter().filter_map(place).collect();
                (layers.len() == record.layers.len())
                    .then(|| CacheRecord { layers, ..record.clone() })
            })
            .collect()
    }

    /// Reads the records of an image's configuration; its layers are those of the image.
    pub(super) fn of_image(
        records: Vec<CacheRecord>,
        layers: &[Descriptor],
        diff_ids: &[String],
    ) -> Self {
        let layers =
            layers.iter().zip(diff_ids).enumerate().map(|(index, (blob, diff_id))| CacheLayer {
                blob: blob.digest.to_string(),
                parent: i64::try_from(index).unwrap_or(i64::MAX) - 1,
                annotations: Some(LayerAnnotations {
                    media_type: blob.media_type.clone(),
                    diff_id: diff_id.clone(),
                    size: blob.size_bytes,
                    created_at: None,
                }),
            });
        Self { layers: layers.collect(), records }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::{Files, StepResult};

    fn digest(text: &str) -> String {
        Digest::sha256(text.as_bytes()).to_string()
    }

    fn exported(name: &str) -> Exported {
        Exported {
            diff_id: digest(&format!("plain {name}")),
            media_type: "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(),
            digest: digest(name),
            size_bytes: 7,
        }
    }

    fn seen(key: &str, layer: Option<&str>) -> Seen {
        let top = layer.map(|name| {
            let blob = exported(name).descriptor().unwrap();
            let id: Digest = digest(name).parse().unwrap();
            Layer::of_image(
                "/x".into(),
                None,
                &id,
                &exported(name).diff_id.parse().unwrap(),
                &blob,
                false,
            )
        });
        let files = Files { id: format!("files {key}"), top };
        let created = Timestamp::from_second(1).unwrap();
        let result = StepResult { files, has_layer: layer.is_some(), created };
        Seen { key: key.to_owned(), result, description: format!("RUN {key}") }
    }

    #[test]
    fn what_is_written_is_found_again_by_its_keys() {
        let results = [seen("a", Some("one")), seen("b", None), seen("c", Some("one"))];

        let (config, layers) = CacheConfig::of(&results);
        let bytes = serde_json::to_vec(&config).unwrap();
        let read: CacheConfig = serde_json::from_slice(&bytes).unwrap();

        assert_eq!(read, config);
        assert_eq!((config.layers.len(), layers.len()), (1, 1));
        let found = read.results();
        let created = Timestamp::from_second(1).unwrap();
        assert_eq!(found["a"].layer, Some((exported("one"), created)));
        assert_eq!(found["c"].layer, found["a"].layer);
        assert_eq!((found["b"].result.as_str(), &found["b"].layer), ("files b", &None));
    }

    #[test]
    fn an_image_has_the_records_of_its_own_layers_only() {
        let results = [seen("a", Some("one")), seen("b", Some("two")), seen("c", None)];
        let (config, _) = CacheConfig::of(&results);
        let image = [exported("base"), exported("two")];

        let records = config.in_image(&image);
        let blobs: Vec<Descriptor> = image.iter().map(|e| e.descriptor().unwrap()).collect();
        let diff_ids: Vec<String> = image.iter().map(|e| e.diff_id.clone()).collect();
        let found = CacheConfig::of_image(records, &blobs, &diff_ids).results();

        assert_eq!(found.keys().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(found["b"].layer.as_ref().unwrap().0, exported("two"));
    }

    #[test]
    fn what_buildkit_wrote_is_read_past() {
        let text = r#"{"layers":[{"blob":"sha256:aa","parent":-1},{"blob":"sha256:bb"}],
            "records":[{"digest":"sha256:cc","layers":[{"layer":1,"createdAt":"2024-01-01T00:00:00Z"}],
            "inputs":[[{"selector":"s","link":0}]],"chains":[{"layers":[0,1]}]}]}"#;

        let config: CacheConfig = serde_json::from_str(text).unwrap();

        assert_eq!((config.layers[1].parent, config.records.len()), (0, 1));
        assert!(config.results().is_empty());
    }

    #[test]
    fn a_record_of_a_layer_that_is_not_listed_is_no_result() {
        let (mut config, _) = CacheConfig::of(&[seen("a", Some("one"))]);
        config.layers.clear();

        assert!(config.results().is_empty());
    }
}
