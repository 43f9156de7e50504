//! What archives become, and what hostile ones do not.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use ::tar::{Builder, EntryType, Header};

use super::*;

const OVERLAY: Whiteouts = Whiteouts::Overlay { user_xattrs: false };

/// An archive in the making.
struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        // Set as bytes: the crate's own setters refuse what hostile archives have.
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..path.len()].copy_from_slice(path.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_size(data.len() as u64);
        header.set_mtime(1_000_000_000);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn dir(self, path: &str) -> Self {
        self.add(EntryType::Directory, path, "", b"")
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.add(EntryType::Regular, path, "", data.as_bytes())
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, path, target, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Link, path, target, b"")
    }

    fn attributes(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A layer's directory beside one that no archive may touch.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("layer")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Self { dir }
    }

    fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    fn extract(&self, archive: Archive) -> Result<Extracted, ExtractError> {
        self.extract_with(archive, OVERLAY)
    }

    fn extract_with(
        &self,
        archive: Archive,
        whiteouts: Whiteouts,
    ) -> Result<Extracted, ExtractError> {
        extract(&*archive.bytes(), &self.layer(), whiteouts, 1000)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.layer().join(path)).unwrap()
    }

    fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.layer().join(path)).unwrap()
    }

    /// Checks that nothing outside changed.
    fn assert_confined(&self) {
        let outside = self.dir.path().join("outside");
        let names: Vec<_> =
            fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 2);
        let links = fs::metadata(outside.join("secret")).unwrap().nlink();
        assert_eq!(links, 1);
    }

    fn xattr(&self, path: &str, key: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 1024];
        let length = rfs::lgetxattr(self.layer().join(path), key, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    }
}

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

#[test]
fn an_ordinary_layer_is_extracted_with_everything_it_says() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut archive = Archive::new()
        .dir("./")
        .dir("bin/")
        .file("bin/a", "hello")
        .hard_link("bin/b", "bin/a")
        .symlink("link", "/bin/a")
        .add(EntryType::Fifo, "fifo", "", b"")
        .attributes(&[
            ("mtime", b"5.5"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.x", b"a\nb"),
        ]);
    let mut header = Header::new_gnu();
    header.set_path("bin/suid").unwrap();
    header.set_mode(0o4755);
    header.set_uid(12);
    header.set_gid(34);
    header.set_size(0);
    header.set_cksum();
    archive.0.append(&header, &b""[..]).unwrap();

    let extracted = place.extract(archive).unwrap();

    let suid = place.stat("bin/suid");
    assert_eq!((suid.mode() & 0o7777, suid.uid(), suid.gid()), (0o4755, 12, 34));
    assert_eq!((suid.mtime(), suid.mtime_nsec()), (5, 500_000_000));
    assert_eq!(place.xattr("bin/suid", "security.capability").unwrap(), capability);
    assert_eq!(place.xattr("bin/suid", "user.x").unwrap(), b"a\nb");
    assert_eq!(place.read("bin/b"), "hello");
    assert_eq!(place.stat("bin/a").ino(), place.stat("bin/b").ino());
    assert_eq!(fs::read_link(place.layer().join("link")).unwrap(), Path::new("/bin/a"));
    assert!(place.stat("fifo").file_type().is_fifo());
    assert_eq!(place.stat("bin").mtime(), 1_000_000_000);
    assert_eq!(extracted.usage, Usage { size_bytes: 5, inodes: 6 });
    assert_eq!(extracted.implicit_dirs, Vec::<PathBuf>::new());
}

#[test]
fn names_that_climb_out_are_refused() {
    for path in ["../outside/x", "a/../../outside/x", "/../outside/x", "..", "./.."] {
        let place = Place::new();

        let refused = place.extract(Archive::new().file(path, "evil")).unwrap_err();

        assert!(matches!(refused, ExtractError::Entry { .. }), "{path}: {refused:?}");
        place.assert_confined();
    }
}

#[test]
fn absolute_names_begin_at_the_root_of_the_layer() {
    let place = Place::new();
    let absolute = place.dir.path().join("outside/x").display().to_string();

    place.extract(Archive::new().file(&absolute, "tame").file("//etc//x", "tame")).unwrap();

    assert_eq!(place.read("etc/x"), "tame");
    assert_eq!(place.read(absolute.trim_start_matches('/')), "tame");
    place.assert_confined();
}

