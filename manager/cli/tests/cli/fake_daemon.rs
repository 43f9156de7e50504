//! A daemon that does as a test says, and remembers what it was asked.
//!
//! It serves the calls that `run`, `attach`, `ps`, `logs` and `rm` make, over a real socket, in a
//! runtime of its own. Its containers have no process: they write, echo and end as [`Script`] says.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::Stream;
use keg_proto::ERROR_DOMAIN;
use keg_proto::keg::v1::containers_server::{Containers, ContainersServer};
use keg_proto::keg::v1::images_server::{Images, ImagesServer};
use keg_proto::keg::v1::{Stream as Stream_, *};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::{Notify, oneshot};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The id of every container.
pub(crate) const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// How containers behave.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// Images that are here from the beginning.
    pub(crate) images: Vec<&'static str>,
    /// Start fails with this reason.
    pub(crate) start_fails: Option<&'static str>,
    /// Written once the container starts.
    pub(crate) stdout: &'static str,
    /// Written once the container starts.
    pub(crate) stderr: &'static str,
    /// What the process does then.
    pub(crate) then: Then,
}

/// What a process does after it has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Ends with this code.
    Exit(u32),
    /// Writes what it reads, in capitals, and ends with code 0 at the end of its input.
    Echo,
    /// Ends with 128 + 15 once it is sent a signal.
    WaitForSignal,
    /// The connection breaks.
    Cut,
}

impl Default for Script {
    fn default() -> Self {
        let images = vec!["busybox"];
        Self { images, start_fails: None, stdout: "", stderr: "", then: Then::Exit(0) }
    }
}

/// A daemon that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct FakeDaemon {
    directory: TempDir,
    asked: Mutex<Receiver<Asked>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the daemon was asked, as far as tests want to know.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    /// Containers.Create.
    Create(Box<CreateContainerRequest>),
    /// Images.Pull.
    Pull(String),
    /// Containers.Start.
    Start,
    /// Containers.Exec.
    Exec(Box<ExecStart>),
    /// Containers.Kill with this signal.
    Kill(String),
    /// A terminal size, by Attach.
    Resize(TerminalSize),
    /// Bytes for standard input, by Attach.
    Stdin(Vec<u8>),
    /// Containers.Remove.
    Remove(String),
}

impl FakeDaemon {
    /// Starts to listen.
    pub(crate) fn new(script: Script) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (tell, asked) = channel();
        let (stop, stopped) = oneshot::channel();
        let listener = std::os::unix::net::UnixListener::bind(directory.path().join("kegd.sock"))
            .expect("a socket");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let thread = std::thread::spawn(move || serve(listener, script, tell, stopped));
        Self { directory, asked: Mutex::new(asked), stop: Some(stop), thread: Some(thread) }
    }

    /// What to give to `--host`.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("kegd.sock").display())
    }

    /// Waits for the next thing asked for.
    pub(crate) fn next_asked(&self) -> Asked {
        let asked = self.asked.lock().expect("one test");
        asked.recv_timeout(PATIENCE).expect("the client asks for something")
    }

    /// Waits until something is asked for that passes the test; drops what comes before it.
    pub(crate) fn wait_for(&self, is_it: impl Fn(&Asked) -> bool) -> Asked {
        loop {
            let asked = self.next_asked();
            if is_it(&asked) {
                return asked;
            }
        }
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed.
            let _ = thread.join();
        }
    }
}

fn serve(
    listener: std::os::unix::net::UnixListener,
    script: Script,
    tell: Sender<Asked>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let images = script.images.iter().map(|image| (*image).to_owned()).collect();
    let fake = Fake(Arc::new(State {
        script,
        tell: Mutex::new(tell),
        images: Mutex::new(images),
        started: Notify::new(),
        signalled: Notify::new(),
    }));
    runtime.block_on(async {
        let connections =
            UnixListenerStream::new(UnixListener::from_std(listener).expect("socket"));
        let server = tonic::transport::Server::builder()
            .add_service(ContainersServer::new(fake.clone()))
            .add_service(ImagesServer::new(fake))
            .serve_with_incoming(connections);
        tokio::select! {
            outcome = server => outcome.expect("serve"),
            _ = stopped => {}
        }
    });
}

