//! What a container sees of the flags that people use most: each is given, and looked for inside.

use keg_fixtures::{Daemon, Machine, requires};

/// Flags, what looks for their effect inside, and what it prints. `{dir}` is a directory of the
/// host that holds the files `file` ("kept") and `env` ("B=2").
const INSIDE: [(&str, &str, &str); 38] = [
    ("-e A=1", "echo $A", "1"),
    ("--env FROM_IMAGE=own", "echo $FROM_IMAGE", "own"),
    ("--env-file {dir}/env", "echo $B", "2"),
    ("-w /etc", "pwd", "/etc"),
    ("-u 1000:50", "id -u; id -g", "1000 50"),
    ("-u keg", "id -u", "1000"),
    ("--group-add 77", "grep ^Groups: /proc/self/status | grep -c -w 77", "1"),
    ("-h inside", "cat /proc/sys/kernel/hostname", "inside"),
    ("--domainname example.org", "cat /proc/sys/kernel/domainname", "example.org"),
    ("-v {dir}:/mnt", "cat /mnt/file; echo new > /mnt/new && cat /mnt/new", "kept new"),
    ("-v {dir}:/mnt:ro", "cat /mnt/file; echo x > /mnt/x || echo refused", "kept refused"),
    (
        "--mount type=bind,source={dir},target=/mnt,readonly",
        "cat /mnt/file; echo x > /mnt/x || echo refused",
        "kept refused",
    ),
    ("-v named:/mnt", "grep -c ' /mnt ' /proc/mounts; echo x > /mnt/x && cat /mnt/x", "1 x"),
    ("--tmpfs /t:size=1m", "grep ' /t tmpfs ' /proc/mounts | grep -c size=1024k", "1"),
    ("--read-only", "echo x > /x || echo refused", "refused"),
    ("--shm-size 1m", "grep ' /dev/shm ' /proc/mounts | grep -c size=1024k", "1"),
    ("--ulimit nofile=64:128", "ulimit -Sn; ulimit -Hn", "64 128"),
    ("--sysctl net.ipv4.ip_forward=1", "cat /proc/sys/net/ipv4/ip_forward", "1"),
    ("--cap-drop ALL", "grep -c 'CapBnd:.0*$' /proc/self/status", "1"),
    (
        "--cap-drop ALL --cap-add SYS_TIME",
        "grep CapBnd /proc/self/status",
        "CapBnd: 0000000002000000",
    ),
    ("--privileged", "grep Seccomp: /proc/self/status", "Seccomp: 0"),
    ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status", "Seccomp: 0"),
    ("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs: 1"),
    ("-m 64m", "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes || cat memory.max", "67108864"),
    (
        "--cpus 0.5",
        "cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us || { read quota _ < cpu.max; echo $quota; }",
        "50000",
    ),
    ("--cpuset-cpus 0", "grep Cpus_allowed_list /proc/self/status", "Cpus_allowed_list: 0"),
    ("--pids-limit 20", "cd /sys/fs/cgroup; cat pids/pids.max || cat pids.max", "20"),
    ("--init", "cat /proc/1/comm", "keg-init"),
    ("--oom-score-adj 500", "cat /proc/self/oom_score_adj", "500"),
    ("--device /dev/zero:/dev/nought", "test -c /dev/nought && echo there", "there"),
    ("--userns host", "read _ outside _ < /proc/self/uid_map; echo $outside", "0"),
    ("--network none", "ls /sys/class/net", "lo"),
    ("--add-host db:10.9.9.9", "grep -c '^10.9.9.9.db$' /etc/hosts", "1"),
    ("--dns 192.0.2.53", "cat /etc/resolv.conf | grep nameserver", "nameserver 192.0.2.53"),
    ("--dns-search example.org", "grep search /etc/resolv.conf", "search example.org"),
    ("--mac-address 02:00:00:00:00:07", "cat /sys/class/net/eth0/address", "02:00:00:00:00:07"),
    ("--network front --ip 10.77.0.7", "grep -c '^10.77.0.7' /etc/hosts", "1"),
    ("--security-opt systempaths=unconfined", "grep -c ' /proc/sys ' /proc/mounts", "0"),
];

