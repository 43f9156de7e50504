//! Builds where there is no room, and where there are no overlays.

use std::process::Command;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{BadRegistry, Daemon, Image, Outcome, requires};

use super::Project;

/// A daemon whose root is a file system of its own, which goes with it.
struct Mounted {
    project: Project,
    /// A mount point, in the order of mounting.
    points: Vec<std::path::PathBuf>,
}

impl Mounted {
    fn new(mount: impl FnOnce(&Daemon) -> Vec<std::path::PathBuf>) -> Self {
        let registry = BadRegistry::new(Image::busybox(), |_, right| right);
        let mut daemon = Daemon::new();
        daemon.stop();
        std::fs::remove_dir_all(daemon.root()).unwrap();
        std::fs::create_dir(daemon.root()).unwrap();
        let points = mount(&daemon);
        daemon.start();
        let base = format!("{}/busybox:latest", registry.address());
        daemon.pull(&base);
        Self { project: Project::with(daemon, base, &[]), points }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.project.daemon.stop();
        for point in self.points.iter().rev() {
            // A failed test has more to tell than that it could not tidy up.
            let _ = Command::new("umount").arg(point).status();
        }
    }
}

fn mount(args: &[&str]) {
    let _ = Outcome::of(Command::new("mount").args(args), PATIENCE).success();
}

#[test]
fn a_full_disk_fails_the_build_and_not_the_next_one() {
    requires!(root);
    let small = Mounted::new(|daemon| {
        let root = daemon.root();
        mount(&["-t", "tmpfs", "-o", "size=48m", "tmpfs", root.to_str().unwrap()]);
        vec![root]
    });
    let project = &small.project;
    let first = "FROM BASE\nRUN echo kept > /kept; cat /proc/sys/kernel/random/uuid > /id\n";
    project.write("Dockerfile", first);
    let _ = project.build(&[]).success();
    let id = project.run("cat /id");

    // A command, and then what is copied, takes more than there is.
    project.write("Dockerfile", &format!("{first}RUN dd if=/dev/zero of=/big bs=1M count=200\n"));
    let failed = project.build(&[]);
    assert!(failed.stderr.contains("No space left on device"), "{failed:?}");
    project.write("Dockerfile", &format!("{first}COPY big /\n"));
    std::fs::File::create(project.path("big")).unwrap().set_len(100 << 20).unwrap();
    let failed = project.build(&[]);
    assert!(failed.stderr.contains("keg builder prune"), "{failed:?}");

    // What failed has given its space back, and what was there is there.
    std::fs::remove_file(project.path("big")).unwrap();
    project.write("Dockerfile", &format!("{first}RUN dd if=/dev/zero of=/some bs=1M count=8\n"));
    let _ = project.build(&[]).success();
    assert_eq!(project.run("cat /id"), id);
}

#[test]
fn builds_do_without_overlays_where_there_are_none() {
    requires!(root);
    // An overlay cannot lie on an overlay.
    let plain = Mounted::new(|daemon| {
        let scratch = daemon.scratch();
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| scratch.directory(name));
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let root = daemon.root();
        mount(&["-t", "overlay", "-o", &options, "overlay", root.to_str().unwrap()]);
        vec![root]
    });
    let project = &plain.project;
    let file = "FROM BASE AS made
RUN mkdir /made && echo one > /made/one && rm -r /var 2>/dev/null; cat /proc/sys/kernel/random/uuid > /id
FROM BASE
WORKDIR /work
COPY --from=made /made /id /out/
COPY --link --chown=7:8 Dockerfile /linked
RUN rm /out/one && echo two > /out/two && chown 5:6 /out/two
RUN true
USER 5:6
";
    project.write("Dockerfile", file);

    let _ = project.build(&[]).success();
    let again = project.build(&[]).success();

    assert!(project.daemon.log().contains("copies"), "{}", project.daemon.log());
    assert_eq!(again.stderr.matches(" CACHED").count(), 8, "{}", again.stderr);
    let seen = project.run("ls /out; stat -c '%u:%g' /out/two /linked; pwd; id -u; ls -d /work");
    assert_eq!(seen, "id\ntwo\n5:6\n7:8\n/work\n5\n/work\n");
    // A layer has what its step changed, and not all that there is.
    let manifest = project.document(&project.build_target(&[]));
    let layers = manifest["layers"].as_array().unwrap();
    let own = layers.iter().rev().take(4).map(|layer| layer["size"].as_u64().unwrap());
    assert!(own.clone().all(|bytes| bytes < 20_000), "{layers:?}");
    project.write("Dockerfile", &format!("{file}RUN echo more > /tmp/more 2>/dev/null || true\n"));
    let _ = project.build(&[]).success();
}
