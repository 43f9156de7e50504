//! One containerd-shim-keg-v2, started as a daemon starts it, and spoken to over ttrpc.
//!
//! ```text
//! test ── Shim ──ttrpc Task──▶ containerd-shim-keg-v2 ──▶ keg-runtime (or KEG_TEST_RUNTIME)
//!          ▲                        │
//!          └────ttrpc Events────────┘
//! ```

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use keg_proto::containerd::runc::v1::Options;
use keg_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use keg_proto::containerd::task::v2 as task;
use keg_proto::containerd::types::Envelope;
use keg_ttrpc::{CallError, Client, Request, Service, Status};
use nix::unistd::Pid;
use prost::Message;
use serde_json::Value;
use tokio::net::UnixListener;

use crate::daemon::path_with_our_programs;
use crate::runtime::check_nothing_left;
use crate::wait::{self, PATIENCE};
use crate::{Bundle, Outcome, Runtime, Scratch, Tree, programs};

const NAMESPACE: &str = "it";
const TASK: &str = "containerd.task.v2.Task";

/// A shim with its bundle, its log and what it published.
#[derive(Debug)]
pub struct Shim {
    id: String,
    client: Client,
    executor: tokio::runtime::Runtime,
    events: Arc<Mutex<Vec<Envelope>>>,
    options: Option<Options>,
    /// Dropped before the directories below.
    tree: Option<Tree>,
    bundle: Bundle,
    scratch: Scratch,
}

impl Shim {
    /// Starts a shim for a bundle, with the runtime under test.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    #[track_caller]
    pub fn new(bundle: Bundle) -> Self {
        Self::with_runtime(bundle, env::var_os("KEG_TEST_RUNTIME").map(PathBuf::from))
    }

