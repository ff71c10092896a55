//! The driver against a strict device: see `host`.

mod host;

use super::packet::{op, shutdown};
use super::served::BUF_ALLOC;
use super::*;
use host::{Bench, CID, PORT, Packet, World, from, request};
use proptest::prelude::*;
use std::vec::Vec;

/// A connected peer for tests that need no more than one.
const PEER: u32 = 1024;

/// Reads until the peer stops sending.
fn read_all(stream: &mut Stream<'_, '_, host::Handle, host::Handle>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = [0; 1000];
    loop {
        match stream.read(&mut piece).unwrap() {
            0 => return all,
            len => all.extend_from_slice(&piece[..len]),
        }
    }
}

#[test]
fn a_short_exchange_takes_two_notifications_and_no_credit_update() {
    let mut bench = Bench::new();
    assert_eq!(bench.vsock.cid(), CID);
    bench.world.0.borrow_mut().notifications.clear();
    bench.deliver(request(PEER), &[]).deliver(from(PEER, op::RW), b"question");
    let mut stream = bench.vsock.accept();
    let mut buffer = [0; 100];
    assert_eq!(stream.read(&mut buffer), Ok(8));
    assert_eq!(&buffer[..8], b"question");
    stream.write_all(b"answer").unwrap();
    let world = bench.world.0.borrow();
    assert_eq!(world.operations(), [(op::RESPONSE, PEER), (op::RW, PEER)]);
    assert_eq!(world.data(), b"answer");
    assert_eq!(world.notifications, [TX, TX]);
    assert_eq!(world.waits, 0);
}

#[test]
fn every_packet_names_both_ends_and_our_credit() {
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]);
    bench.deliver(from(PEER, op::RW), b"12345");
    let mut stream = bench.vsock.accept();
    stream.read(&mut [0; 5]).unwrap();
    stream.write_all(b"x").unwrap();
    let expected = Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: PORT,
        dst_port: PEER,
        len: 1,
        kind: packet::TYPE_STREAM,
        op: op::RW,
        flags: 0,
        buf_alloc: BUF_ALLOC,
        fwd_cnt: 5,
    };
    assert_eq!(bench.world.0.borrow().sent.last().unwrap().header, expected);
}

#[test]
fn data_is_read_in_pieces_of_any_size() {
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]);
    bench.deliver(from(PEER, op::RW), b"abcdef").deliver(from(PEER, op::RW), b"gh");
    bench.deliver(Header { flags: shutdown::SEND, ..from(PEER, op::SHUTDOWN) }, &[]);
    let mut stream = bench.vsock.accept();
    assert_eq!(stream.read(&mut []), Ok(0));
    let mut two = [0; 2];
    assert_eq!(stream.read(&mut two), Ok(2));
    assert_eq!(&two, b"ab");
    assert_eq!(read_all(&mut stream), b"cdefgh");
}

#[test]
fn the_guest_waits_when_there_is_nothing_to_do_and_goes_on_afterwards() {
    let mut bench = Bench::new();
    bench.plan(|_| {}).plan(|world| world.deliver(request(PEER), &[]));
    bench.plan(|_| {}).plan(|world| world.deliver(from(PEER, op::RW), b"x"));
    let mut stream = bench.vsock.accept();
    assert_eq!(stream.read(&mut [0; 9]), Ok(1));
    assert_eq!(bench.world.0.borrow().waits, 4);
}

#[test]
fn an_interrupt_is_acknowledged_only_where_there_are_interrupts() {
    for uses_interrupts in [false, true] {
        let mut bench = Bench::with_interrupts(uses_interrupts);
        bench.plan(|world| world.deliver(request(PEER), &[]));
        drop(bench.vsock.accept());
        let world = bench.world.0.borrow();
        assert_eq!(world.acknowledged, usize::from(uses_interrupts));
        let sides = [&world.rx, &world.tx, &world.events];
        assert!(sides.iter().all(|side| side.wants_interrupts() == uses_interrupts));
    }
}

#[test]
fn half_a_close_leaves_the_other_half_open() {
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]).deliver(from(PEER, op::RW), b"all");
    bench.deliver(Header { flags: shutdown::SEND, ..from(PEER, op::SHUTDOWN) }, &[]);
    let mut stream = bench.vsock.accept();
    assert_eq!(read_all(&mut stream), b"all");
    stream.write_all(b"still here").unwrap();
    drop(stream);
    let world = bench.world.0.borrow();
    assert_eq!(world.data(), b"still here");
    let last = world.sent.last().unwrap().header;
    assert_eq!((last.op, last.flags), (op::SHUTDOWN, shutdown::BOTH));
}

