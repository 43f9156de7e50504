//! SELinux around containers, on hosts that have it with a policy for containers.
//!
//! What a process or a file is labelled with is asked of the kernel, inside and outside. The walls
//! themselves are tried where the policy is enforced.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use keg_fixtures::{Daemon, Outcome, requires};

/// What a process says of its own label.
const OWN: [&str; 2] = ["cat", "/proc/self/attr/current"];
/// The types of Debian's and Fedora's policies.
const PROCESS: &str = ":container_t:";
const FILE: &str = ":container_file_t:";

/// The label of the process of `keg run --rm FLAGS IMAGE`.
fn label(daemon: &Daemon, image: &str, flags: &[&str]) -> String {
    clean(&run(daemon, image, flags, &OWN).success().stdout)
}

fn run(daemon: &Daemon, image: &str, flags: &[&str], command: &[&str]) -> Outcome {
    daemon.keg(["run", "--rm"].iter().chain(flags).chain(&[image]).chain(command))
}

/// The label of a file, as the kernel has it.
fn label_of(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let mut value = [0_u8; 512];
    let length = rustix::fs::lgetxattr(path, "security.selinux", &mut value[..])
        .unwrap_or_else(|errno| panic!("the label of {path:?}: {errno}"));
    clean(&String::from_utf8_lossy(&value[..length]))
}

fn clean(label: &str) -> String {
    label.trim_end_matches(['\0', '\n']).to_owned()
}

/// What tells containers of one type apart.
fn categories(label: &str) -> &str {
    label.splitn(5, ':').nth(4).unwrap_or_else(|| panic!("no categories in {label:?}"))
}

/// A directory of the host with a file in it, as no container may use it.
fn directory(daemon: &Daemon, name: &str) -> PathBuf {
    let path = daemon.scratch().join(name);
    fs::create_dir_all(path.join("below")).unwrap();
    fs::write(path.join("below/file"), "of the host\n").unwrap();
    path
}

#[test]
fn every_container_has_categories_of_its_own_for_its_process_and_its_files() {
    requires!(root, selinux);
    let (mut daemon, image) = Daemon::with_busybox();
    for name in ["one", "two"] {
        let _ =
            daemon.run_detached(["--name", name, "--tmpfs", "/memory", &image, "/probe", "pause"]);
    }
    let seen = |daemon: &Daemon, name: &str| {
        let shown = daemon.inspect(name);
        let text = |key: &str| shown[key].as_str().unwrap().to_owned();
        let process = PathBuf::from(format!("/proc/{}", daemon.pid_of(name)));
        let own = clean(&fs::read_to_string(process.join("attr/current")).unwrap());
        let exec = daemon.keg(["exec", name].iter().chain(&OWN)).success().stdout;
        assert_eq!((&own, &clean(&exec)), (&text("ProcessLabel"), &own), "{name}");
        for file in ["", "bin/busybox", "dev", "dev/shm", "dev/pts", "memory", "etc/hosts"] {
            assert_eq!(label_of(process.join("root").join(file)), text("MountLabel"), "{file}");
        }
        (own, text("MountLabel"))
    };

    let before = [seen(&daemon, "one"), seen(&daemon, "two")];
    daemon.crash();
    let _ = daemon.keg(["restart", "-t", "0", "two"]).success();
    let after = [seen(&daemon, "one"), seen(&daemon, "two")];

    assert_eq!(after, before);
    for (process, mount) in &before {
        assert!(process.contains(PROCESS) && mount.contains(FILE), "{process} {mount}");
        assert_eq!(categories(process), categories(mount));
    }
    assert_ne!(before[0], before[1]);
    assert!(daemon.keg(["info"]).success().stdout.contains("selinux"));
}

