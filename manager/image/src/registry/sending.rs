//! Sending blobs and manifests (distribution-spec, "Push").
//!
//! ```text
//! POST uploads/ ──▶ 201   mounted from another repository
//!               ──▶ 202   Location
//!                          ├─ small ──▶ PUT Location?digest=…       all of it
//!                          └─ large ──▶ PATCH Location              a chunk, Content-Range A-B
//!                                  202: Location, Range 0-B ──▶ the next chunk …
//!                                  cut: GET Location ──▶ 204: Range 0-N, on from there
//!                                       PUT Location?digest=…       nothing more
//! ```
//!
//! A registry that refuses a chunk, or does not remember an upload, gets the blob in one piece.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use keg_store::{Descriptor, Digest};
use reqwest::{Method, Response, Url};

use super::transport::Ask;
use super::{RegistryError, Repository, Upload};

/// Header by which a registry says how small a chunk may be.
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

/// Header by which a registry says that it noted what a manifest refers to.
const SUBJECT: &str = "oci-subject";

/// Content type of blobs.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// An upload that a registry knows of.
#[derive(Debug, Clone)]
struct Session {
    /// Where it goes on.
    url: Url,
    /// Bytes that the registry has.
    offset_bytes: u64,
    /// Bytes of a chunk.
    chunk_bytes: u64,
    /// Whether an attempt broke off since the registry told how much it has.
    is_in_doubt: bool,
}

