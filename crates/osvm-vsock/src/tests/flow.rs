//! What a connection goes through, from request to reset.
#![expect(clippy::cast_possible_truncation, reason = "numbers of a test fit where it puts them")]

use super::guest::*;
use crate::{Device, Event, MAX_CONNECTIONS, Peer, Progress, Refusal, WINDOW_MAX, WINDOW_MIN};
use osvm_protocol::Cid;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use virtio_queue::{Queue, QueueState};
use vm_memory::{Bytes, GuestAddress};

const RX_BUFFER: u32 = 4096;
const NONE: [u16; 0] = [];

fn read(socket: &mut UnixStream) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    match socket.read(&mut bytes) {
        Ok(len) => bytes[..len].to_vec(),
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing to read"),
        Err(error) => panic!("{error}"),
    }
}

fn is_open(socket: &mut UnixStream) -> bool {
    matches!(socket.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn a_request_waits_for_the_driver_and_goes_out_in_the_exit_that_makes_room() {
    let mut guest = Guest::cold(8, RX_BUFFER);
    let _host = guest.connect(1);
    guest.set_up().unwrap();
    assert_eq!(guest.take_ops(), NONE);
    guest.rings[RX].descriptor(&guest.mem, 0, 0x10_0000, RX_BUFFER, [WRITE, 0]);
    guest.rings[RX].offer(&guest.mem, 0);
    guest.notify(RX).unwrap();
    assert!(guest.vsock.take_delivered());
    assert!(!guest.vsock.take_delivered());
}

#[test]
fn bytes_of_the_host_arrive_in_the_exit_of_the_response() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let mut host = guest.connect(7);
    host.write_all(b"hello").unwrap();
    let request = guest.take().remove(0);
    assert_eq!((request.op, request.guest_port, request.buf_alloc), (REQUEST, 5252, WINDOW_MAX));
    let mut response = reply(&request, RESPONSE);
    response.buf_alloc = 1000;
    guest.send(&response).unwrap();
    let packets = guest.take();
    assert_eq!(
        (packets.len(), packets[0].op, packets[0].payload.as_slice()),
        (1, RW, &b"hello"[..])
    );
    assert_eq!(guest.events(), [Event::Accepted { token: 7 }]);
}

#[test]
fn bytes_of_the_guest_arrive_in_the_exit_of_their_notification() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, port) = guest.connected(1);
    guest.write(port, b"answer", 100);
    assert_eq!(read(&mut host), b"answer");
    assert_eq!(guest.take_ops(), NONE, "a short answer needs no credit update");
}

#[test]
fn a_guest_that_has_buffers_left_is_not_asked_to_notify() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, _) = guest.connected(1);
    let before = guest.notifications;
    for _ in 0..20 {
        host.write_all(b"x").unwrap();
        guest.service();
        assert_eq!(guest.step(), 1);
    }
    assert_eq!(guest.notifications, before);
}

#[test]
fn a_packet_may_be_spread_over_any_number_of_buffers() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, port) = guest.connected(1);
    let packet = guest.streams[&port].packet(RW, b"spread out");
    let bytes = [packet.header(), packet.payload].concat();
    let addr = 0x20_0000;
    let pieces = [0..1, 1..30, 30..30, 30..47, 47..54];
    for (at, piece) in pieces.iter().enumerate() {
        let place = addr + 100 * at as u64;
        guest.mem.write_slice(&bytes[piece.clone()], GuestAddress(place)).unwrap();
        let at = at as u16;
        let next = if at == 4 { [0, 0] } else { [NEXT, at + 1] };
        guest.rings[TX].descriptor(&guest.mem, at, place, piece.len() as u32, next);
    }
    guest.rings[TX].offer(&guest.mem, 0);
    guest.notify(TX).unwrap();
    assert_eq!(read(&mut host), b"spread out");
}

#[test]
fn a_guest_that_refuses_closes_the_host_end() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let mut host = guest.connect(3);
    let request = guest.take().remove(0);
    guest.send(&reply(&request, RST)).unwrap();
    assert_eq!(guest.events(), [Event::Refused { token: 3, reason: Refusal::ByGuest }]);
    assert_eq!(read(&mut host), b"");
}

#[test]
fn a_host_that_hangs_up_before_the_answer_takes_its_request_back() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    drop(guest.connect(3));
    assert_eq!(guest.take_ops(), [REQUEST]);
    guest.service();
    assert_eq!(guest.take_ops(), [RST]);
    assert_eq!(guest.events(), [Event::Refused { token: 3, reason: Refusal::ByHost }]);
}

