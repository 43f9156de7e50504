//! Archives that become directories: tar, plain or compressed by gzip, zstd, bzip2 or xz.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use flate2::bufread::MultiGzDecoder;
use keg_image::extract::{ExtractLimits, Whiteouts, extract};

use crate::error::{BuildError, FetchError};

/// Where a tar archive says that it is one, and how.
const TAR_MAGIC_AT: usize = 257;
const TAR_MAGIC: &[u8] = b"ustar";

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
    /// By this program.
    Program(&'static str),
}

fn compression(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', ..] => Compression::Program("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Program("xz"),
        _ => Compression::None,
    }
}

fn is_tar(head: &[u8]) -> bool {
    head.get(TAR_MAGIC_AT..).is_some_and(|rest| rest.starts_with(TAR_MAGIC))
}

/// Tells from its first 512 octets whether a file may be an archive.
pub(crate) fn may_be(head: &[u8]) -> bool {
    compression(head) != Compression::None || is_tar(head)
}

/// Unpacks a file into a directory, if it is an archive; tells whether it is. Blocks.
pub(crate) fn unpack(path: &Path, target: &Path) -> Result<bool, BuildError> {
    let reading = || BuildError::io("read an archive");
    let mut file = BufReader::new(File::open(path).map_err(reading())?);
    let head = file.fill_buf().map_err(reading())?.to_vec();
    let mut child = None;
    let plain: Box<dyn Read> = match compression(&head) {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(MultiGzDecoder::new(file)),
        Compression::Zstd => {
            Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(reading())?)
        }
        Compression::Program(program) => {
            let (running, output) = decompress(program, path)?;
            child = Some(running);
            Box::new(output)
        }
    };
    let outcome = unpack_plain(BufReader::with_capacity(64 * 1024, plain), target);
    if let Some(mut child) = child {
        // One that is not read to its end ends by that.
        let _ = child.wait();
    }
    outcome
}

fn unpack_plain(mut plain: impl BufRead, target: &Path) -> Result<bool, BuildError> {
    let mut head = Vec::new();
    // What was compressed and is no archive is a file like any other; a damaged stream is, too.
    match plain.by_ref().take(512).read_to_end(&mut head) {
        Ok(_) if is_tar(&head) => {}
        _ => return Ok(false),
    }
    let whole = BufReader::new(io::Cursor::new(head).chain(plain));
    let limits = ExtractLimits::default();
    extract(whole, target, Whiteouts::Overlay { user_xattrs: false }, limits.max_entries)
        .map_err(|source| BuildError::Archive { source: Box::new(source) })?;
    Ok(true)
}

fn decompress(
    program: &'static str,
    path: &Path,
) -> Result<(Child, std::process::ChildStdout), BuildError> {
    let failed = |source| BuildError::Fetch {
        url: "a compressed archive".to_owned(),
        source: FetchError::Program { program, source },
    };
    let input = File::open(path).map_err(BuildError::io("read an archive"))?;
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let output = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    Ok((child, output))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(2);
        header.set_mode(0o640);
        builder.append_data(&mut header, "dir/file", &b"hi"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let (file, target) = (dir.path().join("file"), dir.path().join("target"));
        std::fs::write(&file, bytes).unwrap();
        std::fs::create_dir(&target).unwrap();
        unpack(&file, &target)
            .unwrap()
            .then(|| std::fs::read_to_string(target.join("dir/file")).unwrap())
    }

    #[test]
    fn archives_are_known_by_their_bytes() {
        if !nix_is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar()).unwrap();

        assert_eq!(unpacked(&tar()).as_deref(), Some("hi"));
        assert_eq!(unpacked(&gzip.finish().unwrap()).as_deref(), Some("hi"));
        let zstd = zstd::stream::encode_all(&tar()[..], 1).unwrap();
        assert_eq!(unpacked(&zstd).as_deref(), Some("hi"));
        assert_eq!(unpacked(b"plain text"), None);
        assert_eq!(unpacked(b"\x1f\x8bnot gzip at all"), None);
    }

    fn nix_is_root() -> bool {
        rustix::process::geteuid().is_root()
    }
}
