//! The driver's side against the device's side of the same memory, written from the specification.

use super::*;
use std::vec::Vec;

/// A chain as the device sees it: address, length and whether the device may write.
pub(crate) type Chain = Vec<(u64, u32, bool)>;

/// The device's side of a ring.
pub(crate) struct DeviceSide {
    ring: &'static Ring,
    known: u16,
    taken: u16,
    used: u16,
}

impl DeviceSide {
    pub(crate) fn new(ring: &'static Ring) -> Self {
        Self { ring, known: 0, taken: 0, used: 0 }
    }

    /// Looks at what the driver has offered. A device may do so on notifications only.
    pub(crate) fn look(&mut self) {
        self.known = self.ring.avail_index.load(Ordering::Acquire);
        assert!(self.known.wrapping_sub(self.used) <= SIZE, "more is offered than the ring holds");
    }

    /// Takes the next chain it knows of.
    pub(crate) fn take(&mut self) -> Option<(u16, Chain)> {
        if self.taken == self.known {
            return None;
        }
        let head = self.ring.avail[usize::from(self.taken % SIZE)].load(Ordering::Relaxed);
        self.taken = self.taken.wrapping_add(1);
        let mut chain = Chain::new();
        let mut index = head;
        loop {
            let descriptor = &self.ring.descriptors[usize::from(index)];
            let flags = descriptor.flags.load(Ordering::Relaxed);
            chain.push((
                descriptor.address.load(Ordering::Relaxed),
                descriptor.len.load(Ordering::Relaxed),
                flags & WRITE != 0,
            ));
            if flags & NEXT == 0 {
                return Some((head, chain));
            }
            index = descriptor.next.load(Ordering::Relaxed);
        }
    }

    /// Gives a chain back with `len` bytes written.
    pub(crate) fn give_back(&mut self, head: u16, len: u32) {
        self.give_back_raw(head.into(), len);
    }

    /// Gives anything back.
    pub(crate) fn give_back_raw(&mut self, id: u32, len: u32) {
        let element = &self.ring.used.elements[usize::from(self.used % SIZE)];
        element.id.store(id, Ordering::Relaxed);
        element.len.store(len, Ordering::Relaxed);
        self.used = self.used.wrapping_add(1);
        self.ring.used.index.store(self.used, Ordering::Release);
    }

    /// Asks for no notifications, or for them again.
    pub(crate) fn silence(&self, silent: bool) {
        self.ring.used.flags.store(if silent { NO_NOTIFY } else { 0 }, Ordering::Relaxed);
    }

    /// Whether the driver wants interrupts.
    pub(crate) fn wants_interrupts(&self) -> bool {
        self.ring.avail_flags.load(Ordering::Relaxed) & NO_INTERRUPT == 0
    }
}

/// A ring that lives as long as the test.
pub(crate) fn new_ring() -> &'static Ring {
    Box::leak(Box::new(Ring::new()))
}

fn pair() -> (Queue<'static>, DeviceSide) {
    let ring = new_ring();
    (Queue::new(ring), DeviceSide::new(ring))
}

#[test]
fn the_parts_of_a_ring_lie_where_a_legacy_device_computes_them() {
    let ring = new_ring();
    let start = ring.descriptors_at();
    assert_eq!(start % u64::from(ALIGN), 0);
    assert_eq!(ring.avail_at(), start + 16 * u64::from(SIZE));
    // VIRTIO 1.2, 2.7.2: the used ring is at the next multiple of the alignment.
    let avail_end = ring.avail_at() + 6 + 2 * u64::from(SIZE);
    assert_eq!(ring.used_at(), avail_end.next_multiple_of(LEGACY_USED_ALIGN.into()));
}

#[test]
fn a_buffer_goes_to_the_device_and_comes_back() {
    let (mut queue, mut device) = pair();
    queue.describe_writable(2, Buffer { address: 0x1000, len: 64 });
    queue.offer(2);
    assert_eq!(queue.take(), None);
    assert!(!queue.is_idle());
    device.look();
    assert_eq!(device.take(), Some((2, vec![(0x1000, 64, true)])));
    device.give_back(2, 17);
    assert_eq!(queue.take(), Some(Used { head: 2, len: 17 }));
    assert!(queue.is_idle());
}

#[test]
fn a_chain_for_reading_has_two_parts_or_one() {
    let (mut queue, mut device) = pair();
    let (header, payload) = (Buffer { address: 1, len: 44 }, Buffer { address: 2, len: 5 });
    for (payload, expected) in [
        (payload, vec![(1, 44, false), (2, 5, false)]),
        (Buffer { address: 0, len: 0 }, vec![(1, 44, false)]),
        (payload, vec![(1, 44, false), (2, 5, false)]),
    ] {
        queue.describe_readable(header, payload);
        queue.offer(0);
        device.look();
        let (head, chain) = device.take().unwrap();
        assert_eq!(chain, expected);
        device.give_back(head, 0);
        assert!(queue.take().is_some());
    }
}

#[test]
fn the_indexes_wrap() {
    let (mut queue, mut device) = pair();
    queue.describe_writable(0, Buffer { address: 8, len: 8 });
    for turn in 0..70_000_u32 {
        queue.offer(0);
        device.look();
        let (head, _) = device.take().unwrap();
        device.give_back(head, turn);
        assert_eq!(queue.take(), Some(Used { head: 0, len: turn }));
    }
}

#[test]
fn a_rubbish_index_from_the_device_stays_inside_the_table() {
    let (mut queue, mut device) = pair();
    for id in [u32::from(SIZE), 0xffff, 0x1_0000, u32::MAX] {
        queue.offer(0);
        device.give_back_raw(id, 0);
        assert!(queue.take().unwrap().head < SIZE);
    }
}

#[test]
fn the_device_can_ask_for_silence_and_so_can_the_driver() {
    let (queue, device) = pair();
    assert!(queue.wants_notification() && device.wants_interrupts());
    device.silence(true);
    queue.silence();
    assert!(!queue.wants_notification() && !device.wants_interrupts());
    device.silence(false);
    assert!(queue.wants_notification());
}
