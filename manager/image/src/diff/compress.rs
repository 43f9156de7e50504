//! Compression of a layer's archive: headers without times and names, so that the same archive
//! gives the same blob.

use std::io::{self, Write};

use flate2::GzBuilder;
use flate2::write::GzEncoder;
use keg_store::{Algorithm, Digest, Hasher};

use crate::media_type::{OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};

/// Level of gzip, which everybody reads; its own default.
const GZIP_LEVEL: u32 = 6;

/// Level of zstd: quicker than gzip, and smaller all the same.
const ZSTD_LEVEL: i32 = 3;

/// What gzip's header says of the system that wrote it: nothing.
const GZIP_UNKNOWN_SYSTEM: u8 = 255;

/// How a layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LayerCompression {
    /// As it is.
    None,
    /// By gzip.
    Gzip,
    /// By zstd.
    #[default]
    Zstd,
}

impl LayerCompression {
    /// The media type of such a layer.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => OCI_LAYER,
            Self::Gzip => OCI_LAYER_GZIP,
            Self::Zstd => OCI_LAYER_ZSTD,
        }
    }
}

/// Compresses an archive on its way to `W`, and computes its diff id.
pub struct LayerWriter<W: Write> {
    plain: Hasher,
    plain_bytes: u64,
    encoder: Encoder<W>,
}

enum Encoder<W: Write> {
    None(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

/// A layer that is written.
#[derive(Debug)]
pub struct WrittenLayer<W> {
    /// Where it was written to.
    pub output: W,
    /// Digest of the archive before compression.
    pub diff_id: Digest,
    /// Bytes before compression.
    pub plain_bytes: u64,
}

impl<W: Write> std::fmt::Debug for LayerWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerWriter")
            .field("plain_bytes", &self.plain_bytes)
            .finish_non_exhaustive()
    }
}

impl<W: Write> LayerWriter<W> {
    /// Begins a layer.
    ///
    /// # Errors
    /// Only for want of memory.
    pub fn new(output: W, compression: LayerCompression) -> io::Result<Self> {
        let encoder = match compression {
            LayerCompression::None => Encoder::None(output),
            LayerCompression::Gzip => Encoder::Gzip(
                GzBuilder::new()
                    .mtime(0)
                    .operating_system(GZIP_UNKNOWN_SYSTEM)
                    .write(output, flate2::Compression::new(GZIP_LEVEL)),
            ),
            LayerCompression::Zstd => {
                Encoder::Zstd(zstd::stream::write::Encoder::new(output, ZSTD_LEVEL)?)
            }
        };
        Ok(Self { plain: Hasher::new(Algorithm::Sha256), plain_bytes: 0, encoder })
    }

    /// Ends the layer.
    ///
    /// # Errors
    /// What the output says.
    pub fn finish(self) -> io::Result<WrittenLayer<W>> {
        let output = match self.encoder {
            Encoder::None(output) => output,
            Encoder::Gzip(encoder) => encoder.finish()?,
            Encoder::Zstd(encoder) => encoder.finish()?,
        };
        Ok(WrittenLayer { output, diff_id: self.plain.finish(), plain_bytes: self.plain_bytes })
    }
}

impl<W: Write> Write for LayerWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.encoder {
            Encoder::None(output) => output.write_all(bytes)?,
            Encoder::Gzip(encoder) => encoder.write_all(bytes)?,
            Encoder::Zstd(encoder) => encoder.write_all(bytes)?,
        }
        self.plain.update(bytes);
        self.plain_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
