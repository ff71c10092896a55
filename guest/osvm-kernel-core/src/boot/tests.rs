//! Tables of the loader, built byte by byte from the documents that define them.

use super::*;
use proptest::prelude::*;

/// Memory that is mapped from 0 to its end.
struct Fake(&'static [u8]);

impl PhysicalMemory for Fake {
    fn bytes(&self, address: u64, len: usize) -> Option<&'static [u8]> {
        let start = usize::try_from(address).ok()?;
        self.0.get(start..start.checked_add(len)?)
    }
}

/// Memory under construction.
struct Builder(Vec<u8>);

impl Builder {
    fn put(&mut self, address: usize, bytes: &[u8]) -> &mut Self {
        let end = address + bytes.len();
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        self.0[address..end].copy_from_slice(bytes);
        self
    }

    fn u32(&mut self, address: usize, value: u32) -> &mut Self {
        self.put(address, &value.to_le_bytes())
    }

    fn u64(&mut self, address: usize, value: u64) -> &mut Self {
        self.put(address, &value.to_le_bytes())
    }

    fn done(&self) -> Fake {
        Fake(Box::leak(self.0.clone().into_boxed_slice()))
    }
}

const INFO: u64 = 0x6000;
const LINE: &str = "quiet virtio_mmio.device=4K@0xd0000000:5";
const MIB: u64 = 1 << 20;

/// What the embedded VMM and Firecracker leave: one module, the map in two pieces.
fn pvh() -> Builder {
    let mut memory = Builder(vec![0; 0x8000]);
    memory.u32(0x6000, 0x336e_c578).u32(0x6004, 1);
    memory.u32(0x600c, 1).u64(0x6010, 0x6200);
    memory.u64(0x6018, 0x2000);
    memory.u64(0x6028, 0x6100).u32(0x6030, 3);
    memory.u64(0x6100, 0).u64(0x6108, 0x9_fc00).u32(0x6110, 1);
    memory.u64(0x6118, 0x9_fc00).u64(0x6120, 0x400).u32(0x6128, 2);
    memory.u64(0x6130, MIB).u64(0x6138, 63 * MIB).u32(0x6140, 1);
    memory.u64(0x6200, 0x7000).u64(0x6208, 5);
    memory.put(0x7000, b"hello").put(0x2000, LINE.as_bytes());
    memory
}

fn linux() -> Builder {
    let mut memory = Builder(vec![0; 0x1_0000]);
    memory.put(0x7202, b"HdrS").put(0x71e8, &[2]);
    memory.u64(0x72d0, 0).u64(0x72d8, 0x9_fc00).u32(0x72e0, 1);
    memory.u64(0x72e4, MIB).u64(0x72ec, 63 * MIB).u32(0x72f4, 1);
    memory.u32(0x7228, 0x2000).put(0x2000, LINE.as_bytes());
    memory.u32(0x7218, 0x9000).u32(0x721c, 5).put(0x9000, b"hello");
    memory
}

#[test]
fn both_protocols_tell_the_same() {
    let boots = [(pvh(), Entry::Pvh(INFO)), (linux(), Entry::Linux(0x7000))];
    for (memory, entry) in boots {
        let data = BootData::read(entry, &memory.done()).unwrap();
        assert_eq!(data.command_line, LINE);
        assert_eq!(data.page, Some(b"hello".as_slice()));
        assert_eq!(data.map.given_bytes(), 64 * MIB);
    }
}

#[test]
fn without_a_module_there_is_no_page() {
    let pvh = pvh().u32(0x600c, 0).done();
    assert_eq!(BootData::read(Entry::Pvh(INFO), &pvh).unwrap().page, None);
    let linux = linux().u32(0x721c, 0).done();
    assert_eq!(BootData::read(Entry::Linux(0x7000), &linux).unwrap().page, None);
}

#[test]
fn a_page_that_is_not_mapped_is_none() {
    let memory = pvh().u64(0x6200, u64::MAX).done();
    assert_eq!(BootData::read(Entry::Pvh(INFO), &memory).unwrap().page, None);
}

#[test]
fn without_tables_there_is_no_boot() {
    #[track_caller]
    fn check(memory: &Builder, entry: Entry, expected: BootError) {
        assert_eq!(BootData::read(entry, &memory.done()).unwrap_err(), expected);
    }
    let beyond = u64::MAX - 8;
    check(&pvh(), Entry::Pvh(beyond), BootError::NoTables(beyond));
    check(pvh().u32(0x6000, 0), Entry::Pvh(INFO), BootError::NoTables(INFO));
    check(pvh().u32(0x6004, 0), Entry::Pvh(INFO), BootError::NoMemoryMap);
    check(pvh().u32(0x6030, 0), Entry::Pvh(INFO), BootError::NoMemoryMap);
    check(pvh().u64(0x6028, u64::MAX), Entry::Pvh(INFO), BootError::NoMemoryMap);
    check(&linux(), Entry::Linux(beyond), BootError::NoTables(beyond));
    check(linux().put(0x7202, b"hdrs"), Entry::Linux(0x7000), BootError::NoTables(0x7000));
    check(linux().put(0x71e8, &[0]), Entry::Linux(0x7000), BootError::NoMemoryMap);
}

