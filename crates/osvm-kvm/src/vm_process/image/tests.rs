//! Images good and damaged: loaded where they want to be, or refused, and never a panic.

use super::*;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, memfd_create};
use std::io::Write;

const MEMORY: usize = 4 << 20;
const ENTRY: u32 = 0x10_0000;

#[test]
fn a_good_image_is_where_it_wants_to_be() {
    let memory = memory();
    let entry = load_bytes(&memory, &good(), BootProtocol::Pvh, b"page").unwrap();
    assert!(
        matches!(entry, Entry::Protected { ip, info: START_INFO_AT } if ip == u64::from(ENTRY))
    );
    assert_eq!(read(&memory, ENTRY.into()), *b"code");
    assert_eq!(read(&memory, BOOT_PAGE_AT), *b"page");
}

#[test]
fn the_first_gib_is_mapped_to_itself() {
    let memory = memory();
    load_bytes(&memory, &good(), BootProtocol::Linux64, b"").unwrap();
    let entry = |at| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
    // Present, writable; the last level maps pages of 2 MiB.
    let directories = entry(PAGE_TABLES_AT);
    assert_eq!(directories & 0xfff, 0b11);
    let pages = entry(directories & !0xfff);
    assert_eq!(pages & 0xfff, 0b11);
    for page in [0, 1, 511] {
        assert_eq!(entry((pages & !0xfff) + 8 * page), page << 21 | 0x83);
    }
}

#[test]
fn without_a_boot_page_there_is_no_module() {
    let memory = memory();
    load_bytes(&memory, &good(), BootProtocol::Pvh, b"").unwrap();
    let info: hvm_start_info = memory.read_obj(GuestAddress(START_INFO_AT)).unwrap();
    assert_eq!((info.nr_modules, info.memmap_entries), (0, 1));
}

proptest! {
    #[test]
    fn any_bytes_are_loaded_or_refused(bytes: Vec<u8>) {
        let _ = load_bytes(&memory(), &bytes, BootProtocol::Pvh, b"page");
    }

    #[test]
    fn an_image_with_any_damage_is_loaded_or_refused(
        damage in prop::collection::vec((0..220_usize, any::<u8>()), 1..8),
        linux: bool,
    ) {
        let mut bytes = good();
        for (at, byte) in damage {
            if let Some(hit) = bytes.get_mut(at) {
                *hit = byte;
            }
        }
        let protocol = if linux { BootProtocol::Linux64 } else { BootProtocol::Pvh };
        let memory = memory();
        if let Ok(Entry::Protected { ip, .. } | Entry::Long { ip, .. }) =
            load_bytes(&memory, &bytes, protocol, b"page")
        {
            prop_assert!((IMAGE_FROM..MEMORY as u64).contains(&ip));
        }
    }
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()
}

fn load_bytes(
    memory: &GuestMemoryMmap,
    bytes: &[u8],
    protocol: BootProtocol,
    boot_page: &[u8],
) -> Result<Entry, NotStarted> {
    let mut file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    load(memory, &mut file, protocol, boot_page)
}

fn read(memory: &GuestMemoryMmap, at: u64) -> [u8; 4] {
    memory.read_obj(GuestAddress(at)).unwrap()
}

/// A 64-bit ELF file with a PVH note and four bytes of code.
fn good() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [u64::from(ENTRY), 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for half in [0, 0, 64, 56, 2, 0, 0, 0_u16] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    let mut segment = |kind: u32, words: [u64; 6]| {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&7_u32.to_le_bytes());
        words.iter().for_each(|word| file.extend_from_slice(&word.to_le_bytes()));
    };
    segment(4, [176, 0, 0, 24, 24, 4]);
    segment(1, [200, ENTRY.into(), ENTRY.into(), 4, 4, 4]);
    for word in [4, 8, 18, u32::from_le_bytes(*b"Xen\0"), ENTRY, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(b"code");
    file
}
