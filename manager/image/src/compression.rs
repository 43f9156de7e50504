//! Compression: told from the first bytes, not from what a media type claims.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::extract::ExtractError;

/// Largest window that a zstd frame may ask for: 128 MiB, what `zstd --long=27` writes.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Window of a frame whose head does not tell: 8 MiB, what zstd's level 19 takes.
const ZSTD_WINDOW_LOG_DEFAULT: u32 = 23;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Tells the compression from the first bytes of an archive.
    pub(crate) fn detect(head: &[u8]) -> Result<Self, ExtractError> {
        let unsupported = |format| Err(ExtractError::Compression { format });
        match head {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            // A skippable frame, with which seekable formats begin.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz"),
            [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4"),
            _ => Ok(Self::None),
        }
    }
}

/// Returns how many bytes a decompression keeps to look back into, told from the first bytes of an archive: for
/// zstd its first frame's window (RFC 8878, section 3.1.1.1), for all else next to nothing.
pub(crate) fn window_bytes(head: &[u8]) -> u64 {
    let (descriptor, rest) = match head {
        [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] => (*descriptor, rest),
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => return 1 << ZSTD_WINDOW_LOG_DEFAULT,
        _ => return 0,
    };
    let is_single_segment = descriptor & 0x20 != 0;
    let window = match (is_single_segment, rest.first()) {
        (false, Some(window)) => {
            let base = 1_u64 << (10 + (window >> 3));
            base + base / 8 * u64::from(window & 7)
        }
        // All of it is one window, and its size comes after the dictionary's id.
        (true, _) => {
            let skipped = [0, 1, 2, 4][usize::from(descriptor & 3)];
            let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
            let field = rest.get(skipped..).unwrap_or_default().iter().take(length);
            let size = field.rev().fold(0, |size, byte| size << 8 | u64::from(*byte));
            if length == 2 { size + 256 } else { size }
        }
        (false, None) => 1 << ZSTD_WINDOW_LOG_DEFAULT,
    };
    // More than that is refused.
    window.min(1 << ZSTD_WINDOW_LOG_MAX)
}

/// An archive being decompressed.
pub(crate) enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(ZstdDecoder<'static, R>),
}

impl<R: BufRead> Decoder<R> {
    /// Looks at the first bytes of `input` and returns what decompresses it.
    pub(crate) fn new(mut input: R) -> Result<Self, ExtractError> {
        let read = |source| ExtractError::Read { source };
        Ok(match Compression::detect(input.fill_buf().map_err(read)?)? {
            Compression::None => Self::Plain(input),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => {
                let mut decoder = ZstdDecoder::with_buffer(input).map_err(read)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(read)?;
                Self::Zstd(decoder)
            }
        })
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut decoded = Vec::new();
        Decoder::new(bytes).unwrap().read_to_end(&mut decoded)?;
        Ok(decoded)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_supported_form_is_read_back() {
        let plain = vec![7; 100_000];
        let zstd = zstd::stream::encode_all(&plain[..], 3).unwrap();
        let several = [gzip(&plain[..10]), gzip(&plain[10..])].concat();

        for form in [&plain, &zstd, &several] {
            assert_eq!(decode(form).unwrap(), plain);
        }
        assert_eq!(decode(b"").unwrap(), b"");
    }

    #[test]
    fn a_truncated_stream_is_an_error_and_not_an_end() {
        let noise: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
        let zstd = zstd::stream::encode_all(&noise[..], 3).unwrap();
        for whole in [gzip(&noise), zstd] {
            assert!(decode(&whole[..whole.len() / 2]).is_err());
            assert!(decode(&whole[..whole.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_window_is_told_from_the_head_of_a_frame() {
        let plain = vec![7; 3 << 20];
        let mut sized = zstd::bulk::Compressor::new(3).unwrap();
        let sized = sized.compress(&plain[..300]).unwrap();
        let mut long = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        long.window_log(26).unwrap();
        long.write_all(&plain).unwrap();
        let long = long.finish().unwrap();

        assert_eq!(window_bytes(&sized), 300);
        assert_eq!(window_bytes(&long), 1 << 26);
        assert_eq!(window_bytes(&zstd::stream::encode_all(&plain[..], 3).unwrap()), 1 << 21);
        assert_eq!(window_bytes(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0xff]), 1 << 27);
        assert_eq!(window_bytes(&[0x28, 0xb5, 0x2f, 0xfd, 0xe0]), 0);
        assert_eq!(window_bytes(&gzip(&plain)), 0);
    }

    #[test]
    fn what_cannot_be_read_is_told_by_name() {
        let refused = Decoder::new(&b"\xfd7zXZ\0\0\0"[..]).map(|_| ()).unwrap_err();

        assert!(matches!(refused, ExtractError::Compression { format: "xz" }));
    }
}
