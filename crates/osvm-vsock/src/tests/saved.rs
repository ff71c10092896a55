//! Devices that go on where another one stopped.

use super::guest::*;
use crate::mmio::{NotRestored, RegistersState, RingState, Vsock, VsockState};
use crate::{Abuse, Device, Event, QueueName, Refusal};
use osvm_protocol::Cid;
use proptest::prelude::*;
use std::io::Read;
use vm_memory::{Bytes, GuestAddress};

const EVENT_BUFFER: u64 = 0x1000;
const EVENTS: u16 = 4;

/// A guest with Linux's way of serving the event queue: all buffers are there from the start.
fn boot() -> Guest {
    let mut guest = Guest::boot(8, 4096);
    for head in 0..EVENTS {
        offer_event_buffer(&mut guest, head);
    }
    guest
}

fn offer_event_buffer(guest: &mut Guest, head: u16) {
    let addr = EVENT_BUFFER + u64::from(head) * 4;
    guest.mem.write_obj(u32::MAX, GuestAddress(addr)).unwrap();
    guest.rings[EVENT].descriptor(&guest.mem, head, addr, 4, [WRITE, 0]);
    guest.rings[EVENT].offer(&guest.mem, head);
}

/// The driver takes an event, and makes its buffer available again when it has dealt with it.
fn take_event(guest: &mut Guest) -> Option<u32> {
    let (head, len) = guest.rings[EVENT].take_used(&guest.mem)?;
    assert_eq!(len, 4);
    let addr = EVENT_BUFFER + u64::from(head) * 4;
    let event = guest.mem.read_obj(GuestAddress(addr)).unwrap();
    guest.streams.clear();
    offer_event_buffer(guest, head);
    guest.notify(EVENT).unwrap();
    Some(event)
}

fn new_device() -> Device {
    Device::new(Cid::new(200).unwrap()).unwrap()
}

fn restore(guest: &Guest, state: &VsockState) -> Result<Vsock, NotRestored> {
    Vsock::restored(new_device(), state, &guest.mem)
}

/// The guest goes on behind another device, by way of what would stand in a file.
fn move_on(guest: &mut Guest) {
    let saved = serde_json::to_vec(&guest.vsock.state()).unwrap();
    guest.vsock = restore(guest, &serde_json::from_slice(&saved).unwrap()).unwrap();
}

#[test]
fn a_connection_made_after_the_restore_waits_until_the_driver_has_dealt_with_the_event() {
    let mut guest = boot();
    let (mut old, _) = guest.connected(1);
    move_on(&mut guest);
    assert_eq!(old.read(&mut [0]).unwrap(), 0, "the old device took its sockets with it");
    assert!(guest.vsock.interrupt());
    assert!(guest.vsock.take_delivered());

    let _host = guest.connect(2);
    guest.service();
    guest.notify(RX).unwrap();
    guest.notify(TX).unwrap();
    assert_eq!((guest.take(), guest.events()), (vec![], vec![]), "the event goes first");

    assert_eq!(take_event(&mut guest), Some(0));
    assert_eq!(guest.step(), 1, "the request comes with the notification of the event buffer");
    while guest.step() != 0 {}
    assert_eq!(guest.events(), [Event::Accepted { token: 2 }]);
    assert_eq!(take_event(&mut guest), None, "told once");
}

#[test]
fn a_driver_without_event_buffers_is_told_when_it_has_one() {
    let mut guest = Guest::boot(8, 4096);
    let (_old, _) = guest.connected(1);
    move_on(&mut guest);
    let _host = guest.connect(2);
    assert!(!guest.vsock.take_delivered());
    offer_event_buffer(&mut guest, 0);
    guest.notify(EVENT).unwrap();
    assert_eq!(guest.take(), []);
    assert_eq!(take_event(&mut guest), Some(0));
    while guest.step() != 0 {}
    assert_eq!(guest.events(), [Event::Accepted { token: 2 }]);
}

#[test]
fn several_connections_that_waited_are_all_made() {
    let mut guest = boot();
    move_on(&mut guest);
    let hosts: Vec<_> = (0..20).map(|token| guest.connect(token)).collect();
    take_event(&mut guest);
    let mut accepted = 0;
    while guest.step() != 0 {
        accepted += guest.events().len();
    }
    assert_eq!(accepted, hosts.len());
}

