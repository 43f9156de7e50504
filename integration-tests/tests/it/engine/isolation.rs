//! The walls of a container as kegd makes it by default: users, files, processes, network, rights.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use keg_fixtures::report::Attempt;
use keg_fixtures::{Daemon, Report, requires};

fn report(daemon: &Daemon, image: &str, flags: &[&str]) -> Report {
    let command = [image, "/probe", "report"];
    daemon.keg(["run", "--rm"].iter().chain(flags).chain(&command)).success().json()
}

fn tried(daemon: &Daemon, image: &str, flags: &[&str], attempts: &[&str]) -> Vec<String> {
    let command = [image, "/probe", "try"];
    let arguments = ["run", "--rm"].iter().chain(flags).chain(&command).chain(attempts);
    let tried: Vec<Attempt> = daemon.keg(arguments).success().json();
    tried.into_iter().map(|attempt| attempt.errno.unwrap_or_default()).collect()
}

#[test]
fn every_namespace_is_the_containers_own() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let report = report(&daemon, &image, &[]);

    for name in ["mnt", "uts", "ipc", "pid", "net", "cgroup", "user"] {
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
        assert_ne!(report.namespaces[name], ours, "{name}");
    }
    assert_eq!(report.process.pid, 1);
}

#[test]
fn each_container_has_an_id_range_of_its_own() {
    requires!(root, user_namespaces);
    let (daemon, image) = Daemon::with_busybox();
    for name in ["one", "two"] {
        let _ = daemon.run_detached(["--name", name, &image, "/probe", "pause"]);
    }

    let starts: BTreeSet<u32> = ["one", "two"]
        .iter()
        .map(|name| fs::metadata(format!("/proc/{}", daemon.pid_of(name))).unwrap().uid())
        .collect();

    assert_eq!(starts.len(), 2, "{starts:?}");
    assert!(starts.iter().all(|start| *start >= 65_536), "{starts:?}");
    let report = report(&daemon, &image, &[]);
    assert_eq!((report.uid_map[0][0], report.uid_map[0][2]), (0, 65_536), "{:?}", report.uid_map);
}

#[test]
fn the_images_files_have_their_owners_inside() {
    requires!(root, user_namespaces);
    let (daemon, image) = Daemon::with_busybox();
    let command = ["/probe", "stat", "/home/keg.txt", "/etc/passwd"];

    let arguments = ["run", "--rm", &image].into_iter().chain(command);
    let stat: serde_json::Value = daemon.keg(arguments).success().json();

    assert_eq!(
        (&stat["/home/keg.txt"]["uid"], &stat["/home/keg.txt"]["gid"]),
        (&1000.into(), &50.into())
    );
    assert_eq!(stat["/home/keg.txt"]["mode"], 0o640);
    assert_eq!(stat["/etc/passwd"]["uid"], 0);
}

#[test]
fn root_inside_can_change_its_own_files_and_not_the_hosts() {
    requires!(root, user_namespaces);
    let (daemon, image) = Daemon::with_busybox();
    let shared = daemon.scratch().directory("of-host");
    fs::write(shared.join("secret"), "x").unwrap();
    fs::set_permissions(shared.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let volume = format!("{}:/host", shared.display());
    let flags = ["--userns", "auto", "-v", &volume];

    let own = tried(&daemon, &image, &[], &["chown:/home/keg.txt:7", "create:/new", "mkdir:/dir"]);
    let hosts = tried(&daemon, &image, &flags, &["read:/etc/shadow", "mount:tmpfs:/tmp"]);

    assert_eq!(own, ["", "", ""]);
    assert!(hosts.iter().all(|errno| !errno.is_empty()), "{hosts:?}");
}

#[test]
fn dangerous_rights_are_not_there() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let report = report(&daemon, &image, &[]);

    for name in
        ["CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_PTRACE", "CAP_NET_ADMIN", "CAP_SYS_RAWIO"]
    {
        assert!(!report.capabilities.bounding.contains(name), "{name}");
    }
    assert_eq!(report.seccomp_mode, 2);
    for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
        // Kernels are built without some of them.
        let there = std::path::Path::new(path).exists();
        assert!(!there || report.mount(path).has("ro"), "{path}");
    }
    assert!(report.mount("/sys").has("ro"));
}

#[test]
fn what_reaches_for_the_host_is_refused() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let attempts = [
        "mount:tmpfs:/tmp",
        "write:/proc/sys/kernel/domainname",
        "write:/proc/sysrq-trigger",
        "read:/proc/kcore",
        "mknod:/disk:b:8:0",
        "hostname:other",
        "unshare:user",
        "write:/sys/kernel/uevent_seqnum",
    ];

    let tried = tried(&daemon, &image, &[], &attempts);

    for (attempt, errno) in attempts.iter().zip(&tried) {
        assert!(!errno.is_empty(), "{attempt} worked");
    }
}

#[test]
fn userns_host_gives_the_hosts_ids() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let report = report(&daemon, &image, &["--userns", "host"]);

    let ours = fs::read_link("/proc/self/ns/user").unwrap().display().to_string();
    assert_eq!(report.namespaces["user"], ours);
}

#[test]
fn a_volume_has_the_same_owners_inside_and_outside() {
    requires!(root, user_namespaces);
    let (daemon, image) = Daemon::with_busybox();
    let shared = daemon.scratch().directory("shared");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let volume = format!("{}:/data", shared.display());

    let arguments = ["run", "--rm", "-u", "1000:50", "-v", &volume, &image, "touch", "/data/file"];
    let _ = daemon.keg(arguments).success();

    let metadata = fs::metadata(shared.join("file")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1000, 50));
}

#[test]
fn containers_do_not_see_each_other() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "sh", "-c", "echo x > /own; sleep 1000"]);

    let outcome = daemon.keg(["run", "--rm", &image, "sh", "-c", "ps; ls /own"]);

    assert!(!outcome.stdout.contains("sleep"), "{outcome:?}");
    assert!(outcome.stderr.contains("/own"), "{outcome:?}");
}

#[test]
fn only_the_standard_descriptors_are_open() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let report = report(&daemon, &image, &[]);

    assert_eq!(report.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{:?}", report.fds);
}
