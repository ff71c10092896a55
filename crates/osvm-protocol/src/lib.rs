//! What host and guest agree on, and nothing else.
//!
//! ```text
//! host ──── frame( JSON-RPC request, server_id ) ───▶ guest    port 5252
//! host ◀─── frame( host/… request )              ──── guest    while the tool works
//! host ───▶ frame( answer to host/… )            ───▶ guest
//! host ◀─── frame( result or error )             ──── guest
//! ```
//!
//! # Invariants
//!
//! - Decoding treats the peer as hostile: it is total, never panics and refuses a
//!   length before it waits for the bytes.
//! - Both sides build this crate apart, so a peer may be older or newer. New abilities are
//!   new methods or new optional members; unknown members are ignored.
//! - `no_std` with `alloc`: the same code runs in a unikernel and on the host.
//!
//! # Not here
//!
//! - I/O of any kind, deadlines, retries.
//! - MCP. The gateway translates between MCP and this wire.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod boot;
pub mod cid;
pub mod code;
pub mod frame;
pub mod info;
pub mod linux;
pub mod message;
pub mod note;
pub mod tool;

pub use cid::Cid;

/// The vsock port on which every osvm guest answers.
pub const PORT: u32 = 5252;

/// Version of this wire, written into every image and answered by `osvm/info`.
///
/// It changes only when an old peer could no longer ignore what is new.
pub const PROTOCOL_VERSION: u32 = 1;
