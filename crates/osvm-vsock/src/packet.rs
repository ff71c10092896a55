//! The header in front of every vsock packet, as virtio 1.2, section 5.10.6 lays it out.
//!
//! Own code, because a header may come in any number of buffers, and the crate `virtio-vsock`
//! wants it in one, with the payload in at most one more.

/// Bytes of a packet header.
pub(crate) const HEADER_LEN: usize = 44;
/// The same, where rings count in it.
pub(crate) const HEADER_BYTES: u32 = 44;

/// The only socket type this device has.
pub(crate) const TYPE_STREAM: u16 = 1;

/// Packet operations.
pub(crate) mod op {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RST: u16 = 3;
    pub(crate) const SHUTDOWN: u16 = 4;
    pub(crate) const RW: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// `flags` of a SHUTDOWN: its sender will receive no more.
pub(crate) const SHUTDOWN_RCV: u32 = 1;
/// `flags` of a SHUTDOWN: its sender will send no more.
pub(crate) const SHUTDOWN_SEND: u32 = 2;
/// Both of the above: the connection is over.
pub(crate) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RCV | SHUTDOWN_SEND;

/// A packet header. Every bit pattern is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src_cid: u64,
    pub(crate) dst_cid: u64,
    pub(crate) src_port: u32,
    pub(crate) dst_port: u32,
    pub(crate) len: u32,
    pub(crate) socket_type: u16,
    pub(crate) op: u16,
    pub(crate) flags: u32,
    pub(crate) buf_alloc: u32,
    pub(crate) fwd_cnt: u32,
}

impl Header {
    pub(crate) fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut rest = bytes.as_slice();
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            socket_type: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut rest = bytes.as_mut_slice();
        put(&mut rest, self.src_cid.to_le_bytes());
        put(&mut rest, self.dst_cid.to_le_bytes());
        put(&mut rest, self.src_port.to_le_bytes());
        put(&mut rest, self.dst_port.to_le_bytes());
        put(&mut rest, self.len.to_le_bytes());
        put(&mut rest, self.socket_type.to_le_bytes());
        put(&mut rest, self.op.to_le_bytes());
        put(&mut rest, self.flags.to_le_bytes());
        put(&mut rest, self.buf_alloc.to_le_bytes());
        put(&mut rest, self.fwd_cnt.to_le_bytes());
        bytes
    }
}

/// Takes the first `N` bytes off `rest`; past its end there are zeroes.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((head, tail)) = rest.split_first_chunk() else { return [0; N] };
    *rest = tail;
    *head
}

/// Puts `value` at the front of `rest` and leaves what follows; past its end it is dropped.
fn put<const N: usize>(rest: &mut &mut [u8], value: [u8; N]) {
    if let Some((head, tail)) = std::mem::take(rest).split_first_chunk_mut() {
        *head = value;
        *rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_stand_where_virtio_puts_them() {
        let header = Header {
            src_cid: 0x0102_0304_0506_0708,
            dst_cid: 2,
            src_port: 3,
            dst_port: 5252,
            len: 5,
            socket_type: TYPE_STREAM,
            op: op::RW,
            flags: 8,
            buf_alloc: 9,
            fwd_cnt: 0xa0b0_c0d0,
        };
        let bytes = header.encode();
        assert_eq!(bytes[..9], [8, 7, 6, 5, 4, 3, 2, 1, 2]);
        assert_eq!(bytes[20..32], [0x84, 0x14, 0, 0, 5, 0, 0, 0, 1, 0, 5, 0]);
        assert_eq!(bytes[40..], [0xd0, 0xc0, 0xb0, 0xa0]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_and_come_back_the_same(bytes: [u8; 32], tail: [u8; 12]) {
            let mut raw = [0; HEADER_LEN];
            raw[..32].copy_from_slice(&bytes);
            raw[32..].copy_from_slice(&tail);
            prop_assert_eq!(Header::decode(&raw).encode(), raw);
        }
    }
}
