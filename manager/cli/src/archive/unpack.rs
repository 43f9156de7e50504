//! Extracts an archive into a directory here, and nowhere else: a daemon is asked for files, and
//! not trusted with names. The kernel resolves each parent directory beneath the one that was
//! named, and follows no links on the way.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    self as rfs, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::LocalError;

/// Where an archive goes, and how.
#[derive(Debug)]
pub(crate) struct Unpack {
    /// Directory, which is there.
    pub(crate) dir: PathBuf,
    /// What stands in place of the first part of each name: another name, or nothing.
    pub(crate) rename: Option<String>,
    /// Gives the files to whom the archive says.
    pub(crate) keep_owners: bool,
}

/// Extracts an archive; returns the bytes of its files.
///
/// # Errors
/// [`LocalError`].
pub(crate) fn unpack(input: impl Read, plan: &Unpack) -> Result<u64, LocalError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rfs::open(&plan.dir, flags, Mode::empty()).map_err(LocalError::at("open", &plan.dir))?;
    let mut unpacker = Unpacker { plan, root, dirs: Vec::new(), bytes: 0 };
    let mut archive = Archive::new(input);
    for entry in archive.entries().map_err(LocalError::Read)? {
        unpacker.entry(&mut entry.map_err(LocalError::Read)?)?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    plan: &'a Unpack,
    root: OwnedFd,
    /// Modes and times of directories, set at the end: what is made in them needs the one and
    /// changes the other.
    dirs: Vec<(PathBuf, Mode, Timestamps)>,
    bytes: u64,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), LocalError> {
        let name = entry.path_bytes().into_owned();
        let path = self.path(&name)?;
        let header = entry.header();
        let kind = header.entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(header.mode().unwrap_or(0o644) & 0o7777);
        let mtime = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        let owner = (header.uid().unwrap_or(0), header.gid().unwrap_or(0));
        let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        let Some(last) = path.file_name().map(OsStr::to_owned) else {
            return Ok(());
        };
        let parent = self.parent(&path)?;
        let at = |action| LocalError::at(action, self.plan.dir.join(&path));
        match kind {
            EntryType::Directory => {
                match rfs::mkdirat(&parent, &last, Mode::RWXU) {
                    Ok(()) => {
                        self.own(&parent, &last, owner, &path)?;
                        self.dirs.push((path, mode, times));
                    }
                    Err(Errno::EXIST) => {
                        let stat = rfs::statat(&parent, &last, AtFlags::SYMLINK_NOFOLLOW)
                            .map_err(at("look at"))?;
                        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                            let path = self.plan.dir.join(&path);
                            return Err(LocalError::Kind { path, is_dir: false });
                        }
                    }
                    Err(errno) => return Err(at("make the directory")(errno)),
                }
                return Ok(());
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.make_room(&parent, &last, &path)?;
                rfs::symlinkat(&*target, &parent, &last).map_err(at("make the link"))?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = self.path(&target)?;
                let source = self.parent(&target)?;
                let name = target.file_name().unwrap_or_default();
                self.make_room(&parent, &last, &path)?;
                rfs::linkat(&source, name, &parent, &last, AtFlags::empty())
                    .map_err(at("make the link"))?;
                return Ok(());
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                let device = rfs::makedev(
                    header.device_major().ok().flatten().unwrap_or(0),
                    header.device_minor().ok().flatten().unwrap_or(0),
                );
                let file_type = match kind {
                    EntryType::Fifo => FileType::Fifo,
                    EntryType::Char => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                self.make_room(&parent, &last, &path)?;
                rfs::mknodat(&parent, &last, file_type, mode, device).map_err(at("make"))?;
            }
            _ => {
                self.make_room(&parent, &last, &path)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = rfs::openat(&parent, &last, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(at("make"))?;
                let mut file = File::from(file);
                self.bytes += copy(entry, &mut file, &self.plan.dir.join(&path))?;
                self.own(&parent, &last, owner, &path)?;
                rfs::fchmod(&file, mode).map_err(at("set the mode of"))?;
                return rfs::futimens(&file, &times).map_err(at("set the times of"));
            }
        }
        self.own(&parent, &last, owner, &path)?;
        rfs::utimensat(&parent, &last, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at("set the times of"))
    }

    /// The path of an entry below the directory.
    fn path(&self, name: &[u8]) -> Result<PathBuf, LocalError> {
        let refused = || LocalError::Name { path: String::from_utf8_lossy(name).into_owned() };
        let mut path = PathBuf::new();
        for component in Path::new(OsStr::from_bytes(name)).components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::CurDir => {}
                _ => return Err(refused()),
            }
        }
        let Some(rename) = &self.plan.rename else { return Ok(path) };
        let mut parts = path.components();
        parts.next();
        Ok(Path::new(rename).join(parts.as_path()).components().collect())
    }

    fn parent(&self, path: &Path) -> Result<OwnedFd, LocalError> {
        let above = match path.parent() {
            Some(above) if !above.as_os_str().is_empty() => above,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        loop {
            match rfs::openat2(&self.root, above, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => {
                    return other.map_err(LocalError::at("open", self.plan.dir.join(above)));
                }
            }
        }
    }

    /// Takes away what is at a name, unless that is a directory.
    fn make_room(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), LocalError> {
        match rfs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                Err(LocalError::Kind { path: self.plan.dir.join(path), is_dir: true })
            }
            Err(errno) => Err(LocalError::at("replace", self.plan.dir.join(path))(errno)),
        }
    }

    fn own(
        &self,
        parent: impl AsFd,
        name: &OsStr,
        (uid, gid): (u64, u64),
        path: &Path,
    ) -> Result<(), LocalError> {
        if !self.plan.keep_owners {
            return Ok(());
        }
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        let (uid, gid) = (id(uid).map(Uid::from_raw), id(gid).map(Gid::from_raw));
        rfs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(LocalError::at("give away", self.plan.dir.join(path)))
    }

    fn finish(self) -> Result<u64, LocalError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for (path, mode, times) in self.dirs.iter().rev() {
            let at = |action| LocalError::at(action, self.plan.dir.join(path));
            let parent = self.parent(path)?;
            let name = path.file_name().unwrap_or_default();
            let dir = rfs::openat(&parent, name, flags, Mode::empty()).map_err(at("open"))?;
            rfs::fchmod(&dir, *mode).map_err(at("set the mode of"))?;
            rfs::futimens(&dir, times).map_err(at("set the times of"))?;
        }
        Ok(self.bytes)
    }
}

