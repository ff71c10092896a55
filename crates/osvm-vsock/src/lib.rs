//! The virtio-vsock device model in user space.

mod abuse;
mod device;
pub mod mmio;

pub use abuse::{Abuse, QueueName};
pub use device::{Device, Event, Peer, Progress, Refusal};