#[test]
fn a_peer_that_stopped_receiving_is_sent_nothing() {
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]);
    bench.deliver(Header { flags: shutdown::RECEIVE, ..from(PEER, op::SHUTDOWN) }, &[]);
    bench.deliver(from(PEER, op::RW), b"x");
    let mut stream = bench.vsock.accept();
    assert_eq!(stream.read(&mut [0; 1]), Ok(1));
    assert_eq!(stream.write_all(b"y"), Err(StreamError::PeerStoppedReceiving));
}

#[test]
fn a_full_close_is_answered_with_a_reset_once_everything_was_read() {
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]).deliver(from(PEER, op::RW), b"bye");
    bench.deliver(Header { flags: shutdown::BOTH, ..from(PEER, op::SHUTDOWN) }, &[]);
    let mut stream = bench.vsock.accept();
    assert_eq!(read_all(&mut stream), b"bye");
    drop(stream);
    assert_eq!(bench.operations(), [(op::RESPONSE, PEER), (op::RST, PEER)]);
}

#[test]
fn a_reset_ends_the_connection_after_what_came_before_it() {
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]).deliver(from(PEER, op::RW), b"x");
    bench.deliver(from(PEER, op::RST), &[]);
    let mut stream = bench.vsock.accept();
    assert_eq!(stream.read(&mut [0; 9]), Ok(1));
    assert_eq!(stream.read(&mut [0; 9]), Err(StreamError::Reset));
    assert_eq!(stream.write_all(b"x"), Err(StreamError::Reset));
    drop(stream);
    assert_eq!(bench.operations(), [(op::RESPONSE, PEER)], "a reset is not answered");
}

#[test]
fn a_peer_may_come_again_after_a_reset() {
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]).deliver(from(PEER, op::RST), &[]);
    bench.deliver(request(PEER), &[]).deliver(from(PEER, op::RW), b"x");
    assert_eq!(bench.vsock.accept().read(&mut [0; 9]), Err(StreamError::Reset));
    assert_eq!(bench.vsock.accept().read(&mut [0; 9]), Ok(1));
}

#[test]
fn one_peer_is_served_eight_wait_and_the_rest_are_refused() {
    let mut bench = Bench::new();
    bench.deliver(request(1), &[]);
    let mut stream = bench.vsock.accept();
    for port in 2..=12 {
        bench.world.0.borrow_mut().deliver(request(port), &[]);
    }
    bench.world.0.borrow_mut().deliver(from(1, op::RW), b"x");
    stream.read(&mut [0; 1]).unwrap();
    stream.write_all(b"y").unwrap();
    drop(stream);
    let refused = bench.operations();
    let refused: Vec<_> = refused.iter().filter(|(op, _)| *op == op::RST).map(|p| p.1).collect();
    assert_eq!(refused, [10, 11, 12]);
    for port in 2..=9 {
        bench.forget();
        drop(bench.vsock.accept());
        assert_eq!(bench.operations()[0], (op::RESPONSE, port), "served in order");
    }
}

#[test]
fn a_peer_that_waits_may_think_better_of_it() {
    let mut bench = Bench::new();
    bench.deliver(request(1), &[]);
    let mut stream = bench.vsock.accept();
    let world = &bench.world.0;
    for header in [request(2), request(3), from(2, op::RST)] {
        world.borrow_mut().deliver(header, &[]);
    }
    let close = Header { flags: shutdown::BOTH, ..from(1, op::SHUTDOWN) };
    world.borrow_mut().plan.push_back(Box::new(move |world| world.deliver(close, &[])));
    assert_eq!(stream.read(&mut [0; 1]), Ok(0));
    drop(stream);
    bench.forget();
    drop(bench.vsock.accept());
    assert_eq!(bench.operations(), [(op::RESPONSE, 3), (op::SHUTDOWN, 3)]);
}

