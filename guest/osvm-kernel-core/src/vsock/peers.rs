//! Those who are not being served: peers in the queue, and packets that only get a refusal.

use super::packet::Header;

/// Connections that wait while one is served.
pub const BACKLOG: usize = 8;
/// Refusals that are kept until the device takes them; while full, no packet is looked at.
const REFUSALS: usize = 4;

/// The host's end of a connection, as its packets describe it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its port.
    pub port: u32,
    /// Bytes it can hold.
    pub buf_alloc: u32,
    /// Bytes it has taken out of its buffer so far, modulo 2³².
    pub fwd_cnt: u32,
}

impl Peer {
    /// The sender of `header`.
    pub fn of(header: &Header) -> Self {
        Self { port: header.src_port, buf_alloc: header.buf_alloc, fwd_cnt: header.fwd_cnt }
    }
}

/// Peers that have asked for a connection, first come first served.
#[derive(Debug, Default)]
pub struct Backlog {
    peers: [Peer; BACKLOG],
    len: usize,
}

impl Backlog {
    /// Adds `peer` unless the backlog is full.
    pub fn push(&mut self, peer: Peer) -> bool {
        let Some(place) = self.peers.get_mut(self.len) else {
            return false;
        };
        *place = peer;
        self.len += 1;
        true
    }

    /// Takes the one that has waited longest.
    pub fn pop(&mut self) -> Option<Peer> {
        let first = *self.waiting().first()?;
        self.remove(first.port);
        Some(first)
    }

    /// Removes the peer at `port`; says whether there was one.
    pub fn remove(&mut self, port: u32) -> bool {
        let Some(place) = self.waiting().iter().position(|peer| peer.port == port) else {
            return false;
        };
        if let Some(rest) = self.peers.get_mut(place..self.len) {
            rest.rotate_left(1);
        }
        self.len -= 1;
        true
    }

    /// Forgets everyone.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    fn waiting(&self) -> &[Peer] {
        self.peers.get(..self.len).unwrap_or_default()
    }
}

/// A reset that is still to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The port that was addressed.
    pub from_port: u32,
    /// The port that addressed it.
    pub to_port: u32,
    /// The kind of socket it asked for.
    pub kind: u16,
}

/// Resets that are still to be sent.
#[derive(Debug, Default)]
pub struct Refusals {
    items: [Refusal; REFUSALS],
    len: usize,
}

impl Refusals {
    /// Whether one more can be kept.
    pub fn has_room(&self) -> bool {
        self.len < REFUSALS
    }

    /// Keeps one more. Without room it is dropped, so ask [`Refusals::has_room`] first.
    pub fn push(&mut self, refusal: Refusal) {
        if let Some(place) = self.items.get_mut(self.len) {
            *place = refusal;
            self.len += 1;
        }
    }

    /// Takes the latest; their order does not matter to anyone.
    pub fn pop(&mut self) -> Option<Refusal> {
        self.len = self.len.checked_sub(1)?;
        self.items.get(self.len).copied()
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}
