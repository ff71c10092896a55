//! What the loader left in memory: command line, memory map, boot page.
//!
//! ```text
//! PVH:   start_info ─▶ command line, memory map (24-byte entries), module list ─▶ module
//! Linux: boot_params ─▶ command line, e820 map (20-byte entries), initial RAM disk
//! ```
//!
//! # Invariants
//!
//! - Every address in these tables goes through [`PhysicalMemory`], which refuses what is not
//!   mapped. Lengths are bounded here.
//! - The heap is RAM according to the loader, and holds none of the loader's data.
//!
//! # Not here
//!
//! - The meaning of the boot page: `osvm_protocol::boot`.

pub mod cmdline;
mod heap;
mod linux;
mod map;
mod pvh;

pub use heap::heap;
pub use map::MemoryMap;

use thiserror::Error;

/// Longest command line that is read, in bytes. Linux on x86 takes 2048.
pub const MAX_COMMAND_LINE: usize = 4096;

/// Guest-physical memory as the kernel maps it.
///
/// Nobody writes the loader's tables once the guest runs, so shared slices of them are sound.
pub trait PhysicalMemory {
    /// The `len` bytes at `address`, or `None` if not all of them are mapped.
    fn bytes(&self, address: u64, len: usize) -> Option<&'static [u8]>;
}

/// How the loader entered the kernel, with the address of its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// PVH: address of `hvm_start_info`.
    Pvh(u64),
    /// The 64-bit Linux boot protocol: address of `boot_params`.
    Linux(u64),
}

/// A piece of memory. Its end never wraps: construct it with [`Range::new`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
}

impl Range {
    /// `len` bytes from `start`, cut at the end of the address space.
    pub fn new(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// Length in bytes.
    pub fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Most places where the loader may have left something.
const PLACES: usize = 5;

/// What the loader left.
#[derive(Clone, Copy, Debug)]
pub struct BootData {
    /// The command line, up to the first byte that is not UTF-8.
    pub command_line: &'static str,
    /// The boot page as it came: PVH's first module, or the initial RAM disk.
    pub page: Option<&'static [u8]>,
    /// Where there is RAM.
    pub map: MemoryMap,
    /// Where the above lies.
    places: [Range; PLACES],
}

/// The loader's tables can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BootError {
    /// The table at the address given on entry is not mapped or not one.
    #[error("loader left no boot tables at {0:#x}")]
    NoTables(u64),
    /// There is no memory map.
    #[error("loader left no memory map")]
    NoMemoryMap,
}

impl BootData {
    /// Reads what the loader left.
    pub fn read(entry: Entry, memory: &impl PhysicalMemory) -> Result<Self, BootError> {
        match entry {
            Entry::Pvh(address) => pvh::read(address, memory),
            Entry::Linux(address) => linux::read(address, memory),
        }
    }
}

/// The string at `address`, without its final NUL. Address 0 means none.
fn command_line(memory: &impl PhysicalMemory, address: u64) -> &'static str {
    if address == 0 {
        return "";
    }
    // The string may lie close to the end of what is mapped, so the limit shrinks until it fits.
    let limits = [MAX_COMMAND_LINE, MAX_COMMAND_LINE / 4, MAX_COMMAND_LINE / 16, 1];
    let bytes = limits.iter().find_map(|limit| memory.bytes(address, *limit)).unwrap_or_default();
    let (bytes, _) = split_at_byte(bytes, 0);
    match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            str::from_utf8(valid).unwrap_or_default()
        }
    }
}

/// What stands before the first `byte`, and what after it; all and nothing if there is none.
///
/// Eight bytes at a time: a command line is read on every boot, before anything else runs.
fn split_at_byte(bytes: &[u8], byte: u8) -> (&[u8], &[u8]) {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let pattern = u64::from_ne_bytes([byte; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    let in_words = words.iter().enumerate().find_map(|(index, word)| {
        // Zero where a byte is the one sought. The subtraction borrows out of zero bytes only, so
        // the lowest high bit that it sets, and that was clear, stands in the first of them.
        let difference = u64::from_le_bytes(*word) ^ pattern;
        let found = difference.wrapping_sub(ONES) & !difference & HIGHS;
        (found != 0).then(|| index * 8 + found.trailing_zeros() as usize / 8)
    });
    let place = in_words
        .or_else(|| rest.iter().position(|other| *other == byte).map(|at| words.len() * 8 + at));
    match place.and_then(|place| bytes.split_at_checked(place)) {
        Some((before, after)) => (before, after.get(1..).unwrap_or_default()),
        None => (bytes, &[]),
    }
}

/// The bytes of a module or RAM disk; none if its length is 0 or it is not mapped.
fn module(memory: &impl PhysicalMemory, place: Range) -> Option<&'static [u8]> {
    let len = usize::try_from(place.len()).ok().filter(|len| *len != 0)?;
    memory.bytes(place.start, len)
}

/// The `N` bytes at `offset` of a table.
fn field<const N: usize>(table: &[u8], offset: usize) -> [u8; N] {
    let bytes = table.get(offset..).and_then(|rest| rest.first_chunk());
    bytes.copied().unwrap_or([0; N])
}

fn u32_at(table: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(field(table, offset))
}

fn u64_at(table: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(field(table, offset))
}

#[cfg(test)]
mod tests;
