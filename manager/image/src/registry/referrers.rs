//! Referrers: signatures, bills of materials and whatever else refers to a manifest.
//!
//! Registries list them (distribution-spec, "Listing Referrers"). For one that does not, clients keep the
//! list in an index under a tag made of the digest: `sha256-HEX` ("Referrers Tag Schema").

use std::collections::BTreeMap;

use keg_store::{Descriptor, Digest};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::transport::Ask;
use super::{RegistryError, Repository};
use crate::media_type::OCI_INDEX;

/// Longest tag, in bytes; digests make some that are too long.
const MAX_TAG: usize = 128;

/// What refers to a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Referrer {
    /// Its own manifest.
    #[serde(flatten)]
    pub target: Descriptor,
    /// What it is, for example `application/spdx+json`; empty if nobody says.
    #[serde(rename = "artifactType", default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// Annotations of its manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    manifests: Vec<Referrer>,
}

impl Repository {
    /// Returns what refers to a manifest, of one type if that is asked for.
    ///
    /// # Errors
    /// If the registry does not answer, refuses, or sends what is no index.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, RegistryError> {
        let mut found = match self.listed_referrers(subject, artifact_type).await {
            Err(RegistryError::Refused { status: 404 | 405, .. }) => {
                let list = self.tagged_referrers(subject).await?;
                list.map_or_else(|| Ok(Vec::new()), |list| self.parse(&list))
            }
            other => other,
        }?;
        if let Some(wanted) = artifact_type {
            // Registries need not filter.
            found.retain(|referrer| referrer.artifact_type == wanted);
        }
        Ok(found)
    }

    /// Enters a referrer into the list that clients keep, for registries that keep none.
    ///
    /// # Errors
    /// If the registry does not answer, or refuses.
    pub async fn note_referrer(
        &self,
        subject: &Digest,
        referrer: &Referrer,
    ) -> Result<(), RegistryError> {
        let list = self.tagged_referrers(subject).await?;
        let mut document: Value = match &list {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|_| self.no_index())?,
            None => json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}),
        };
        let entries = document.get_mut("manifests").and_then(Value::as_array_mut);
        let entries = entries.ok_or_else(|| self.no_index())?;
        let digest = referrer.target.digest.as_str();
        if entries.iter().any(|entry| entry["digest"] == digest) {
            return Ok(());
        }
        entries.push(json!(referrer));
        let bytes = document.to_string();
        self.put_manifest(&tag_of(subject), OCI_INDEX, bytes.as_bytes()).await.map(drop)
    }

    /// Asks the registry for its own list, page by page.
    async fn listed_referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, RegistryError> {
        let mut path = format!("{}/referrers/{subject}", self.path());
        if let Some(wanted) = artifact_type {
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("artifactType", wanted)
                .finish();
            path.push_str(&format!("?{query}"));
        }
        let ask = Ask::new(Method::GET, path);
        let what = "a list of referrers";
        let all = |pages: Vec<List>| pages.into_iter().flat_map(|page| page.manifests).collect();
        let mirrors = self.callers.iter().filter(|caller| caller.endpoint.is_mirror);
        for mirror in mirrors.filter(|mirror| mirror.endpoint.refers) {
            match self.pages(mirror, ask.clone(), what).await {
                Ok(pages) => return Ok(all(pages)),
                Err(error) => self.pass_over(mirror, &error),
            }
        }
        Ok(all(self.pages(self.caller(), ask, what).await?))
    }

    /// Fetches the list that clients keep, if there is one.
    async fn tagged_referrers(&self, subject: &Digest) -> Result<Option<Vec<u8>>, RegistryError> {
        match self.manifest(&tag_of(subject)).await {
            Ok(list) => Ok(Some(list.bytes)),
            Err(RegistryError::Unknown { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(&self, list: &[u8]) -> Result<Vec<Referrer>, RegistryError> {
        let list: List = serde_json::from_slice(list).map_err(|_| self.no_index())?;
        Ok(list.manifests)
    }

    fn no_index(&self) -> RegistryError {
        let problem = "its list of referrers is no index";
        RegistryError::Protocol { registry: self.registry().to_owned(), problem }
    }
}

/// Returns the tag under which clients keep the list of what refers to a manifest.
fn tag_of(subject: &Digest) -> String {
    let mut tag = format!("{}-{}", subject.algorithm().as_str(), subject.hex());
    tag.truncate(MAX_TAG);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_a_list_is_a_tag_whatever_the_hash() {
        let sha256 = Digest::sha256(b"x");
        let sha512: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();

        assert_eq!(tag_of(&sha256), format!("sha256-{}", sha256.hex()));
        assert_eq!(tag_of(&sha512).len(), MAX_TAG);
    }
}
