//! Whether a name still stands for what a container was made from: it may have been removed since, or
//! given to another image.

use std::collections::HashMap;

use keg_store::{Digest, Image, MetadataError, Namespace, ReadTx, labels};

use crate::Images;
use crate::manifest::MAX_INDEX_DEPTH;

/// What a container was made from.
#[derive(Debug, Clone, Copy)]
pub struct NamedImage<'a> {
    /// What was asked for: a name, an id, or the beginning of an id.
    pub text: &'a str,
    /// Id of the image that it stood for.
    pub id: &'a str,
}

impl Images {
    /// Tells for each whether its text still stands for its image. Reads no documents: what a manifest
    /// needs is in its labels.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn still_stand(&self, named: &[NamedImage<'_>]) -> Result<Vec<bool>, MetadataError> {
        self.shared.store.read(|tx| {
            let rows = tx.images(&self.shared.ns)?;
            let mut ids = HashMap::new();
            named.iter().map(|image| self.still_stands(tx, &rows, &mut ids, *image)).collect()
        })
    }

    fn still_stands(
        &self,
        tx: &ReadTx<'_>,
        rows: &[Image],
        ids: &mut HashMap<Digest, Vec<String>>,
        named: NamedImage<'_>,
    ) -> Result<bool, MetadataError> {
        let hex = |text| str::strip_prefix(text, "sha256:").unwrap_or(text);
        if !named.text.is_empty() && hex(named.id).starts_with(hex(named.text)) {
            return Ok(true);
        }
        let Some(target) = self.find_by_name(rows, named.text) else { return Ok(false) };
        if !ids.contains_key(&target.digest) {
            let mut found = Vec::new();
            configurations(tx, &self.shared.ns, &target.digest, MAX_INDEX_DEPTH, &mut found)?;
            ids.insert(target.digest.clone(), found);
        }
        Ok(ids.get(&target.digest).is_some_and(|ids| ids.iter().any(|id| id == named.id)))
    }
}

/// Gathers the configurations of a manifest, or of all that an index lists and that are here.
fn configurations(
    tx: &ReadTx<'_>,
    ns: &Namespace,
    digest: &Digest,
    depth: usize,
    found: &mut Vec<String>,
) -> Result<(), MetadataError> {
    let Some(blob) = tx.find_blob(ns, digest)? else { return Ok(()) };
    for (label, value) in &blob.labels {
        match label.strip_prefix(labels::GC_REF_CONTENT) {
            Some(".config") => found.push(value.clone()),
            Some(rest) if rest.starts_with(".m.") && depth > 0 => {
                if let Ok(listed) = value.parse() {
                    configurations(tx, ns, &listed, depth - 1, found)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
