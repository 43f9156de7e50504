//! A repository: manifests and blobs of one name in one registry.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use keg_store::{Algorithm, Descriptor, Digest, Hasher};
use reqwest::{Method, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::RegistryError;
use super::auth::Grant;
use super::endpoint::Endpoint;
use super::ranges::BlobTransfer;
use super::rate::RateLimit;
use super::transport::{Ask, Caller, Transport};
use crate::manifest::MAX_MANIFEST_BYTES;
use crate::{Credentials, Reference, media_type};

/// Header by which registries tell the digest of what they send.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Most pages of a list that are read.
const MAX_PAGES: usize = 256;

/// Access to one repository.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(super) transport: Arc<Transport>,
    /// The registry, as references name it.
    registry: String,
    /// Who may be asked, in order; never empty.
    pub(super) callers: Vec<Caller>,
    path: String,
}

/// A manifest or index as a registry sent it, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Media type, digest and size.
    pub descriptor: Descriptor,
    /// The very bytes.
    pub bytes: Vec<u8>,
    /// How much the registry still lets be asked, if it said.
    pub limit: Option<RateLimit>,
}

#[derive(Deserialize)]
struct TagList {
    /// Some registries say `null` of a repository without tags.
    #[serde(default)]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct OwnMediaType {
    #[serde(rename = "mediaType", default)]
    media_type: String,
}

impl Repository {
    /// Returns access through endpoints, of which there is at least one.
    pub(super) fn new(
        transport: Arc<Transport>,
        reference: &Reference,
        credentials: Option<&Credentials>,
        endpoints: Vec<Endpoint>,
        actions: &str,
    ) -> Self {
        let (registry, path) = (reference.domain().to_owned(), reference.path().to_owned());
        let callers = endpoints.into_iter().map(|endpoint| {
            // Credentials are for the registry, and not for whoever mirrors it.
            let credentials = credentials.filter(|_| !endpoint.is_mirror);
            let grant = Grant {
                host: endpoint.host.clone(),
                scope: format!("repository:{path}:{actions}"),
                who: fingerprint(credentials),
            };
            let credentials = credentials.cloned();
            Caller { registry: registry.clone(), endpoint: Arc::new(endpoint), grant, credentials }
        });
        Self { callers: callers.collect(), transport, registry, path }
    }

    /// Returns the registry, as references name it.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns who answers for pushes and for whatever mirrors cannot: the last.
    pub(super) fn caller(&self) -> &Caller {
        &self.callers[self.callers.len() - 1]
    }

