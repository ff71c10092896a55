//! The safe part of the unikernel: everything that needs no privileged instruction.
//!
//! ```text
//! loader ──▶ boot: command line, memory map, boot page ──▶ heap, device list
//! virtio-mmio registers ──▶ virtio: transport, rings ──▶ vsock: byte streams on one port
//! ```
//!
//! # Invariants
//!
//! - No `unsafe`. Registers, DMA memory and `hlt` are reached through [`virtio::mmio::Mmio`],
//!   [`boot::PhysicalMemory`] and [`vsock::Platform`], which the kernel implements and the tests
//!   replace by a device made of ordinary memory.
//! - Bytes from the loader or the device are bounded before they are used, whatever they say.
//! - Few instructions and few exits: every step here is paid by every tool call.
//!
//! # Not here
//!
//! - Entry code, page tables, faults, the allocator: `osvm-kernel`.
//! - What travels on a stream: `osvm-protocol` and the executor.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod boot;
pub mod virtio;
pub mod vsock;
pub mod words;
