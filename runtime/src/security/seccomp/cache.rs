//! Compiled programs, kept between two starts.
//!
//! A file `HEX` holds the program of the profile whose hash is `HEX`:
//!
//! ```text
//! magic (8) │ hash of the profile (32) │ instructions (8 each) │ SHA-256 of all before (32)
//! ```
//!
//! A filter decides what a container may do, so nobody else must be able to choose it: the directory
//! belongs to the caller and is closed to others, or it is not used at all; the same goes for each
//! file. A file is written under another name and then renamed, so that no reader sees half of it; the
//! checksum finds what a full disk or a crash left.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use oci_spec::runtime::LinuxSeccomp;
use sha2::{Digest as _, Sha256};

use super::join::{INSTRUCTION_BYTES, decode, encode};
use crate::sys::seccomp::{INSTRUCTIONS_MAX, Instruction};

/// Changes whenever the compiler or the format does, so that no old program is used.
const MAGIC: &[u8; 8] = b"kegseccB";
const HASH_BYTES: usize = 32;
/// Profiles per machine are few. A program of all of Docker's architectures takes 30 KiB.
const ENTRIES_MAX: usize = 64;
const FILE_BYTES_MAX: usize = MAGIC.len() + 2 * HASH_BYTES + INSTRUCTIONS_MAX * INSTRUCTION_BYTES;

/// What a program is found by: the profile, and both programs that had a hand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u8; HASH_BYTES]);

/// Hashes everything that the program depends on. The agent that is notified is no part of it.
pub(super) fn key_of(profile: &LinuxSeccomp) -> Key {
    let mut hash = Sha256::new();
    hash.update(MAGIC);
    hash.update(env!("CARGO_PKG_VERSION"));
    if let Ok(version) = libseccomp::ScmpVersion::current() {
        hash.update(format!("|{version}|{}|", std::env::consts::ARCH));
    }
    // The profile has lists and no maps, so that equal profiles are written alike.
    let compiled = (
        profile.default_action(),
        profile.default_errno_ret(),
        profile.architectures(),
        profile.syscalls(),
    );
    hash.update(serde_json::to_vec(&compiled).unwrap_or_default());
    Key(hash.finalize().into())
}

impl Key {
    fn file_name(self) -> String {
        use std::fmt::Write as _;
        self.0.iter().fold(String::with_capacity(2 * HASH_BYTES), |mut name, byte| {
            // Writing into a string cannot fail.
            let _ = write!(name, "{byte:02x}");
            name
        })
    }
}

/// The directory, open and known to be ours alone.
#[derive(Debug)]
pub(super) struct Cache {
    dir: OwnedFd,
}

