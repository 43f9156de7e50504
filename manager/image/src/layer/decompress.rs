//! Compression of layer blobs (OCI image-spec, layer.md, "+gzip Media Types" and "+zstd").

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// Bytes read at once from a blob; large enough that a system call costs nothing beside inflating.
const BUFFER_BYTES: usize = 128 * 1024;

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), several members in a row included.
    Gzip,
    /// Zstandard (RFC 8878), several frames in a row included.
    Zstd,
}

/// Why a blob cannot be decompressed at all.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// The decoder could not be set up.
    #[error("set up the {compression:?} decoder")]
    Setup {
        /// Which.
        compression: Compression,
        /// What it says.
        #[source]
        source: io::Error,
    },
}

impl Compression {
    /// Returns what a layer's media type says, OCI's and Docker's; `None` for a type that names no
    /// layer. Docker's schema 2 calls gzip `…tar.gzip`.
    #[must_use]
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        let layer = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];
        if !layer.iter().any(|prefix| media_type.starts_with(prefix)) {
            return None;
        }
        match media_type.rsplit(['+', '.']).next()? {
            "gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            "tar" => Some(Self::None),
            _ => None,
        }
    }

    /// Returns what the first bytes of a blob look like; four are enough.
    #[must_use]
    pub fn detect(beginning: &[u8]) -> Self {
        match beginning {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, with which zstd:chunked and others begin.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Reads a blob and yields what it was before it was compressed.
pub struct Decompressor<R: Read> {
    inner: Inner<R>,
}

enum Inner<R: Read> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Decompressor<R> {
    /// Wraps `reader`.
    ///
    /// # Errors
    /// If the decoder's memory cannot be had.
    pub fn new(reader: R, compression: Compression) -> Result<Self, DecompressError> {
        let buffered = |reader| BufReader::with_capacity(BUFFER_BYTES, reader);
        let inner = match compression {
            Compression::None => Inner::Plain(reader),
            Compression::Gzip => Inner::Gzip(Box::new(MultiGzDecoder::new(buffered(reader)))),
            Compression::Zstd => {
                let decoder = zstd::Decoder::with_buffer(buffered(reader));
                let decoder =
                    decoder.map_err(|source| DecompressError::Setup { compression, source })?;
                Inner::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { inner })
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Plain(reader) => reader.read(buffer),
            Inner::Gzip(reader) => reader.read(buffer),
            Inner::Zstd(reader) => reader.read(buffer),
        }
    }
}

impl<R: Read> std::fmt::Debug for Decompressor<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.inner {
            Inner::Plain(_) => "Decompressor(plain)",
            Inner::Gzip(_) => "Decompressor(gzip)",
            Inner::Zstd(_) => "Decompressor(zstd)",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn decompressed(blob: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let compression = Compression::detect(blob);
        Decompressor::new(blob, compression).unwrap().read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn what_a_media_type_says_is_known_for_each_layer_type() {
        let table = [
            ("application/vnd.oci.image.layer.v1.tar", Some(Compression::None)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Compression::Zstd)),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Compression::None)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(Compression::Zstd)),
            ("application/vnd.oci.image.layer.v1.tar+lzma", None),
            ("application/vnd.oci.image.config.v1+json", None),
            ("text/html", None),
        ];

        for (media_type, expected) in table {
            assert_eq!(Compression::of_media_type(media_type), expected, "{media_type}");
        }
    }

    #[test]
    fn members_and_frames_in_a_row_are_one_stream() {
        let members = [gzip(b"one "), gzip(b"two")].concat();
        let frames = [zstd::encode_all(&b"one "[..], 1), zstd::encode_all(&b"two"[..], 1)]
            .map(Result::unwrap)
            .concat();

        assert_eq!(decompressed(&members).unwrap(), b"one two");
        assert_eq!(decompressed(&frames).unwrap(), b"one two");
        assert_eq!(decompressed(b"one two").unwrap(), b"one two");
    }

    #[test]
    fn a_blob_that_is_cut_off_is_an_error_not_an_end() {
        let blob = gzip(&[7; 10_000]);
        let frame = zstd::encode_all(&[7; 10_000][..], 1).unwrap();

        assert!(decompressed(&blob[..blob.len() - 9]).is_err());
        assert!(decompressed(&frame[..frame.len() - 1]).is_err());
    }
}