#[test]
fn strangers_are_refused_and_resets_are_never_answered() {
    let mut bench = Bench::new();
    bench.deliver(Header { dst_port: 80, ..request(7) }, &[]);
    bench.deliver(Header { kind: 2, ..request(8) }, &[]);
    bench.deliver(from(9, op::RW), b"x");
    bench.deliver(from(10, op::RST), &[]);
    bench.deliver(from(11, 77), &[]);
    bench.deliver(request(PEER), &[]).plan(|_| {}).deliver(from(PEER, op::RW), b"x");
    let mut stream = bench.vsock.accept();
    stream.read(&mut [0; 9]).unwrap();
    drop(stream);
    let world = bench.world.0.borrow();
    let refused = |p: &&Packet| p.header.op == op::RST;
    let mut refused: Vec<_> = world.sent.iter().filter(refused).map(|p| p.header).collect();
    refused.sort_by_key(|header| header.dst_port);
    let seen: Vec<_> = refused.iter().map(|h| (h.dst_port, h.src_port, h.kind)).collect();
    assert_eq!(seen, [(7, 80, 1), (8, PORT, 2), (9, PORT, 1), (11, PORT, 1)]);
}

#[test]
fn packets_for_or_from_others_and_cut_packets_mean_nothing() {
    let mut bench = Bench::new();
    bench.deliver(Header { dst_cid: CID + 1, ..request(1) }, &[]);
    bench.deliver(Header { src_cid: CID + 1, ..request(2) }, &[]);
    bench.plan(|world| {
        // The header announces more than the device says it has written.
        world.deliver(from(3, op::RW), b"x");
        world.deliver(request(PEER), &[]);
    });
    drop(bench.vsock.accept());
    let operations = bench.operations();
    assert_eq!(operations, [(op::RST, 3), (op::RESPONSE, PEER), (op::SHUTDOWN, PEER)]);
}

#[test]
fn a_served_peer_that_breaks_the_rules_is_sent_away() {
    for op in [op::REQUEST, op::RESPONSE, 0, 99] {
        let mut bench = Bench::new();
        bench.deliver(request(PEER), &[]);
        let mut stream = bench.vsock.accept();
        bench.world.0.borrow_mut().deliver(from(PEER, op), &[]);
        assert_eq!(stream.read(&mut [0; 1]), Err(StreamError::Reset), "operation {op}");
        drop(stream);
        assert_eq!(bench.operations().last(), Some(&(op::RST, PEER)));
    }
}

#[test]
fn data_after_the_end_of_sending_is_an_offence() {
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]);
    bench.deliver(Header { flags: shutdown::SEND, ..from(PEER, op::SHUTDOWN) }, &[]);
    bench.deliver(from(PEER, op::RW), b"more");
    bench.deliver(request(PEER + 1), &[]);
    let mut stream = bench.vsock.accept();
    assert_eq!(stream.read(&mut [0; 9]), Ok(0));
    assert_eq!(stream.write_all(b"x"), Ok(()), "it has not been looked at yet");
    drop(stream);
    drop(bench.vsock.accept());
    assert!(bench.operations().contains(&(op::RST, PEER)));
}

#[test]
fn a_peer_that_overruns_our_credit_is_sent_away() {
    let mut bench = Bench::new();
    // The guest can't send, so it has to take what comes while it waits for a window.
    bench.deliver(Header { buf_alloc: 0, ..request(PEER) }, &[]);
    let payload = vec![7; RX_BUFFER_LEN as usize - packet::HEADER_LEN];
    let whole = BUF_ALLOC as usize / payload.len();
    for _ in 0..=whole {
        let payload = payload.clone();
        bench.plan(move |world| {
            world.deliver(Header { buf_alloc: 0, ..from(PEER, op::RW) }, &payload);
        });
    }
    let mut stream = bench.vsock.accept();
    assert_eq!(stream.write_all(b"x"), Err(StreamError::Reset));
    let mut buffer = vec![0; 1 << 20];
    let mut received = 0;
    while let Ok(len) = stream.read(&mut buffer) {
        received += len;
    }
    assert_eq!(received, whole * payload.len(), "what it had credit for is still there");
    drop(stream);
    assert_eq!(bench.operations().last(), Some(&(op::RST, PEER)));
}

#[test]
fn a_credit_request_is_answered() {
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]).deliver(from(PEER, op::CREDIT_REQUEST), &[]);
    bench.deliver(from(PEER, op::RW), b"x");
    bench.vsock.accept().read(&mut [0; 1]).unwrap();
    assert_eq!(bench.operations()[..2], [(op::RESPONSE, PEER), (op::CREDIT_UPDATE, PEER)]);
}

