//! A diff, extracted, is the tree that it was made of.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};

use keg_store::{Digest, IdRange};
use proptest::prelude::*;
use rustix::fs::{self as rfs, AtFlags, FileType, Mode, Timespec, XattrFlags};

use super::*;
use crate::extract::{Whiteouts, extract};

const OVERLAY: Whiteouts = Whiteouts::Overlay { user_xattrs: false };

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

/// Everything that an archive keeps of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    size: u64,
    device: u64,
    content: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first name of its inode.
    same_as: String,
    is_opaque: bool,
}

/// Looks at a whole tree, owners as `owners` tells them.
fn look(root: &Path, owners: &Owners) -> BTreeMap<String, Seen> {
    let mut seen = BTreeMap::new();
    let mut first = BTreeMap::new();
    let mut paths = vec![root.to_owned()];
    let mut all = Vec::new();
    while let Some(path) = paths.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.push(path);
    }
    all.sort();
    for path in all {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let content = match FileType::from_raw_mode(metadata.mode()) {
            FileType::RegularFile => fs::read(&path).unwrap(),
            FileType::Symlink => fs::read_link(&path).unwrap().to_str().unwrap().into(),
            _ => Vec::new(),
        };
        let dir = File::open(path.parent().unwrap()).unwrap();
        let file_name =
            std::ffi::CString::new(path.file_name().unwrap().as_encoded_bytes()).unwrap();
        let node = Node::look(dir.as_fd(), &file_name).unwrap().unwrap();
        let mut xattrs = node.xattrs().unwrap();
        for (key, value) in &mut xattrs {
            owners.attribute_to_archive(key, value);
        }
        let same_as = first.entry(metadata.ino()).or_insert_with(|| name.clone()).clone();
        let is_opaque = metadata.is_dir() && node::is_opaque(File::open(&path).unwrap());
        seen.insert(
            name,
            Seen {
                mode: metadata.mode(),
                owner: (
                    owners.user_to_archive(metadata.uid()),
                    owners.group_to_archive(metadata.gid()),
                ),
                mtime: (metadata.mtime(), metadata.mtime_nsec()),
                size: if metadata.is_dir() { 0 } else { metadata.len() },
                device: metadata.rdev(),
                content,
                xattrs,
                same_as,
                is_opaque,
            },
        );
    }
    // The root of a layer is told only if its owner, mode or attributes are not the usual ones.
    if let Some(root) = seen.get_mut("") {
        root.mtime = (0, 0);
    }
    seen
}

/// What a random tree has at one name.
#[derive(Debug, Clone)]
enum Thing {
    File { content: Vec<u8>, attribute: Option<Vec<u8>> },
    Sparse { at: u64, size: u64 },
    Link(String),
    HardLink(usize),
    Directory(Vec<(String, Item)>),
    Fifo,
    Device { major: u32, minor: u32 },
    Capable,
}

#[derive(Debug, Clone)]
struct Item {
    thing: Thing,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
}

fn item(depth: u32) -> BoxedStrategy<Item> {
    let leaf = prop_oneof![
        (prop::collection::vec(any::<u8>(), 0..2000), prop::option::of(any::<Vec<u8>>()))
            .prop_map(|(content, attribute)| Thing::File { content, attribute }),
        (0_u64..1 << 20, 0_u64..4 << 20)
            .prop_map(|(at, more)| Thing::Sparse { at, size: at + 1 + more }),
        "[a-z/.]{1,120}".prop_map(Thing::Link),
        any::<usize>().prop_map(Thing::HardLink),
        Just(Thing::Fifo),
        (1_u32..4000, 0_u32..1 << 20).prop_map(|(major, minor)| Thing::Device { major, minor }),
        Just(Thing::Capable),
    ];
    let thing = if depth == 0 {
        leaf.boxed()
    } else {
        prop_oneof![
            3 => leaf,
            2 => prop::collection::btree_map(name(), item(depth - 1), 0..4)
                .prop_map(|items| Thing::Directory(items.into_iter().collect())),
        ]
        .boxed()
    };
    let mtime = prop_oneof![
        (0_i64..4_000_000_000, 0_i64..1_000_000_000),
        (0_i64..4_000_000_000, Just(0)),
        (-1000_i64..0, 0_i64..1_000_000_000),
    ];
    (thing, 0_u32..0o10000, (0_u32..70_000, 0_u32..70_000), mtime)
        .prop_map(|(thing, mode, owner, mtime)| Item { thing, mode, owner, mtime })
        .boxed()
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z]{1,6}", 1 => "[a-zäß ]{1,90}", 1 => "[a-z]{101,180}"]
}

