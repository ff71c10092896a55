//! Last words: how a guest that can't go on tells its host, and ends.

use crate::cpu;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use osvm_kernel_core::words::{Fault, Line};

/// Data register of the first serial port, the console of every VMM.
const SERIAL: u16 = 0x3f8;
/// Its line status register.
const SERIAL_STATUS: u16 = SERIAL + 5;
/// Status bit: the data register takes another byte.
const READY: u8 = 1 << 5;
/// Times the status is asked for before a byte is written anyway.
const PATIENCE: u32 = 10_000;

/// The guard below the stack, see `link.ld`.
const GUARD: core::ops::Range<u64> = 0x10_0000..0x11_0000;

/// Says why the guest ends, and ends it.
pub fn die(reason: fmt::Arguments<'_>) -> ! {
    say(format_args!("osvm-guest: panic: {reason}"));
    cpu::triple_fault()
}

/// Writes one line to the console.
pub fn say(text: fmt::Arguments<'_>) {
    // A line takes whatever it is given, so this can't fail.
    let _ = Line::new(write_serial).write_fmt(text);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(place) => die(format_args!("{} at {place}", info.message())),
        None => die(format_args!("{}", info.message())),
    }
}

/// What an exception leaves on the emergency stack; entry.s pushes the first two.
#[derive(Debug)]
#[repr(C)]
struct Frame {
    vector: u64,
    error: u64,
    rip: u64,
}

/// Where entry.s goes on every exception: none is expected, so none is survived.
// SAFETY: no other crate defines this symbol; entry.s calls it with a pointer to a frame.
#[unsafe(no_mangle)]
extern "C" fn osvm_fault(frame: &Frame) -> ! {
    let cr2 = if frame.vector == 14 { cpu::fault_address() } else { 0 };
    let Frame { vector, error, rip } = *frame;
    let fault = Fault { vector, error, rip, cr2, in_guard: GUARD.contains(&cr2) };
    say(format_args!("osvm-guest: fault: {fault}"));
    cpu::triple_fault()
}

fn write_serial(byte: u8) {
    // SAFETY: a serial port does not touch memory.
    let is_ready = || unsafe { cpu::read_port(SERIAL_STATUS) } & READY != 0;
    // A VMM without the status register reads as ready or never; either way the byte is written.
    let _ = (0..PATIENCE).any(|_| is_ready());
    // SAFETY: as above.
    unsafe { cpu::write_port(SERIAL, byte) }
}
