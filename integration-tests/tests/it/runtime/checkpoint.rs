//! checkpoint and restore – as runc has them, by CRIU.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use keg_fixtures::terminal::ConsoleSocket;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Container, Outcome, Scratch, Status, Tree, requires, wait_until};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;

use super::in_namespaces;

/// Counts in memory: a process that started anew would begin at 1.
fn counting() -> Bundle {
    Bundle::probe().args(["count", "10"])
}

fn started(bundle: Bundle, host: keg_fixtures::Host) -> Container {
    let container = host.runtime().create(bundle);
    container.start();
    container
}

fn checkpoint(container: &Container, images: &Path, flags: &[&str]) -> Outcome {
    let mut args: Vec<&OsStr> =
        vec!["checkpoint".as_ref(), "--image-path".as_ref(), images.as_os_str()];
    args.extend(flags.iter().map(OsStr::new));
    args.push(container.id().as_ref());
    container.runtime().call(args)
}

fn restore(container: &Container, images: &Path, flags: &[&str]) -> Container {
    let flags: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
    let restored = container.runtime().restore_with(container, images, &flags);
    restored.unwrap_or_else(|outcome| panic!("restore failed: {outcome:#?}"))
}

fn numbers(container: &Container) -> Vec<u64> {
    container.stdout().lines().filter_map(|line| line.parse().ok()).collect()
}

