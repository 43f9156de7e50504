//! The contract that every snapshotter passes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::*;
use crate::Store;

/// A store, a snapshotter on it, and a way to look through its mounts.
struct Fixture<S> {
    _root: tempfile::TempDir,
    snapshotter: S,
    ns: Namespace,
}

impl<S: Snapshotter> Fixture<S> {
    fn new(make: impl FnOnce(&Store) -> S) -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        Self { snapshotter: make(&store), ns: Namespace::default(), _root: root }
    }

    fn prepare(&self, key: &str, parent: Option<&str>) -> Vec<Mount> {
        self.snapshotter.prepare(&self.ns, key, parent, &PrepareOptions::default()).unwrap()
    }

    fn commit(&self, name: &str, key: &str) {
        self.snapshotter.commit(&self.ns, name, key, &CommitOptions::default()).unwrap();
    }

    /// Commits a snapshot that holds one more file.
    fn layer(&self, name: &str, parent: Option<&str>, file: &str) {
        let mounts = self.prepare("making", parent);
        with_mount(&mounts, |root| fs::write(root.join(file), name).unwrap());
        self.commit(name, "making");
    }
}

/// Runs `body` on a directory where the mounts can be seen, in a mount namespace of its own.
fn with_mount<T: Send>(mounts: &[Mount], body: impl FnOnce(&Path) -> T + Send) -> T {
    use rustix::mount::*;

    let [mount] = mounts else { panic!("one mount expected, got {mounts:?}") };
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            let target = tempfile::tempdir().unwrap();
            let is_read_only = mount.options.iter().any(|option| option == "ro");
            if mount.type_ == "bind" {
                mount_bind(&mount.source, target.path()).unwrap();
                if is_read_only {
                    let flags = MountFlags::BIND | MountFlags::RDONLY;
                    mount_remount(target.path(), flags, "").unwrap();
                }
            } else {
                let options: Vec<&str> = mount
                    .options
                    .iter()
                    .map(String::as_str)
                    .filter(|option| *option != "ro" && !option.contains("idmap="))
                    .collect();
                let data = std::ffi::CString::new(options.join(",")).unwrap();
                let flags = if is_read_only { MountFlags::RDONLY } else { MountFlags::empty() };
                rustix::mount::mount("overlay", target.path(), "overlay", flags, data.as_c_str())
                    .unwrap();
            }
            let value = body(target.path());
            unmount(target.path(), UnmountFlags::DETACH).unwrap();
            value
        });
        seen.join().unwrap()
    })
}

fn a_child_shows_its_parents_and_does_not_change_them<S: Snapshotter>(fixture: Fixture<S>) {
    fixture.layer("one", None, "a");
    fixture.layer("two", Some("one"), "b");

    let mounts = fixture.prepare("box", Some("two"));
    with_mount(&mounts, |root| {
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "one");
        assert_eq!(fs::read_to_string(root.join("b")).unwrap(), "two");
        fs::write(root.join("a"), "changed").unwrap();
        fs::remove_file(root.join("b")).unwrap();
    });

    let other = fixture.prepare("other", Some("two"));
    with_mount(&other, |root| {
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "one");
        assert!(root.join("b").exists());
    });
    let again = fixture.snapshotter.mounts(&fixture.ns, "box").unwrap();
    assert_eq!(again, mounts);
    with_mount(&again, |root| {
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "changed");
        assert!(!root.join("b").exists());
    });
}

fn a_view_can_be_read_and_not_written<S: Snapshotter>(fixture: Fixture<S>) {
    fixture.layer("one", None, "a");
    let options = PrepareOptions::default();

    let view = fixture.snapshotter.view(&fixture.ns, "look", Some("one"), &options).unwrap();
    let empty = fixture.snapshotter.view(&fixture.ns, "empty", None, &options).unwrap();

    with_mount(&view, |root| {
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "one");
        let refused = fs::write(root.join("b"), "").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(nix::libc::EROFS));
    });
    with_mount(&empty, |root| assert_eq!(fs::read_dir(root).unwrap().count(), 0));
    let refused = fixture.snapshotter.commit(&fixture.ns, "x", "look", &CommitOptions::default());
    assert!(matches!(refused, Err(SnapshotError::Kind { found: SnapshotKind::View, .. })));
}