/// Makes a tree; owners are shifted into `base`.
fn make(dir: &Path, items: &[(String, Item)], base: u32, files: &mut Vec<PathBuf>) {
    for (name, item) in items {
        let path = dir.join(name);
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        let mut is_link = false;
        match &item.thing {
            Thing::File { content, attribute } => {
                fs::write(&path, content).unwrap();
                if let Some(value) = attribute {
                    rfs::setxattr(&path, "user.x", value, XattrFlags::empty()).unwrap();
                }
                files.push(path.clone());
            }
            Thing::Sparse { at, size } => {
                let file = File::create(&path).unwrap();
                file.set_len(*size).unwrap();
                file.write_at(b"x", *at).unwrap();
            }
            Thing::Link(target) => {
                symlink(target, &path).unwrap();
                is_link = true;
            }
            Thing::HardLink(index) => {
                if let Some(target) = index.checked_rem(files.len()).map(|at| &files[at]) {
                    fs::hard_link(target, &path).unwrap();
                }
                continue;
            }
            Thing::Directory(items) => {
                fs::create_dir(&path).unwrap();
                make(&path, items, base, files);
            }
            Thing::Fifo => {
                rfs::mknodat(rfs::CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
            }
            Thing::Device { major, minor } => {
                let device = rfs::makedev(*major, *minor);
                rfs::mknodat(rfs::CWD, &path, FileType::CharacterDevice, Mode::RUSR, device)
                    .unwrap();
            }
            Thing::Capable => fs::write(&path, "capable").unwrap(),
        }
        let owner = (
            Some(rfs::Uid::from_raw(base + item.owner.0 % 65_536)),
            Some(rfs::Gid::from_raw(base + item.owner.1 % 65_536)),
        );
        rfs::chownat(rfs::CWD, &path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        if !is_link {
            fs::set_permissions(&path, fs::Permissions::from_mode(item.mode)).unwrap();
        }
        if matches!(item.thing, Thing::Capable) {
            // CAP_NET_RAW, permitted and effective, for the container's root.
            let mut value = vec![1, 0, 0, 3, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            value.extend(base.to_le_bytes());
            rfs::setxattr(&path, "security.capability", &value, XattrFlags::empty()).unwrap();
        }
        let time = Timespec { tv_sec: item.mtime.0, tv_nsec: item.mtime.1 };
        let times = rfs::Timestamps { last_access: time, last_modification: time };
        rfs::utimensat(rfs::CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

fn diff(upper: &Path, lower: &[PathBuf], options: &DiffOptions) -> Vec<u8> {
    diff_upper(upper, lower, options, Vec::new()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_diff_extracted_is_the_tree_that_it_was_made_of(
        items in prop::collection::btree_map(name(), item(3), 0..6)
    ) {
        if !is_root() {
            return Ok(());
        }
        let items: Vec<(String, Item)> = items.into_iter().collect();
        let place = tempfile::tempdir().unwrap();
        let (tree, copy) = (place.path().join("tree"), place.path().join("copy"));
        fs::create_dir(&tree).unwrap();
        fs::create_dir(&copy).unwrap();
        let range = IdRange { base: 1_000_000, count: 65_536 };
        chown(&tree, Some(range.base), Some(range.base)).unwrap();
        make(&tree, &items, range.base, &mut Vec::new());
        let options = DiffOptions { owners: Some(range).into(), ..DiffOptions::default() };

        let archive = diff(&tree, &[], &options);
        extract(&archive[..], &copy, OVERLAY, 1000).unwrap();

        prop_assert_eq!(look(&copy, &Owners::same()), look(&tree, &options.owners));
        // Made anew from what was extracted, and with other ids on the disk, it is the same.
        prop_assert!(diff(&copy, &[], &DiffOptions::default()) == archive, "other bytes");
    }
}

struct Overlay {
    place: tempfile::TempDir,
}

impl Overlay {
    /// A lower and an upper directory of an overlay, as the kernel leaves them.
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let lower = place.path().join("lower");
        for dir in ["kept", "kept/deep", "gone", "opaque", "was-dir"] {
            fs::create_dir_all(lower.join(dir)).unwrap();
        }
        for file in
            ["kept/a", "kept/deep/b", "gone/c", "opaque/old", "opaque/both", "changed", "was-dir/x"]
        {
            fs::write(lower.join(file), "old").unwrap();
        }
        let upper = place.path().join("upper");
        fs::create_dir_all(upper.join("kept")).unwrap();
        fs::create_dir_all(upper.join("opaque")).unwrap();
        let whiteout = |path: &str| {
            rfs::mknodat(rfs::CWD, upper.join(path), FileType::CharacterDevice, Mode::empty(), 0)
        };
        whiteout("gone").unwrap();
        whiteout("kept/a").unwrap();
        whiteout("kept/never-there").unwrap();
        rfs::setxattr(upper.join("opaque"), "trusted.overlay.opaque", b"y", XattrFlags::empty())
            .unwrap();
        fs::write(upper.join("opaque/both"), "new").unwrap();
        fs::write(upper.join("changed"), "new").unwrap();
        fs::write(upper.join("added"), "new").unwrap();
        fs::write(upper.join("was-dir"), "a file").unwrap();
        Self { place }
    }

    fn upper(&self) -> PathBuf {
        self.place.path().join("upper")
    }

    fn lower(&self) -> Vec<PathBuf> {
        vec![self.place.path().join("lower")]
    }
}

#[test]
fn deletions_are_whiteouts_in_the_archive_and_marks_again_when_extracted() {
    if !is_root() {
        return;
    }
    let overlay = Overlay::new();
    let copy = overlay.place.path().join("copy");
    fs::create_dir(&copy).unwrap();

    let archive = diff(&overlay.upper(), &overlay.lower(), &DiffOptions::default());
    extract(&archive[..], &copy, OVERLAY, 100).unwrap();

    fs::remove_file(overlay.upper().join("kept/never-there")).unwrap();
    let (copied, mut made) =
        (look(&copy, &Owners::same()), look(&overlay.upper(), &Owners::same()));
    // A mark has no time of its own, and its removal changed its directory's.
    for (name, seen) in &mut made {
        if let Some(copied) = copied.get(name) {
            if seen.device == 0 && FileType::from_raw_mode(seen.mode) == FileType::CharacterDevice {
                seen.mtime = copied.mtime;
            }
            if name == "kept" {
                seen.mtime = copied.mtime;
            }
        }
    }
    assert_eq!(copied, made);
}

#[test]
fn changes_are_listed_as_added_changed_and_deleted() {
    if !is_root() {
        return;
    }
    let overlay = Overlay::new();

    let changes = changes_of_upper(&overlay.upper(), &overlay.lower()).unwrap();

    let listed: Vec<(ChangeKind, &str)> =
        changes.iter().map(|change| (change.kind, change.path.to_str().unwrap())).collect();
    use ChangeKind::{Added, Deleted, Modified};
    assert_eq!(
        listed,
        [
            (Added, "/added"),
            (Modified, "/changed"),
            (Deleted, "/gone"),
            (Modified, "/kept"),
            (Deleted, "/kept/a"),
            (Modified, "/opaque"),
            (Deleted, "/opaque/old"),
            (Added, "/opaque/both"),
            (Modified, "/was-dir"),
        ]
    );
}

#[test]
fn the_difference_of_two_trees_makes_one_of_the_other() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (base, tree, copy) =
        (place.path().join("base"), place.path().join("tree"), place.path().join("copy"));
    for root in [&base, &tree, &copy] {
        fs::create_dir_all(root.join("same/deep")).unwrap();
        fs::create_dir_all(root.join("gone")).unwrap();
        for file in ["same/deep/a", "linked", "swapped", "same-size", "gone/x", "becomes-dir"] {
            let file = File::create(root.join(file)).unwrap();
            file.write_at(b"1234", 0).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(5);
            file.set_modified(time).unwrap();
        }
        for dir in ["same/deep", "same", "gone", ""] {
            let time = Timespec { tv_sec: 7, tv_nsec: 0 };
            let times = rfs::Timestamps { last_access: time, last_modification: time };
            rfs::utimensat(rfs::CWD, root.join(dir), &times, AtFlags::empty()).unwrap();
        }
    }
    fs::remove_dir_all(tree.join("gone")).unwrap();
    fs::hard_link(tree.join("linked"), tree.join("another")).unwrap();
    // The same size and time, and other bytes.
    File::options().write(true).open(tree.join("same-size")).unwrap().write_at(b"x", 0).unwrap();
    File::options()
        .write(true)
        .open(tree.join("same-size"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(5))
        .unwrap();
    fs::remove_file(tree.join("becomes-dir")).unwrap();
    fs::create_dir(tree.join("becomes-dir")).unwrap();
    fs::write(tree.join("becomes-dir/new"), "new").unwrap();
    fs::set_permissions(tree.join("swapped"), fs::Permissions::from_mode(0o4711)).unwrap();

    let archive = diff_trees(&base, &tree, &DiffOptions::default(), Vec::new()).unwrap();
    extract(&archive[..], &copy, Whiteouts::Delete, 100).unwrap();

    assert_eq!(look(&copy, &Owners::same()), look(&tree, &Owners::same()));
    let changes = changes_of_trees(&base, &tree, &Owners::same()).unwrap();
    assert!(changes.iter().all(|change| !change.path.starts_with("/same")), "{changes:?}");
}

#[test]
fn other_programs_read_the_archive() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (tree, copy) = (place.path().join("tree"), place.path().join("copy"));
    fs::create_dir_all(tree.join("d")).unwrap();
    fs::create_dir(&copy).unwrap();
    let long = "long/".repeat(30);
    fs::create_dir_all(tree.join(&long)).unwrap();
    fs::write(tree.join(&long).join("ü"), "umlaut").unwrap();
    fs::hard_link(tree.join(&long).join("ü"), tree.join("z")).unwrap();
    let hole = File::create(tree.join("hole")).unwrap();
    hole.set_len(5 << 20).unwrap();
    hole.write_at(b"in the middle", 1 << 20).unwrap();
    rfs::setxattr(tree.join("z"), "user.note", b"a\nb\0c", XattrFlags::empty()).unwrap();
    let archive = place.path().join("archive.tar");
    fs::write(&archive, diff(&tree, &[], &DiffOptions::default())).unwrap();

    let tar = std::process::Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--same-owner", "-xf"])
        .arg(&archive)
        .arg("-C")
        .arg(&copy)
        .output()
        .unwrap();

    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    assert_eq!(look(&copy, &Owners::same()), look(&tree, &Owners::same()));
    assert!(fs::metadata(copy.join("hole")).unwrap().blocks() < 100);
}

#[test]
fn times_are_clamped_or_rewritten_for_builds() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("now"), "").unwrap();
    let old = File::create(place.path().join("old")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(9, 5)).unwrap();
    let times = |timestamps| {
        let copy = tempfile::tempdir().unwrap();
        let options = DiffOptions { timestamps, ..DiffOptions::default() };
        let root = File::open(place.path()).unwrap();
        let archive = archive_trees(&[(root.as_fd(), None)], &options, Vec::new());
        extract(&archive.unwrap()[..], copy.path(), OVERLAY, 9).unwrap();
        ["now", "old"].map(|name| {
            let metadata = fs::metadata(copy.path().join(name)).unwrap();
            (metadata.mtime(), metadata.mtime_nsec())
        })
    };

    assert_eq!(times(Timestamps::Clamp { latest_secs: 100 }), [(100, 0), (9, 5)]);
    assert_eq!(times(Timestamps::Rewrite { secs: 50 }), [(50, 0), (50, 0)]);
}

#[test]
fn what_a_layer_cannot_hold_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("d")).unwrap();
    fs::write(place.path().join("d/.wh.x"), "").unwrap();
    let owner = fs::metadata(place.path()).unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(owner.is_dir());

    let refused = diff_upper(place.path(), &[], &DiffOptions::default(), Vec::new()).unwrap_err();

    assert!(
        matches!(&refused, DiffError::Unrepresentable { path, .. } if path == "d/.wh.x"),
        "{refused:?}"
    );
}

#[test]
fn a_part_of_a_tree_gets_the_name_that_is_asked_for() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("from/sub")).unwrap();
    fs::write(place.path().join("from/sub/f"), "f").unwrap();
    let parent = File::open(place.path()).unwrap();
    let names = |name: Option<&CStr>, called: &[u8]| {
        let options = DiffOptions::default();
        let archive = archive_path(parent.as_fd(), name, called, &options, Vec::new()).unwrap();
        let mut archive = ::tar::Archive::new(&archive[..]);
        let paths =
            archive.entries().unwrap().map(|entry| entry.unwrap().path_bytes().into_owned());
        paths.map(|path| String::from_utf8(path).unwrap()).collect::<Vec<_>>()
    };

    assert_eq!(names(Some(c"from"), b"to"), ["to/", "to/sub/", "to/sub/f"]);
    assert_eq!(names(None, b"to"), ["to/", "to/from/", "to/from/sub/", "to/from/sub/f"]);
}

#[test]
fn the_same_archive_gives_the_same_blob() {
    let plain: Vec<u8> = (0..200_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    let compress = |compression| {
        let mut writer = LayerWriter::new(Vec::new(), compression).unwrap();
        for piece in plain.chunks(10_000) {
            writer.write_all(piece).unwrap();
        }
        writer.finish().unwrap()
    };
    for compression in [LayerCompression::None, LayerCompression::Gzip, LayerCompression::Zstd] {
        let (first, second) = (compress(compression), compress(compression));

        assert_eq!(first.diff_id, Digest::sha256(&plain));
        assert_eq!(first.plain_bytes, plain.len() as u64);
        assert!(first.output == second.output, "{compression:?}");
        let mut read = Vec::new();
        let mut decoder = crate::compression::Decoder::new(&first.output[..]).unwrap();
        std::io::Read::read_to_end(&mut decoder, &mut read).unwrap();
        assert!(read == plain);
    }
}
