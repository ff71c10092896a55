//! Gives back the zeros of a saved guest's memory: Firecracker writes out all of it, touched or not.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of a page, which is what a memory file gives back at least.
const PAGE: usize = 4096;

/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// Makes holes of the pages of `file` that hold nothing but zeros. What is read stays the same.
pub(super) fn hollow(file: &File) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    let mut zeros = 0..0;
    loop {
        let len = file.read_at(&mut piece, at)?;
        if len == 0 {
            return punch(file, &zeros);
        }
        for page in piece.get(..len).unwrap_or_default().chunks(PAGE) {
            let end = at + page.len() as u64;
            if page.iter().all(|byte| *byte == 0) {
                zeros = if zeros.end == at { zeros.start..end } else { at..end };
            } else {
                punch(file, &zeros)?;
                zeros = end..end;
            }
            at = end;
        }
    }
}

fn punch(file: &File, range: &Range<u64>) -> io::Result<()> {
    let len = range.end.saturating_sub(range.start);
    if len == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, range.start, len)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn pages_of_zeros_take_no_memory_and_read_as_before() {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        let mut bytes = vec![0; 3 * PIECE];
        bytes[5 * PAGE + 7] = 1;
        bytes[PIECE] = 2;
        bytes[2 * PIECE - 1] = 3;
        file.write_all_at(&bytes, 0).unwrap();
        hollow(&file).unwrap();
        // Blocks of 512 bytes, whatever the page size: see stat(2).
        let blocks = usize::try_from(file.metadata().unwrap().blocks()).unwrap();
        assert_eq!(blocks, 3 * PAGE / 512);
        let mut after = vec![9; bytes.len()];
        file.read_exact_at(&mut after, 0).unwrap();
        assert_eq!(after, bytes);
    }
}
