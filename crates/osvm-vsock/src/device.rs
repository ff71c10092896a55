//! The device: rings on one side, connections on the other.
//!
//! # Invariants
//!
//! - One look at a queue handles at most as many buffers as it has entries, so a guest that adds
//!   them while it is looked at can't keep the device busy for ever.
//! - A buffer is taken for the guest only when there is something to put into it.
//! - After a transport reset nothing goes to the guest before its driver has dealt with the event.
//!   Linux ends every connection it knows at that moment, so a new one must not come before.
//! - While nothing waits for buffers, the guest is asked not to notify the rx queue: each
//!   notification is an exit from the guest, and the next packet finds new buffers anyway.
//!
//! # Not here
//!
//! - What packets mean: see `mux` and `connection`. What chains may look like: see `chain`.

use crate::abuse::{Abuse, QueueName};
use crate::chain::{self, Chain, wants_interrupt};
use crate::mux::Mux;
use crate::packet::{HEADER_BYTES, HEADER_LEN, Header};
use osvm_protocol::Cid;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestMemory, Permissions};

/// What one look at a queue did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Progress {
    /// Buffers given back to the guest.
    pub used: u16,
    /// The guest wants an interrupt for them.
    pub interrupt: bool,
    /// The budget of one look ran out while the guest had more: look again.
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
    /// The host socket can't be watched for events.
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
///
/// After an [`Abuse`] its state means nothing any more: drop it with the guest.
#[derive(Debug)]
pub struct Device {
    pub(crate) mux: Mux,
    rx: Chain,
    tx: Chain,
    event: Chain,
    transport_reset: TransportReset,
}

/// How far the guest's driver knows that its connections are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransportReset {
    /// As far as it needs to: there was none, or the driver has dealt with it.
    Known,
    /// There is no event yet.
    ToTell,
    /// The event is in the guest's buffer, which was taken while the available index was this.
    /// A driver makes the buffer available again when it has dealt with the event.
    Told { available: u16 },
}

impl Device {
    /// A device without connections. Holds one file descriptor of its own, an epoll set.
    ///
    /// # Errors
    ///
    /// The process has no file descriptor left.
    pub fn new(cid: Cid) -> io::Result<Self> {
        Ok(Self {
            mux: Mux::new(cid)?,
            rx: Chain::new(QueueName::Rx, Permissions::Write),
            tx: Chain::new(QueueName::Tx, Permissions::Read),
            event: Chain::new(QueueName::Event, Permissions::Write),
            transport_reset: TransportReset::Known,
        })
    }

    /// The device's configuration space: the guest's CID as a little-endian u64.
    pub fn config(&self) -> [u8; 8] {
        u64::from(self.mux.cid().get()).to_le_bytes()
    }

    /// Connects the stream socket `host` to the guest's `port`.
    ///
    /// The result comes as [`Event::Accepted`] or [`Event::Refused`] with `token`. Follow with
    /// [`Device::process_rx`]: the request goes out as soon as the guest has room for it.
    ///
    /// The socket need not be non-blocking: the device never waits for it. Bytes that are in it
    /// already are the guest's as soon as it accepts. A host that closes it before has thought
    /// better of it ([`Refusal::ByHost`]).
    pub fn connect(&mut self, port: u32, host: OwnedFd, token: u64) {
        self.mux.connect(port, host, token);
    }

    /// Lets the guest connect to `port` of the host: each attempt becomes an [`Event::Incoming`].
    /// Without this every attempt is reset.
    pub fn listen(&mut self, port: u32) {
        self.mux.listen(port);
    }

    /// Answers an [`Event::Incoming`]: the guest is connected to the stream socket `host`, which
    /// is closed if the guest has gone away meanwhile. Follow with [`Device::process_rx`].
    pub fn accept(&mut self, peer: Peer, host: OwnedFd) {
        self.mux.accept(peer, host);
    }

    /// Answers an [`Event::Incoming`] with a reset. Follow with [`Device::process_rx`].
    pub fn refuse(&mut self, peer: Peer) {
        self.mux.refuse(peer);
    }