/// Waits until a restored container has counted on from where the first one ended, in the same file.
fn assert_counts_on(restored: &Container) {
    let last = *numbers(restored).last().unwrap();
    restored.wait_for_line(&(last + 5).to_string());
    let all = numbers(restored);
    assert!(all.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{all:?}");
}

#[test]
fn a_restored_container_goes_on_where_it_was() {
    let host = requires!(root, criu);
    let container = started(counting(), host);
    container.wait_for_line("5");
    let scratch = Scratch::new();
    let images = scratch.join("images");

    checkpoint(&container, &images, &[]).success();
    assert_eq!(container.wait_exit(PATIENCE), 137);
    let state = container.runtime().call(["state", container.id()]);
    let left = container.cgroups();
    let restored = restore(&container, &images, &[]);

    assert_ne!(state.exit_code, 0, "the container is still there: {state:?}");
    assert!(left.is_empty(), "{left:?}");
    assert_counts_on(&restored);
    assert_eq!(restored.state().status, Status::Running);
    assert_eq!(restored.state().pid, restored.init().as_raw());
    assert!(!restored.cgroups().is_empty());
    let seen = restored.exec(&["/bin/sh", "-c", "cat /proc/1/cmdline"]).success();
    assert!(seen.stdout.starts_with("/probe"), "{seen:?}");
    assert_eq!(restored.kill(Signal::SIGKILL).exit_code, 0);
    assert_eq!(restored.wait_exit(PATIENCE), 137);
    restored.delete(false).success();
}

#[test]
fn a_container_that_is_left_running_goes_on_beside_its_checkpoint() {
    let host = requires!(root, criu);
    let container = started(counting(), host);
    container.wait_for_line("3");
    let scratch = Scratch::new();

    checkpoint(&container, &scratch.join("images"), &["--leave-running"]).success();
    let next = numbers(&container).last().unwrap() + 3;
    container.wait_for_line(&next.to_string());

    assert_eq!(container.state().status, Status::Running);
    assert!(scratch.join("images/inventory.img").is_file());
}

#[test]
fn a_paused_container_can_be_checkpointed() {
    let host = requires!(root, criu);
    let container = started(counting(), host);
    container.wait_for_line("3");
    container.runtime().call(["pause", container.id()]).success();
    let scratch = Scratch::new();
    let images = scratch.join("images");

    checkpoint(&container, &images, &[]).success();
    let restored = restore(&container, &images, &[]);

    assert_counts_on(&restored);
}

#[test]
fn bind_mounts_come_from_the_host_again_and_tmpfs_keeps_its_content() {
    let host = requires!(root, criu);
    let scratch = Scratch::new();
    let volume = scratch.directory("volume");
    let file = scratch.file("file", "before");
    let script = "echo kept >/mem/file; echo ready; while read -r line </volume/fifo; do cat /mem/file /etc/file; done";
    nix::unistd::mkfifo(&volume.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let bundle = Bundle::busybox()
        .sh(script)
        .mount("/volume", "bind", volume.to_str().unwrap(), &["rbind"])
        .mount("/mem", "tmpfs", "tmpfs", &[])
        .mount("/etc/file", "bind", file.to_str().unwrap(), &["bind", "ro"])
        // Relative sources begin in the bundle.
        .mount("/bundle", "bind", ".", &["bind"]);
    let container = started(bundle, host);
    container.wait_for_line("ready");
    let images = scratch.join("images");

    checkpoint(&container, &images, &[]).success();
    fs::write(&file, "after\n").unwrap();
    let restored = restore(&container, &images, &[]);
    fs::write(volume.join("fifo"), "go on\n").unwrap();

    restored.wait_for_line("after");
    assert_eq!(restored.stdout(), "ready\nkept\nafter\n");
}

/// CRIU restores into a time namespace of its own, and could not restore processes of two.
#[test]
fn what_is_executed_in_a_restored_container_is_in_the_next_checkpoint() {
    let host = requires!(root, criu);
    let container = started(counting(), host);
    container.wait_for_line("5");
    let scratch = Scratch::new();
    let [first, second] = ["first", "second"].map(|name| scratch.join(name));
    checkpoint(&container, &first, &[]).success();
    assert_eq!(container.wait_exit(PATIENCE), 137);
    let restored = restore(&container, &first, &[]);
    restored.exec(&["/bin/sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 &"]).success();

    checkpoint(&restored, &second, &[]).success();
    assert_eq!(restored.wait_exit(PATIENCE), 137);
    let again = restore(&restored, &second, &[]);

    let ps = again.runtime().call(["ps", "--format", "json", again.id()]).success();
    assert_eq!(ps.json::<Vec<i32>>().len(), 2, "{ps:?}");
    assert_counts_on(&again);
}

#[test]
fn a_terminal_is_restored_and_handed_over() {
    let host = requires!(root, criu);
    let script = "echo ready; while read -r line; do echo \"got $line\"; done";
    let (container, terminal) = host.runtime().create_on_terminal(Bundle::busybox().sh(script));
    container.start();
    terminal.expect("ready");
    let scratch = Scratch::new();
    let images = scratch.join("images");

    checkpoint(&container, &images, &[]).success();
    drop(terminal);
    let socket = ConsoleSocket::new();
    let restored =
        restore(&container, &images, &["--console-socket", socket.path().to_str().unwrap()]);
    let terminal = socket.receive(PATIENCE);
    terminal.type_text("word\n");

    terminal.expect("got word");
    assert_eq!(restored.state().status, Status::Running);
}

#[test]
fn an_established_connection_survives() {
    let host = requires!(root, criu);
    let scratch = Scratch::new();
    // Which the container joins.
    in_namespaces(CloneFlags::CLONE_NEWNET, || {
        let tid = nix::unistd::gettid();
        let network = format!("/proc/{}/task/{tid}/ns/net", std::process::id());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let bundle = Bundle::busybox()
            .command(["/bin/busybox", "nc", "127.0.0.1", &port, "-e", "/bin/cat"])
            .namespace("network", Some(Path::new(&network)));
        let container = started(bundle, host);
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut echo = |text: &str| {
            peer.write_all(text.as_bytes()).unwrap();
            let mut answer = vec![0; text.len()];
            peer.read_exact(&mut answer).unwrap();
            String::from_utf8(answer).unwrap()
        };
        assert_eq!(echo("before"), "before");
        let images = scratch.join("images");

        checkpoint(&container, &images, &["--tcp-established"]).success();
        let _restored = restore(&container, &images, &["--tcp-established"]);

        assert_eq!(echo("after"), "after");
    });
}

#[test]
fn memory_that_was_written_before_is_not_written_again() {
    let host = requires!(root, criu);
    let container = started(counting(), host);
    container.wait_for_line("3");
    let scratch = Scratch::new();

    let early = checkpoint(&container, &scratch.join("early"), &["--pre-dump"]);
    if early.error.contains("CONFIG_MEM_SOFT_DIRTY") {
        // The kernel cannot tell what has changed: that is said, and nothing is written.
        assert_eq!(early.exit_code, 1);
        assert_eq!(container.state().status, Status::Running);
        return;
    }
    early.success();
    let images = scratch.join("images");
    checkpoint(&container, &images, &["--parent-path", "../early"]).success();
    let restored = restore(&container, &images, &[]);

    assert!(images.join("parent").exists());
    assert_counts_on(&restored);
}

/// Whether someone listens on a port of this thread's network.
fn is_served(port: u16) -> bool {
    let sockets = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let listens = format!(":{port:04X} 00000000:0000 0A");
    sockets.lines().any(|line| line.contains(&listens))
}

/// Whether CRIU's `lazy-pages` accepts connections in this thread's network: its socket is there before.
fn fetcher_listens() -> bool {
    let sockets = fs::read_to_string("/proc/thread-self/net/unix").unwrap();
    // The fourth column has the kernel's `__SO_ACCEPTCON`.
    sockets.lines().any(|line| {
        line.ends_with("lazy-pages.socket") && line.split_whitespace().nth(3) == Some("00010000")
    })
}

/// A checkpoint that waits to be asked for memory, at port 27000.
fn serving(container: &Container, images: &Path, status: &Path) -> Tree {
    let flags = ["--lazy-pages", "--page-server", "127.0.0.1:27000", "--status-fd", "3"];
    let dump = container.runtime().command(["checkpoint", "--image-path"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 3>\"$0\""]).arg(status).arg(dump.get_program());
    shell.args(dump.get_args()).arg(images).args(flags).arg(container.id());
    shell.envs(dump.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let dump = Tree::spawn(&shell);
    wait_until("memory can be fetched", PATIENCE, || fs::read(status).unwrap() == b"\0");
    dump
}

/// CRIU's part in a transfer of memory, until its end.
fn criu(command: &str, images: &Path, port: u16) -> Tree {
    let mut criu = Command::new(keg_fixtures::programs::criu().unwrap());
    criu.arg(command).arg("--images-dir").arg(images);
    criu.args(["--address", "127.0.0.1", "--port", &port.to_string()]);
    if command == "lazy-pages" {
        criu.arg("--page-server");
    }
    Tree::spawn(&criu)
}

#[test]
fn memory_goes_to_a_page_server() {
    let host = requires!(root, criu);
    let container = started(counting(), host);
    container.wait_for_line("5");
    let scratch = Scratch::new();
    let (images, pages) = (scratch.join("images"), scratch.directory("pages"));

    in_namespaces(CloneFlags::CLONE_NEWNET, || {
        let server = criu("page-server", &pages, 27_000);
        wait_until("the page server listens", PATIENCE, || is_served(27_000));
        checkpoint(&container, &images, &["--page-server", "127.0.0.1:27000"]).success();
        assert_eq!(server.wait_exit(server.main_pid(), PATIENCE), 0, "{}", server.stderr());
    });
    let is_pages = |entry: &fs::DirEntry| entry.file_name().to_str().unwrap().starts_with("pages-");
    let entries = |dir: &Path| fs::read_dir(dir).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    assert!(!entries(&images).iter().any(is_pages), "memory is here too");
    for entry in entries(&pages) {
        if entry.file_name().to_str().unwrap().starts_with("page") {
            fs::rename(entry.path(), images.join(entry.file_name())).unwrap();
        }
    }
    let restored = restore(&container, &images, &[]);

    assert_counts_on(&restored);
}

#[test]
fn memory_is_fetched_when_it_is_used_and_the_descriptor_says_from_when_on() {
    let host = requires!(root, criu, our_runtime, large_pipes);
    let container = started(counting(), host);
    container.wait_for_line("5");
    let scratch = Scratch::new();
    let (images, status) = (scratch.join("images"), scratch.file("status", ""));
    let other = keg_fixtures::Runtime::new_id();
    let config = container.bundle().path().join("config.json");

    in_namespaces(CloneFlags::CLONE_NEWNET, || {
        let dump = serving(&container, &images, &status);
        assert_eq!(dump.exit_code(dump.main_pid()), None, "it waits to be asked for memory");
        let fetcher = criu("lazy-pages", &images, 27_000);
        wait_until("the fetcher listens", PATIENCE, fetcher_listens);
        // The first one is frozen and still there: so the second gets another cgroup and name.
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace(container.id(), &other)).unwrap();

        let flags = ["--lazy-pages", "--manage-cgroups-mode", "ignore"].map(OsStr::new);
        let restored = container.runtime().restore_as(other.clone(), &container, &images, &flags);

        let restored = restored.unwrap_or_else(|outcome| panic!("{outcome:#?}"));
        assert_counts_on(&restored);
        assert_eq!(fetcher.wait_exit(fetcher.main_pid(), PATIENCE), 0, "{}", fetcher.stderr());
        assert_eq!(dump.wait_exit(dump.main_pid(), PATIENCE), 0, "{}", dump.stderr());
    });
}

#[test]
fn a_checkpoint_that_is_killed_while_it_serves_memory_leaves_no_server() {
    let host = requires!(root, criu, our_runtime, large_pipes);
    let container = started(counting(), host);
    container.wait_for_line("5");
    let scratch = Scratch::new();
    let (images, status) = (scratch.join("images"), scratch.file("status", ""));

    in_namespaces(CloneFlags::CLONE_NEWNET, || {
        let dump = serving(&container, &images, &status);
        let last = *numbers(&container).last().unwrap();
        assert!(is_served(27_000));

        dump.signal_main(Signal::SIGKILL);

        wait_until("nobody serves its memory", PATIENCE, || !is_served(27_000));
        container.wait_for_line(&(last + 5).to_string());
        let others = dump.pids().into_iter().filter(|pid| *pid != dump.main_pid());
        assert_eq!(others.collect::<Vec<_>>(), []);
    });
    checkpoint(&container, &scratch.join("again"), &[]).success();
}

#[test]
fn memory_that_cannot_be_kept_until_it_is_asked_for_is_told_before_anything_is_done() {
    let host = requires!(root, criu, our_runtime);
    if keg_fixtures::host::needs::large_pipes().is_ok() {
        return;
    }
    let container = started(counting(), host);
    container.wait_for_line("2");
    let scratch = Scratch::new();

    let flags = ["--lazy-pages", "--page-server", "127.0.0.1:27000"];
    let outcome = checkpoint(&container, &scratch.join("images"), &flags);

    assert_eq!(outcome.exit_code, 1);
    assert!(outcome.error.contains("fs.pipe-max-size="), "{outcome:?}");
    let next = numbers(&container).last().unwrap() + 3;
    container.wait_for_line(&next.to_string());
}

#[test]
fn a_status_descriptor_that_is_not_open_is_refused_before_anything_is_done() {
    let host = requires!(root, criu, our_runtime);
    let container = started(counting(), host);
    let scratch = Scratch::new();

    let outcome = checkpoint(&container, &scratch.join("images"), &["--status-fd", "77"]);

    assert_eq!(outcome.exit_code, 1);
    assert!(outcome.error.contains("--status-fd"), "{outcome:?}");
    assert!(!scratch.join("images").exists());
    assert_eq!(container.state().status, Status::Running);
}

#[test]
fn a_container_that_does_not_run_is_not_checkpointed() {
    let host = requires!(root);
    let container = host.runtime().create(counting());
    let scratch = Scratch::new();

    let outcome = checkpoint(&container, &scratch.join("images"), &[]);

    assert_eq!(outcome.exit_code, 1);
    let words = "container cannot be checkpointed in created state: start it first";
    assert_eq!(outcome.error, words, "{outcome:?}");
    assert!(!scratch.join("images").exists());
}

#[test]
fn a_missing_criu_is_named_with_the_package() {
    let host = requires!(root, our_runtime);
    let container = started(counting(), host);
    let images = Scratch::new();

    let outcome = container.runtime().call([
        "--criu",
        "/nonexistent/criu",
        "checkpoint",
        "--image-path",
        images.path().to_str().unwrap(),
        container.id(),
    ]);

    assert_eq!(outcome.exit_code, 1);
    assert!(outcome.error.contains("/nonexistent/criu"), "{outcome:?}");
    assert!(outcome.error.contains("Debian's package"), "{outcome:?}");
    assert_eq!(container.state().status, Status::Running);
}

#[test]
fn a_failed_restore_leaves_nothing() {
    let host = requires!(root, criu);
    let container = started(counting(), host);
    container.wait_for_line("2");
    let scratch = Scratch::new();
    let images = scratch.join("images");
    checkpoint(&container, &images, &[]).success();
    fs::remove_file(images.join("pstree.img")).unwrap();

    let refused = container.runtime().restore_with(&container, &images, &[]).unwrap_err();

    assert_eq!(refused.exit_code, 1, "{refused:?}");
    assert!(refused.error.contains("restore.log"), "{refused:?}");
    let list = container.runtime().call(["list", "-q"]).success();
    assert_eq!(list.stdout, "");
    assert!(container.cgroups().is_empty());
}

#[test]
fn images_of_an_earlier_dump_are_looked_for_before_criu_is_asked() {
    let host = requires!(root, our_runtime);
    let scratch = Scratch::new();
    let container = started(Bundle::probe().args(["pause"]), host);

    for parent in ["/absolute", "./not-there"] {
        let outcome = checkpoint(&container, &scratch.join("images"), &["--parent-path", parent]);

        assert_eq!(outcome.exit_code, 1, "{outcome:?}");
        assert!(outcome.error.contains("--parent-path"), "{outcome:?}");
    }
    assert_eq!(container.state().status, Status::Running);
}
