//! Tries things that a container may or may not be allowed to do.
//!
//! An attempt is `VERB:ARGUMENT:…`:
//!
//! | attempt | works if |
//! | --- | --- |
//! | `read:PATH`, `write:PATH` | the file opens for reading (and a byte can be read or is missing), for writing |
//! | `list:PATH` | the directory can be listed, and something is in it (else ENOENT) |
//! | `create:PATH`, `mkdir:PATH`, `unlink:PATH`, `chown:PATH:ID` | that can be done |
//! | `exec:PATH` | the program can be executed |
//! | `mknod:PATH:c or b:MAJOR:MINOR`, `device:PATH` | a node can be made; a device opens for reading and writing |
//! | `mount:TYPE:PATH`, `umount:PATH`, `remount-rw:PATH` | that can be done |
//! | `unshare:KIND`, `chroot:PATH`, `hostname:NAME` | that can be done |
//! | `setuid:ID`, `setgid:ID`, `kill:PID:SIGNAL` | that can be done |
//! | `bind:PORT`, `connect:PORT`, `raw-socket` | the address 127.0.0.1 lets it |
//! | `connect-unix:PATH` | a server answers there; `@NAME` for an abstract one |
//! | `syscall:NUMBER:…` | the call does not fail, with these integer arguments |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::Command;

use keg_fixtures::report::Attempt;
use keg_fixtures::sys::system_call;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Pid, Uid, chown, chroot, setgid, sethostname, setuid};

/// Tries each in turn.
pub(crate) fn try_all(attempts: &[String]) -> Vec<Attempt> {
    attempts.iter().map(|what| try_one(what)).collect()
}

/// Tries one.
pub(crate) fn try_one(what: &str) -> Attempt {
    let words: Vec<&str> = what.split(':').collect();
    let errno = perform(&words).err().map(|error| match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => error.to_string(),
    });
    Attempt { what: what.to_owned(), errno }
}

fn perform(words: &[&str]) -> io::Result<()> {
    match *words {
        ["read", path] => read(path),
        ["write", path] => OpenOptions::new().append(true).open(path).map(drop),
        ["list", path] => list(path),
        ["create", path] => create(path),
        ["mkdir", path] => fs::create_dir(path),
        ["unlink", path] => fs::remove_file(path),
        ["chown", path, id] => Ok(chown(path, Some(Uid::from_raw(number(id)?)), None)?),
        ["exec", path] => Command::new(path).output().map(drop),
        ["mknod", path, kind, major, minor] => {
            make_node(path, kind, number(major)?, number(minor)?)
        }
        ["device", path] => {
            let nonblocking = libc::O_NONBLOCK | libc::O_NOCTTY;
            OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(path).map(drop)
        }
        ["mount", kind, path] => {
            Ok(mount(Some(kind), path, Some(kind), MsFlags::empty(), None::<&str>)?)
        }
        ["umount", path] => Ok(umount2(path, MntFlags::MNT_DETACH)?),
        ["remount-rw", path] => {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
            Ok(mount(None::<&str>, path, None::<&str>, flags, None::<&str>)?)
        }
        ["unshare", kind] => Ok(unshare(namespace(kind)?)?),
        ["chroot", path] => Ok(chroot(path)?),
        ["hostname", name] => Ok(sethostname(name)?),
        ["setuid", id] => Ok(setuid(Uid::from_raw(number(id)?))?),
        ["setgid", id] => Ok(setgid(Gid::from_raw(number(id)?))?),
        ["kill", pid, signal] => send(pid, signal),
        ["bind", port] => TcpListener::bind(("127.0.0.1", number(port)?)).map(drop),
        ["connect", port] => TcpStream::connect(("127.0.0.1", number(port)?)).map(drop),
        ["raw-socket"] => raw_socket(),
        ["connect-unix", path] => connect_unix(path),
        ["syscall", call, ref arguments @ ..] => raw_call(call, arguments),
        _ => Err(io::Error::other(format!("no such attempt: {words:?}"))),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is not a number")))
}

/// A masked file opens and is empty: that is "cannot be read" here.
fn read(path: &str) -> io::Result<()> {
    let mut byte = [0];
    match File::open(path)?.read(&mut byte)? {
        0 => Err(io::Error::from_raw_os_error(libc::ENODATA)),
        _ => Ok(()),
    }
}

fn list(path: &str) -> io::Result<()> {
    match fs::read_dir(path)?.next() {
        Some(entry) => entry.map(drop),
        None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
    }
}

fn create(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?;
    fs::remove_file(path)
}

fn make_node(path: &str, kind: &str, major: u64, minor: u64) -> io::Result<()> {
    let kind = if kind == "b" { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    Ok(mknod(path, kind, Mode::from_bits_truncate(0o666), makedev(major, minor))?)
}

fn namespace(kind: &str) -> io::Result<CloneFlags> {
    match kind {
        "user" => Ok(CloneFlags::CLONE_NEWUSER),
        "mnt" => Ok(CloneFlags::CLONE_NEWNS),
        "net" => Ok(CloneFlags::CLONE_NEWNET),
        "uts" => Ok(CloneFlags::CLONE_NEWUTS),
        "ipc" => Ok(CloneFlags::CLONE_NEWIPC),
        "pid" => Ok(CloneFlags::CLONE_NEWPID),
        other => Err(io::Error::other(format!("no such namespace: {other}"))),
    }
}

fn send(pid: &str, signal: &str) -> io::Result<()> {
    let signal = match signal {
        "0" => None,
        name => Some(name.parse::<Signal>()?),
    };
    Ok(nix::sys::signal::kill(Pid::from_raw(number(pid)?), signal)?)
}

fn raw_socket() -> io::Result<()> {
    let (family, kind) = (AddressFamily::Inet, SockType::Raw);
    socket(family, kind, SockFlag::SOCK_CLOEXEC, Some(SockProtocol::Icmp))?;
    Ok(())
}

fn connect_unix(path: &str) -> io::Result<()> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixStream::connect_addr(&address).map(drop)
}

fn raw_call(call: &str, arguments: &[&str]) -> io::Result<()> {
    let mut values = [0; 6];
    for (value, text) in values.iter_mut().zip(arguments) {
        *value = number(text)?;
    }
    system_call(number(call)?, values).map(drop)
}
