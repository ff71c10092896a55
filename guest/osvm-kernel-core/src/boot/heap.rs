//! Where the heap goes: the RAM above the kernel, without what the loader left there.

use super::{BootData, Range};

/// The heap: RAM from `from` on, ending before `limit`.
///
/// Loaders put their data either right behind the kernel or at the end of RAM, so the heap is the
/// larger of the two pieces before the first and after the last of it. Empty if there is no RAM.
pub fn heap(boot: &BootData, from: u64, limit: u64) -> Range {
    let Some(ram) = boot.map.ram().find(|ram| ram.start <= from && from < ram.end) else {
        return Range::default();
    };
    let end = ram.end.min(limit).max(from);
    let (mut first, mut last) = (end, from);
    for place in boot.places {
        if !place.is_empty() && from < place.end && place.start < end {
            first = first.min(place.start.max(from));
            last = last.max(place.end.min(end));
        }
    }
    let (before, after) = (Range { start: from, end: first }, Range { start: last, end });
    // With nothing of the loader's in the way both pieces are the whole.
    if after.len() <= before.len() { before } else { after }
}