#[test]
fn symbolic_links_lead_nowhere_but_into_the_layer() {
    let place = Place::new();
    let outside = place.dir.path().join("outside").display().to_string();
    let archive = Archive::new()
        .dir("usr/")
        .dir("usr/lib/")
        .symlink("lib", "usr/lib")
        .file("lib/x", "through")
        .symlink("up", "../../../../usr")
        .file("up/y", "confined")
        .symlink("out", &outside);

    place.extract(archive).unwrap();
    let dangling =
        place.extract(Archive::new().symlink("out", &outside).file("out/secret", "evil"));
    let swapped = place.extract(
        Archive::new().dir("d/").file("d/a", "1").symlink("d", &outside).file("d/secret", "evil"),
    );
    let circle = place.extract(Archive::new().symlink("o", "o").file("o/x", "evil"));

    assert_eq!(
        (place.read("usr/lib/x"), place.read("usr/y")),
        ("through".into(), "confined".into())
    );
    assert!(matches!(dangling, Err(ExtractError::Entry { .. })), "{dangling:?}");
    assert!(matches!(swapped, Err(ExtractError::Entry { .. })), "{swapped:?}");
    assert!(matches!(circle, Err(ExtractError::Entry { .. })), "{circle:?}");
    place.assert_confined();
}

#[test]
fn a_file_is_never_written_through_a_link_of_its_name() {
    let place = Place::new();
    let secret = place.dir.path().join("outside/secret").display().to_string();

    place.extract(Archive::new().symlink("f", &secret).file("f", "mine")).unwrap();

    assert_eq!(place.read("f"), "mine");
    assert!(place.stat("f").is_file());
    place.assert_confined();
}

#[test]
fn hard_links_reach_only_what_the_layer_has() {
    let secret = |place: &Place| place.dir.path().join("outside/secret").display().to_string();
    for target in ["../outside/secret", "missing", "d", ""] {
        let place = Place::new();

        let refused = place.extract(Archive::new().dir("d/").hard_link("h", target)).unwrap_err();

        assert!(matches!(refused, ExtractError::Entry { .. }), "{target}: {refused:?}");
        place.assert_confined();
    }
    let place = Place::new();
    let outside = place.dir.path().join("outside").display().to_string();
    let refused = place.extract(Archive::new().hard_link("h", &secret(&place))).unwrap_err();
    let through = place
        .extract(Archive::new().symlink("l", &outside).hard_link("h", "l/secret"))
        .unwrap_err();
    assert!(matches!(refused, ExtractError::Entry { .. }));
    assert!(matches!(through, ExtractError::Entry { .. }));
    place.assert_confined();
}

#[test]
fn a_hard_link_to_a_symbolic_link_is_one_too_and_replaces_what_was_there() {
    let place = Place::new();
    let archive = Archive::new()
        .symlink("l", "/etc/passwd")
        .file("h", "old")
        .hard_link("h", "l")
        .hard_link("h", "h");

    place.extract(archive).unwrap();

    assert_eq!(fs::read_link(place.layer().join("h")).unwrap(), Path::new("/etc/passwd"));
}

#[test]
fn a_later_entry_replaces_an_earlier_one_of_any_kind() {
    let place = Place::new();
    let archive = Archive::new()
        .dir("a/")
        .file("a/x", "1")
        .file("a", "file now")
        .file("b", "file")
        .dir("b/")
        .file("b/y", "2")
        .dir("c/")
        .file("c/z", "3")
        .dir("c/");

    place.extract(archive).unwrap();

    assert_eq!(
        (place.read("a"), place.read("b/y"), place.read("c/z")),
        ("file now".into(), "2".into(), "3".into())
    );
}

#[test]
fn deletions_become_marks_that_overlayfs_knows() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let archive = Archive::new()
        .dir("d/")
        .file("d/.wh.gone", "")
        .file("d/.wh..wh..opq", "")
        .file("d/.wh..wh.plnk", "")
        .file(".wh.first", "")
        .dir("first/")
        .dir("second/")
        .file(".wh.second", "")
        .file("kept", "here")
        .file(".wh.kept", "")
        .file(".wh.third", "")
        .file("third/x", "");

    let extracted = place.extract(archive).unwrap();

    let gone = place.stat("d/gone");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert!(!place.layer().join("d/.wh..wh.plnk").exists());
    for opaque in ["d", "first", "second", "third"] {
        assert_eq!(
            place.xattr(opaque, "trusted.overlay.opaque").as_deref(),
            Some(&b"y"[..]),
            "{opaque}"
        );
    }
    assert_eq!(place.read("kept"), "here");
    assert_eq!(extracted.implicit_dirs, [Path::new("third")]);
}

