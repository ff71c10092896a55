//! The virtio-vsock device model in user space.

#[cfg(test)]
extern crate self as osvm_vsock;

mod abuse;
mod chain;
mod connection;
mod credit;
mod device;
pub mod mmio;
mod mux;
mod packet;
#[cfg(test)]
mod tests;

pub use abuse::{Abuse, QueueName};
pub use device::{Device, Event, Peer, Progress, Refusal};
pub use mux::{MAX_CONNECTIONS, PAYLOAD_MAX, WINDOW_MAX, WINDOW_MIN};
