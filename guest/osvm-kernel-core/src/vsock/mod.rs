//! virtio-vsock: byte streams that the host opens to one port of the guest.
//!
//! ```text
//! REQUEST ──▶ backlog ──accept──▶ served ──read, write_all──▶ finish ──▶ forgotten
//!                │ full                │ RST, credit overrun, transport reset
//!                ▼                     ▼
//!               RST                  reset: every further call is an error
//! ```
//!
//! # Invariants
//!
//! - One connection is served at a time. A peer in the backlog is answered when its turn comes, so
//!   it can't send before, and nothing has to be kept for it.
//! - A send never exceeds the peer's window. While it waits, what the peer sends is still taken:
//!   it goes to a stash that our own credit bounds, so two full windows can't block each other.
//! - Received data stays in its receive buffer until it is read, so it is copied once; sent data
//!   is read by the device where it lies, so it is not copied at all.
//! - At least one receive buffer is with the device whenever the guest waits.
//! - After a transport reset (a snapshot was restored elsewhere) all connections are gone, the
//!   address is read anew and the event buffer is back with the device.
//!
//! # Not here
//!
//! - Connections opened by the guest, datagrams and seqpackets: osvm needs none.
//! - Deadlines: the host ends a guest that is late.

pub mod packet;
pub mod peers;
mod receive;
pub mod served;
mod transmit;

use crate::virtio::mmio::{Device, DeviceError, Mmio};
use crate::virtio::ring::{Buffer, Queue, Ring, SIZE, address_of};
use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicU32, Ordering};
use packet::{Header, SharedHeader, op, shutdown};
use peers::{Backlog, Refusals};
use receive::Held;
use served::Served;
use thiserror::Error;
use transmit::header_for;

/// The virtio device id of a vsock device.
pub const DEVICE_ID: u32 = 19;
/// Address of the host on every vsock bus.
pub const HOST_CID: u64 = 2;
/// Length of one receive buffer in bytes, header included: the longest packet Linux sends.
pub const RX_BUFFER_LEN: u32 = 64 * 1024;
/// Receive buffers that are needed.
pub const RX_BUFFERS: u16 = SIZE;

/// Index of the queue the device fills.
const RX: u32 = 0;
/// Index of the queue the guest fills.
const TX: u32 = 1;
/// Index of the queue for events of the transport.
const EVENTS: u32 = 2;

/// All memory shared with the device besides the receive buffers.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Shared {
    rx: Ring,
    tx: Ring,
    events: Ring,
    header: SharedHeader,
    event: AtomicU32,
}

impl Shared {
    /// All zeros.
    pub const fn new() -> Self {
        Self {
            rx: Ring::new(),
            tx: Ring::new(),
            events: Ring::new(),
            header: SharedHeader::new(),
            event: AtomicU32::new(0),
        }
    }
}

/// What the driver needs of the machine besides the device's registers.
pub trait Platform {
    /// Physical address of receive buffer `buffer`, which is [`RX_BUFFER_LEN`] bytes long.
    fn rx_address(&self, buffer: u16) -> u64;
    /// Copies `out.len()` bytes from offset `at` of receive buffer `buffer`. What lies outside of
    /// the buffer is not copied.
    fn rx_copy(&self, buffer: u16, at: usize, out: &mut [u8]);
    /// The address at which the device can read `bytes`. The driver keeps them borrowed until the
    /// device has given them back.
    fn lend(&self, bytes: &[u8]) -> u64;
    /// Whether [`Platform::wait`] is woken by the device's interrupt, which then has to be
    /// acknowledged.
    fn uses_interrupts(&self) -> bool;
    /// Gives up the processor until the device may have something new. May return too early.
    fn wait(&mut self);
}

/// Why a stream can't be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StreamError {
    /// The peer is gone, or broke the rules and was sent away.
    #[error("the connection was reset")]
    Reset,
    /// The peer receives nothing more.
    #[error("the peer has stopped receiving")]
    PeerStoppedReceiving,
}

/// A listening vsock device.
#[derive(Debug)]
pub struct Vsock<'m, M, P> {
    device: Device<M>,
    platform: P,
    shared: &'m Shared,
    rx: Queue<'m>,
    tx: Queue<'m>,
    events: Queue<'m>,
    /// Receive buffers given back since the device was last told.
    untold: u16,
    cid: u64,
    port: u32,
    served: Option<Served>,
    backlog: Backlog,
    refusals: Refusals,
    held: Option<Held>,
    stash: VecDeque<u8>,
}

