//! Credit and back-pressure over whole streams: nobody is overrun and nobody starves.
#![expect(clippy::cast_possible_truncation, reason = "numbers of a test fit where it puts them")]

use super::guest::*;
use crate::{Abuse, WINDOW_MAX};
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

/// Reads at most `max` bytes of what is there.
fn pull(socket: &mut UnixStream, max: usize) -> Vec<u8> {
    let mut bytes = vec![0; max];
    match socket.read(&mut bytes) {
        Ok(len) => bytes.truncate(len),
        Err(error) if error.kind() == ErrorKind::WouldBlock => bytes.clear(),
        Err(error) => panic!("{error}"),
    }
    bytes
}

/// Sends until credit is used up.
fn send_all_credit(guest: &mut Guest, port: u32) -> usize {
    let bytes = vec![5; 64 * 1024];
    let mut total = 0;
    loop {
        guest.step();
        match guest.write(port, &bytes, bytes.len()) {
            0 => return total,
            len => total += len,
        }
    }
}

#[test]
fn a_guest_that_ignores_credit_is_abusive() {
    let mut guest = Guest::boot(8, 4096);
    let (_host, port) = guest.connected(1);
    send_all_credit(&mut guest, port);
    let packet = guest.streams[&port].packet(RW, b"x");
    assert_eq!(guest.send(&packet), Err(Abuse::OverCredit { len: 1, credit: 0 }));
}

#[test]
fn a_packet_over_the_window_is_abusive() {
    let mut guest = Guest::boot(8, 4096);
    let (_host, port) = guest.connected(1);
    let len = WINDOW_MAX + 1;
    let packet = guest.streams[&port].packet(RW, &vec![0; len as usize]);
    assert_eq!(guest.send(&packet), Err(Abuse::OverCredit { len, credit: WINDOW_MAX }));
}

#[test]
fn a_guest_that_waits_without_a_word_is_told_of_room() {
    for piece in [500, 50_000, 1 << 20] {
        let mut guest = Guest::boot(8, 4096);
        let (mut host, port) = guest.connected(1);
        let sent = send_all_credit(&mut guest, port);
        assert!(WINDOW_MAX as usize <= sent);
        let mut read = 0;
        while read < sent {
            let bytes = pull(&mut host, piece);
            assert_ne!(bytes.len(), 0, "{read} of {sent} bytes came");
            read += bytes.len();
            guest.service();
            guest.step();
        }
        assert!(WINDOW_MAX / 2 <= guest.streams[&port].credit());
    }
}

#[test]
fn a_guest_that_asks_for_credit_is_answered_at_once() {
    let mut guest = Guest::boot(8, 4096);
    let (_host, port) = guest.connected(1);
    guest.write(port, b"some", 4);
    let request = guest.streams[&port].packet(CREDIT_REQUEST, &[]);
    guest.send(&request).unwrap();
    let packets = guest.take();
    let seen: Vec<_> = packets.iter().map(|it| (it.op, it.buf_alloc, it.fwd_cnt)).collect();
    assert_eq!(seen, [(CREDIT_UPDATE, WINDOW_MAX, 4)]);
}

#[test]
fn a_guest_that_takes_nothing_holds_up_the_host_and_is_asked_once() {
    let mut guest = Guest::boot(8, 4096);
    guest.window = 10_000;
    let (mut host, port) = guest.connected(1);
    guest.streams.get_mut(&port).unwrap().reads = false;
    let mut pushed = 0;
    let mut asked = 0;
    for _ in 0..100 {
        pushed += push(&mut host, &[9; 64 * 1024]);
        guest.service();
        let packets = guest.take();
        asked += packets.iter().filter(|it| it.op == CREDIT_REQUEST).count();
        let stream = guest.streams.get_mut(&port).unwrap();
        packets.iter().for_each(|it| stream.received.extend_from_slice(&it.payload));
    }
    assert_eq!((guest.streams[&port].received.len(), asked), (10_000, 1));
    assert!(pushed < 1 << 20, "the socket took {pushed} bytes nobody reads");

    guest.read(port);
    let packets = guest.take();
    let bytes: usize = packets.iter().map(|it| it.payload.len()).sum();
    assert_eq!(bytes, 10_000, "an update opens the window");
    assert_eq!(packets.last().unwrap().op, CREDIT_REQUEST, "asked again when it closes again");
}