#[test]
fn a_host_that_is_done_writing_still_gets_the_answer() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, port) = guest.connected(1);
    host.write_all(b"all").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    guest.service();
    let packets = guest.take();
    let seen: Vec<_> = packets.iter().map(|packet| (packet.op, packet.flags)).collect();
    assert_eq!(seen, [(RW, 0), (SHUTDOWN, 2)]);
    guest.write(port, b"answer", 100);
    assert_eq!(read(&mut host), b"answer");
}

#[test]
fn the_end_of_a_host_that_wrote_and_closed_at_once_is_not_lost() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, _) = guest.connected(1);
    host.write_all(b"bye").unwrap();
    drop(host);
    guest.service();
    let packets = guest.take();
    let seen: Vec<_> = packets.iter().map(|packet| (packet.op, packet.flags)).collect();
    assert_eq!(seen, [(RW, 0), (SHUTDOWN, 3)]);
}

#[test]
fn a_guest_that_is_done_writing_still_gets_what_the_host_sends() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, port) = guest.connected(1);
    guest.write(port, b"last", 100);
    shut(&mut guest, port, 2);
    assert_eq!(read(&mut host), b"last");
    assert_eq!(read(&mut host), b"");
    host.write_all(b"more").unwrap();
    guest.service();
    let packets = guest.take();
    assert_eq!((packets.len(), packets[0].payload.as_slice()), (1, &b"more"[..]));
}

#[test]
fn a_guest_that_is_done_reading_makes_the_host_fail_to_write() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, port) = guest.connected(1);
    shut(&mut guest, port, 1);
    assert_eq!(host.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest.write(port, b"still", 100);
    assert_eq!(read(&mut host), b"still");
}

#[test]
fn a_goodbye_in_both_directions_is_confirmed_with_a_reset() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, port) = guest.connected(1);
    guest.write(port, b"last", 100);
    shut(&mut guest, port, 3);
    assert_eq!(guest.take_ops(), [RST]);
    assert_eq!(read(&mut host), b"last");
    assert_eq!(read(&mut host), b"");
}

#[test]
fn a_host_that_stops_reading_is_told_to_the_guest_and_costs_it_no_credit() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (host, port) = guest.connected(1);
    host.shutdown(Shutdown::Read).unwrap();
    let bytes = vec![1; WINDOW_MAX as usize * 2];
    let mut written = 0;
    while written < bytes.len() {
        let len = guest.write(port, &bytes[written..], 64 * 1024);
        guest.step();
        assert_ne!(len, 0, "the guest starves after {written} bytes");
        written += len;
    }
    assert_eq!(guest.streams[&port].shutdown, 1);
}

#[test]
fn a_reset_by_the_guest_hangs_up_on_the_host() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, port) = guest.connected(1);
    let reset = guest.streams[&port].packet(RST, &[]);
    guest.send(&reset).unwrap();
    assert_eq!(read(&mut host), b"");
    assert_eq!(guest.take_ops(), NONE, "a reset is not answered");
}

#[test]
fn a_host_that_hangs_up_on_unread_bytes_is_a_reset_for_the_guest() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (host, port) = guest.connected(1);
    guest.write(port, b"unread", 100);
    drop(host);
    guest.service();
    assert_eq!(guest.take_ops(), [RST]);
}

#[test]
fn what_a_guest_sent_before_its_goodbye_survives_its_reset() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, port) = guest.connected(1);
    fill(&mut guest, port);
    guest.take();
    shut(&mut guest, port, 3);
    assert_eq!(guest.take_ops(), NONE, "not confirmed while the host has not taken everything");
    let reset = guest.streams[&port].packet(RST, &[]);
    guest.send(&reset).unwrap();
    assert_eq!(drain(&mut guest, &mut host), WINDOW_MAX as usize);
    assert_eq!(guest.take_ops(), NONE);
}

#[test]
fn a_reset_without_a_goodbye_discards_what_is_under_way() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, port) = guest.connected(1);
    fill(&mut guest, port);
    let reset = guest.streams[&port].packet(RST, &[]);
    guest.send(&reset).unwrap();
    assert!(drain(&mut guest, &mut host) < WINDOW_MAX as usize);
}

#[test]
fn what_a_guest_sent_survives_the_reset_of_its_device() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, port) = guest.connected(1);
    fill(&mut guest, port);
    guest.register(0x70, 0).unwrap();
    assert_eq!(drain(&mut guest, &mut host), WINDOW_MAX as usize);
}

#[test]
fn a_device_reset_refuses_what_was_asked_and_keeps_what_was_not() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut open, _) = guest.connected(1);
    let mut asked = guest.connect(2);
    assert_eq!(guest.take_ops(), [REQUEST]);
    guest.register(0x70, 0).unwrap();
    assert_eq!(guest.events(), [Event::Refused { token: 2, reason: Refusal::DeviceReset }]);
    assert_eq!((read(&mut open), read(&mut asked)), (vec![], vec![]));

    let mut not_asked = guest.connect(3);
    guest.register(0x70, 0).unwrap();
    assert_eq!(guest.events(), []);
    assert!(is_open(&mut not_asked));
}