/// A blob on its way into a repository.
#[derive(Debug)]
struct Sending<'a> {
    repository: &'a Repository,
    blob: &'a Descriptor,
    body: &'a Upload,
    in_chunks: bool,
    session: Option<Session>,
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
            // One that does not know the question is sent the blob, which does no harm.
            Err(RegistryError::Refused { status: 404 | 405 | 501, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts a blob into the repository: by mounting it from another repository of the registry if
    /// that has it, else by sending it. A transfer that breaks off goes on where it did, if the
    /// registry can do that. Returns whether it was sent.
    ///
    /// # Errors
    /// If the registry does not answer, or refuses.
    pub async fn put_blob(
        &self,
        blob: &Descriptor,
        body: &Upload,
        mount_from: Option<&str>,
    ) -> Result<bool, RegistryError> {
        let options = self.transport.options();
        let in_chunks = blob.size_bytes > options.upload_chunk_bytes;
        let mut sending = Sending { repository: self, blob, body, in_chunks, session: None };
        let mut attempt = 1;
        loop {
            let before = sending.offset_bytes();
            match sending.go_on(mount_from).await {
                Ok(was_sent) => return Ok(was_sent),
                Err(error) => {
                    if sending.offset_bytes() > before {
                        attempt = 1;
                    }
                    if !self.transport.tries_again(attempt, &error) {
                        return Err(error);
                    }
                    self.transport.pause(attempt, &error).await;
                    attempt += 1;
                }
            }
        }
    }

    /// Puts a manifest or index under a tag or digest. Returns whether the registry noted what it refers
    /// to; if it has a subject and the registry did not, that is the client's to do
    /// ([`Self::note_referrer`]).
    ///
    /// # Errors
    /// If the registry does not answer, or refuses.
    pub async fn put_manifest(
        &self,
        tag_or_digest: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<bool, RegistryError> {
        let mut put = Ask::new(Method::PUT, format!("{}/manifests/{tag_or_digest}", self.path()));
        put.body = Some(Upload::bytes(bytes.to_vec()).whole());
        if let Ok(value) = HeaderValue::from_str(media_type) {
            put.headers.insert(header::CONTENT_TYPE, value);
        }
        let answer = self.transport.ask(self.caller(), &put).await?;
        Ok(answer.headers().contains_key(SUBJECT))
    }
}

impl Sending<'_> {
    fn offset_bytes(&self) -> u64 {
        self.session.as_ref().map_or(0, |session| session.offset_bytes)
    }

    /// Does what is left to do.
    async fn go_on(&mut self, mount_from: Option<&str>) -> Result<bool, RegistryError> {
        loop {
            self.recover().await?;
            let session = match self.session.take() {
                Some(session) => session,
                None => match self.begin_or_mount(mount_from).await? {
                    Some(session) => session,
                    None => return Ok(false),
                },
            };
            if !self.in_chunks {
                self.finish(session, 0).await?;
                return Ok(true);
            }
            match self.send_chunks(session).await {
                Err(RegistryError::Refused { status, .. }) => {
                    let repository = self.repository.path();
                    tracing::info!(repository, status, "chunks are refused: sending in one piece");
                    self.in_chunks = false;
                    self.session = None;
                }
                other => return other.map(|()| true),
            }
        }
    }

    /// Begins an upload, also where the registry does not let the other repository be read.
    async fn begin_or_mount(
        &self,
        mount_from: Option<&str>,
    ) -> Result<Option<Session>, RegistryError> {
        match self.begin(mount_from).await {
            Err(RegistryError::Refused { .. } | RegistryError::Unauthorized { .. })
                if mount_from.is_some() =>
            {
                self.begin(None).await
            }
            other => other,
        }
    }

    /// Begins an upload; `None`: the registry has taken the blob from another repository.
    async fn begin(&self, mount_from: Option<&str>) -> Result<Option<Session>, RegistryError> {
        let mut path = format!("{}/blobs/uploads/", self.repository.path());
        if let Some(from) = mount_from {
            path.push_str(&format!("?mount={}&from={from}", self.blob.digest));
        }
        let begin = Ask::new(Method::POST, path);
        let answer = self.ask(&begin).await?;
        if answer.status() == StatusCode::CREATED {
            return Ok(None);
        }
        let least = answer.headers().get(CHUNK_MIN_LENGTH);
        let least = least.and_then(|value| value.to_str().ok()?.trim().parse().ok()).unwrap_or(0);
        let chunk_bytes = self.repository.transport.options().upload_chunk_bytes.max(least).max(1);
        let url = self.location(&answer)?;
        Ok(Some(Session { url, offset_bytes: 0, chunk_bytes, is_in_doubt: false }))
    }

    /// Sends what the registry does not have yet, chunk by chunk. The session is kept if an attempt
    /// breaks off.
    async fn send_chunks(&mut self, mut session: Session) -> Result<(), RegistryError> {
        while session.offset_bytes < self.blob.size_bytes {
            let start = session.offset_bytes;
            let end = self.blob.size_bytes.min(start + session.chunk_bytes);
            let mut patch = Ask::to(Method::PATCH, session.url.clone());
            patch.body = Some(self.body.part(start..end));
            patch.headers.insert(header::CONTENT_TYPE, OCTETS);
            // Without a unit, unlike anywhere else (distribution-spec, "Pushing a blob in chunks").
            if let Ok(value) = HeaderValue::from_str(&format!("{start}-{}", end - 1)) {
                patch.headers.insert(header::CONTENT_RANGE, value);
            }
            let answer = match self.ask(&patch).await {
                Ok(answer) => answer,
                Err(error) => {
                    self.session = Some(Session { is_in_doubt: true, ..session });
                    return Err(error);
                }
            };
            session.url = self.location(&answer)?;
            session.offset_bytes = received(answer.headers()).unwrap_or(end);
            if !(start + 1..=end).contains(&session.offset_bytes) {
                return Err(self.strange("it tells of other chunks than it was sent"));
            }
            self.session = Some(session.clone());
        }
        self.session = None;
        self.finish(session, self.blob.size_bytes).await
    }

    /// Asks how far an upload came that broke off, and forgets it if the registry has.
    async fn recover(&mut self) -> Result<(), RegistryError> {
        let Some(session) = self.session.as_mut().filter(|session| session.is_in_doubt) else {
            return Ok(());
        };
        let ask = Ask::to(Method::GET, session.url.clone());
        match self.repository.transport.ask_once(self.repository.caller(), &ask).await {
            Ok(answer) => {
                session.offset_bytes = received(answer.headers()).unwrap_or(0);
                session.is_in_doubt = false;
                if answer.headers().contains_key(header::LOCATION) {
                    let (caller, from) = (self.repository.caller(), answer.url());
                    session.url = self.repository.transport.location(caller, from, &answer)?;
                }
                if session.offset_bytes > self.blob.size_bytes {
                    return Err(self.strange("it has more of a blob than there is"));
                }
                Ok(())
            }
            Err(RegistryError::Refused { .. }) => {
                self.session = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Sends what follows an offset, and closes the upload.
    async fn finish(&self, session: Session, offset_bytes: u64) -> Result<(), RegistryError> {
        let mut url = session.url;
        url.query_pairs_mut().append_pair("digest", self.blob.digest.as_str());
        let mut put = Ask::to(Method::PUT, url);
        put.body = Some(self.body.part(offset_bytes..self.blob.size_bytes));
        put.headers.insert(header::CONTENT_TYPE, OCTETS);
        self.ask(&put).await.map(drop)
    }

    async fn ask(&self, ask: &Ask) -> Result<Response, RegistryError> {
        self.repository.transport.ask_once(self.repository.caller(), ask).await
    }

    fn location(&self, answer: &Response) -> Result<Url, RegistryError> {
        let (caller, from) = (self.repository.caller(), answer.url());
        self.repository.transport.location(caller, from, answer)
    }

    fn strange(&self, problem: &'static str) -> RegistryError {
        RegistryError::Protocol { registry: self.repository.registry().to_owned(), problem }
    }
}

/// Reads how many bytes a registry has of an upload: `Range: 0-1023`. Some say `0-0` of none.
fn received(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::RANGE)?.to_str().ok()?.trim();
    let (start, end) = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?;
    let end: u64 = end.parse().ok().filter(|_| start == "0")?;
    Some(if end == 0 { 0 } else { end + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_has_is_read_with_and_without_a_unit() {
        let table = [
            ("0-1023", Some(1024)),
            ("bytes=0-9", Some(10)),
            ("0-0", Some(0)),
            ("5-9", None),
            ("0-", None),
            ("", None),
        ];
        for (text, expected) in table {
            let headers = HeaderMap::from_iter([(header::RANGE, text.parse().unwrap())]);
            assert_eq!(received(&headers), expected, "{text}");
        }
        assert_eq!(received(&HeaderMap::new()), None);
    }
}
