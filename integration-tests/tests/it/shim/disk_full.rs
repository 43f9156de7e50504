//! The log when the disk takes no more – ARCHITECTURE.md, `on-full`.

use std::fs;
use std::path::{Path, PathBuf};

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Scratch, Shim, requires, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

const LINES: usize = 20_000;

/// A filesystem of one MiB.
struct SmallDisk {
    dir: PathBuf,
    _scratch: Scratch,
}

impl SmallDisk {
    fn new() -> Self {
        let scratch = Scratch::new();
        let dir = scratch.join("disk");
        fs::create_dir(&dir).unwrap();
        let disk = Self { dir, _scratch: scratch };
        disk.mount(MsFlags::empty(), "size=1m");
        disk
    }

    fn mount(&self, flags: MsFlags, options: &str) {
        mount(Some("tmpfs"), &self.dir, Some("tmpfs"), flags, Some(options)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.dir, MntFlags::MNT_DETACH).unwrap();
    }
}

/// Starts a container that writes more than the disk holds into `log`.
fn start(log: &Path, on_full: &str) -> Shim {
    let shim = Shim::new(Bundle::probe().args(["lines", "20000", "100"]));
    let uri = format!("keg://{}?format=json-file&on-full={on_full}", log.display());
    shim.create_with(|request| {
        request.stdout = uri.clone();
        request.stderr = uri.clone();
    })
    .unwrap();
    shim.start("");
    shim
}

fn entries(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    text.lines().map(|line| serde_json::from_str(line).expect("a whole entry")).collect()
}

#[test]
fn output_that_does_not_fit_is_lost_and_the_container_goes_on() {
    requires!(root);
    let disk = SmallDisk::new();
    let log = disk.dir.join("log");

    let shim = start(&log, "drop");

    assert_eq!(shim.wait("").exit_status, 0);
    let kept = entries(&log).len();
    assert!(kept > 0 && kept < LINES, "{kept}");
    shim.delete("").unwrap();
}

#[test]
fn a_container_waits_for_room_if_it_is_to_and_loses_nothing() {
    requires!(root);
    let disk = SmallDisk::new();
    let log = disk.dir.join("log");

    let shim = start(&log, "block");
    wait_until("the disk is full", PATIENCE, || {
        fs::metadata(&log).is_ok_and(|log| log.len() >= (1 << 20) - 4096)
    });
    assert_eq!(shim.state("").unwrap().exited_at, None, "it waits");
    disk.mount(MsFlags::MS_REMOUNT, "size=16m");

    assert_eq!(shim.wait("").exit_status, 0);
    let numbers = entries(&log)
        .into_iter()
        .map(|entry| entry["log"].as_str().unwrap().trim().parse::<usize>().unwrap());
    assert!(numbers.eq(1..=LINES));
    shim.delete("").unwrap();
}

#[test]
fn an_exit_is_told_of_while_its_record_has_no_room_and_recorded_when_it_has() {
    requires!(root);
    let disk = SmallDisk::new();
    let (record, filler) = (disk.dir.join("exit.json"), disk.dir.join("filler"));
    let shim = Shim::new(Bundle::probe().args(["exit", "7"]));
    let log = shim.scratch().join("log");
    let uri = format!("keg://{}?format=json-file&exit={}", log.display(), record.display());
    shim.create_with(|request| request.stdout = uri).unwrap();
    let full = fs::write(&filler, vec![1; 2 << 20]);
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);

    shim.start("");
    assert_eq!(shim.wait("").exit_status, 7);
    let names = fs::read_dir(&disk.dir).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["filler"], "half a record is none");
    fs::remove_file(&filler).unwrap();

    wait_until("the exit is recorded", PATIENCE, || record.exists());
    let text = fs::read_to_string(&record).unwrap();
    let recorded: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&recorded["status"], &recorded["id"]), (&7.into(), &shim.id().into()), "{text}");
    shim.delete("").unwrap();
}
