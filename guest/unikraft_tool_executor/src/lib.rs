//! The tools of osvm and the JSON-RPC server that answers for them inside a guest.
//!
//! ```text
//! host ── frame(request) ──▶ serve ──▶ tool(arguments, context) ──▶ frame(answer) ──▶ host
//!                                        └─ host/… requests, on the same stream
//! ```
//!
//! One source, two forms: this `no_std` library is linked into osvm's own kernel, and the program
//! of the same name (feature `std`) serves the same tools on Linux and on Unikraft.
//!
//! # Invariants
//!
//! - Bytes from the host are hostile: no length is believed before it is checked, nothing panics,
//!   recursion is bounded by `serde_json`'s limit of 128 levels.
//! - A tool is declared in one place, a constant of type `Tool`. The manifest and the dispatch
//!   table are both made from it.
//! - A tool holds no state between two calls.
//!
//! # Not here
//!
//! - Deadlines. Whoever booted the guest ends it.
//! - Devices, memory, the boot page. The platform hands over a [`Stream`] and its [`Facts`].
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod answer;
mod context;
mod http;
mod json;
mod rpc;
mod server;
mod solana;
mod stream;
mod tool;
mod tools;
mod wire;

pub use server::serve;
pub use stream::Stream;
pub use tools::manifest_json;

use alloc::borrow::Cow;

/// What the platform knows about the guest it runs in.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Memory the guest has, in bytes.
    pub memory_bytes: u64,
    /// The virtio devices the guest found.
    pub devices: &'a [Device],
    /// The command line the guest was booted with.
    pub command_line: &'a str,
    /// Name of the image.
    pub name: &'a str,
    /// Build id of the image, as in its note.
    pub build: &'a str,
    /// Environment variables for the tools, name and value.
    pub env: &'a [(Cow<'a, str>, Cow<'a, str>)],
    /// What runs the tools: `osvm-kernel` or `linux`.
    pub platform: &'static str,
}

/// A virtio device of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Guest-physical address of its registers; 0 when the platform does not say.
    pub address: u64,
    /// Device id of the virtio specification, section 5; 19 is a socket device.
    pub kind: u32,
}