#[test]
fn deletions_are_done_at_once_where_a_directory_holds_everything() {
    let place = Place::new();
    place
        .extract_with(
            Archive::new()
                .file("a", "old")
                .dir("d/")
                .file("d/old", "")
                .dir("e/")
                .file("e/old", "")
                .file("k", "old"),
            Whiteouts::Delete,
        )
        .unwrap();

    let archive = Archive::new()
        .file(".wh.a", "")
        .file("d/new", "")
        .file("d/.wh..wh..opq", "")
        .file(".wh.e", "")
        .file("k", "new")
        .file(".wh.k", "")
        .file("missing/.wh.x", "");
    place.extract_with(archive, Whiteouts::Delete).unwrap();

    let names = |path: &str| {
        let entries = fs::read_dir(place.layer().join(path)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["d", "k"]);
    assert_eq!(names("d"), ["new"]);
    assert_eq!(place.read("k"), "new");
}

#[test]
fn a_deletion_cannot_climb_out() {
    for path in [".wh...", ".wh..", ".wh.", "../outside/.wh.secret", "d/.wh..."] {
        for whiteouts in [OVERLAY, Whiteouts::Delete] {
            let place = Place::new();

            let refused =
                place.extract_with(Archive::new().dir("d/").file(path, ""), whiteouts).unwrap_err();

            assert!(matches!(refused, ExtractError::Entry { .. }), "{path}: {refused:?}");
            place.assert_confined();
        }
    }
    let place = Place::new();
    let outside = place.dir.path().join("outside").display().to_string();
    let _ = place.extract_with(
        Archive::new()
            .symlink("out", &outside)
            .file("out/.wh.secret", "")
            .file("out/.wh..wh..opq", ""),
        Whiteouts::Delete,
    );
    place.assert_confined();
}

#[test]
fn overlayfs_own_marks_are_not_taken_from_an_archive() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let archive = Archive::new()
        .attributes(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.ok", b"1"),
        ])
        .dir("d/");

    place.extract(archive).unwrap();

    assert_eq!(place.xattr("d", "trusted.overlay.redirect"), None);
    assert_eq!(place.xattr("d", "user.ok").as_deref(), Some(&b"1"[..]));
}

#[test]
fn directories_that_are_not_listed_are_told() {
    let place = Place::new();
    let archive = Archive::new().file("a/b/c", "").file("x/y", "").dir("x/");

    let extracted = place.extract(archive).unwrap();

    assert_eq!(extracted.implicit_dirs, [Path::new("a"), Path::new("a/b")]);
    assert_eq!(place.stat("a/b").mode() & 0o7777, 0o755);
}

#[test]
fn bombs_and_truncated_archives_end_in_an_error() {
    let many = (0..50).fold(Archive::new(), |archive, i| archive.file(&i.to_string(), ""));
    let deep = Archive::new().file(&"d/".repeat(49), "");
    let bytes = Archive::new().file("a", &"x".repeat(2000)).bytes();
    let extract = |bytes: &[u8], max_entries| {
        extract(bytes, &Place::new().layer(), OVERLAY, max_entries).unwrap_err()
    };

    assert!(matches!(extract(&many.bytes(), 49), ExtractError::Limit { limit: 49, of: "entries" }));
    assert!(matches!(extract(&deep.bytes(), 20), ExtractError::Limit { .. }));
    for cut in [1, 511, 513, 1500] {
        assert!(matches!(extract(&bytes[..cut], 49), ExtractError::Read { .. }), "cut at {cut}");
    }
    assert!(matches!(extract(&[b'x'; 1024], 49), ExtractError::Archive { .. }));
}

#[test]
fn holes_stay_holes() {
    let place = Place::new();
    let archive = Archive::new()
        .attributes(&[("GNU.sparse.size", b"10000000"), ("GNU.sparse.map", b"0,3,5000000,2")])
        .file("sparse", "abcde");
    let beyond = Archive::new()
        .attributes(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"9,3")])
        .file("x", "abc");
    let overflow = Archive::new()
        .attributes(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"18446744073709551615,3")])
        .file("x", "abc");

    let extracted = place.extract(archive).unwrap();

    let bytes = fs::read(place.layer().join("sparse")).unwrap();
    assert_eq!(
        (bytes.len(), &bytes[..4], &bytes[5_000_000..5_000_003]),
        (10_000_000, &b"abc\0"[..], &b"de\0"[..])
    );
    assert!(place.stat("sparse").blocks() < 100);
    assert_eq!(extracted.usage.size_bytes, 5);
    assert!(matches!(place.extract(beyond), Err(ExtractError::Entry { .. })));
    assert!(matches!(place.extract(overflow), Err(ExtractError::Entry { .. })));
}

#[test]
fn owners_that_linux_does_not_have_are_refused() {
    let place = Place::new();
    let archive = Archive::new().attributes(&[("uid", b"4294967295")]).file("x", "");

    let refused = place.extract(archive).unwrap_err();

    assert!(matches!(refused, ExtractError::Entry { .. }));
}
