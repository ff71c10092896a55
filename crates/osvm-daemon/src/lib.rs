//! The daemon that keeps unused VMs ready, and how others ask it for calls.
//!
//! ```text
//! CLI, gateway, batch ── daemon.sock ──▶ one thread a client ──▶ Runtime::answer ──▶ pool
//!                                          │        ▲ answer
//!           hang-up watch ── cancels ──────┘        └── remains ──▶ undertakers destroy the VM
//! ```
//!
//! # Invariants
//!
//! - Only the user who runs the daemon gets an answer: the socket has mode 0600 in a directory of
//!   mode 0700, and the kernel says who is on the other side.
//! - One daemon for each runtime directory: it holds a lock for as long as it lives, so a socket
//!   without one is left over and is replaced.
//! - A client that hangs up has its call cancelled and the VM destroyed.
//! - Ending leaves nothing: no VM, no socket. Being killed leaves no VM either, because VM
//!   processes die with whoever started them.
//! - What clients send is bounded before it is kept, and read with a deadline once it begins.
//!
//! # Not here
//!
//! - Signals, flags, the terminal, starting a daemon on demand: the binary's.
//! - How a call runs: `osvm-runtime`. This crate hands it over and tells what came of it.

pub mod client;
mod clients;
mod door;
pub mod message;
mod server;
mod service;
mod status;
mod undertaker;
mod wire;

pub use client::{Client, ClientError};
pub use door::{Door, DoorError, LOCK, SOCKET};
pub use server::{Options, ServeError, Stopper, serve};
pub use service::{Elsewhere, Host};
pub use status::{CallCounts, DaemonStatus, VmStatus};
