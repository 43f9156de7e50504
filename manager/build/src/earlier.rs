//! Files that an earlier layer has already: the new layer gets a further name for each, and no copy.
//!
//! A `COPY` of many files of which one has changed comes to a layer that differs from the last one in
//! that file. To write the others again costs an inode each and the disk their bytes; a hard link costs a
//! name.
//!
//! ```text
//! last layer of these words     /srv/a ── inode ──┐   looked at by its descriptor: kind, owner, mode, time,
//! new layer                     /srv/a ── name ───┘   attributes; read and hashed; linked by that descriptor
//! ```
//!
//! Nothing is trusted that was noted before: a file that was damaged, replaced or cut off has another
//! digest, and is written anew from what the client sent. So nothing need be noted either, and a layer
//! that is being removed costs no more than a copy.
//!
//! # Invariants
//! - A file has the same path in both layers. So whatever layers are stacked, one of its names at most is
//!   to be seen, unless a layer had several from the start.
//! - An inode gets one name of the new layer at most: files that were one before are two if they are two now.
//! - What is linked is never written to again. A committed layer is only read; in the one under
//!   construction a name is replaced and not opened; owners, modes and times are compared, not set.
//! - A file's number of names is to be seen in containers, and few programs care. Those that do (cron,
//!   logrotate) look at settings and logs, whose directories are left out, as are small copies.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use keg_store::{Algorithm, Hasher};
use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timestamps};

use crate::context::join;
use crate::copy::Placement;
use crate::sources::{Item, ItemKind, Origin, Source};
use crate::tree::directory_flags;

/// Files of a copy from which on earlier layers are looked at.
const FILES_MIN: usize = 256;
/// Files that are looked at to find out which layer is most like the new one.
const SAMPLES: usize = 16;
/// Directories whose files keep a single name.
const SINGLE: [&str; 2] = ["etc", "var"];
/// Bytes of a file that are read at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// How a file is to look.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// Hexadecimal SHA-256 of its bytes.
    pub(crate) digest: &'a str,
    /// User and group.
    pub(crate) owner: (u32, u32),
    /// Permissions.
    pub(crate) mode: u32,
    /// Its times, of which the modification's counts.
    pub(crate) times: Timestamps,
}

/// Returns the files among sources that the client has sent, with their digests.
fn sent(sources: &[Source]) -> impl Iterator<Item = (&Source, &Item, &str)> {
    let files =
        sources.iter().flat_map(|source| source.items.iter().map(move |item| (source, item)));
    files.filter_map(|(source, item)| match &item.kind {
        ItemKind::File { origin: Origin::Stored(_), digest, .. } => Some((source, item, &**digest)),
        _ => None,
    })
}

/// The files of a committed layer.
#[derive(Debug)]
pub(crate) struct Earlier {
    root: OwnedFd,
    /// The directory that was opened last; `None`: it is not there.
    parent: Option<(String, Option<OwnedFd>)>,
    /// Inodes that have a name in the new layer.
    linked: HashSet<(u64, u64)>,
    buffer: Vec<u8>,
}

impl Earlier {
    /// Tells whether so much is to be copied that earlier layers are worth a look.
    pub(crate) fn is_worth_it(sources: &[Source]) -> bool {
        sent(sources).nth(FILES_MIN - 1).is_some()
    }