#[test]
fn a_send_waits_for_the_window_and_asks_once() {
    let mut bench = Bench::new();
    bench.deliver(Header { buf_alloc: 4, ..request(PEER) }, &[]);
    let update = |fwd_cnt| {
        move |world: &mut World| {
            world.fwd_cnt = fwd_cnt;
            world.deliver(Header { buf_alloc: 4, ..from(PEER, op::CREDIT_UPDATE) }, &[]);
        }
    };
    bench.plan(|_| {}).plan(update(3)).plan(update(7));
    bench.vsock.accept().write_all(b"0123456789").unwrap();
    let world = bench.world.0.borrow();
    let sent: Vec<_> = world.sent.iter().map(|p| (p.header.op, p.payload.as_slice())).collect();
    assert_eq!(
        sent[..6],
        [
            (op::RESPONSE, b"".as_slice()),
            (op::RW, b"0123"),
            (op::CREDIT_REQUEST, b""),
            (op::RW, b"456"),
            (op::CREDIT_REQUEST, b""),
            (op::RW, b"789"),
        ]
    );
}

#[test]
fn a_peer_that_goes_away_ends_a_waiting_send() {
    let mut bench = Bench::new();
    bench.deliver(Header { buf_alloc: 0, ..request(PEER) }, &[]);
    bench.plan(|world| world.deliver(from(PEER, op::RST), &[]));
    assert_eq!(bench.vsock.accept().write_all(b"x"), Err(StreamError::Reset));
}

#[test]
fn a_send_returns_only_when_the_device_has_read_it() {
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]);
    let mut stream = bench.vsock.accept();
    bench.world.0.borrow_mut().holds_tx = true;
    bench.world.0.borrow_mut().plan.push_back(Box::new(|world| {
        assert!(world.data().is_empty());
        world.holds_tx = false;
    }));
    stream.write_all(b"x").unwrap();
    assert_eq!(bench.world.0.borrow().data(), b"x");
}

#[test]
fn a_device_in_silence_is_not_notified() {
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]);
    let mut stream = bench.vsock.accept();
    bench.world.0.borrow_mut().notifications.clear();
    bench.world.0.borrow().tx.silence(true);
    bench.world.0.borrow_mut().plan.push_back(Box::new(|world| world.tx.look()));
    stream.write_all(b"x").unwrap();
    assert!(bench.world.0.borrow().notifications.is_empty());
}

#[test]
fn a_transport_reset_ends_everything_and_the_guest_goes_on_with_its_new_address() {
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]).deliver(request(2), &[]);
    bench.plan(|world| world.transport_reset(77));
    let mut stream = bench.vsock.accept();
    assert_eq!(stream.read(&mut [0; 1]), Err(StreamError::Reset));
    drop(stream);
    assert_eq!(bench.operations(), [(op::RESPONSE, PEER)], "nobody is left to be told");
    assert_eq!(bench.vsock.cid(), 77);
    bench.forget();
    // The event buffer is back, so it can happen again, and the backlog is empty.
    bench.plan(|world| world.transport_reset(78));
    bench.plan(|world| world.deliver(Header { dst_cid: 78, ..request(5) }, &[]));
    drop(bench.vsock.accept());
    assert_eq!(bench.operations(), [(op::RESPONSE, 5), (op::SHUTDOWN, 5)]);
    assert_eq!(bench.world.0.borrow().sent[0].header.src_cid, 78);
}

