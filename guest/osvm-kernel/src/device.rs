//! Registers of a device, and the receive buffers the vsock device writes to.

use core::cell::UnsafeCell;
use core::ptr;
use osvm_kernel_core::virtio::mmio::Mmio;
use osvm_kernel_core::vsock::{RX_BUFFER_LEN, RX_BUFFERS};

/// First address that is mapped for devices, see `entry.s`.
const FIRST: u64 = 3 << 30;
/// One past the last of them.
const LIMIT: u64 = 4 << 30;
/// Bytes of registers one device has.
const LEN: u64 = 0x200;

/// The registers of one device.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    base: u64,
}

impl Registers {
    /// The device at `base`; `None` outside of what is mapped for devices, or if misaligned.
    pub fn at(base: u64) -> Option<Self> {
        let mapped = (FIRST..=LIMIT - LEN).contains(&base) && base.is_multiple_of(4);
        mapped.then_some(Self { base })
    }

    /// Their address.
    pub fn base(self) -> u64 {
        self.base
    }

    fn register(self, offset: u16) -> *mut u32 {
        // Offsets are multiples of 4 below LEN; the mask makes that certain.
        let address = self.base + u64::from(offset & 0x1fc);
        ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or_default())
    }
}

impl Mmio for Registers {
    fn read(&self, offset: u16) -> u32 {
        // SAFETY: `at` and `register` keep the address inside the mapping for devices, where no
        // memory of Rust's lies, and aligned.
        unsafe { self.register(offset).read_volatile() }
    }

    fn write(&self, offset: u16, value: u32) {
        // SAFETY: as for `read`. What a device writes to memory in return is in the rings and
        // buffers it was given, all of them atomics or cells.
        unsafe { self.register(offset).write_volatile(value) }
    }
}

/// Memory the device writes packets to.
#[repr(C, align(4096))]
pub(crate) struct RxBuffers([UnsafeCell<[u8; RX_BUFFER_LEN as usize]>; RX_BUFFERS as usize]);

// SAFETY: one processor, no threads; the device's writes are outside of Rust's rules, and nobody
// holds a reference to the contents, only `copy` reads them.
unsafe impl Sync for RxBuffers {}

/// The one set of receive buffers: a guest has one vsock device.
pub(crate) static RX: RxBuffers =
    RxBuffers([const { UnsafeCell::new([0; RX_BUFFER_LEN as usize]) }; RX_BUFFERS as usize]);

impl RxBuffers {
    /// Where buffer `buffer` begins.
    pub(crate) fn start(&self, buffer: u16) -> *const u8 {
        let [first, ..] = &self.0;
        self.0.get(usize::from(buffer)).unwrap_or(first).get().cast()
    }

    /// Where the `len` bytes at offset `at` of buffer `buffer` lie, if they are inside of it.
    pub(crate) fn piece(&self, buffer: u16, at: usize, len: usize) -> Option<*const u8> {
        let end = at.checked_add(len)?;
        (end <= RX_BUFFER_LEN as usize).then(|| self.start(buffer).wrapping_add(at))
    }
}
