//! Talks to others by TCP and UDP, as servers and clients in containers do.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{
    IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket,
};
use std::thread;
use std::time::Duration;

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
