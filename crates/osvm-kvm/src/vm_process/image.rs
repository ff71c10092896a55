//! Puts the image and what goes with it into guest memory.
//!
//! ```text
//! 0x0500    descriptor table (64-bit entry)
//! 0x6000    PVH start info, memory map, module list
//! 0x7000    Linux boot parameters
//! 0x9000    page tables (64-bit entry): first GiB, identity
//! 0x20000   command line
//! 0x30000   boot page, up to 64 KiB and its header
//! 0x100000  the image, wherever it says
//! ```
//!
//! # Invariants
//!
//! - The image is a stranger's: what does not fit into guest memory is refused, and nothing but
//!   guest memory is written.
//! - A unikernel's memory map has one entry, the whole of guest memory. There are no holes in it:
//!   this machine has no firmware and no legacy devices there.
//!
//! # Not here
//!
//! - What else goes into the memory of a Linux guest: [`linux::boot`](super::linux).

use crate::BootProtocol;
use crate::control::NotStarted;
use crate::cpu::{Entry, GDT};
use linux_loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use std::fs::File;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const GDT_AT: u64 = 0x500;
const START_INFO_AT: u64 = 0x6000;
const MEMORY_MAP_AT: u64 = 0x6100;
const MODULES_AT: u64 = 0x6200;
const BOOT_PARAMS_AT: u64 = 0x7000;
const PAGE_TABLES_AT: u64 = 0x9000;
pub(super) const COMMAND_LINE_AT: u64 = 0x2_0000;
const BOOT_PAGE_AT: u64 = 0x3_0000;
/// Where entry points begin. A part of an image that is loaded below is overwritten by the above.
const IMAGE_FROM: u64 = 0x10_0000;

/// What the guest is told: where its one device is, and that `hlt` means "wait for the host".
const COMMAND_LINE: &[u8] = b"virtio_mmio.device=4K@0xd0000000:5 osvm.hlt=exit\0";

/// `XEN_HVM_START_MAGIC_VALUE` of `xen/include/public/arch-x86/hvm/start_info.h`.
const START_INFO_MAGIC: u32 = 0x336e_c578;
/// Usable memory, in both the PVH and the E820 memory map.
const MEMORY_TYPE_RAM: u32 = 1;

/// Loads `kernel` and the boot page; says where the guest begins.
pub(super) fn load(
    memory: &GuestMemoryMmap,
    kernel: &mut File,
    protocol: BootProtocol,
    boot_page: &[u8],
) -> Result<Entry, NotStarted> {
    let image = load_elf(memory, kernel)?;
    let write = |bytes: &[u8], at| memory.write_slice(bytes, GuestAddress(at));
    let written =
        write(COMMAND_LINE, COMMAND_LINE_AT).and_then(|()| write(boot_page, BOOT_PAGE_AT));
    written.map_err(|_| bad("there is no room for its boot page"))?;
    let len = boot_page.len();
    let entry = match protocol {
        BootProtocol::Pvh => {
            let map = [ram(0, size(memory))];
            let module = (len != 0).then_some((BOOT_PAGE_AT, len as u64));
            pvh(memory, &image, &map, module)?
        }
        BootProtocol::Linux64 => linux64(memory, &image, len)?,
    };
    check_entry(memory, entry)
}

/// Loads the segments of `kernel`.
pub(super) fn load_elf(
    memory: &GuestMemoryMmap,
    kernel: &mut File,
) -> Result<KernelLoaderResult, NotStarted> {
    check_class(kernel)?;
    let lowest = Some(GuestAddress(IMAGE_FROM));
    let image = Elf::load(memory, None, kernel, lowest).map_err(|error| bad(&error.to_string()))?;
    if memory.last_addr().raw_value() < image.kernel_end {
        return Err(bad("it does not fit into the guest's memory"));
    }
    Ok(image)
}

/// Refuses an entry point outside of the image's part of memory.
pub(super) fn check_entry(memory: &GuestMemoryMmap, entry: Entry) -> Result<Entry, NotStarted> {
    let (Entry::Protected { ip, .. } | Entry::Long { ip, .. }) = entry;
    if !(IMAGE_FROM..memory.last_addr().raw_value()).contains(&ip) {
        return Err(bad("its entry point lies outside the guest's memory"));
    }
    Ok(entry)
}

/// A file of 32-bit structures would be misread, not refused, further on.
fn check_class(kernel: &File) -> Result<(), NotStarted> {
    let mut identification = [0; 5];
    rustix::io::pread(kernel, &mut identification, 0).map_err(|_| bad("it can't be read"))?;
    if &identification[..] != b"\x7fELF\x02" {
        return Err(bad("it is not a 64-bit ELF file"));
    }
    Ok(())
}

