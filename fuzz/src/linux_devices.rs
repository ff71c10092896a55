//! The devices of a Linux guest that our own VMM plays, restored from whatever a state file may
//! say, in front of a guest that writes what it likes where it likes.
//!
//! The first byte of the input chooses the device: a disk that its driver has set up, or a disk or
//! a vsock device restored from the bytes that follow. Then comes a list of operations, each an
//! opcode byte and its operands. Guest memory starts with a ring of well-formed requests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_kvm::vm_process::Block;
use osvm_protocol::Cid;
use osvm_vsock::mmio::{RegistersState, RingState, Vsock, VsockState};
use osvm_vsock::{Abuse, Device};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::sync::OnceLock;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const MEMORY: usize = 256 * 1024;
/// Each queue: descriptors, then the available ring, then the used ring, a page each.
const RINGS: u64 = 0x1000;
const QUEUE_LEN: u16 = 16;
/// A request's header, and behind it its status, in steps of 32 bytes.
const HEADERS: u64 = 0x10000;
const DATA: u64 = 0x20000;
const SECTORS: u64 = 64;

const QUEUE_NOTIFY: u64 = 0x50;

fuzz_target!(|bytes: &[u8]| {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    fill_rings(&memory);
    let mut input = bytes;
    let Some(mut guest) = start(&mut input, memory) else { return };
    for _ in 0..200 {
        let Some([operation]) = take(&mut input) else { break };
        if guest.step(operation, &mut input).is_none() {
            break;
        }
    }
});

/// A device, and the guest it serves.
struct Guest {
    memory: GuestMemoryMmap<()>,
    device: Played,
}

enum Played {
    Disk(Block),
    Vsock(Vsock),
}

fn start(input: &mut &[u8], memory: GuestMemoryMmap<()>) -> Option<Guest> {
    let [which] = take(input)?;
    let device = match which % 3 {
        0 => Played::Disk(Block::new(disk()?, "root").ok()?),
        1 => {
            let state = registers(input, 1)?;
            Played::Disk(Block::restored(disk()?, "root", &state, &memory).ok()?)
        }
        _ => {
            let registers = registers(input, 3)?;
            let state = VsockState { registers, next_port: u32::from_le_bytes(take(input)?) };
            let device = Device::new(Cid::new(200).unwrap()).ok()?;
            Played::Vsock(Vsock::restored(device, &state, &memory).ok()?)
        }
    };
    let mut guest = Guest { memory, device };
    if which % 3 == 0 {
        guest.bring_up();
    }
    Some(guest)
}

impl Guest {
    /// One operation; `None` when the input or the guest has ended.
    fn step(&mut self, operation: u8, input: &mut &[u8]) -> Option<()> {
        match operation % 6 {
            0 => {
                let offset = u16::from_le_bytes(take(input)?) % 0x110;
                self.store(offset.into(), u32::from_le_bytes(take(input)?)).ok()
            }
            1 => {
                let mut value = [0; 4];
                let offset = u16::from_le_bytes(take(input)?);
                match &self.device {
                    Played::Disk(disk) => disk.read(offset.into(), &mut value),
                    Played::Vsock(vsock) => vsock.read(offset.into(), &mut value),
                }
                Some(())
            }
            2 => {
                let at = u32::from_le_bytes(take(input)?) as usize % MEMORY;
                let len = usize::from(take::<1>(input)?[0]).min(input.len()).min(MEMORY - at);
                let (bytes, rest) = input.split_at(len);
                *input = rest;
                self.memory.write_slice(bytes, GuestAddress(at as u64)).ok()
            }
            3 => self.request(input),
            4 => self.connect(),
            _ => self.save_and_restore(),
        }
    }

    fn store(&mut self, offset: u64, value: u32) -> Result<(), Abuse> {
        let value = value.to_le_bytes();
        match &mut self.device {
            Played::Disk(disk) => disk.write(&self.memory, offset, &value),
            Played::Vsock(vsock) => vsock.write(&self.memory, offset, &value),
        }
    }

    /// Puts the next bytes of the input into the header of the next request, and offers it.
    fn request(&mut self, input: &mut &[u8]) -> Option<()> {
        let [kind, sector, len] = take(input)?;
        let index: u16 = self.memory.read_obj(GuestAddress(RINGS + 0x1002)).ok()?;
        let head = u64::from(index % (QUEUE_LEN / 4)) * 4;
        let header = HEADERS + head * 32;
        self.memory.write_obj(u32::from(kind), GuestAddress(header)).ok()?;
        self.memory.write_obj(u64::from(sector), GuestAddress(header + 8)).ok()?;
        // The buffer is the second descriptor.
        let length = GuestAddress(RINGS + (head + 1) * 16 + 8);
        self.memory.write_obj(u32::from(len) * 256, length).ok()?;
        let slot = RINGS + 0x1004 + 2 * u64::from(index % QUEUE_LEN);
        self.memory.write_obj(head as u16, GuestAddress(slot)).ok()?;
        self.memory.write_obj(index.wrapping_add(1), GuestAddress(RINGS + 0x1002)).ok()?;
        self.store(QUEUE_NOTIFY, 0).ok()
    }