    /// Opens a layer's directory.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let root = rfs::open(dir, directory_flags(), Mode::empty())?;
        Ok(Self { root, parent: None, linked: HashSet::new(), buffer: Vec::new() })
    }

    /// Opens the one of several layers in which most of a sample of what is to be copied look as wanted;
    /// `None` if none has any of it.
    pub(crate) fn most_alike<'a>(
        dirs: impl Iterator<Item = &'a Path>,
        sources: &[Source],
        placement: &Placement,
    ) -> Option<Self> {
        let step = sent(sources).count().div_ceil(SAMPLES).max(1);
        let samples: Vec<(String, Wanted<'_>)> = sent(sources)
            .step_by(step)
            .map(|(source, item, digest)| {
                let name = if item.path.is_empty() { &source.name } else { &item.path };
                (join(&placement.destination, name), placement.wanted(item, digest))
            })
            .collect();
        let mut best = None;
        for dir in dirs {
            let Ok(mut earlier) = Self::open(dir) else { continue };
            let alike = samples.iter().filter(|(path, file)| earlier.find(path, file).is_some());
            let alike = alike.count();
            if alike > best.as_ref().map_or(0, |(most, _)| *most) {
                best = Some((alike, earlier));
            }
        }
        best.map(|(_, earlier)| earlier)
    }

    /// Gives the file at `path` the further name `name` in `dir`, where nothing has that name yet, if it is
    /// just as wanted. Returns whether it did; if not, the file is to be written.
    pub(crate) fn link(
        &mut self,
        path: &str,
        wanted: &Wanted<'_>,
        dir: BorrowedFd<'_>,
        name: &str,
    ) -> bool {
        let Some((fd, inode)) = self.find(path, wanted) else { return false };
        if self.linked.contains(&inode) {
            return false;
        }
        let mut file = File::from(fd);
        if !self.hash(&mut file).is_ok_and(|digest| digest == wanted.digest) {
            return false;
        }
        // Of a file that has lost its last name meanwhile, or has as many as the file system allows, the
        // kernel makes none.
        if rfs::linkat(&file, "", dir, name, AtFlags::EMPTY_PATH).is_err() {
            return false;
        }
        self.linked.insert(inode);
        true
    }

    /// Opens the file at `path` if it looks as wanted; also returns which inode it is.
    fn find(&mut self, path: &str, wanted: &Wanted<'_>) -> Option<(OwnedFd, (u64, u64))> {
        let path = path.trim_start_matches('/');
        let top = path.split('/').next().unwrap_or_default();
        if SINGLE.contains(&top) {
            return None;
        }
        let (above, name) = path.rsplit_once('/').unwrap_or((".", path));
        // What a read leaves behind would be one more inode to be written.
        let flags = OFlags::RDONLY
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOATIME
            | OFlags::CLOEXEC;
        let fd = rfs::openat(self.parent(above)?, name, flags, Mode::empty()).ok()?;
        let stat = rfs::fstat(&fd).ok()?;
        let time = &wanted.times.last_modification;
        let is_alike = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && (stat.st_uid, stat.st_gid) == wanted.owner
            && stat.st_mode & 0o7777 == wanted.mode
            && stat.st_mtime == time.tv_sec
            && i64::try_from(stat.st_mtime_nsec) == Ok(time.tv_nsec)
            && !has_attributes(&fd);
        is_alike.then_some((fd, (stat.st_dev, stat.st_ino)))
    }

    /// Opens a directory, without following a link.
    fn parent(&mut self, path: &str) -> Option<BorrowedFd<'_>> {
        if self.parent.as_ref().is_none_or(|(known, _)| known != path) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let dir = rfs::openat2(&self.root, path, directory_flags(), Mode::empty(), resolve);
            self.parent = Some((path.to_owned(), dir.ok()));
        }
        self.parent.as_ref().and_then(|(_, dir)| dir.as_ref()).map(AsFd::as_fd)
    }

    fn hash(&mut self, file: &mut File) -> io::Result<String> {
        self.buffer.resize(BUFFER_BYTES, 0);
        let mut hasher = Hasher::new(Algorithm::Sha256);
        loop {
            match file.read(&mut self.buffer)? {
                0 => return Ok(hasher.finish().hex().to_owned()),
                length => hasher.update(&self.buffer[..length]),
            }
        }
    }
}