#[test]
fn options_change_a_label_or_lift_it() {
    requires!(root, selinux);
    let (daemon, image) = Daemon::with_busybox();
    let option =
        |value: &str| label(&daemon, &image, &["--security-opt", &format!("label={value}")]);

    assert!(option("level:s0:c5,c9").ends_with(":container_t:s0:c5,c9"));
    for lifted in [vec!["--security-opt", "label=disable"], vec!["--privileged"]] {
        let label = label(&daemon, &image, &lifted);
        assert!(!label.contains(PROCESS), "{lifted:?}: {label}");
    }
    let named =
        ["create", "--name", "named", "--security-opt", "label=filetype:container_ro_file_t"];
    let more = ["--security-opt", "label=level:s0:c7,c8", &image, "true"];
    let _ = daemon.keg(named.iter().chain(&more)).success();
    let mount = daemon.inspect("named")["MountLabel"].as_str().unwrap().to_owned();
    assert_eq!(mount, "system_u:object_r:container_ro_file_t:s0:c7,c8");
    let wrong = ["run", "--rm", "--security-opt", "label=type:keg_no_such_t", &image, "true"];
    let refused = daemon.keg(wrong);
    assert_eq!(refused.exit_code, 125, "{refused:?}");
    assert!(refused.stderr.contains("no context system_u:system_r:keg_no_such_t"), "{refused:?}");
}

#[test]
fn who_joins_another_container_has_its_label_and_who_joins_the_host_has_none() {
    requires!(root, selinux);
    let (daemon, image) = Daemon::with_busybox();
    let flags = ["--name", "one", "--ipc", "shareable", &image, "/probe", "pause"];
    let _ = daemon.run_detached(flags);
    let of_one = daemon.inspect("one")["ProcessLabel"].as_str().unwrap().to_owned();

    assert_eq!(label(&daemon, &image, &["--pid", "container:one"]), of_one);
    assert_eq!(label(&daemon, &image, &["--ipc", "container:one"]), of_one);
    assert_ne!(label(&daemon, &image, &["--network", "container:one"]), of_one);
    assert!(!label(&daemon, &image, &["--pid", "host"]).contains(PROCESS));
}

#[test]
fn a_container_is_refused_what_the_host_has_until_it_is_relabelled() {
    requires!(root, selinux_enforcing);
    let (daemon, image) = Daemon::with_busybox();
    let own = directory(&daemon, "own");
    let outside = directory(&daemon, "outside");
    symlink(&outside, own.join("link")).unwrap();
    let label_outside = label_of(outside.join("below/file"));
    // Root with the host's ids: nothing but the label keeps it from the file.
    let read = |options: &str| {
        let volume = format!("{}:/data{options}", own.display());
        let flags = ["--userns", "host", "-v", &volume];
        run(&daemon, &image, &flags, &["cat", "/data/below/file"])
    };

    let refused = read("");
    assert!(refused.exit_code == 1 && refused.stderr.contains("denied"), "{refused:?}");
    assert_eq!(read(":Z").success().stdout, "of the host\n");
    // That label was the container's own.
    let refused = read("");
    assert!(refused.exit_code == 1 && refused.stderr.contains("denied"), "{refused:?}");
    assert_eq!(read(":z").success().stdout, "of the host\n");
    assert_eq!(read("").success().stdout, "of the host\n");

    let shared = label_of(own.join("below/file"));
    assert!(shared.contains(FILE) && shared.ends_with(":s0"), "{shared}");
    assert_eq!(label_of(own.join("link")), shared);
    assert_eq!(label_of(outside.join("below/file")), label_outside);
}

#[test]
fn a_container_is_refused_the_files_of_another() {
    requires!(root, selinux_enforcing);
    let (daemon, image) = Daemon::with_busybox();
    let flags = ["--name", "one", "--userns", "host", &image, "sh", "-c"];
    let _ = daemon.run_detached(flags.iter().chain(&["echo secret >/mine; exec /probe pause"]));
    let bundle = daemon.inspect("one")["Keg"]["Bundle"].as_str().unwrap().to_owned();
    let roots = format!("{bundle}/rootfs:/other");
    let read = |more: &[&str]| {
        let flags = ["--userns", "host", "-v", &roots];
        let flags: Vec<&str> = flags.iter().chain(more).copied().collect();
        run(&daemon, &image, &flags, &["cat", "/other/mine"])
    };

    let refused = read(&[]);
    let of_one = daemon.inspect("one")["ProcessLabel"].as_str().unwrap().to_owned();
    let level = format!("label=level:s0:{}", categories(&of_one));
    let admitted = read(&["--security-opt", &level]);

    assert!(refused.exit_code == 1 && refused.stderr.contains("denied"), "{refused:?}");
    assert_eq!(admitted.success().stdout, "secret\n");
}

