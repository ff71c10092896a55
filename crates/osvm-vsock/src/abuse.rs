//! What a guest can do to its device that no driver does by mistake of timing: it is killed for it.
//!
//! Every message is a short reason for people who read why a guest died. Traffic that is merely
//! pointless (unknown port, unknown operation, foreign address) is answered or dropped instead;
//! see the table in the crate's header.

use std::fmt;
use thiserror::Error;

/// The rings of a device: the three of a vsock device by their index in the transport, and the one
/// of a device that has no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueName {
    /// Host to guest, index 0.
    Rx,
    /// Guest to host, index 1.
    Tx,
    /// Device events, index 2.
    Event,
    /// Requests, where requests are all there is: a block device.
    Requests,
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
            Self::Event => "event",
            Self::Requests => "requests",
        })
    }
}

/// The guest broke the rules of its device. The device must not be used any more; the guest's VMM
/// ends it with this as the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Abuse {
    /// A ring of the queue is not wholly inside guest memory.
    #[error("queue `{0}` lies outside guest memory")]
    RingOutsideMemory(QueueName),
    /// The ring addresses break the alignment of the virtio specification.
    #[error("queue `{0}` is misaligned")]
    RingMisaligned(QueueName),
    /// The size is zero, not a power of two or over the device's maximum.
    #[error("queue `{queue}` has a size of {size}")]
    BadQueueSize {
        /// Which queue.
        queue: QueueName,
        /// What the driver asked for.
        size: u32,
    },
    /// More buffers were made available than the queue has entries.
    #[error("queue `{0}` announces more buffers than it has entries")]
    AvailIndexJump(QueueName),
    /// A chain begins or goes on at an index outside the descriptor table.
    #[error("queue `{queue}` has a descriptor {index} outside its table")]
    DescriptorIndex {
        /// Which queue.
        queue: QueueName,
        /// The index.
        index: u16,
    },
    /// A chain has more descriptors than the queue has entries, so it loops or may as well.
    #[error("queue `{0}` has an endless descriptor chain")]
    EndlessChain(QueueName),
    /// A chain ends before its last descriptor says so: over 4 GiB in all, or a bad indirect table.
    #[error("queue `{0}` has a broken descriptor chain")]
    BrokenChain(QueueName),
    /// A buffer is not wholly inside guest memory.
    #[error("queue `{queue}` has a buffer of {len} bytes at {addr:#x}, outside guest memory")]
    BufferOutsideMemory {
        /// Which queue.
        queue: QueueName,
        /// Guest-physical address of the buffer.
        addr: u64,
        /// Its length in bytes.
        len: u32,
    },
    /// A buffer the device must read is write-only, or the other way round.
    #[error("queue `{0}` has a buffer of the wrong direction")]
    WrongDirection(QueueName),
    /// A chain is too short for the header, the event or the answer that belongs into it.
    #[error("queue `{queue}` has a buffer of {len} bytes, too short for a header")]
    BufferTooShort {
        /// Which queue.
        queue: QueueName,
        /// Bytes in the whole chain.
        len: u64,
    },
    /// A packet announces more payload than its buffers hold.
    #[error("packet announces {announced} bytes but holds {held}")]
    PacketTruncated {
        /// The `len` of the packet header.
        announced: u32,
        /// Bytes behind the header.
        held: u64,
    },
    /// The guest sent more than the device had room for and had said so.
    #[error("packet of {len} bytes exceeds the {credit} bytes of credit")]
    OverCredit {
        /// Payload bytes of the packet.
        len: u32,
        /// Bytes the guest was still allowed to send.
        credit: u32,
    },
}