/// Copies the data of an entry; a read that fails and a write that fails are told apart.
fn copy(entry: &mut Entry<'_, impl Read>, file: &mut File, path: &Path) -> Result<u64, LocalError> {
    use std::io::Write as _;

    let mut buffer = vec![0; 128 * 1024];
    let mut copied = 0;
    loop {
        let length = entry.read(&mut buffer).map_err(LocalError::Read)?;
        if length == 0 {
            return Ok(copied);
        }
        file.write_all(&buffer[..length]).map_err(LocalError::at("write", path))?;
        copied += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::pack;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    fn plan(dir: &Path, rename: Option<&str>) -> Unpack {
        Unpack { dir: dir.to_owned(), rename: rename.map(str::to_owned), keep_owners: false }
    }

    #[test]
    fn what_is_packed_is_there_again_under_its_new_name() {
        let place = tempfile::tempdir().expect("a directory");
        let source = place.path().join("src");
        fs::create_dir_all(source.join("sub")).expect("directories");
        fs::write(source.join("sub/file"), "content").expect("a file");
        fs::set_permissions(source.join("sub/file"), fs::Permissions::from_mode(0o751))
            .expect("a mode");
        fs::hard_link(source.join("sub/file"), source.join("twin")).expect("a hard link");
        symlink("sub/file", source.join("link")).expect("a link");
        fs::set_permissions(source.join("sub"), fs::Permissions::from_mode(0o555)).expect("a mode");
        let target = place.path().join("target");
        fs::create_dir(&target).expect("a directory");

        let mut archive = Vec::new();
        pack(&source, "src", false, &mut archive).expect("packed");
        let bytes = unpack(&archive[..], &plan(&target, Some("new"))).expect("unpacked");

        assert_eq!(bytes, 7);
        let file = target.join("new/sub/file");
        assert_eq!(fs::read_to_string(&file).expect("the file"), "content");
        assert_eq!(fs::metadata(&file).expect("the file").mode() & 0o7777, 0o751);
        let mode = fs::metadata(target.join("new/sub")).expect("the directory").mode();
        assert_eq!(mode & 0o7777, 0o555);
        assert_eq!(
            fs::metadata(&file).expect("the file").ino(),
            fs::metadata(target.join("new/twin")).expect("the twin").ino()
        );
        assert_eq!(
            fs::read_link(target.join("new/link")).expect("the link"),
            Path::new("sub/file")
        );

        unpack(&archive[..], &plan(&target, Some(""))).expect("unpacked");
        assert!(target.join("sub/file").is_file());
    }

    #[test]
    fn a_hostile_archive_stays_in_the_directory() {
        let place = tempfile::tempdir().expect("a directory");
        let (target, outside) = (place.path().join("target"), place.path().join("outside"));
        for dir in [&target, &outside] {
            fs::create_dir(dir).expect("a directory");
        }
        let archive = |entries: &[(EntryType, &str, &str)]| {
            let mut builder = tar::Builder::new(Vec::new());
            for (kind, name, link) in entries {
                let mut header = tar::Header::new_gnu();
                let gnu = header.as_gnu_mut().expect("a header");
                gnu.name[..name.len()].copy_from_slice(name.as_bytes());
                gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
                header.set_entry_type(*kind);
                header.set_size(0);
                header.set_mode(0o644);
                header.set_cksum();
                builder.append(&header, std::io::empty()).expect("appended");
            }
            builder.into_inner().expect("an archive")
        };
        let away = outside.to_str().expect("text");
        let hostile = [
            archive(&[(EntryType::Regular, "../outside/x", "")]),
            archive(&[(EntryType::Regular, "/tmp/keg-x", "")]),
            archive(&[(EntryType::Symlink, "d", away), (EntryType::Regular, "d/x", "")]),
            archive(&[(EntryType::Symlink, "d", away), (EntryType::Directory, "d", "")]),
            archive(&[(EntryType::Link, "h", "../outside/x")]),
        ];

        for archive in hostile {
            assert!(unpack(&archive[..], &plan(&target, None)).is_err());
            assert_eq!(fs::read_dir(&outside).expect("the directory").count(), 0);
            let _ = fs::remove_file(target.join("d"));
        }
    }

    #[test]
    fn a_file_takes_the_place_of_a_file_and_never_of_a_directory() {
        let place = tempfile::tempdir().expect("a directory");
        let target = place.path().join("target");
        fs::create_dir_all(target.join("dir")).expect("a directory");
        symlink("/etc/passwd", target.join("link")).expect("a link");
        fs::write(place.path().join("f"), "new").expect("a file");
        let mut archive = Vec::new();
        pack(&place.path().join("f"), "f", false, &mut archive).expect("packed");

        unpack(&archive[..], &plan(&target, Some("link"))).expect("unpacked");
        let over = unpack(&archive[..], &plan(&target, Some("dir")));

        assert_eq!(fs::read_to_string(target.join("link")).expect("the file"), "new");
        assert!(matches!(over, Err(LocalError::Kind { is_dir: true, .. })), "{over:?}");
    }
}