#[test]
fn a_transport_reset_is_told_as_soon_as_there_is_a_buffer() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, _) = guest.connected(1);
    guest.vsock.device().transport_reset();
    assert_eq!(read(&mut host), b"");
    guest.mem.write_obj(u32::MAX, GuestAddress(0x1000)).unwrap();
    guest.rings[EVENT].descriptor(&guest.mem, 0, 0x1000, 4, [WRITE, 0]);
    guest.rings[EVENT].offer(&guest.mem, 0);
    guest.vsock.take_delivered();
    guest.notify(EVENT).unwrap();
    assert!(guest.vsock.take_delivered());
    let id: u32 = guest.mem.read_obj(GuestAddress(0x1000)).unwrap();
    assert_eq!(id, 0);
    guest.notify(EVENT).unwrap();
    assert!(!guest.vsock.take_delivered(), "told once");
}

#[test]
fn packets_that_belong_nowhere_are_reset() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (mut host, port) = guest.connected(1);
    let stream = guest.streams[&port].packet(RW, b"x");
    for op in [REQUEST, RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST, 0, 8, u16::MAX] {
        guest.send(&Packet { host_port: 9, op, ..stream.clone() }).unwrap();
        let packets = guest.take();
        assert_eq!((packets.len(), packets[0].op, packets[0].host_port), (1, RST, 9), "op {op}");
    }
    guest.send(&Packet { socket_type: 2, ..stream.clone() }).unwrap();
    let packets = guest.take();
    assert_eq!((packets.len(), packets[0].op, packets[0].socket_type), (1, RST, 2));
    guest.send(&Packet { host_port: 9, op: RST, ..stream.clone() }).unwrap();
    guest.send(&Packet { src_cid: 201, ..stream.clone() }).unwrap();
    guest.send(&Packet { dst_cid: 1, ..stream }).unwrap();
    assert_eq!(guest.take_ops(), NONE, "resets and foreign addresses are dropped");
    assert!(is_open(&mut host), "nothing of this concerns an open connection");
}

#[test]
fn an_operation_out_of_place_ends_the_connection() {
    for op in [0, 8, REQUEST, RESPONSE] {
        let mut guest = Guest::boot(8, RX_BUFFER);
        let (mut host, port) = guest.connected(1);
        let packet = guest.streams[&port].packet(op, &[]);
        guest.send(&packet).unwrap();
        assert_eq!(guest.take_ops(), [RST], "op {op}");
        assert_eq!(read(&mut host), b"");
    }
}

#[test]
fn data_after_a_goodbye_ends_the_connection() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (_host, port) = guest.connected(1);
    shut(&mut guest, port, 2);
    guest.write(port, b"x", 1);
    assert_eq!(guest.take_ops(), [RST]);
}

#[test]
fn resets_nobody_takes_do_not_pile_up() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    let (_host, port) = guest.connected(1);
    let stray = Packet { host_port: 9, ..guest.streams[&port].packet(RW, &[]) };
    for _ in 0..3000 {
        guest.send(&stray).unwrap();
    }
    let mut resets = 0;
    loop {
        match guest.take().len() {
            0 => break,
            more => resets += more,
        }
    }
    assert_eq!(resets, 8 + 1024);
}

#[test]
fn a_guest_may_connect_only_where_the_host_listens() {
    let mut guest = Guest::boot(8, RX_BUFFER);
    guest.vsock.device().listen(80);
    let stream = Stream { host_port: 80, guest_port: 1000, window: 100, ..Stream::default() };
    let request = stream.packet(REQUEST, &[]);
    guest.send(&Packet { host_port: 81, ..request.clone() }).unwrap();
    assert_eq!(guest.take_ops(), [RST]);
    guest.send(&request).unwrap();
    let peer = Peer { host_port: 80, guest_port: 1000 };
    assert_eq!(guest.events(), [Event::Incoming(peer)]);
    let (mut host, end) = UnixStream::pair().unwrap();
    host.write_all(b"welcome").unwrap();
    guest.vsock.device().accept(peer, OwnedFd::from(end));
    guest.service();
    assert_eq!(guest.take_ops(), [RESPONSE, RW]);
    guest.send(&stream.packet(RW, b"thanks")).unwrap();
    assert_eq!(read(&mut host), b"thanks");

    guest.send(&Packet { guest_port: 1001, ..request }).unwrap();
    guest.vsock.device().refuse(Peer { guest_port: 1001, ..peer });
    guest.service();
    assert_eq!(guest.take_ops(), [RST]);
}

