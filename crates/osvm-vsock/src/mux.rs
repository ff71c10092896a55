//! All connections of one guest: which packet belongs to which, and whose turn it is.
//!
//! Knows packets and host sockets, but neither rings nor guest memory; see `device`.
//!
//! # Invariants
//!
//! - Connections that have something for the guest stand in one line; each sends one packet and
//!   goes to its end. So none waits longer than one packet of each of the others.
//! - What a guest can make the host hold is bounded: [`MAX_CONNECTIONS`], their windows together
//!   (see [`Mux::window`]), and [`MAX_RESETS`].

use crate::abuse::Abuse;
use crate::connection::{Connection, Fate, Next, State};
use crate::credit::Credit;
use crate::device::{Event, Peer, Refusal};
use crate::packet::{Header, TYPE_STREAM, op};
use osvm_protocol::Cid;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Connections a guest may have at a time. More are refused.
pub const MAX_CONNECTIONS: usize = 1024;

/// Receive window of a connection while there are few, in bytes.
pub const WINDOW_MAX: u32 = 256 * 1024;
/// Receive window of a connection however many there are, in bytes.
pub const WINDOW_MIN: u32 = 4 * 1024;
/// What all windows larger than [`WINDOW_MIN`] share, in bytes.
const WINDOW_BUDGET: u32 = 16 * 1024 * 1024;

/// Longest payload given to the guest in one packet, in bytes. Linux takes no more.
pub const PAYLOAD_MAX: usize = 64 * 1024;

/// Resets that wait for the guest to make buffers available. A guest that provokes more without
/// taking any gets no answer to the others.
const MAX_RESETS: usize = 1024;

/// First port used for the host's side of connections that the host makes. Below are services.
const FIRST_PORT: u32 = 1 << 16;

/// Readiness events taken from the kernel at a time.
const EVENTS: usize = 64;

/// A reset that belongs to no connection, or to one that has ended with it.
#[derive(Clone, Copy, Debug)]
struct Reset {
    peer: Peer,
    socket_type: u16,
}

/// The connections of one guest.
#[derive(Debug)]
pub(crate) struct Mux {
    cid: Cid,
    connections: BTreeMap<Peer, Connection>,
    /// Those with something for the guest, each once, in the order of their turns.
    line: VecDeque<Peer>,
    resets: VecDeque<Reset>,
    services: BTreeSet<u32>,
    next_port: u32,
    windows: u32,
    /// Bytes taken from the guest, ever.
    payload: u64,
    events: VecDeque<Event>,
    epoll: OwnedFd,
    /// Payload between guest memory and sockets; its pages cost nothing until they are used.
    buffer: Vec<u8>,
    /// What the wrapping counters of a connection begin with.
    #[cfg(test)]
    pub(crate) counters_start: u32,
}

impl Mux {
    pub(crate) fn new(cid: Cid) -> io::Result<Self> {
        Ok(Self {
            cid,
            connections: BTreeMap::new(),
            line: VecDeque::new(),
            resets: VecDeque::new(),
            services: BTreeSet::new(),
            next_port: FIRST_PORT,
            windows: 0,
            payload: 0,
            events: VecDeque::new(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            buffer: vec![0; PAYLOAD_MAX],
            #[cfg(test)]
            counters_start: 0,
        })
    }

    pub(crate) fn cid(&self) -> Cid {
        self.cid
    }

    pub(crate) fn epoll_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(crate) fn next_port(&self) -> u32 {
        self.next_port
    }

    /// Goes on with the ports at `port`; services keep theirs.
    pub(crate) fn succeed(&mut self, port: u32) {
        self.next_port = port.clamp(FIRST_PORT, u32::MAX - 1);
    }

    pub(crate) fn payload_from_guest(&self) -> u64 {
        self.payload
    }

    pub(crate) fn take_events(&mut self) -> impl Iterator<Item = Event> + use<'_> {
        self.events.drain(..)
    }

    pub(crate) fn listen(&mut self, port: u32) {
        self.services.insert(port);
    }

    pub(crate) fn connect(&mut self, guest_port: u32, host: OwnedFd, token: u64) {
        let reason = match self.free_peer(guest_port) {
            None => Refusal::TooMany,
            Some(peer) if self.watch(peer, &host) => {
                let connection = Connection::requested(token, host, self.new_credit());
                self.insert(peer, connection);
                return;
            }
            Some(_) => Refusal::BadSocket,
        };
        self.events.push_back(Event::Refused { token, reason });
    }

    pub(crate) fn accept(&mut self, peer: Peer, host: OwnedFd) {
        if !self.is_incoming(peer) {
            return;
        }
        let watched = self.watch(peer, &host);
        if let Some(connection) = self.connections.get_mut(&peer) {
            connection.accept(host);
        }
        self.settle(peer, if watched { Fate::Keep } else { Fate::Reset });
    }

    pub(crate) fn refuse(&mut self, peer: Peer) {
        if self.is_incoming(peer) {
            self.settle(peer, Fate::Reset);
        }
    }

