//! features – `mountOptions`: each option by what it does to a mount.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use keg_fixtures::report::MountEntry;
use keg_fixtures::{Bundle, Scratch, requires};
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use serde_json::{Value, json};

use super::{features, kernel_has, listed, refused};
use crate::runtime::in_namespaces;

/// A file system that the options are tried on, with another of the same kind mounted in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Base {
    /// Shared, and without any restriction.
    Open,
    /// With every restriction.
    Shut,
}

const SHUT: &str = "ro,nosuid,nodev,noexec,nosymfollow,noatime,nodiratime";

impl Base {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Shut => "shut",
        }
    }

    fn make(self, scratch: &Scratch) {
        let top = scratch.directory(self.name());
        let tmpfs = |on: &Path| {
            mount(Some("tmpfs"), on, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        };
        tmpfs(&top);
        fs::create_dir(top.join("below")).unwrap();
        tmpfs(&top.join("below"));
        fs::write(top.join("file"), "").unwrap();
        fs::write(top.join("below/file"), "").unwrap();
        for place in [top.join("below"), top] {
            match self {
                Self::Open => {
                    mount(None::<&str>, &place, None::<&str>, MsFlags::MS_SHARED, None::<&str>)
                        .unwrap();
                }
                Self::Shut => {
                    let options = format!("remount,bind,{SHUT}");
                    let status = Command::new("mount").args(["-o", &options]).arg(&place).status();
                    assert!(status.unwrap().success());
                }
            }
        }
    }
}

