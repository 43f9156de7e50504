//! Registries: Debian's docker-registry, and one that misbehaves on purpose.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::unistd::Pid;

use crate::image::{Blob, Image};
use crate::wait::{self, PATIENCE};
use crate::{Outcome, Scratch, Tree, programs};

/// Debian's docker-registry on a free port of the loopback device, plain HTTP.
#[derive(Debug)]
pub struct Registry {
    port: u16,
    // Dropped in this order: the server ends before its files go.
    _server: Tree,
    scratch: Scratch,
}

impl Registry {
    /// Starts an empty registry.
    ///
    /// # Panics
    /// If it is not installed or does not come up.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::configured("")
    }

    /// Starts an empty registry with more settings (YAML).
    ///
    /// # Panics
    /// As [`Registry::new`].
    #[must_use]
    #[track_caller]
    pub fn configured(yaml: &str) -> Self {
        let program = programs::installed("docker-registry").expect("docker-registry is missing");
        // A port that was free a moment ago may be taken by then: another is tried.
        for _ in 0..5 {
            let scratch = Scratch::new();
            let port = free_port();
            let data = scratch.directory("data");
            let config = config(&data.display().to_string(), port) + yaml;
            let config = scratch.file("config.yml", config);
            let server = Tree::spawn(Command::new(&program).arg("serve").arg(config));
            let pid = server.main_pid();
            let up =
                wait::poll(PATIENCE, || match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                    Ok(_) => Some(true),
                    Err(_) => server.exit_code(pid).map(|_| false),
                });
            if up == Some(true) && server.exit_code(pid).is_none() {
                return Self { port, _server: server, scratch };
            }
        }
        panic!("docker-registry does not come up");
    }

    /// Returns "127.0.0.1:PORT".
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes an image with skopeo; returns its reference, "127.0.0.1:PORT/NAME".
    ///
    /// `name` is "repository:tag".
    ///
    /// # Panics
    /// If skopeo fails.
    #[track_caller]
    pub fn push(&self, image: &Image, name: &str) -> String {
        let layout = self.scratch.directory("layout");
        image.write_layout(&layout, "it");
        let reference = format!("{}/{name}", self.address());
        let skopeo = programs::installed("skopeo").expect("skopeo is missing");
        let mut command = Command::new(skopeo);
        command
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:it", layout.display()))
            .arg(format!("docker://{reference}"));
        let _ = Outcome::of(&mut command, PATIENCE).success();
        std::fs::remove_dir_all(layout).expect("remove the layout");
        reference
    }

    /// Forgets everything that was pushed.
    ///
    /// # Panics
    /// If the files cannot be removed.
    pub fn clear(&self) {
        let content = self.scratch.join("data/docker");
        if content.exists() {
            std::fs::remove_dir_all(content).expect("remove the registry's content");
        }
    }

    /// Serves the same content in the network namespace of a process too, under the same address.
    ///
    /// # Panics
    /// If it does not come up there.
    #[track_caller]
    pub fn serve_in_network_of(&self, pid: Pid) -> Tree {
        let program = programs::installed("docker-registry").expect("docker-registry is missing");
        let script = "ip link set lo up && exec \"$0\" serve \"$1\"";
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).args(["sh", "-c", script]);
        let server = Tree::spawn(command.arg(program).arg(self.scratch.join("config.yml")));
        let url = format!("http://{}/v2/", self.address());
        wait::wait_until("the registry answers in the namespace", PATIENCE, || {
            let mut curl = Command::new("nsenter");
            curl.arg(format!("--net=/proc/{pid}/ns/net")).args(["curl", "-sf", &url]);
            Outcome::of(&mut curl, PATIENCE).exit_code == 0
        });
        server
    }

    /// Starts a registry that holds [`Image::busybox`]; returns its reference too.
    ///
    /// # Panics
    /// As [`Registry::new`] and [`Registry::push`].
    #[must_use]
    #[track_caller]
    pub fn with_busybox() -> (Self, String) {
        let registry = Self::new();
        let reference = registry.push(&Image::busybox(), "busybox:latest");
        (registry, reference)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

fn config(directory: &str, port: u16) -> String {
    format!(
        "version: 0.1\n\
         log: {{level: error}}\n\
         storage: {{filesystem: {{rootdirectory: {directory}}}, delete: {{enabled: true}}}}\n\
         http: {{addr: '127.0.0.1:{port}', headers: {{X-Content-Type-Options: [nosniff]}}}}\n"
    )
}

/// Returns a port of the loopback device that is free now.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a port");
    listener.local_addr().expect("address of a socket").port()
}

