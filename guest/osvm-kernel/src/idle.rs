//! Waiting for the device without burning the host's processor.
//!
//! | VMM | how the guest waits |
//! |---|---|
//! | embedded (`osvm.hlt=exit`) | `hlt` with interrupts off: an exit, the VMM resumes the guest |
//! | any other, line known | `hlt` woken by the device's line through the I/O APIC |
//! | any other, line unknown | `hlt` woken by the local APIC's timer, once a millisecond or so |
//!
//! The interrupt controllers are set up at the first wait, so a guest on the embedded VMM never
//! pays for them. Registers: Intel SDM volume 3, chapter 11; 82093AA (I/O APIC) data sheet;
//! 8259A data sheet.

use crate::cpu;
use core::ptr;

/// How the guest waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// `hlt` is an exit.
    HaltIsExit,
    /// The controllers are not set up yet; the device's line, if it is known.
    Unprepared(Option<u8>),
    /// `hlt` ends with an interrupt.
    Interrupt,
}

/// The one vector in use; entry.s handles it.
const VECTOR: u32 = 32;
/// Vector for interrupts that vanished before they were taken; entry.s handles it.
const SPURIOUS_VECTOR: u32 = 47;

/// Local APIC registers, at their reset address.
mod local_apic {
    pub(super) const SPURIOUS: usize = 0xfee0_00f0;
    pub(super) const TIMER: usize = 0xfee0_0320;
    pub(super) const TIMER_COUNT: usize = 0xfee0_0380;
    pub(super) const TIMER_DIVIDE: usize = 0xfee0_03e0;
    pub(super) const ENABLE: u32 = 1 << 8;
    pub(super) const PERIODIC: u32 = 1 << 17;
    /// Divide the timer's clock by 16.
    pub(super) const BY_16: u32 = 3;
    /// Turns of the divided clock between two interrupts: a millisecond at 1 GHz, which QEMU and
    /// KVM give.
    pub(super) const TURNS: u32 = 62_500;
}

/// I/O APIC registers, at the address every VMM uses.
mod io_apic {
    pub(super) const SELECT: usize = 0xfec0_0000;
    pub(super) const WINDOW: usize = 0xfec0_0010;
    /// First register of the redirection table: two for each line.
    pub(super) const TABLE: u32 = 0x10;
    /// Lines it has.
    pub(super) const LINES: u8 = 24;
}

/// Mask registers of the two 8259A interrupt controllers.
const PIC_MASKS: [u16; 2] = [0x21, 0xa1];

impl Idle {
    /// Waits. May return too early, and always does the first time.
    pub(crate) fn wait(&mut self) {
        match *self {
            Self::HaltIsExit => cpu::halt(),
            Self::Interrupt => cpu::wait_for_interrupt(),
            Self::Unprepared(line) => {
                prepare(line);
                // An event from before this moment raised no interrupt: look again before waiting.
                *self = Self::Interrupt;
            }
        }
    }

    /// Whether the device's interrupt wakes the guest.
    pub(crate) fn uses_interrupts(self) -> bool {
        self != Self::HaltIsExit
    }
}

fn prepare(line: Option<u8>) {
    for mask in PIC_MASKS {
        // SAFETY: masks interrupts that nobody waits for; touches no memory.
        unsafe { cpu::write_port(mask, 0xff) }
    }
    write(local_apic::SPURIOUS, local_apic::ENABLE | SPURIOUS_VECTOR);
    match line.filter(|line| *line < io_apic::LINES) {
        Some(line) => {
            // Edge-triggered, active high, fixed delivery to processor 0.
            let entry = io_apic::TABLE + 2 * u32::from(line);
            write_io_apic(entry + 1, 0);
            write_io_apic(entry, VECTOR);
        }
        None => {
            write(local_apic::TIMER_DIVIDE, local_apic::BY_16);
            write(local_apic::TIMER, local_apic::PERIODIC | VECTOR);
            write(local_apic::TIMER_COUNT, local_apic::TURNS);
        }
    }
}

fn write_io_apic(register: u32, value: u32) {
    write(io_apic::SELECT, register);
    write(io_apic::WINDOW, value);
}

fn write(address: usize, value: u32) {
    let register = ptr::with_exposed_provenance_mut::<u32>(address);
    // SAFETY: all addresses written here are registers of the interrupt controllers, in the mapping
    // for devices. They cause one interrupt at most, whose handler touches no memory of Rust's.
    unsafe { register.write_volatile(value) }
}
