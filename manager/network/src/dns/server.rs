//! One container's server: its sockets, and how much it may ask.
//!
//! Bounded: queries per second, questions that wait for a resolver, connections. What is above a
//! limit is dropped, so that a container that floods harms nobody's names but its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Shared;
use super::answer::{self, Answer};
use super::forward::Transport;

/// Bytes of an answer over UDP, unless the query allows more (RFC 1035, section 4.2.1).
const UDP_ANSWER_BYTES: usize = 512;
/// Largest query over UDP.
const UDP_QUERY_BYTES: usize = 4096;
/// Queries per second that one container may ask; as many at once.
const QUERIES_PER_SEC: u32 = 5000;
/// Questions of one container that may wait for a resolver.
const MOST_FORWARDED: usize = 128;
/// Connections of one container.
const MOST_CONNECTIONS: usize = 16;
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// How long to rest when the system has no descriptors.
const REST: Duration = Duration::from_millis(100);

/// One container's server.
struct Server {
    shared: Arc<Shared>,
    container: String,
    upstream: Vec<IpAddr>,
    forwarded: Semaphore,
    connections: Arc<Semaphore>,
}

/// Starts serving on sockets that are in the container's namespace.
pub(super) fn start(
    runtime: &Handle,
    shared: &Arc<Shared>,
    container: String,
    upstream: Vec<IpAddr>,
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
) -> Vec<AbortHandle> {
    let server = Arc::new(Server {
        shared: Arc::clone(shared),
        container,
        upstream,
        forwarded: Semaphore::new(MOST_FORWARDED),
        connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
    });
    let datagrams = runtime.spawn(Arc::clone(&server).serve_udp(udp));
    let streams = runtime.spawn(server.serve_tcp(tcp));
    vec![datagrams.abort_handle(), streams.abort_handle()]
}

impl Server {
    async fn serve_udp(self: Arc<Self>, socket: std::net::UdpSocket) {
        let socket = match UdpSocket::from_std(socket) {
            Ok(socket) => Arc::new(socket),
            Err(error) => {
                tracing::warn!(container = self.container, %error, "no name service over UDP");
                return;
            }
        };
        let mut allowance = Allowance::new(QUERIES_PER_SEC, Instant::now());
        let mut query = vec![0; UDP_QUERY_BYTES];
        loop {
            // An error here is that of an answer that nobody took; the next query may be well.
            let Ok((length, peer)) = socket.recv_from(&mut query).await else { continue };
            if !allowance.take(Instant::now()) {
                continue;
            }
            match self.answer(&query[..length], UDP_ANSWER_BYTES) {
                Answer::Reply(reply) => drop(socket.send_to(&reply, peer).await),
                Answer::Silence => {}
                Answer::Forward => {
                    let forward = Arc::clone(&self).forward_datagram(
                        Arc::clone(&socket),
                        query[..length].to_vec(),
                        peer,
                    );
                    tokio::spawn(forward);
                }
            }
        }
    }

    async fn forward_datagram(
        self: Arc<Self>,
        socket: Arc<UdpSocket>,
        query: Vec<u8>,
        peer: SocketAddr,
    ) {
        if let Some(reply) = self.forward(&query, Transport::Udp).await {
            drop(socket.send_to(&reply, peer).await);
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: std::net::TcpListener) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(container = self.container, %error, "no name service over TCP");
                return;
            }
        };
        loop {
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(REST).await;
                continue;
            };
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                if let Err(error) = server.serve_stream(stream).await {
                    tracing::debug!(container = server.container, %error, "a connection ended");
                }
                drop(permit);
            });
        }
    }

    async fn serve_stream(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut allowance = Allowance::new(QUERIES_PER_SEC, Instant::now());
        loop {
            let length = match timeout(IDLE, stream.read_u16()).await {
                Ok(Ok(length)) => usize::from(length),
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            let mut query = vec![0; length];
            timeout(IDLE, stream.read_exact(&mut query)).await??;
            if !allowance.take(Instant::now()) {
                return Ok(());
            }
            let reply = match self.answer(&query, usize::from(u16::MAX)) {
                Answer::Reply(reply) => Some(reply),
                Answer::Forward => self.forward(&query, Transport::Tcp).await,
                Answer::Silence => None,
            };
            let Some(reply) = reply else { return Ok(()) };
            let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes()[..], &reply].concat();
            timeout(IDLE, stream.write_all(&framed)).await??;
        }
    }

    fn answer(&self, query: &[u8], most_bytes: usize) -> Answer {
        let zones = self.shared.zones.read().unwrap_or_else(PoisonError::into_inner);
        answer::answer(&zones, &self.container, query, most_bytes)
    }

    /// Asks the resolvers; above the limit, the container is told that it failed.
    async fn forward(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let Ok(_permit) = self.forwarded.try_acquire() else { return answer::failure(query) };
        let reply = self.shared.upstreams.ask(query, &self.upstream, transport).await;
        reply.or_else(|| answer::failure(query))
    }
}

/// How many queries may still be asked: refilled steadily, never above a second's worth.
#[derive(Debug)]
struct Allowance {
    per_sec: f64,
    left: f64,
    at: Instant,
}

impl Allowance {
    fn new(per_sec: u32, now: Instant) -> Self {
        Self { per_sec: f64::from(per_sec), left: f64::from(per_sec), at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_sec;
        self.left = (self.left + gained).min(self.per_sec);
        self.at = now;
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_the_allowance_and_recovers() {
        let start = Instant::now();
        let mut allowance = Allowance::new(100, start);

        let at_once = (0..1000).filter(|_| allowance.take(start)).count();
        let later = start + Duration::from_millis(500);
        let half_a_second_later = (0..1000).filter(|_| allowance.take(later)).count();

        assert_eq!((at_once, half_a_second_later), (100, 50));
    }
}
