//! The exact conversation with a device, in both forms of the interface.

use super::super::ring::tests::new_ring;
use super::*;
use std::cell::{Cell, RefCell};

/// Registers that remember what was written.
#[derive(Debug)]
struct Fake {
    magic: u32,
    version: u32,
    id: u32,
    queue_max: u32,
    agrees: bool,
    status: Cell<u32>,
    interrupt: Cell<u32>,
    written: RefCell<Vec<(u16, u32)>>,
    reads: Cell<usize>,
}

impl Fake {
    fn new(version: u32) -> Self {
        Self {
            magic: MAGIC,
            version,
            id: 19,
            queue_max: 256,
            agrees: true,
            status: Cell::new(0),
            interrupt: Cell::new(0),
            written: RefCell::default(),
            reads: Cell::new(0),
        }
    }
}

impl Mmio for &Fake {
    fn read(&self, offset: u16) -> u32 {
        self.reads.set(self.reads.get() + 1);
        match offset {
            0x000 => self.magic,
            0x004 => self.version,
            0x008 => self.id,
            0x034 => self.queue_max,
            0x060 => self.interrupt.get(),
            0x070 => self.status.get() & if self.agrees { !0 } else { !8 },
            0x104 => 0xc0ff_ee00,
            _ => panic!("nobody reads register {offset:#x}"),
        }
    }

    fn write(&self, offset: u16, value: u32) {
        if offset == 0x070 {
            self.status.set(value);
        }
        self.written.borrow_mut().push((offset, value));
    }
}

fn low(address: u64) -> u32 {
    u32::try_from(address & 0xffff_ffff).unwrap()
}

fn high(address: u64) -> u32 {
    u32::try_from(address >> 32).unwrap()
}

#[test]
fn a_modern_device_is_brought_up_step_by_step() {
    let fake = Fake::new(2);
    let device = Device::probe(&fake).unwrap();
    assert_eq!(device.id(), 19);
    let rings = [new_ring(), new_ring()];
    device.prepare(&rings).unwrap();
    device.start();
    let mut expected =
        vec![(0x070, 0), (0x070, 1), (0x070, 3), (0x024, 1), (0x020, 1), (0x070, 11)];
    for (queue, ring) in [0, 1].into_iter().zip(rings) {
        expected.extend([(0x030, queue), (0x038, u32::from(ring::SIZE))]);
        for (register, address) in
            [(0x080, ring.descriptors_at()), (0x090, ring.avail_at()), (0x0a0, ring.used_at())]
        {
            expected.extend([(register, low(address)), (register + 4, high(address))]);
        }
        expected.push((0x044, 1));
    }
    expected.push((0x070, 15));
    assert_eq!(*fake.written.borrow(), expected);
}

#[test]
fn a_legacy_device_is_brought_up_by_page_numbers() {
    let fake = Fake::new(1);
    let device = Device::probe(&fake).unwrap();
    let ring = new_ring();
    device.prepare(&[ring]).unwrap();
    device.start();
    let page = low(ring.descriptors_at() / 256);
    assert_eq!(
        *fake.written.borrow(),
        [
            (0x070, 0),
            (0x070, 1),
            (0x070, 3),
            (0x028, 256),
            (0x030, 0),
            (0x038, u32::from(ring::SIZE)),
            (0x03c, 128),
            (0x040, page),
            (0x070, 7),
        ]
    );
}

#[test]
fn a_vsock_device_takes_at_most_45_exits_to_bring_up() {
    let fake = Fake::new(2);
    let device = Device::probe(&fake).unwrap();
    device.prepare(&[new_ring(), new_ring(), new_ring()]).unwrap();
    device.start();
    assert!(fake.reads.get() + fake.written.borrow().len() <= 45);
}

#[test]
fn what_is_not_a_device_is_not_found() {
    for fake in [
        Fake { magic: 0, ..Fake::new(2) },
        Fake { magic: u32::MAX, ..Fake::new(2) },
        Fake { id: 0, ..Fake::new(2) },
        Fake::new(0),
        Fake::new(3),
    ] {
        assert!(Device::probe(&fake).is_none());
        assert!(fake.written.borrow().is_empty(), "a stranger's registers were written");
    }
}

#[test]
fn a_device_that_refuses_the_features_is_given_up() {
    let fake = Fake { agrees: false, ..Fake::new(2) };
    let error = Device::probe(&fake).unwrap().prepare(&[new_ring()]).unwrap_err();
    assert_eq!(error, DeviceError::Features { id: 19 });
    assert_eq!(error.to_string(), "virtio device 19 refuses the driver's features");
}

#[test]
fn a_queue_that_is_too_short_is_refused() {
    let fake = Fake { queue_max: 2, ..Fake::new(2) };
    let error = Device::probe(&fake).unwrap().prepare(&[new_ring()]).unwrap_err();
    assert_eq!(error, DeviceError::Queue { id: 19, queue: 0, max: 2 });
    let expected = "queue 0 of virtio device 19 holds 2 descriptors, 4 are needed";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn only_a_raised_interrupt_is_acknowledged() {
    let fake = Fake::new(2);
    let device = Device::probe(&fake).unwrap();
    device.acknowledge_interrupt();
    assert!(fake.written.borrow().is_empty());
    fake.interrupt.set(3);
    device.acknowledge_interrupt();
    assert_eq!(*fake.written.borrow(), [(0x064, 3)]);
}

#[test]
fn the_configuration_begins_behind_the_registers() {
    let fake = Fake::new(2);
    assert_eq!(Device::probe(&fake).unwrap().config(4), 0xc0ff_ee00);
}
