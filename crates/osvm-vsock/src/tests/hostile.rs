//! Guests that write rubbish into their rings. Each ends with the reason that fits, and every
//! other one without harm.

use super::guest::*;
use crate::exercise::exercise;
use crate::{Abuse, QueueName};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Boots a guest, lets it misbehave, notifies the queue, and gives the device use for every buffer
/// of the guest.
#[track_caller]
fn check(index: usize, misbehave: impl FnOnce(&mut Guest), expected: Abuse) {
    let mut guest = Guest::boot(8, 4096);
    let (_host, _) = guest.connected(1);
    let _waiting = guest.connect(99);
    guest.take_and_keep_buffers();
    misbehave(&mut guest);
    let mut ended = guest.notify(index);
    for token in 2..20 {
        let Ok(()) = ended else { break };
        let (_host, end) = std::os::unix::net::UnixStream::pair().unwrap();
        ended = guest.vsock.connect(&guest.mem, 5252, end.into(), token);
    }
    assert_eq!(ended, Err(expected));
}

/// Offers the chain that begins at descriptor 0 on the tx ring.
fn offer_tx(guest: &mut Guest, descriptors: &[(u16, u64, u32, [u16; 2])]) {
    for (at, addr, len, flags) in descriptors {
        guest.rings[TX].descriptor(&guest.mem, *at, *addr, *len, *flags);
    }
    guest.rings[TX].offer(&guest.mem, 0);
}

#[test]
fn an_available_index_that_jumps_is_named() {
    for (index, name) in [(RX, QueueName::Rx), (TX, QueueName::Tx)] {
        let jump = |guest: &mut Guest| {
            let ring = &guest.rings[index];
            let jump = ring.next_avail.wrapping_add(9);
            guest.mem.write_obj(jump, GuestAddress(ring.avail + 2)).unwrap();
        };
        check(index, jump, Abuse::AvailIndexJump(name));
    }
}

#[test]
fn an_available_index_that_goes_back_is_a_jump_too() {
    let back = |guest: &mut Guest| {
        let ring = &guest.rings[TX];
        guest.mem.write_obj(ring.next_avail - 1, GuestAddress(ring.avail + 2)).unwrap();
    };
    check(TX, back, Abuse::AvailIndexJump(QueueName::Tx));
}

#[test]
fn a_head_outside_the_table_is_named() {
    let offer = |guest: &mut Guest| guest.rings[TX].offer(&guest.mem, 8);
    check(TX, offer, Abuse::DescriptorIndex { queue: QueueName::Tx, index: 8 });
}

#[test]
fn a_next_outside_the_table_is_named() {
    let offer = |guest: &mut Guest| offer_tx(guest, &[(0, 0x1000, 44, [NEXT, 4000])]);
    check(TX, offer, Abuse::DescriptorIndex { queue: QueueName::Tx, index: 4000 });
}

#[test]
fn a_chain_that_loops_is_endless() {
    let itself = |guest: &mut Guest| offer_tx(guest, &[(0, 0x1000, 44, [NEXT, 0])]);
    check(TX, itself, Abuse::EndlessChain(QueueName::Tx));
    let circle = |guest: &mut Guest| {
        offer_tx(guest, &[(0, 0x1000, 44, [NEXT, 1]), (1, 0x1000, 44, [NEXT, 0])]);
    };
    check(TX, circle, Abuse::EndlessChain(QueueName::Tx));
}

#[test]
fn an_indirect_table_longer_than_the_queue_is_endless() {
    let offer = |guest: &mut Guest| {
        for at in 0..1000_u64 {
            let flags = u64::from(NEXT) << 32 | (at + 1) << 48;
            guest.mem.write_obj(0x1000_u64, GuestAddress(0x20_0000 + at * 16)).unwrap();
            guest.mem.write_obj(flags | 1, GuestAddress(0x20_0008 + at * 16)).unwrap();
        }
        offer_tx(guest, &[(0, 0x20_0000, 16_000, [INDIRECT, 0])]);
    };
    check(TX, offer, Abuse::EndlessChain(QueueName::Tx));
}

#[test]
fn an_indirect_table_of_odd_length_is_broken() {
    let offer = |guest: &mut Guest| {
        offer_tx(guest, &[(0, 0x1000, 44, [NEXT, 1]), (1, 0x20_0000, 17, [INDIRECT, 0])]);
    };
    check(TX, offer, Abuse::BrokenChain(QueueName::Tx));
}

#[test]
fn buffers_outside_guest_memory_are_named() {
    let cases = [(64 << 20, 44), ((64 << 20) - 43, 44), (u64::MAX - 10, 44), (0x1000, u32::MAX)];
    for (addr, len) in cases {
        let offer = |guest: &mut Guest| offer_tx(guest, &[(0, addr, len, [0, 0])]);
        check(TX, offer, Abuse::BufferOutsideMemory { queue: QueueName::Tx, addr, len });
        let offer = |guest: &mut Guest| {
            guest.rings[RX].descriptor(&guest.mem, 0, addr, len, [WRITE, 0]);
            guest.rings[RX].offer(&guest.mem, 0);
        };
        check(RX, offer, Abuse::BufferOutsideMemory { queue: QueueName::Rx, addr, len });
    }
}

