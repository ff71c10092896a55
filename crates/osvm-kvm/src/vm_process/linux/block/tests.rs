//! The disk seen by a driver: a made-up one that keeps to virtio, and others that do not.

use super::*;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, memfd_create};
use std::os::unix::fs::FileExt;
use vm_memory::{Bytes, GuestAddress};

const MEMORY: usize = 16 << 20;
/// Guest memory is in two pieces here, so that buffers can lie across the border.
const BORDER: u64 = 8 << 20;
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x3000;
const USED: u64 = 0x4000;
const HEADERS: u64 = 0x8000;
const DATA: u64 = 0x10_0000;
const SIZE: u16 = 16;
const SECTORS: u64 = 64 * 1024;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// What stands in sector `sector` of the disk.
fn contents(sector: u64) -> Vec<u8> {
    (0..512_u64).map(|at| (sector.wrapping_mul(7) + at / 3).to_le_bytes()[0]).collect()
}

fn file(sectors: impl IntoIterator<Item = u64>, len: u64) -> File {
    let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(len).unwrap();
    for sector in sectors {
        file.write_all_at(&contents(sector), sector * 512).unwrap();
    }
    file
}

/// A guest with a driver.
struct Guest {
    mem: GuestMemoryMmap,
    file: File,
    block: Block,
    next: u16,
}

impl Guest {
    fn cold() -> Self {
        let half = MEMORY / 2;
        let mem =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), half), (GuestAddress(BORDER), half)]);
        let file = file((0..32).chain([SECTORS - 1]), SECTORS * 512 + 100);
        let block = Block::new(file.try_clone().unwrap(), "root").unwrap();
        Self { mem: mem.unwrap(), file, block, next: 0 }
    }

    fn boot() -> Self {
        let mut guest = Self::cold();
        guest.set_up(SIZE);
        guest
    }

    fn register(&mut self, offset: u64, value: u32) -> Result<(), Abuse> {
        self.block.write(&self.mem, offset, &value.to_le_bytes())
    }

    fn load(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.block.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// What Linux does: takes every feature that is offered.
    fn set_up(&mut self, size: u16) {
        self.register(0x70, 3).unwrap();
        for half in [0, 1] {
            self.register(0x14, half).unwrap();
            let offered = self.load(0x10);
            self.register(0x24, half).unwrap();
            self.register(0x20, offered).unwrap();
        }
        self.register(0x70, 11).unwrap();
        assert_eq!(self.load(0x70), 11, "the device refused its own features");
        self.register(0x38, size.into()).unwrap();
        for (offset, addr) in [(0x80, DESC), (0x90, AVAIL), (0xa0, USED)] {
            self.register(offset, u32::try_from(addr).unwrap()).unwrap();
        }
        self.register(0x44, 1).unwrap();
        self.register(0x70, 15).unwrap();
    }

    fn descriptor(&self, at: u16, addr: u64, len: u32, [flags, next]: [u16; 2]) {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.mem.write_slice(&bytes, GuestAddress(DESC + u64::from(at) * 16)).unwrap();
    }

    fn offer(&mut self, head: u16) {
        let slot = AVAIL + 4 + u64::from(self.next % SIZE) * 2;
        self.mem.write_obj(head, GuestAddress(slot)).unwrap();
        self.next = self.next.wrapping_add(1);
        self.mem.write_obj(self.next, GuestAddress(AVAIL + 2)).unwrap();
    }

    fn notify(&mut self) -> Result<(), Abuse> {
        self.register(0x50, 0)
    }

    /// Puts one request at descriptor `at` and those behind it: header, `buffers`, status. The
    /// status byte is at the header's end.
    fn queue(&mut self, at: u16, kind: u32, sector: u64, buffers: &[(u64, u32)], flags: u16) {
        let header = HEADERS + u64::from(at) * 32;
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0xee; 4]);
        bytes.extend(sector.to_le_bytes());
        bytes.push(0xff);
        self.mem.write_slice(&bytes, GuestAddress(header)).unwrap();
        self.descriptor(at, header, 16, [NEXT, at + 1]);
        let mut next = at + 1;
        for (addr, len) in buffers {
            self.descriptor(next, *addr, *len, [flags | NEXT, next + 1]);
            next += 1;
        }
        self.descriptor(next, header + 16, 1, [WRITE, 0]);
        self.offer(at);
    }

    fn status(&self, at: u16) -> u8 {
        self.mem.read_obj(GuestAddress(HEADERS + u64::from(at) * 32 + 16)).unwrap()
    }

    /// One request from start to end: its status, and the bytes written as the device counts.
    fn request(&mut self, kind: u32, sector: u64, buffers: &[(u64, u32)]) -> (u8, u32) {
        let flags = if kind == OUT { 0 } else { WRITE };
        self.queue(0, kind, sector, buffers, flags);
        self.notify().unwrap();
        let used: u16 = self.mem.read_obj(GuestAddress(USED + 2)).unwrap();
        assert_eq!(used, self.next, "answered in the exit that asks");
        let slot = USED + 4 + u64::from((used - 1) % SIZE) * 8;
        let [head, len]: [u32; 2] = self.mem.read_obj(GuestAddress(slot)).unwrap();
        assert_eq!(head, 0);
        (self.status(0), len)
    }

    fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }
}

