//! Physical memory as raw addresses: the loader's tables, and where the image ends.

use core::{ptr, slice};
use osvm_kernel_core::boot::{PhysicalMemory, Range};

/// End of the memory that is mapped as RAM: above it lie the registers of devices.
pub(crate) const RAM_LIMIT: u64 = 3 << 30;
/// Memory of the loader below the kernel: all that `entry.s` maps there.
const LOW: Range = Range { start: 0x1000, end: 0x10_0000 };

unsafe extern "C" {
    /// One past the last byte of the image, see `link.ld`.
    safe static osvm_image_end: [u8; 0];
}

/// One past the last byte of the image.
pub(crate) fn image_end() -> u64 {
    ptr::from_ref(&osvm_image_end).addr() as u64
}

/// The loader's tables.
#[derive(Clone, Copy, Debug)]
pub struct LoaderMemory;

impl PhysicalMemory for LoaderMemory {
    fn bytes(&self, address: u64, len: usize) -> Option<&'static [u8]> {
        let range = Range { start: address, end: address.checked_add(len as u64)? };
        let high = Range { start: image_end(), end: RAM_LIMIT };
        let inside = |outer: Range| outer.start <= range.start && range.end <= outer.end;
        if !inside(LOW) && !inside(high) {
            return None;
        }
        let start = ptr::with_exposed_provenance(usize::try_from(address).ok()?);
        // SAFETY: both ranges are mapped, hold nothing of the image, and `boot::heap` keeps the
        // heap out of what the loader's tables refer to, so nobody writes there.
        Some(unsafe { slice::from_raw_parts(start, len) })
    }
}
