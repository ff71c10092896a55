//! The virtio-mmio register file.

use super::guest::*;
use crate::mmio::{QUEUE_SIZE_MAX, REGION_SIZE};
use crate::{Abuse, QueueName};
use vm_memory::{Bytes, GuestAddress};

#[test]
fn a_driver_recognises_the_device() {
    let guest = Guest::cold(8, 4096);
    let seen = [0x0, 0x4, 0x8].map(|offset| guest.read_register(offset));
    assert_eq!(seen, [0x7472_6976, 2, 19]);
}

#[test]
fn virtio_1_is_offered_and_wanted() {
    let mut guest = Guest::cold(8, 4096);
    assert_eq!(guest.read_register(0x10), 0);
    guest.register(0x14, 1).unwrap();
    assert_eq!(guest.read_register(0x10), 1);
    guest.register(0x14, 2).unwrap();
    assert_eq!(guest.read_register(0x10), 0);

    guest.register(0x70, 3).unwrap();
    guest.register(0x70, 11).unwrap();
    assert_eq!(guest.read_register(0x70), 3, "refused without virtio 1");
    guest.register(0x24, 1).unwrap();
    guest.register(0x20, 3).unwrap();
    guest.register(0x70, 11).unwrap();
    assert_eq!(guest.read_register(0x70), 3, "refused with a feature that was not offered");
    guest.register(0x20, 1).unwrap();
    guest.register(0x70, 11).unwrap();
    assert_eq!(guest.read_register(0x70), 11);
    guest.register(0x20, 0).unwrap();
    guest.register(0x70, 15).unwrap();
    assert_eq!(guest.read_register(0x70), 15, "features are fixed once they are accepted");
}

#[test]
fn a_driver_that_skips_a_step_has_its_features_fixed_too() {
    let mut guest = Guest::cold(8, 4096);
    guest.register(0x24, 1).unwrap();
    guest.register(0x20, 1).unwrap();
    guest.register(0x70, 7).unwrap();
    assert_eq!(guest.read_register(0x70), 7);
    guest.register(0x20, 3).unwrap();
    assert_eq!(guest.vsock.state().registers.driver_features, 1 << 32);
}

#[test]
fn the_guest_address_is_read_at_any_width() {
    let guest = Guest::cold(8, 4096);
    for (offset, len, expected) in [
        (0x100, 8, vec![200, 0, 0, 0, 0, 0, 0, 0]),
        (0x100, 4, vec![200, 0, 0, 0]),
        (0x104, 4, vec![0, 0, 0, 0]),
        (0x100, 1, vec![200]),
        (0x106, 4, vec![0, 0, 0, 0]),
        (0x1fc, 4, vec![0, 0, 0, 0]),
    ] {
        let mut bytes = vec![0xff; len];
        guest.vsock.read(offset, &mut bytes);
        assert_eq!(bytes, expected);
    }
}

#[test]
fn there_are_three_queues() {
    let mut guest = Guest::cold(8, 4096);
    for (queue, size) in [(0, 256), (1, 256), (2, 256), (3, 0), (u32::MAX, 0)] {
        guest.register(0x30, queue).unwrap();
        assert_eq!(guest.read_register(0x34), size);
    }
}

#[test]
fn accesses_of_the_wrong_kind_read_as_zero_and_change_nothing() {
    let mut guest = Guest::boot(8, 4096);
    for len in [0, 1, 2, 3, 5, 8] {
        let mut bytes = vec![0xff; len];
        guest.vsock.read(0x70, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0));
        guest.vsock.write(&guest.mem, 0x70, &vec![0; len]).unwrap();
    }
    for offset in (0..REGION_SIZE + 8).filter(|offset| offset % 4 != 0).chain([u64::MAX, 1 << 40]) {
        guest.vsock.write(&guest.mem, offset, &[0; 4]).unwrap();
    }
    assert_eq!(guest.read_register(0x70), 15);
}

#[test]
fn a_ready_queue_does_not_move() {
    let mut guest = Guest::boot(8, 4096);
    guest.register(0x30, 0).unwrap();
    guest.register(0x80, 0xdead_0000).unwrap();
    guest.register(0x44, 1).unwrap();
    assert_eq!(guest.read_register(0x44), 1);
    let (_host, _) = guest.connected(1);
}

#[test]
fn a_queue_that_cannot_work_is_refused_when_it_is_made_ready() {
    let queue = QueueName::Tx;
    for size in [0, 3, u32::from(QUEUE_SIZE_MAX) + 1, 512, 0x1_0008] {
        let mut guest = Guest::cold(8, 4096);
        guest.register(0x30, 1).unwrap();
        guest.register(0x38, size).unwrap();
        assert_eq!(guest.register(0x44, 1), Err(Abuse::BadQueueSize { queue, size }));
    }
    for offset in [0x80, 0x90, 0xa0] {
        let mut guest = Guest::cold(8, 4096);
        guest.rings[TX].desc += u64::from(offset == 0x80) * 8;
        guest.rings[TX].avail += u64::from(offset == 0x90);
        guest.rings[TX].used += u64::from(offset == 0xa0) * 2;
        assert_eq!(guest.set_up_ring(TX), Err(Abuse::RingMisaligned(queue)));
    }
    for offset in [0x80, 0x90, 0xa0] {
        for addr in [64 << 20, (64 << 20) - 64, 1 << 40, u64::MAX - 0xff] {
            let mut guest = Guest::cold(256, 4096);
            let ring = &mut guest.rings[TX];
            match offset {
                0x80 => ring.desc = addr,
                0x90 => ring.avail = addr,
                _ => ring.used = addr,
            }
            assert_eq!(guest.set_up_ring(TX), Err(Abuse::RingOutsideMemory(queue)), "{addr:#x}");
        }
    }
}

#[test]
fn no_ring_is_touched_before_the_driver_is_ready() {
    let mut guest = Guest::cold(8, 4096);
    for index in [RX, TX, EVENT] {
        guest.set_up_ring(index).unwrap();
    }
    let ring = &guest.rings[TX];
    guest.mem.write_obj(99_u16, GuestAddress(ring.avail + 2)).unwrap();
    guest.notify(TX).unwrap();
    let _host = guest.connect(1);
    assert!(!guest.vsock.take_delivered());
}

#[test]
fn interrupts_are_raised_for_those_who_want_them_until_acknowledged() {
    let mut guest = Guest::boot(8, 4096);
    let (_host, _) = guest.connected(1);
    assert!(guest.vsock.interrupt());
    assert_eq!(guest.read_register(0x60), 1);
    guest.register(0x64, 1).unwrap();
    assert!(!guest.vsock.interrupt());

    for ring in &guest.rings {
        guest.mem.write_obj(1_u16, GuestAddress(ring.avail)).unwrap();
    }
    let (_host, _) = guest.connected(2);
    assert!(!guest.vsock.interrupt());
    assert!(guest.vsock.take_delivered(), "a guest that polls is still to be woken");
}

#[test]
fn a_reset_device_can_be_set_up_again() {
    let mut guest = Guest::boot(8, 4096);
    let (_host, _) = guest.connected(1);
    guest.register(0x70, 0).unwrap();
    assert_eq!((guest.read_register(0x70), guest.read_register(0x60)), (0, 0));
    guest.start_driver();
    let (_host, _) = guest.connected(2);
}
