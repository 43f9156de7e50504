//! Bodies of requests: bytes that can be sent again, as a whole or in part.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream;
use keg_store::{ContentStore, Descriptor, Digest, Namespace};

/// How much is read of a blob at once.
const PIECE_BYTES: u64 = 256 * 1024;

/// Bytes that can be sent more than once.
#[derive(Clone)]
pub struct Upload {
    source: Source,
    size_bytes: u64,
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

    /// Tells how many bytes are sent, again from where an attempt begins.
    #[must_use]
    pub fn telling(mut self, tell: Arc<dyn Fn(u64) + Send + Sync>) -> Self {
        self.tell = Some(tell);
        self
    }

    /// Returns all of it as a request's body.
    pub(super) fn whole(&self) -> Body {
        self.part(0..self.size_bytes)
    }

    /// Returns a part of it as a request's body.
    pub(super) fn part(&self, range: Range<u64>) -> Body {
        Body { upload: self.clone(), range }
    }
}

/// A part of an [`Upload`].
#[derive(Debug, Clone)]
pub(super) struct Body {
    upload: Upload,
    range: Range<u64>,
}

impl Body {
    /// Returns how many bytes it has.
    pub(super) fn length_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Returns the body from its beginning, and how much of it has been taken.
    pub(super) fn open(&self) -> (reqwest::Body, Arc<AtomicU64>) {
        let taken = Arc::new(AtomicU64::new(0));
        let body = match &self.upload.source {
            Source::Bytes(bytes) => {
                let at = |offset: u64| usize::try_from(offset).unwrap_or(bytes.len());
                bytes.slice(at(self.range.start)..at(self.range.end)).into()
            }
            Source::Blob { content, ns, digest } => {
                let pieces = Pieces {
                    blob: (content.clone(), ns.clone(), digest.clone()),
                    range: self.range.clone(),
                    taken: Arc::clone(&taken),
                    tell: self.upload.tell.clone(),
                };
                pieces.into_body()
            }
        };
        (body, taken)
    }
}

/// A part of a blob on its way.
#[derive(Clone)]
struct Pieces {
    blob: (ContentStore, Namespace, Digest),
    range: Range<u64>,
    taken: Arc<AtomicU64>,
    tell: Option<Arc<dyn Fn(u64) + Send + Sync>>,
}

impl Pieces {
    fn into_body(self) -> reqwest::Body {
        let start = self.range.start;
        reqwest::Body::wrap_stream(stream::try_unfold((None, start), move |(reader, offset)| {
            let pieces = self.clone();
            async move {
                if offset >= pieces.range.end {
                    return Ok(None);
                }
                let (piece, reader) = pieces.read(reader, offset).await?;
                let offset = offset + piece.len() as u64;
                pieces.taken.store(offset - pieces.range.start, Ordering::Relaxed);
                if let Some(tell) = &pieces.tell {
                    tell(offset);
                }
                Ok::<_, std::io::Error>(Some((piece, (Some(reader), offset))))
            }
        }))
    }

    /// Reads the piece at an offset, on a thread where that may wait.
    async fn read(
        &self,
        reader: Option<keg_store::BlobReader>,
        offset: u64,
    ) -> std::io::Result<(Bytes, keg_store::BlobReader)> {
        let (content, ns, digest) = self.blob.clone();
        let wanted = (self.range.end - offset).min(PIECE_BYTES);
        let step = tokio::task::spawn_blocking(move || {
            let reader = match reader {
                Some(reader) => reader,
                None => content.open_blob(&ns, &digest).map_err(std::io::Error::other)?,
            };
            let mut piece = vec![0; usize::try_from(wanted).unwrap_or(0)];
            let count = reader.read_at(&mut piece, offset)?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            piece.truncate(count);
            Ok((Bytes::from(piece), reader))
        });
        step.await.map_err(std::io::Error::other)?
    }
}
