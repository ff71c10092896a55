//! The vsock device behind its registers and rings: a guest that writes what it likes where it
//! likes ends in an [`Abuse`](osvm_vsock::Abuse) at worst.
//!
//! The input is a list of operations, each an opcode byte and its operands. Guest memory starts
//! with well-formed rings, so that the first random packet already reaches the device behind them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_protocol::Cid;
use osvm_vsock::Device;
use osvm_vsock::mmio::Vsock;
use rustix::net::{AddressFamily, SocketFlags, SocketType, recv, send, socketpair};
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::OwnedFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const MEMORY: usize = 256 * 1024;
/// Each queue: descriptors, then the available ring, then the used ring, a page each.
const RINGS: u64 = 0x1000;
const QUEUE_LEN: u16 = 16;
const BUFFERS: u64 = 0x10000;
const BUFFER_LEN: u32 = 512;

const QUEUE_SEL: u64 = 0x30;
const QUEUE_NUM: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const QUEUE_NOTIFY: u64 = 0x50;
const STATUS: u64 = 0x70;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const QUEUE_DESC: u64 = 0x80;
const QUEUE_AVAIL: u64 = 0x90;
const QUEUE_USED: u64 = 0xa0;

fuzz_target!(|bytes: &[u8]| {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    let Ok(device) = Device::new(Cid::new(200).unwrap()) else { return };
    let Ok(mut vsock) = Vsock::new(device) else { return };
    let mut hosts = Vec::new();
    bring_up(&mut vsock, &memory);
    let mut input = bytes;
    for _ in 0..200 {
        let Some(operation) = take::<1>(&mut input) else { break };
        if step(operation[0], &mut input, &mut vsock, &memory, &mut hosts).is_none() {
            break;
        }
        let _ = vsock.device().take_events().count();
    }
});

/// One operation; `None` when the input or the guest has ended.
fn step(
    operation: u8,
    input: &mut &[u8],
    vsock: &mut Vsock,
    memory: &GuestMemoryMmap<()>,
    hosts: &mut Vec<OwnedFd>,
) -> Option<()> {
    match operation % 8 {
        0 => {
            let offset = u16::from_le_bytes(take(input)?);
            vsock.write(memory, u64::from(offset % 0x110), &take::<4>(input)?).ok()
        }
        1 => {
            let mut value = [0; 4];
            let offset = u16::from_le_bytes(take(input)?);
            vsock.read(offset.into(), &mut value);
            Some(())
        }
        2 => {
            let at = u32::from_le_bytes(take(input)?) as usize % MEMORY;
            let len = usize::from(take::<1>(input)?[0]).min(input.len()).min(MEMORY - at);
            let (bytes, rest) = input.split_at(len);
            *input = rest;
            memory.write_slice(bytes, GuestAddress(at as u64)).ok()
        }
        3 => packet(input, vsock, memory),
        4 => {
            if 8 <= hosts.len() {
                return Some(());
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
            hosts.push(ours);
            vsock.connect(memory, 5252, theirs, hosts.len() as u64).ok()
        }
        5 => {
            let host = hosts.get(usize::from(take::<1>(input)?[0]))?;
            let _ = send(host, &[7; 700], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            let _ = recv(host, &mut [0; 4096], RecvFlags::DONTWAIT);
            vsock.service(memory).ok()
        }
        6 => {
            hosts.pop();
            vsock.service(memory).ok()
        }
        _ => {
            // The driver gives every buffer back that the device has filled.
            let used: u16 = memory.read_obj(GuestAddress(RINGS + 0x2002)).ok()?;
            let available = used.wrapping_add(QUEUE_LEN);
            memory.write_obj(available, GuestAddress(RINGS + 0x1002)).ok()?;
            vsock.write(memory, QUEUE_NOTIFY, &0_u32.to_le_bytes()).ok()
        }
    }
}

/// Puts the next bytes of the input into a buffer as a packet from the guest and offers it.
fn packet(input: &mut &[u8], vsock: &mut Vsock, memory: &GuestMemoryMmap<()>) -> Option<()> {
    let queue = RINGS + 3 * 0x1000;
    let index: u16 = memory.read_obj(GuestAddress(queue + 0x1002)).ok()?;
    let slot = index % QUEUE_LEN;
    let buffer = BUFFERS + u64::from(QUEUE_LEN + slot) * u64::from(BUFFER_LEN);
    let header: [u8; 44] = take(input)?;
    memory.write_slice(&header, GuestAddress(buffer)).ok()?;
    // From the guest to the host, or the device would look no further.
    memory.write_obj(200_u64, GuestAddress(buffer)).ok()?;
    memory.write_obj(2_u64, GuestAddress(buffer + 8)).ok()?;
    memory.write_obj(slot, GuestAddress(queue + 0x1004 + 2 * u64::from(slot))).ok()?;
    memory.write_obj(index.wrapping_add(1), GuestAddress(queue + 0x1002)).ok()?;
    vsock.write(memory, QUEUE_NOTIFY, &1_u32.to_le_bytes()).ok()
}

/// What a driver does: features, three queues with buffers, DRIVER_OK.
fn bring_up(vsock: &mut Vsock, memory: &GuestMemoryMmap<()>) {
    let mut write = |offset, value: u32| vsock.write(memory, offset, &value.to_le_bytes()).unwrap();
    write(STATUS, 3);
    // VIRTIO_F_VERSION_1, and nothing in the lower half.
    for (half, features) in [(0, 0), (1, 1)] {
        write(DRIVER_FEATURES_SEL, half);
        write(DRIVER_FEATURES, features);
    }
    write(STATUS, 11);
    for queue in 0..3_u32 {
        let base = RINGS + u64::from(queue) * 0x3000;
        for slot in 0..QUEUE_LEN {
            let index = queue as u16 * QUEUE_LEN + slot;
            let descriptor = GuestAddress(base + 16 * u64::from(slot));
            let address = BUFFERS + u64::from(index) * u64::from(BUFFER_LEN);
            // VIRTQ_DESC_F_WRITE where the device writes.
            let flags: u16 = if queue == 1 { 0 } else { 2 };
            let value =
                u128::from(address) | u128::from(BUFFER_LEN) << 64 | u128::from(flags) << 96;
            memory.write_slice(&value.to_le_bytes(), descriptor).unwrap();
            let ring = GuestAddress(base + 0x1004 + 2 * u64::from(slot));
            memory.write_obj(slot, ring).unwrap();
        }
        let available = if queue == 1 { 0 } else { QUEUE_LEN };
        memory.write_obj(available, GuestAddress(base + 0x1002)).unwrap();
        write(QUEUE_SEL, queue);
        write(QUEUE_NUM, QUEUE_LEN.into());
        for (register, offset) in [(QUEUE_DESC, 0), (QUEUE_AVAIL, 0x1000), (QUEUE_USED, 0x2000)] {
            write(register, (base + offset) as u32);
            write(register + 4, 0);
        }
        write(QUEUE_READY, 1);
    }
    write(STATUS, 15);
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*taken)
}
