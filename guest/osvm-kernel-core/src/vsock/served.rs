//! The one connection that is being served: credit in both directions, and how it ends.
//!
//! Counters run modulo 2³² as in VIRTIO 1.2, section 5.10.6.3: a sender may have at most
//! `buf_alloc - (sent - fwd_cnt)` bytes more under way.

use super::packet::{Header, shutdown};
use super::peers::Peer;

/// Bytes a peer may send before they are read. Told to the peer in every packet.
pub const BUF_ALLOC: u32 = 256 * 1024;

/// State of the connection.
#[derive(Debug)]
pub struct Served {
    /// The host's end.
    peer: Peer,
    /// Bytes sent to the peer.
    sent: u32,
    /// Bytes received from the peer.
    received: u32,
    /// Bytes of those that have been read.
    read: u32,
    /// What the peer was last told about `read`.
    told: u32,
    /// Directions the peer has finished, as [`shutdown`] flags.
    finished: u32,
    /// The connection was reset.
    reset: bool,
    /// The peer is owed the answer that accepts it.
    pub owes_response: bool,
    /// The peer is owed a word about our credit.
    pub owes_update: bool,
}

impl Served {
    /// A connection with a peer that has not been answered yet.
    pub fn accept(peer: Peer) -> Self {
        Self {
            peer,
            sent: 0,
            received: 0,
            read: 0,
            told: 0,
            finished: 0,
            reset: false,
            owes_response: true,
            owes_update: false,
        }
    }

    /// The peer's port.
    pub fn port(&self) -> u32 {
        self.peer.port
    }

    /// Takes note of what any packet says about the peer's buffer.
    pub fn learn_credit(&mut self, header: &Header) {
        self.peer = Peer::of(header);
    }

    /// Bytes the peer can take now. A peer that claims to have read more than was sent gets nothing.
    pub fn window(&self) -> u32 {
        let under_way = self.sent.wrapping_sub(self.peer.fwd_cnt);
        self.peer.buf_alloc.saturating_sub(under_way)
    }

    /// `len` bytes go to the peer.
    pub fn note_sent(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }

    /// `len` bytes came from the peer. `false` if it had no credit for them.
    #[must_use]
    pub fn note_received(&mut self, len: u32) -> bool {
        let unread = self.received.wrapping_sub(self.read);
        self.received = self.received.wrapping_add(len);
        len <= BUF_ALLOC.saturating_sub(unread)
    }

    /// `len` received bytes have been read. The peer hears of it once half of its credit is used
    /// up: early enough for it to go on, and never for a short exchange.
    pub fn note_read(&mut self, len: u32) {
        self.read = self.read.wrapping_add(len);
        if BUF_ALLOC / 2 <= self.read.wrapping_sub(self.told) && !self.reset {
            self.owes_update = true;
        }
    }

    /// The count of read bytes for a packet that is sent now.
    pub fn tell_read(&mut self) -> u32 {
        self.told = self.read;
        self.owes_update = false;
        self.read
    }

    /// The peer has finished these directions too.
    pub fn note_shutdown(&mut self, flags: u32) {
        self.finished |= flags & shutdown::BOTH;
    }

    /// The peer will send nothing more.
    pub fn peer_stopped_sending(&self) -> bool {
        self.finished & shutdown::SEND != 0
    }

    /// The peer will receive nothing more.
    pub fn peer_stopped_receiving(&self) -> bool {
        self.finished & shutdown::RECEIVE != 0
    }

    /// The connection is gone: nothing more may be sent on it.
    pub fn note_reset(&mut self) {
        self.reset = true;
        self.owes_response = false;
        self.owes_update = false;
    }

    /// Whether the connection is gone.
    pub fn is_reset(&self) -> bool {
        self.reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(buf_alloc: u32) -> Served {
        Served::accept(Peer { port: 1, buf_alloc, fwd_cnt: 0 })
    }

    #[test]
    fn the_window_shrinks_by_what_is_under_way_and_grows_by_what_was_read() {
        let mut served = served(100);
        served.note_sent(70);
        assert_eq!(served.window(), 30);
        served.learn_credit(&Header {
            src_port: 1,
            buf_alloc: 100,
            fwd_cnt: 50,
            ..Header::default()
        });
        assert_eq!(served.window(), 80);
    }

    #[test]
    fn the_window_survives_the_wrap_of_its_counters() {
        let mut served = served(100);
        served.note_sent(u32::MAX);
        served.learn_credit(&Header { buf_alloc: 100, fwd_cnt: u32::MAX, ..Header::default() });
        served.note_sent(11);
        assert_eq!(served.window(), 89);
    }

    #[test]
    fn a_peer_that_shrinks_its_buffer_or_lies_about_it_gets_no_window() {
        let mut served = served(100);
        served.note_sent(70);
        served.learn_credit(&Header { buf_alloc: 10, fwd_cnt: 0, ..Header::default() });
        assert_eq!(served.window(), 0);
        served.learn_credit(&Header { buf_alloc: 100, fwd_cnt: 71, ..Header::default() });
        assert_eq!(served.window(), 0);
    }

    #[test]
    fn a_peer_may_fill_its_credit_and_not_one_byte_more() {
        let mut served = served(0);
        assert!(served.note_received(BUF_ALLOC));
        served.note_read(10);
        assert!(served.note_received(10));
        assert!(!served.note_received(1));
    }

    #[test]
    fn the_peer_is_owed_a_word_once_half_its_credit_was_read() {
        let mut served = served(0);
        assert!(served.note_received(BUF_ALLOC));
        served.note_read(BUF_ALLOC / 2 - 1);
        assert!(!served.owes_update);
        served.note_read(1);
        assert!(served.owes_update);
        assert_eq!(served.tell_read(), BUF_ALLOC / 2);
        assert!(!served.owes_update);
    }
}
