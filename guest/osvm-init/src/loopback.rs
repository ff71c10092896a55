//! The loopback interface, the only network there is: programs may talk to themselves.

use rustix::io::{Errno, Result};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, sendto, socket_with};
use std::net::Ipv4Addr;

/// One `RTM_NEWLINK` with flags NLM_F_REQUEST | NLM_F_ACK, interface 1, IFF_UP set: rtnetlink(7).
/// All numbers are in the byte order of the machine, x86-64.
const UP: [u8; 32] = [
    32, 0, 0, 0, 16, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, // length, type, flags, sequence, port
    0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, // family, interface, flags, which flags
];

/// One `RTM_NEWADDR` likewise, with NLM_F_CREATE: a /24 of AF_INET for interface 1. IFA_LOCAL, whose
/// value is to follow.
const ADDRESS: [u8; 28] = [
    32, 0, 0, 0, 20, 0, 5, 4, 1, 0, 0, 0, 0, 0, 0, 0, // length, type, flags, sequence, port
    2, 24, 0, 0, 1, 0, 0, 0, 8, 0, 2,
    0, // family, bits, flags, scope, interface; length, type
];

/// Offset of the error code in the kernel's answer: nlmsgerr of netlink(7).
const CODE: usize = 16;

/// Brings it up. The kernel then gives it 127.0.0.1.
pub(crate) fn bring_up() -> Result<()> {
    ask(&UP)
}

/// Makes the 256 addresses around `address` local, all of them: so it is on this interface.
pub(crate) fn add_block(address: Ipv4Addr) -> Result<()> {
    ask(&[&ADDRESS[..], &address.octets()].concat())
}

fn ask(message: &[u8]) -> Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    sendto(&socket, message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 128];
    recv(&socket, &mut answer, RecvFlags::empty())?;
    let code =
        answer.get(CODE..).and_then(|rest| rest.first_chunk()).map(|c| i32::from_ne_bytes(*c));
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(code.saturating_neg())),
        None => Err(Errno::BADMSG),
    }
}