    /// Starts a shim that gets runtime options on its standard input, as containerd gives them.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    #[track_caller]
    pub fn started_with(bundle: Bundle, options: &Options) -> Self {
        let any = prost_types::Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: options.encode_to_vec(),
        };
        Self::launch(bundle, None, &any.encode_to_vec())
    }

    /// Starts a shim that is to use the runtime `program`; `None`: keg-runtime.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    #[track_caller]
    pub fn with_runtime(bundle: Bundle, program: Option<PathBuf>) -> Self {
        Self::launch(bundle, program, b"")
    }

    #[track_caller]
    fn launch(bundle: Bundle, program: Option<PathBuf>, input: &[u8]) -> Self {
        let id = Runtime::new_id();
        let bundle = bundle.prepare(&id);
        let scratch = Scratch::new();
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("start tokio");
        let events = Arc::new(Mutex::new(Vec::new()));
        let listener = {
            let _entered = executor.enter();
            UnixListener::bind(scratch.join("events.sock")).expect("listen for events")
        };
        executor.spawn(collect_events(listener, Arc::clone(&events)));
        let options = program.map(|program| Options {
            binary_name: program.display().to_string(),
            root: scratch.join("peer").display().to_string(),
            ..Options::default()
        });
        let start = command(&id, &bundle, &scratch, "start");
        let tree = Tree::spawn_with_stdin(&start, scratch.file("input", input));
        let exit_code = tree.wait_exit(tree.main_pid(), PATIENCE);
        assert_eq!(exit_code, 0, "the shim does not start: {}", tree.stderr());
        let address = tree.stdout();
        let socket = address.strip_prefix("unix://").unwrap_or(&address).to_owned();
        let client = executor.block_on(Client::connect(&socket)).expect("connect to the shim");
        Self { id, client, executor, events, options, tree: Some(tree), bundle, scratch }
    }

    /// Returns the container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the process that serves, as it is written in the bundle.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> Pid {
        let file = self.bundle.path().join("shim.pid");
        let text = fs::read_to_string(file).expect("shim.pid");
        Pid::from_raw(text.trim().parse().expect("a process id"))
    }

    /// Returns its bundle.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Returns a directory of this test.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Returns its processes, the container's included.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        self.tree.as_ref().expect("present until drop")
    }

    /// Calls a method of the Task service.
    ///
    /// # Errors
    /// What the shim answered, or why it did not.
    pub fn call<Req, Resp>(&self, method: &str, request: &Req) -> Result<Resp, CallError>
    where
        Req: Message,
        Resp: Message + Default,
    {
        self.executor.block_on(self.client.call(TASK, method, request, Some(PATIENCE)))
    }

    /// Returns a request that creates the task, with a log of Docker's format and an exit record.
    #[must_use]
    pub fn create_request(&self) -> task::CreateTaskRequest {
        let log = format!(
            "keg://{}?format=json-file&exit={}",
            self.log_file().display(),
            self.exit_file().display()
        );
        task::CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle.path().display().to_string(),
            stdout: log.clone(),
            stderr: log,
            options: self.options.as_ref().map(|options| prost_types::Any {
                type_url: "containerd.runc.v1.Options".to_owned(),
                value: options.encode_to_vec(),
            }),
            ..task::CreateTaskRequest::default()
        }
    }

    /// Creates the task; returns the process id of its init.
    ///
    /// # Panics
    /// If the shim refuses.
    #[track_caller]
    pub fn create(&self) -> u32 {
        self.create_with(|_| {}).expect("Task.Create").pid
    }

    /// Creates the task by a request that the test has changed.
    ///
    /// # Errors
    /// What the shim answered.
    pub fn create_with(
        &self,
        change: impl FnOnce(&mut task::CreateTaskRequest),
    ) -> Result<task::CreateTaskResponse, CallError> {
        let mut request = self.create_request();
        change(&mut request);
        self.call("Create", &request)
    }

    /// Starts the task, or a process of `Exec`.
    ///
    /// # Panics
    /// If the shim refuses.
    #[track_caller]
    pub fn start(&self, exec_id: &str) -> u32 {
        self.try_start(exec_id).expect("Task.Start").pid
    }

    /// Starts the task, or a process of `Exec`.
    ///
    /// # Errors
    /// What the shim answered.
    pub fn try_start(&self, exec_id: &str) -> Result<task::StartResponse, CallError> {
        let request = task::StartRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        self.call("Start", &request)
    }

    /// Waits for the end of a process.
    ///
    /// # Panics
    /// If the shim does not answer in time.
    #[track_caller]
    pub fn wait(&self, exec_id: &str) -> task::WaitResponse {
        let request = task::WaitRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        self.call("Wait", &request).expect("Task.Wait")
    }

    /// Signals a process, or with `all` every process of the container.
    ///
    /// # Errors
    /// What the shim answered.
    pub fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<(), CallError> {
        let (id, exec_id) = (self.id.clone(), exec_id.to_owned());
        self.call("Kill", &task::KillRequest { id, exec_id, signal, all })
    }

    /// Returns the state of a process.
    ///
    /// # Errors
    /// What the shim answered.
    pub fn state(&self, exec_id: &str) -> Result<task::StateResponse, CallError> {
        let request = task::StateRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        self.call("State", &request)
    }

    /// Deletes a process that has ended.
    ///
    /// # Errors
    /// What the shim answered.
    pub fn delete(&self, exec_id: &str) -> Result<task::DeleteResponse, CallError> {
        let request = task::DeleteRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        self.call("Delete", &request)
    }

    /// Adds a process to be started by [`Shim::start`]; `process` is a runtime-spec process.
    ///
    /// # Errors
    /// What the shim answered.
    pub fn exec(&self, exec_id: &str, process: &Value, stdout: &str) -> Result<(), CallError> {
        self.call("Exec", &self.exec_request(exec_id, process, stdout))
    }

    /// Returns the request of [`Shim::exec`], for changes.
    #[must_use]
    pub fn exec_request(
        &self,
        exec_id: &str,
        process: &Value,
        stdout: &str,
    ) -> task::ExecProcessRequest {
        task::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            terminal: process["terminal"] == true,
            stdout: stdout.to_owned(),
            stderr: stdout.to_owned(),
            spec: Some(prost_types::Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
                value: process.to_string().into_bytes(),
            }),
            ..task::ExecProcessRequest::default()
        }
    }

    /// Returns the log that [`Shim::create_request`] asks for.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.scratch.join("log")
    }

    /// Returns the exit record that [`Shim::create_request`] asks for.
    #[must_use]
    pub fn exit_file(&self) -> PathBuf {
        self.scratch.join("exit.json")
    }

    /// Returns the text of one stream ("stdout", "stderr") in a log of Docker's format.
    #[must_use]
    pub fn logged(&self, stream: &str) -> String {
        logged(&self.log_file(), stream)
    }

    /// Waits until the log's standard output has a line.
    ///
    /// # Panics
    /// After a while, with what it has.
    #[track_caller]
    pub fn wait_for_line(&self, line: &str) {
        let seen =
            wait::poll(PATIENCE, || self.logged("stdout").lines().any(|l| l == line).then_some(()));
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        assert!(seen.is_some(), "no line {line:?} in the log: {log}");
    }

    /// Returns the topics that were published so far, in order.
    ///
    /// # Panics
    /// If the thread that collects them has.
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        let events = self.events.lock().expect("events");
        events.iter().map(|event| event.topic.clone()).collect()
    }

    /// Waits until as many events were published.
    ///
    /// # Panics
    /// After a while.
    #[track_caller]
    pub fn wait_for_topics(&self, count: usize) -> Vec<String> {
        let seen = wait::poll(PATIENCE, || (self.topics().len() >= count).then_some(()));
        assert!(seen.is_some(), "{count} events were expected: {:?}", self.topics());
        self.topics()
    }

    /// Runs the shim's `delete`, as a daemon does whose shim is gone.
    #[must_use]
    #[track_caller]
    pub fn clean_up(&self) -> Outcome {
        let mut command = command(&self.id, &self.bundle, &self.scratch, "delete");
        Outcome::of(&mut command, PATIENCE)
    }

    /// Deletes the task and ends the shim; what the test has done already fails, and does not matter.
    fn end(&self) {
        let id = self.id.clone();
        if self.kill("", 9, true).is_ok() {
            let wait = task::WaitRequest { id: id.clone(), exec_id: String::new() };
            let _: Result<task::WaitResponse, _> = self.call("Wait", &wait);
        }
        let _ = self.delete("");
        let _: Result<(), _> = self.call("Shutdown", &task::ShutdownRequest { id, now: false });
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the shim's errors:\n{}", self.tree().stderr());
        }
        if !self.client.is_closed() {
            self.end();
        }
        drop(self.tree.take());
        let mut command = command(&self.id, &self.bundle, &self.scratch, "delete");
        let _ = Outcome::of(&mut command, PATIENCE);
        check_nothing_left(&self.id);
    }
}

