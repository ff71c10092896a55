//! The boot code of a unikernel: from the loader's jump to a listening vsock device.
//!
//! ```text
//! entry.s ──▶ start ──▶ boot::boot ──▶ the program's main(Guest) ──▶ never returns
//!    └── exceptions ──▶ death ──▶ last words on the console ──▶ triple fault
//! ```
//!
//! It is a library so that the hostile guests of the tests boot as the real one does.
//!
//! # Invariants
//!
//! - Nothing is writable and executable; page 0 and the pages around the stacks are not mapped
//!   (`link.ld`, `entry.s`).
//! - One processor, one thread of execution: the only interrupt comes while nothing runs.
//! - Memory that the loader does not call RAM is not touched, devices apart.
//!
//! # Not here
//!
//! - Logic that needs no privilege: `osvm-kernel-core`.
//! - Deadlines, restarts: the host ends a guest and boots another.
#![cfg_attr(target_os = "none", no_std)]
#![cfg(target_os = "none")]
#![expect(unsafe_code, reason = "talks to the processor, to devices and to raw memory")]

extern crate alloc;

mod allocator;
mod boot;
pub mod cpu;
mod death;
mod device;
mod idle;
mod image;
mod memory;
mod serve;

pub use boot::{Guest, GuestVsock, Platform, VsockDevice};
pub use death::{die, say};
pub use device::Registers;
pub use memory::LoaderMemory;
pub use osvm_protocol::note::KIND as NOTE_KIND;
pub use serve::{Connection, serve};

/// Names the function that runs once the guest is up: `fn(Guest) -> !`.
#[macro_export]
macro_rules! guest_main {
    ($main:path) => {
        /// Called by the boot code.
        // SAFETY: no other crate defines this symbol; the boot code declares it with this type.
        #[unsafe(no_mangle)]
        fn osvm_main(guest: $crate::Guest) -> ! {
            $main(guest)
        }
    };
}
