//! From the write of a line in the container to its arrival at whoever reads.
//!
//! The container prints the time of each write; the reader compares it with the same clock. There
//! are three kinds of readers: of a FIFO, of the log file as it grows, and an attached client.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use keg_proto::keg::shim::v1::AttachHello;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use prost::Message as _;
use rustix::fs::inotify;

use super::supervised::{Output, Peer, Supervised};
use super::{bundle, named};
use crate::report::{Measure, Value};

/// Lines, and the program that prints one every other millisecond.
const LINES: usize = 500;
const COMMAND: [&str; 4] = ["/probe", "clock", "2", "500"];

/// How many digits a time has: no other number in a log has as many.
const DIGITS: usize = 19;

/// How long a reader waits for the next line.
const PATIENCE_MILLIS: u16 = 30_000;

/// Measures all readers of all peers.
pub(super) fn measure(peers: &[Peer]) -> anyhow::Result<Measure> {
    let mut measure = named("a line from its write to a reader, median", "µs");
    for peer in peers {
        let mut sides = Vec::new();
        if peer.has_fifos() {
            sides.push((Output::Fifo, "FIFO"));
        }
        sides.extend(peer.outputs().iter().map(|output| (*output, output.name())));
        for (output, name) in sides {
            let container = peer.create(bundle(&COMMAND), output)?;
            let times = match output {
                Output::Fifo => of_fifo(&container),
                _ => of_log(&container),
            };
            let times = times.with_context(|| format!("{} {name}", peer.name()))?;
            measure.values.push(value(format!("{} {name}", peer.name()), times));
        }
        if peer.has_attached_clients() {
            let container = peer.create(bundle(&COMMAND), Output::Log("raw"))?;
            let times = of_client(&container)?;
            measure.values.push(value(format!("{} attached client", peer.name()), times));
        }
    }
    Ok(measure)
}

fn value(side: String, mut times: Times) -> Value {
    times.0.sort_unstable();
    Value { side, value: times.0[times.0.len() / 2] as f64 / 1e3 }
}

fn of_fifo(container: &Supervised) -> anyhow::Result<Times> {
    container.run()?;
    let (_, output) = container.fifos()?;
    let mut output: &File = output;
    Times::collect(|block| Ok(output.read(block)?))
}

fn of_client(container: &Supervised) -> anyhow::Result<Times> {
    let mut stream = UnixStream::connect(container.attach_socket()?)?;
    let hello = AttachHello { stdout: true, ..AttachHello::default() }.encode_to_vec();
    let length = u32::try_from(hello.len())?.to_be_bytes();
    // A frame: its kind, its length, what it holds.
    stream.write_all(&[&[1], &length[..], &hello].concat())?;
    container.run()?;
    Times::collect(|block| Ok(stream.read(block)?))
}

/// Reads the log as it grows, and is told of that by the kernel.
fn of_log(container: &Supervised) -> anyhow::Result<Times> {
    let path = container.log_file();
    let notices = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let mut log = open_when_there(&path)?;
    inotify::add_watch(&notices, &path, inotify::WatchFlags::MODIFY)?;
    container.run()?;
    Times::collect(|block| {
        loop {
            match log.read(block)? {
                0 => {
                    let mut wanted = [PollFd::new(notices.as_fd(), PollFlags::POLLIN)];
                    if poll(&mut wanted, PollTimeout::from(PATIENCE_MILLIS))? == 0 {
                        bail!("the log does not grow");
                    }
                    // What they say is known: the log has grown.
                    let _ = rustix::io::read(&notices, &mut [0; 4096]);
                }
                count => return Ok(count),
            }
        }
    })
}

fn open_when_there(path: &Path) -> anyhow::Result<File> {
    let opened = File::options().read(true).append(true).create(true).open(path);
    opened.with_context(|| format!("open {path:?}"))
}

/// Nanoseconds between writes and arrivals.
struct Times(Vec<u128>);

impl Times {
    /// Collects all lines from what `read` brings.
    fn collect(mut read: impl FnMut(&mut [u8]) -> anyhow::Result<usize>) -> anyhow::Result<Self> {
        let (mut times, mut block, mut digits) = (Vec::new(), vec![0; 64 << 10], Vec::new());
        while times.len() < LINES {
            let count = read(&mut block)?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
            for octet in &block[..count] {
                if octet.is_ascii_digit() {
                    digits.push(*octet);
                    continue;
                }
                if digits.len() == DIGITS {
                    let written: u128 = std::str::from_utf8(&digits)?.parse()?;
                    times.push(now.saturating_sub(written));
                }
                digits.clear();
            }
        }
        Ok(Self(times))
    }
}
