//! Virtio as far as one vsock device needs it: the MMIO transport and split virtqueues.
//!
//! Both forms of the transport are here, modern (version 2) and legacy (version 1), because QEMU's
//! microvm machine still gives legacy devices unless told otherwise.

pub mod mmio;
pub mod ring;