impl Cache {
    /// Opens the directory, and makes it if need be; `None` if it is not safe to use.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let open = || openat(AT_FDCWD, path, flags, Mode::empty());
        let dir = match open() {
            Err(Errno::ENOENT) => {
                // Its parent may be missing too: it is the runtime's own root then.
                std::fs::create_dir_all(path.parent()?).ok()?;
                mkdirat(AT_FDCWD, path, Mode::S_IRWXU).ok()?;
                open().ok()?
            }
            dir => dir.ok()?,
        };
        is_ours(&fstat(&dir).ok()?, SFlag::S_IFDIR).then_some(Self { dir })
    }

    /// The program of a profile, if it is here and whole.
    pub(super) fn find(&self, key: &Key) -> Option<Vec<Instruction>> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = openat(&self.dir, key.file_name().as_str(), flags, Mode::empty()).ok()?;
        let stat = fstat(&file).ok()?;
        let length = usize::try_from(stat.st_size).ok()?;
        if !is_ours(&stat, SFlag::S_IFREG) || length > FILE_BYTES_MAX {
            return None;
        }
        let mut bytes = Vec::with_capacity(length);
        File::from(file).take(FILE_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
        unpack(&bytes, key)
    }

    /// Keeps a program. A failure means that the next start compiles again, and nothing worse.
    pub(super) fn keep(&self, key: &Key, program: &[Instruction]) {
        let temporary = format!(".{}-{}", std::process::id(), key.file_name());
        let written = self.write(&temporary, &pack(program, key)).and_then(|()| {
            renameat(&self.dir, temporary.as_str(), &self.dir, key.file_name().as_str())
        });
        if written.is_err() {
            self.remove(&temporary.into());
        }
        self.evict();
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Errno> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = openat(&self.dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        File::from(file)
            .write_all(bytes)
            .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }

    /// Removes the oldest files, what a crash left half-written among them.
    fn evict(&self) {
        let mut entries = self.entries();
        entries.sort_unstable();
        let surplus = entries.len().saturating_sub(ENTRIES_MAX);
        for (_, name) in entries.drain(..surplus) {
            self.remove(&name);
        }
    }

    /// All files, by the time of their making.
    fn entries(&self) -> Vec<(i64, OsString)> {
        use std::os::unix::ffi::OsStrExt as _;
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let Ok(mut listing) = Dir::openat(&self.dir, ".", flags, Mode::empty()) else {
            return Vec::new();
        };
        listing
            .iter()
            .flatten()
            .filter(|entry| ![c".", c".."].contains(&entry.file_name()))
            .filter_map(|entry| {
                let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
                let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
                let stat = nix::sys::stat::fstatat(&self.dir, name.as_os_str(), flags).ok()?;
                Some((stat.st_mtime, name))
            })
            .collect()
    }

    fn remove(&self, name: &OsString) {
        // Someone else may have removed it; what stays is found the next time.
        let _ = unlinkat(&self.dir, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }
}

/// Whether an inode is of this type, belongs to us, and is closed to everybody else.
fn is_ours(stat: &FileStat, kind: SFlag) -> bool {
    let others = (Mode::S_IRWXG | Mode::S_IRWXO).bits();
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
        && stat.st_uid == geteuid().as_raw()
        && stat.st_mode & others == 0
}

fn pack(program: &[Instruction], key: &Key) -> Vec<u8> {
    let mut bytes = [MAGIC.as_slice(), &key.0, &encode(program)].concat();
    let checksum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

fn unpack(bytes: &[u8], key: &Key) -> Option<Vec<Instruction>> {
    let (content, checksum) = bytes.split_last_chunk::<HASH_BYTES>()?;
    if Sha256::digest(content).as_slice() != checksum {
        return None;
    }
    let program = content.strip_prefix(MAGIC)?.strip_prefix(&key.0)?;
    if program.is_empty() || !program.len().is_multiple_of(INSTRUCTION_BYTES) {
        return None;
    }
    Some(decode(program))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    const KEY: Key = Key([7; HASH_BYTES]);

    fn program() -> Vec<Instruction> {
        vec![Instruction { code: 6, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }; 3]
    }

    fn private() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        dir
    }

    fn equal(a: &[Instruction], b: &[Instruction]) -> bool {
        encode(a) == encode(b)
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let dir = private();
        let cache = Cache::open(&dir.path().join("new/er")).unwrap();

        cache.keep(&KEY, &program());

        assert!(equal(&cache.find(&KEY).unwrap(), &program()));
        assert!(cache.find(&Key([8; HASH_BYTES])).is_none());
    }

    #[test]
    fn a_directory_that_others_can_reach_is_not_used() {
        let dir = private();
        for mode in [0o770, 0o707, 0o710, 0o701] {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(Cache::open(dir.path()).is_none(), "{mode:o}");
        }
        let link = tempfile::tempdir().unwrap().keep().join("link");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(Cache::open(&link).is_none(), "a link");
        std::fs::remove_dir_all(link.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_file_that_others_can_write_is_not_used() {
        let dir = private();
        let cache = Cache::open(dir.path()).unwrap();
        cache.keep(&KEY, &program());

        let file = dir.path().join(KEY.file_name());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o620)).unwrap();

        assert!(cache.find(&KEY).is_none());
    }

    #[test]
    fn a_program_under_another_profiles_name_is_not_used() {
        let dir = private();
        let cache = Cache::open(dir.path()).unwrap();
        cache.keep(&KEY, &program());
        let other = Key([9; HASH_BYTES]);

        std::fs::rename(dir.path().join(KEY.file_name()), dir.path().join(other.file_name()))
            .unwrap();

        assert!(cache.find(&other).is_none());
    }

    #[test]
    fn the_number_of_files_is_bounded() {
        let dir = private();
        let cache = Cache::open(dir.path()).unwrap();

        for number in 0..70 {
            cache.keep(&Key([number; HASH_BYTES]), &program());
        }

        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), ENTRIES_MAX);
    }

    proptest! {
        #[test]
        fn no_changed_byte_goes_unnoticed(at in 0_usize..96, change in 1_u8..) {
            let mut bytes = pack(&program(), &KEY);
            prop_assert_eq!(bytes.len(), 96);
            bytes[at] ^= change;
            prop_assert!(unpack(&bytes, &KEY).is_none());
        }

        #[test]
        fn no_cut_goes_unnoticed(length in 0_usize..96) {
            prop_assert!(unpack(&pack(&program(), &KEY)[..length], &KEY).is_none());
        }
    }
}
