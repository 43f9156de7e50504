//! `ps`, `images`, `inspect`, `logs`, `start`, `stop`, `kill`, `rm`, `version`, `info`.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, Outcome, requires, wait_until};

#[test]
fn ps_shows_what_runs_and_with_a_what_has_ended() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "running", &image, "/probe", "pause"]);
    let _ = daemon.keg(["run", "--name", "ended", &image, "sh", "-c", "exit 3"]);

    let running = daemon.keg(["ps"]).success().stdout;
    let all = daemon.keg(["ps", "-a"]).success().stdout;

    let header = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
    assert!(header.iter().all(|column| running.contains(column)), "{running}");
    assert!(running.contains("running") && !running.contains("ended"), "{running}");
    let line = |name: &str| all.lines().find(|line| line.ends_with(name)).unwrap_or_default();
    assert!(line("running").contains("Up "), "{all}");
    assert!(line("ended").contains("Exited (3)"), "{all}");
}

#[test]
fn inspect_tells_what_docker_tells() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let id = daemon.run_detached(["--name", "one", "-e", "A=1", &image, "/probe", "pause"]);

    let container = daemon.inspect("one");

    assert_eq!(container["Id"], id.as_str());
    assert_eq!(container["Name"], "/one");
    assert_eq!(container["Config"]["Image"], image.as_str());
    assert_eq!(container["State"]["Running"], true);
    assert!(container["Config"]["Env"].as_array().unwrap().contains(&"A=1".into()), "{container}");
    assert_eq!(container["Path"], "/probe");
    assert_eq!(container["Args"], serde_json::json!(["pause"]));
}

#[test]
fn inspect_takes_a_template() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);

    let outcome = daemon.keg(["inspect", "-f", "{{.State.Status}} {{.Name}}", "one"]);

    assert_eq!(outcome.success().stdout, "running /one\n");
}

#[test]
fn fields_that_are_empty_print_as_dockers_do() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let run = ["--name", "one", "--network", "none", &image, "/probe", "pause"];
    let _ = daemon.run_detached(run);

    for (object, template, printed) in [
        ("one", "{{.HostConfig.Binds}} {{json .HostConfig.CapAdd}}", "[] null"),
        ("one", "{{.HostConfig.IpcMode}} {{.HostConfig.ShmSize}}", "private 67108864"),
        ("one", "{{.Config.Healthcheck}} {{.Config.User}}.", "<nil> ."),
        ("one", "{{index .HostConfig.MaskedPaths 0}}", "/proc/acpi"),
        ("one", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}", "none"),
        (&image, "{{.Config.User}}.{{.Config.StopSignal}}.{{.Config.Volumes}}", "..map[]"),
        (&image, "{{if eq .Config.User \"\"}}root{{end}} {{len .Config.OnBuild}}", "root 0"),
        (&image, "{{index .Config.Labels \"none\"}}.", "."),
    ] {
        let outcome = daemon.keg(["inspect", "-f", template, object]).success();
        assert_eq!(outcome.stdout.trim_end(), printed, "{template}");
    }
    let info = daemon.keg(["info", "-f", "{{.Driver}} {{len .Plugins.Log}} {{.SystemTime}}"]);
    assert!(info.success().stdout.starts_with("overlayfs 3 2"));
}

#[test]
fn inspect_tells_what_makes_another_container_of_the_same_kind() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let run = ["--name", "one", "-t", "-v", "/own", "-e", "A=1", "-p", "127.0.0.1::80"];
    let _ = daemon.run_detached(run.into_iter().chain([&*image, "sleep", "1000"]));
    let _ = daemon.keg(["exec", "one", "sh", "-c", "echo kept >/file"]).success();
    let _ = daemon.keg(["create", "--name", "joined", "-i", &image]).success();

    let told = |template: &str, name: &str| {
        daemon.keg(["inspect", "-f", template, name]).success().stdout.trim_end().to_owned()
    };

    let streams = "{{.Config.AttachStdin}} {{.Config.AttachStdout}} {{.Config.AttachStderr}}";
    assert_eq!(told(streams, "one"), "false false false");
    assert_eq!(told(streams, "joined"), "true true true");
    assert_eq!(
        told("{{json .Config.ExposedPorts}} {{json .Config.Volumes}}", "one"),
        r#"{"80/tcp":{}} {"/own":{}}"#
    );
    assert_eq!(told("{{json .Config.Cmd}}", "one"), r#"["sleep","1000"]"#);
    let env = told("{{json .Config.Env}}", "one");
    assert!(env.contains("A=1") && !env.contains("HOSTNAME") && !env.contains("TERM"), "{env}");
    let of_image = told("{{json .Config.Cmd}}", &image);
    assert_eq!(told("{{json .Config.Cmd}}", "joined"), of_image);
    for directory in ["UpperDir", "MergedDir"] {
        let path = told(&format!("{{{{.GraphDriver.Data.{directory}}}}}/file"), "one");
        let kept = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(kept, "kept\n");
    }
    let platform = daemon.keg(["ps", "--format", "{{.Platform}}"]).success().stdout;
    assert_eq!(platform, told("{{.Os}}/{{.Architecture}}\n", &image) + "\n");
}

#[test]
fn the_root_of_a_container_is_in_no_table_of_mounts_but_its_own() {
    requires!(root, overlay_descriptors);
    let (daemon, image) = Daemon::with_busybox();
    let id = daemon.run_detached([&*image, "sleep", "1000"]);

    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();

    assert!(!mounts.contains(&format!("{}/rootfs", id.trim())), "{mounts}");
}

