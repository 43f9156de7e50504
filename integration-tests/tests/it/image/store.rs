//! The store: what it takes, that it is whole, and that it stays so whatever happens to kegd.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keg_fixtures::wait::{self, PATIENCE};
use keg_fixtures::{BadRegistry, Daemon, Image, Layer, Scratch, Tree, requires};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

/// An image of busybox and layers of noise, which do not compress.
fn image_of(layers: u64, bytes: usize) -> Image {
    let mut all = Image::busybox_layers();
    all.extend((0..layers).map(|number| {
        let noise = Random(number + 1).bytes(bytes);
        Layer::new().uncompressed().file(&format!("noise{number}"), 0o644, noise)
    }));
    Image::new(all, &Image::busybox_config())
}

/// Numbers that differ from run to run where the seed does (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(count).collect()
    }
}

#[track_caller]
fn assert_sound(daemon: &Daemon, what: &str) {
    let checked = daemon.keg(["system", "check", "--read"]);
    assert_eq!(checked.exit_code, 0, "{what}: {checked:?}");
}

/// How many rounds: `KEG_TEST_KILLS`, else few enough for every day.
fn rounds() -> u64 {
    std::env::var("KEG_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

#[test]
fn a_daemon_killed_at_any_instant_leaves_a_sound_store_and_the_next_pull_completes() {
    requires!(root);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = u64::from(now.subsec_nanos()) << 1 | 1;
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    let registry = BadRegistry::new(image_of(4, 1 << 20), |_, right| right);
    let other = BadRegistry::new(image_of(2, 1 << 18), |_, right| right);
    let image = format!("{}/it", registry.address());
    let second = format!("{}/it", other.address());
    let mut daemon = Daemon::new();
    for round in 0..rounds() {
        let what = format!("round {round}");
        let busy: Vec<Tree> = match round % 3 {
            0 => vec![vec!["pull", "-q", &image], vec!["pull", "-q", &second]],
            1 => vec![vec!["rmi", "-f", &image], vec!["pull", "-q", &second]],
            _ => vec![vec!["image", "prune", "-af"], vec!["pull", "-q", &image]],
        }
        .into_iter()
        .map(|arguments| Tree::spawn(&daemon.keg_command(arguments)))
        .collect();
        // The instant is what is tried: nothing is waited for.
        let instant = Duration::from_micros(random.next() % 600_000);
        let _ = wait::poll(instant, || None::<()>);

        daemon.kill9();
        drop(busy);
        daemon.start();

        assert_sound(&daemon, &what);
        let pulled = daemon.keg(["pull", "-q", &image]);
        assert_eq!(pulled.exit_code, 0, "{what}: {pulled:?}");
    }
    let _ = daemon.keg(["run", "--rm", &image, "cat", "/noise3"]).success();
    let _ = daemon.keg(["image", "prune", "-af"]).success();
    assert_sound(&daemon, "the end");
    assert_eq!(blobs(&daemon), Vec::<PathBuf>::new(), "everything is given back");
}

fn blobs(daemon: &Daemon) -> Vec<PathBuf> {
    let directory = daemon.root().join("content/blobs/sha256");
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn damage_is_found_named_and_repaired_by_the_next_pull() {
    requires!(root);
    let registry = BadRegistry::new(Image::busybox(), |_, right| right);
    let image = format!("{}/it", registry.address());
    let daemon = Daemon::new();
    daemon.pull(&image);
    let layer = Image::busybox().layers[1].clone();
    let path = daemon.root().join("content/blobs/sha256").join(layer.hex());
    let mut bytes = layer.bytes.clone();
    bytes[50] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();

    let quick = daemon.keg(["system", "check"]);
    let thorough = daemon.keg(["system", "check", "--read"]);
    let repaired = daemon.keg(["system", "check", "--read", "--repair"]);
    daemon.pull(&image);

    assert_eq!(quick.exit_code, 0, "{quick:?}");
    assert_eq!(thorough.exit_code, 1, "{thorough:?}");
    assert!(thorough.stdout.contains(&format!("DAMAGED: blob {}", layer.digest)), "{thorough:?}");
    assert!(repaired.stdout.contains("repaired: blob"), "{repaired:?}");
    assert_sound(&daemon, "after the pull");
    assert_eq!(fs::read(&path).unwrap(), layer.bytes);
}

#[test]
fn df_accounts_for_what_is_there_and_prune_gives_it_back() {
    requires!(root);
    let registry = BadRegistry::new(image_of(1, 1 << 20), |_, right| right);
    let image = format!("{}/it", registry.address());
    let daemon = Daemon::new();
    daemon.pull(&image);
    let script = "head -c 300000 /noise0 >/w";
    let run = ["run", "--network", "none", "--name", "box", &image, "sh", "-c", script];
    let _ = daemon.keg(run).success();
    let usage =
        || -> Value { daemon.keg(["system", "df", "-v", "--format", "json"]).success().json() };

    let before = usage();
    let table = daemon.keg(["system", "df"]).success().stdout;
    let kept = daemon.keg(["image", "prune", "-af"]).success();
    let _ = daemon.keg(["rm", "box"]).success();
    let pruned = daemon.keg(["image", "prune", "-af"]).success();
    let after = usage();

    assert_eq!(before["Containers"][0]["Size"], "300kB", "{before}");
    assert!(before["LayersBytes"].as_i64().unwrap() > 1 << 20, "{before}");
    assert!(table.lines().any(|line| line.starts_with("Images          1         1")), "{table}");
    assert!(!kept.stdout.contains("untagged"), "it is in use: {kept:?}");
    assert!(pruned.stdout.contains("Total reclaimed space: "), "{pruned:?}");
    assert_eq!((after["LayersBytes"].as_i64(), after["BlobsBytes"].as_i64()), (Some(0), Some(0)));
    assert_eq!(blobs(&daemon), Vec::<PathBuf>::new());
}

#[test]
fn filters_of_prune_and_images_choose_by_age_label_and_name() {
    requires!(root);
    let registry = BadRegistry::new(Image::busybox(), |_, right| right);
    let daemon = Daemon::new();
    for name in ["one", "two"] {
        daemon.pull(&format!("{}/{name}:1", registry.address()));
    }
    let keg = |arguments: &[&str]| daemon.keg(arguments).success().stdout;

    let pattern = format!("{}/t*", registry.address());
    let by_name =
        keg(&["images", "--format", "{{.Repository}}", "-f", &format!("reference={pattern}")]);
    let young = keg(&["image", "prune", "-af", "--filter", "until=2020-01-01"]);
    let spared = keg(&["image", "prune", "-af", "--filter", "label!=org.example.from"]);
    let gone = keg(&["image", "prune", "-af", "--filter", "label=org.example.from=keg-it"]);

    assert_eq!(by_name.trim(), format!("{}/two", registry.address()));
    assert!(!young.contains("untagged") && !spared.contains("untagged"), "{young}{spared}");
    assert_eq!(gone.matches("untagged: ").count(), 4, "{gone}");
}

/// A root directory with little room.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn over(daemon: &mut Daemon, size: &str) -> Self {
        daemon.stop();
        let root = daemon.root();
        fs::create_dir_all(&root).unwrap();
        let options = format!("size={size}");
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .unwrap();
        let disk = Self(root);
        daemon.start();
        disk
    }

    fn grow(&self, size: &str) {
        let options = format!("size={size}");
        let flags = MsFlags::MS_REMOUNT;
        mount(None::<&str>, &self.0, None::<&str>, flags, Some(options.as_str())).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_fails_a_pull_with_its_name_and_room_mends_it() {
    requires!(root);
    let registry = BadRegistry::new(image_of(6, 2 << 20), |_, right| right);
    let image = format!("{}/it", registry.address());
    let _scratch = Scratch::new();
    let mut daemon = Daemon::new();
    let disk = SmallDisk::over(&mut daemon, "12m");

    let full = daemon.keg(["pull", "-q", &image]);
    let listed = daemon.keg(["images", "-q"]).success();
    assert_sound(&daemon, "full");
    disk.grow("80m");
    let roomy = daemon.keg_within(PATIENCE, ["pull", "-q", &image]);

    assert_eq!(full.exit_code, 1);
    assert!(full.stderr.to_lowercase().contains("space"), "{full:?}");
    assert_eq!(listed.stdout, "");
    assert_eq!(roomy.exit_code, 0, "{roomy:?}");
    assert_sound(&daemon, "roomy");
    daemon.stop();
}

#[test]
fn an_image_of_127_layers_runs() {
    requires!(root);
    let mut layers = Image::busybox_layers();
    while layers.len() < 127 {
        let number = layers.len();
        layers.push(Layer::new().file(&format!("f{number}"), 0o644, "x"));
    }
    let image = Image::new(layers, &Image::busybox_config());
    let registry = BadRegistry::new(image, |_, right| right);
    let daemon = Daemon::new();

    let reference = format!("{}/it", registry.address());
    let script = "ls -d /f* | wc -l; cat /f126";
    let ran =
        daemon.keg_within(3 * PATIENCE, ["run", "--rm", "-q", &reference, "sh", "-c", script]);

    assert_eq!(ran.success().stdout.split_whitespace().collect::<Vec<_>>(), ["124", "x"]);
}

#[test]
fn an_image_of_very_many_files_is_unpacked_whole() {
    requires!(root);
    let count = std::env::var("KEG_TEST_FILES").ok().and_then(|text| text.parse().ok());
    let count: usize = count.unwrap_or(10_000);
    let mut layer = Layer::new();
    for number in 0..count {
        layer = layer.file(&format!("many/{}/{number}", number % 100), 0o644, "x");
    }
    let mut layers = Image::busybox_layers();
    layers.push(layer);
    let registry = BadRegistry::new(Image::new(layers, &Image::busybox_config()), |_, right| right);
    let daemon = Daemon::new();

    let reference = format!("{}/it", registry.address());
    let deadline = PATIENCE + Duration::from_millis(count as u64 * 2);
    let arguments = ["run", "--rm", "-q", &reference, "sh", "-c", "find /many -type f | wc -l"];
    let ran = daemon.keg_within(deadline, arguments);

    assert_eq!(ran.success().stdout.trim(), count.to_string());
}
