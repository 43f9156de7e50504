//! Pushing: what goes into a registry.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use keg_store::{ContentStore, Descriptor, Digest, Namespace};
use reqwest::{Body, Method};

use super::transport::{Address, Ask};
use super::{RegistryError, Repository};

/// How much is read of a blob at once.
const PIECE_BYTES: usize = 256 * 1024;

/// A body that can be sent more than once.
#[derive(Clone)]
pub struct Upload {
    source: Source,
    pub(super) size_bytes: u64,
    tell: Option<Arc<dyn Fn(u64) + Send + Sync>>,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
enum Source {
    Bytes(Bytes),
    Blob { content: ContentStore, ns: Namespace, digest: Digest },
}

impl Upload {
    /// Sends bytes.
    #[must_use]
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { size_bytes: bytes.len() as u64, source: Source::Bytes(bytes), tell: None }
    }

    /// Sends a stored blob.
    #[must_use]
    pub fn blob(content: &ContentStore, ns: &Namespace, blob: &Descriptor) -> Self {
        let (content, ns, digest) = (content.clone(), ns.clone(), blob.digest.clone());
        let source = Source::Blob { content, ns, digest };
        Self { size_bytes: blob.size_bytes, source, tell: None }
    }

    /// Tells how many bytes are sent, again from the beginning with each attempt.
    #[must_use]
    pub fn telling(mut self, tell: Arc<dyn Fn(u64) + Send + Sync>) -> Self {
        self.tell = Some(tell);
        self
    }

    /// Returns the body from its beginning, and how much of it has been taken.
    pub(super) fn open(&self) -> (Body, Arc<AtomicU64>) {
        let sent = Arc::new(AtomicU64::new(0));
        let body = match &self.source {
            Source::Bytes(bytes) => Body::from(bytes.clone()),
            Source::Blob { content, ns, digest } => {
                let opening = (content.clone(), ns.clone(), digest.clone());
                let (counted, tell) = (Arc::clone(&sent), self.tell.clone());
                Body::wrap_stream(stream::try_unfold(None, move |reader| {
                    let (opening, counted) = (opening.clone(), Arc::clone(&counted));
                    let tell = tell.clone();
                    async move {
                        let step = tokio::task::spawn_blocking(move || {
                            let (content, ns, digest) = opening;
                            let mut reader = match reader {
                                Some(reader) => reader,
                                None => content
                                    .open_blob(&ns, &digest)
                                    .map_err(std::io::Error::other)?,
                            };
                            let mut piece = Vec::with_capacity(PIECE_BYTES);
                            (&mut reader).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
                            Ok::<_, std::io::Error>((piece, reader))
                        });
                        let (piece, reader) = step.await.map_err(std::io::Error::other)??;
                        if piece.is_empty() {
                            return Ok(None);
                        }
                        let length = piece.len() as u64;
                        let sent_bytes = counted.fetch_add(length, Ordering::Relaxed) + length;
                        if let Some(tell) = tell {
                            tell(sent_bytes);
                        }
                        Ok::<_, std::io::Error>(Some((Bytes::from(piece), Some(reader))))
                    }
                }))
            }
        };
        (body, sent)
    }
}

impl Repository {
    /// Tells whether the repository has a blob.
    ///
    /// # Errors
    /// If the registry does not answer, or refuses.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let ask = Ask::new(Method::HEAD, self.blob_path(digest));
        match self.transport.ask(self.caller(), &ask).await {
            Ok(_) => Ok(true),
            Err(RegistryError::Refused { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts a blob into the repository: by mounting it from another repository of the registry if
    /// that has it, else by sending it. Returns whether it was sent.
    ///
    /// # Errors
    /// If the registry does not answer, or refuses.
    pub async fn put_blob(
        &self,
        blob: &Descriptor,
        body: &Upload,
        mount_from: Option<&str>,
    ) -> Result<bool, RegistryError> {
        let mut attempt = 1;
        loop {
            match self.put_blob_once(blob, body, mount_from).await {
                Err(error) if error.may_pass() && attempt < self.transport.options().attempts => {
                    self.transport.pause(attempt, &error).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn put_blob_once(
        &self,
        blob: &Descriptor,
        body: &Upload,
        mount_from: Option<&str>,
    ) -> Result<bool, RegistryError> {
        let mut path = format!("{}/blobs/uploads/", self.path());
        if let Some(from) = mount_from {
            path.push_str(&format!("?mount={}&from={from}", blob.digest));
        }
        let begin = Ask::new(Method::POST, path);
        let answer = self.transport.ask_once(self.caller(), &begin).await?;
        if answer.status() == http::StatusCode::CREATED {
            return Ok(false);
        }
        let from = answer.url().clone();
        let mut url = self.transport.location(self.caller(), &from, &answer)?;
        url.query_pairs_mut().append_pair("digest", blob.digest.as_str());
        let mut put = Ask {
            target: Address::Url(url),
            body: Some(body.clone()),
            ..Ask::new(Method::PUT, String::new())
        };
        put.headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        self.transport.ask_once(self.caller(), &put).await?;
        Ok(true)
    }

    /// Puts a manifest or index under a tag or digest.
    ///
    /// # Errors
    /// If the registry does not answer, or refuses.
    pub async fn put_manifest(
        &self,
        tag_or_digest: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let mut put = Ask::new(Method::PUT, format!("{}/manifests/{tag_or_digest}", self.path()));
        put.body = Some(Upload::bytes(bytes.to_vec()));
        if let Ok(value) = HeaderValue::from_str(media_type) {
            put.headers.insert(header::CONTENT_TYPE, value);
        }
        self.transport.ask(self.caller(), &put).await.map(drop)
    }
}