/// A request to a [`BadRegistry`].
#[derive(Debug, Clone)]
pub struct HttpRequest {
    /// "GET", "HEAD", …
    pub method: String,
    /// "/v2/…", with query.
    pub path: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
}

/// What a [`BadRegistry`] answers.
#[derive(Debug, Clone)]
pub struct HttpResponse {
    /// 200, …
    pub status: u16,
    /// As sent.
    pub headers: Vec<(String, String)>,
    /// As sent; "Content-Length" says `declared_length`, if set, else its length.
    pub body: Vec<u8>,
    /// A lie about the length.
    pub declared_length: Option<usize>,
    /// Keeps the connection open after the body until the registry ends: the client is left waiting.
    pub stall: bool,
}

impl HttpResponse {
    /// Answers with a status and a body.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { status, headers: Vec::new(), body, declared_length: None, stall: false }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

type Fault = dyn Fn(&HttpRequest, HttpResponse) -> HttpResponse + Send + Sync;

/// A registry that serves one image, and that a test makes misbehave: it hands every request and the
/// right answer to a closure, which returns what is sent.
pub struct BadRegistry {
    port: u16,
    listener: TcpListener,
    ended: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<HttpRequest>>>,
    server: Option<JoinHandle<()>>,
}

impl fmt::Debug for BadRegistry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("BadRegistry").field("port", &self.port).finish_non_exhaustive()
    }
}

impl BadRegistry {
    /// Serves `image` under any repository and tag.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn new(
        image: Image,
        fault: impl Fn(&HttpRequest, HttpResponse) -> HttpResponse + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a port");
        let port = listener.local_addr().expect("address of a socket").port();
        let ended = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::new(Shared {
            image,
            fault: Box::new(fault),
            ended: Arc::clone(&ended),
            requests: Arc::clone(&requests),
        });
        let accepting = listener.try_clone().expect("duplicate a socket");
        let server = thread::spawn(move || serve(&accepting, &shared));
        Self { port, listener, ended, requests, server: Some(server) }
    }

    /// Returns "127.0.0.1:PORT".
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns all requests so far.
    ///
    /// # Panics
    /// If a thread that serves has.
    #[must_use]
    pub fn requests(&self) -> Vec<HttpRequest> {
        self.requests.lock().expect("server").clone()
    }
}

impl Drop for BadRegistry {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes accept, in whatever network namespace the socket is; a connection would have to be
        // made in that.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

struct Shared {
    image: Image,
    fault: Box<Fault>,
    ended: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<HttpRequest>>>,
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    for connection in listener.incoming() {
        if shared.ended.load(Ordering::Relaxed) {
            break;
        }
        let Ok(connection) = connection else { continue };
        let shared = Arc::clone(shared);
        connections.push(thread::spawn(move || answer(&connection, &shared)));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

/// Answers one request and closes; a client that goes away is not an error here.
fn answer(connection: &TcpStream, shared: &Shared) -> Option<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = read_request(connection)?;
    shared.requests.lock().ok()?.push(request.clone());
    let response = (shared.fault)(&request, right_answer(&shared.image, &request.path));
    let length = response.declared_length.unwrap_or(response.body.len());
    let mut head = format!("HTTP/1.1 {} It\r\nContent-Length: {length}\r\n", response.status);
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "Connection: close\r\n\r\n";
    let mut writer = connection;
    writer.write_all(head.as_bytes()).ok()?;
    if request.method != "HEAD" {
        writer.write_all(&response.body).ok()?;
    }
    while response.stall && !shared.ended.load(Ordering::Relaxed) && still_there(connection) {}
    Some(())
}

/// Waits a moment for the client to close; a read that times out means that it is there.
fn still_there(connection: &TcpStream) -> bool {
    let _ = connection.set_read_timeout(Some(Duration::from_millis(50)));
    let mut byte = [0];
    let mut reader = connection;
    !matches!(reader.read(&mut byte), Ok(0))
}

fn read_request(connection: &TcpStream) -> Option<HttpRequest> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    Some(HttpRequest { method, path, headers })
}

/// Answers as the distribution specification has it.
fn right_answer(image: &Image, path: &str) -> HttpResponse {
    let path = path.split('?').next().unwrap_or(path);
    if path == "/v2/" {
        return HttpResponse::new(200, "{}");
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    let found: Option<&Blob> = if path.contains("/manifests/") {
        (!last.contains(':') || last == image.manifest.digest).then_some(&image.manifest)
    } else {
        image.blobs().find(|blob| blob.digest == last)
    };
    match found {
        Some(blob) => HttpResponse::new(200, blob.bytes.clone())
            .header("Content-Type", &blob.media_type)
            .header("Docker-Content-Digest", &blob.digest),
        None => HttpResponse::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"?"}]}"#),
    }
}
