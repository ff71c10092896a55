//! The few instructions that Rust has no words for.

use core::arch::{asm, global_asm};

global_asm!(include_str!("entry.s"));

unsafe extern "C" {
    safe fn osvm_wait_for_interrupt();
    safe fn osvm_triple_fault() -> !;
}

/// Writes `value` to I/O port `port`.
///
/// # Safety
///
/// The port's device must not be made to write to memory that Rust owns.
pub unsafe fn write_port(port: u16, value: u8) {
    // SAFETY: our contract.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    }
}

/// Reads I/O port `port`.
///
/// # Safety
///
/// As for [`write_port`].
pub unsafe fn read_port(port: u16) -> u8 {
    let value;
    // SAFETY: our contract.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Stops the processor with interrupts off. Only a VMM without an interrupt controller, which
/// takes this as "wait for me", ever goes on.
pub fn halt() {
    // SAFETY: changes nothing. Without `nomem` the compiler reads memory anew afterwards, in which
    // the device may have written.
    unsafe { asm!("hlt", options(nostack, preserves_flags)) }
}

/// Lets the one interrupt in and waits for it.
pub fn wait_for_interrupt() {
    osvm_wait_for_interrupt();
}

/// The address that caused the last page fault.
pub fn fault_address() -> u64 {
    let address;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) }
    address
}

/// Ends the guest in a way that every VMM notices at once.
pub fn triple_fault() -> ! {
    osvm_triple_fault()
}
