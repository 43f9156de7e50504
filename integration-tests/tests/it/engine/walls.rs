//! Root in a default container: what it can neither read, write, signal nor see.
//!
//! A test per wall: files, processes, users, network. Each asks of the host and of another container,
//! and each asks first for something of its own, so that a container that can do nothing at all does
//! not pass.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use keg_fixtures::report::Attempt;
use keg_fixtures::{Daemon, requires};

/// A daemon, with `victim` and `intruder` running in it.
fn with_two() -> (Daemon, String) {
    let (daemon, image) = Daemon::with_busybox();
    for name in ["victim", "intruder"] {
        let _ = daemon.run_detached(["--name", name, &image, "/probe", "stubborn"]);
        daemon.wait_for_line(name, "ready");
    }
    (daemon, image)
}

/// What the intruder tries fails, all of it.
#[track_caller]
fn assert_refused(daemon: &Daemon, attempts: &[String]) {
    let line = ["exec", "intruder", "/probe", "try"].map(str::to_owned);
    let tried: Vec<Attempt> = daemon.keg(line.iter().chain(attempts)).success().json();
    for attempt in tried {
        assert!(attempt.errno.is_some(), "{} worked", attempt.what);
    }
}

/// What the intruder tries works, all of it.
#[track_caller]
fn assert_works(daemon: &Daemon, attempts: &[&str]) {
    let line = ["exec", "intruder", "/probe", "try"];
    let tried: Vec<Attempt> = daemon.keg(line.iter().chain(attempts)).success().json();
    for attempt in tried {
        assert_eq!(attempt.errno, None, "{}", attempt.what);
    }
}

fn sh(daemon: &Daemon, container: &str, script: &str) -> String {
    daemon.keg(["exec", container, "sh", "-c", script]).stdout
}

#[test]
fn files_of_the_host_and_of_another_container_are_out_of_reach() {
    requires!(root);
    let (daemon, image) = with_two();
    let secret = daemon.scratch().file("host-secret", "of the host");
    let _ = sh(&daemon, "victim", "echo theirs >/victim-secret; echo changed >>/etc/passwd");
    let victim = daemon.pid_of("victim");
    let mut attempts: Vec<String> = ["read", "write", "unlink"]
        .iter()
        .map(|verb| format!("{verb}:{}", secret.display()))
        .collect();
    attempts.push(format!("list:{}", daemon.root().display()));
    attempts.push(format!("connect-unix:{}", daemon.socket().display()));
    for pid in ["self", "1", &victim.to_string()] {
        attempts.push(format!("read:/proc/{pid}/root{}", secret.display()));
        attempts.push(format!("read:/proc/{pid}/root/victim-secret"));
        attempts.push(format!("read:/proc/{pid}/cwd/victim-secret"));
    }
    attempts.extend(
        ["read:/../../../victim-secret", "mknod:/disk:b:8:0", "read:/dev/mem", "read:/dev/sda"]
            .map(str::to_owned),
    );

    assert_works(&daemon, &["create:/own", "read:/etc/passwd", "write:/etc/passwd"]);
    assert_refused(&daemon, &attempts);

    assert_eq!(fs::read_to_string(&secret).unwrap(), "of the host");
    let found = sh(&daemon, "intruder", "busybox find / -xdev -name '*-secret'");
    assert_eq!(found, "");
    // What one writes over the image's file is that container's alone.
    assert!(sh(&daemon, "victim", "cat /etc/passwd").contains("changed"));
    assert!(!sh(&daemon, "intruder", "cat /etc/passwd").contains("changed"));
    let fresh = daemon.keg(["run", "--rm", &image, "cat", "/etc/passwd"]).success();
    assert!(!fresh.stdout.contains("changed"), "{fresh:?}");
}