impl<'m, M: Mmio, P: Platform> Vsock<'m, M, P> {
    /// Brings up `device` and listens on `port`. `shared` must be new.
    pub fn new(
        device: Device<M>,
        platform: P,
        shared: &'m Shared,
        port: u32,
    ) -> Result<Self, DeviceError> {
        device.prepare(&[&shared.rx, &shared.tx, &shared.events])?;
        let mut vsock = Self {
            cid: u64::from(device.config(0)),
            device,
            platform,
            shared,
            rx: Queue::new(&shared.rx),
            tx: Queue::new(&shared.tx),
            events: Queue::new(&shared.events),
            untold: 0,
            port,
            served: None,
            backlog: Backlog::default(),
            refusals: Refusals::default(),
            held: None,
            stash: VecDeque::new(),
        };
        if !vsock.platform.uses_interrupts() {
            for queue in [&vsock.rx, &vsock.tx, &vsock.events] {
                queue.silence();
            }
        }
        for buffer in 0..RX_BUFFERS {
            let address = vsock.platform.rx_address(buffer);
            vsock.rx.describe_writable(buffer, Buffer { address, len: RX_BUFFER_LEN });
            vsock.rx.offer(buffer);
        }
        let event = Buffer { address: address_of(&shared.event), len: 4 };
        vsock.events.describe_writable(0, event);
        vsock.events.offer(0);
        vsock.device.start();
        vsock.device.notify(RX);
        Ok(vsock)
    }

    /// The guest's address, as the device last told it.
    pub fn cid(&self) -> u64 {
        self.cid
    }

    /// Waits for a peer and accepts it.
    pub fn accept(&mut self) -> Stream<'_, 'm, M, P> {
        loop {
            if let Some(peer) = self.backlog.pop() {
                self.served = Some(Served::accept(peer));
                self.flush();
                return Stream { vsock: self };
            }
            self.poll_or_wait();
        }
    }

    /// Takes what the device has brought and sends what is owed; waits if there was nothing.
    fn poll_or_wait(&mut self) {
        let progress = self.poll();
        self.flush();
        if !progress {
            self.platform.wait();
            if self.platform.uses_interrupts() {
                self.device.acknowledge_interrupt();
            }
        }
    }

    /// Takes one event and one packet, if there are any.
    fn poll(&mut self) -> bool {
        let event = self.poll_events();
        let packet = self.refusals.has_room() && self.poll_rx();
        event || packet
    }

    fn poll_events(&mut self) -> bool {
        let Some(_) = self.events.take() else {
            return false;
        };
        // TRANSPORT_RESET is the only event there is, and its number is 0.
        if self.shared.event.load(Ordering::Relaxed) == 0 {
            self.cid = u64::from(self.device.config(0));
            self.backlog.clear();
            self.refusals.clear();
            if let Some(served) = &mut self.served {
                served.note_reset();
            }
        }
        self.events.offer(0);
        if self.events.wants_notification() {
            self.device.notify(EVENTS);
        }
        true
    }

    /// Ends the served connection, if there is one.
    fn finish(&mut self) {
        if let Some(held) = self.held.take() {
            self.give_back(held.buffer);
        }
        self.stash.clear();
        self.drain();
        let Some(mut served) = self.served.take() else {
            return;
        };
        if served.is_reset() {
            return;
        }
        let header = if served.peer_stopped_sending() && served.peer_stopped_receiving() {
            header_for(&mut served, self.cid, self.port, op::RST)
        } else {
            // The peer answers with RST. Whatever else it sends until then is refused.
            let header = header_for(&mut served, self.cid, self.port, op::SHUTDOWN);
            Header { flags: shutdown::BOTH, ..header }
        };
        self.send(&header, &[]);
    }
}

/// An accepted connection. Dropping it ends the connection.
#[derive(Debug)]
pub struct Stream<'v, 'm, M: Mmio, P: Platform> {
    vsock: &'v mut Vsock<'m, M, P>,
}

impl<M: Mmio, P: Platform> Stream<'_, '_, M, P> {
    /// Waits for at least one byte and reads what is there; 0 means that the peer will send no
    /// more, or that `out` is empty.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, StreamError> {
        self.vsock.read(out)
    }

    /// Sends all of `bytes`, waiting for the peer's window. On return the device has read them.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.vsock.write_all(bytes)
    }
}

impl<M: Mmio, P: Platform> Drop for Stream<'_, '_, M, P> {
    fn drop(&mut self) {
        self.vsock.finish();
    }
}

#[cfg(test)]
mod tests;
