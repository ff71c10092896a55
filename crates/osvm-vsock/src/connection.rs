//! One stream between a host socket and a port of the guest.
//!
//! ```text
//! Requested ──RESPONSE──▶ Open ──RST after SHUTDOWN──▶ Draining ──flushed──▶ (gone)
//! Incoming ───accept────▶  │
//!                          └── both sides done, RST, or an error ──▶ (gone)
//! ```
//!
//! # Invariants
//!
//! - Bytes for the host are in `unsent` only after its socket took no more, and never more than
//!   the window the guest was given. Bytes for the guest stay in the host socket until a buffer
//!   of the guest is there to take them and its window is open: that is the back-pressure.
//! - `readable` and `writable` are hopes: set by an event of the (edge-triggered) epoll set or at
//!   the start, cleared by the system call that was refused. So a system call is made where it
//!   is likely to do work, and an epoll registration is made once and never changed.
//! - What has to be told to the guest is a bit in `due`, not a packet in a list, so a guest that
//!   takes nothing grows nothing.
//!
//! # Not here
//!
//! - Who is next, and what happens to a connection that ends: see `mux`.

use crate::abuse::Abuse;
use crate::credit::Credit;
use crate::packet::{Header, SHUTDOWN_BOTH, SHUTDOWN_RCV, SHUTDOWN_SEND, op};
use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;

/// Packets that wait to be sent to the guest, one bit each.
mod due {
    pub(super) const REQUEST: u8 = 1;
    pub(super) const RESPONSE: u8 = 1 << 1;
    pub(super) const SHUTDOWN: u8 = 1 << 2;
    pub(super) const CREDIT_UPDATE: u8 = 1 << 3;
    pub(super) const CREDIT_REQUEST: u8 = 1 << 4;
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The host wants it; the guest has not answered.
    Requested { token: u64 },
    /// The guest wants it; the host has not answered.
    Incoming,
    /// Bytes flow.
    Open,
    /// The guest is done with it, and the host has not taken all it sent.
    Draining,
}

/// What becomes of a connection after something happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Fate {
    /// It goes on.
    Keep,
    /// It ends, and the guest is told so.
    Reset,
    /// It ends, and the guest knows.
    Gone,
}

/// What a connection has for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A packet; `len` bytes of payload are in the buffer.
    Packet { op: u16, flags: u32, len: usize },
    /// Nothing after all.
    Nothing,
    /// The host socket failed: the connection ends with a reset.
    Reset,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) state: State,
    pub(crate) credit: Credit,
    /// Whether it stands in the line of those that have something for the guest.
    pub(crate) queued: bool,
    /// None as long as the host has not accepted, and once no byte can go either way any more.
    socket: Option<OwnedFd>,
    unsent: VecDeque<u8>,
    due: u8,
    /// SHUTDOWN flags the guest sent: what it will not do any more.
    guest_done: u32,
    /// SHUTDOWN flags the guest was or will be sent: what the host will not do any more.
    host_done: u32,
    /// The host socket has been told that the guest sends no more.
    write_shut: bool,
    readable: bool,
    writable: bool,
    /// The host has closed its end, or half of it, or broke it: there may be no further event.
    last_event: bool,
    hung_up: bool,
    /// The guest was asked for credit and has not given any since.
    asked: bool,
}

impl Connection {
    /// A connection the host asks for.
    pub(crate) fn requested(token: u64, socket: OwnedFd, credit: Credit) -> Self {
        let state = State::Requested { token };
        Self { socket: Some(socket), due: due::REQUEST, ..Self::new(state, credit) }
    }

    /// A connection the guest asks for.
    pub(crate) fn incoming(credit: Credit) -> Self {
        Self::new(State::Incoming, credit)
    }

    fn new(state: State, credit: Credit) -> Self {
        Self {
            state,
            credit,
            queued: false,
            socket: None,
            unsent: VecDeque::new(),
            due: 0,
            guest_done: 0,
            host_done: 0,
            write_shut: false,
            readable: true,
            writable: true,
            last_event: false,
            hung_up: false,
            asked: false,
        }
    }

    /// The host takes an incoming connection.
    pub(crate) fn accept(&mut self, socket: OwnedFd) {
        self.socket = Some(socket);
        self.state = State::Open;
        self.due |= due::RESPONSE;
    }

    /// Whether the guest has been asked for this connection yet.
    pub(crate) fn is_announced(&self) -> bool {
        self.due & due::REQUEST == 0
    }

    /// Whether only a confirmation by the guest is missing, and it had its chance to send it.
    pub(crate) fn awaits_only_the_guest(&self) -> bool {
        self.host_done == SHUTDOWN_BOTH && self.due & due::SHUTDOWN == 0
    }

    /// Whether there is something to try for the guest.
    pub(crate) fn wants_guest(&self) -> bool {
        self.due != 0 || (self.may_read() && (self.credit.room_at_guest() != 0 || !self.asked))
    }

    fn may_read(&self) -> bool {
        let open = self.state == State::Open && self.socket.is_some();
        open && self.readable && !self.read_ended()
    }

