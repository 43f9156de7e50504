//! One directory of one hierarchy, held open: control files are reached relative to it.
//!
//! Invariant: a name that is given to a method is a plain file name. Every lookup refuses symbolic
//! links, so nothing that a cgroup file system could not hold itself is ever followed.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::{Dir as Listing, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, faccessat};

use super::error::CgroupError;

/// Control files are at most this long; what follows is cut off. `cgroup.procs` is read whole.
const SHORTENED_CHARS: usize = 120;

/// An open directory of a cgroup.
#[derive(Debug)]
pub(super) struct Dir {
    path: PathBuf,
    fd: OwnedFd,
}

impl Dir {
    /// Opens a directory of a hierarchy.
    pub(super) fn open(path: &Path) -> Result<Self, CgroupError> {
        let fd = openat(
            AT_FDCWD,
            path,
            OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
            Mode::empty(),
        )
        .map_err(|errno| CgroupError::Open { dir: path.into(), errno })?;
        Ok(Self { path: path.into(), fd })
    }

    /// Opens a directory, or tells by `None` that there is none.
    pub(super) fn open_existing(path: &Path) -> Result<Option<Self>, CgroupError> {
        match Self::open(path) {
            Ok(dir) => Ok(Some(dir)),
            Err(CgroupError::Open { errno: Errno::ENOENT | Errno::ENODEV, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the directory is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the kernel offers this control file here.
    pub(super) fn has(&self, file: &str) -> bool {
        faccessat(&self.fd, file, AccessFlags::F_OK, AtFlags::empty()).is_ok()
    }

    /// Opens a control file for writing and keeps it open.
    pub(super) fn open_for_write(&self, file: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(&self.fd, file, flags, Mode::empty())
    }

    /// Opens a control file for writing of a directory from which nothing else is needed.
    pub(super) fn open_file_for_write(dir: &Path, file: &str) -> Result<OwnedFd, CgroupError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let path = dir.join(file);
        openat(AT_FDCWD, &path, flags, Mode::empty())
            .map_err(|errno| CgroupError::Open { dir: path, errno })
    }

    /// Opens a control file for reading and keeps it open.
    pub(super) fn open_for_read(&self, file: &str) -> Result<OwnedFd, CgroupError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(&self.fd, file, flags, Mode::empty())
            .map_err(|errno| CgroupError::Read { file: self.path.join(file), errno })
    }

    /// Writes a control file in one call, as the kernel wants it, and leaves the judgement of a
    /// failure to the caller.
    pub(super) fn try_write(&self, file: &str, value: &str) -> Result<(), Errno> {
        let mut file = File::from(self.open_for_write(file)?);
        file.write_all(value.as_bytes()).map_err(errno_of)
    }

    /// Writes several values into a control file that takes one with each call.
    pub(super) fn write_each(&self, file: &str, values: &[String]) -> Result<(), CgroupError> {
        let written = |value: &String, errno| self.write_error(file, value, errno);
        let Some(first) = values.first() else { return Ok(()) };
        let mut open = File::from(self.open_for_write(file).map_err(|e| written(first, e))?);
        values.iter().try_for_each(|value| {
            open.write_all(value.as_bytes()).map_err(|error| written(value, errno_of(error)))
        })
    }

    /// Writes a control file.
    pub(super) fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        self.try_write(file, value).map_err(|errno| self.write_error(file, value, errno))
    }

    /// Writes a control file that must exist for `field` to be honoured.
    pub(super) fn write_limit(
        &self,
        field: &str,
        file: &str,
        value: &str,
    ) -> Result<(), CgroupError> {
        match self.try_write(file, value) {
            Ok(()) => Ok(()),
            Err(Errno::ENOENT) => Err(CgroupError::LimitAbsent {
                field: field.into(),
                file: file.into(),
                dir: self.path.clone(),
            }),
            Err(errno) => Err(self.write_error(file, value, errno)),
        }
    }

    /// As [`Dir::write_limit`]; but zero, which is the kernel's default, needs no file that holds it.
    pub(super) fn write_number(
        &self,
        field: &str,
        file: &str,
        number: impl Into<i128>,
    ) -> Result<(), CgroupError> {
        let number = number.into();
        match self.write_limit(field, file, &number.to_string()) {
            Err(CgroupError::LimitAbsent { .. }) if number == 0 => Ok(()),
            outcome => outcome,
        }
    }

    /// The error of a failed write.
    pub(super) fn write_error(&self, file: &str, value: &str, errno: Errno) -> CgroupError {
        CgroupError::Write { file: self.path.join(file), value: value.into(), errno }
    }

    /// Reads a control file.
    pub(super) fn read(&self, file: &str) -> Result<String, CgroupError> {
        read_text(&self.open_for_read(file)?)
            .map_err(|errno| CgroupError::Read { file: self.path.join(file), errno })
    }

    /// Reads a control file that not every kernel has.
    pub(super) fn read_if_present(&self, file: &str) -> Result<Option<String>, CgroupError> {
        match self.read(file) {
            Ok(text) => Ok(Some(text)),
            Err(CgroupError::Read {
                errno: Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a control file that holds one number; `max` is the largest.
    pub(super) fn read_u64(&self, file: &str) -> Result<u64, CgroupError> {
        let text = self.read(file)?;
        parse_u64_or_max(text.trim()).ok_or_else(|| self.parse_error(file, &text, "number"))
    }

    /// Reads a control file that holds one number and that not every kernel has.
    pub(super) fn read_u64_if_present(&self, file: &str) -> Result<Option<u64>, CgroupError> {
        let Some(text) = self.read_if_present(file)? else { return Ok(None) };
        match parse_u64_or_max(text.trim()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.parse_error(file, &text, "number")),
        }
    }

    /// The error of a control file whose content makes no sense.
    pub(super) fn parse_error(
        &self,
        file: &str,
        text: &str,
        expected: &'static str,
    ) -> CgroupError {
        CgroupError::Parse {
            file: self.path.join(file),
            text: text.chars().take(SHORTENED_CHARS).collect(),
            expected,
        }
    }

    /// The names of the cgroups right below this one.
    pub(super) fn children(&self) -> Result<Vec<String>, CgroupError> {
        let failed = |errno| CgroupError::Read { file: self.path.clone(), errno };
        let mut listing =
            Listing::openat(&self.fd, ".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(failed)?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy();
            if entry.file_type() == Some(Type::Directory) && name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }
}

/// Reads a file of the kernel to its end, without asking for a length that it does not have.
pub(super) fn read_text(file: &OwnedFd) -> Result<String, Errno> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match nix::unistd::read(file, &mut buffer) {
            Ok(0) => return String::from_utf8(text).map_err(|_| Errno::EILSEQ),
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Parses a number of a control file, where `max` stands for no limit.
pub(super) fn parse_u64_or_max(text: &str) -> Option<u64> {
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}

/// The kernel's answer inside an error of the standard library.
pub(super) fn errno_of(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