    /// Asks one after the other until one answers; all but the last only once.
    async fn ask_any(&self, ask: &Ask, is_tag: bool) -> Result<Response, RegistryError> {
        let may = |caller: &&Caller| match is_tag {
            true => caller.endpoint.resolves,
            false => caller.endpoint.pulls,
        };
        for caller in self.callers.iter().filter(may).take_while(|one| one.endpoint.is_mirror) {
            match self.transport.ask_once(caller, ask).await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.pass_over(caller, &error),
            }
        }
        self.transport.ask(self.caller(), ask).await
    }

    /// Notes that a mirror does not answer, and another is asked.
    pub(super) fn pass_over(&self, caller: &Caller, error: &RegistryError) {
        let mirror = caller.endpoint.host.as_str();
        tracing::info!(mirror, registry = self.registry, %error, "a mirror is passed over");
    }

    /// Fetches the manifest or index that a tag or digest stands for, and verifies its digest: the
    /// one asked for, else the one that the registry told.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] if the registry does not know it.
    pub async fn manifest(&self, tag_or_digest: &str) -> Result<Fetched, RegistryError> {
        let mut headers = HeaderMap::new();
        for accepted in media_type::ACCEPT_MANIFESTS {
            headers.append(header::ACCEPT, HeaderValue::from_static(accepted));
        }
        let path = format!("{}/manifests/{tag_or_digest}", self.path);
        let ask = Ask { headers, ..Ask::new(Method::GET, path) };
        let is_tag = tag_or_digest.parse::<Digest>().is_err();
        let answer =
            self.ask_any(&ask, is_tag).await.map_err(|error| self.unknown(error, tag_or_digest))?;
        let header = |name: &str| {
            let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (content_type, told) = (header("content-type"), header(CONTENT_DIGEST));
        let limit = RateLimit::of(answer.headers());
        let bytes = self
            .transport
            .read_body(self.registry(), answer, "a manifest", MAX_MANIFEST_BYTES)
            .await?;
        let wanted: Option<Digest> = tag_or_digest.parse().or_else(|_| told.parse()).ok();
        let digest = self.verify(&bytes, wanted)?;
        let mut media_type = media_type::essence(&content_type).to_owned();
        if !media_type::is_index(&media_type) && !media_type::is_manifest(&media_type) {
            // Some registries serve everything as JSON or text; the document knows better.
            if let Ok(own) = serde_json::from_slice::<OwnMediaType>(&bytes)
                && !own.media_type.is_empty()
            {
                media_type = own.media_type;
            }
        }
        let size_bytes = bytes.len() as u64;
        Ok(Fetched { descriptor: Descriptor { media_type, digest, size_bytes }, bytes, limit })
    }

    /// Returns all tags of the repository, page by page as the registry gives them.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] if the registry does not know the repository.
    pub async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let ask = Ask::new(Method::GET, format!("{}/tags/list", self.path));
        let pages: Vec<TagList> = self.pages(self.caller(), ask, "a list of tags").await.map_err(
            |error| match error {
                RegistryError::Refused { registry, status: 404, .. } => {
                    RegistryError::Unknown { registry, image: self.path.clone() }
                }
                other => other,
            },
        )?;
        Ok(pages.into_iter().flat_map(|page| page.tags.unwrap_or_default()).collect())
    }

    /// Fetches a list, which may come in several pages.
    pub(super) async fn pages<T: DeserializeOwned>(
        &self,
        caller: &Caller,
        mut ask: Ask,
        what: &'static str,
    ) -> Result<Vec<T>, RegistryError> {
        let mut pages = Vec::new();
        while pages.len() < MAX_PAGES {
            let answer = match caller.endpoint.is_mirror {
                true => self.transport.ask_once(caller, &ask).await?,
                false => self.transport.ask(caller, &ask).await?,
            };
            let links = answer.headers().get_all(header::LINK);
            let next = links.iter().find_map(|link| next_page(answer.url(), link.to_str().ok()?));
            let reading =
                self.transport.read_body(self.registry(), answer, what, MAX_MANIFEST_BYTES);
            let page = serde_json::from_slice(&reading.await?).map_err(|_| {
                let problem = "its answer is not a list";
                RegistryError::Protocol { registry: self.registry.clone(), problem }
            })?;
            pages.push(page);
            match next {
                Some(url) => ask = Ask::to(Method::GET, url),
                None => break,
            }
        }
        Ok(pages)
    }

    /// Fetches a small blob whole, and verifies it.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] if the registry does not know it.
    pub async fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let mut stream = self.blob(blob, 0);
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next(&mut || {}).await? {
            bytes.extend_from_slice(&piece);
        }
        self.verify(&bytes, Some(blob.digest.clone()))?;
        Ok(bytes)
    }

    /// Returns the bytes of a blob from an offset on. Nothing is asked before the first piece is.
    /// The digest is the caller's to verify.
    #[must_use]
    pub fn blob(&self, blob: &Descriptor, offset_bytes: u64) -> BlobTransfer {
        BlobTransfer::new(self.clone(), blob.clone(), offset_bytes)
    }

    /// Returns the repository's name in its registry.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the path of a blob below `/v2/`.
    pub(super) fn blob_path(&self, digest: &Digest) -> String {
        format!("{}/blobs/{digest}", self.path)
    }

    /// Tells a 404 as what it means here.
    pub(super) fn unknown(&self, error: RegistryError, what: &str) -> RegistryError {
        match error {
            RegistryError::Refused { registry, status: 404, .. } => {
                let separator = if what.contains(':') { '@' } else { ':' };
                RegistryError::Unknown {
                    registry,
                    image: format!("{}{separator}{what}", self.path),
                }
            }
            other => other,
        }
    }

    fn verify(&self, bytes: &[u8], wanted: Option<Digest>) -> Result<Digest, RegistryError> {
        let algorithm = wanted.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        let found = hasher.finish();
        match wanted {
            Some(wanted) if wanted != found => {
                Err(RegistryError::Digest { registry: self.registry().to_owned(), wanted, found })
            }
            _ => Ok(found),
        }
    }
}

/// Returns the page that comes next by a `Link` header (RFC 8288), which may name others too. It is on the
/// same host; scheme and port are those that the host was reached by, of which a server behind another one
/// knows nothing.
fn next_page(from: &Url, header: &str) -> Option<Url> {
    let mut rest = header;
    loop {
        let (target, after) = rest.split_once('<')?.1.split_once('>')?;
        let end = after.find('<').unwrap_or(after.len());
        let (parameters, others) = after.split_at(end);
        rest = others;
        if !parameters.contains("rel=\"next\"") && !parameters.contains("rel=next") {
            continue;
        }
        let target = from.join(target).ok().filter(|url| url.host() == from.host())?;
        let mut next = from.clone();
        next.set_path(target.path());
        next.set_query(target.query());
        return Some(next);
    }
}

/// Tells credentials apart without keeping them.
pub(super) fn fingerprint(credentials: Option<&Credentials>) -> String {
    let text = match credentials {
        None => return String::new(),
        Some(Credentials::Basic { username, password }) => format!("{username}\n{password}"),
        Some(Credentials::IdentityToken(token)) => token.clone(),
    };
    Digest::sha256(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_on_the_same_server() {
        let from: Url = "https://r.example/v2/a/referrers/sha256:0".parse().unwrap();
        let next = |link: &str| next_page(&from, link).map(String::from);

        let relative = next("</v2/a/referrers/sha256:0?n=2>; rel=\"next\"");
        assert_eq!(relative.as_deref(), Some("https://r.example/v2/a/referrers/sha256:0?n=2"));
        let unaware = next("<http://r.example:5000/v2/a?n=2>; rel=\"next\"");
        assert_eq!(unaware.as_deref(), Some("https://r.example/v2/a?n=2"));
        let one_of_several =
            next("</v2/a?n=0>; rel=first, </v2/a?n=2>; rel=next, </v2/a>; rel=last");
        assert_eq!(one_of_several.as_deref(), Some("https://r.example/v2/a?n=2"));
        assert_eq!(next("<https://elsewhere.example/x>; rel=\"next\""), None);
        assert_eq!(next("</x>; rel=\"last\""), None);
        assert_eq!(next("garbage"), None);
    }
}