    fn connect(&mut self) -> Option<()> {
        let Played::Vsock(vsock) = &mut self.device else { return Some(()) };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (_ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
        vsock.connect(&self.memory, 5252, theirs, 1).ok()?;
        vsock.service(&self.memory).ok()?;
        let _ = vsock.device().take_events().count();
        Some(())
    }

    /// What a device says of itself, another one accepts; what is in the rings is another matter.
    fn save_and_restore(&mut self) -> Option<()> {
        match &mut self.device {
            Played::Disk(disk) => {
                let state = disk.state();
                *disk = Block::restored(self::disk()?, "root", &state, &self.memory)
                    .expect("a state of its own");
                assert_eq!(disk.state(), state);
            }
            Played::Vsock(vsock) => {
                let device = Device::new(Cid::new(201).unwrap()).ok()?;
                *vsock = Vsock::restored(device, &vsock.state(), &self.memory).ok()?;
            }
        }
        Some(())
    }

    /// What a driver does: features, one queue, DRIVER_OK.
    fn bring_up(&mut self) {
        let ring = RINGS as u32;
        for (offset, value) in [
            (0x70, 3),
            // VIRTIO_F_VERSION_1, and nothing in the lower half.
            (0x24, 1),
            (0x20, 1),
            (0x70, 11),
            (0x38, QUEUE_LEN.into()),
            (0x80, ring),
            (0x90, ring + 0x1000),
            (0xa0, ring + 0x2000),
            (0x44, 1),
            (0x70, 15),
        ] {
            self.store(offset, value).unwrap();
        }
    }
}

/// Registers as a state file may have them: tame enough for a driver, or not at all.
fn registers(input: &mut &[u8], queues: u64) -> Option<RegistersState> {
    let [how] = take(input)?;
    let mut rings = Vec::new();
    for index in 0..queues + u64::from(how >> 6) {
        rings.push(if how & 1 == 0 { tame_ring(input, index)? } else { any_ring(input)? });
    }
    let mut word = || Some(u32::from_le_bytes(take(input)?));
    Some(RegistersState {
        rings,
        queue_select: word()?,
        device_features_select: word()?,
        driver_features_select: word()?,
        driver_features: if how & 2 == 0 { 1 << 32 } else { word()?.into() },
        status: if how & 4 == 0 { 15 } else { word()? },
        interrupt_status: word()?,
    })
}

fn tame_ring(input: &mut &[u8], index: u64) -> Option<RingState> {
    let [next_avail, next_used, ready] = take(input)?;
    let desc = RINGS + index * 0x3000;
    Some(RingState {
        size: QUEUE_LEN.into(),
        desc,
        avail: desc + 0x1000,
        used: desc + 0x2000,
        ready: ready != 0,
        next_avail: next_avail.into(),
        next_used: next_used.into(),
    })
}

fn any_ring(input: &mut &[u8]) -> Option<RingState> {
    Some(RingState {
        size: u16::from_le_bytes(take(input)?).into(),
        desc: u64::from_le_bytes(take(input)?),
        avail: u64::from_le_bytes(take(input)?),
        used: u64::from_le_bytes(take(input)?),
        ready: take::<1>(input)?[0] & 1 == 0,
        next_avail: u16::from_le_bytes(take(input)?),
        next_used: u16::from_le_bytes(take(input)?),
    })
}

/// Every four descriptors are a request: header, buffer, status.
fn fill_rings(memory: &GuestMemoryMmap<()>) {
    for queue in 0..3 {
        for head in (0..u64::from(QUEUE_LEN)).step_by(4) {
            let header = HEADERS + head * 32;
            let chain = [(header, 16, 1), (DATA + head * 1024, 512, 3), (header + 16, 1, 2)];
            for (at, (address, len, flags)) in (head..).zip(chain) {
                let value =
                    u128::from(address) | len << 64 | flags << 96 | u128::from(at + 1) << 112;
                let place = GuestAddress(RINGS + queue * 0x3000 + at * 16);
                memory.write_slice(&value.to_le_bytes(), place).unwrap();
            }
        }
    }
}

/// The same disk for every run: its file is read, never written.
fn disk() -> Option<File> {
    static DISK: OnceLock<File> = OnceLock::new();
    let make = || {
        let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(SECTORS * 512).unwrap();
        file
    };
    DISK.get_or_init(make).try_clone().ok()
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*taken)
}
