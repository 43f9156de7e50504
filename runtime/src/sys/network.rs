//! Network interfaces, by the requests of netdevice(7).

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// A request about the loopback device; the answer's flags are in it after a call.
fn loopback() -> libc::ifreq {
    let mut name = [0; libc::IFNAMSIZ];
    for (slot, byte) in name.iter_mut().zip(b"lo") {
        *slot = libc::c_char::from_ne_bytes([*byte]);
    }
    libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 } }
}

/// Brings the loopback device of the calling thread's network namespace up; `socket` is any socket
/// of that namespace. See netdevice(7), `SIOCSIFFLAGS`.
///
/// Replaces the flags instead of reading them first: in a new namespace the device has none but those
/// that the kernel keeps on its own.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN in the user namespace that owns the network namespace.
pub fn bring_loopback_up(socket: impl AsFd) -> Result<(), Errno> {
    let mut request = loopback();
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads one `ifreq` from an address that is valid for that long, and takes the
    // flags from the member that was set.
    let ret =
        unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(ret).map(drop)
}