    fn is_incoming(&self, peer: Peer) -> bool {
        self.connections.get(&peer).is_some_and(|it| it.state == State::Incoming)
    }

    /// Whether there is something to try for the guest.
    pub(crate) fn wants_guest(&self) -> bool {
        !self.resets.is_empty() || !self.line.is_empty()
    }

    /// Ends every connection the guest may know of, without telling it. What it sent before still
    /// goes out.
    pub(crate) fn forget_guest(&mut self) {
        let known = self.connections.iter_mut().filter(|(_, it)| it.is_announced());
        let fates: Vec<_> = known.map(|(peer, it)| (*peer, it.forgotten_by_guest())).collect();
        for (peer, fate) in fates {
            self.end(peer, fate, Refusal::DeviceReset);
        }
        self.resets.clear();
    }

    /// A packet from the guest. `payload` copies from its payload, at an offset.
    ///
    /// # Errors
    ///
    /// The payload can't be read, or is more than the guest was allowed to send.
    pub(crate) fn guest_packet(
        &mut self,
        header: &Header,
        payload: impl FnMut(u64, &mut [u8]) -> Result<(), Abuse>,
    ) -> Result<(), Abuse> {
        let to_host = header.dst_cid == u64::from(Cid::HOST);
        if header.src_cid != u64::from(self.cid.get()) || !to_host {
            return Ok(());
        }
        let peer = Peer { host_port: header.dst_port, guest_port: header.src_port };
        let reset = Reset { peer, socket_type: header.socket_type };
        if header.socket_type != TYPE_STREAM {
            self.reset(header, reset);
            return Ok(());
        }
        let Some(connection) = self.connections.get_mut(&peer) else {
            if header.op == op::REQUEST && self.services.contains(&peer.host_port) {
                self.incoming(header, reset);
            } else {
                self.reset(header, reset);
            }
            return Ok(());
        };
        let fate = match (header.op, connection.state) {
            (op::RST, State::Requested { .. } | State::Incoming) => Fate::Gone,
            (op::RST, State::Open) => connection.reset_by_guest(),
            (_, State::Draining) => {
                self.reset(header, reset);
                return Ok(());
            }
            (op::RESPONSE, State::Requested { token }) if connection.is_announced() => {
                connection.accepted_by_guest(header);
                self.events.push_back(Event::Accepted { token });
                Fate::Keep
            }
            (operation, _) => {
                let fate = connection.guest_packet(header, &mut self.buffer, payload)?;
                if operation == op::RW && fate == Fate::Keep {
                    self.payload = self.payload.saturating_add(header.len.into());
                }
                fate
            }
        };
        self.settle(peer, fate);
        Ok(())
    }

    /// The next packet for the guest, with at most `room` bytes of payload.
    pub(crate) fn next_packet(&mut self, room: usize) -> Option<(Header, &[u8])> {
        if let Some(reset) = self.resets.pop_front() {
            return Some((self.reset_header(reset), &[]));
        }
        // Each connection has one turn, because some in the line find nothing to send after all.
        for _ in 0..self.line.len() {
            let peer = self.line.pop_front()?;
            let Some(connection) = self.connections.get_mut(&peer) else { continue };
            connection.queued = false;
            let room = room.min(self.buffer.len());
            match connection.next_packet(self.buffer.get_mut(..room).unwrap_or_default()) {
                Next::Packet { op, flags, len } => {
                    let (buf_alloc, fwd_cnt) = connection.credit.announce();
                    self.settle(peer, Fate::Keep);
                    let header = Header {
                        op,
                        flags,
                        buf_alloc,
                        fwd_cnt,
                        len: u32::try_from(len).unwrap_or(u32::MAX),
                        ..self.header(peer, TYPE_STREAM)
                    };
                    return Some((header, self.buffer.get(..len).unwrap_or_default()));
                }
                Next::Nothing => self.settle(peer, Fate::Keep),
                Next::Reset => {
                    self.settle(peer, Fate::Reset);
                    let reset = self.resets.pop_back()?;
                    return Some((self.reset_header(reset), &[]));
                }
            }
        }
        None
    }

    /// Notes which host sockets became ready, and writes what waited for that.
    pub(crate) fn host_events(&mut self) {
        let mut room = [MaybeUninit::uninit(); EVENTS];
        // Every connection can be ready once; beyond that, others have waited long enough.
        for _ in 0..=MAX_CONNECTIONS / EVENTS {
            let now = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
            let Ok((ready, _)) = epoll::wait(&self.epoll, &mut room, now) else { break };
            for event in &*ready {
                self.host_event(key_peer(event.data), event.flags);
            }
            if ready.len() < EVENTS {
                break;
            }
        }
    }