#[test]
fn a_host_that_hangs_up_while_it_waits_is_forgotten() {
    let mut guest = boot();
    move_on(&mut guest);
    drop(guest.connect(2));
    guest.service();
    assert_eq!(guest.events(), [Event::Refused { token: 2, reason: Refusal::ByHost }]);
    take_event(&mut guest);
    assert_eq!(guest.take(), []);
}

#[test]
fn a_driver_that_starts_anew_needs_no_event() {
    let mut guest = boot();
    move_on(&mut guest);
    let _host = guest.connect(2);
    guest.start_driver();
    while guest.step() != 0 {}
    assert_eq!(guest.events(), [Event::Accepted { token: 2 }]);
}

#[test]
fn a_driver_that_was_not_ready_yet_is_told_nothing() {
    let mut guest = Guest::cold(8, 4096);
    guest.register(0x70, 3).unwrap();
    guest.register(0x30, 1).unwrap();
    guest.register(0x38, 4).unwrap();
    guest.register(0x80, 0x4000).unwrap();
    let before = guest.vsock.state();
    move_on(&mut guest);
    assert_eq!(guest.vsock.state(), before);
    assert_eq!(guest.read_register(0x70), 3);
    guest.start_driver();
    let (_host, _) = guest.connected(1);
}

#[test]
fn positions_and_registers_are_kept() {
    let mut guest = boot();
    for token in 0..50 {
        drop(guest.connected(token));
        guest.service();
        while guest.step() != 0 {}
        guest.events();
    }
    guest.register(0x64, 1).unwrap();
    let before = guest.vsock.state();
    let [rx, tx, event] = &before.registers.rings[..] else { panic!("three rings") };
    assert!(50 <= rx.next_avail && 50 <= tx.next_avail, "{before:?}");
    move_on(&mut guest);
    let mut expected = before.clone();
    // The event that has just been sent, and its interrupt.
    expected.registers.rings[EVENT].next_avail = event.next_avail + 1;
    expected.registers.rings[EVENT].next_used = event.next_used + 1;
    expected.registers.interrupt_status = 1;
    assert_eq!(guest.vsock.state(), expected);
    take_event(&mut guest);
    let (_host, _) = guest.connected(50);
}

#[test]
fn an_interrupt_that_was_not_acknowledged_is_raised_again() {
    let mut guest = boot();
    let (_host, _) = guest.connected(1);
    assert!(guest.vsock.interrupt());
    guest.mem.write_obj(1_u16, GuestAddress(guest.rings[EVENT].avail)).unwrap();
    move_on(&mut guest);
    assert!(guest.vsock.interrupt());
    guest.register(0x64, 1).unwrap();
    assert!(!guest.vsock.interrupt());
}

