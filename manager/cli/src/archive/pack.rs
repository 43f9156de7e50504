//! Makes an archive of files here.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::LocalError;

/// Writes what is at `path`, with all that is below it, as an archive in which it is called `name`.
/// With `follow`, what a link at `path` leads to; further links stay links.
///
/// # Errors
/// [`LocalError`].
pub(crate) fn pack(
    path: &Path,
    name: &str,
    follow: bool,
    output: impl Write,
) -> Result<(), LocalError> {
    let metadata = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) }
        .map_err(LocalError::at("look at", path))?;
    let mut packer = Packer { builder: Builder::new(output), links: HashMap::new() };
    packer.entry(path, Path::new(name), &metadata)?;
    packer.builder.into_inner().and_then(|mut output| output.flush()).map_err(LocalError::Write)
}

struct Packer<W: Write> {
    builder: Builder<W>,
    /// The first name of each inode that has several.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn entry(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> Result<(), LocalError> {
        let kind = metadata.file_type();
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        if !kind.is_dir() && metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&inode) {
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                let first = first.clone();
                return self.link(&mut header, name, &first);
            }
            self.links.insert(inode, name.to_owned());
        }
        if kind.is_dir() {
            header.set_size(0);
            self.empty(&mut header, name)?;
            let mut paths = Vec::new();
            for entry in fs::read_dir(path).map_err(LocalError::at("list", path))? {
                paths.push(entry.map_err(LocalError::at("list", path))?.path());
            }
            paths.sort();
            for path in paths {
                let Some(last) = path.file_name() else { continue };
                let metadata =
                    fs::symlink_metadata(&path).map_err(LocalError::at("look at", &path))?;
                self.entry(&path, &name.join(last), &metadata)?;
            }
            return Ok(());
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(LocalError::at("read the link", path))?;
            header.set_size(0);
            return self.link(&mut header, name, &target);
        }
        if kind.is_file() {
            let file = File::open(path).map_err(LocalError::at("open", path))?;
            return self.file(&mut header, name, path, file);
        }
        if kind.is_socket() {
            let text = format!("keg: left out {}: a socket cannot be copied\n", path.display());
            crate::output::complain(&text);
            return Ok(());
        }
        if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
        } else {
            let (major, minor) =
                (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
            // A header that can hold devices is what was made above.
            let _ = header.set_device_major(major).and(header.set_device_minor(minor));
            header.set_entry_type(match kind.is_block_device() {
                true => EntryType::Block,
                false => EntryType::Char,
            });
        }
        header.set_size(0);
        self.empty(&mut header, name)
    }

    fn empty(&mut self, header: &mut Header, name: &Path) -> Result<(), LocalError> {
        self.builder.append_data(header, name, std::io::empty()).map_err(LocalError::Write)
    }

    fn link(&mut self, header: &mut Header, name: &Path, target: &Path) -> Result<(), LocalError> {
        self.builder.append_link(header, name, target).map_err(LocalError::Write)
    }

    /// Copies exactly as much as the header says: a file may grow or shrink meanwhile.
    fn file(
        &mut self,
        header: &mut Header,
        name: &Path,
        path: &Path,
        file: File,
    ) -> Result<(), LocalError> {
        use std::io::Read as _;

        let size = header.size().unwrap_or(0);
        let mut data = Noting { inner: file.chain(std::io::repeat(0)).take(size), failure: None };
        match self.builder.append_data(header, name, &mut data) {
            Ok(()) => Ok(()),
            Err(error) => Err(match data.failure {
                Some(source) => LocalError::at("read", path)(source),
                None => LocalError::Write(error),
            }),
        }
    }
}

/// Tells a failed read from a failed write.
struct Noting<R> {
    inner: R,
    failure: Option<std::io::Error>,
}

impl<R: std::io::Read> std::io::Read for Noting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let kind = error.kind();
            self.failure = Some(error);
            kind.into()
        })
    }
}
