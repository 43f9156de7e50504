//! A `create` that stays for the start: what KEG_STANDBY_FD promises to supervisors.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Outcome, Runtime, outcome, requires};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A `create` under way, and the supervisor's end of the socket.
struct Standing<'r> {
    runtime: &'r Runtime,
    id: String,
    bundle: Bundle,
    create: Child,
    socket: UnixStream,
}

impl<'r> Standing<'r> {
    /// Passes the socket as descriptor 7.
    fn new(runtime: &'r Runtime, bundle: Bundle) -> Self {
        let id = Runtime::new_id();
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut create = runtime.command(["create", "--bundle"]);
        create.arg(bundle.path()).arg("--pid-file").arg(bundle.path().join("pid")).arg(&id);
        let mut shell = Command::new("sh");
        let script = r#"exec 7<&0 </dev/null; KEG_STANDBY_FD=7 exec "$@""#;
        shell.args(["-c", script, "sh"]).arg(create.get_program()).args(create.get_args());
        shell.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        Self { runtime, id, bundle, create: shell.spawn().unwrap(), socket }
    }

    fn told(&mut self) -> String {
        let mut word = [0];
        match self.socket.read(&mut word).unwrap() {
            0 => "nothing".into(),
            _ => String::from_utf8_lossy(&word).into_owned(),
        }
    }

    fn tell(&mut self, word: &str) {
        self.socket.write_all(word.as_bytes()).unwrap();
    }

    fn status(&self) -> String {
        let state: serde_json::Value = self.runtime.call(["state", &self.id]).success().json();
        state["status"].as_str().unwrap().to_owned()
    }

    fn exit_code(&mut self) -> i32 {
        outcome::code(outcome::wait_for_exit(&mut self.create, PATIENCE).expect("it ends"))
    }

    fn init(&self) -> Pid {
        let text = fs::read_to_string(self.bundle.path().join("pid")).unwrap();
        Pid::from_raw(text.trim().parse().unwrap())
    }

    fn is_waiting(&mut self) -> bool {
        self.create.try_wait().unwrap().is_none()
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        let _: Outcome = self.runtime.call(["delete", "--force", &self.id]);
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.create.wait();
    }
}

#[test]
fn it_tells_that_the_container_is_made_and_starts_it_when_told() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let mut standing = Standing::new(&runtime, Bundle::busybox().command(["/bin/sleep", "1000"]));

    assert_eq!(standing.told(), "c");
    assert_eq!(standing.status(), "created", "and the container is locked by nobody");
    assert!(standing.is_waiting());
    standing.tell("s");

    assert_eq!(standing.told(), "r");
    assert_eq!((standing.status().as_str(), standing.exit_code()), ("running", 0));
}

#[test]
fn whoever_hangs_up_finds_a_container_that_waits_for_start() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let mut standing = Standing::new(&runtime, Bundle::busybox().command(["/bin/sleep", "1000"]));
    assert_eq!(standing.told(), "c");

    standing.socket.shutdown(std::net::Shutdown::Both).unwrap();

    assert_eq!((standing.exit_code(), standing.status().as_str()), (0, "created"));
    let _ = runtime.call(["start", &standing.id]).success();
    assert_eq!(standing.status(), "running");
}

#[test]
fn it_ends_with_the_containers_process() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let mut standing = Standing::new(&runtime, Bundle::busybox().command(["/bin/sleep", "1000"]));
    assert_eq!(standing.told(), "c");

    kill(standing.init(), Signal::SIGKILL).unwrap();

    assert_eq!((standing.told().as_str(), standing.exit_code()), ("nothing", 0));
    assert_eq!(standing.status(), "stopped");
}

#[test]
fn a_start_that_fails_is_in_the_log_and_in_the_exit_code() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    // The kernel sees only at the execution that the interpreter is missing.
    let bundle = Bundle::busybox().command(["/bin/script"]);
    let script = bundle.rootfs().join("bin/script");
    keg_fixtures::scratch::write_program(&script, "#!/nonexistent\n");
    let mut standing = Standing::new(&runtime, bundle);
    assert_eq!(standing.told(), "c");

    standing.tell("s");

    assert_eq!((standing.told().as_str(), standing.exit_code()), ("nothing", 1));
    let log = fs::read_to_string(runtime.log()).unwrap();
    assert!(log.contains("/bin/script") && log.contains("no such file"), "{log}");
}

#[test]
fn what_is_no_socket_is_refused_by_its_number() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let id = Runtime::new_id();
    let bundle = Bundle::busybox().sh("exit 0");
    let _guard = runtime.guard(&id);
    for told in ["7", "1", "-1", "socket"] {
        let mut create = runtime.command(["create", "--bundle"]);
        create.arg(bundle.path()).arg(&id).env("KEG_STANDBY_FD", told);

        let refused = Outcome::of(&mut create, PATIENCE);

        assert_eq!(refused.exit_code, 1);
        assert!(refused.stderr.contains("KEG_STANDBY_FD"), "{told}: {refused:?}");
    }
}