    fn host_event(&mut self, peer: Peer, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&peer) else { return };
        let mut fate = connection.host_event(flags);
        if matches!(connection.state, State::Requested { .. }) && connection.hung_up() {
            fate = if connection.is_announced() { Fate::Reset } else { Fate::Gone };
        }
        self.end(peer, fate, Refusal::ByHost);
    }

    fn incoming(&mut self, header: &Header, reset: Reset) {
        if !self.make_room() {
            self.reset(header, reset);
            return;
        }
        let mut credit = self.new_credit();
        credit.guest_says(header.buf_alloc, header.fwd_cnt);
        self.insert(reset.peer, Connection::incoming(credit));
        self.events.push_back(Event::Incoming(reset.peer));
    }

    fn insert(&mut self, peer: Peer, connection: Connection) {
        self.windows = self.windows.saturating_add(connection.credit.window());
        self.connections.insert(peer, connection);
        self.settle(peer, Fate::Keep);
    }

    /// Lets a connection go on or end, after something the guest did.
    fn settle(&mut self, peer: Peer, fate: Fate) {
        self.end(peer, fate, Refusal::ByGuest);
    }

    fn end(&mut self, peer: Peer, fate: Fate, reason: Refusal) {
        let Some(connection) = self.connections.get_mut(&peer) else { return };
        let socket = connection.take_socket(fate != Fate::Keep);
        if let Some(socket) = socket {
            // Closing is not enough where somebody else holds the same socket open.
            let _ = epoll::delete(&self.epoll, &socket);
        }
        if fate == Fate::Keep {
            if connection.wants_guest() && !connection.queued {
                connection.queued = true;
                self.line.push_back(peer);
            }
            return;
        }
        let Some(connection) = self.connections.remove(&peer) else { return };
        self.windows = self.windows.saturating_sub(connection.credit.window());
        if connection.queued {
            self.line.retain(|other| *other != peer);
        }
        if let State::Requested { token } = connection.state {
            self.events.push_back(Event::Refused { token, reason });
        }
        if fate == Fate::Reset {
            self.push_reset(Reset { peer, socket_type: TYPE_STREAM });
        }
    }

    /// Answers a packet that belongs to no connection. A reset is not answered.
    fn reset(&mut self, header: &Header, reset: Reset) {
        if header.op != op::RST {
            self.push_reset(reset);
        }
    }

    fn push_reset(&mut self, reset: Reset) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(reset);
        }
    }

    fn header(&self, peer: Peer, socket_type: u16) -> Header {
        Header {
            src_cid: Cid::HOST.into(),
            dst_cid: self.cid.get().into(),
            src_port: peer.host_port,
            dst_port: peer.guest_port,
            socket_type,
            ..Header::default()
        }
    }

    fn reset_header(&self, reset: Reset) -> Header {
        Header { op: op::RST, ..self.header(reset.peer, reset.socket_type) }
    }

    /// Adds a host socket to the epoll set, once and for every event.
    fn watch(&self, peer: Peer, host: &OwnedFd) -> bool {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, host, peer_key(peer), flags).is_ok()
    }

    /// Ports for a connection to `guest_port`; None when there is no room for one.
    fn free_peer(&mut self, guest_port: u32) -> Option<Peer> {
        if !self.make_room() {
            return None;
        }
        // Fewer ports are taken than are tried.
        (0..=MAX_CONNECTIONS.saturating_add(self.services.len())).find_map(|_| {
            let host_port = self.next_port;
            // u32::MAX means "any port".
            let next = host_port.checked_add(1).filter(|port| *port != u32::MAX);
            self.next_port = next.unwrap_or(FIRST_PORT);
            let peer = Peer { host_port, guest_port };
            let taken = self.connections.contains_key(&peer) || self.services.contains(&host_port);
            (!taken).then_some(peer)
        })
    }

    /// Makes sure that one more connection fits, at the cost of one that waits in vain for the
    /// guest to confirm its end.
    fn make_room(&mut self) -> bool {
        if self.connections.len() < MAX_CONNECTIONS {
            return true;
        }
        let over = self.connections.iter().find(|(_, it)| it.awaits_only_the_guest());
        let Some(peer) = over.map(|(peer, _)| *peer) else { return false };
        self.settle(peer, Fate::Reset);
        true
    }

    fn new_credit(&self) -> Credit {
        #[cfg(test)]
        let start = self.counters_start;
        #[cfg(not(test))]
        let start = 0;
        Credit::new(self.window(), start)
    }

    /// The window of the next connection: a quarter of what is left of the budget, within bounds.
    /// So the first sixty or so get the most, the last still some, and all together hold at most
    /// the budget and [`MAX_CONNECTIONS`] times [`WINDOW_MIN`].
    fn window(&self) -> u32 {
        let left = WINDOW_BUDGET.saturating_sub(self.windows);
        (left / 4).clamp(WINDOW_MIN, WINDOW_MAX)
    }
}

fn peer_key(peer: Peer) -> EventData {
    EventData::new_u64(u64::from(peer.host_port) << 32 | u64::from(peer.guest_port))
}

fn key_peer(key: EventData) -> Peer {
    let [a, b, c, d, e, f, g, h] = key.u64().to_le_bytes();
    Peer {
        host_port: u32::from_le_bytes([e, f, g, h]),
        guest_port: u32::from_le_bytes([a, b, c, d]),
    }
}