#[test]
fn a_driver_recognises_a_read_only_disk_of_whole_sectors() {
    let mut guest = Guest::cold();
    assert_eq!([0x0, 0x4, 0x8].map(|offset| guest.load(offset)), [0x7472_6976, 2, 2]);
    assert_eq!(guest.load(0x10), 1 << 5 | 1 << 2, "read-only, and a limit of buffers");
    guest.register(0x14, 1).unwrap();
    assert_eq!(guest.load(0x10), 1, "virtio 1");
    assert_eq!((guest.load(0x100), guest.load(0x104)), (64 * 1024, 0));
    assert_eq!((guest.load(0x108), guest.load(0x10c), guest.load(0x110)), (0, 126, 0));
    let queues = [0, 1].map(|queue| {
        guest.register(0x30, queue).unwrap();
        guest.load(0x34)
    });
    assert_eq!(queues, [256, 0]);
}

#[test]
fn a_feature_that_was_not_offered_is_refused() {
    let mut guest = Guest::cold();
    guest.register(0x70, 3).unwrap();
    guest.register(0x20, 1 << 9).unwrap();
    guest.register(0x24, 1).unwrap();
    guest.register(0x20, 1).unwrap();
    guest.register(0x70, 11).unwrap();
    assert_eq!(guest.load(0x70), 3);
}

#[test]
fn sectors_are_read_into_one_buffer_or_many() {
    let mut guest = Guest::boot();
    assert_eq!(guest.request(IN, 3, &[(DATA, 1024)]), (OK, 1025));
    assert_eq!(guest.bytes(DATA, 1024), [contents(3), contents(4)].concat());
    let pieces = [(DATA, 100), (DATA + 0x1000, 924), (DATA + 0x2000, 0), (DATA + 0x3000, 512)];
    assert_eq!(guest.request(IN, 9, &pieces), (OK, 1537));
    let got = [guest.bytes(DATA, 100), guest.bytes(DATA + 0x1000, 924)].concat();
    assert_eq!(got, [contents(9), contents(10)].concat());
    assert_eq!(guest.bytes(DATA + 0x3000, 512), contents(11));
    assert_eq!(guest.request(IN, SECTORS - 1, &[(DATA, 512)]), (OK, 513));
    assert_eq!(guest.bytes(DATA, 512), contents(SECTORS - 1));
    assert_eq!(guest.request(IN, 0, &[]), (OK, 1), "nothing was asked for");
}

