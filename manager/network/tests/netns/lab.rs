//! The scene: a host with an engine, another machine, containers.
//!
//! ```text
//! outside ── 192.0.2.2/24 ═══ 192.0.2.1/24 ── host ── keg… ═══ containers
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keg_network::dns::NameService;
use keg_network::ports::parse_publish;
use keg_network::switchboard::Switchboard;
use keg_network::{ConnectRequest, Endpoint, ForwardMode, LiveContainer, PublishMode, Settings};
use nix::sched::{CloneFlags, setns, unshare};

/// How long to wait for what should come, and for what should not.
pub(crate) const SOON: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_millis(600);

/// The host's address, as others see it.
pub(crate) const HOST: &str = "192.0.2.1";
/// The other machine's.
pub(crate) const OUTSIDE: &str = "192.0.2.2";

/// A network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    netns: Arc<File>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root makes network namespaces");
            // A new namespace has what the machine has, which may be a router already.
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self { netns: Arc::new(made.join().unwrap()) }
    }

    /// Where others find it.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd()).into()
    }

    /// Runs something in it.
    pub(crate) fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&*self.netns, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            inside.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a shell script in it, and returns what it prints.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-ec", script]).output().unwrap());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{script}\n{errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Serves on a port, over TCP and UDP: says who asks.
    pub(crate) fn serve(&self, port: u16) -> Server {
        let (tcp, udp) = self.run(|| {
            let any = "[::]:0".parse::<SocketAddr>().unwrap().ip();
            let tcp = TcpListener::bind((any, port)).unwrap();
            let udp = UdpSocket::bind((any, port)).unwrap();
            (tcp, udp)
        });
        let stop = Arc::new(AtomicBool::new(false));
        tcp.set_nonblocking(false).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (stop_udp, stop_tcp) = (Arc::clone(&stop), Arc::clone(&stop));
        let datagrams = thread::spawn(move || {
            let mut bytes = [0; 64];
            while !stop_udp.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = udp.recv_from(&mut bytes) {
                    let text = peer.ip().to_canonical().to_string();
                    let _ = udp.send_to(text.as_bytes(), peer);
                }
            }
        });
        let local = tcp.local_addr().unwrap();
        let streams = thread::spawn(move || {
            for stream in tcp.incoming() {
                if stop_tcp.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let peer = stream.peer_addr().unwrap().ip().to_canonical().to_string();
                let _ = stream.write_all(peer.as_bytes());
            }
        });
        Server { machine: self.clone(), local, stop, threads: vec![datagrams, streams] }
    }

    /// Asks a server over TCP who it takes us for; none: it cannot be reached.
    pub(crate) fn ask(&self, address: &str) -> Option<String> {
        self.ask_within(address, SOON)
    }

    /// Whether a server cannot be reached over TCP.
    pub(crate) fn cannot_reach(&self, address: &str) -> bool {
        self.ask_within(address, NEVER).is_none()
    }

    /// Why a connection was not made.
    pub(crate) fn refusal(&self, address: &str) -> Option<std::io::ErrorKind> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| TcpStream::connect_timeout(&address, SOON).err().map(|error| error.kind()))
    }

    fn ask_within(&self, address: &str, patience: Duration) -> Option<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
            stream.set_read_timeout(Some(patience)).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
    }

    /// Opens a socket in it that goes on asking the same server over UDP.
    pub(crate) fn asker(&self, address: &str) -> UdpSocket {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| {
            let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(NEVER)).unwrap();
            socket.connect(address).unwrap();
            socket
        })
    }

    /// Asks a server over UDP, again and again, who it takes us for; none: it cannot be reached.
    pub(crate) fn ask_udp(&self, address: &str) -> Option<String> {
        let socket = self.asker(address);
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            let answer = ask_on(&socket);
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// Whether a server cannot be reached over UDP.
    pub(crate) fn cannot_reach_udp(&self, address: &str) -> bool {
        ask_on(&self.asker(address)).is_none()
    }
}

