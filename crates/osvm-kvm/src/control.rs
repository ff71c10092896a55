//! What osvm and a VM process say to each other, and the socket they say it over.
//!
//! ```text
//! osvm                                          osvm-vm
//!   Start + kernel, memory, console, lease ──▶
//!   boot page (raw bytes)                  ──▶
//!                                          ◀── Ready | NotStarted
//!   Connect + a stream socket              ──▶
//!                                          ◀── Accepted | Refused
//!                                          ◀── Counted, once, if asked for
//!                                          ◀── Ended
//! ```
//!
//! A Linux guest is started with another first message, [`StartLinux`], and may be told to save
//! itself: [`Order::Save`], answered by [`Event::Saved`] or [`Event::NotSaved`], is its end.
//!
//! A SOCK_SEQPACKET pair: one message is one packet, descriptors travel with it, and an end that
//! is gone reads as end of file. Both sides are built together, so the encoding has no version.

use crate::BootProtocol;
use osvm_protocol::Cid;
use osvm_protocol::boot::MAX_BODY;
use osvm_vmm::Death;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest message of the VM process, in bytes.
pub(crate) const MAX_EVENT: usize = 4096;
/// Longest text in a message of the VM process, in bytes: a cleaned text grows at most threefold.
pub(crate) const MAX_TEXT: usize = 600;
/// Longest message of osvm, in bytes: a boot page with its header of 12 bytes.
pub(crate) const MAX_ORDER: usize = MAX_BODY as usize + 12;
/// Most descriptors that come with a message.
const MAX_FDS: usize = 6;

/// The first message of osvm. Its descriptors are the kernel, the guest's memory, the console
/// and, if there is one, the lease.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Start {
    /// Guest memory in bytes; the memory file has this size.
    pub(crate) memory: u64,
    /// The guest's address.
    pub(crate) cid: u32,
    /// How the image is entered.
    pub(crate) protocol: BootProtocol,
    /// Whether to send [`Event::Counted`].
    pub(crate) count: bool,
    /// Bytes of the boot page that follows; 0 means that none follows.
    pub(crate) boot_page: usize,
}

impl Start {
    pub(crate) fn cid(&self) -> Option<Cid> {
        Cid::new(self.cid).ok()
    }
}

/// The first message of osvm for a Linux guest. Its descriptors are the guest's memory, the
/// console, the root file system, what `life` names and, if there is one, the lease.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StartLinux {
    /// Guest memory in bytes; the memory file has this size.
    pub(crate) memory: u64,
    /// The guest's address.
    pub(crate) cid: u32,
    /// How the guest begins.
    pub(crate) life: Life,
}

/// How a Linux guest begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Life {
    /// From its kernel. Descriptors: the kernel and the initial RAM disk.
    Boot,
    /// As a copy, which keeps what it writes to memory to itself. Descriptor: the saved state.
    Copy,
}

/// A later message of osvm.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Order {
    /// Open a stream. The host's end is the message's descriptor.
    Connect {
        /// Comes back in the answer.
        token: u64,
        /// The port inside the guest.
        port: u32,
    },
    /// Stop the guest, write its state to the file that is the message's descriptor, and end. For
    /// Linux guests only.
    Save,
}

/// A message of the VM process.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Event {
    /// The next thing that happens is the guest's first instruction.
    Ready {
        /// What is in force.
        jail: Jail,
        /// When the steps to here ended.
        times: BootTimes,
    },
    /// There will be no guest.
    NotStarted(NotStarted),
    /// The guest accepted a connection.
    Accepted {
        /// Of the [`Connect`].
        token: u64,
    },
    /// There will be no connection.
    Refused {
        /// Of the [`Connect`].
        token: u64,
    },
    /// The guest has sent its first payload bytes.
    Counted(Counts),
    /// The guest is stopped and its state is written; the process ends.
    Saved,
    /// The guest is stopped and could not be saved; the process ends.
    NotSaved {
        /// What failed.
        reason: String,
    },
    /// The guest has ended.
    Ended(End),
}

/// Why there will be no guest.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum NotStarted {
    /// `/dev/kvm` can't be opened.
    OpenKvm {
        /// What the host answered.
        errno: i32,
    },
    /// The image can't be booted.
    BadImage {
        /// What is wrong with it.
        reason: String,
    },
    /// The saved state of a guest can't be taken up.
    BadState {
        /// What is wrong with it.
        reason: String,
    },
    /// A step failed.
    Step {
        /// What was to be done.
        what: String,
        /// What the host answered, if it was the host that refused.
        errno: i32,
    },
}