#[derive(Debug, Clone)]
struct Fake(Arc<State>);

#[derive(Debug)]
struct State {
    script: Script,
    tell: Mutex<Sender<Asked>>,
    images: Mutex<HashSet<String>>,
    started: Notify,
    signalled: Notify,
}

impl Fake {
    fn tell(&self, asked: Asked) {
        // The test may have ended and not care any more.
        let _ = self.0.tell.lock().expect("no panic").send(asked);
    }
}

/// An error as the daemon has them.
fn refusal(code: Code, reason: &str, message: &str, remedy: &str) -> Status {
    let metadata = HashMap::from([("remedy".to_owned(), remedy.to_owned())]);
    let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

fn not_scripted<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in the script"))
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Containers for Fake {
    async fn create(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        let request = request.into_inner();
        let image = request.config.clone().unwrap_or_default().image;
        self.tell(Asked::Create(Box::new(request)));
        if !self.0.images.lock().expect("no panic").contains(&image) {
            let message = format!("no image {image:?}");
            return Err(refusal(Code::NotFound, "IMAGE_NOT_FOUND", &message, "pull it"));
        }
        let warnings = Vec::new();
        Ok(Response::new(CreateContainerResponse { id: ID.into(), name: "x".into(), warnings }))
    }

    async fn start(
        &self,
        _: Request<StartContainerRequest>,
    ) -> Result<Response<StartContainerResponse>, Status> {
        self.tell(Asked::Start);
        if let Some(reason) = self.0.script.start_fails {
            let message = "exec \"nosuch\": no such file";
            return Err(refusal(Code::FailedPrecondition, reason, message, "check the spelling"));
        }
        self.0.started.notify_one();
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn kill(
        &self,
        request: Request<KillContainerRequest>,
    ) -> Result<Response<KillContainerResponse>, Status> {
        self.tell(Asked::Kill(request.into_inner().signal));
        self.0.signalled.notify_one();
        Ok(Response::new(KillContainerResponse {}))
    }

    async fn remove(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Result<Response<RemoveContainerResponse>, Status> {
        let container = request.into_inner().container;
        if container == "absent" {
            let message = "no container \"absent\"";
            return Err(refusal(Code::NotFound, "CONTAINER_NOT_FOUND", message, "see `keg ps -a`"));
        }
        self.tell(Asked::Remove(container));
        Ok(Response::new(RemoveContainerResponse {}))
    }

    type AttachStream = Answers<AttachResponse>;

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (answer, answers) = tokio::sync::mpsc::channel(4);
        let container = Process { fake: self.clone(), requests: request.into_inner(), answer };
        tokio::spawn(container.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    type LogsStream = Answers<LogEntry>;

    async fn logs(&self, _: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let line = || {
            let data = b"a line of a log that has no end\n".to_vec();
            let entry = LogEntry { stream: Stream_::Stdout.into(), data, ..LogEntry::default() };
            Ok(entry)
        };
        Ok(Response::new(Box::pin(tokio_stream::iter(std::iter::repeat_with(line)))))
    }

    async fn stop(
        &self,
        _: Request<StopContainerRequest>,
    ) -> Result<Response<StopContainerResponse>, Status> {
        not_scripted()
    }

    async fn wait(
        &self,
        _: Request<WaitContainerRequest>,
    ) -> Result<Response<WaitContainerResponse>, Status> {
        Ok(Response::new(WaitContainerResponse { status: None }))
    }

    type ExecStream = Answers<ExecResponse>;

    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let first = request.into_inner().message().await?.and_then(|request| request.message);
        let Some(exec_request::Message::Start(start)) = first else {
            return Err(Status::invalid_argument("the start comes first"));
        };
        self.tell(Asked::Exec(Box::new(start)));
        if let Some(reason) = self.0.script.start_fails {
            let message = "exec \"nosuch\": no such file";
            return Err(refusal(Code::FailedPrecondition, reason, message, "check the spelling"));
        }
        let code = if let Then::Exit(code) = self.0.script.then { code } else { 0 };
        let output = |stream: Stream_, text: &str| {
            let data = text.as_bytes().to_vec();
            exec_response::Message::Output(Output { stream: stream.into(), data })
        };
        let messages = [
            exec_response::Message::Started(ExecStarted::default()),
            output(Stream_::Stdout, self.0.script.stdout),
            output(Stream_::Stderr, self.0.script.stderr),
            exec_response::Message::Exited(ExitStatus { code, ..ExitStatus::default() }),
        ];
        let answers = messages.map(|message| Ok(ExecResponse { message: Some(message) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn restart(
        &self,
        _: Request<RestartContainerRequest>,
    ) -> Result<Response<RestartContainerResponse>, Status> {
        not_scripted()
    }

    async fn pause(
        &self,
        _: Request<PauseContainerRequest>,
    ) -> Result<Response<PauseContainerResponse>, Status> {
        not_scripted()
    }

    async fn unpause(
        &self,
        _: Request<UnpauseContainerRequest>,
    ) -> Result<Response<UnpauseContainerResponse>, Status> {
        not_scripted()
    }

    async fn rename(
        &self,
        _: Request<RenameContainerRequest>,
    ) -> Result<Response<RenameContainerResponse>, Status> {
        not_scripted()
    }

    async fn top(&self, _: Request<TopRequest>) -> Result<Response<TopResponse>, Status> {
        not_scripted()
    }

    async fn prune(
        &self,
        _: Request<PruneContainersRequest>,
    ) -> Result<Response<PruneContainersResponse>, Status> {
        not_scripted()
    }

    async fn list(
        &self,
        _: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let container =
            ContainerSummary { id: ID.into(), name: "x".into(), ..ContainerSummary::default() };
        Ok(Response::new(ListContainersResponse { containers: vec![container] }))
    }

    async fn inspect(
        &self,
        _: Request<InspectContainerRequest>,
    ) -> Result<Response<InspectContainerResponse>, Status> {
        not_scripted()
    }

    async fn resize_terminal(
        &self,
        _: Request<ResizeTerminalRequest>,
    ) -> Result<Response<ResizeTerminalResponse>, Status> {
        not_scripted()
    }
}

/// A process that is attached to.
struct Process {
    fake: Fake,
    requests: Streaming<AttachRequest>,
    answer: tokio::sync::mpsc::Sender<Result<AttachResponse, Status>>,
}

impl Process {
    async fn run(mut self) {
        let script = self.fake.0.script.clone();
        self.say(attach_response::Message::Attached(Attached {})).await;
        self.fake.0.started.notified().await;
        self.write(Stream_::Stdout, script.stdout.as_bytes()).await;
        self.write(Stream_::Stderr, script.stderr.as_bytes()).await;
        let code = match script.then {
            Then::Exit(code) => code,
            Then::Cut => return,
            Then::Echo => {
                self.echo().await;
                0
            }
            Then::WaitForSignal => {
                self.fake.0.signalled.notified().await;
                128 + 15
            }
        };
        let status = ExitStatus { code, ..ExitStatus::default() };
        self.say(attach_response::Message::Exited(status)).await;
    }

    /// Writes what it reads, in capitals.
    async fn echo(&mut self) {
        while let Ok(Some(request)) = self.requests.message().await {
            match request.message {
                Some(attach_request::Message::Stdin(data)) => {
                    self.fake.tell(Asked::Stdin(data.clone()));
                    self.write(Stream_::Stdout, &data.to_ascii_uppercase()).await;
                }
                Some(attach_request::Message::Resize(size)) => {
                    self.fake.tell(Asked::Resize(size));
                }
                Some(attach_request::Message::StdinEnd(_)) => return,
                Some(attach_request::Message::Start(_)) | None => {}
            }
        }
    }

    async fn write(&self, stream: Stream_, data: &[u8]) {
        if !data.is_empty() {
            let output = Output { stream: stream.into(), data: data.to_vec() };
            self.say(attach_response::Message::Output(output)).await;
        }
    }

    /// Sends; a client that has left does not mind.
    async fn say(&self, message: attach_response::Message) {
        let _ = self.answer.send(Ok(AttachResponse { message: Some(message) })).await;
    }
}

#[tonic::async_trait]
impl Images for Fake {
    type PullStream = Answers<PullImageResponse>;

    async fn pull(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let reference = request.into_inner().reference;
        self.tell(Asked::Pull(reference.clone()));
        if reference == "nosuch" {
            let reason = "IMAGE_UNKNOWN_TO_REGISTRY";
            let message = "docker.io has no \"nosuch\"";
            return Err(refusal(Code::NotFound, reason, message, "check the name"));
        }
        self.0.images.lock().expect("no panic").insert(reference.clone());
        let resolved = PullResolved {
            reference: format!("docker.io/library/{reference}:latest"),
            ..PullResolved::default()
        };
        let events = [
            pull_image_response::Event::Resolved(resolved),
            pull_image_response::Event::Done(PullDone::default()),
        ];
        let events = events.map(|event| Ok(PullImageResponse { event: Some(event) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn import(
        &self,
        _: Request<Streaming<ImportImageRequest>>,
    ) -> Result<Response<ImportImageResponse>, Status> {
        not_scripted()
    }

    async fn list(
        &self,
        _: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        not_scripted()
    }

    async fn inspect(
        &self,
        _: Request<InspectImageRequest>,
    ) -> Result<Response<InspectImageResponse>, Status> {
        not_scripted()
    }

    async fn tag(&self, _: Request<TagImageRequest>) -> Result<Response<TagImageResponse>, Status> {
        not_scripted()
    }

    async fn remove(
        &self,
        _: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        not_scripted()
    }

    type PushStream = Answers<PushImageResponse>;

    async fn push(
        &self,
        _: Request<PushImageRequest>,
    ) -> Result<Response<Self::PushStream>, Status> {
        not_scripted()
    }

    type SaveStream = Answers<SaveImagesResponse>;

    async fn save(
        &self,
        _: Request<SaveImagesRequest>,
    ) -> Result<Response<Self::SaveStream>, Status> {
        not_scripted()
    }

    type LoadStream = Answers<LoadImagesResponse>;

    async fn load(
        &self,
        _: Request<Streaming<LoadImagesRequest>>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        not_scripted()
    }

    async fn history(
        &self,
        _: Request<ImageHistoryRequest>,
    ) -> Result<Response<ImageHistoryResponse>, Status> {
        not_scripted()
    }

    async fn prune(
        &self,
        _: Request<PruneImagesRequest>,
    ) -> Result<Response<PruneImagesResponse>, Status> {
        not_scripted()
    }

    async fn meanings(
        &self,
        request: Request<ImageMeaningsRequest>,
    ) -> Result<Response<ImageMeaningsResponse>, Status> {
        let references = vec![format!("docker.io/library/{}:latest", request.get_ref().reference)];
        Ok(Response::new(ImageMeaningsResponse { references }))
    }

    async fn remote_tags(
        &self,
        _: Request<RemoteTagsRequest>,
    ) -> Result<Response<RemoteTagsResponse>, Status> {
        not_scripted()
    }

    async fn referrers(
        &self,
        _: Request<ImageReferrersRequest>,
    ) -> Result<Response<ImageReferrersResponse>, Status> {
        not_scripted()
    }
}
