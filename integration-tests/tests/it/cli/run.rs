//! `keg run`, in the foreground and in the background – Docker's words, flags and exit codes.

use std::fs;

use keg_fixtures::{BadRegistry, Daemon, Image, Report, requires};

#[test]
fn run_prints_what_the_command_writes_and_leaves_nothing() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let outcome = daemon.keg(["run", "--rm", &image, "echo", "hello"]);

    assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (0, "hello\n"), "{outcome:?}");
    assert_eq!(outcome.stderr, "");
    assert_eq!(daemon.keg(["ps", "-aq"]).success().stdout, "");
}

#[test]
fn only_a_root_that_is_thrown_away_goes_without_syncs() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let root = |arguments: &[&str]| {
        let mounts = daemon.keg(arguments.iter().chain(&[&*image, "cat", "/proc/mounts"]));
        let mounts = mounts.success().stdout;
        mounts.lines().find(|line| line.contains(" / overlay ")).unwrap_or_default().to_owned()
    };

    let thrown_away = root(&["run", "--rm"]);
    let kept = root(&["run", "--name", "kept"]);

    assert!(thrown_away.contains("volatile"), "{thrown_away}");
    assert!(!kept.contains("volatile") && kept.contains("upperdir"), "{kept}");
}

#[test]
fn run_pulls_an_image_that_is_not_here() {
    requires!(root);
    let registry = BadRegistry::new(Image::busybox(), |_, right| right);
    let image = format!("{}/busybox", registry.address());
    let daemon = Daemon::new();

    let outcome = daemon.keg(["run", "--rm", &image, "echo", "hello"]).success();

    assert_eq!(outcome.stdout, "hello\n");
    assert!(outcome.stderr.contains("Unable to find image"), "{outcome:?}");
}

#[test]
fn both_streams_and_the_exit_code_pass_through() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let script = "echo out; echo err >&2; exit 42";
    let outcome = daemon.keg(["run", "--rm", &image, "sh", "-c", script]);

    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(outcome.exit_code, 42);
}

#[test]
fn a_killed_command_gives_128_and_the_signal() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let outcome = daemon.keg(["run", "--rm", &image, "sh", "-c", "sh -c 'kill -9 $$'; exit $?"]);

    assert_eq!(outcome.exit_code, 137, "{outcome:?}");
}

#[test]
fn standard_input_reaches_the_command_with_i_and_only_then() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let with = daemon.keg_with_input("typed\n", ["run", "--rm", "-i", &image, "/probe", "echo"]);
    let without = daemon.keg_with_input("typed\n", ["run", "--rm", &image, "/probe", "echo"]);

    assert_eq!(with.success().stdout, "typed\nend of input\n");
    assert_eq!(without.success().stdout, "end of input\n");
}

#[test]
fn a_large_input_and_output_pass_through_unharmed() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let input: String = (0..200_000).map(|number| format!("{number}\n")).collect();

    let outcome = daemon.keg_with_input(&input, ["run", "--rm", "-i", &image, "cat"]).success();

    assert!(outcome.stdout == input, "{} of {} bytes", outcome.stdout.len(), input.len());
}

#[test]
fn environment_directory_user_and_host_name_are_those_asked_for() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let report: Report = daemon
        .keg([
            "run",
            "--rm",
            "-e",
            "A=1",
            "-e",
            "FROM_IMAGE=changed",
            "-w",
            "/etc",
            "-u",
            "keg",
            "--hostname",
            "inside",
            &image,
            "/probe",
            "report",
        ])
        .success()
        .json();

    assert_eq!(
        (report.env_value("A"), report.env_value("FROM_IMAGE")),
        (Some("1"), Some("changed"))
    );
    assert_eq!(report.cwd, "/etc");
    assert_eq!(report.identity.uids, [1000; 4]);
    assert!(report.identity.groups.contains(&50), "{:?}", report.identity);
    assert_eq!(report.hostname, "inside");
}

#[test]
fn without_flags_the_image_decides() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let report: Report = daemon.keg(["run", "--rm", &image, "/probe", "report"]).success().json();

    assert_eq!(report.env_value("FROM_IMAGE"), Some("yes"));
    assert_eq!(report.env_value("PATH"), Some("/usr/local/bin:/bin:/usr/bin"));
    assert_eq!(report.hostname.len(), 12, "{}", report.hostname);
}

#[test]
fn an_entry_point_takes_the_place_of_the_images() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let outcome = daemon.keg(["run", "--rm", "--entrypoint", "/bin/echo", &image, "a", "b"]);

    assert_eq!(outcome.success().stdout, "a b\n");
}

#[test]
fn a_volume_is_written_to_and_a_read_only_one_is_not() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let shared = daemon.scratch().directory("shared");
    fs::write(shared.join("in"), "from the host\n").unwrap();
    let volume = |mode: &str| format!("{}:/data{mode}", shared.display());

    let script = "cat /data/in; echo back > /data/out";
    let writable = daemon.keg(["run", "--rm", "-v", &volume(""), &image, "sh", "-c", script]);
    let read_only = daemon.keg(["run", "--rm", "-v", &volume(":ro"), &image, "touch", "/data/new"]);

    assert_eq!(writable.success().stdout, "from the host\n");
    assert_eq!(fs::read_to_string(shared.join("out")).unwrap(), "back\n");
    assert_ne!(read_only.exit_code, 0);
    assert!(read_only.stderr.contains("Read-only"), "{read_only:?}");
}

#[test]
fn net_none_has_loopback_only_and_net_host_has_the_hosts_interfaces() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let report = |network: &str| -> Report {
        let arguments = ["run", "--rm", "--net", network, &image, "/probe", "report"];
        daemon.keg(arguments).success().json()
    };

    let (none, shared) = (report("none"), report("host"));

    assert_eq!(none.interfaces.keys().collect::<Vec<_>>(), ["lo"]);
    let ours = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(shared.namespaces["net"], ours);
}

#[test]
fn d_prints_the_id_and_the_container_runs_on() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let id = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);

    assert_eq!(id.len(), 64, "{id}");
    daemon.wait_for_line("one", "ready");
    assert_eq!(daemon.inspect("one")["Id"], id.as_str());
    assert_eq!(daemon.inspect("one")["State"]["Status"], "running");
}

#[test]
fn a_read_only_root_filesystem_is_read_only() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let arguments = ["run", "--rm", "--read-only", &image, "/probe", "report"];
    let report: Report = daemon.keg(arguments).success().json();

    assert_eq!(report.root_write_error.as_deref(), Some("EROFS"));
}

#[test]
fn limits_hold() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let memory =
        ["run", "--rm", "-m", "32m", "--memory-swap", "32m", &image, "/probe", "eat", "64"];
    let forks = ["run", "--rm", "--pids-limit", "6", &image, "/probe", "fork", "20"];

    assert_eq!(daemon.keg(memory).exit_code, 137);
    assert_ne!(daemon.keg(forks).success().stdout, "forked 20\n");
}

#[test]
fn ten_containers_of_one_image_run_at_once_each_on_its_own() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let names: Vec<String> = (0..10).map(|number| format!("c{number}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let script = format!("echo {name} > /own; cat /own; sleep 1000");
            let arguments = ["--name", name, &image, "sh", "-c", &script].map(str::to_owned);
            let daemon = &daemon;
            scope.spawn(move || daemon.run_detached(arguments));
        }
    });

    for name in &names {
        daemon.wait_for_line(name, name);
    }
    let listed = daemon.keg(["ps", "-q"]).success().stdout;
    assert_eq!(listed.lines().count(), 10, "{listed}");
}
