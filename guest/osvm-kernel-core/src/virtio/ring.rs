//! Split virtqueues: the memory shared with the device, and the driver's side of it.
//!
//! ```text
//! Ring, 256-byte aligned:  0 descriptors │ 64 available ring │ 128 used ring
//! Queue::offer ──▶ available ring ──▶ device ──▶ used ring ──▶ Queue::take
//! ```
//!
//! Layout: VIRTIO 1.2, section 2.7; the offsets also fit the legacy layout (2.7.2). Every field is
//! an atomic because the device changes them whenever it likes.

use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

/// Descriptors of each queue. Few, since each receive buffer is large.
pub const SIZE: u16 = 4;
/// Alignment of a [`Ring`] in bytes; told to legacy devices as the size of a page.
pub const ALIGN: u32 = 256;
/// Alignment of the used ring inside a [`Ring`] in bytes; told to legacy devices.
pub const LEGACY_USED_ALIGN: u32 = 128;

const LEN: usize = SIZE as usize;

/// Descriptor flag: the chain goes on.
const NEXT: u16 = 1;
/// Descriptor flag: the device writes here.
const WRITE: u16 = 2;
/// Flag in the available ring: no interrupt is needed.
const NO_INTERRUPT: u16 = 1;
/// Flag in the used ring: no notification is needed.
const NO_NOTIFY: u16 = 1;

/// A piece of memory the device reads or writes. `next` is meaningful if [`NEXT`] is set.
#[derive(Debug)]
#[repr(C)]
struct Descriptor {
    address: AtomicU64,
    len: AtomicU32,
    flags: AtomicU16,
    next: AtomicU16,
}

#[derive(Debug)]
#[repr(C)]
struct UsedElement {
    id: AtomicU32,
    len: AtomicU32,
}

#[derive(Debug)]
#[repr(C, align(128))]
struct UsedRing {
    flags: AtomicU16,
    index: AtomicU16,
    elements: [UsedElement; LEN],
    avail_event: AtomicU16,
}

/// The shared memory of one queue.
#[derive(Debug)]
#[repr(C, align(256))]
pub struct Ring {
    descriptors: [Descriptor; LEN],
    avail_flags: AtomicU16,
    avail_index: AtomicU16,
    avail: [AtomicU16; LEN],
    used_event: AtomicU16,
    used: UsedRing,
}

const _: () = assert!(align_of::<Ring>() == ALIGN as usize && size_of::<Ring>() == ALIGN as usize);
const _: () = assert!(offset_of!(Ring, avail_flags) == 16 * LEN);
const _: () = assert!(offset_of!(Ring, used) == LEGACY_USED_ALIGN as usize);
const _: () = assert!(SIZE.is_power_of_two());

impl Ring {
    /// An empty queue: all bytes are zero.
    pub const fn new() -> Self {
        Self {
            descriptors: [const {
                Descriptor {
                    address: AtomicU64::new(0),
                    len: AtomicU32::new(0),
                    flags: AtomicU16::new(0),
                    next: AtomicU16::new(0),
                }
            }; LEN],
            avail_flags: AtomicU16::new(0),
            avail_index: AtomicU16::new(0),
            avail: [const { AtomicU16::new(0) }; LEN],
            used_event: AtomicU16::new(0),
            used: UsedRing {
                flags: AtomicU16::new(0),
                index: AtomicU16::new(0),
                elements: [const { UsedElement { id: AtomicU32::new(0), len: AtomicU32::new(0) } };
                    LEN],
                avail_event: AtomicU16::new(0),
            },
        }
    }

    /// Address of the descriptor table.
    pub fn descriptors_at(&self) -> u64 {
        address_of(&self.descriptors)
    }

    /// Address of the available ring.
    pub fn avail_at(&self) -> u64 {
        address_of(&self.avail_flags)
    }

    /// Address of the used ring.
    pub fn used_at(&self) -> u64 {
        address_of(&self.used)
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

/// The address a device reaches `value` by: the kernel maps all memory one to one.
pub fn address_of<T: ?Sized>(value: &T) -> u64 {
    // Exposed, because the device will read and write through this address.
    ptr::from_ref(value).cast::<()>().expose_provenance() as u64
}

/// Memory the device is to read or to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
}

/// A chain the device has finished with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Index of the chain's first descriptor, always below [`SIZE`].
    pub head: u16,
    /// Bytes the device says it has written. Not checked.
    pub len: u32,
}

/// The driver's side of one queue.
#[derive(Debug)]
pub struct Queue<'m> {
    ring: &'m Ring,
    offered: u16,
    taken: u16,
}

impl<'m> Queue<'m> {
    /// Drives `ring`, which must be new.
    pub fn new(ring: &'m Ring) -> Self {
        Self { ring, offered: 0, taken: 0 }
    }

    /// Asks the device for no interrupts about this queue.
    pub fn silence(&self) {
        self.ring.avail_flags.store(NO_INTERRUPT, Ordering::Relaxed);
    }

    /// Makes descriptor `index` a buffer of its own for the device to write.
    pub fn describe_writable(&self, index: u16, buffer: Buffer) {
        self.describe(index, buffer, WRITE);
    }

    /// Makes descriptor 0 a chain of `first` and, unless it is empty, `second`, for the device to read.
    pub fn describe_readable(&self, first: Buffer, second: Buffer) {
        if second.len == 0 {
            self.describe(0, first, 0);
        } else {
            self.describe(0, first, NEXT);
            slot(&self.ring.descriptors, 0).next.store(1, Ordering::Relaxed);
            self.describe(1, second, 0);
        }
    }

    /// Offers the chain that starts at descriptor `head` to the device.
    pub fn offer(&mut self, head: u16) {
        slot(&self.ring.avail, self.offered).store(head, Ordering::Relaxed);
        self.offered = self.offered.wrapping_add(1);
        // The device must see the entry and its descriptors before it sees the index.
        self.ring.avail_index.store(self.offered, Ordering::Release);
    }

    /// Whether the device wants to be told about what was offered.
    pub fn wants_notification(&self) -> bool {
        // The device looks at the index after it has cleared the flag, we look at the flag after we
        // have moved the index: without a full fence both could miss the other.
        fence(Ordering::SeqCst);
        self.ring.used.flags.load(Ordering::Relaxed) & NO_NOTIFY == 0
    }

    /// Takes the next chain the device has finished with.
    pub fn take(&mut self) -> Option<Used> {
        if self.ring.used.index.load(Ordering::Acquire) == self.taken {
            return None;
        }
        let element = slot(&self.ring.used.elements, self.taken);
        self.taken = self.taken.wrapping_add(1);
        let id = element.id.load(Ordering::Relaxed);
        let len = element.len.load(Ordering::Relaxed);
        let head = u16::try_from(id).unwrap_or_default() % SIZE;
        Some(Used { head, len })
    }

    /// Whether everything offered has been taken back.
    pub fn is_idle(&self) -> bool {
        self.offered == self.taken
    }

    fn describe(&self, index: u16, buffer: Buffer, flags: u16) {
        let descriptor = slot(&self.ring.descriptors, index);
        descriptor.address.store(buffer.address, Ordering::Relaxed);
        descriptor.len.store(buffer.len, Ordering::Relaxed);
        descriptor.flags.store(flags, Ordering::Relaxed);
    }
}

/// The element that running index `index` stands for.
fn slot<T>(elements: &[T; LEN], index: u16) -> &T {
    let [first, ..] = elements;
    elements.get(usize::from(index % SIZE)).unwrap_or(first)
}

#[cfg(test)]
pub(crate) mod tests;
