//! Layers: what they change, and what a hostile one must not – image-spec, layer.md.

use keg_fixtures::{BadRegistry, Daemon, Image, Layer, Outcome, Scratch, requires};
use tar::EntryType;

/// Runs a script in a container of busybox with further layers on top.
fn run_on(layers: Vec<Layer>, script: &str) -> Outcome {
    let mut all = Image::busybox_layers();
    all.extend(layers);
    let image = Image::new(all, &Image::busybox_config());
    let registry = BadRegistry::new(image, |_, right| right);
    let daemon = Daemon::new();
    daemon.keg(["run", "--rm", "-q", &format!("{}/it", registry.address()), "sh", "-c", script])
}

#[test]
fn upper_layers_win_and_whiteouts_delete() {
    requires!(root);
    let lower = Layer::new()
        .directory("data/", 0o755)
        .file("data/kept", 0o644, "kept\n")
        .file("data/changed", 0o644, "old\n")
        .file("data/deleted", 0o644, "gone\n")
        .directory("data/full/", 0o755)
        .file("data/full/old", 0o644, "gone\n");
    let upper = Layer::new()
        .file("data/changed", 0o644, "new\n")
        .whiteout("data/deleted")
        .opaque("data/full")
        .file("data/full/new", 0o644, "x");

    let outcome = run_on(vec![lower, upper], "cd /data; cat kept changed; ls; ls full").success();

    assert_eq!(outcome.stdout, "kept\nnew\nchanged\nfull\nkept\nnew\n");
}

#[test]
fn hard_links_symlinks_modes_and_owners_are_kept() {
    requires!(root);
    let layer = Layer::new()
        .directory("data/", 0o755)
        .owned_file("data/file", 0o4751, (1000, 50), "x")
        .hard_link("data/hard", "data/file")
        .symlink("data/soft", "/etc/passwd");

    let script = "cd /data; ls -ln file hard soft; [ file -ef hard ] && echo same";
    let outcome = run_on(vec![layer], script).success();

    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(lines[0].starts_with("-rwsr-x--x    2 1000     50"), "{outcome:?}");
    assert!(lines[2].ends_with("soft -> /etc/passwd"), "{outcome:?}");
    assert_eq!(lines[3], "same");
}

#[test]
fn uncompressed_layers_work_too() {
    requires!(root);
    let layer = Layer::new().uncompressed().file("plain", 0o644, "plain\n");

    assert_eq!(run_on(vec![layer], "cat /plain").success().stdout, "plain\n");
}

#[test]
fn an_image_of_many_layers_works() {
    requires!(root);
    let layers: Vec<Layer> =
        (0..60).map(|number| Layer::new().file(&format!("f{number}"), 0o644, "x")).collect();

    let outcome = run_on(layers, "ls -d /f* | wc -l").success();

    assert_eq!(outcome.stdout.trim(), "60");
}

/// Whether a hostile layer was refused, or confined so that nothing appeared outside.
#[track_caller]
fn assert_confined(layer: Layer, outside: &Scratch) {
    let before = std::fs::read_dir(outside.path()).unwrap().count();

    let outcome = run_on(vec![layer], "true");

    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), before, "{outcome:?}");
    assert!(outcome.exit_code == 0 || outcome.exit_code == 125, "{outcome:?}");
}

#[test]
fn names_with_dots_do_not_lead_out() {
    requires!(root);
    let outside = Scratch::new();
    let name = format!("../../../../../../../..{}/escaped", outside.path().display());

    assert_confined(Layer::new().file(&name, 0o644, "x"), &outside);
}

#[test]
fn absolute_names_do_not_lead_out() {
    requires!(root);
    let outside = Scratch::new();
    let name = format!("{}/escaped", outside.path().display());

    assert_confined(Layer::new().file(&name, 0o644, "x"), &outside);
}

#[test]
fn symlinks_do_not_lead_out() {
    requires!(root);
    let outside = Scratch::new();
    let target = outside.path().display().to_string();

    assert_confined(Layer::new().symlink("way", &target).file("way/escaped", 0o644, "x"), &outside);
}

#[test]
fn hard_links_do_not_lead_out() {
    requires!(root);
    let outside = Scratch::new();
    let secret = outside.file("secret", "of the host");
    let target = format!("../../../../../../../..{}", secret.display());
    let layer = Layer::new().hard_link("stolen", &target);

    let outcome = run_on(vec![layer], "cat /stolen");

    assert!(!outcome.stdout.contains("of the host"), "{outcome:?}");
    let links = std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata(secret).unwrap());
    assert_eq!(links, 1);
}

#[test]
fn a_whiteout_does_not_delete_outside() {
    requires!(root);
    let outside = Scratch::new();
    let kept = outside.file("kept", "x");
    let target = outside.path().display().to_string();
    let layer = Layer::new().symlink("way", &target).file("way/.wh.kept", 0o644, "");

    let _ = run_on(vec![layer], "true");

    assert!(kept.exists());
}

#[test]
fn a_device_of_a_layer_is_no_way_to_the_hosts_disk() {
    requires!(root);
    let layer = Layer::new().entry("disk", EntryType::Block, 0o666, (0, 0), None, b"").entry(
        "fifo",
        EntryType::Fifo,
        0o644,
        (0, 0),
        None,
        b"",
    );

    let outcome = run_on(vec![layer], "head -c 1 /disk");

    assert_ne!(outcome.exit_code, 0);
}

#[test]
fn an_archive_that_is_cut_off_is_refused() {
    requires!(root);
    let mut image = Image::busybox();
    let mut tar = Layer::new().file("big", 0o644, vec![7; 100_000]).into_tar();
    tar.truncate(50_000);
    image = Image::with_raw_layer(&image, tar);
    let registry = BadRegistry::new(image, |_, right| right);
    let daemon = Daemon::new();

    let outcome = daemon.keg(["pull", &format!("{}/it", registry.address())]);

    assert_ne!(outcome.exit_code, 0, "{outcome:?}");
    assert_eq!(daemon.keg(["images", "-q"]).success().stdout, "");
}