/// Returns the text of one stream in a log of Docker's format.
#[must_use]
pub fn logged(log: &Path, stream: &str) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| entry["stream"] == stream)
        .filter_map(|entry| entry["log"].as_str().map(str::to_owned))
        .collect()
}

fn command(id: &str, bundle: &Bundle, scratch: &Scratch, action: &str) -> Command {
    let mut command = Command::new(programs::ours("containerd-shim-keg-v2"));
    command
        .args(["-namespace", NAMESPACE, "-publish-binary", "/bin/true", "-id", id, "-address"])
        .arg(scratch.join("d.sock"));
    if action == "delete" {
        command.arg("-bundle").arg(bundle.path());
    }
    command
        .arg(action)
        .current_dir(bundle.path())
        .env("TTRPC_ADDRESS", scratch.join("events.sock"))
        .env("GRPC_ADDRESS", scratch.join("d.sock"))
        .env("NAMESPACE", NAMESPACE)
        .env("MAX_SHIM_VERSION", "2")
        .env("PATH", path_with_our_programs());
    command
}

struct Collector(Arc<Mutex<Vec<Envelope>>>);

impl Service for Collector {
    async fn call(&self, request: Request) -> Result<Vec<u8>, Status> {
        if request.method != "Forward" {
            return Err(request.unimplemented());
        }
        let forwarded: ForwardRequest = request.decode()?;
        self.0.lock().expect("events").extend(forwarded.envelope);
        Ok(Vec::new())
    }
}

async fn collect_events(listener: UnixListener, events: Arc<Mutex<Vec<Envelope>>>) {
    while let Ok((connection, _)) = listener.accept().await {
        let collector = Collector(Arc::clone(&events));
        tokio::spawn(async move {
            let _ = keg_ttrpc::serve(connection, &collector).await;
        });
    }
}