    /// Whether no byte can go to the guest any more.
    fn read_ended(&self) -> bool {
        self.host_done & SHUTDOWN_SEND != 0 || self.guest_done & SHUTDOWN_RCV != 0
    }

    /// Whether the host takes no more bytes. Known once a write has failed: a peer that shuts down
    /// its reading half only raises no event.
    fn host_is_deaf(&self) -> bool {
        self.host_done & SHUTDOWN_RCV != 0
    }

    /// A packet of the guest other than REQUEST, RESPONSE and RST. `payload` copies from the
    /// packet's payload, at an offset.
    pub(crate) fn guest_packet(
        &mut self,
        header: &Header,
        buffer: &mut [u8],
        payload: impl FnMut(u64, &mut [u8]) -> Result<(), Abuse>,
    ) -> Result<Fate, Abuse> {
        self.credit.guest_says(header.buf_alloc, header.fwd_cnt);
        self.asked &= self.credit.room_at_guest() == 0;
        match (self.state, header.op) {
            (State::Open, op::RW) if self.guest_done & SHUTDOWN_SEND == 0 => {
                self.take_from_guest(header.len, buffer, payload)?;
            }
            (State::Open, op::SHUTDOWN) => {
                self.guest_done |= header.flags & SHUTDOWN_BOTH;
                if self.guest_done & SHUTDOWN_RCV != 0 {
                    self.shut(Shutdown::Read);
                }
            }
            (State::Open, op::CREDIT_REQUEST) => self.due |= due::CREDIT_UPDATE,
            (State::Open, op::CREDIT_UPDATE) => {}
            _ => return Ok(Fate::Reset),
        }
        Ok(self.settle())
    }

    /// The guest answered our request.
    pub(crate) fn accepted_by_guest(&mut self, header: &Header) {
        self.credit.guest_says(header.buf_alloc, header.fwd_cnt);
        self.state = State::Open;
    }

    /// The guest ended the connection. What it sent before it said goodbye still goes out.
    pub(crate) fn reset_by_guest(&mut self) -> Fate {
        match self.guest_done & SHUTDOWN_SEND {
            0 => Fate::Gone,
            _ => self.forgotten_by_guest(),
        }
    }

    /// The guest knows no connection any more. What it sent before still goes out.
    pub(crate) fn forgotten_by_guest(&mut self) -> Fate {
        if self.unsent.is_empty() {
            return Fate::Gone;
        }
        self.state = State::Draining;
        self.due = 0;
        self.guest_done = SHUTDOWN_BOTH;
        self.settle()
    }

    /// Gives up the host socket if it is of no more use, or in any case.
    pub(crate) fn take_socket(&mut self, in_any_case: bool) -> Option<OwnedFd> {
        self.socket.take_if(|_| in_any_case || self.host_done == SHUTDOWN_BOTH)
    }

    /// The host socket is ready for something.
    pub(crate) fn host_event(&mut self, ready: EventFlags) -> Fate {
        let last = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        self.readable |= ready.intersects(EventFlags::IN | last);
        self.writable |= ready.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
        self.last_event |= ready.intersects(last);
        self.hung_up |= ready.contains(EventFlags::HUP);
        self.flush();
        self.settle()
    }

    /// Whether the host has closed its end altogether.
    pub(crate) fn hung_up(&self) -> bool {
        self.hung_up
    }

    /// Finds something for the guest, with at most `buffer` bytes of payload.
    pub(crate) fn next_packet(&mut self, buffer: &mut [u8]) -> Next {
        if self.take_due(due::REQUEST) {
            return Next::Packet { op: op::REQUEST, flags: 0, len: 0 };
        }
        if self.take_due(due::RESPONSE) {
            return Next::Packet { op: op::RESPONSE, flags: 0, len: 0 };
        }
        if self.may_read() {
            match self.receive(buffer) {
                Ok(0) => {}
                Ok(len) => {
                    // The packet carries what a credit update would say.
                    self.due &= !due::CREDIT_UPDATE;
                    return Next::Packet { op: op::RW, flags: 0, len };
                }
                Err(_) => return Next::Reset,
            }
        }
        if self.take_due(due::SHUTDOWN) {
            return Next::Packet { op: op::SHUTDOWN, flags: self.host_done, len: 0 };
        }
        if self.take_due(due::CREDIT_REQUEST) {
            return Next::Packet { op: op::CREDIT_REQUEST, flags: 0, len: 0 };
        }
        if self.take_due(due::CREDIT_UPDATE) {
            return Next::Packet { op: op::CREDIT_UPDATE, flags: 0, len: 0 };
        }
        Next::Nothing
    }

    fn take_due(&mut self, packet: u8) -> bool {
        let is_due = self.due & packet != 0;
        self.due &= !packet;
        is_due
    }

