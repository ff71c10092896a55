//! PVH: `hvm_start_info`, as Xen's `public/arch-x86/hvm/start_info.h` defines it.

use super::{
    BootData, BootError, MAX_COMMAND_LINE, MemoryMap, PLACES, PhysicalMemory, Range, command_line,
    module, u32_at, u64_at,
};

const MAGIC: u32 = 0x336e_c578;
/// Length of the structure from version 1 on, which added the memory map.
const START_INFO_LEN: usize = 56;
/// Length of one entry of the module list.
const MODULE_LEN: usize = 32;
/// Length of one entry of the memory map.
const MAP_ENTRY_LEN: usize = 24;

/// Offsets in the structure.
mod offset {
    pub(super) const VERSION: usize = 4;
    pub(super) const MODULES: usize = 12;
    pub(super) const MODULE_LIST: usize = 16;
    pub(super) const COMMAND_LINE: usize = 24;
    pub(super) const MAP: usize = 40;
    pub(super) const MAP_ENTRIES: usize = 48;
}

pub(super) fn read(address: u64, memory: &impl PhysicalMemory) -> Result<BootData, BootError> {
    let info = memory.bytes(address, START_INFO_LEN).ok_or(BootError::NoTables(address))?;
    if u32_at(info, 0) != MAGIC {
        return Err(BootError::NoTables(address));
    }
    if u32_at(info, offset::VERSION) == 0 {
        return Err(BootError::NoMemoryMap);
    }
    let map_at = u64_at(info, offset::MAP);
    let entries = u32_at(info, offset::MAP_ENTRIES);
    let map = MemoryMap::read(memory, map_at, entries, MAP_ENTRY_LEN)?;

    let mut page = Range::default();
    let mut list = Range::default();
    if u32_at(info, offset::MODULES) != 0 {
        list = Range::new(u64_at(info, offset::MODULE_LIST), MODULE_LEN as u64);
        let first = memory.bytes(list.start, MODULE_LEN).unwrap_or_default();
        page = Range::new(u64_at(first, 0), u64_at(first, 8));
    }
    let line_at = u64_at(info, offset::COMMAND_LINE);
    let places: [Range; PLACES] = [
        Range::new(address, START_INFO_LEN as u64),
        Range::new(map_at, u64::from(entries) * MAP_ENTRY_LEN as u64),
        Range::new(line_at, MAX_COMMAND_LINE as u64),
        list,
        page,
    ];
    let page = module(memory, page);
    Ok(BootData { command_line: command_line(memory, line_at), page, map, places })
}
