//! Rubbish in the rings of the device, always in the queue the device reads.
#![expect(unsafe_code, reason = "writes what the queues of the real driver refuse to write")]

use core::ptr;
use osvm_kernel::{Guest, Registers, cpu, die};
use osvm_kernel_core::virtio::mmio::{Device, Mmio};
use osvm_kernel_core::virtio::ring::{Buffer, Queue, Ring, SIZE, address_of};
use osvm_kernel_core::vsock::packet::{Header, SharedHeader, WIRE_HEADER_LEN};

/// Index of the queue the device reads.
const TX: u32 = 1;
/// Descriptor flag: the chain goes on.
const NEXT: u64 = 1;
/// An address where no guest here has memory.
const FAR: u64 = 1 << 40;

static RINGS: [Ring; 3] = [const { Ring::new() }; 3];
static HEADER: SharedHeader = SharedHeader::new();

/// A device that runs, with rings of our own.
struct Open {
    device: Device<Registers>,
    tx: Queue<'static>,
    ring: &'static Ring,
}

impl Open {
    fn new(guest: Guest) -> Self {
        let open = Self::prepared(guest);
        open.device.start();
        open
    }

    /// The same before the device runs.
    fn prepared(guest: Guest) -> Self {
        let [rx, tx, events] = &RINGS;
        let (device, _) = guest.vsock.into_parts();
        if let Err(error) = device.prepare(&[rx, tx, events]) {
            die(format_args!("{error}"));
        }
        Self { device, tx: Queue::new(tx), ring: tx }
    }

    /// Offers the chain at `head`. The device is to end the guest for it.
    fn offer(mut self, head: u16) -> ! {
        self.tx.offer(head);
        self.tell()
    }

    fn tell(self) -> ! {
        self.device.notify(TX);
        survived()
    }

    /// Writes a descriptor as it is.
    fn describe(&self, index: u64, buffer: Buffer, flags: u64, next: u64) {
        let place = self.ring.descriptors_at() + 16 * index;
        write(place, buffer.address);
        write(place + 8, u64::from(buffer.len) | flags << 32 | next << 48);
    }
}

pub(crate) fn index_outside(guest: Guest) -> ! {
    Open::new(guest).offer(0x7fff)
}

pub(crate) fn endless(guest: Guest) -> ! {
    let open = Open::new(guest);
    open.describe(0, header(), NEXT, 1);
    open.describe(1, header(), NEXT, 0);
    open.offer(0)
}

pub(crate) fn next_outside(guest: Guest) -> ! {
    let open = Open::new(guest);
    open.describe(0, header(), NEXT, SIZE.into());
    open.offer(0)
}

pub(crate) fn outside_memory(guest: Guest) -> ! {
    send(guest, Buffer { address: FAR, len: WIRE_HEADER_LEN })
}

pub(crate) fn wrapping(guest: Guest) -> ! {
    send(guest, Buffer { address: u64::MAX - 8, len: WIRE_HEADER_LEN })
}

pub(crate) fn huge_length(guest: Guest) -> ! {
    send(guest, Buffer { len: u32::MAX, ..header() })
}

pub(crate) fn short_header(guest: Guest) -> ! {
    send(guest, Buffer { len: WIRE_HEADER_LEN - 1, ..header() })
}

pub(crate) fn truncated(guest: Guest) -> ! {
    HEADER.store(&Header { len: 1000, ..Header::default() });
    send(guest, header())
}

pub(crate) fn wrong_direction(guest: Guest) -> ! {
    let open = Open::new(guest);
    open.tx.describe_writable(0, header());
    open.offer(0)
}

pub(crate) fn index_jump(guest: Guest) -> ! {
    let open = Open::new(guest);
    // Flags 0, index 0x4000, and the first entries of the ring.
    write(open.ring.avail_at(), 0x4000 << 16);
    open.tell()
}

pub(crate) fn misplaced(guest: Guest) -> ! {
    let registers = Open::prepared(guest).device.into_registers();
    let far = u32::try_from(FAR >> 32).unwrap_or(1);
    // Queue select, not ready, upper halves of the three addresses, ready, DRIVER_OK, notify:
    // VIRTIO 1.2, section 4.2.2.
    let steps = [
        (0x30, TX),
        (0x44, 0),
        (0x84, far),
        (0x94, far),
        (0xa4, far),
        (0x44, 1),
        (0x70, 15),
        (0x50, TX),
    ];
    for (register, value) in steps {
        registers.write(register, value);
    }
    survived()
}

fn send(guest: Guest, buffer: Buffer) -> ! {
    let open = Open::new(guest);
    open.tx.describe_readable(buffer, Buffer { address: 0, len: 0 });
    open.offer(0)
}

fn header() -> Buffer {
    Buffer { address: address_of(&HEADER), len: WIRE_HEADER_LEN }
}

/// The device took it. Waits, so that a test sees a call that never ends.
fn survived() -> ! {
    loop {
        cpu::halt();
    }
}

fn write(address: u64, value: u64) {
    let place = usize::try_from(address).unwrap_or_default();
    // SAFETY: the address lies in a ring, whose fields are all atomics.
    unsafe { ptr::with_exposed_provenance_mut::<u64>(place).write_unaligned(value) }
}
