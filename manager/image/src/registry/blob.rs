//! A blob's bytes as they come in, whatever happens to the connections.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use keg_store::Descriptor;
use reqwest::{Method, Response};

use super::transport::Ask;
use super::{RegistryError, Repository};

/// How much must come in before attempts are counted from one again. It bounds how long a server
/// can keep us busy by cutting each connection after a few bytes.
const PROGRESS_BYTES: u64 = 64 * 1024;

/// A range of a blob, piece by piece. A transfer that breaks off goes on by `Range`, or from the
/// beginning, of which what was had is skipped. A server that does not know ranges sends the blob to its
/// end, and that becomes the end of the range.
#[derive(Debug)]
pub(super) struct BlobStream {
    repository: Repository,
    blob: Descriptor,
    position_bytes: u64,
    /// Where the range ends.
    end_bytes: u64,
    /// Whether the range may grow to the blob's end, since nobody fetches what comes after it.
    may_grow: bool,
    answer: Option<Response>,
    /// Bytes still to be skipped of an answer that begins at 0.
    skip_bytes: u64,
    /// Attempts since there was progress.
    attempt: u32,
    /// Where the current count of attempts began.
    counted_from_bytes: u64,
    /// Whom to ask: an index into the repository's callers.
    caller: usize,
}

impl BlobStream {
    pub(super) fn new(
        repository: Repository,
        blob: Descriptor,
        offset_bytes: u64,
        end_bytes: u64,
    ) -> Self {
        Self {
            repository,
            blob,
            position_bytes: offset_bytes,
            end_bytes,
            may_grow: false,
            answer: None,
            skip_bytes: 0,
            attempt: 1,
            counted_from_bytes: offset_bytes,
            caller: 0,
        }
    }

    /// Lets the range grow to the blob's end if the server does not know ranges.
    pub(super) fn growing(mut self) -> Self {
        self.may_grow = true;
        self
    }

    /// Returns where the range ends: later than was asked for if the server does not know ranges.
    pub(super) fn end_bytes(&self) -> u64 {
        self.end_bytes
    }

    /// Returns the next piece, or `None` when all bytes of the range have come.
    /// `on_retry` is called whenever a transfer broke off and is about to be tried again.
    ///
    /// # Errors
    /// [`RegistryError::Size`] if there are more bytes than promised; otherwise what the last attempt
    /// failed with.
    pub(super) async fn next(
        &mut self,
        on_retry: &mut (dyn FnMut() + Send),
    ) -> Result<Option<Bytes>, RegistryError> {
        loop {
            match self.attempt_next().await {
                Err(error) if self.is_at_a_mirror() => {
                    self.answer = None;
                    let repository = &self.repository;
                    repository.pass_over(&repository.callers[self.caller], &error);
                    self.caller += 1;
                }
                Err(error) if self.tries_again(&error) => {
                    self.answer = None;
                    on_retry();
                    let transport = &self.repository.transport;
                    transport.pause(self.attempt, &error).await;
                    self.attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Tells whether there is somebody else to ask.
    fn is_at_a_mirror(&self) -> bool {
        self.caller + 1 < self.repository.callers.len()
    }

    fn tries_again(&mut self, error: &RegistryError) -> bool {
        if self.position_bytes - self.counted_from_bytes >= PROGRESS_BYTES {
            self.counted_from_bytes = self.position_bytes;
            self.attempt = 1;
        }
        self.repository.transport.tries_again(self.attempt, error)
    }

    async fn attempt_next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        if self.answer.is_none() {
            if self.position_bytes == self.end_bytes && self.position_bytes > 0 {
                return Ok(None);
            }
            self.open().await?;
        }
        loop {
            let Some(answer) = self.answer.as_mut() else { return Ok(None) };
            let registry = self.repository.registry();
            let piece = self.repository.transport.next_piece(registry, answer).await?;
            let Some(mut piece) = piece else { return self.ended() };
            let skipped = self.skip_bytes.min(piece.len() as u64);
            self.skip_bytes -= skipped;
            piece = piece.slice(usize::try_from(skipped).unwrap_or(piece.len())..);
            if piece.is_empty() {
                continue;
            }
            self.position_bytes += piece.len() as u64;
            let surplus = self.position_bytes.saturating_sub(self.end_bytes);
            if surplus > 0 && self.end_bytes == self.blob.size_bytes {
                return Err(self.wrong_size(self.position_bytes));
            }
            if surplus > 0 {
                // All of the blob comes, and only the range is wanted.
                self.position_bytes = self.end_bytes;
                self.answer = None;
                piece.truncate(piece.len().saturating_sub(usize::try_from(surplus).unwrap_or(0)));
                if piece.is_empty() {
                    return Ok(None);
                }
            }
            return Ok(Some(piece));
        }
    }

    /// An answer ended: is it all?
    fn ended(&mut self) -> Result<Option<Bytes>, RegistryError> {
        self.answer = None;
        if self.position_bytes == self.end_bytes {
            Ok(None)
        } else {
            Err(self.wrong_size(self.position_bytes))
        }
    }

    async fn open(&mut self) -> Result<(), RegistryError> {
        while !self.repository.callers[self.caller].endpoint.pulls && self.is_at_a_mirror() {
            self.caller += 1;
        }
        let mut headers = HeaderMap::new();
        let is_part = self.end_bytes < self.blob.size_bytes;
        if self.position_bytes > 0 || is_part {
            let range = match is_part {
                true => format!("bytes={}-{}", self.position_bytes, self.end_bytes - 1),
                false => format!("bytes={}-", self.position_bytes),
            };
            if let Ok(value) = HeaderValue::from_str(&range) {
                headers.insert(header::RANGE, value);
            }
        }
        let digest = self.blob.digest.clone();
        let ask = Ask { headers, ..Ask::new(Method::GET, self.repository.blob_path(&digest)) };
        let answer = self
            .repository
            .transport
            .ask_once(&self.repository.callers[self.caller], &ask)
            .await
            .map_err(|error| self.repository.unknown(error, digest.as_str()))?;
        let begins_at = match answer.status() {
            StatusCode::PARTIAL_CONTENT => range_start(&answer).ok_or_else(|| self.bad_range())?,
            _ => 0,
        };
        let is_whole = answer.status() != StatusCode::PARTIAL_CONTENT;
        if is_whole && self.may_grow {
            self.end_bytes = self.blob.size_bytes;
        }
        let wanted_end = if is_whole { self.blob.size_bytes } else { self.end_bytes };
        if begins_at > self.position_bytes {
            return Err(self.bad_range());
        }
        let told_end = answer.content_length().map(|length| begins_at + length);
        if let Some(end) = told_end.filter(|end| *end != wanted_end) {
            return Err(self.wrong_size(end));
        }
        self.skip_bytes = self.position_bytes - begins_at;
        self.answer = Some(answer);
        Ok(())
    }

    fn bad_range(&self) -> RegistryError {
        RegistryError::Protocol {
            registry: self.repository.registry().to_owned(),
            problem: "it sends another part of the blob than was asked for",
        }
    }

    fn wrong_size(&self, found_bytes: u64) -> RegistryError {
        RegistryError::Size {
            registry: self.repository.registry().to_owned(),
            digest: self.blob.digest.clone(),
            wanted_bytes: self.blob.size_bytes,
            found_bytes,
        }
    }
}

/// Reads where a partial answer begins: `Content-Range: bytes 5-9/10`.
fn range_start(answer: &Response) -> Option<u64> {
    let value = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