/// Whether a file has attributes that a new one would not have. Where SELinux is enabled, all have
/// a label.
fn has_attributes(fd: &OwnedFd) -> bool {
    const LABEL: &[u8] = b"security.selinux\0";
    // A list that holds more does not fit in here.
    let mut names = [0_u8; LABEL.len()];
    !matches!(rfs::flistxattr(fd, &mut names[..]), Ok(length) if length == 0 || &names[..length] == LABEL)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::PathBuf;

    use keg_image::diff::{self, DiffOptions, LayerCompression, LayerWriter, diff_upper};
    use keg_store::Digest;
    use rustix::fs::XattrFlags;

    use super::*;
    use crate::copy::place;
    use crate::tree::Tree;

    const FILES: usize = 3 * FILES_MIN;
    const EPOCH_SECS: i64 = 1_700_000_000;

    /// A context's files, stored, and two layers that they are copied into.
    struct Copies {
        dir: tempfile::TempDir,
        files: HashMap<String, String>,
    }

    impl Copies {
        /// `None` for who is not root, and gets no directory's owner changed.
        fn new() -> Option<Self> {
            if !rustix::process::geteuid().is_root() {
                return None;
            }
            let dir = tempfile::tempdir().unwrap();
            let name = |count| format!("d{}/file{count:03}", count / 100);
            let files = (0..FILES).map(|count| (name(count), format!("this is {count}"))).collect();
            let copies = Self { dir, files };
            fs::create_dir(copies.path("stored")).unwrap();
            copies.copy("old", "/srv", None);
            Some(copies)
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        fn source(&self) -> Source {
            let item = |path: &str, kind, mode| {
                let path = path.to_owned();
                Item { path, kind, mode, uid: 0, gid: 0, mtime_nsec: 5 }
            };
            let mut items = vec![item("", ItemKind::Directory, 0o755)];
            let mut names: Vec<&String> = self.files.keys().collect();
            names.sort();
            for name in names {
                let (above, _) = name.split_once('/').unwrap();
                if !items.iter().any(|item| item.path == above) {
                    items.push(item(above, ItemKind::Directory, 0o750));
                }
                let bytes = self.files[name].as_bytes();
                let digest = Digest::sha256(bytes).hex().to_owned();
                let stored = self.path("stored").join(&digest);
                fs::write(&stored, bytes).unwrap();
                let kind = ItemKind::File { origin: Origin::Stored(stored), digest, inode: None };
                items.push(item(name, kind, 0o640));
            }
            let (name, path) = ("files".to_owned(), "files".to_owned());
            Source { path, name, parents: String::new(), items, tree: None }
        }

        fn copy(&self, layer: &str, destination: &str, earlier: Option<&str>) {
            let placement = Placement {
                destination: destination.to_owned(),
                is_directory: true,
                owner: None,
                mode: None,
                mtime_secs: Some(EPOCH_SECS),
            };
            let sources = [self.source()];
            assert!(Earlier::is_worth_it(&sources));
            let _ = fs::remove_dir_all(self.path(layer));
            fs::create_dir(self.path(layer)).unwrap();
            let earlier = earlier.map(|earlier| self.path(earlier));
            let earlier = Earlier::most_alike(
                [self.path("nothing"), self.path("stored")]
                    .iter()
                    .chain(&earlier)
                    .map(PathBuf::as_path),
                &sources,
                &placement,
            );
            place(&Tree::directory(&self.path(layer)).unwrap(), &sources, &placement, earlier)
                .unwrap();
        }

        /// Copies with the help of the old layer; returns which files are not its, and checks that the new
        /// layer is as one that was made without.
        fn written(&self) -> Vec<String> {
            self.copy("new", "/srv", Some("old"));
            self.copy("alone", "/srv", None);
            assert_eq!(self.digest("new"), self.digest("alone"));
            let inode = |layer: &str, name: &str| {
                let file = fs::metadata(self.path(layer).join("srv").join(name));
                file.map(|file| file.ino()).ok()
            };
            let mut written: Vec<String> = self.files.keys().cloned().collect();
            written.retain(|name| inode("new", name) != inode("old", name));
            written.sort();
            written
        }

        /// The digest of a layer as an archive.
        fn digest(&self, layer: &str) -> String {
            let writer = LayerWriter::new(Vec::new(), LayerCompression::None).unwrap();
            // The destination itself is as old as what is in it.
            let timestamps = diff::Timestamps::Clamp { latest_secs: EPOCH_SECS };
            let options = DiffOptions { timestamps, ..DiffOptions::default() };
            let writer = diff_upper(&self.path(layer), &[], &options, writer).unwrap();
            writer.finish().unwrap().diff_id.to_string()
        }
    }

    #[test]
    fn only_what_changed_is_written_and_the_layer_is_as_if_all_were() {
        let Some(mut copies) = Copies::new() else { return };
        let before = copies.digest("old");
        copies.files.insert("d0/file007".to_owned(), "another".to_owned());
        copies.files.insert("d0/new".to_owned(), "new".to_owned());
        copies.files.remove("d1/file100");

        let written = copies.written();

        assert_eq!(written, ["d0/file007", "d0/new"]);
        assert_eq!(copies.digest("old"), before);
        // The layer that was linked from may go.
        fs::remove_dir_all(copies.path("old")).unwrap();
        assert_eq!(copies.digest("new"), copies.digest("alone"));
    }

    #[test]
    fn what_is_not_just_so_is_written_anew() {
        let Some(copies) = Copies::new() else { return };
        let old = |name: &str| copies.path("old/srv").join(name);
        let keeping_times = |name: &str, change: &dyn Fn(&Path)| {
            let modified = fs::metadata(old(name)).unwrap().modified().unwrap();
            change(&old(name));
            File::open(old(name)).unwrap().set_modified(modified).unwrap();
        };
        keeping_times("d0/file001", &|path| fs::write(path, "this is X").unwrap());
        keeping_times("d0/file002", &|path| fs::write(path, "").unwrap());
        fs::write(old("d0/file003"), "this is 3").unwrap();
        fs::set_permissions(old("d0/file004"), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(old("d0/file005"), Some(7), None).unwrap();
        fs::remove_file(old("d0/file006")).unwrap();
        symlink("file001", old("d0/file006")).unwrap();
        rfs::setxattr(old("d0/file008"), "trusted.mark", b"x", XattrFlags::empty()).unwrap();
        fs::remove_file(old("d0/file009")).unwrap();
        fs::rename(old("d6"), copies.path("away")).unwrap();
        symlink(copies.path("away"), old("d6")).unwrap();

        let mut written = copies.written();

        let behind_a_link = written.iter().position(|name| name.starts_with("d6/")).unwrap();
        assert_eq!(written.split_off(behind_a_link).len(), 100);
        let named: Vec<&str> = written.iter().filter_map(|name| name.strip_prefix("d0/")).collect();
        assert_eq!(
            named,
            [
                "file001", "file002", "file003", "file004", "file005", "file006", "file008",
                "file009"
            ]
        );
    }

    #[test]
    fn files_that_were_one_are_two_if_they_are_two_now() {
        let Some(mut copies) = Copies::new() else { return };
        copies.files.insert("d0/file011".to_owned(), "this is 10".to_owned());
        let old = |name: &str| copies.path("old/srv").join(name);
        fs::remove_file(old("d0/file011")).unwrap();
        fs::hard_link(old("d0/file010"), old("d0/file011")).unwrap();

        assert_eq!(copies.written(), ["d0/file011"]);
    }

    #[test]
    fn settings_and_logs_keep_a_single_name_and_a_layer_that_goes_is_copied() {
        let Some(copies) = Copies::new() else { return };
        let names = |path: &str| fs::metadata(copies.path(path)).unwrap().nlink();
        for destination in ["etc/app", "var/log/app", "etcetera"] {
            copies.copy("old", &format!("/{destination}"), None);
            copies.copy("new", &format!("/{destination}"), Some("old"));
            let expected = if destination == "etcetera" { 2 } else { 1 };
            assert_eq!(names(&format!("new/{destination}/d0/file000")), expected, "{destination}");
        }
        let mut earlier = Earlier::open(&copies.path("old")).unwrap();
        let digest = Digest::sha256(b"this is 0");
        let wanted = Wanted {
            digest: digest.hex(),
            owner: (0, 0),
            mode: 0o640,
            times: crate::copy::times(EPOCH_SECS * 1_000_000_000),
        };
        let to = File::open(copies.path("new")).unwrap();
        assert!(earlier.link("/etcetera/d0/file000", &wanted, to.as_fd(), "linked"));
        fs::remove_dir_all(copies.path("old")).unwrap();
        fs::remove_dir_all(copies.path("new/etcetera")).unwrap();

        assert!(!earlier.link("/etcetera/d0/file000", &wanted, to.as_fd(), "again"));
    }

    #[test]
    fn a_file_with_as_many_names_as_there_can_be_is_copied() {
        let Some(copies) = Copies::new() else { return };
        let links = copies.path("links");
        fs::create_dir(&links).unwrap();
        // Ext4's limit; where there is none, nothing is to be seen.
        let file = copies.path("old/srv/d0/file000");
        if !(0..=65_000).any(|count| fs::hard_link(&file, links.join(count.to_string())).is_err()) {
            return;
        }

        assert_eq!(copies.written(), ["d0/file000"]);
    }
}