fn the_state_machine_refuses_what_it_should<S: Snapshotter>(fixture: Fixture<S>) {
    let (snapshotter, ns) = (&fixture.snapshotter, &fixture.ns);
    let (prepare, commit) = (PrepareOptions::default(), CommitOptions::default());
    fixture.layer("one", None, "a");
    fixture.prepare("active", Some("one"));

    let twice = snapshotter.prepare(ns, "active", None, &prepare);
    let orphan = snapshotter.prepare(ns, "x", Some("nothing"), &prepare);
    let on_active = snapshotter.prepare(ns, "x", Some("active"), &prepare);
    let taken = snapshotter.commit(ns, "one", "active", &commit);
    let recommit = snapshotter.commit(ns, "x", "one", &commit);
    let mounted = snapshotter.mounts(ns, "one");
    let below = snapshotter.remove(ns, "one");
    let absent = snapshotter.remove(ns, "nothing");
    let elsewhere = snapshotter.stat(&"other".parse().unwrap(), "one");

    assert!(matches!(twice, Err(SnapshotError::Exists { key }) if key == "active"));
    assert!(matches!(orphan, Err(SnapshotError::NotFound { key }) if key == "nothing"));
    assert!(matches!(on_active, Err(SnapshotError::Kind { found: SnapshotKind::Active, .. })));
    assert!(matches!(taken, Err(SnapshotError::Exists { key }) if key == "one"));
    assert!(matches!(recommit, Err(SnapshotError::Kind { found: SnapshotKind::Committed, .. })));
    assert!(matches!(mounted, Err(SnapshotError::Kind { .. })));
    assert!(matches!(below, Err(SnapshotError::HasChildren { key }) if key == "one"));
    assert!(matches!(absent, Err(SnapshotError::NotFound { .. })));
    assert!(matches!(elsewhere, Err(SnapshotError::NotFound { .. })));
    let keys: Vec<String> = snapshotter.walk(ns).unwrap().into_iter().map(|s| s.key).collect();
    assert_eq!(keys, ["one", "active"]);
}

fn removal_takes_the_files_too<S: Snapshotter>(fixture: Fixture<S>) {
    fixture.layer("one", None, "a");
    fixture.prepare("box", Some("one"));
    let directory = fixture.snapshotter.directory(&fixture.ns, "box").unwrap();
    assert!(directory.exists());

    fixture.snapshotter.remove(&fixture.ns, "box").unwrap();

    assert!(!directory.parent().unwrap().exists());
    assert!(fixture.snapshotter.directory(&fixture.ns, "one").unwrap().exists());
}

fn a_rolled_back_prepare_leaves_nothing_that_hinders<S: Snapshotter>(fixture: Fixture<S>) {
    let (snapshotter, ns) = (&fixture.snapshotter, &fixture.ns);
    let options = PrepareOptions::default();

    let failed: Result<(), SnapshotError> = snapshotter.store().transaction(|tx| {
        snapshotter.prepare_in(tx, ns, "x", None, &options)?;
        Err(SnapshotError::NotFound { key: "on purpose".to_owned() })
    });
    let mounts = fixture.prepare("y", None);

    assert!(failed.is_err());
    with_mount(&mounts, |root| assert_eq!(fs::read_dir(root).unwrap().count(), 0));
    assert!(matches!(snapshotter.stat(ns, "x"), Err(SnapshotError::NotFound { .. })));
}

fn usage_counts_what_was_written<S: Snapshotter>(fixture: Fixture<S>) {
    let mounts = fixture.prepare("making", None);
    with_mount(&mounts, |root| fs::write(root.join("a"), vec![7; 50_000]).unwrap());
    let active = fixture.snapshotter.usage(&fixture.ns, "making").unwrap();
    fixture.commit("one", "making");

    let committed = fixture.snapshotter.stat(&fixture.ns, "one").unwrap().usage;

    assert_eq!(active, Usage { size_bytes: 50_000, inodes: 2 });
    assert_eq!(committed, Some(active));
}

