//! kegd killed again and again while clients use it: nothing is lost, doubled or left behind.
//!
//! `KEG_TEST_DAEMON_KILLS` says how often, where a day's few are not enough.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, Machine, Outcome, programs, requires, wait_until};
use serde_json::Value;

const CLIENTS: usize = 8;

fn kills() -> usize {
    let asked = std::env::var("KEG_TEST_DAEMON_KILLS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(6)
}

/// What clients share.
struct Load {
    keg: PathBuf,
    host: String,
    home: PathBuf,
    image: String,
    /// Calls that were begun.
    begun: AtomicUsize,
    over: AtomicBool,
    /// Every id that anybody has seen.
    ids: Mutex<BTreeSet<String>>,
}

/// What became of a call.
enum Answer {
    /// The daemon has answered, well or not.
    Told(Outcome),
    /// The daemon was killed meanwhile, or is not there yet.
    Lost,
}

impl Load {
    fn ask<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Answer {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let mut command = Command::new(&self.keg);
        command.args(args).env("KEG_HOST", &self.host).env("HOME", &self.home);
        let outcome = Outcome::of(&mut command, 2 * PATIENCE);
        let lost = [
            "connection to kegd broke",
            "cannot connect to kegd",
            "could not be set up: transport",
        ];
        let is_lost = outcome.exit_code != 0 && lost.iter().any(|l| outcome.stderr.contains(l));
        if is_lost { Answer::Lost } else { Answer::Told(outcome) }
    }

    /// Asks until somebody answers.
    fn ask_until_told(&self, args: &[&str]) -> Outcome {
        loop {
            if let Answer::Told(outcome) = self.ask(args) {
                return outcome;
            }
        }
    }

    /// A container as `inspect` has it, if it is there.
    fn look(&self, name: &str) -> Option<Value> {
        let outcome = self.ask_until_told(&["inspect", "--type", "container", name]);
        if outcome.exit_code != 0 {
            assert!(outcome.stderr.to_lowercase().contains("no such"), "{outcome:?}");
            return None;
        }
        let list: Value = outcome.json();
        let id = list[0]["Id"].as_str().expect("an id").to_owned();
        self.ids.lock().expect("ids").insert(id);
        Some(list[0].clone())
    }

    fn is_there(&self, name: &str) -> bool {
        self.look(name).is_some()
    }

    /// A container is made, started once, waited for, and its log read.
    fn live(&self, name: &str, code: u64) {
        let script = format!("echo ran; exit {code}");
        while !self.is_there(name) {
            let create = ["create", "--name", name, &self.image, "sh", "-c", &script];
            if let Answer::Told(outcome) = self.ask(create) {
                let _ = outcome.success();
            }
        }
        while self.look(name).expect("it was made")["State"]["Status"] == "created" {
            if let Answer::Told(outcome) = self.ask(["start", name]) {
                let _ = outcome.success();
            }
        }
        let told = self.ask_until_told(&["wait", name]).success().stdout;
        assert_eq!(told.trim(), code.to_string(), "{name}");
        let log = self.ask_until_told(&["logs", name]).success().stdout;
        assert_eq!(log, "ran\n", "{name}");
    }

    fn remove(&self, name: &str) {
        while self.is_there(name) {
            if let Answer::Told(outcome) = self.ask(["rm", name]) {
                let _ = outcome.success();
            }
        }
    }

    fn exec(&self) {
        if let Answer::Told(outcome) = self.ask(["exec", "base", "sh", "-c", "exit 7"]) {
            // Another client's commit holds it still for a moment.
            let held = outcome.stderr.contains("is paused") || outcome.stderr.contains("a paused");
            assert!(outcome.exit_code == 7 || held, "{outcome:?}");
        }
    }

    fn commit(&self, name: &str) {
        if let Answer::Told(outcome) = self.ask(["commit", "base", name]) {
            let _ = outcome.success();
        }
        let removed = self.ask_until_told(&["rmi", name]);
        let expected = removed.exit_code == 0 || removed.stderr.contains("no image");
        assert!(expected, "{removed:?}");
    }

    /// Uses the daemon until the load is over; returns the containers that are left to look at.
    fn client(&self, number: usize) -> Vec<(String, u64)> {
        let mut kept = Vec::new();
        for round in 0.. {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            let name = format!("c{number}-{round}");
            match round % 4 {
                0 => self.exec(),
                1 => self.commit(&name),
                _ => {
                    let code = (number * 31 + round * 7) as u64 % 120;
                    self.live(&name, code);
                    if round % 8 == 2 { kept.push((name, code)) } else { self.remove(&name) }
                }
            }
        }
        kept
    }
}

/// Numbers that look random, and are others at each run.
struct Dice(AtomicU64);

impl Dice {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(AtomicU64::new(now.map_or(1, |now| now.subsec_nanos().into()) | 1))
    }

    /// From 1 to `sides`.
    fn roll(&self, sides: u64) -> u64 {
        let mut x = self.0.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.store(x, Ordering::Relaxed);
        x % sides + 1
    }
}

