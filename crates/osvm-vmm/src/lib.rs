//! What a hypervisor is to osvm.
//!
//! ```text
//! Backend::boot(spec) ──▶ Machine ──connect(port)──▶ GuestStream
//!                            │ drop, or Killer::kill from any thread
//!                            ▼
//!                         destroyed, nothing left behind
//! ```
//!
//! # Invariants
//!
//! - Dropping a [`Machine`] destroys the guest and all it held, and waits until it is gone.
//! - A guest can be killed from any thread at any time, even one stuck in a loop.
//! - A VM process never outlives the osvm process that started it.
//!
//! `conformance` (feature of that name) checks these and more on any backend; `fake` (feature of
//! that name) is a backend without a hypervisor.
//!
//! # Not here
//!
//! - Hypervisors: one crate each, and none knows another.
//! - Policy, CIDs, deadlines of a call, receipts: `osvm-runtime`.

#[cfg(feature = "conformance")]
pub mod conformance;
mod console;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod linux;
mod machine;
pub mod process;
pub mod processor;
mod stream;
mod text;

pub use console::Console;
pub use error::{BootError, ConnectError, Death};
pub use machine::{
    Backend, BadMemorySize, GuestImage, Killer, Machine, MachineSpec, MemoryMib, Usage,
};
pub use stream::GuestStream;
pub use text::clean;
