//! What an archive becomes, and what a hostile one does not.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::{UnpackError, UnpackOptions, Unpacked, Whiteouts, unpack};

/// An archive in the making.
struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, size_bytes: usize) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(u64::from(nix::unistd::geteuid().as_raw()));
        header.set_gid(u64::from(nix::unistd::getegid().as_raw()));
        header.set_size(size_bytes as u64);
        header.set_mtime(1_000_000_000);
        header
    }

    /// Appends an entry whose name is put into the header as it is, checked by nobody.
    fn raw(mut self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        let mut header = Self::header(kind, content.len());
        let bytes = header.as_mut_bytes();
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.raw(EntryType::Regular, name, "", content.as_bytes())
    }

    fn directory(self, name: &str) -> Self {
        self.raw(EntryType::Directory, name, "", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Symlink, name, target, b"")
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Link, name, target, b"")
    }

    /// Announces PAX records for the next entry.
    fn pax(mut self, records: &[(&str, &str)]) -> Self {
        let records = records.iter().map(|(key, value)| (*key, value.as_bytes()));
        self.0.append_pax_extensions(records).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn unpack_with(self, options: &UnpackOptions) -> (TempDir, Result<Unpacked, UnpackError>) {
        let directory = tempfile::tempdir().unwrap();
        let result = unpack(&self.bytes()[..], directory.path(), options);
        (directory, result)
    }

    fn unpack(self) -> (TempDir, Result<Unpacked, UnpackError>) {
        self.unpack_with(&UnpackOptions::default())
    }
}

/// Whether the test runs as root; says so if not, since it then claims nothing.
fn as_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path).unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value).is_ok_and(|len| len == 1)
}

#[test]
fn files_directories_and_links_become_what_the_archive_says() {
    let archive = Archive::new()
        .directory("etc/")
        .file("./etc/motd", "welcome\n")
        .hard_link("etc/greeting", "etc/motd")
        .symlink("etc/link", "/etc/motd")
        .file("usr/share/doc/deep", "made its own directories");

    let (root, result) = archive.unpack();

    let unpacked = result.unwrap();
    assert_eq!((unpacked.entries, unpacked.bytes), (5, 32));
    let etc = root.path().join("etc");
    assert_eq!(fs::read_to_string(etc.join("motd")).unwrap(), "welcome\n");
    assert_eq!(
        etc.join("motd").metadata().unwrap().ino(),
        etc.join("greeting").metadata().unwrap().ino()
    );
    assert_eq!(fs::read_link(etc.join("link")).unwrap(), Path::new("/etc/motd"));
    assert_eq!(etc.metadata().unwrap().mtime(), 1_000_000_000);
    assert!(root.path().join("usr/share/doc/deep").is_file());
}

#[test]
fn owners_modes_and_fractions_of_seconds_are_kept() {
    if !as_root() {
        return;
    }
    let mut header = Archive::header(EntryType::Regular, 0);
    header.set_path("sudo").unwrap();
    header.set_mode(0o4711);
    header.set_uid(70_000);
    header.set_gid(5);
    header.set_cksum();
    let mut archive = Archive::new().pax(&[("mtime", "1700000000.123456789")]);
    archive.0.append(&header, &b""[..]).unwrap();

    let (root, result) = archive.unpack();

    result.unwrap();
    let metadata = root.path().join("sudo").metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (70_000, 5));
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o4711);
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_700_000_000, 123_456_789));
}

#[test]
fn names_that_climb_out_are_refused() {
    for archive in [
        Archive::new().file("../escaped", "x"),
        Archive::new().file("a/../../escaped", "x"),
        Archive::new().hard_link("a", "../../../etc/passwd"),
        Archive::new().directory("a").file("a/.wh...", ""),
    ] {
        let (root, result) = archive.unpack();

        assert!(matches!(result, Err(UnpackError::Name { .. })), "{result:?}");
        assert!(!root.path().parent().unwrap().join("escaped").exists());
    }
}

#[test]
fn links_in_the_archive_lead_to_other_places_of_the_layer_only() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let archive = Archive::new()
        .symlink("absolute", target)
        .file("absolute/one", "x")
        .symlink("climbing", "../../../../../../../../tmp")
        .file("climbing/two", "x");

    let (root, result) = archive.unpack();

    // The first link leads to a place that the layer has not; the kernel resolves it below the root.
    assert!(matches!(result, Err(UnpackError::Apply { .. })), "{result:?}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    drop(root);

    let archive = Archive::new()
        .directory("tmp")
        .symlink("climbing", "../../../../../../../../tmp")
        .file("climbing/two", "x");

    let (root, result) = archive.unpack();

    result.unwrap();
    assert_eq!(fs::read_to_string(root.path().join("tmp/two")).unwrap(), "x");
}

#[test]
fn a_directory_swapped_for_a_link_is_not_written_through() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "untouched").unwrap();
    let archive = Archive::new()
        .directory("a")
        .file("a/first", "x")
        .symlink("a", outside.path().to_str().unwrap())
        .file("a/victim", "overwritten");

    let (root, result) = archive.unpack();

    assert!(result.is_err());
    assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "untouched");
    drop(root);
}

#[test]
fn a_hard_link_does_not_follow_a_link_to_the_host() {
    let archive = Archive::new().symlink("link", "/etc/hostname").hard_link("second", "link");

    let (root, result) = archive.unpack();

    result.unwrap();
    assert_eq!(fs::read_link(root.path().join("second")).unwrap(), Path::new("/etc/hostname"));
}

#[test]
fn a_file_replaces_a_link_instead_of_writing_through_it() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let archive = Archive::new().symlink("a", victim.to_str().unwrap()).file("a", "new");

    let (root, result) = archive.unpack();

    result.unwrap();
    assert_eq!(fs::read_to_string(root.path().join("a")).unwrap(), "new");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
}

