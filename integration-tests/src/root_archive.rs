//! Archives for `keg import`: a program that is installed here, its libraries, and little else.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::programs;

/// A root filesystem as an archive, entry by entry.
pub struct RootArchive {
    builder: tar::Builder<File>,
}

impl fmt::Debug for RootArchive {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RootArchive").finish_non_exhaustive()
    }
}

impl RootArchive {
    /// Makes an archive that holds `/tmp` only.
    ///
    /// # Panics
    /// If the file cannot be made.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let builder = tar::Builder::new(File::create(path).expect("create the archive"));
        Self { builder }.directory("tmp", 0o1777, 0)
    }

    /// Adds a directory of a user and of the group of the same number.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn directory(mut self, path: &str, mode: u32, owner: u64) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        self.builder.append_data(&mut header, path, &[][..]).expect("append a directory");
        self
    }

    /// Adds a file of root that everybody may read.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn text(mut self, path: &str, content: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        self.builder.append_data(&mut header, path, content.as_bytes()).expect("append a text");
        self
    }

    /// Adds a program that is installed here with the libraries that it is linked against, each at
    /// its own path.
    ///
    /// # Panics
    /// If the program is not installed.
    #[must_use]
    pub fn program(mut self, name: &str) -> Self {
        let program = programs::installed(name).unwrap_or_else(|| panic!("no {name} here"));
        let libraries = Command::new("ldd").arg(&program).output().expect("run ldd");
        let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
        let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
        for path in libraries.chain([&*program.to_string_lossy()]) {
            self = self.installed(path);
        }
        self
    }

    /// Adds a file that is installed here, at its own path.
    ///
    /// # Panics
    /// If it is not there.
    #[must_use]
    pub fn installed(mut self, path: &str) -> Self {
        let file = fs::canonicalize(path).expect("find the file behind links");
        let name = path.trim_start_matches('/');
        self.builder.append_path_with_name(file, name).expect("append a file");
        self
    }

    /// Ends the archive.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn finish(mut self) {
        self.builder.finish().expect("finish the archive");
    }
}