    /// Reads from the host socket what the guest has room for. 0 means nothing for now.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let credit = self.credit.room_at_guest();
        if credit == 0 {
            if !self.asked {
                self.asked = true;
                self.due |= due::CREDIT_REQUEST;
            }
            return Ok(0);
        }
        let Some(socket) = &self.socket else { return Ok(0) };
        let room = buffer.len().min(credit as usize);
        let Some(buffer) = buffer.get_mut(..room) else { return Ok(0) };
        match retry_on_intr(|| recv(socket, &mut *buffer, RecvFlags::DONTWAIT)) {
            Ok((0, _)) => {
                self.host_done |= SHUTDOWN_SEND;
                self.due |= due::SHUTDOWN;
                self.finish_host();
                Ok(0)
            }
            Ok((len, _)) => {
                // A short read emptied the socket, and more will raise an event, unless what
                // follows is the end and its event has come already.
                self.readable = len == room || self.last_event;
                self.credit.sent_to_guest(u32::try_from(len).unwrap_or(credit));
                Ok(len)
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// Passes the payload of a packet on, and keeps what the host socket doesn't take.
    fn take_from_guest(
        &mut self,
        len: u32,
        buffer: &mut [u8],
        mut payload: impl FnMut(u64, &mut [u8]) -> Result<(), Abuse>,
    ) -> Result<(), Abuse> {
        self.credit.received_from_guest(len)?;
        let mut offset = 0;
        while offset < len {
            let piece = buffer.len().min((len - offset) as usize);
            let Some(piece) = buffer.get_mut(..piece).filter(|piece| !piece.is_empty()) else {
                break;
            };
            payload(offset.into(), piece)?;
            offset = offset.saturating_add(u32::try_from(piece.len()).unwrap_or(u32::MAX));
            let mut sent = 0;
            if self.unsent.is_empty() && self.writable {
                sent = self.send(piece);
            }
            self.keep(piece.get(sent..).unwrap_or_default());
        }
        Ok(())
    }

    /// Keeps bytes for a host that may take them later; drops them for one that never will.
    fn keep(&mut self, bytes: &[u8]) {
        if self.host_is_deaf() {
            self.forwarded(bytes.len());
        } else if !bytes.is_empty() {
            if self.unsent.capacity() == 0 {
                self.unsent.reserve_exact(self.credit.window() as usize);
            }
            self.unsent.extend(bytes);
        }
    }

    /// Writes to the host socket what was kept for it, as far as it takes it.
    fn flush(&mut self) {
        while self.writable && !self.unsent.is_empty() {
            let mut unsent = std::mem::take(&mut self.unsent);
            let sent = self.send(unsent.as_slices().0);
            unsent.drain(..sent);
            let stuck = sent == 0;
            if self.host_is_deaf() {
                self.forwarded(unsent.len());
                unsent.clear();
            }
            self.unsent = unsent;
            if stuck {
                break;
            }
        }
    }

    /// Writes what the host socket takes. A socket that is broken takes nothing ever again.
    fn send(&mut self, bytes: &[u8]) -> usize {
        let Some(socket) = self.socket.as_ref().filter(|_| !self.host_is_deaf()) else { return 0 };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match retry_on_intr(|| send(socket, bytes, flags)) {
            Ok(sent) => {
                self.writable = sent == bytes.len();
                self.forwarded(sent);
                sent
            }
            Err(Errno::AGAIN) => {
                self.writable = false;
                0
            }
            Err(_) => {
                self.host_done |= SHUTDOWN_RCV;
                self.due |= due::SHUTDOWN;
                0
            }
        }
    }

    /// Bytes that were received within the window, so their number fits.
    fn forwarded(&mut self, len: usize) {
        self.credit.forwarded_to_host(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// The host can neither send nor receive: nothing of it is needed any more.
    fn finish_host(&mut self) {
        if self.hung_up && self.read_ended() && self.host_done != SHUTDOWN_BOTH {
            self.host_done = SHUTDOWN_BOTH;
            self.due |= due::SHUTDOWN;
        }
        if self.host_done == SHUTDOWN_BOTH {
            let unsent = std::mem::take(&mut self.unsent);
            self.forwarded(unsent.len());
        }
    }

    /// Draws the conclusions of a change: passes the guest's goodbye on, ends what is over, and
    /// tells the guest of new room.
    fn settle(&mut self) -> Fate {
        if matches!(self.state, State::Requested { .. } | State::Incoming) {
            return Fate::Keep;
        }
        self.finish_host();
        if self.guest_done & SHUTDOWN_SEND == 0 {
            if self.credit.must_announce() {
                self.due |= due::CREDIT_UPDATE;
            }
            return Fate::Keep;
        }
        if !self.unsent.is_empty() {
            return Fate::Keep;
        }
        if !self.write_shut {
            self.write_shut = true;
            self.shut(Shutdown::Write);
        }
        match (self.guest_done, self.state) {
            (SHUTDOWN_BOTH, State::Draining) => Fate::Gone,
            (SHUTDOWN_BOTH, _) => Fate::Reset,
            _ => Fate::Keep,
        }
    }

    /// A host socket that can't be shut down has gone already, and says so when it is used.
    fn shut(&self, how: Shutdown) {
        if let Some(socket) = &self.socket {
            let _ = shutdown(socket, how);
        }
    }
}