#[test]
fn a_command_line_is_cut_at_what_is_not_text() {
    let memory = pvh().put(0x2005, &[0xff]).done();
    assert_eq!(BootData::read(Entry::Pvh(INFO), &memory).unwrap().command_line, "quiet");
}

#[test]
fn no_command_line_is_an_empty_one() {
    let memory = pvh().u64(0x6018, 0).done();
    assert_eq!(BootData::read(Entry::Pvh(INFO), &memory).unwrap().command_line, "");
}

#[test]
fn a_command_line_at_the_end_of_memory_is_read() {
    let mut memory = pvh();
    let end = memory.0.len();
    memory.u64(0x6018, end as u64).put(end, &[b'a'; 300]).put(end + 300, &[0]);
    let memory = memory.done();
    let line = BootData::read(Entry::Pvh(INFO), &memory).unwrap().command_line;
    assert_eq!(line, "a".repeat(256), "the longest limit that fits");
}

#[test]
fn an_endless_command_line_is_cut() {
    let memory = pvh().u64(0x6018, 0x8000).put(0x8000, &[b'a'; 0x2000]).done();
    let line = BootData::read(Entry::Pvh(INFO), &memory).unwrap().command_line;
    assert_eq!(line.len(), MAX_COMMAND_LINE);
}

/// Where the heap goes with RAM from 1 MiB to 64 MiB, the image up to 8 MiB and the module given.
#[track_caller]
fn check_heap(module: Range, expected: Range) {
    let memory = pvh().u64(0x6200, module.start).u64(0x6208, module.len()).done();
    let data = BootData::read(Entry::Pvh(INFO), &memory).unwrap();
    assert_eq!(heap(&data, 8 * MIB, 3 << 30), expected);
}

#[test]
fn the_heap_takes_all_ram_above_the_image() {
    check_heap(Range::new(0x7000, 5), Range { start: 8 * MIB, end: 64 * MIB });
}

#[test]
fn the_heap_ends_before_a_module_at_the_end_of_ram() {
    let start = 64 * MIB - 4096;
    check_heap(Range::new(start, 4096), Range { start: 8 * MIB, end: start });
}

#[test]
fn the_heap_begins_behind_a_module_that_follows_the_image() {
    let end = 9 * MIB + 77;
    check_heap(Range { start: 8 * MIB, end }, Range { start: end, end: 64 * MIB });
}

#[test]
fn a_module_over_the_end_of_the_address_space_leaves_what_is_before_it() {
    let whole = Range { start: 8 * MIB, end: 32 * MIB };
    check_heap(Range::new(32 * MIB, u64::MAX), whole);
}

#[test]
fn the_heap_stays_below_the_limit_of_what_is_mapped() {
    let memory = pvh().u64(0x6138, 8 << 30).done();
    let data = BootData::read(Entry::Pvh(INFO), &memory).unwrap();
    assert_eq!(heap(&data, 8 * MIB, 3 << 30), Range { start: 8 * MIB, end: 3 << 30 });
}

#[test]
fn without_ram_above_the_image_there_is_no_heap() {
    let memory = pvh().u64(0x6138, 2 * MIB).done();
    let data = BootData::read(Entry::Pvh(INFO), &memory).unwrap();
    assert!(heap(&data, 8 * MIB, 3 << 30).is_empty());
}

#[test]
fn bytes_are_found_wherever_they_stand() {
    for len in 0..40 {
        let mut bytes = vec![b'x'; len];
        assert_eq!(split_at_byte(&bytes, b' '), (bytes.as_slice(), [].as_slice()));
        for place in (0..len).rev() {
            bytes[place] = b' ';
            assert_eq!(split_at_byte(&bytes, b' '), (&bytes[..place], &bytes[place + 1..]));
        }
    }
}

proptest! {
    #[test]
    fn finding_a_byte_is_exact(bytes: Vec<u8>, byte: u8) {
        let place = bytes.iter().position(|other| *other == byte);
        let expected = match place {
            Some(place) => (&bytes[..place], &bytes[place + 1..]),
            None => (&bytes[..], &[][..]),
        };
        prop_assert_eq!(split_at_byte(&bytes, byte), expected);
    }

    #[test]
    fn any_bytes_are_tables_or_an_error(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        at in 0x6000_usize..0x6300,
    ) {
        let memory = pvh().put(at, &bytes).done();
        for entry in [Entry::Pvh(INFO), Entry::Linux(0x5f00)] {
            if let Ok(data) = BootData::read(entry, &memory) {
                let ram = heap(&data, 8 * MIB, 3 << 30);
                prop_assert!(ram.is_empty() || 8 * MIB <= ram.start && ram.end <= 3 << 30);
                let _ = (data.map.given_bytes(), cmdline::words(data.command_line).count());
            }
        }
    }
}