#[test]
fn a_buffer_may_lie_across_two_pieces_of_memory() {
    let mut guest = Guest::boot();
    assert_eq!(guest.request(IN, 5, &[(BORDER - 700, 1024)]), (OK, 1025));
    assert_eq!(guest.bytes(BORDER - 700, 1024), [contents(5), contents(6)].concat());
}

#[test]
fn the_largest_request_is_served_and_a_larger_one_is_an_error() {
    let mut guest = Guest::boot();
    let (most, addr) = (u32::try_from(REQUEST_MAX).unwrap(), BORDER - (2 << 20));
    assert_eq!(guest.request(IN, 1, &[(addr, most)]), (OK, most + 1));
    assert_eq!(guest.bytes(addr, 512), contents(1));
    assert_eq!(guest.request(IN, 1, &[(addr, most), (DATA, 512)]), (IO_ERROR, 1));
}

#[test]
fn what_is_not_on_the_disk_is_an_error() {
    let mut guest = Guest::boot();
    for sector in [SECTORS - 1, SECTORS, 1 << 40, (1 << 55) - 1, u64::MAX - 1, u64::MAX] {
        assert_eq!(guest.request(IN, sector, &[(DATA, 1024)]), (IO_ERROR, 1), "{sector}");
    }
    assert_eq!(guest.request(IN, 0, &[(DATA, 511)]), (IO_ERROR, 1));
    assert_eq!(guest.bytes(DATA, 1024), [0; 1024]);
}

#[test]
fn a_file_that_became_shorter_is_an_error() {
    let mut guest = Guest::boot();
    guest.file.set_len(5 * 512 + 100).unwrap();
    assert_eq!(guest.request(IN, 4, &[(DATA, 512)]), (OK, 513));
    assert_eq!(guest.request(IN, 5, &[(DATA, 512)]), (IO_ERROR, 1));
}

#[test]
fn the_position_of_the_file_is_not_used() {
    use std::io::{Seek, SeekFrom};
    let mut guest = Guest::boot();
    guest.file.seek(SeekFrom::Start(77)).unwrap();
    assert_eq!(guest.request(IN, 2, &[(DATA, 512)]), (OK, 513));
    assert_eq!(guest.file.stream_position().unwrap(), 77);
    assert_eq!(guest.bytes(DATA, 512), contents(2));
}

#[test]
fn the_disk_cannot_be_written() {
    let mut guest = Guest::boot();
    guest.mem.write_slice(&[0xaa; 512], GuestAddress(DATA)).unwrap();
    assert_eq!(guest.request(OUT, 3, &[(DATA, 512)]), (IO_ERROR, 1));
    let mut sector = [0; 512];
    guest.file.read_exact_at(&mut sector, 3 * 512).unwrap();
    assert_eq!(sector[..], contents(3));
}

