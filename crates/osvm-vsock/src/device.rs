//! The device: connections of one guest, and the multiplexer between its rings and host sockets.

use crate::abuse::Abuse;
use osvm_protocol::Cid;
use rustix::event::epoll;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use virtio_queue::Queue;
use vm_memory::GuestMemory;

/// What one look at a queue did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Progress {
    /// Buffers given back to the guest.
    pub used: u16,
    /// The guest wants an interrupt for them.
    pub interrupt: bool,
    /// The budget of one look ran out: look again.
    pub more: bool,
}

/// What the owner of the device has to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest accepted a connection of [`Device::connect`]; bytes flow.
    Accepted {
        /// As given to `connect`.
        token: u64,
    },
    /// There will be no connection, and the device has closed the host socket.
    Refused {
        /// As given to `connect`.
        token: u64,
        /// Why.
        reason: Refusal,
    },
    /// The guest wants to connect to a port on which [`Device::listen`] was called. Answer with
    /// [`Device::accept`] or [`Device::refuse`].
    Incoming(Peer),
}

/// Why a connection to the guest was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The guest answered with a reset: nothing listens on the port.
    ByGuest,
    /// The guest reset its device before it answered.
    DeviceReset,
    /// The host side hung up before the guest answered.
    ByHost,
    /// The device holds as many connections as it may.
    TooMany,
    /// The host socket can't be used.
    BadSocket,
}

/// The two ports that name a connection of this guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Port on the host's side.
    pub host_port: u32,
    /// Port on the guest's side.
    pub guest_port: u32,
}

/// A virtio-vsock device. One per guest.
#[derive(Debug)]
pub struct Device {
    cid: Cid,
    epoll: OwnedFd,
    events: VecDeque<Event>,
}

impl Device {
    /// A device without connections. Holds one file descriptor of its own, an epoll set.
    pub fn new(cid: Cid) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { cid, epoll, events: VecDeque::new() })
    }

    /// The device's configuration space: the guest's CID as a little-endian u64.
    pub fn config(&self) -> [u8; 8] {
        u64::from(self.cid.get()).to_le_bytes()
    }

    /// Connects the stream socket `host` to the guest's `port`.
    ///
    /// The result comes as [`Event::Accepted`] or [`Event::Refused`] with `token`. Follow with
    /// [`Device::process_rx`]: the request goes out as soon as the guest has room for it.
    pub fn connect(&mut self, port: u32, host: OwnedFd, token: u64) {
        drop((port, host, token));
    }

    /// Lets the guest connect to `port` of the host: each attempt becomes an [`Event::Incoming`].
    /// Without this every attempt is reset.
    pub fn listen(&mut self, port: u32) {
        let _ = port;
    }

    /// Answers an [`Event::Incoming`]: the guest is connected to the stream socket `host`.
    pub fn accept(&mut self, peer: Peer, host: OwnedFd) {
        drop((peer, host));
    }

    /// Answers an [`Event::Incoming`] with a reset.
    pub fn refuse(&mut self, peer: Peer) {
        let _ = peer;
    }

    /// Readable when host sockets want [`Device::service_host`]. Valid as long as the device.
    pub fn epoll_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Takes note of which host sockets became readable or writable, and writes what waits for
    /// them. Never blocks. Follow with [`Device::process_rx`].
    pub fn service_host(&mut self) {}

    /// Whether [`Device::process_rx`] has something to try.
    pub fn rx_pending(&self) -> bool {
        false
    }

    /// Takes packets from the guest. Follow with [`Device::process_rx`].
    pub fn process_tx<M: GuestMemory>(
        &mut self,
        mem: &M,
        tx: &mut Queue,
    ) -> Result<Progress, Abuse> {
        let _ = (mem, tx);
        Ok(Progress::default())
    }

    /// Gives the guest what waits for it, as far as it has buffers.
    pub fn process_rx<M: GuestMemory>(
        &mut self,
        mem: &M,
        rx: &mut Queue,
    ) -> Result<Progress, Abuse> {
        let _ = (mem, rx);
        Ok(Progress::default())
    }

    /// Tells the guest about a transport reset, once it has a buffer for that.
    pub fn process_event<M: GuestMemory>(
        &mut self,
        mem: &M,
        event: &mut Queue,
    ) -> Result<Progress, Abuse> {
        let _ = (mem, event);
        Ok(Progress::default())
    }

    /// Ends all connections because the guest goes on elsewhere, as after a snapshot: its driver
    /// is told by an event to forget them too. Follow with [`Device::process_event`].
    pub fn transport_reset(&mut self) {}

    /// The driver reset the device: ends all connections, except those it has not seen yet.
    pub fn driver_reset(&mut self) {}

    /// What happened since the last call, in order.
    pub fn take_events(&mut self) -> impl Iterator<Item = Event> + use<'_> {
        self.events.drain(..)
    }
}
