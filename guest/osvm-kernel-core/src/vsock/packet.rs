//! The header of every vsock packet, as bytes and as words of shared memory.
//!
//! Layout and numbers: VIRTIO 1.2, section 5.10.6.

use core::sync::atomic::{AtomicU32, Ordering};

/// Length of a header in bytes, in the type of lengths on the wire.
pub const WIRE_HEADER_LEN: u32 = 44;
/// Length of a header in bytes.
pub const HEADER_LEN: usize = WIRE_HEADER_LEN as usize;

/// The only kind of socket spoken here.
pub const TYPE_STREAM: u16 = 1;

/// What a packet is for.
pub mod op {
    /// Asks for a connection.
    pub const REQUEST: u16 = 1;
    /// Accepts one.
    pub const RESPONSE: u16 = 2;
    /// Ends one at once, or refuses it.
    pub const RST: u16 = 3;
    /// Says which directions are finished.
    pub const SHUTDOWN: u16 = 4;
    /// Carries data.
    pub const RW: u16 = 5;
    /// Tells how much the sender can take.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks for a [`CREDIT_UPDATE`].
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of a [`op::SHUTDOWN`] packet.
pub mod shutdown {
    /// The sender will receive nothing more.
    pub const RECEIVE: u32 = 1;
    /// The sender will send nothing more.
    pub const SEND: u32 = 2;
    /// Both.
    pub const BOTH: u32 = RECEIVE | SEND;
}

/// A packet's header. Any value is one; what it means is for the connection to judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Address of the sender.
    pub src_cid: u64,
    /// Address of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of payload that follow.
    pub len: u32,
    /// Kind of socket.
    pub kind: u16,
    /// One of [`op`].
    pub op: u16,
    /// Depends on `op`.
    pub flags: u32,
    /// Bytes the sender can hold for this connection.
    pub buf_alloc: u32,
    /// Bytes the sender has taken out of its buffer so far, modulo 2³².
    pub fwd_cnt: u32,
}

impl Header {
    /// Reads a header.
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        let (words, _) = bytes.as_chunks();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        let mut word = || words.next().unwrap_or_default();
        let mut long = || u64::from(word()) | u64::from(word()) << 32;
        let (src_cid, dst_cid) = (long(), long());
        let (src_port, dst_port, len) = (word(), word(), word());
        let (kind, op) = halves(word());
        let (flags, buf_alloc, fwd_cnt) = (word(), word(), word());
        Self { src_cid, dst_cid, src_port, dst_port, len, kind, op, flags, buf_alloc, fwd_cnt }
    }
}

/// Lower and upper half of `word`.
#[expect(clippy::cast_possible_truncation, reason = "both halves are returned")]
fn halves(word: u32) -> (u16, u16) {
    (word as u16, (word >> 16) as u16)
}

/// A header in memory that the device reads.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SharedHeader {
    words: [AtomicU32; HEADER_LEN / 4],
}

impl SharedHeader {
    /// A header of zeros.
    pub const fn new() -> Self {
        Self { words: [const { AtomicU32::new(0) }; HEADER_LEN / 4] }
    }

    /// Replaces the contents.
    pub fn store(&self, header: &Header) {
        let [src_low, src_high] = split(header.src_cid);
        let [dst_low, dst_high] = split(header.dst_cid);
        let kind_and_op = u32::from(header.kind) | u32::from(header.op) << 16;
        let words = [
            src_low,
            src_high,
            dst_low,
            dst_high,
            header.src_port,
            header.dst_port,
            header.len,
            kind_and_op,
            header.flags,
            header.buf_alloc,
            header.fwd_cnt,
        ];
        for (to, from) in self.words.iter().zip(words) {
            to.store(from.to_le(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
impl SharedHeader {
    /// The contents, as the device sees them.
    pub(crate) fn bytes(&self) -> [u8; HEADER_LEN] {
        let words = self.words.each_ref().map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(words.as_flattened());
        bytes
    }
}

/// Lower and upper half of `long`.
#[expect(clippy::cast_possible_truncation, reason = "both halves are returned")]
fn split(long: u64) -> [u32; 2] {
    [long as u32, (long >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        src_cid: 0x0102_0304_0506_0708,
        dst_cid: 0x1112_1314_1516_1718,
        src_port: 0x2122_2324,
        dst_port: 0x3132_3334,
        len: 0x4142_4344,
        kind: 0x5152,
        op: 0x6162,
        flags: 0x7172_7374,
        buf_alloc: 0x8182_8384,
        fwd_cnt: 0x9192_9394,
    };

    /// The bytes of [`HEADER`], written down from the table in the specification.
    const BYTES: [u8; HEADER_LEN] = [
        0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12,
        0x11, 0x24, 0x23, 0x22, 0x21, 0x34, 0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41, 0x52, 0x51,
        0x62, 0x61, 0x74, 0x73, 0x72, 0x71, 0x84, 0x83, 0x82, 0x81, 0x94, 0x93, 0x92, 0x91,
    ];

    #[test]
    fn reading_follows_the_layout_of_the_specification() {
        assert_eq!(Header::from_bytes(&BYTES), HEADER);
    }

    #[test]
    fn writing_follows_the_layout_of_the_specification() {
        let shared = SharedHeader::new();
        shared.store(&HEADER);
        assert_eq!(shared.bytes(), BYTES);
    }
}