#[test]
fn buffers_of_the_wrong_direction_are_named() {
    let offer = |guest: &mut Guest| offer_tx(guest, &[(0, 0x1000, 44, [WRITE, 0])]);
    check(TX, offer, Abuse::WrongDirection(QueueName::Tx));
    let offer = |guest: &mut Guest| {
        guest.rings[RX].descriptor(&guest.mem, 0, 0x1000, 4096, [0, 0]);
        guest.rings[RX].offer(&guest.mem, 0);
    };
    check(RX, offer, Abuse::WrongDirection(QueueName::Rx));
}

#[test]
fn buffers_too_short_for_a_packet_are_named() {
    let offer = |guest: &mut Guest| offer_tx(guest, &[(0, 0x1000, 43, [0, 0])]);
    check(TX, offer, Abuse::BufferTooShort { queue: QueueName::Tx, len: 43 });
    let offer = |guest: &mut Guest| offer_tx(guest, &[(0, 0x1000, 0, [0, 0])]);
    check(TX, offer, Abuse::BufferTooShort { queue: QueueName::Tx, len: 0 });
    for len in [43_u32, 44] {
        let offer = |guest: &mut Guest| {
            guest.rings[RX].descriptor(&guest.mem, 0, 0x1000, len, [WRITE, 0]);
            guest.rings[RX].offer(&guest.mem, 0);
        };
        check(RX, offer, Abuse::BufferTooShort { queue: QueueName::Rx, len: len.into() });
    }
}

#[test]
fn an_event_buffer_too_short_for_an_event_is_named() {
    let mut guest = Guest::boot(8, 4096);
    guest.vsock.device().transport_reset();
    guest.rings[EVENT].descriptor(&guest.mem, 0, 0x1000, 3, [WRITE, 0]);
    guest.rings[EVENT].offer(&guest.mem, 0);
    let expected = Abuse::BufferTooShort { queue: QueueName::Event, len: 3 };
    assert_eq!(guest.notify(EVENT), Err(expected));
}

#[test]
fn a_packet_that_announces_more_than_it_holds_is_named() {
    let offer = |guest: &mut Guest| {
        let header = Packet { payload: vec![0; 11], ..Stream::default().packet(RW, &[]) }.header();
        guest.mem.write_slice(&header, GuestAddress(0x1000)).unwrap();
        offer_tx(guest, &[(0, 0x1000, 54, [0, 0])]);
    };
    check(TX, offer, Abuse::PacketTruncated { announced: 11, held: 10 });
}

#[test]
fn every_reason_is_one_short_line() {
    let queue = QueueName::Rx;
    let cases = [
        (Abuse::RingOutsideMemory(queue), "queue `rx` lies outside guest memory"),
        (Abuse::BadQueueSize { queue, size: 3 }, "queue `rx` has a size of 3"),
        (
            Abuse::BufferOutsideMemory { queue, addr: 0x1000, len: 7 },
            "queue `rx` has a buffer of 7 bytes at 0x1000, outside guest memory",
        ),
        (
            Abuse::OverCredit { len: 2, credit: 1 },
            "packet of 2 bytes exceeds the 1 bytes of credit",
        ),
    ];
    for (abuse, expected) in cases {
        assert_eq!(abuse.to_string(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_script_of_a_guest_ends(script in prop::collection::vec(any::<u8>(), 0..2000)) {
        run(&script);
    }

    /// Rubbish is found sooner in rings that are set up.
    #[test]
    fn any_contents_of_working_rings_end(
        rings in prop::collection::vec(any::<u8>(), 0x600), rest: Vec<u8>,
    ) {
        let mem = memory();
        mem.write_slice(&rings, GuestAddress(0x1000)).unwrap();
        let script = [&[0][..], &[2, 0, 2, 5, 3, 0, 4, 0, 5, 6], &rest].concat();
        let _ = exercise(&mem, &script);
    }

    #[test]
    fn any_descriptor_is_used_or_named(
        addr in prop_oneof![any::<u64>(), 0..0x40_0000_u64], len in prop_oneof![any::<u32>(), 0..5000_u32],
        flags in 0..8_u16, next in prop_oneof![any::<u16>(), 0..8_u16], on_tx: bool,
    ) {
        let mut guest = Guest::boot(8, 4096);
        guest.take_and_keep_buffers();
        let index = if on_tx { TX } else { RX };
        guest.rings[index].descriptor(&guest.mem, 0, addr, len, [flags, next]);
        guest.rings[index].descriptor(&guest.mem, 1, 0x1000, 4096, [flags & WRITE, 0]);
        guest.rings[index].offer(&guest.mem, 0);
        let _ = guest.notify(index);
    }
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x8000), (GuestAddress(0x8000), 0x8000)])
        .unwrap()
}

fn run(script: &[u8]) {
    let _ = exercise(&memory(), script);
}
