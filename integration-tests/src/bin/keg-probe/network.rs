//! Talks to others by TCP and UDP, as servers and clients in containers do.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{
    IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket,
};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tells everybody who connects, and everybody who sends a datagram, `text` and the address that
/// they come from.
pub(crate) fn serve(port: u16, text: &str) -> anyhow::Result<()> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let any = match TcpListener::bind(any) {
        Ok(listener) => {
            drop(listener);
            any
        }
        // No IPv6 here.
        Err(_) => SocketAddr::from(([0, 0, 0, 0], port)),
    };
    let (tcp, udp) = (TcpListener::bind(any)?, UdpSocket::bind(any)?);
    let told = text.to_owned();
    thread::spawn(move || -> io::Result<()> {
        let mut datagram = [0; 2048];
        loop {
            let (_, peer) = udp.recv_from(&mut datagram)?;
            udp.send_to(line(&told, peer).as_bytes(), peer)?;
        }
    });
    println!("ready");
    io::stdout().flush()?;
    loop {
        let (mut stream, peer) = tcp.accept()?;
        // Who has left already is no reason to end.
        let _ = stream.write_all(line(text, peer).as_bytes());
    }
}

fn line(text: &str, peer: SocketAddr) -> String {
    let ip = match peer.ip() {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        ip => ip,
    };
    format!("{text} {ip}\n")
}

/// Prints what a server at `address` (`HOST:PORT`) says.
pub(crate) fn ask(address: &str, udp: bool) -> anyhow::Result<()> {
    let address = address.to_socket_addrs()?.next().context("no address")?;
    let mut answer = String::new();
    if udp {
        let unspecified: SocketAddr =
            if address.is_ipv6() { "[::]:0".parse()? } else { "0.0.0.0:0".parse()? };
        let socket = UdpSocket::bind(unspecified)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"?", address)?;
        let mut datagram = [0; 2048];
        let length = socket.recv(&mut datagram)?;
        answer.push_str(&String::from_utf8_lossy(&datagram[..length]));
    } else {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_to_string(&mut answer)?;
    }
    print!("{answer}");
    Ok(())
}

/// Prints the addresses of a name.
pub(crate) fn look_up(name: &str) -> anyhow::Result<()> {
    let found: BTreeSet<IpAddr> =
        (name, 1).to_socket_addrs()?.map(|address| address.ip()).collect();
    for address in found {
        println!("{address}");
    }
    Ok(())
}

/// Pours bytes into every connection, as long as the other side takes them.
pub(crate) fn pour(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)))?;
    println!("ready");
    io::stdout().flush()?;
    loop {
        let (mut stream, _) = listener.accept()?;
        thread::spawn(move || {
            let bytes = vec![0; 128 << 10];
            while stream.write_all(&bytes).is_ok() {}
        });
    }
}

/// Takes so many mebibytes from a server that pours, and prints how many microseconds that took.
pub(crate) fn drink(address: &str, mebibytes: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let (mut buffer, mut left) = (vec![0; 128 << 10], mebibytes << 20);
    let begin = Instant::now();
    while left > 0 {
        let length = stream.read(&mut buffer)? as u64;
        anyhow::ensure!(length > 0, "the server has nothing more");
        left = left.saturating_sub(length);
    }
    println!("{}", begin.elapsed().as_micros());
    Ok(())
}

/// Asks a server so many times, and prints how many microseconds that took.
pub(crate) fn knock(address: &str, times: u64) -> anyhow::Result<()> {
    let begin = Instant::now();
    for _ in 0..times {
        let mut stream = TcpStream::connect(address)?;
        stream.read_to_string(&mut String::new())?;
    }
    println!("{}", begin.elapsed().as_micros());
    Ok(())
}

/// Asks the resolver of `/etc/resolv.conf` for a name so many times, and prints how many
/// microseconds that took.
pub(crate) fn ask_names(name: &str, times: u64) -> anyhow::Result<()> {
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf")?;
    let server = resolv_conf.lines().find_map(|line| line.strip_prefix("nameserver "));
    let server: IpAddr = server.context("no resolver")?.trim().parse()?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((server, 53))?;
    // RFC 1035, section 4: a header with one question, for an address (type 1, class 1).
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let mut answer = [0; 512];
    let begin = Instant::now();
    for number in 0..times {
        query[..2].copy_from_slice(&u16::try_from(number % 65_536)?.to_be_bytes());
        socket.send(&query)?;
        let length = socket.recv(&mut answer)?;
        anyhow::ensure!(answer[..length].get(7).is_some_and(|&count| count > 0), "no answer");
    }
    println!("{}", begin.elapsed().as_micros());
    Ok(())
}

/// Asks an SSH agent for its keys (draft-miller-ssh-agent, 4.4), and prints their comments.
pub(crate) fn ssh_keys(socket: &str) -> anyhow::Result<()> {
    const REQUEST_IDENTITIES: u8 = 11;
    let mut agent = UnixStream::connect(socket).with_context(|| format!("connect to {socket}"))?;
    agent.write_all(&[0, 0, 0, 1, REQUEST_IDENTITIES])?;
    let mut answer = vec![0; usize::try_from(number(&mut agent)?)?];
    agent.read_exact(&mut answer)?;
    // What follows the kind of the answer: how many, then a key and a comment for each.
    let mut rest = answer.get(1..).context("an empty answer")?;
    for _ in 0..number(&mut rest)? {
        let _key = text(&mut rest)?;
        println!("{}", String::from_utf8_lossy(&text(&mut rest)?));
    }
    Ok(())
}

fn number(from: &mut impl std::io::Read) -> anyhow::Result<u32> {
    let mut octets = [0; 4];
    from.read_exact(&mut octets)?;
    Ok(u32::from_be_bytes(octets))
}

fn text(from: &mut impl std::io::Read) -> anyhow::Result<Vec<u8>> {
    let mut octets = vec![0; usize::try_from(number(from)?)?];
    from.read_exact(&mut octets)?;
    Ok(octets)
}