#[test]
fn deletions_become_overlayfs_marks() {
    if !as_root() {
        return;
    }
    let archive = Archive::new()
        .directory("etc")
        .file("etc/.wh.passwd", "")
        .directory("var")
        .file("var/.wh..wh..opq", "")
        .file(".wh..wh.plnk", "");

    let (root, result) = archive.unpack();

    result.unwrap();
    assert!(is_whiteout(&root.path().join("etc/passwd")));
    assert!(is_opaque(&root.path().join("var")));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
}

#[test]
fn what_a_layer_deletes_and_adds_again_hides_the_lower_content_in_either_order() {
    if !as_root() {
        return;
    }
    for archive in [
        Archive::new().file(".wh.a", "").directory("a").file("a/new", "x"),
        Archive::new().directory("a").file("a/new", "x").file(".wh.a", ""),
        Archive::new().file(".wh.a", "").file("a/new", "x"),
    ] {
        let (root, result) = archive.unpack();

        result.unwrap();
        assert!(is_opaque(&root.path().join("a")));
        assert_eq!(fs::read_to_string(root.path().join("a/new")).unwrap(), "x");
    }
}

#[test]
fn deleting_spares_what_the_layer_itself_added() {
    let root = tempfile::tempdir().unwrap();
    let options = UnpackOptions { whiteouts: Whiteouts::Delete, ..UnpackOptions::default() };
    let lower = Archive::new().file("a/old", "1").file("b/old", "1").file("c", "1").bytes();
    unpack(&lower[..], root.path(), &options).unwrap();
    let upper = Archive::new()
        .file("a/new", "2")
        .file("a/.wh..wh..opq", "")
        .file(".wh.b", "")
        .file(".wh.c", "")
        .file(".wh.never-there", "")
        .bytes();

    unpack(&upper[..], root.path(), &options).unwrap();

    let names = |path: &str| {
        let mut names: Vec<_> = fs::read_dir(root.path().join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["a"]);
    assert_eq!(names("a"), ["new"]);
}

#[test]
fn attributes_are_kept_but_for_those_that_steer_overlayfs() {
    if !as_root() {
        return;
    }
    let capability = "\u{1}\0\0\u{2}\0\u{4}\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let archive = Archive::new()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
        ])
        .file("ping", "x");

    let (root, result) = archive.unpack();

    result.unwrap();
    let path = root.path().join("ping");
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(&path, "security.capability", &mut value).unwrap();
    assert_eq!(length, 20);
    assert!(rustix::fs::lgetxattr(&path, "trusted.overlay.redirect", &mut value).is_err());
}

#[test]
fn a_file_with_holes_has_its_size_and_its_data() {
    let map = "2\n0\n3\n1000000\n2\n";
    let content = format!("{map}{}abcde", "\0".repeat(512 - map.len()));
    let archive = Archive::new()
        .pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "image.raw"),
            ("GNU.sparse.realsize", "2000000"),
        ])
        .file("GNUSparseFile.0/image.raw", &content);

    let (root, result) = archive.unpack();

    assert_eq!(result.unwrap().bytes, 5);
    let metadata = root.path().join("image.raw").metadata().unwrap();
    assert_eq!(metadata.len(), 2_000_000);
    assert!(metadata.blocks() * 512 < 100_000);
    let bytes = fs::read(root.path().join("image.raw")).unwrap();
    assert_eq!((&bytes[..4], &bytes[1_000_000..1_000_003]), (&b"abc\0"[..], &b"de\0"[..]));
}

#[test]
fn limits_end_the_work() {
    let few = UnpackOptions { max_entries: 2, ..UnpackOptions::default() };
    let small = UnpackOptions { max_bytes: 3, ..UnpackOptions::default() };
    let narrow = UnpackOptions { max_header_bytes: 4096, ..UnpackOptions::default() };
    let three = || Archive::new().file("a", "1").file("b", "2").file("c", "34");
    let huge = "x".repeat(100_000);
    let long = Archive::new().pax(&[("comment", &huge)]).file("a", "");

    for (archive, options, what) in [
        (three(), few, "entries"),
        (three(), small, "octets of files"),
        (long, narrow, "octets of headers for one entry"),
    ] {
        let (_root, result) = archive.unpack_with(&options);

        assert!(matches!(result, Err(UnpackError::Limit { what: told, .. }) if told == what));
    }
}

#[test]
fn an_archive_that_is_cut_off_is_an_error() {
    let bytes = Archive::new().file("a", &"x".repeat(5000)).bytes();
    let root = tempfile::tempdir().unwrap();

    let result = unpack(&bytes[..3000], root.path(), &UnpackOptions::default());

    assert!(matches!(result, Err(UnpackError::Read { .. })), "{result:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_archive_of_valid_headers_touches_anything_outside(
        entries in proptest::collection::vec(
            (0..6usize, "(\\.\\.|[ab]|/|\\.wh\\.a){1,4}", "(\\.\\.|[ab]|/){1,4}"),
            1..12,
        ),
    ) {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("layer");
        fs::create_dir(&root).unwrap();
        let mut archive = Archive::new();
        for (kind, name, link) in &entries {
            let kinds = [
                EntryType::Regular, EntryType::Directory, EntryType::Symlink,
                EntryType::Link, EntryType::Fifo, EntryType::Regular,
            ];
            archive = archive.raw(kinds[*kind], name, link, b"");
        }

        let _ = unpack(&archive.bytes()[..], &root, &UnpackOptions::default());

        let around: BTreeMap<_, _> = fs::read_dir(outer.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), entry.file_type().unwrap().is_dir()))
            .collect();
        prop_assert_eq!(around, BTreeMap::from([("layer".into(), true)]));
    }
}