#[test]
fn system_df_tells_programs_of_each_object() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let id = daemon
        .run_detached(["--name", "one", "-v", "data:/d", "-l", "a=b", &image, "/probe", "pause"]);

    let json = daemon.keg(["system", "df", "-v", "--format", "json"]).success().stdout;

    let told: serde_json::Value = serde_json::from_str(&json).unwrap();
    let of = |pointer: &str| told.pointer(pointer).and_then(serde_json::Value::as_str);
    assert_eq!(of("/Containers/0/ID"), Some(&*id), "{told}");
    assert!(of("/Containers/0/Labels").is_some_and(|labels| labels.contains("a=b")), "{told}");
    assert_eq!(of("/Containers/0/Mounts"), Some("data"), "{told}");
    assert!(of("/Containers/0/Status").is_some_and(|status| status.starts_with("Up ")), "{told}");
    assert_eq!(of("/Volumes/0/Links"), Some("1"), "{told}");
    assert_eq!(of("/Volumes/0/Driver"), Some("local"), "{told}");
    assert!(of("/Images/0/ID").is_some_and(|id| id.starts_with("sha256:")), "{told}");
    assert_eq!(told["BuildCache"], serde_json::json!([]), "{told}");
}

#[test]
fn an_id_may_be_shortened() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let id = daemon.run_detached([&image, "/probe", "pause"].map(|s: &str| s.to_owned()));

    assert_eq!(daemon.inspect(&id[..6])["Id"], id.as_str());
}

#[test]
fn logs_show_both_streams_and_the_tail() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let script = "seq 1 20; echo err >&2";
    let _ = daemon.keg(["run", "--name", "one", &image, "sh", "-c", script]).success();

    let all = daemon.keg(["logs", "one"]).success();
    let tail = daemon.keg(["logs", "--tail", "3", "one"]).success();

    let numbers: Vec<u32> = all.stdout.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=20).collect::<Vec<u32>>());
    assert_eq!(all.stderr, "err\n");
    assert_eq!(tail.stdout.lines().count() + tail.stderr.lines().count(), 3, "{tail:?}");
}

#[test]
fn logs_follow_until_the_container_ends() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "count", "10", "50"]);

    let followed = daemon.keg(["logs", "-f", "one"]).success();

    let numbers: Vec<u32> = followed.stdout.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=50).collect::<Vec<u32>>());
}

#[test]
fn stop_asks_first_and_kills_after_the_grace_period() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "polite", &image, "/probe", "pause"]);
    let _ = daemon.run_detached(["--name", "stubborn", &image, "/probe", "stubborn"]);
    daemon.wait_for_line("polite", "ready");
    daemon.wait_for_line("stubborn", "ready");

    let _ = daemon.keg(["stop", "-t", "1", "polite", "stubborn"]).success();

    assert_eq!(daemon.inspect("polite")["State"]["ExitCode"], 0);
    assert_eq!(daemon.inspect("stubborn")["State"]["ExitCode"], 137);
}

#[test]
fn kill_sends_the_signal_asked_for() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "signals"]);
    daemon.wait_for_line("one", "ready");

    let _ = daemon.keg(["kill", "-s", "USR1", "one"]).success();

    daemon.wait_for_line("one", "SIGUSR1");
    let _ = daemon.keg(["kill", "one"]).success();
    let code = daemon.keg(["wait", "one"]).success().stdout;
    assert_eq!(code, "137\n");
}

#[test]
fn an_ended_container_starts_again_with_its_files() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let script = "echo once >> /count; wc -l < /count";
    let _ = daemon.keg(["run", "--name", "one", &image, "sh", "-c", script]).success();

    let again = daemon.keg(["start", "-a", "one"]).success();

    assert_eq!(again.stdout.trim(), "2");
}

#[test]
fn rm_takes_the_container_and_its_files_away() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);
    let pid = daemon.pid_of("one");

    let _ = daemon.keg(["rm", "-f", "one"]).success();

    assert_eq!(daemon.keg(["ps", "-aq"]).success().stdout, "");
    wait_until("the process is gone", PATIENCE, || {
        nix::sys::signal::kill(pid, None) == Err(nix::errno::Errno::ESRCH)
    });
    let left = std::fs::read_dir(daemon.root().join("containers")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
    let _ = daemon.keg(["rmi", &image]).success();
}

#[test]
fn version_and_info_tell_of_every_part() {
    requires!(root);
    let daemon = Daemon::new();

    let version = daemon.keg(["version"]).success().stdout;
    let info = daemon.keg(["info"]).success().stdout;

    for part in ["Client", "Server", "containerd-shim-keg-v2", "keg-runtime"] {
        assert!(version.contains(part), "no {part}: {version}");
    }
    assert!(info.contains(&daemon.root().display().to_string()), "{info}");
}

#[test]
fn import_makes_an_image_of_an_archive_with_the_changes_asked_for() {
    requires!(root);
    let daemon = Daemon::new();
    let rootfs = daemon.scratch().directory("rootfs");
    keg_fixtures::bundle::fill_rootfs(&rootfs);
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(false);
    archive.append_dir_all(".", &rootfs).unwrap();
    let archive = daemon.scratch().file("rootfs.tar", archive.into_inner().unwrap());

    let change = "CMD [\"echo\", \"imported\"]";
    let import = ["import", "-c", change, archive.to_str().unwrap(), "mine:1"];
    let _ = daemon.keg(import).success();
    let outcome: Outcome = daemon.keg(["run", "--rm", "mine:1"]);

    assert_eq!(outcome.success().stdout, "imported\n");
}
