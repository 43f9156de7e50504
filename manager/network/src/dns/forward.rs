//! Asks the host's resolvers what no network knows.
//!
//! Each question goes out from a socket of its own, so from a port that nobody can guess, under a
//! fresh id; an answer counts only if it comes from the resolver that was asked and repeats id and
//! question.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Bytes of a message's header; id first.
const HEADER_BYTES: usize = 12;
/// Largest answer over UDP.
const ANSWER_BYTES: usize = 8192;
/// How long one resolver has.
const PATIENCE: Duration = Duration::from_secs(2);
/// Resolvers that are asked before giving up.
const MOST_RESOLVERS: usize = 3;
/// How long the list of resolvers is believed.
const LIST_AGE: Duration = Duration::from_secs(5);

/// How a question came, and goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// One datagram.
    Udp,
    /// A stream.
    Tcp,
}

/// The host's resolvers.
#[derive(Debug)]
pub(super) struct Upstreams {
    resolv_conf: PathBuf,
    list: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Upstreams {
    /// Takes them from a file as `/etc/resolv.conf`, which is read again now and then.
    pub(super) fn new(resolv_conf: PathBuf) -> Self {
        Self { resolv_conf, list: Mutex::new(None) }
    }

    /// Asks one resolver after the other: `preferred`, if there are any, else the host's.
    pub(super) async fn ask(
        &self,
        query: &[u8],
        preferred: &[IpAddr],
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let resolvers = if preferred.is_empty() {
            self.list()
        } else {
            preferred.iter().map(|ip| SocketAddr::new(*ip, 53)).collect()
        };
        for resolver in resolvers.into_iter().take(MOST_RESOLVERS) {
            let exchange = async {
                match transport {
                    Transport::Udp => ask_udp(resolver, query).await,
                    Transport::Tcp => ask_tcp(resolver, query).await,
                }
            };
            match timeout(PATIENCE, exchange).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => {
                    tracing::debug!(%resolver, %error, "a resolver did not answer");
                }
                Err(_) => tracing::debug!(%resolver, "a resolver took too long"),
            }
        }
        None
    }

    fn list(&self) -> Vec<SocketAddr> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        match &*list {
            Some((read, resolvers)) if read.elapsed() < LIST_AGE => resolvers.clone(),
            _ => {
                let text = fs::read_to_string(&self.resolv_conf).unwrap_or_default();
                let resolvers = resolvers(&text);
                *list = Some((Instant::now(), resolvers.clone()));
                resolvers
            }
        }
    }
}

/// Reads the resolvers' addresses (resolv.conf(5)).
fn resolvers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        words.next().filter(|_| is_server)?.parse::<IpAddr>().ok()
    });
    servers.map(|ip| SocketAddr::new(ip, 53)).collect()
}

async fn ask_udp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv6() {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    };
    let (question, id) = under_fresh_id(query)?;
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(&question).await?;
    let mut answer = vec![0; ANSWER_BYTES];
    loop {
        let length = socket.recv(&mut answer).await?;
        if belongs(&answer[..length], &question) {
            answer.truncate(length);
            answer[..2].copy_from_slice(&id);
            return Ok(answer);
        }
    }
}

async fn ask_tcp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let (question, id) = under_fresh_id(query)?;
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &question].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if !belongs(&answer, &question) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    answer[..2].copy_from_slice(&id);
    Ok(answer)
}

/// Gives a question a random id; returns the one that it had too.
fn under_fresh_id(query: &[u8]) -> io::Result<(Vec<u8>, [u8; 2])> {
    let id = query.first_chunk().copied().ok_or(io::ErrorKind::InvalidInput)?;
    let mut question = query.to_vec();
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut question[..2], flags)?;
    Ok((question, id))
}

/// Whether an answer repeats the question's id and, byte by byte but for letters' case, its name,
/// kind and class.
fn belongs(answer: &[u8], question: &[u8]) -> bool {
    let asked = question_end(question).and_then(|end| question.get(HEADER_BYTES..end));
    let repeated = asked.and_then(|asked| answer.get(HEADER_BYTES..HEADER_BYTES + asked.len()));
    let is_answer = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    is_answer
        && answer.get(..2) == question.get(..2)
        && repeated.zip(asked).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
}

/// Where the first question ends.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at + 4);
        }
        if length > 63 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01";

    #[test]
    fn resolvers_are_read_from_the_hosts_file() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 10.0.0.1\n nameserver ::1 # x\n\
                    nameserver\nnameserver nonsense\n";

        let addresses: Vec<String> = resolvers(text).iter().map(|r| r.ip().to_string()).collect();

        assert_eq!(addresses, ["10.0.0.1", "::1"]);
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let mut answer = QUESTION.to_vec();
        answer[2] |= 0x80;
        assert!(belongs(&answer, QUESTION));

        let mut other_id = answer.clone();
        other_id[0] ^= 1;
        let mut other_name = answer.clone();
        other_name[13] = b'x';
        for (forged, what) in
            [(&other_id, "id"), (&other_name, "name"), (&QUESTION.to_vec(), "no answer")]
        {
            assert!(!belongs(forged, QUESTION), "{what}");
        }
        assert!(!belongs(&answer[..15], QUESTION), "cut");
    }
}
