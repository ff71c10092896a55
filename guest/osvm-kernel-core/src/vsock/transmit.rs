//! The sending half: data within the peer's window, and the small packets that are owed.
//!
//! One packet is with the device at a time. It is offered as a chain of header and payload, and
//! the payload is the caller's own memory.

use super::packet::{Header, TYPE_STREAM, WIRE_HEADER_LEN, op};
use super::served::{self, Served};
use super::{HOST_CID, Platform, RX_BUFFER_LEN, StreamError, TX, Vsock};
use crate::virtio::mmio::Mmio;
use crate::virtio::ring::{Buffer, address_of};

/// Longest payload of one packet in bytes, as Linux limits it.
const MAX_PAYLOAD: u32 = RX_BUFFER_LEN;

impl<M: Mmio, P: Platform> Vsock<'_, M, P> {
    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), StreamError> {
        let mut asked = false;
        while !bytes.is_empty() {
            self.drain();
            let (cid, port) = (self.cid, self.port);
            let served = self.served.as_mut().filter(|served| !served.is_reset());
            let served = served.ok_or(StreamError::Reset)?;
            if served.peer_stopped_receiving() {
                return Err(StreamError::PeerStoppedReceiving);
            }
            let len = served.window().min(MAX_PAYLOAD);
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(len);
            if len == 0 {
                // The peer tells of a new window by itself, but only asking makes sure of it.
                if !asked {
                    let header = header_for(served, cid, port, op::CREDIT_REQUEST);
                    self.send(&header, &[]);
                }
                asked = true;
                self.poll_or_wait();
                continue;
            }
            asked = false;
            let (now, rest) = bytes.split_at_checked(len as usize).unwrap_or((bytes, &[]));
            served.note_sent(len);
            let header = Header { len, ..header_for(served, cid, port, op::RW) };
            self.send(&header, now);
            bytes = rest;
        }
        self.drain();
        Ok(())
    }

    /// Sends what is owed, as far as the device takes it now.
    pub(super) fn flush(&mut self) {
        let (cid, port) = (self.cid, self.port);
        while self.tx_is_idle() {
            let owed = self.served.as_mut().and_then(|served| {
                if served.owes_response {
                    served.owes_response = false;
                    Some(header_for(served, cid, port, op::RESPONSE))
                } else if served.owes_update {
                    Some(header_for(served, cid, port, op::CREDIT_UPDATE))
                } else {
                    None
                }
            });
            let Some(header) = owed.or_else(|| self.next_refusal()) else {
                return;
            };
            self.send(&header, &[]);
        }
    }

    /// Waits until the device has taken the packet it was given.
    pub(super) fn drain(&mut self) {
        while !self.tx_is_idle() {
            self.poll_or_wait();
        }
    }

    /// Hands one packet to the device, which must be idle.
    pub(super) fn send(&mut self, header: &Header, payload: &[u8]) {
        self.shared.header.store(header);
        let address = if payload.is_empty() { 0 } else { self.platform.lend(payload) };
        self.tx.describe_readable(
            Buffer { address: address_of(&self.shared.header), len: WIRE_HEADER_LEN },
            Buffer { address, len: header.len },
        );
        self.tx.offer(0);
        if self.tx.wants_notification() {
            self.device.notify(TX);
        }
    }

    fn tx_is_idle(&mut self) -> bool {
        while self.tx.take().is_some() {}
        self.tx.is_idle()
    }

    fn next_refusal(&mut self) -> Option<Header> {
        let refusal = self.refusals.pop()?;
        Some(Header {
            src_cid: self.cid,
            dst_cid: HOST_CID,
            src_port: refusal.from_port,
            dst_port: refusal.to_port,
            kind: refusal.kind,
            op: op::RST,
            ..Header::default()
        })
    }
}

/// The header of a packet without payload for the served connection.
pub(super) fn header_for(served: &mut Served, cid: u64, port: u32, op: u16) -> Header {
    Header {
        src_cid: cid,
        dst_cid: HOST_CID,
        src_port: port,
        dst_port: served.port(),
        len: 0,
        kind: TYPE_STREAM,
        op,
        flags: 0,
        buf_alloc: served::BUF_ALLOC,
        fwd_cnt: served.tell_read(),
    }
}