#[test]
fn the_most_used_flags_of_run_are_seen_inside() {
    requires!(root, user_namespaces);
    let machine = Machine::new();
    let (daemon, image) = Daemon::on(&machine, "");
    let dir = daemon.scratch().directory("shared");
    for (name, content) in [("file", "kept\n"), ("env", "B=2\n")] {
        std::fs::write(dir.join(name), content).unwrap();
    }
    let dir = dir.to_str().unwrap();
    let _ = daemon.keg(["network", "create", "--subnet", "10.77.0.0/24", "front"]).success();

    for (flags, script, expected) in INSIDE {
        let flags = flags.replace("{dir}", dir);
        let script = format!("{{ {script}; }} 2>/dev/null");
        let command = [image.as_str(), "sh", "-c", &script];
        let ran = daemon.keg(["run", "--rm"].into_iter().chain(flags.split(' ')).chain(command));

        let printed: Vec<&str> = ran.stdout.split_whitespace().collect();
        assert_eq!(printed.join(" "), expected, "{flags}: {ran:?}");
    }
}

#[test]
fn namespaces_of_the_host_are_the_hosts() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    for (flag, namespace) in
        [("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--cgroupns", "cgroup")]
    {
        let path = format!("/proc/self/ns/{namespace}");
        let of_host = std::fs::read_link(&path).unwrap().display().to_string();
        let seen = |flags: &[&str]| {
            let command = [image.as_str(), "/bin/busybox", "readlink", &path];
            daemon.keg(["run", "--rm"].iter().chain(flags).chain(&command)).success().stdout
        };

        assert_eq!(seen(&[flag, "host"]).trim(), of_host, "{flag}");
        assert_ne!(seen(&[]).trim(), of_host, "{flag}");
    }
}

#[test]
fn where_output_is_kept_is_chosen_and_told() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let flags = ["--log-opt", "max-size=8k", "--log-opt", "max-file=2", "--log-opt", "labels=tier"];
    let lines = ["--name", "much", "-l", "tier=db", &image, "/probe", "lines", "1000", "100"];
    let _ = daemon.keg(["run"].iter().chain(&flags).chain(&lines)).success();
    let _ = daemon.keg(["run", "--name", "none", "--log-driver", "none", &image, "echo", "x"]);

    let kept = daemon.keg(["logs", "much"]).success().stdout;
    let last = kept.lines().last().unwrap().to_owned();
    assert!(kept.len() < 32 << 10 && kept.len() > 4 << 10, "{} bytes are kept", kept.len());
    let told = daemon.keg(["logs", "--details", "-n", "1", "much"]).success().stdout;
    assert_eq!(told.trim_end(), format!("tier=db {last}"));
    let refused = daemon.keg(["logs", "none"]);
    assert!(refused.stderr.contains("--log-driver none"), "{refused:?}");
    assert_eq!(daemon.inspect("none")["HostConfig"]["LogConfig"]["Type"], "none");
    assert_eq!(daemon.inspect("none")["State"]["ExitCode"], 0);
    let wrong = daemon.keg(["run", "--rm", "--log-driver", "syslog", &image, "true"]);
    assert_eq!(wrong.exit_code, 125);
    assert!(wrong.stderr.contains("json-file"), "{wrong:?}");
}

