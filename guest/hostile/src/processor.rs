//! What a guest can do with its processor and its memory alone.
#![expect(unsafe_code, reason = "does on purpose what must not be done")]

use core::hint::{black_box, spin_loop};
use core::ptr;
use osvm_kernel::{Guest, cpu, die, say};

pub(crate) fn spin_at_boot(_: Guest) -> ! {
    loop {
        spin_loop();
    }
}

pub(crate) fn triple_fault(_: Guest) -> ! {
    cpu::triple_fault()
}

pub(crate) fn panic(_: Guest) -> ! {
    die(format_args!("as asked"))
}

pub(crate) fn stack_overflow(_: Guest) -> ! {
    let depth = descend(0);
    die(format_args!("the stack has no end: {depth}"))
}

fn descend(depth: u64) -> u64 {
    // Without the two the compiler makes a loop of this.
    let here = black_box([depth; 16]);
    let below = if depth == u64::MAX { 0 } else { descend(depth + 1) };
    black_box(here.len() as u64) + below
}

pub(crate) fn null_read(_: Guest) -> ! {
    let seen = read(0);
    die(format_args!("address 0 reads as {seen:#x}"))
}

pub(crate) fn write_text(_: Guest) -> ! {
    let code = descend as fn(u64) -> u64 as usize;
    write(code);
    die(format_args!("code could be written"))
}

/// `ret`: would do no harm if it ran.
static DATA: [u8; 16] = [0xc3; 16];

pub(crate) fn execute_data(_: Guest) -> ! {
    let data = ptr::from_ref(black_box(&DATA));
    // SAFETY: none. The memory protection has to stop this.
    let code = unsafe { core::mem::transmute::<*const [u8; 16], extern "C" fn()>(data) };
    code();
    die(format_args!("data could be run"))
}

pub(crate) fn outside_memory(guest: Guest) -> ! {
    let end = behind_memory(&guest);
    let seen = read(end);
    die(format_args!("address {end:#x}, outside of memory, reads as {seen:#x}"))
}

pub(crate) fn outside_memory_write(guest: Guest) -> ! {
    let end = behind_memory(&guest);
    write(end);
    let seen = read(end);
    die(format_args!("address {end:#x}, outside of memory and written to, reads as {seen:#x}"))
}

/// An address with no RAM that is mapped all the same: page tables reach up to 3 GiB.
pub(crate) fn behind_memory(guest: &Guest) -> usize {
    // A loader's map has holes below 1 MiB, so the end is a little behind the sum.
    let memory = usize::try_from(guest.memory_bytes).unwrap_or_default();
    memory.next_multiple_of(1 << 20) + (1 << 20)
}

pub(crate) fn flood_console(_: Guest) -> ! {
    loop {
        say(format_args!("osvm-guest: all work and no play makes a dull guest"));
    }
}

pub(crate) fn never_accept(guest: Guest) -> ! {
    // Its device is up and takes the host's wish; nobody answers it.
    let _vsock = guest.vsock.listen();
    loop {
        cpu::halt();
    }
}

fn read(address: usize) -> u64 {
    let place = ptr::with_exposed_provenance::<u64>(black_box(address));
    // SAFETY: none. The memory protection or the VMM has to stop this.
    unsafe { place.read_volatile() }
}

fn write(address: usize) {
    let place = ptr::with_exposed_provenance_mut::<u64>(black_box(address));
    // SAFETY: none. The memory protection or the VMM has to stop this.
    unsafe { place.write_volatile(0xbad) }
}