fn the_root_keeps_mode_and_owner_and_is_shifted_for_a_range<S: Snapshotter>(fixture: Fixture<S>) {
    let mounts = fixture.prepare("making", None);
    with_mount(&mounts, |root| {
        fs::set_permissions(root, fs::Permissions::from_mode(0o1770)).unwrap();
        std::os::unix::fs::chown(root, Some(3), Some(4)).unwrap();
    });
    fixture.commit("one", "making");
    let range = IdRange { base: 600_000, count: 65_536 };
    let options = PrepareOptions { id_range: Some(range), ..PrepareOptions::default() };

    fixture.prepare("plain", Some("one"));
    fixture.snapshotter.prepare(&fixture.ns, "shifted", Some("one"), &options).unwrap();

    let look = |key: &str| {
        let directory = fixture.snapshotter.directory(&fixture.ns, key).unwrap();
        let metadata = fs::metadata(directory).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    assert_eq!(look("plain"), (0o1770, 3, 4));
    assert_eq!(look("shifted"), (0o1770, 600_003, 600_004));
    assert_eq!(fixture.snapshotter.stat(&fixture.ns, "shifted").unwrap().id_range, Some(range));
}

fn a_parent_is_added_at_commit_only_where_promised<S: Snapshotter>(fixture: Fixture<S>) {
    fixture.layer("one", None, "a");
    let mounts = fixture.prepare("making", None);
    with_mount(&mounts, |root| fs::write(root.join("b"), "two").unwrap());
    let options = CommitOptions { parent: Some("one".to_owned()), ..CommitOptions::default() };

    let outcome = fixture.snapshotter.commit(&fixture.ns, "two", "making", &options);

    if fixture.snapshotter.can_rebase() {
        outcome.unwrap();
        let mounts = fixture.prepare("box", Some("two"));
        with_mount(&mounts, |root| {
            assert!(root.join("a").exists() && root.join("b").exists());
        });
    } else {
        assert!(matches!(outcome, Err(SnapshotError::Rebase { parent, .. }) if parent == "one"));
    }
}

/// Overlay mounts, namespaces and owners need root.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

macro_rules! contract {
    ($($claim:ident),* $(,)?) => {
        mod overlay {
            $(#[test]
            fn $claim() {
                if super::is_root() {
                    super::$claim(super::Fixture::new(|store| {
                        super::OverlaySnapshotter::new(store).unwrap()
                    }));
                }
            })*
        }

        mod copy {
            $(#[test]
            fn $claim() {
                if super::is_root() {
                    super::$claim(super::Fixture::new(super::CopySnapshotter::new));
                }
            })*
        }
    };
}

contract!(
    a_child_shows_its_parents_and_does_not_change_them,
    a_view_can_be_read_and_not_written,
    the_state_machine_refuses_what_it_should,
    removal_takes_the_files_too,
    a_rolled_back_prepare_leaves_nothing_that_hinders,
    usage_counts_what_was_written,
    the_root_keeps_mode_and_owner_and_is_shifted_for_a_range,
    a_parent_is_added_at_commit_only_where_promised,
);

#[test]
fn the_overlay_of_a_range_says_how_lower_layers_are_mapped() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new(|store| OverlaySnapshotter::new(store).unwrap());
    fixture.layer("one", None, "a");
    let options = PrepareOptions {
        id_range: Some(IdRange { base: 524_288, count: 65_536 }),
        ..PrepareOptions::default()
    };

    let mounts = fixture.snapshotter.prepare(&fixture.ns, "box", Some("one"), &options).unwrap();

    let has = |wanted: &str| mounts[0].options.iter().any(|option| option == wanted);
    assert!(has("uidmap=0:524288:65536") && has("gidmap=0:524288:65536"));
}