/// Usable memory, as the PVH memory map says it.
pub(super) fn ram(addr: u64, size: u64) -> hvm_memmap_table_entry {
    hvm_memmap_table_entry { addr, size, type_: MEMORY_TYPE_RAM, reserved: 0 }
}

/// Describes the machine at [`START_INFO_AT`]: its memory, the command line at
/// [`COMMAND_LINE_AT`], and where the one module stands with how many bytes.
pub(super) fn pvh(
    memory: &GuestMemoryMmap,
    image: &KernelLoaderResult,
    map: &[hvm_memmap_table_entry],
    module: Option<(u64, u64)>,
) -> Result<Entry, NotStarted> {
    let PvhBootCapability::PvhEntryPresent(ip) = image.pvh_boot_cap else {
        return Err(bad("it has no PVH entry point"));
    };
    let (paddr, size) = module.unwrap_or((BOOT_PAGE_AT, 0));
    let modules = hvm_modlist_entry { paddr, size, ..Default::default() };
    let info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: 1,
        nr_modules: module.is_some().into(),
        modlist_paddr: MODULES_AT,
        cmdline_paddr: COMMAND_LINE_AT,
        memmap_paddr: MEMORY_MAP_AT,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..Default::default()
    };
    let entry_at = (MEMORY_MAP_AT..).step_by(size_of::<hvm_memmap_table_entry>());
    entry_at
        .zip(map)
        .try_for_each(|(at, entry)| memory.write_obj(*entry, GuestAddress(at)))
        .and_then(|()| memory.write_obj(modules, GuestAddress(MODULES_AT)))
        .and_then(|()| memory.write_obj(info, GuestAddress(START_INFO_AT)))
        .map_err(|_| bad("there is no room for its start info"))?;
    Ok(Entry::Protected { ip: ip.raw_value(), info: START_INFO_AT })
}

fn linux64(
    memory: &GuestMemoryMmap,
    image: &KernelLoaderResult,
    boot_page: usize,
) -> Result<Entry, NotStarted> {
    let low = |at: u64| u32::try_from(at).unwrap_or(0);
    let mut params = boot_params::default();
    params.hdr.boot_flag = 0xaa55;
    params.hdr.header = u32::from_le_bytes(*b"HdrS");
    // A boot loader without a number of its own.
    params.hdr.type_of_loader = 0xff;
    params.hdr.kernel_alignment = 0x0100_0000;
    params.hdr.cmd_line_ptr = low(COMMAND_LINE_AT);
    params.hdr.cmdline_size = u32::try_from(COMMAND_LINE.len()).unwrap_or(0);
    if boot_page != 0 {
        params.hdr.ramdisk_image = low(BOOT_PAGE_AT);
        params.hdr.ramdisk_size = u32::try_from(boot_page).unwrap_or(0);
    }
    params.e820_entries = 1;
    if let Some(entry) = params.e820_table.first_mut() {
        *entry = boot_e820_entry { addr: 0, size: size(memory), r#type: MEMORY_TYPE_RAM };
    }
    memory
        .write_obj(params, GuestAddress(BOOT_PARAMS_AT))
        .and_then(|()| memory.write_obj(GDT, GuestAddress(GDT_AT)))
        .and_then(|()| write_page_tables(memory))
        .map_err(|_| bad("there is no room for its boot parameters"))?;
    Ok(Entry::Long {
        ip: image.kernel_load.raw_value(),
        params: BOOT_PARAMS_AT,
        page_tables: PAGE_TABLES_AT,
        gdt: GDT_AT,
    })
}

/// Maps the first GiB to itself in pages of 2 MiB, as other VMMs of this protocol do.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), vm_memory::GuestMemoryError> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let (directories, pages) = (PAGE_TABLES_AT + 0x1000, PAGE_TABLES_AT + 0x2000);
    memory.write_obj(directories | PRESENT_WRITABLE, GuestAddress(PAGE_TABLES_AT))?;
    memory.write_obj(pages | PRESENT_WRITABLE, GuestAddress(directories))?;
    let entries: Vec<u8> = (0..512_u64)
        .flat_map(|page| (page << 21 | PRESENT_WRITABLE | LARGE).to_le_bytes())
        .collect();
    memory.write_slice(&entries, GuestAddress(pages))
}

pub(super) fn size(memory: &GuestMemoryMmap) -> u64 {
    memory.last_addr().raw_value().saturating_add(1)
}

pub(super) fn bad(reason: &str) -> NotStarted {
    NotStarted::BadImage { reason: reason.into() }
}

#[cfg(test)]
mod tests;
