//! Credit: how many bytes each side of a connection may still send.
//!
//! Both sides count in u32 that wrap. A sender may have at most `buf_alloc` bytes under way: sent,
//! and not yet forwarded to the reader as far as the receiver has announced (virtio 1.2, section
//! 5.10.6.3).
//!
//! ```text
//! guest → host   received ───── forwarded ──── announced      (window: ours)
//!                    └─ bytes we hold ─┘           │
//!                    └──── what the guest thinks we hold
//! host → guest   sent ───────── peer_forwarded                (window: the guest's)
//! ```
//!
//! # Invariants
//!
//! - `announced ≤ forwarded ≤ received`, and `received - announced ≤ window`, all modulo 2^32.
//! - A guest that lies about its own window harms only itself: the window is never larger than
//!   it says, and zero when its numbers make no sense.

use crate::abuse::Abuse;

/// Longest packet that drivers are known to send without asking for credit first, in bytes.
const USUAL_PACKET_MAX: u32 = 64 * 1024;

/// The counters of one connection.
#[derive(Debug)]
pub(crate) struct Credit {
    window: u32,
    received: u32,
    forwarded: u32,
    announced: u32,
    peer_window: u32,
    peer_forwarded: u32,
    sent: u32,
}

impl Credit {
    /// A new connection with a receive window of `window` bytes, and none known of the guest's.
    /// All counters begin at `start`, which is 0 on the wire.
    pub(crate) fn new(window: u32, start: u32) -> Self {
        Self {
            window,
            received: start,
            forwarded: start,
            announced: start,
            peer_window: 0,
            peer_forwarded: start,
            sent: start,
        }
    }

    /// Our window for the guest, in bytes.
    pub(crate) fn window(&self) -> u32 {
        self.window
    }

    /// Takes in `buf_alloc` and `fwd_cnt` of a packet from the guest.
    pub(crate) fn guest_says(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.peer_window = buf_alloc;
        self.peer_forwarded = fwd_cnt;
    }

    /// Bytes that may be sent to the guest now.
    pub(crate) fn room_at_guest(&self) -> u32 {
        self.peer_window.saturating_sub(self.sent.wrapping_sub(self.peer_forwarded))
    }

    /// `len` bytes were sent to the guest.
    pub(crate) fn sent_to_guest(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }

    /// Bytes that the guest may send now, as far as it knows.
    pub(crate) fn room_for_guest(&self) -> u32 {
        self.window.saturating_sub(self.received.wrapping_sub(self.announced))
    }

    /// The guest sent `len` bytes.
    pub(crate) fn received_from_guest(&mut self, len: u32) -> Result<(), Abuse> {
        let credit = self.room_for_guest();
        if credit < len {
            return Err(Abuse::OverCredit { len, credit });
        }
        self.received = self.received.wrapping_add(len);
        Ok(())
    }

    /// `len` bytes from the guest have left the device.
    pub(crate) fn forwarded_to_host(&mut self, len: u32) {
        self.forwarded = self.forwarded.wrapping_add(len);
    }

    /// Whether the guest has to be told of room it doesn't know of.
    ///
    /// Only when it may be short of it: while half the window, or a usual packet, still fits, it
    /// has no reason to wait. And not for crumbs, unless nothing more will come: while bytes are
    /// held back, an eighth of the window is worth a packet.
    pub(crate) fn must_announce(&self) -> bool {
        let unknown = self.forwarded.wrapping_sub(self.announced);
        let plenty = (self.window / 2).max(USUAL_PACKET_MAX.min(self.window));
        let worthwhile = self.forwarded == self.received || self.window / 8 <= unknown;
        unknown != 0 && self.room_for_guest() < plenty && worthwhile
    }

    /// `buf_alloc` and `fwd_cnt` for a packet that goes to the guest now.
    pub(crate) fn announce(&mut self) -> (u32, u32) {
        self.announced = self.forwarded;
        (self.window, self.forwarded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: u32 = 256 * 1024;

    #[test]
    fn nothing_may_be_sent_before_the_guest_names_its_window() {
        assert_eq!(Credit::new(WINDOW, 0).room_at_guest(), 0);
    }

    #[test]
    fn a_guest_that_claims_to_have_read_more_than_was_sent_gets_nothing() {
        let mut credit = Credit::new(WINDOW, 0);
        credit.guest_says(1000, 1);
        assert_eq!(credit.room_at_guest(), 0);
    }

    #[test]
    fn a_guest_that_shrinks_its_window_below_what_is_under_way_gets_nothing() {
        let mut credit = Credit::new(WINDOW, 0);
        credit.guest_says(1000, 0);
        credit.sent_to_guest(900);
        credit.guest_says(500, 0);
        assert_eq!(credit.room_at_guest(), 0);
    }

    #[test]
    fn forwarding_gives_no_credit_until_it_is_announced() {
        let mut credit = Credit::new(100, 0);
        credit.received_from_guest(100).unwrap();
        credit.forwarded_to_host(100);
        let over = Abuse::OverCredit { len: 1, credit: 0 };
        assert_eq!(credit.received_from_guest(1), Err(over));
        assert_eq!(credit.announce(), (100, 100));
        assert_eq!(credit.received_from_guest(1), Ok(()));
    }

    #[test]
    fn room_is_not_announced_while_the_guest_has_plenty() {
        let mut credit = Credit::new(WINDOW, 0);
        credit.received_from_guest(WINDOW / 2).unwrap();
        credit.forwarded_to_host(WINDOW / 2);
        assert!(!credit.must_announce());
        credit.received_from_guest(1).unwrap();
        credit.forwarded_to_host(1);
        assert!(credit.must_announce());
    }

    #[test]
    fn counters_wrap_without_loss_of_credit() {
        let start = u32::MAX - 10;
        let mut credit = Credit::new(100, start);
        credit.guest_says(100, start);
        credit.received_from_guest(100).unwrap();
        credit.forwarded_to_host(60);
        credit.announce();
        assert_eq!(credit.room_for_guest(), 60);
        credit.sent_to_guest(100);
        assert_eq!(credit.room_at_guest(), 0);
        credit.guest_says(100, start.wrapping_add(70));
        assert_eq!(credit.room_at_guest(), 70);
    }

    proptest! {
        /// The starvation rule: once everything is forwarded, a usual packet fits as far as the
        /// guest knows, or it is told so.
        #[test]
        fn a_drained_connection_never_leaves_the_guest_short(
            window in 1..=WINDOW, start: u32, packets in prop::collection::vec(1..=WINDOW, 1..50),
        ) {
            let mut credit = Credit::new(window, start);
            for packet in packets {
                let packet = packet.min(credit.room_for_guest());
                credit.received_from_guest(packet).unwrap();
                credit.forwarded_to_host(packet);
                if credit.must_announce() {
                    credit.announce();
                    prop_assert_eq!(credit.room_for_guest(), window);
                }
                prop_assert!(USUAL_PACKET_MAX.min(window) <= credit.room_for_guest());
            }
        }
    }
}