#[test]
fn logs_are_cut_by_moments_in_every_form() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.keg(["run", "--name", "one", &image, "echo", "here"]).success();
    let stamped = daemon.keg(["logs", "-t", "one"]).success().stdout;
    let moment = stamped.split(' ').next().unwrap().to_owned();
    let lines = |flags: &[&str]| {
        daemon.keg(["logs"].iter().chain(flags).chain(&["one"])).success().stdout.lines().count()
    };

    for (flags, expected) in [
        (["--since", "1h"], 1),
        (["--since", "1m30s"], 1),
        (["--since", "2001-02-03"], 1),
        (["--since", "2001-02-03T04:05:06"], 1),
        (["--since", "2001-02-03T04:05:06.789Z"], 1),
        (["--since", "2001-02-03T04:05:06+01:00"], 1),
        (["--since", "981173106"], 1),
        (["--since", "981173106.5"], 1),
        (["--since", &moment], 1),
        (["--until", &moment], 1),
        (["--until", "1h"], 0),
        (["--until", "981173106"], 0),
        (["--since", "2100-01-01"], 0),
    ] {
        assert_eq!(lines(&flags), expected, "{flags:?}");
    }
    assert_ne!(daemon.keg(["logs", "--since", "soon", "one"]).exit_code, 0);
}

#[test]
fn every_limit_can_be_changed_while_the_container_runs() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", "-m", "64m", &image, "/probe", "pause"]);
    daemon.wait_for_line("one", "ready");
    let inside = |script: &str| {
        let script = format!("cd /sys/fs/cgroup; {{ {script}; }} 2>/dev/null");
        daemon.keg(["exec", "one", "sh", "-c", &script]).success().stdout.trim().to_owned()
    };

    let flags = "update --cpu-quota 30000 --cpu-period 50000 --cpuset-mems 0 --pids-limit 30 one";
    let _ = daemon.keg(flags.split(' ')).success();
    let _ = daemon.keg("update -m 96m --memory-swap 192m one".split(' ')).success();

    assert_eq!(inside("cat pids/pids.max || cat pids.max"), "30");
    assert_eq!(
        inside("cat memory/memory.limit_in_bytes || cat memory.max"),
        (96_u64 << 20).to_string()
    );
    let cpu = "cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us || cat cpu.max";
    assert_eq!(inside(cpu).split_whitespace().collect::<Vec<_>>(), ["30000", "50000"]);
    let host = daemon.inspect("one")["HostConfig"].clone();
    assert_eq!((&host["CpuQuota"], &host["CpusetMems"]), (&30000.into(), &"0".into()));
    assert_eq!(host["Memory"], 96_u64 << 20);
}

#[test]
fn processes_are_listed_in_the_columns_that_are_asked_for() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);
    daemon.wait_for_line("one", "ready");
    let pid = daemon.pid_of("one");

    let table = daemon.keg(["top", "one", "-o", "pid,args"]).success().stdout;
    let refused = daemon.keg(["top", "one", "-o", "args"]);

    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["PID", "COMMAND"]);
    assert_eq!(lines[1], [pid.to_string().as_str(), "/probe", "pause"]);
    assert_eq!(lines.len(), 2, "{table}");
    assert!(refused.stderr.contains("PID"), "{refused:?}");
    assert_ne!(daemon.keg(["top", "one", "--no-such-option"]).exit_code, 0);
}

#[test]
fn files_of_a_file_system_without_id_maps_are_seen_and_that_is_said() {
    requires!(root, user_namespaces);
    let (daemon, image) = Daemon::with_busybox();

    let flags = ["run", "--rm", "-v", "/proc/sys:/host:ro", &image];
    let script = "cat /host/kernel/ostype; stat -c %u /host/kernel/ostype";
    let ran = daemon.keg(flags.iter().chain(&["sh", "-c", script])).success();

    assert_eq!(ran.stdout, "Linux\n65534\n");
    assert!(ran.stderr.contains("/proc/sys is on proc"), "{ran:?}");
}

#[test]
fn labels_that_the_host_cannot_give_are_refused() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let run = |option: &str| daemon.keg(["run", "--rm", "--security-opt", option, &image, "true"]);

    for harmless in ["apparmor=unconfined", "label=disable"] {
        let _ = run(harmless).success();
    }
    for wanted in ["apparmor=keg-no-such-profile", "label=colour:red"] {
        let refused = run(wanted);
        assert_eq!(refused.exit_code, 125, "{refused:?}");
        assert!(refused.stderr.contains(wanted), "{refused:?}");
    }
}
