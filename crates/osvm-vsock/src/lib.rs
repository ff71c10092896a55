//! The virtio-vsock device in user space: streams between a guest and sockets of the host.
//!
//! ```text
//!  guest                     device                                host
//!  driver ──▶ tx ring ──▶ process_tx ──▶ connection ──send──▶ socket ──▶ osvm
//!  driver ◀── rx ring ◀── process_rx ◀── connection ◀──recv── socket ◀── osvm
//!                                             ▲                  │
//!                                        service_host ◀──epoll───┘
//! ```
//!
//! The device knows neither a hypervisor nor a transport: it is given guest memory and queues of
//! the rust-vmm crates, and one end of a stream socket for each connection. [`mmio::Vsock`] puts
//! virtio-mmio registers in front of it, for a VMM that handles the guest's loads and stores
//! itself. [`mmio::Registers`] and [`chain::Chain`] know nothing of vsock: the VMM's other devices
//! use them too.
//!
//! # How packets flow
//!
//! - **Host connects**: [`Device::connect`] takes a socket, and a REQUEST goes out with the first
//!   rx buffer. The guest's RESPONSE opens the connection. Its RST refuses it.
//! - **Guest to host**: [`Device::process_tx`] copies a payload and writes it to the socket in the
//!   same call. What the socket doesn't take waits in the connection, within the window that the
//!   guest was given, and goes out when [`Device::service_host`] finds the socket writable.
//! - **Host to guest**: [`Device::process_rx`] reads the socket only when it holds an rx buffer and
//!   the guest's window is open, and puts the bytes into that buffer. So what a guest doesn't take
//!   stays in the socket, and its writer waits.
//! - **Credit**: every packet to the guest carries the count of bytes forwarded. A CREDIT_UPDATE
//!   goes out only when the guest may be short of room; a closed window is answered with one
//!   CREDIT_REQUEST. See `credit` for the arithmetic.
//! - **End**: SHUTDOWN and `shutdown(2)` are each other's image, in each direction apart. When the
//!   guest has said both, an RST confirms it after the last byte is with the host.
//! - **One exit**: a notification that brings a RESPONSE also takes away what the host has written
//!   already; a request that waits goes out with the notification that makes room for it.
//!
//! # What a guest may do wrong
//!
//! | the guest | the device |
//! |---|---|
//! | uses a foreign source or destination address | drops the packet |
//! | sends to a connection that is not there, or of another socket type | answers RST |
//! | sends an unknown operation, or one out of place | ends the connection with RST |
//! | connects to a port nobody listens on, or beyond [`MAX_CONNECTIONS`] | answers RST |
//! | lies about its own window | sends no more than it says, or nothing |
//! | takes nothing | reads no more from the host, keeps one bit per kind of answer |
//! | sends more than its credit | [`Abuse`]: the VMM ends the guest |
//! | writes rubbish into its rings, descriptors or packet lengths | [`Abuse`] |
//!
//! # Invariants
//!
//! - No byte sequence in guest memory and no order of events makes the device panic, loop, touch
//!   anything outside guest memory, block, or hold more than its bounds: see [`WINDOW_MAX`],
//!   [`MAX_CONNECTIONS`].
//! - A guest that follows virtio is never ended, and never waits for credit it has earned.
//!
//! # Not here
//!
//! - Threads, timers and deadlines. The owner calls when something happened.
//! - What the bytes mean, and who may connect where.
//! - SEQPACKET and datagram sockets, which are not offered.

#[cfg(test)]
extern crate self as osvm_vsock;

mod abuse;
pub mod chain;
mod connection;
mod credit;
mod device;
#[doc(hidden)]
pub mod exercise;
pub mod mmio;
mod mux;
mod packet;
#[cfg(test)]
mod tests;

pub use abuse::{Abuse, QueueName};
pub use device::{Device, Event, Peer, Progress, Refusal};
pub use mux::{MAX_CONNECTIONS, PAYLOAD_MAX, WINDOW_MAX, WINDOW_MIN};