#[track_caller]
fn assert_nothing_left(daemon: &Daemon, ids: &BTreeSet<String>) {
    wait_until("all processes are gone", PATIENCE, || daemon.pids() == [daemon.pid()]);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let root = daemon.root().display().to_string();
    let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&root)).collect();
    assert_eq!(left, [""; 0]);
    let cgroups = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| PathBuf::from(at).join("keg"))
    });
    for hierarchy in cgroups {
        let left: Vec<&String> = ids.iter().filter(|id| hierarchy.join(id).exists()).collect();
        assert!(left.is_empty(), "{left:?} in {hierarchy:?}");
    }
    for dir in ["containers", "networks/endpoints"] {
        let entries = std::fs::read_dir(daemon.root().join(dir)).into_iter().flatten();
        assert_eq!(entries.count(), 0, "in {dir}");
    }
    let check = daemon.keg(["system", "check"]);
    assert_eq!(check.exit_code, 0, "{check:?}");
}

#[test]
fn nothing_is_lost_doubled_or_left_when_the_daemon_is_killed_at_any_instant() {
    requires!(root);
    let machine = Machine::new();
    let links = || machine.sh("ip -o link | cut -d: -f2 | cut -d@ -f1; nft list ruleset");
    let (mut daemon, image) = Daemon::on(&machine, "");
    let before = links();
    let id_range = |name: &str| daemon.inspect(name)["Keg"]["IdRange"]["Start"].clone();
    let _ = daemon.keg(["create", "--name", "probe", &image]).success();
    let first_range = id_range("probe");
    let _ = daemon.keg(["rm", "probe"]).success();
    let base = daemon.run_detached(["--name", "base", &image, "/probe", "pause"]);
    daemon.wait_for_line("base", "ready");
    let pid = daemon.pid_of("base");
    let load = Load {
        keg: programs::ours("keg"),
        host: daemon.host(),
        home: daemon.scratch().path().to_owned(),
        image: image.clone(),
        begun: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        ids: Mutex::default(),
    };
    let dice = Dice::new();

    let kept: Vec<(String, u64)> = thread::scope(|scope| {
        let load = &load;
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || load.client(number))).collect();
        for _ in 0..kills() {
            let until = load.begun.load(Ordering::Relaxed) as u64 + dice.roll(3 * CLIENTS as u64);
            wait_until("clients go on", 2 * PATIENCE, || {
                load.begun.load(Ordering::Relaxed) as u64 >= until
                    || clients.iter().any(thread::ScopedJoinHandle::is_finished)
            });
            daemon.crash();
        }
        load.over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });

    assert_eq!(daemon.pid_of("base"), pid);
    assert_eq!(daemon.inspect("base")["State"]["Status"], "running");
    for (name, code) in &kept {
        let state = daemon.inspect(name)["State"].clone();
        assert_eq!((&state["Status"], &state["ExitCode"]), (&"exited".into(), &(*code).into()));
    }
    let listed = daemon.keg(["ps", "-a", "--format", "{{.Names}}"]).success().stdout;
    let mut listed: Vec<&str> = listed.lines().collect();
    let mut expected: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
    expected.push("base");
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);

    let _ = daemon.keg(["rm", "-f"].iter().chain(&listed)).success();
    let mut ids = load.ids.into_inner().expect("ids");
    ids.insert(base);
    assert_nothing_left(&daemon, &ids);
    let _ = daemon.keg(["network", "prune", "-f"]).success();
    assert_eq!(links(), before);
    let _ = daemon.keg(["create", "--name", "probe", &image]).success();
    assert_eq!(daemon.inspect("probe")["Keg"]["IdRange"]["Start"], first_range);
}