#[test]
fn more_connections_than_the_limit_are_refused_and_the_limit_is_not_lasting() {
    let mut guest = Guest::boot(256, 256);
    let mut hosts: Vec<_> = (0..MAX_CONNECTIONS as u64).map(|token| guest.connect(token)).collect();
    while guest.step() != 0 {}
    assert_eq!(guest.events().len(), MAX_CONNECTIONS);
    let last = guest.streams.values().map(|stream| stream.peer_window).min().unwrap();
    assert_eq!(last, WINDOW_MIN);
    let total: u64 = guest.streams.values().map(|stream| u64::from(stream.peer_window)).sum();
    assert!(total <= (16 << 20) + MAX_CONNECTIONS as u64 * u64::from(WINDOW_MIN), "{total}");

    let mut refused = guest.connect(9999);
    assert_eq!(guest.events(), [Event::Refused { token: 9999, reason: Refusal::TooMany }]);
    assert_eq!(read(&mut refused), b"");

    drop(hosts.pop());
    guest.service();
    guest.step();
    assert_eq!(guest.streams.values().filter(|stream| stream.shutdown == 3).count(), 1);
    let _host = guest.connect(10_000);
    guest.step();
    guest.step();
    assert_eq!(guest.events(), [Event::Accepted { token: 10_000 }]);
}

#[test]
fn connections_take_turns() {
    let mut guest = Guest::boot(4, 300);
    let mut hosts: Vec<_> = (0..3).map(|token| guest.connected(token).0).collect();
    for host in &mut hosts {
        host.write_all(&[0; 4000]).unwrap();
    }
    guest.service();
    let mut turns = Vec::new();
    loop {
        let packets = guest.take();
        if packets.is_empty() {
            break;
        }
        turns.extend(packets.iter().filter(|it| it.op == RW).map(|it| it.host_port));
    }
    assert_eq!(turns.len(), 3 * 4000_usize.div_ceil(256));
    for round in turns.chunks(3) {
        let mut round = round.to_vec();
        round.sort_unstable();
        round.dedup();
        assert_eq!(round.len(), 3, "{turns:?}");
    }
}

#[test]
fn one_look_goes_round_a_ring_once_and_says_whether_there_is_more() {
    let mut guest = Guest::cold(4, RX_BUFFER);
    let mut device = Device::new(Cid::new(200).unwrap()).unwrap();
    let mut queues = [RX, TX].map(|index| queue(&guest.rings[index]));
    let request = Stream { host_port: 9, ..Stream::default() }.packet(REQUEST, &[]);
    (0..4).for_each(|_| guest.queue(&request));
    let [rx, tx] = &mut queues;
    let once = Progress { used: 4, interrupt: true, more: false };
    assert_eq!(device.process_tx(&guest.mem, tx), Ok(once));
    guest.queue(&request);
    assert_eq!(device.process_tx(&guest.mem, tx), Ok(Progress { used: 1, ..once }));
    for head in 0..4 {
        guest.post_rx(head);
    }
    assert_eq!(device.process_rx(&guest.mem, rx), Ok(once), "five wait, four fit");
    assert!(device.rx_pending());
    guest.post_rx(0);
    assert_eq!(device.process_rx(&guest.mem, rx), Ok(Progress { used: 1, ..once }));
    assert!(!device.rx_pending());
}

/// A queue as a transport would hand it over that has nothing to do with registers.
fn queue(ring: &Ring) -> Queue {
    let Ring { size, desc: desc_table, avail: avail_ring, used: used_ring, .. } = *ring;
    let state = QueueState { ready: true, desc_table, avail_ring, used_ring, ..fresh(size) };
    Queue::try_from(state).unwrap()
}

fn fresh(max_size: u16) -> QueueState {
    QueueState { max_size, size: max_size, ..QueueState::default() }
}

/// The answer of a guest to `packet`.
fn reply(packet: &Packet, op: u16) -> Packet {
    Packet { src_cid: CID, dst_cid: HOST, op, payload: Vec::new(), ..packet.clone() }
}

fn shut(guest: &mut Guest, port: u32, flags: u32) {
    let packet = Packet { flags, ..guest.streams[&port].packet(SHUTDOWN, &[]) };
    guest.send(&packet).unwrap();
}

/// Sends a whole window, of which the host socket takes only a part.
fn fill(guest: &mut Guest, port: u32) {
    for _ in 0..4 {
        assert_eq!(guest.write(port, &vec![7; WINDOW_MAX as usize / 4], usize::MAX), 65536);
    }
}

/// Reads until the host's end is closed.
fn drain(guest: &mut Guest, host: &mut UnixStream) -> usize {
    let mut total = 0;
    loop {
        match read(host).len() {
            0 => return total,
            len => total += len,
        }
        guest.service();
    }
}
