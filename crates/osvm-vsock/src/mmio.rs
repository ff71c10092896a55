//! The virtio-mmio transport, version 2, and a vsock device behind it.
//!
//! For a VMM that sees the guest's loads and stores itself. [`Registers`] is the part of the
//! transport that is the same for every device: it does what the registers say, and tells the
//! device behind it when its driver has started anew or wants something. [`Vsock`] is such a
//! device. A VMM with devices of its own puts them behind the same registers, which are therefore
//! here, next to the rings and chains that they guard, and not in a crate for one file.
//!
//! # Invariants
//!
//! - No ring is touched before the driver has negotiated `VIRTIO_F_VERSION_1` and said DRIVER_OK.
//! - A register that does not exist, or an access of the wrong width, reads as zero and
//!   ignores writes: that is a driver's mistake, not abuse.
//! - A ring that can't work (size, alignment, place) is abuse at the moment it is made ready.
//! - What a saved device claims is checked like what a driver writes: see [`NotRestored`].
//!
//! # Not here
//!
//! - Version 1 ("legacy"): hypervisors that need it bring their own transport.
//! - Interrupt delivery. The status register is kept; raising a line is the VMM's part.

mod registers;
mod state;
mod vsock;

pub use registers::{Registers, Written};
pub use state::{NotRestored, RegistersState, RingState};
pub use vsock::{Vsock, VsockState};

/// Bytes of guest-physical address space the register file takes.
pub const REGION_SIZE: u64 = 0x200;

/// Most entries a queue may have. Linux takes the maximum; other drivers choose.
pub const QUEUE_SIZE_MAX: u16 = 256;