/// How the guest ended.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum End {
    /// It said why on its console and gave up.
    Panicked {
        /// The line it said.
        last_words: String,
    },
    /// The processor gave up.
    TripleFault,
    /// It asked to be switched off or reset.
    ShutDown,
    /// It touched what is neither memory nor a device.
    OutOfBounds {
        /// The guest-physical address.
        address: u64,
    },
    /// It broke the rules of a device.
    DeviceAbuse {
        /// Whose rules.
        device: Device,
        /// The rule.
        reason: String,
    },
    /// KVM or the VM process itself failed.
    VmmFailed {
        /// What failed.
        reason: String,
    },
}

impl From<End> for Death {
    fn from(end: End) -> Self {
        let clean = |text: String| osvm_vmm::clean(text.as_bytes(), MAX_TEXT);
        match end {
            End::Panicked { last_words } => Self::Panicked { last_words: clean(last_words) },
            End::TripleFault => Self::TripleFault,
            End::ShutDown => Self::ShutDown,
            End::OutOfBounds { address } => Self::OutOfBounds { address },
            End::DeviceAbuse { device, reason } => {
                Self::DeviceAbuse { device: device.name(), reason: clean(reason) }
            }
            End::VmmFailed { reason } => Self::VmmFailed { reason: clean(reason) },
        }
    }
}

/// A device with rules that a guest can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Device {
    /// The stream.
    Vsock,
    /// The root file system.
    Block,
}

impl Device {
    fn name(self) -> &'static str {
        match self {
            Self::Vsock => "vsock device",
            Self::Block => "block device",
        }
    }
}

/// What keeps a VM process in, as the process reported it just before the guest's first
/// instruction.
///
/// The parts without a field are always in force, or the guest is not started: no new
/// privileges, resource limits, no core dump, not dumpable, no other descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Jail {
    /// Every system call outside a short list kills the process. Always true: without it the
    /// guest is not started.
    pub seccomp: bool,
    /// It holds no capabilities. Always true, as above.
    pub no_capabilities: bool,
    /// Version of the Landlock interface under which nothing in the file system and no socket
    /// can be reached; 0 where the kernel has no Landlock.
    pub landlock: u8,
    /// It is alone in an empty network namespace; false where the host does not allow that.
    pub network_namespace: bool,
}

/// When the steps of a boot ended, in nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct BootTimes {
    /// The VM process began to run code of its own.
    pub started: u64,
    /// It had an empty VM, and had left the host's network if it could.
    pub vm_made: u64,
    /// It had the spec.
    pub told: u64,
    /// The image was in guest memory and the processor was set up.
    pub loaded: u64,
    /// The jail was in force; the guest's first instruction comes next.
    pub jailed: u64,
}

/// What the guest cost until its first payload bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Counts {
    /// Returns of KVM_RUN.
    pub exits: u64,
    /// Guest instructions that KVM interpreted, from its statistics (`insn_emulation`): all of
    /// them on a KVM that interprets, few on hardware. `None` where KVM has no such statistics.
    pub interpreted: Option<u64>,
}

/// One end of the socket.
#[derive(Debug)]
pub(crate) struct Control<Fd>(Fd);

/// A message that arrived.
#[derive(Debug)]
pub(crate) struct Received {
    /// Bytes of the buffer it fills; never 0.
    pub(crate) len: usize,
    /// The descriptors that came with it.
    pub(crate) fds: Vec<OwnedFd>,
}

/// Both ends: osvm's, and the one that becomes the VM process's standard input.
pub(crate) fn pair() -> io::Result<(Control<OwnedFd>, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Control(ours), theirs))
}

impl<Fd: AsFd> Control<Fd> {
    /// Wraps the VM process's end.
    pub(crate) fn new(socket: Fd) -> Self {
        Self(socket)
    }

    /// Sends a message and descriptors. Never blocks.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the other side has stopped reading, `BrokenPipe` when it is gone.
    pub(crate) fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.send_bytes(&bytes, fds)
    }

    /// Sends raw bytes and descriptors. Never blocks.
    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut rights, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                // How a socket says "gone" when the other side left messages unread.
                Err(Errno::CONNRESET) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Receives one message. `None` means that the other side is gone.
    ///
    /// # Errors
    ///
    /// `WouldBlock` with `RecvFlags::DONTWAIT` and nothing there; `InvalidData` when the message
    /// does not fit into `buffer`, or its descriptors into this process.
    pub(crate) fn receive(
        &self,
        buffer: &mut [u8],
        flags: RecvFlags,
    ) -> io::Result<Option<Received>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
                Ok(received) => break received,
                // The other side left messages of ours unread. That is said once, before what it
                // had sent itself can be received.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let fds = rights.flatten().collect();
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok((received.bytes != 0).then_some(Received { len: received.bytes, fds }))
    }
}

impl<Fd: AsFd> AsFd for Control<Fd> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests;
