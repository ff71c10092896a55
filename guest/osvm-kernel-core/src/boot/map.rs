//! The loader's map of memory.

use super::{BootError, PhysicalMemory, Range, u32_at, u64_at};

/// Most entries that are read.
const MAX_ENTRIES: u32 = 1024;
/// Type of an entry that is ordinary RAM, in e820 and in PVH.
const RAM: u32 = 1;

/// The map as it lies in memory: both forms begin with address, length and type.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap {
    entries: &'static [u8],
    entry_len: usize,
}

impl MemoryMap {
    pub(super) fn read(
        memory: &impl PhysicalMemory,
        address: u64,
        entries: u32,
        entry_len: usize,
    ) -> Result<Self, BootError> {
        let len = entry_len * entries.min(MAX_ENTRIES) as usize;
        match memory.bytes(address, len) {
            Some(entries) if len != 0 => Ok(Self { entries, entry_len }),
            _ => Err(BootError::NoMemoryMap),
        }
    }

    /// The pieces of RAM.
    pub fn ram(&self) -> impl Iterator<Item = Range> {
        let entries = self.entries.chunks_exact(self.entry_len);
        let ram = entries.filter(|entry| u32_at(entry, 16) == RAM);
        ram.map(|entry| Range::new(u64_at(entry, 0), u64_at(entry, 8)))
    }

    /// How much memory the guest was given, in bytes: up to the end of the last piece. The pieces
    /// leave out what PC firmware keeps for itself below 1 MiB, which was given all the same.
    pub fn given_bytes(&self) -> u64 {
        self.ram().map(|piece| piece.end).max().unwrap_or(0)
    }
}