#[test]
fn bytes_for_the_guest_carry_the_credit_that_an_update_would() {
    let mut guest = Guest::boot(8, 4096);
    let (mut host, port) = guest.connected(1);
    for _ in 0..3 {
        guest.queue(&guest.streams[&port].packet(RW, &vec![0; 50_000]));
    }
    push(&mut host, b"x");
    guest.service();
    let packets = guest.take();
    let seen: Vec<_> = packets.iter().map(|it| (it.op, it.fwd_cnt)).collect();
    assert_eq!(seen, [(RW, 150_000)]);
}

#[test]
fn bytes_kept_for_a_host_that_stops_reading_are_given_up() {
    let mut guest = Guest::boot(8, 4096);
    let (mut host, port) = guest.connected(1);
    let sent = send_all_credit(&mut guest, port);
    assert_ne!(pull(&mut host, sent).len(), sent, "nothing was kept");
    host.shutdown(std::net::Shutdown::Read).unwrap();
    guest.service();
    guest.step();
    let stream = &guest.streams[&port];
    assert_eq!((stream.credit(), stream.peer_forwarded as usize), (WINDOW_MAX, sent));
}

#[test]
fn a_guest_without_buffers_holds_up_the_host() {
    let mut guest = Guest::boot(8, 4096);
    guest.window = u32::MAX;
    let (mut host, _) = guest.connected(1);
    let mut pushed = 0;
    for _ in 0..100 {
        pushed += push(&mut host, &[9; 64 * 1024]);
        guest.service();
    }
    assert!(pushed < 1 << 20, "the socket took {pushed} bytes nobody reads");
    let packets = guest.take();
    assert_eq!(packets.len(), 8);
}

#[test]
fn counters_wrap_in_both_directions() {
    let start = u32::MAX - 100_000;
    let mut guest = Guest::boot(16, 4096);
    guest.start = start;
    guest.vsock.device().mux.counters_start = start;
    exchange(&mut guest, 1, 1 << 20);
    let stream = guest.streams.values().next().unwrap();
    assert!(stream.sent < start && stream.forwarded < start && stream.peer_forwarded < start);
}

#[test]
fn ten_mebibytes_go_both_ways_at_once_on_each_of_several_connections_with_small_windows() {
    let mut guest = Guest::boot(16, 4096);
    guest.window = 6_000;
    exchange(&mut guest, 3, 10 << 20);
}

#[test]
fn ten_mebibytes_go_both_ways_in_large_packets() {
    let mut guest = Guest::boot(16, 64 * 1024 + 44);
    guest.window = 1 << 20;
    exchange(&mut guest, 1, 10 << 20);
}

/// Moves `len` bytes both ways on each of `count` connections, and checks every one of them.
fn exchange(guest: &mut Guest, count: u64, len: usize) {
    let pattern: Vec<u8> = (0..len).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
    let mut hosts: Vec<_> = (0..count).map(|token| guest.connected(token)).collect();
    let mut progress: Vec<_> = hosts.iter().map(|_| (0, 0, 0)).collect();
    let mut idle = 0;
    while progress.iter().any(|(to, back, read)| to + back + read < 3 * len) || unread(guest, len) {
        let mut moved = 0;
        for ((host, port), (to_guest, to_host, read)) in hosts.iter_mut().zip(&mut progress) {
            let pushed = push(host, &pattern[*to_guest..]);
            let written = guest.write(*port, &pattern[*to_host..], 64 * 1024);
            let pulled = pull(host, 100_000);
            assert_eq!(pulled, pattern[*read..*read + pulled.len()]);
            *to_guest += pushed;
            *to_host += written;
            *read += pulled.len();
            moved += pushed + written + pulled.len();
        }
        guest.service();
        moved += guest.step();
        idle = if moved == 0 { idle + 1 } else { 0 };
        assert!(idle < 3, "nothing moves after {progress:?}");
    }
    for stream in guest.streams.values() {
        assert!(stream.received == pattern, "bytes were changed on the way to the guest");
    }
}

fn unread(guest: &Guest, len: usize) -> bool {
    guest.streams.values().any(|stream| stream.received.len() < len)
}