#[test]
fn processes_of_the_host_and_of_another_container_are_neither_seen_nor_signalled() {
    requires!(root);
    let (daemon, _) = with_two();
    let theirs = [daemon.pid(), daemon.pid_of("victim"), daemon.pid_of("intruder")];
    let attempts: Vec<String> = theirs
        .iter()
        .flat_map(|pid| {
            [
                format!("kill:{pid}:0"),
                format!("kill:{pid}:SIGKILL"),
                format!("read:/proc/{pid}/environ"),
                format!("read:/proc/{pid}/mem"),
                format!("list:/proc/{pid}"),
            ]
        })
        .collect();

    assert_works(&daemon, &["kill:1:0", "list:/proc/1", "read:/proc/1/environ"]);
    assert_refused(&daemon, &attempts);
    // Every process that it may signal: its own only.
    let _ = daemon.keg(["exec", "intruder", "busybox", "kill", "-9", "-1"]);

    let seen = sh(&daemon, "intruder", "cat /proc/[0-9]*/cmdline");
    assert!(seen.contains("stubborn"), "{seen:?}");
    assert!(!seen.contains("kegd") && !seen.contains("shim"), "{seen:?}");
    assert_eq!(seen.matches("stubborn").count(), 1, "{seen:?}");
    assert_eq!(daemon.pid_of("victim"), theirs[1]);
    assert!(daemon.keg(["exec", "victim", "true"]).exit_code == 0);
}

#[test]
fn root_inside_is_nobody_to_the_host_and_to_another_container() {
    requires!(root, user_namespaces);
    let (daemon, _) = with_two();
    let uid = |name: &str| fs::metadata(format!("/proc/{}", daemon.pid_of(name))).unwrap().uid();
    let (victim, intruder) = (uid("victim"), uid("intruder"));
    let _ = sh(&daemon, "intruder", "touch /mine");
    let attempts: Vec<String> = [victim, intruder, 65_536, 4_000_000_000]
        .iter()
        .flat_map(|id| {
            [format!("setuid:{id}"), format!("setgid:{id}"), format!("chown:/mine:{id}")]
        })
        .chain(["unshare:user", "unshare:mnt"].map(str::to_owned))
        .collect();

    assert_works(&daemon, &["chown:/mine:65535", "chown:/mine:0", "setuid:1000"]);
    assert_refused(&daemon, &attempts);

    assert!(victim >= 65_536 && intruder >= 65_536, "{victim} {intruder}");
    assert!(victim.abs_diff(intruder) >= 65_536, "{victim} {intruder}");
    let groups = fs::read_to_string(format!("/proc/{}/status", daemon.pid_of("intruder"))).unwrap();
    let groups = groups.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap().to_owned();
    let of_host = groups.split_whitespace().filter(|id| id.parse::<u32>().unwrap() < 65_536);
    assert_eq!(of_host.count(), 0, "groups of the host: {groups}");
}

#[test]
fn the_network_of_the_host_and_of_another_container_is_out_of_reach() {
    requires!(root);
    let (daemon, _) = with_two();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let name = format!("keg-wall-{}", std::process::id());
    let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
    let _unix = UnixListener::bind_addr(&abstract_name).unwrap();
    let _ = daemon.keg(["exec", "-d", "victim", "/probe", "serve", "8080", "theirs"]).success();
    keg_fixtures::wait_until("the victim serves", keg_fixtures::wait::PATIENCE, || {
        daemon.keg(["exec", "victim", "/probe", "try", "connect:8080"]).stdout.contains("null")
    });
    let attempts = [format!("connect:{port}"), format!("connect-unix:@{name}")]
        .into_iter()
        .chain(["connect:8080", "write:/proc/sys/net/ipv4/ip_forward"].map(str::to_owned))
        .collect::<Vec<_>>();

    // Its own port of that number is free.
    assert_works(&daemon, &["bind:8080", &format!("bind:{port}")]);
    assert_refused(&daemon, &attempts);

    let sockets = sh(&daemon, "intruder", "cat /proc/net/tcp /proc/net/udp /proc/net/unix");
    assert!(sockets.lines().count() >= 3, "{sockets}");
    assert!(!sockets.contains(&name), "{sockets}");
    assert!(!sockets.contains("0100007F:"), "somebody else's socket is seen: {sockets}");
    let interfaces = sh(&daemon, "intruder", "ls /sys/class/net");
    assert_eq!(interfaces.trim(), "lo");
}
