//! The 64-bit Linux boot protocol: `boot_params`, also called the zero page.
//!
//! Offsets: Linux `Documentation/arch/x86/zero-page.rst` and `boot.rst`.

use super::{
    BootData, BootError, MAX_COMMAND_LINE, MemoryMap, PhysicalMemory, Range, command_line, field,
    module, u32_at,
};

/// Length of the structure.
const BOOT_PARAMS_LEN: usize = 4096;
/// "HdrS", at [`offset::HEADER`].
const MAGIC: [u8; 4] = *b"HdrS";
/// Length of one entry of the e820 map.
const MAP_ENTRY_LEN: usize = 20;
/// Most entries that fit into the structure.
const MAX_MAP_ENTRIES: u8 = 128;

/// Offsets in the structure.
mod offset {
    pub(super) const RAMDISK_HIGH: usize = 0x0c0;
    pub(super) const RAMDISK_LEN_HIGH: usize = 0x0c4;
    pub(super) const COMMAND_LINE_HIGH: usize = 0x0c8;
    pub(super) const MAP_ENTRIES: usize = 0x1e8;
    pub(super) const HEADER: usize = 0x202;
    pub(super) const RAMDISK: usize = 0x218;
    pub(super) const RAMDISK_LEN: usize = 0x21c;
    pub(super) const COMMAND_LINE: usize = 0x228;
    pub(super) const MAP: usize = 0x2d0;
}

pub(super) fn read(address: u64, memory: &impl PhysicalMemory) -> Result<BootData, BootError> {
    let params = memory.bytes(address, BOOT_PARAMS_LEN).ok_or(BootError::NoTables(address))?;
    if field(params, offset::HEADER) != MAGIC {
        return Err(BootError::NoTables(address));
    }
    let wide = |high, low| u64::from(u32_at(params, high)) << 32 | u64::from(u32_at(params, low));
    let [entries] = field(params, offset::MAP_ENTRIES);
    let map_at = address.saturating_add(offset::MAP as u64);
    let entries = entries.min(MAX_MAP_ENTRIES).into();
    let map = MemoryMap::read(memory, map_at, entries, MAP_ENTRY_LEN)?;
    let line_at = wide(offset::COMMAND_LINE_HIGH, offset::COMMAND_LINE);
    let ramdisk_len = wide(offset::RAMDISK_LEN_HIGH, offset::RAMDISK_LEN);
    let page = Range::new(wide(offset::RAMDISK_HIGH, offset::RAMDISK), ramdisk_len);
    let places = [
        Range::new(address, BOOT_PARAMS_LEN as u64),
        Range::new(line_at, MAX_COMMAND_LINE as u64),
        page,
        Range::default(),
        Range::default(),
    ];
    let page = module(memory, page);
    Ok(BootData { command_line: command_line(memory, line_at), page, map, places })
}
