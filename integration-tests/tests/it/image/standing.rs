//! What is told of images whose names go away: rmi's lines, and the images of containers – Docker's.

use keg_fixtures::{Daemon, Image, requires};

fn shown(daemon: &Daemon, format: &str) -> String {
    let flags = ["ps", "-a", "--format", format];
    daemon.keg(flags).success().stdout.trim().to_owned()
}

#[test]
fn a_container_shows_its_images_id_once_the_name_is_another_images() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.keg(["tag", &image, "mine:1"]).success();
    let _ = daemon.keg(["create", "--name", "first", "mine:1", "true"]).success();
    let id = Image::busybox().config.digest;
    let hex = id.trim_start_matches("sha256:").to_owned();

    let named = shown(&daemon, "{{.Image}}");
    let _ = daemon.keg(["commit", "-m", "another", "first", "mine:1"]).success();
    let moved = shown(&daemon, "{{.Image}}");
    let whole = daemon.keg(["ps", "-a", "--no-trunc", "--format", "{{.Image}}"]).success();
    let _ = daemon.keg(["tag", &image, "mine:1"]).success();
    let back = shown(&daemon, "{{.Image}}");
    let _ = daemon.keg(["rmi", "mine:1"]).success();
    let removed = shown(&daemon, "{{.Image}}");

    assert_eq!([named, back], ["mine:1", "mine:1"]);
    assert_eq!([moved, removed], [&hex[..12], &hex[..12]]);
    assert_eq!(whole.stdout.trim(), id);
    assert_eq!(daemon.inspect("first")["Config"]["Image"], "mine:1", "as it was asked for");
}

#[test]
fn rmi_tells_names_digests_and_what_is_deleted() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.keg(["tag", &image, "mine:1"]).success();
    let _ = daemon.keg(["tag", &image, "mine:2"]).success();
    let (manifest, id) = (Image::busybox().manifest.digest, Image::busybox().config.digest);
    let lines = |name: &str| {
        let removed = daemon.keg(["rmi", name]).success().stdout;
        removed.lines().map(str::to_owned).collect::<Vec<_>>()
    };

    let first = lines("mine:1");
    let second = lines("mine:2");
    let last = lines(&image);

    assert_eq!(first, ["Untagged: mine:1"]);
    assert_eq!(second, ["Untagged: mine:2".to_owned(), format!("Untagged: mine@{manifest}")]);
    let repository = image.trim_end_matches(":latest");
    assert_eq!(last[0], format!("Untagged: {image}"));
    assert_eq!(last[1], format!("Untagged: {repository}@{manifest}"));
    assert_eq!(last[2], format!("Deleted: {id}"));
    assert_eq!(last.len(), 3 + Image::busybox().layers.len(), "{last:?}");
}
