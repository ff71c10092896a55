//! Puts kernel and initial RAM disk into the memory of a Linux guest, and says what machine it is.
//!
//! ```text
//! 0x6000    as for unikernels: start info, memory map, list of modules; command line
//! 0x9fc00   the hole of a PC, up to 1 MiB
//! 0x100000  the kernel, wherever it says
//! end       the initial RAM disk, below the end of memory
//! ```
//!
//! No table says which interrupts there are: Linux finds the local APIC, drives it, and takes the
//! devices' interrupts from the old controllers (PIC) through it.

use super::image::{self, COMMAND_LINE_AT, bad, ram};
use crate::control::NotStarted;
use crate::cpu::Entry;
use std::fs::File;
use std::os::unix::fs::FileExt;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Where the devices are, which [`super::board`] knows too; a reset by the keyboard controller,
/// which ends the process; and randomness from the processor.
const COMMAND_LINE: &[u8] = b"osvm.microvm quiet console=ttyS0 reboot=k panic=-1 \
    random.trust_cpu=on virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6\0";

/// The hole between the first two parts of a PC's memory.
const HOLE: std::ops::Range<u64> = 0x9_fc00..0x10_0000;
/// Size of a page.
const PAGE: u64 = 0x1000;
/// Most bytes moved at once.
const PIECE: usize = 1 << 18;

/// Loads `kernel` and `initrd`; says where the guest begins.
pub(super) fn load(
    memory: &GuestMemoryMmap,
    kernel: &mut File,
    initrd: &File,
) -> Result<Entry, NotStarted> {
    let image = image::load_elf(memory, kernel)?;
    let len = initrd.metadata().map_err(|_| bad("its initial RAM disk can't be read"))?.len();
    let end = image::size(memory);
    let at = place(len, image.kernel_end, end)
        .ok_or_else(|| bad("its initial RAM disk does not fit"))?;
    copy(memory, initrd, at, len)?;
    memory
        .write_slice(COMMAND_LINE, GuestAddress(COMMAND_LINE_AT))
        .map_err(|_| bad("there is no room for its command line"))?;
    let map = [ram(0, HOLE.start), ram(HOLE.end, end.saturating_sub(HOLE.end))];
    let entry = image::pvh(memory, &image, &map, Some((at, len)))?;
    image::check_entry(memory, entry)
}

/// The first byte of a module of `len` bytes, as high as it can be; `None` if it reaches down to
/// the kernel.
fn place(len: u64, kernel_end: u64, end: u64) -> Option<u64> {
    let at = end.checked_sub(len)? / PAGE * PAGE;
    (kernel_end <= at && HOLE.end <= at).then_some(at)
}

/// Copies `len` bytes of `file`, whose position others use too, to `at`.
fn copy(memory: &GuestMemoryMmap, file: &File, at: u64, len: u64) -> Result<(), NotStarted> {
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done < len {
        let left = usize::try_from(len.saturating_sub(done)).unwrap_or(PIECE).min(PIECE);
        let piece = piece.get_mut(..left).unwrap_or_default();
        file.read_exact_at(piece, done).map_err(|_| bad("its initial RAM disk can't be read"))?;
        memory
            .write_slice(piece, GuestAddress(at.saturating_add(done)))
            .map_err(|_| bad("its initial RAM disk does not fit"))?;
        done = done.saturating_add(left as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initial_ram_disk_stands_on_a_page_at_the_end() {
        assert_eq!(place(1, 0x20_0000, 0x100_0000), Some(0xff_f000));
        assert_eq!(place(0x1000, 0x20_0000, 0x100_0000), Some(0xff_f000));
    }

    #[test]
    fn an_initial_ram_disk_that_would_touch_the_kernel_is_refused() {
        assert_eq!(place(0x10_0000, 0x100_0000 - 0x10_0000, 0x100_0000), Some(0xf0_0000));
        assert_eq!(place(0x10_0001, 0x100_0000 - 0x10_0000, 0x100_0000), None);
        assert_eq!(place(0x100_0001, 0, 0x100_0000), None);
        assert_eq!(place(u64::MAX, 0, 0x100_0000), None);
    }

    #[test]
    fn the_command_line_names_the_devices_where_they_are() {
        let line = std::str::from_utf8(COMMAND_LINE).unwrap();
        for slot in [super::super::board::VSOCK, super::super::board::BLOCK] {
            let word = format!("virtio_mmio.device=4K@{:#x}:{}", slot.at, slot.irq);
            assert!(line.contains(&word), "{word}");
        }
        assert!(line.ends_with('\0') && !line.contains("  "));
    }
}