    /// Readable when host sockets want [`Device::service_host`]. The same as long as the device.
    pub fn epoll_fd(&self) -> BorrowedFd<'_> {
        self.mux.epoll_fd()
    }

    /// Takes note of which host sockets became readable or writable, and writes what waits for
    /// them. Never blocks. Follow with [`Device::process_rx`].
    pub fn service_host(&mut self) {
        self.mux.host_events();
    }

    /// Whether [`Device::process_rx`] has something to try.
    pub fn rx_pending(&self) -> bool {
        self.mux.wants_guest()
    }

    /// Takes packets from the guest, and writes their payload to the host sockets at once as far
    /// as they take it. Follow with [`Device::process_rx`], which has the answers.
    ///
    /// # Errors
    ///
    /// The guest has to be ended: see [`Abuse`].
    pub fn process_tx<M: GuestMemory>(
        &mut self,
        mem: &M,
        tx: &mut Queue,
    ) -> Result<Progress, Abuse> {
        chain::check(mem, tx, QueueName::Tx)?;
        let outside = Abuse::RingOutsideMemory(QueueName::Tx);
        let mut progress = Progress::default();
        while self.tx.next(mem, tx)? {
            let held = self.tx.payload_len()?;
            let mut header = [0; HEADER_LEN];
            self.tx.read(mem, 0, &mut header)?;
            let header = Header::decode(&header);
            if held < header.len.into() {
                return Err(Abuse::PacketTruncated { announced: header.len, held });
            }
            let chain = &self.tx;
            self.mux.guest_packet(&header, |offset, piece| {
                chain.read(mem, offset.saturating_add(HEADER_LEN as u64), piece)
            })?;
            self.tx.give_back(mem, tx, 0)?;
            progress.used = progress.used.saturating_add(1);
            if tx.size() <= progress.used {
                let index = tx.avail_idx(mem, Ordering::Acquire).map_err(|_| outside)?;
                progress.more = index.0 != tx.next_avail();
                break;
            }
        }
        progress.interrupt = wants_interrupt(mem, tx, progress.used, QueueName::Tx)?;
        Ok(progress)
    }

    /// Gives the guest what waits for it, as far as it has buffers. Payload is read from the host
    /// sockets here, and only as much as the guest has room and credit for.
    ///
    /// # Errors
    ///
    /// The guest has to be ended: see [`Abuse`].
    pub fn process_rx<M: GuestMemory>(
        &mut self,
        mem: &M,
        rx: &mut Queue,
    ) -> Result<Progress, Abuse> {
        let mut progress = Progress::default();
        if self.transport_reset != TransportReset::Known {
            return Ok(progress);
        }
        chain::check(mem, rx, QueueName::Rx)?;
        let outside = |_| Abuse::RingOutsideMemory(QueueName::Rx);
        while self.mux.wants_guest() {
            if rx.size() <= progress.used {
                progress.more = rx.enable_notification(mem).map_err(outside)?;
                break;
            }
            let available = self.rx.next(mem, rx)?
                || (rx.enable_notification(mem).map_err(outside)? && self.rx.next(mem, rx)?);
            if !available {
                break;
            }
            let room = usize::try_from(self.rx.payload_len()?).unwrap_or(usize::MAX);
            if room == 0 {
                return Err(self.rx.too_short());
            }
            let Some((header, payload)) = self.mux.next_packet(room) else {
                rx.go_to_previous_position();
                break;
            };
            self.rx.write(mem, 0, &header.encode())?;
            self.rx.write(mem, HEADER_LEN as u64, payload)?;
            let written = header.len.saturating_add(HEADER_BYTES);
            self.rx.give_back(mem, rx, written)?;
            progress.used = progress.used.saturating_add(1);
        }
        if !self.mux.wants_guest() {
            rx.disable_notification(mem).map_err(outside)?;
        }
        progress.interrupt = wants_interrupt(mem, rx, progress.used, QueueName::Rx)?;
        Ok(progress)
    }

    /// Tells the guest about a transport reset, once it has a buffer for that, and notes when the
    /// driver has dealt with it. Follow with [`Device::process_rx`], for what waited for that.
    ///
    /// # Errors
    ///
    /// The guest has to be ended: see [`Abuse`].
    pub fn process_event<M: GuestMemory>(
        &mut self,
        mem: &M,
        event: &mut Queue,
    ) -> Result<Progress, Abuse> {
        /// `struct virtio_vsock_event`: its only member, and the only event there is.
        const TRANSPORT_RESET: [u8; 4] = 0_u32.to_le_bytes();
        const LEN: u32 = 4;
        let mut progress = Progress::default();
        if self.transport_reset == TransportReset::Known {
            return Ok(progress);
        }
        chain::check(mem, event, QueueName::Event)?;
        let outside = Abuse::RingOutsideMemory(QueueName::Event);
        let available = event.avail_idx(mem, Ordering::Acquire).map_err(|_| outside)?.0;
        if let TransportReset::Told { available: before } = self.transport_reset {
            if before != available {
                self.transport_reset = TransportReset::Known;
            }
            return Ok(progress);
        }
        if self.event.next(mem, event)? {
            if self.event.len() < LEN.into() {
                return Err(self.event.too_short());
            }
            self.event.write(mem, 0, &TRANSPORT_RESET)?;
            self.event.give_back(mem, event, LEN)?;
            self.transport_reset = TransportReset::Told { available };
            progress.used = 1;
        }
        progress.interrupt = wants_interrupt(mem, event, progress.used, QueueName::Event)?;
        Ok(progress)
    }

    /// Ends all connections because the guest goes on elsewhere, as after a snapshot: its driver
    /// is told by an event to forget them too. New connections wait until it has. Follow with
    /// [`Device::process_event`].
    pub fn transport_reset(&mut self) {
        self.mux.forget_guest();
        self.transport_reset = TransportReset::ToTell;
    }

    /// The driver reset the device: ends all connections, except those it has not seen yet.
    pub fn driver_reset(&mut self) {
        self.mux.forget_guest();
        self.transport_reset = TransportReset::Known;
    }

    /// Port of the host's side of the next connection the host makes, if it is free.
    pub(crate) fn next_port(&self) -> u32 {
        self.mux.next_port()
    }

    /// Goes on where another device has stopped, which had come to `next_port`: no port that its
    /// guest may still speak of is used for a new connection.
    pub(crate) fn succeed(&mut self, next_port: u32) {
        self.mux.succeed(next_port);
    }

    /// Bytes the guest has sent on its connections so far: 0 until it has something to say.
    pub fn payload_from_guest(&self) -> u64 {
        self.mux.payload_from_guest()
    }

    /// What happened since the last call, in order. To be called after every other call, or
    /// events pile up.
    pub fn take_events(&mut self) -> impl Iterator<Item = Event> + use<'_> {
        self.mux.take_events()
    }
}
