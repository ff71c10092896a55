//! The heap: one piece of RAM, given to the allocator once at boot.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;
use osvm_kernel_core::boot::Range;
use talc::base::binning::{Binning, linear_extent_then_linearly_divided_exponential_binning};
use talc::cell::TalcCell;
use talc::source::Manual;

/// Free lists by size: 64 instead of talc's 191. Each has to be cleared when the heap is made, and
/// one word of bits is quicker to search than three.
struct Bins;

impl Binning for Bins {
    type AvailabilityBitField = u64;

    fn size_to_bin(size: usize) -> u32 {
        linear_extent_then_linearly_divided_exponential_binning::<2, 8>(size)
    }
}

/// A `TalcCell` that may stand in a static.
struct Heap(TalcCell<Manual, Bins>);

// SAFETY: the guest has one processor and no threads, and its interrupt handler allocates nothing,
// so no two calls are ever in progress at once.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(TalcCell::new(Manual));

// SAFETY: every call is passed on unchanged to talc, which keeps the contract.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: our caller keeps the contract.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: our caller keeps the contract.
        unsafe { self.0.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: our caller keeps the contract.
        unsafe { self.0.realloc(block, layout, new_size) }
    }
}

/// Gives `ram` to the heap. `false` if it is too small for one.
///
/// # Safety
///
/// `ram` is mapped, writable, and nobody else's for as long as the guest runs.
pub(crate) unsafe fn give(ram: Range) -> bool {
    let start = ptr::with_exposed_provenance_mut(usize::try_from(ram.start).unwrap_or_default());
    let len = usize::try_from(ram.len()).unwrap_or_default();
    // SAFETY: our contract.
    unsafe { HEAP.0.claim(start, len) }.is_some()
}