#[test]
fn packets_of_a_former_connection_do_not_reach_a_new_one() {
    let mut guest = boot();
    let (_old, old_port) = guest.connected(1);
    let stale = guest.streams[&old_port].packet(RW, b"for a host that is gone");
    move_on(&mut guest);
    let mut host = guest.connect(2);
    guest.queue(&stale);
    take_event(&mut guest);
    let packets = guest.take();
    let seen: Vec<_> = packets.iter().map(|packet| (packet.op, packet.host_port)).collect();
    assert!(seen.contains(&(RST, old_port)), "{seen:?}");
    let [(_, port)] = seen.iter().filter(|(op, _)| *op == REQUEST).collect::<Vec<_>>()[..] else {
        panic!("one request: {seen:?}")
    };
    assert_ne!(*port, old_port);
    let error = host.read(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_copy_of_a_copy_uses_new_ports_too() {
    let mut guest = boot();
    let (_first, first) = guest.connected(1);
    let mut ports = vec![first];
    for token in 2..5 {
        move_on(&mut guest);
        take_event(&mut guest);
        ports.push(guest.connected(token).1);
    }
    ports.dedup();
    assert_eq!(ports.len(), 4);
}

#[test]
fn a_copy_may_have_another_address() {
    let guest = boot();
    let device = Device::new(Cid::new(201).unwrap()).unwrap();
    let copy = Vsock::restored(device, &guest.vsock.state(), &guest.mem).unwrap();
    let mut cid = [0; 8];
    copy.read(0x100, &mut cid);
    assert_eq!(u64::from_le_bytes(cid), 201);
}

#[test]
fn a_state_no_driver_can_have_made_is_refused() {
    let tx = QueueName::Tx;
    type Lie = fn(&mut VsockState);
    let cases: [(Lie, &str, Option<Abuse>); 8] = [
        (
            |state| state.registers.rings.truncate(2),
            "the saved device has 2 queues instead of 3",
            None,
        ),
        (
            |state| state.registers.driver_features = 0,
            "the saved device's driver uses features 0x0, which this device can't serve",
            None,
        ),
        (
            |state| state.registers.driver_features |= 1 << 29,
            "the saved device's driver uses features 0x120000000, which this device can't serve",
            None,
        ),
        (
            |state| state.registers.rings[TX].size = 512,
            "the saved device cannot use its queues",
            Some(Abuse::BadQueueSize { queue: tx, size: 512 }),
        ),
        (
            |state| state.registers.rings[TX].used += 2,
            "the saved device cannot use its queues",
            Some(Abuse::RingMisaligned(tx)),
        ),
        (
            |state| state.registers.rings[TX].desc = 1 << 40,
            "the saved device cannot use its queues",
            Some(Abuse::RingOutsideMemory(tx)),
        ),
        (
            |state| state.registers.rings[TX].next_avail += 9,
            "the saved device cannot use its queues",
            Some(Abuse::AvailIndexJump(tx)),
        ),
        (
            |state| state.registers.rings[EVENT].next_avail = 100,
            "the saved device cannot use its queues",
            Some(Abuse::AvailIndexJump(QueueName::Event)),
        ),
    ];
    for (lie, message, cause) in cases {
        let guest = boot();
        let mut state = guest.vsock.state();
        lie(&mut state);
        let error = restore(&guest, &state).unwrap_err();
        assert_eq!(error.to_string(), message);
        let found = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(found, cause.map(|abuse| abuse.to_string()));
    }
}

prop_compose! {
    fn any_ring()(
        size in prop_oneof![Just(8), any::<u32>()],
        places in [0..0x1_0000_u64, 0..0x1_0000_u64, 0..0x1_0000_u64],
        align in any::<bool>(),
        ready in any::<bool>(),
        next in any::<[u16; 2]>(),
        near in any::<bool>(),
    ) -> RingState {
        let [desc, avail, used] = places.map(|place| if align { place & !0xf } else { place });
        let [next_avail, next_used] = next.map(|next| if near { next % 9 } else { next });
        RingState { size, desc, avail, used, ready, next_avail, next_used }
    }
}

prop_compose! {
    fn any_state()(
        rings in prop::collection::vec(any_ring(), 2..5),
        selects in any::<[u32; 3]>(),
        driver_features in prop_oneof![Just(1 << 32), any::<u64>()],
        status in prop_oneof![Just(15), any::<u32>()],
        interrupt_status in any::<u32>(),
        next_port in any::<u32>(),
    ) -> VsockState {
        let [queue_select, device_features_select, driver_features_select] = selects;
        let registers = RegistersState {
            rings, queue_select, device_features_select, driver_features_select, driver_features,
            status, interrupt_status,
        };
        VsockState { registers, next_port }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_state_is_used_or_refused(
        state in any_state(), memory in prop::collection::vec(any::<u8>(), 0x400), at in 0..0xfc00_u64,
    ) {
        let mut guest = Guest::cold(8, 4096);
        guest.mem.write_slice(&memory, GuestAddress(at)).unwrap();
        if let Ok(vsock) = restore(&guest, &state) {
            guest.vsock = vsock;
            let (_host, end) = std::os::unix::net::UnixStream::pair().unwrap();
            let _ = guest.vsock.connect(&guest.mem, 5252, end.into(), 1);
            let _ = guest.notify(TX);
            let again = guest.vsock.state();
            prop_assert_eq!(again.registers.rings.len(), 3);
        }
    }
}
