//! The embedded VMM: one guest is one small process of our own, on KVM.
//!
//! ```text
//! osvm ── KvmBackend ── starts ──▶ osvm-vm ── vm_process::main ── KVM_RUN ──▶ guest
//!    │                                │
//!    ├── control socket: spec, connections in; accepted, ended out
//!    ├── guest memory: one memory file, so that osvm can tell what the guest has touched
//!    └── lifeline: the kernel kills osvm-vm when osvm is gone
//! ```
//!
//! # Invariants
//!
//! - Before the guest's first instruction the VM process has jailed itself: see [`Jail`]. What
//!   can't be put in force, apart from the two parts a host may not offer, ends the boot.
//! - osvm takes what the VM process says for the words of a stranger: bounded, checked, cleaned.
//!   A guest that has taken over its VM process gains that process's rights: none.
//! - osvm never parses the guest image; the VM process does.
//!
//! A Linux guest ([`KvmLinux`]) has more of a machine around it, in a VM process of another kind;
//! it can be saved, and started again as often as wanted.
//!
//! # Not here
//!
//! - The device the guest talks to: `osvm-vsock`.
//! - Deadlines: whoever holds the [`osvm_vmm::Killer`] keeps the time.
#![expect(unsafe_code, reason = "ioctls of KVM and a few system calls have no safe wrapper")]

mod backend;
mod control;
mod cpu;
mod error;
pub mod guard;
mod kvm_stats;
mod linux;
mod machine;
pub mod probe;
pub mod vm_process;

pub use backend::{BootProtocol, KvmBackend};
pub use control::{BootTimes, Counts, Jail};
pub use linux::KvmLinux;
pub use machine::KvmMachine;
