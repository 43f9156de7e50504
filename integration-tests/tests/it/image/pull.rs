//! pull, images, rmi – OCI distribution-spec, "Pull".

use keg_fixtures::{Daemon, Registry, requires};

#[test]
fn a_pulled_image_is_listed_and_a_removed_one_is_not() {
    requires!(root, registry);
    let (_registry, reference) = Registry::with_busybox();
    let daemon = Daemon::new();

    daemon.pull(&reference);

    let repository = reference.rsplit_once(':').unwrap().0;
    let listed = daemon.keg(["images"]).success().stdout;
    let line = listed.lines().find(|line| line.starts_with(repository)).unwrap_or_default();
    assert!(line.contains("latest"), "{listed}");

    let _ = daemon.keg(["rmi", &reference]).success();
    assert!(!daemon.keg(["images"]).success().stdout.contains(repository));
}
