//! Whatever the order of events: bytes arrive whole, in order, and all of them.
#![expect(clippy::cast_possible_truncation, reason = "numbers of a test fit where it puts them")]

use super::guest::*;
use proptest::prelude::*;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Step {
    HostWrites(usize),
    HostReads(usize),
    GuestWrites(usize),
    GuestTakesPackets,
    GuestReads,
    Service,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..100_000_usize).prop_map(Step::HostWrites),
        (1..100_000_usize).prop_map(Step::HostReads),
        (1..70_000_usize).prop_map(Step::GuestWrites),
        Just(Step::GuestTakesPackets),
        Just(Step::GuestReads),
        Just(Step::Service),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn streams_arrive_whole_and_in_order(
        start in prop_oneof![Just(0), any::<u32>(), (0..200_000_u32).prop_map(|n| u32::MAX - n)],
        window in 1..100_000_u32,
        rx_buffer in 45..10_000_u32,
        size in (1..6_u32).prop_map(|power| 1_u16 << power),
        reads: bool,
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut guest = Guest::boot(size, rx_buffer);
        (guest.start, guest.window) = (start, window);
        guest.vsock.device().mux.counters_start = start;
        let (mut host, port) = guest.connected(1);
        guest.streams.get_mut(&port).unwrap().reads = reads;

        let pattern: Vec<u8> = (0..500_000_u32).map(|at| (at ^ (at >> 8)) as u8).collect();
        let (mut to_guest, mut to_host, mut host_read) = (0, 0, 0);
        for step in steps {
            match step {
                Step::HostWrites(len) => {
                    let end = pattern.len().min(to_guest + len);
                    to_guest += push(&mut host, &pattern[to_guest..end]);
                }
                Step::HostReads(len) => host_read += check_read(&mut host, &pattern[host_read..], len),
                Step::GuestWrites(len) => {
                    to_host += guest.write(port, &pattern[to_host..], len);
                }
                Step::GuestTakesPackets => drop(guest.step()),
                Step::GuestReads => guest.read(port),
                Step::Service => guest.service(),
            }
        }

        // Both say that this was all; then everything under way has to come through.
        host.shutdown(Shutdown::Write).unwrap();
        guest.send(&Packet { flags: 2, ..guest.streams[&port].packet(SHUTDOWN, &[]) }).unwrap();
        for _ in 0..(to_guest / (window as usize).min(rx_buffer as usize - 44)).max(100) * 2 {
            host_read += check_read(&mut host, &pattern[host_read..], 1 << 20);
            guest.service();
            guest.step();
            let stream = &guest.streams[&port];
            if stream.received.len() == to_guest && host_read == to_host && stream.shutdown & 2 != 0 {
                break;
            }
            if stream.forwarded != stream.total() {
                guest.read(port);
            }
        }
        let stream = &guest.streams[&port];
        prop_assert_eq!((stream.received.len(), host_read), (to_guest, to_host));
        prop_assert!(stream.received == pattern[..to_guest]);
        prop_assert_eq!(stream.shutdown & 2, 2, "the guest was not told of the end");
        prop_assert_eq!(host.read(&mut [0]).unwrap(), 0, "the host was not told of the end");
    }
}

fn check_read(host: &mut std::os::unix::net::UnixStream, expected: &[u8], max: usize) -> usize {
    let mut bytes = vec![0; max];
    match host.read(&mut bytes) {
        Ok(len) => {
            assert!(bytes[..len] == expected[..len], "bytes were changed on the way to the host");
            len
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    }
}