/// Ten megabytes to the guest and back, as the host's window and pieces allow.
#[test]
fn the_longest_frame_goes_both_ways() {
    const LEN: usize = 10 << 20;
    let mut bench = Bench::new();
    bench.deliver(request(PEER), &[]);
    bench.world.0.borrow_mut().react = Some(|world, packet| {
        // The host sends whatever the guest has room for, and reads at once what it is sent.
        world.fwd_cnt = world.fwd_cnt.wrapping_add(packet.header.len);
        send_pattern(world, packet.header.fwd_cnt);
        if packet.header.op == op::RW {
            world.deliver(from(PEER, op::CREDIT_UPDATE), &[]);
        }
    });
    let mut stream = bench.vsock.accept();
    let mut received = Vec::new();
    let mut buffer = vec![0; 100_000];
    while received.len() < LEN {
        let len = stream.read(&mut buffer).unwrap();
        received.extend_from_slice(&buffer[..len]);
    }
    assert!(received.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
    assert_eq!(bench.world.0.borrow().waits, 0, "every credit update brought more");
    let updates = bench.world.0.borrow().sent.len();
    assert!(updates <= 2 * LEN / BUF_ALLOC as usize + 1, "{updates} packets for the credit");

    bench.world.0.borrow_mut().sent.clear();
    stream.write_all(&received).unwrap();
    assert!(bench.world.0.borrow().data() == received);
}

/// What the host sends at offset `at`.
fn pattern(at: usize) -> u8 {
    u8::try_from(at * 7 % 251).unwrap()
}

/// Sends as much as the guest's credit allows, in the largest packets.
fn send_pattern(world: &mut World, read: u32) {
    const LEN: usize = 10 << 20;
    let mut sent: usize = world.notifications.iter().filter(|queue| **queue == 100).count();
    let room = RX_BUFFER_LEN as usize - packet::HEADER_LEN;
    let credit = read as usize + BUF_ALLOC as usize;
    let mut at = sent * room;
    while at < LEN && at + room.min(LEN - at) <= credit {
        let piece: Vec<u8> = (at..LEN.min(at + room)).map(pattern).collect();
        // Queue 100 does not exist: its notifications count the packets.
        world.notifications.push(100);
        sent += 1;
        at = sent * room;
        world.deliver(from(PEER, op::RW), &piece);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the sizes, and whenever the peer reads, bytes arrive once and in order, both ways
    /// at the same time.
    #[test]
    fn bytes_arrive_once_and_in_order(
        pieces in proptest::collection::vec(1_usize..3000, 1..40),
        window in 1_u32..5000,
        reads in 1_usize..4000,
    ) {
        let total: usize = pieces.iter().sum();
        let question: Vec<u8> = (0..total).map(pattern).collect();
        let mut bench = Bench::new();
        bench.deliver(Header { buf_alloc: window, ..request(PEER) }, &[]);
        let mut at = 0;
        for len in pieces {
            let piece = question[at..at + len].to_vec();
            at += len;
            // While the guest is waiting for our window, we send, and read a part of what it sent.
            bench.plan(move |world| {
                let sent = u32::try_from(world.data().len()).unwrap();
                world.fwd_cnt = sent - (sent - world.fwd_cnt) / 3;
                world.deliver(Header { buf_alloc: window, ..from(PEER, op::RW) }, &piece);
            });
        }
        for _ in 0..total {
            bench.plan(move |world| {
                world.fwd_cnt = u32::try_from(world.data().len()).unwrap();
                world.deliver(Header { buf_alloc: window, ..from(PEER, op::CREDIT_UPDATE) }, &[]);
            });
        }
        let mut stream = bench.vsock.accept();
        let answer: Vec<u8> = question.iter().rev().copied().collect();
        stream.write_all(&answer).unwrap();
        let mut received = Vec::new();
        let mut buffer = vec![0; reads];
        while received.len() < total {
            let len = stream.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..len]);
        }
        prop_assert!(received == question);
        prop_assert!(bench.world.0.borrow().data() == answer);
    }

    /// Any packets at all leave the guest able to serve the next peer.
    #[test]
    fn any_packets_leave_the_guest_able_to_serve(
        packets in proptest::collection::vec(any_packet(), 0..60),
    ) {
        let mut bench = Bench::new();
        for (header, payload) in packets {
            bench.plan(move |world| world.deliver(header, &payload));
        }
        bench.plan(|world| {
            for port in 1..=3 {
                world.deliver(from(port, op::RST), &[]);
            }
            world.deliver(request(4), &[]);
            world.deliver(from(4, op::RW), b"the next peer");
        });
        let mut buffer = [0; 500];
        while !buffer.starts_with(b"the next peer") {
            let mut stream = bench.vsock.accept();
            while let Ok(1..) = stream.read(&mut buffer)
                && !buffer.starts_with(b"the next peer") {}
        }
    }
}

/// Packets that are now and then almost right.
fn any_packet() -> impl Strategy<Value = (Header, Vec<u8>)> {
    let ports = prop_oneof![9 => Just(PORT), 1 => any::<u32>()];
    let kinds = prop_oneof![9 => Just(1), 1 => any::<u16>()];
    let cids = prop_oneof![9 => Just(CID), 1 => any::<u64>()];
    let payload = proptest::collection::vec(any::<u8>(), 0..300);
    (1_u32..4, ports, kinds, cids, 0_u16..9, any::<u32>(), any::<u32>(), payload).prop_map(
        |(src_port, dst_port, kind, dst_cid, op, flags, buf_alloc, payload)| {
            let header = from(src_port, op);
            (Header { dst_port, kind, dst_cid, flags, buf_alloc, ..header }, payload)
        },
    )
}