/// An option of a bind mount: on what, with which others before it, and what the mount table says then of
/// the mount and of the one below ("!" for what is not there).
type BindRow = (&'static str, Base, &'static [&'static str], &'static str, Option<&'static str>);

#[rustfmt::skip]
const BIND_OPTIONS: &[BindRow] = {
    use Base::{Open, Shut};
    &[
        ("bind", Open, &[], "relatime", None),
        ("rbind", Open, &[], "relatime", Some("relatime")),
        ("ro", Open, &["rbind"], "ro", Some("!ro")),
        ("rw", Shut, &["rbind"], "!ro", Some("ro")),
        ("nosuid", Open, &["rbind"], "nosuid", Some("!nosuid")),
        ("suid", Shut, &["rbind"], "!nosuid", Some("nosuid")),
        ("nodev", Open, &["rbind"], "nodev", Some("!nodev")),
        ("dev", Shut, &["rbind"], "!nodev", Some("nodev")),
        ("noexec", Open, &["rbind"], "noexec", Some("!noexec")),
        ("exec", Shut, &["rbind"], "!noexec", Some("noexec")),
        ("nosymfollow", Open, &["rbind"], "nosymfollow", Some("!nosymfollow")),
        ("symfollow", Shut, &["rbind"], "!nosymfollow", Some("nosymfollow")),
        ("nodiratime", Open, &["rbind"], "nodiratime", Some("!nodiratime")),
        ("diratime", Shut, &["rbind"], "!nodiratime", Some("nodiratime")),
        ("noatime", Open, &["rbind"], "noatime", Some("!noatime")),
        ("atime", Shut, &["rbind"], "!noatime", Some("noatime")),
        ("relatime", Shut, &["rbind"], "relatime", Some("noatime")),
        ("norelatime", Shut, &["rbind"], "!noatime", Some("noatime")),
        ("strictatime", Open, &["rbind"], "!relatime", Some("relatime")),
        ("nostrictatime", Open, &["rbind", "strictatime"], "relatime", Some("relatime")),
        ("rro", Open, &["rbind"], "ro", Some("ro")),
        ("rrw", Shut, &["rbind"], "!ro", Some("!ro")),
        ("rnosuid", Open, &["rbind"], "nosuid", Some("nosuid")),
        ("rsuid", Shut, &["rbind"], "!nosuid", Some("!nosuid")),
        ("rnodev", Open, &["rbind"], "nodev", Some("nodev")),
        ("rdev", Shut, &["rbind"], "!nodev", Some("!nodev")),
        ("rnoexec", Open, &["rbind"], "noexec", Some("noexec")),
        ("rexec", Shut, &["rbind"], "!noexec", Some("!noexec")),
        ("rnosymfollow", Open, &["rbind"], "nosymfollow", Some("nosymfollow")),
        ("rsymfollow", Shut, &["rbind"], "!nosymfollow", Some("!nosymfollow")),
        ("rnodiratime", Open, &["rbind"], "nodiratime", Some("nodiratime")),
        ("rdiratime", Shut, &["rbind"], "!nodiratime", Some("!nodiratime")),
        ("rnoatime", Open, &["rbind"], "noatime", Some("noatime")),
        ("ratime", Shut, &["rbind"], "!noatime", Some("!noatime")),
        ("rrelatime", Shut, &["rbind"], "relatime", Some("relatime")),
        ("rnorelatime", Shut, &["rbind"], "!noatime", Some("!noatime")),
        ("rstrictatime", Open, &["rbind"], "!relatime", Some("!relatime")),
        ("rnostrictatime", Open, &["rbind", "rstrictatime"], "relatime", Some("relatime")),
        ("shared", Open, &["rbind", "rprivate"], "shared:", Some("!shared:")),
        ("rshared", Open, &["rbind", "rprivate"], "shared:", Some("shared:")),
        ("slave", Open, &["rbind", "rshared"], "!shared:", Some("shared:")),
        ("rslave", Open, &["rbind", "rshared"], "!shared:", Some("!shared:")),
        ("private", Open, &["rbind", "rshared"], "!shared:", Some("shared:")),
        ("rprivate", Open, &["rbind", "rshared"], "!shared:", Some("!shared:")),
        ("unbindable", Open, &["rbind"], "unbindable", Some("!unbindable")),
        ("runbindable", Open, &["rbind"], "unbindable", Some("unbindable")),
    ]
};

/// An option of a tmpfs, with others before it, and what its line says then.
#[rustfmt::skip]
const FILESYSTEM_OPTIONS: &[(&str, &[&str], &str)] = &[
    ("defaults", &["size=64k"], "size=64k"),
    ("sync", &[], "sync"),
    ("async", &["sync"], "!sync"),
    ("dirsync", &[], "dirsync"),
    ("lazytime", &[], "lazytime"),
    ("nolazytime", &["lazytime"], "!lazytime"),
    ("nomand", &["mand"], "!mand"),
    // Without a trace in the table: Linux has mandatory locks no more, and the others are switches of
    // the call, or of file systems that have them switched on always.
    ("mand", &[], ""),
    ("silent", &[], ""),
    ("loud", &["silent"], ""),
    ("acl", &[], ""),
    ("noacl", &["acl"], ""),
    ("iversion", &[], ""),
    ("noiversion", &["iversion"], ""),
];

/// Options that are looked at in tests of their own, by what files there are and whose.
const OTHER_OPTIONS: [&str; 4] = ["idmap", "remount", "ridmap", "tmpcopyup"];

#[track_caller]
fn assert_shows(option: &str, entry: &MountEntry, expected: &str) {
    let shows =
        |word: &str| entry.has(word) || entry.propagation.iter().any(|tag| tag.starts_with(word));
    match expected.strip_prefix('!') {
        Some(word) => assert!(!shows(word), "{option}: {word} is there: {entry:?}"),
        None => {
            assert!(shows(expected) || expected.is_empty(), "{option}: no {expected}: {entry:?}")
        }
    }
}

/// Makes the two trees in a mount namespace of its own, and does something there.
fn with_trees(act: impl FnOnce(&Scratch) + Send) {
    let scratch = Scratch::new();
    in_namespaces(CloneFlags::CLONE_NEWNS, || {
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        Base::Open.make(&scratch);
        Base::Shut.make(&scratch);
        act(&scratch);
    });
}

#[test]
fn every_mount_option_that_is_listed_is_tried_here() {
    let host = requires!(our_runtime);

    let listed = listed(&features(&host.runtime()), "/mountOptions");

    let tried =
        BIND_OPTIONS.iter().map(|row| row.0).chain(FILESYSTEM_OPTIONS.iter().map(|row| row.0));
    let tried: BTreeSet<String> = tried.chain(OTHER_OPTIONS).map(str::to_owned).collect();
    assert_eq!(listed, tried);
}

#[test]
fn options_of_mounts_show_in_the_mount_table() {
    let host = requires!(root, our_runtime);
    with_trees(|scratch| {
        let mut bundle = Bundle::probe();
        for (option, base, before, ..) in BIND_OPTIONS {
            let source = scratch.join(base.name());
            let options: Vec<&str> = before.iter().copied().chain([*option]).collect();
            let destination = format!("/mnt/{option}");
            bundle = bundle.mount(&destination, "bind", source.to_str().unwrap(), &options);
        }
        for (option, before, _) in FILESYSTEM_OPTIONS {
            let options: Vec<&str> = before.iter().copied().chain([*option]).collect();
            bundle = bundle.mount(&format!("/fs/{option}"), "tmpfs", "tmpfs", &options);
        }
        let again = json!({"destination": "/fs/remount", "options": ["remount", "ro"]});
        bundle = bundle
            .mount("/fs/remount", "tmpfs", "tmpfs", &[])
            .set("/mounts/-", again)
            .mount("/fs/other", "tmpfs", "tmpfs", &["size=64k"])
            .mount("/fs/other", "tmpfs", "tmpfs", &["remount", "size=128k", "nosuid"]);

        let report = host.runtime().report(bundle);

        for (option, _, _, top, below) in BIND_OPTIONS {
            assert_shows(option, report.mount(&format!("/mnt/{option}")), top);
            let found = report.find_mount(&format!("/mnt/{option}/below"));
            assert_eq!(found.is_some(), below.is_some(), "{option}: the mount below");
            if let (Some(entry), Some(expected)) = (found, below) {
                assert_shows(option, entry, expected);
            }
        }
        for (option, _, expected) in FILESYSTEM_OPTIONS {
            assert_shows(option, report.mount(&format!("/fs/{option}")), expected);
        }
        let same = report.mounts.iter().filter(|mount| mount.mount_point == "/fs/remount");
        assert_eq!(same.count(), 1, "a remount covers nothing");
        assert_shows("remount", report.mount("/fs/remount"), "ro");
        assert_shows("remount", report.mount("/fs/other"), "size=128k");
        assert_shows("remount", report.mount("/fs/other"), "nosuid");
    });
}

#[test]
fn id_maps_and_copies_show_in_the_files() {
    let host = requires!(root, user_namespaces, our_runtime);
    with_trees(|scratch| {
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        let mapped = |destination: &str, options: &[&str]| {
            json!({
                "destination": destination, "type": "bind", "source": scratch.join("open"),
                "options": options, "uidMappings": map, "gidMappings": map,
            })
        };
        if !kernel_has(6, 3) {
            // A tmpfs takes no id map: that is told.
            let bundle = Bundle::probe().set("/mounts/-", mapped("/one", &["rbind", "idmap"]));
            return refused(&host.runtime(), bundle, &["mounts"]);
        }
        let bundle = Bundle::probe()
            .set("/mounts/-", mapped("/one", &["rbind", "idmap"]))
            .set("/mounts/-", mapped("/all", &["rbind", "ridmap"]))
            .mount("/etc", "tmpfs", "tmpfs", &["tmpcopyup"])
            .args([
                "stat",
                "/one/file",
                "/one/below/file",
                "/all/file",
                "/all/below/file",
                "/etc/passwd",
            ]);

        let files: Value = host.runtime().run(bundle).success().json();

        let owner = |path: &str| files[path]["uid"].clone();
        assert_eq!((owner("/one/file"), owner("/one/below/file")), (json!(1000), json!(0)));
        assert_eq!((owner("/all/file"), owner("/all/below/file")), (json!(1000), json!(1000)));
        assert!(!files["/etc/passwd"].is_null(), "tmpcopyup has copied nothing");
    });
}

#[test]
fn options_that_are_not_listed_go_to_the_file_system_which_refuses_them() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let listed = listed(&features(&runtime), "/mountOptions");

    for option in ["nosuch", "NOEXEC", "rnosuch", "rremount", "rbindable", "rdefaults", "ro "] {
        assert!(!listed.contains(option));
        refused(
            &runtime,
            Bundle::probe().mount("/mnt", "tmpfs", "tmpfs", &[option]),
            &["/mnt", option],
        );
    }
}