#[test]
fn serial_number_and_flush_are_answered_and_the_rest_is_not_supported() {
    let mut guest = Guest::boot();
    assert_eq!(guest.request(GET_ID, 0, &[(DATA, 20)]), (OK, 21));
    assert_eq!(guest.bytes(DATA, 20), *b"root\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(guest.request(GET_ID, 0, &[(DATA + 64, 3)]), (OK, 4));
    assert_eq!(guest.bytes(DATA + 64, 4), *b"roo\0");
    assert_eq!(guest.request(FLUSH, 0, &[]), (OK, 1));
    for kind in [2, 5, 11, 13, u32::MAX] {
        assert_eq!(guest.request(kind, 0, &[(DATA, 16)]), (UNSUPPORTED, 1));
    }
}

#[test]
fn a_long_serial_number_is_cut() {
    let block = Block::new(file([], 512), "abcdefghijklmnopqrstuvwxyz").unwrap();
    assert_eq!(block.disk.id, *b"abcdefghijklmnopqrst");
}

#[test]
fn all_requests_of_a_notification_are_answered_with_one_interrupt() {
    let mut guest = Guest::boot();
    for at in 0..5_u16 {
        guest.queue(at * 3, IN, at.into(), &[(DATA + u64::from(at) * 512, 512)], WRITE);
    }
    guest.notify().unwrap();
    assert!(guest.block.interrupt());
    assert_eq!(guest.load(0x60), 1);
    guest.register(0x64, 1).unwrap();
    assert!(!guest.block.interrupt());
    assert!((0..5).all(|at| guest.status(at * 3) == OK));
    assert_eq!(guest.bytes(DATA, 5 * 512), (0..5).flat_map(contents).collect::<Vec<_>>());
    guest.notify().unwrap();
    assert!(!guest.block.interrupt(), "nothing was done");
}

#[test]
fn a_driver_that_polls_gets_no_interrupt() {
    let mut guest = Guest::boot();
    guest.mem.write_obj(1_u16, GuestAddress(AVAIL)).unwrap();
    assert_eq!(guest.request(IN, 0, &[(DATA, 512)]), (OK, 513));
    assert!(!guest.block.interrupt());
}

#[test]
fn an_indirect_chain_is_read_too() {
    let mut guest = Guest::boot();
    guest.queue(0, IN, 6, &[(DATA, 512)], WRITE);
    let table = guest.bytes(DESC, 48);
    guest.mem.write_slice(&table, GuestAddress(0x6000)).unwrap();
    guest.descriptor(0, 0x6000, 48, [INDIRECT, 0]);
    guest.notify().unwrap();
    assert_eq!((guest.status(0), guest.bytes(DATA, 512)), (OK, contents(6)));
}

#[test]
fn a_restored_disk_goes_on_where_it_stopped() {
    let mut guest = Guest::boot();
    for sector in 0..40 {
        guest.request(IN, sector % 30, &[(DATA, 512)]);
    }
    guest.queue(0, IN, 7, &[(DATA, 512)], WRITE);
    let saved = serde_json::to_vec(&guest.block.state()).unwrap();
    let state = serde_json::from_slice(&saved).unwrap();
    let file = guest.file.try_clone().unwrap();
    guest.block = Block::restored(file, "root", &state, &guest.mem).unwrap();
    assert_eq!(guest.block.state(), state);
    assert_eq!(state.rings[0].next_avail, 40);
    assert!(guest.block.interrupt(), "not acknowledged before");
    guest.notify().unwrap();
    assert_eq!((guest.status(0), guest.bytes(DATA, 512)), (OK, contents(7)));
    assert_eq!(guest.request(IN, 8, &[(DATA, 512)]), (OK, 513));
}

#[test]
fn a_state_no_driver_can_have_made_is_refused() {
    let cases: [fn(&mut RegistersState); 6] = [
        |state| state.rings.clear(),
        |state| state.rings.push(state.rings[0].clone()),
        |state| state.rings[0].size = 3,
        |state| state.rings[0].desc += 8,
        |state| state.rings[0].avail = u64::MAX - 1,
        |state| state.driver_features |= 1 << 9,
    ];
    for lie in cases {
        let guest = Guest::boot();
        let mut state = guest.block.state();
        lie(&mut state);
        let file = guest.file.try_clone().unwrap();
        let error = Block::restored(file, "root", &state, &guest.mem).unwrap_err();
        assert!(!matches!(error, NotRestored::Make(_)), "{error}");
    }
}

#[test]
fn a_chain_without_room_for_a_request_is_abuse() {
    let queue = QueueName::Requests;
    let too_short = |len| Abuse::BufferTooShort { queue, len };
    type Misbehaviour = fn(&mut Guest);
    let cases: [(Misbehaviour, Abuse); 8] = [
        (|guest| guest.descriptor(0, HEADERS, 16, [0, 0]), too_short(16)),
        (|guest| guest.descriptor(1, HEADERS + 16, 0, [WRITE, 0]), too_short(16)),
        (|guest| guest.descriptor(0, HEADERS, 15, [NEXT, 1]), too_short(16)),
        (|guest| guest.descriptor(0, HEADERS, 16, [NEXT | WRITE, 1]), too_short(17)),
        (
            |guest| {
                guest.descriptor(0, HEADERS, 16, [NEXT | WRITE, 1]);
                guest.descriptor(1, HEADERS, 16, [0, 1]);
            },
            Abuse::WrongDirection(queue),
        ),
        (|guest| guest.descriptor(1, HEADERS, 16, [NEXT, 0]), Abuse::EndlessChain(queue)),
        (
            |guest| guest.descriptor(1, 1 << 30, 7, [WRITE, 0]),
            Abuse::BufferOutsideMemory { queue, addr: 1 << 30, len: 7 },
        ),
        (
            |guest| guest.descriptor(0, HEADERS, 16, [NEXT, 99]),
            Abuse::DescriptorIndex { queue, index: 99 },
        ),
    ];
    for (misbehave, expected) in cases {
        let mut guest = Guest::boot();
        guest.queue(0, IN, 0, &[], WRITE);
        misbehave(&mut guest);
        assert_eq!(guest.notify(), Err(expected));
    }
}

#[test]
fn a_ring_that_announces_too_much_is_abuse() {
    let mut guest = Guest::boot();
    guest.mem.write_obj(SIZE + 1, GuestAddress(AVAIL + 2)).unwrap();
    assert_eq!(guest.notify(), Err(Abuse::AvailIndexJump(QueueName::Requests)));
}

#[test]
fn partial_reads_go_on_inside_a_buffer() {
    let base = std::ptr::without_provenance_mut::<libc::c_void>(0x1000);
    let vector = |len| libc::iovec { iov_base: base, iov_len: len };
    for (read, expected) in [
        (0, vec![(0x1000, 10), (0x1000, 20)]),
        (4, vec![(0x1004, 6), (0x1000, 20)]),
        (10, vec![(0x1000, 20)]),
        (29, vec![(0x1013, 1)]),
        (30, vec![]),
    ] {
        let mut vectors = [vector(10), vector(20)];
        let left = behind(&mut vectors, read);
        let left: Vec<_> = left.iter().map(|it| (it.iov_base.addr(), it.iov_len)).collect();
        assert_eq!(left, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_chain_is_answered_or_named(
        chain in prop::collection::vec(
            (
                prop_oneof![DATA..DATA + 0x4000, BORDER - 600..BORDER + 600, any::<u64>()],
                prop_oneof![Just(512_u32), 0..2000_u32, any::<u32>()],
                0..8_u16,
                prop_oneof![0..SIZE, any::<u16>()],
            ),
            1..6,
        ),
        header in prop::collection::vec(any::<u8>(), 24),
        kind in prop_oneof![0..16_u32, any::<u32>()],
        head in 0..SIZE + 2,
    ) {
        let mut guest = Guest::boot();
        guest.mem.write_slice(&header, GuestAddress(DATA)).unwrap();
        guest.mem.write_obj(kind, GuestAddress(DATA)).unwrap();
        for (at, (addr, len, flags, next)) in (0_u16..).zip(chain) {
            guest.descriptor(at, addr, len, [flags, next]);
        }
        guest.offer(head);
        if guest.notify().is_ok() {
            let used: u16 = guest.mem.read_obj(GuestAddress(USED + 2)).unwrap();
            prop_assert_eq!(used, 1);
        }
    }

    #[test]
    fn any_ring_contents_end(
        rings in prop::collection::vec(any::<u8>(), 0x100), available in 0..SIZE + 2,
    ) {
        let mut guest = Guest::boot();
        guest.mem.write_slice(&rings, GuestAddress(DESC)).unwrap();
        guest.mem.write_slice(&rings, GuestAddress(AVAIL)).unwrap();
        guest.mem.write_obj(available, GuestAddress(AVAIL + 2)).unwrap();
        let _ = guest.notify();
    }
}
