//! Network devices that move from the host into a container (runtime-spec, config-linux.md,
//! "Network Devices").
//!
//! A device loses its addresses when it changes its namespace. They are read before, and the ones
//! that someone has configured are given back behind: global and permanent, of both families.
//! Everything goes by rtnetlink(7); whoever moves a device needs CAP_NET_ADMIN on both sides.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::plan::NetDevice;

/// The largest answer that the kernel gives at once, in bytes.
const BUFFER_BYTES: usize = 32 << 10;

const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL_CREATE: u16 = 0x600;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;

/// Why a device could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum NetDeviceError {
    /// There is no such device, or it cannot be looked at.
    #[error("linux.netDevices: find the device {name:?} on the host")]
    Find {
        /// Its name on the host.
        name: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// It cannot leave, or its new name is taken.
    #[error("linux.netDevices: move {name:?} into the container as {new_name:?}")]
    Move {
        /// Its name on the host.
        name: String,
        /// Its name in the container.
        new_name: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// It has arrived, but cannot be set up.
    #[error("linux.netDevices: configure {name:?} in the container")]
    Configure {
        /// Its name in the container.
        name: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The runtime cannot enter the container's network namespace, or come back.
    #[error("linux.netDevices: enter the container's network namespace")]
    Enter(#[source] Errno),
}

/// An address as it is given back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    family: u8,
    prefix_length: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

/// Moves `devices` from the caller's network namespace into `container`'s, and brings them up.
///
/// # Errors
/// [`NetDeviceError`]; devices that were moved go where those of the container go when it ends.
pub fn move_devices(
    devices: &[NetDevice],
    container: BorrowedFd<'_>,
    own: BorrowedFd<'_>,
) -> Result<(), NetDeviceError> {
    if devices.is_empty() {
        return Ok(());
    }
    let host = Netlink::open().map_err(NetDeviceError::Enter)?;
    let mut moved = Vec::with_capacity(devices.len());
    for NetDevice { host_name, container_name } in devices {
        let find = |errno| NetDeviceError::Find { name: host_name.clone(), errno };
        let index = host.index_of(host_name).map_err(find)?;
        let addresses = host.addresses_of(index).map_err(find)?;
        host.send_away(index, container_name, container).map_err(|errno| NetDeviceError::Move {
            name: host_name.clone(),
            new_name: container_name.clone(),
            errno,
        })?;
        moved.push((container_name, addresses));
    }
    setns(container, CloneFlags::CLONE_NEWNET).map_err(NetDeviceError::Enter)?;
    let configured = configure_all(&moved);
    setns(own, CloneFlags::CLONE_NEWNET).map_err(NetDeviceError::Enter)?;
    configured
}

fn configure_all(moved: &[(&String, Vec<Address>)]) -> Result<(), NetDeviceError> {
    let inside = Netlink::open().map_err(NetDeviceError::Enter)?;
    for (name, addresses) in moved {
        let configure = |errno| NetDeviceError::Configure { name: (*name).clone(), errno };
        let index = inside.index_of(name).map_err(configure)?;
        for address in addresses {
            inside.add_address(index, address).map_err(configure)?;
        }
        inside.bring_up(index).map_err(configure)?;
    }
    Ok(())
}

/// A conversation with the kernel about one network namespace.
#[derive(Debug)]
struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> Result<Self, Errno> {
        socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .map(Self)
    }

    /// Sends one request and collects the answers' bodies until the kernel says that it is done.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, Errno> {
        const NLM_F_REQUEST: u16 = 0x1;
        let length = u32::try_from(16 + body.len()).map_err(|_| Errno::EMSGSIZE)?;
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(body);
        sendto(self.0.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if read_answers(&buffer[..count], flags & NLM_F_ACK != 0, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    fn index_of(&self, name: &str) -> Result<u32, Errno> {
        let mut body = link_header(0, 0, 0);
        put_attribute(&mut body, IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        let answers = self.ask(libc::RTM_GETLINK, 0, &body)?;
        answers.first().and_then(|(_, body)| number_at(body, 4)).ok_or(Errno::ENODEV)
    }

    fn addresses_of(&self, index: u32) -> Result<Vec<Address>, Errno> {
        let answers = self.ask(libc::RTM_GETADDR, NLM_F_DUMP, &[0; 8])?;
        Ok(answers
            .iter()
            .filter(|(kind, body)| *kind == libc::RTM_NEWADDR && number_at(body, 4) == Some(index))
            .filter_map(|(_, body)| parse_address(body))
            .collect())
    }

    fn send_away(&self, index: u32, name: &str, to: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut body = link_header(index, 0, 0);
        put_attribute(&mut body, IFLA_NET_NS_FD, &to.as_raw_fd().to_ne_bytes());
        put_attribute(&mut body, IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        self.ask(libc::RTM_SETLINK, NLM_F_ACK, &body).map(drop)
    }

    fn add_address(&self, index: u32, address: &Address) -> Result<(), Errno> {
        let mut body = vec![address.family, address.prefix_length, 0, 0];
        body.extend_from_slice(&index.to_ne_bytes());
        for (kind, data) in &address.attributes {
            put_attribute(&mut body, *kind, data);
        }
        self.ask(libc::RTM_NEWADDR, NLM_F_ACK | NLM_F_EXCL_CREATE, &body).map(drop)
    }

    fn bring_up(&self, index: u32) -> Result<(), Errno> {
        let up = libc::IFF_UP.cast_unsigned();
        self.ask(libc::RTM_SETLINK, NLM_F_ACK, &link_header(index, up, up)).map(drop)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for number in [index, flags, change] {
        body.extend_from_slice(&number.to_ne_bytes());
    }
    body
}

fn put_attribute(body: &mut Vec<u8>, kind: u16, data: &[u8]) {
    let length = u16::try_from(4 + data.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(data);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn number_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let four = bytes.get(offset..offset + 4)?;
    four.try_into().ok().map(u32::from_ne_bytes)
}

fn short_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let two = bytes.get(offset..offset + 2)?;
    two.try_into().ok().map(u16::from_ne_bytes)
}

/// Takes one datagram apart; returns whether it was the last.
fn read_answers(
    mut bytes: &[u8],
    acknowledged: bool,
    answers: &mut Vec<(u16, Vec<u8>)>,
) -> Result<bool, Errno> {
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    const NLM_F_MULTI: u16 = 2;
    let mut multi = false;
    while !bytes.is_empty() {
        let length = number_at(bytes, 0).and_then(|length| usize::try_from(length).ok());
        let (Some(length), Some(kind), Some(flags)) =
            (length, short_at(bytes, 4), short_at(bytes, 6))
        else {
            return Err(Errno::EBADMSG);
        };
        let body = bytes.get(16..length).ok_or(Errno::EBADMSG)?;
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = number_at(body, 0).ok_or(Errno::EBADMSG)?.cast_signed();
                return if code == 0 { Ok(true) } else { Err(Errno::from_raw(-code)) };
            }
            _ => answers.push((kind, body.to_vec())),
        }
        multi |= flags & NLM_F_MULTI != 0;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(!multi && !acknowledged)
}

/// Reads `struct ifaddrmsg` and what follows; `None` for an address that nobody configured.
fn parse_address(body: &[u8]) -> Option<Address> {
    const SCOPE_GLOBAL: u8 = 0;
    let (family, prefix_length, scope) = (*body.first()?, *body.get(1)?, *body.get(3)?);
    let mut flags = u32::from(*body.get(2)?);
    let mut attributes = Vec::new();
    let mut rest = body.get(8..)?;
    while rest.len() >= 4 {
        let (length, kind) = (usize::from(short_at(rest, 0)?), short_at(rest, 2)?);
        let data = rest.get(4..length)?;
        match kind {
            IFA_FLAGS => flags = number_at(data, 0)?,
            IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST => attributes.push((kind, data.to_vec())),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    let wanted = scope == SCOPE_GLOBAL && flags & IFA_F_PERMANENT != 0;
    wanted.then_some(Address { family, prefix_length, attributes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(scope: u8, flags: u32) -> Vec<u8> {
        let mut body = vec![2, 24, 0, scope];
        body.extend_from_slice(&7_u32.to_ne_bytes());
        put_attribute(&mut body, IFA_LOCAL, &[10, 0, 0, 1]);
        put_attribute(&mut body, 3, b"label\0");
        put_attribute(&mut body, IFA_FLAGS, &flags.to_ne_bytes());
        body
    }

    #[test]
    fn only_global_permanent_addresses_are_taken_along() {
        let taken = parse_address(&address(0, IFA_F_PERMANENT)).unwrap();

        assert_eq!(taken.prefix_length, 24);
        assert_eq!(taken.attributes, [(IFA_LOCAL, vec![10, 0, 0, 1])], "a label names the device");
        assert_eq!(parse_address(&address(0, 0)), None, "a lease of someone else's");
        assert_eq!(parse_address(&address(253, IFA_F_PERMANENT)), None, "link-local");
    }

    #[test]
    fn the_loopback_device_is_found_and_others_are_not() {
        let netlink = Netlink::open().unwrap();

        assert!(netlink.index_of("lo").is_ok());
        assert_eq!(netlink.index_of("no-such-device0").unwrap_err(), Errno::ENODEV);
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_parser_fall_over(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut answers = Vec::new();
            let _ = read_answers(&bytes, true, &mut answers);
            let _ = parse_address(&bytes);
        }
    }
}