/// Asks once on a socket that is connected to a server.
pub(crate) fn ask_on(socket: &UdpSocket) -> Option<String> {
    let mut answer = [0; 64];
    socket.send(b"who am I").ok()?;
    let length = socket.recv(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// A server in a machine; stops when dropped.
pub(crate) struct Server {
    machine: Machine,
    local: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let local = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), self.local.port());
        self.machine.run(|| {
            let _ = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
            drop(TcpStream::connect_timeout(&local, SOON));
        });
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A host with an engine's networks, and another machine beside it.
pub(crate) struct Lab {
    pub(crate) host: Machine,
    pub(crate) outside: Machine,
    pub(crate) board: Switchboard,
    pub(crate) settings: Settings,
    runtime: tokio::runtime::Runtime,
    _dirs: tempfile::TempDir,
}

impl Lab {
    /// Sets the scene, and runs a test in the host's namespace.
    pub(crate) fn run(publish: PublishMode, test: impl FnOnce(&mut Self) + Send) {
        if !nix::unistd::geteuid().is_root() {
            return skip("root");
        }
        let host = Machine::new();
        let outside = Machine::new();
        host.sh(&format!(
            "ip link set lo up
             ip link add eth0 type veth peer name eth0 netns /proc/{}/fd/{}
             ip addr add {HOST}/24 dev eth0; ip -6 addr add 2001:db8::1/64 dev eth0 nodad
             ip link set eth0 up",
            std::process::id(),
            outside.netns.as_raw_fd(),
        ));
        outside.sh(&format!(
            "ip link set lo up
             ip addr add {OUTSIDE}/24 dev eth0; ip -6 addr add 2001:db8::2/64 dev eth0 nodad
             ip link set eth0 up"
        ));
        let dirs = tempfile::tempdir().unwrap();
        let settings = Settings {
            root_dir: dirs.path().join("root"),
            state_dir: dirs.path().join("state"),
            tag: String::new(),
            publish,
            forward: ForwardMode::Open,
            default_subnet: None,
            default_ipv6: false,
            resolv_conf: dirs.path().join("resolv.conf"),
        };
        let inside = host.clone();
        inside.run(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let board = open(&runtime, &settings);
            let mut lab = Self { host, outside, board, settings, runtime, _dirs: dirs };
            lab.board.reconcile(&[]).unwrap();
            test(&mut lab);
        });
    }

    /// Another engine on the same host.
    pub(crate) fn other_engine(&self, tag: &str) -> Switchboard {
        let settings = Settings {
            root_dir: self.settings.root_dir.join(tag),
            state_dir: self.settings.state_dir.join(tag),
            tag: tag.to_owned(),
            ..self.settings.clone()
        };
        let mut board = open(&self.runtime, &settings);
        board.reconcile(&[]).unwrap();
        board
    }

    /// The handle that an engine has, in place of the switchboard.
    pub(crate) fn handle(&self) -> (keg_network::Networks, &tokio::runtime::Runtime) {
        let _entered = self.runtime.enter();
        (keg_network::Networks::open(self.settings.clone()).unwrap(), &self.runtime)
    }

    /// What a kill of the daemon and a start leave: another switchboard on the same records.
    pub(crate) fn restart(&mut self, live: &[LiveContainer]) -> keg_network::Reconciled {
        self.board = open(&self.runtime, &self.settings);
        self.board.reconcile(live).unwrap()
    }

    /// Starts a container on a network.
    pub(crate) fn start(&mut self, network: &str, name: &str, publish: &[&str]) -> Container {
        let request = ConnectRequest {
            ports: publish.iter().flat_map(|text| parse_publish(text).unwrap()).collect(),
            ..container_request(name)
        };
        self.start_as(network, &request)
    }

    /// Starts a container with everything said.
    pub(crate) fn start_as(&mut self, network: &str, request: &ConnectRequest) -> Container {
        let machine = Machine::new();
        let endpoint = self.board.connect(network, request, &machine.path()).unwrap();
        Container { id: request.container.clone(), machine, endpoint }
    }
}

/// Says why a test is skipped, and notes it where `make test` lists such tests.
fn skip(missing: &str) {
    eprintln!("skipped: {missing} is missing");
    let Some(file) = std::env::var_os("KEG_TEST_SKIPS") else { return };
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let list = std::fs::OpenOptions::new().append(true).create(true).open(file);
    let noted = list.and_then(|mut list| writeln!(list, "{test}: {missing} is missing"));
    noted.expect("note a skipped test");
}

fn open(runtime: &tokio::runtime::Runtime, settings: &Settings) -> Switchboard {
    let names = NameService::new(runtime.handle().clone(), settings.resolv_conf.clone());
    Switchboard::open(settings.clone(), names).unwrap()
}

/// What an engine asks for a container of that name.
pub(crate) fn container_request(name: &str) -> ConnectRequest {
    ConnectRequest {
        container: format!("{name:0<64}"),
        name: name.to_owned(),
        default_route: true,
        ..ConnectRequest::default()
    }
}

/// A container: a namespace with an interface on a network.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) machine: Machine,
    pub(crate) endpoint: Endpoint,
}

impl Container {
    /// Its address on the network.
    pub(crate) fn ip(&self) -> IpAddr {
        self.endpoint.ips().next().unwrap()
    }

    /// The network's gateway.
    pub(crate) fn gateway(&self) -> IpAddr {
        self.endpoint.addresses[0].gateway.unwrap()
    }

    pub(crate) fn live(&self) -> LiveContainer {
        LiveContainer { id: self.id.clone(), netns: self.machine.path() }
    }
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        thread::yield_now();
    }
}