#[test]
fn what_the_host_lives_by_is_never_relabelled() {
    requires!(root, selinux);
    let (daemon, image) = Daemon::with_busybox();
    let link = daemon.scratch().join("link");
    symlink("/usr", &link).unwrap();
    let before = label_of("/usr");

    for source in ["/usr", "/etc", link.to_str().unwrap()] {
        let refused = run(&daemon, &image, &["-v", &format!("{source}:/data:Z")], &["true"]);

        assert_eq!(refused.exit_code, 125, "{refused:?}");
        assert!(refused.stderr.contains("the host needs it as it is"), "{refused:?}");
    }
    assert_eq!(label_of("/usr"), before);
}

#[test]
fn volumes_are_shared_and_one_can_be_had_alone() {
    requires!(root, selinux);
    let (daemon, image) = Daemon::with_busybox();
    let write = ["sh", "-c", "echo text >>/data/file && cat /data/file"];
    let with = |volume: &str| run(&daemon, &image, &["-v", volume], &write).success().stdout;
    let data = || daemon.root().join("volumes/kept/_data/file");

    assert_eq!(with("kept:/data"), "text\n");
    assert_eq!(with("kept:/data"), "text\ntext\n");
    let shared = label_of(data());
    assert!(shared.contains(FILE) && shared.ends_with(":s0"), "{shared}");
    let _ = with("kept:/data:Z");
    assert_eq!(categories(&label_of(data())).split(',').count(), 2);
    // Whoever does not ask for it alone has it with all others again.
    assert_eq!(with("kept:/data").lines().count(), 4);
    assert_eq!(label_of(data()), shared);
}

#[test]
fn init_terminals_shared_memory_copies_and_builds_work_behind_the_labels() {
    requires!(root, selinux);
    let (daemon, image) = Daemon::with_busybox();
    let script = "echo $$ >/dev/shm/it && cat /dev/shm/it && echo note >/note";
    let flags =
        ["run", "--name", "done", "--init", "--ipc", "shareable", &image, "sh", "-c", script];
    let began = daemon.keg(flags).success();
    let context = daemon.scratch().join("context");
    fs::create_dir(&context).unwrap();
    let dockerfile =
        format!("FROM {image}\nRUN --mount=type=cache,target=/c echo x >/c/x && cp /c/x /y\n");
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();

    let copied = daemon.keg(["cp", "done:/note", "-"]).success();
    let terminal = daemon.keg_on_terminal(["run", "--rm", "-t", &image, "busybox", "tty"]);
    let built =
        daemon.keg(["build", "-q", "--network", "none", "-t", "built", context.to_str().unwrap()]);

    assert_ne!(began.stdout, "1\n");
    assert!(copied.stdout.contains("note"), "{copied:?}");
    terminal.expect("/dev/pts/0");
    let _ = built.success();
    assert_eq!(run(&daemon, "built", &[], &["cat", "/y"]).success().stdout, "x\n");
}

#[test]
fn a_daemon_that_is_told_so_gives_no_labels() {
    requires!(root, selinux);
    let daemon = Daemon::with_config("selinux = false\n");

    let refused = daemon.keg(["create", "--security-opt", "label=type:spc_t", "no-image", "true"]);

    assert!(refused.stderr.contains("switched off in kegd.toml"), "{refused:?}");
    assert!(!daemon.keg(["info"]).success().stdout.contains("selinux"));
}
