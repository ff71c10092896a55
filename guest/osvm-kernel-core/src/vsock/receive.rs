//! The receiving half: from packets in receive buffers to bytes for the reader.

use super::packet::{HEADER_LEN, Header, TYPE_STREAM, WIRE_HEADER_LEN, op};
use super::peers::{Peer, Refusal};
use super::{HOST_CID, Platform, RX, RX_BUFFER_LEN, StreamError, Vsock};
use crate::virtio::mmio::Mmio;
use crate::virtio::ring::{SIZE, Used};

/// Buffers given back before the device is told: it still has one then, see [`Vsock::give_back`].
const TELL_AFTER: u16 = SIZE - 1;

/// Data of the served connection that is still in its receive buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// The buffer.
    pub(super) buffer: u16,
    /// Offset of the next byte.
    at: usize,
    /// Bytes left.
    left: usize,
}

/// What becomes of a receive buffer after its packet was looked at.
enum Fate {
    /// The device may have it.
    GiveBack,
    /// It holds data.
    Hold,
}

impl<M: Mmio, P: Platform> Vsock<'_, M, P> {
    /// Takes one packet, if there is one.
    pub(super) fn poll_rx(&mut self) -> bool {
        let Some(used) = self.rx.take() else {
            return false;
        };
        match self.take_packet(used) {
            Fate::GiveBack => self.give_back(used.head),
            Fate::Hold => {}
        }
        true
    }

    /// Reads what is there, or waits for it.
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize, StreamError> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let read = self.read_held(out).or_else(|| self.read_stash(out));
            let Some(served) = &mut self.served else {
                return Err(StreamError::Reset);
            };
            if let Some(read) = read {
                served.note_read(u32::try_from(read).unwrap_or_default());
                if served.owes_update {
                    self.flush();
                }
                return Ok(read);
            }
            if served.is_reset() {
                return Err(StreamError::Reset);
            }
            if served.peer_stopped_sending() {
                return Ok(0);
            }
            self.poll_or_wait();
        }
    }

    fn read_held(&mut self, out: &mut [u8]) -> Option<usize> {
        let held = self.held.as_mut()?;
        let len = held.left.min(out.len());
        self.platform.rx_copy(held.buffer, held.at, out.get_mut(..len)?);
        held.at += len;
        held.left -= len;
        if held.left == 0 {
            let buffer = held.buffer;
            self.held = None;
            self.give_back(buffer);
        }
        Some(len)
    }

    fn read_stash(&mut self, out: &mut [u8]) -> Option<usize> {
        let (first, _) = self.stash.as_slices();
        let len = first.len().min(out.len());
        if len == 0 {
            return None;
        }
        out.get_mut(..len)?.copy_from_slice(first.get(..len)?);
        self.stash.drain(..len);
        Some(len)
    }

    /// Gives a receive buffer back. The device is told only now and then: each time costs an exit,
    /// and it can't run dry before. When it was last told, all buffers but the one in hand were
    /// its own, and fewer than [`TELL_AFTER`] can have come back since without it being told again.
    pub(super) fn give_back(&mut self, buffer: u16) {
        self.rx.offer(buffer);
        self.untold += 1;
        if TELL_AFTER <= self.untold {
            self.untold = 0;
            if self.rx.wants_notification() {
                self.device.notify(RX);
            }
        }
    }

    fn take_packet(&mut self, used: Used) -> Fate {
        let mut bytes = [0; HEADER_LEN];
        self.platform.rx_copy(used.head, 0, &mut bytes);
        let header = Header::from_bytes(&bytes);
        let whole = used.len.min(RX_BUFFER_LEN).checked_sub(header.len);
        let whole = whole.is_some_and(|rest| WIRE_HEADER_LEN <= rest);
        // A packet that is cut short, for someone else or not from the host means nothing here.
        if !whole || header.dst_cid != self.cid || header.src_cid != HOST_CID {
            return Fate::GiveBack;
        }
        let served = self.served.as_mut().filter(|served| {
            header.src_port == served.port() && header.dst_port == self.port && !served.is_reset()
        });
        match served {
            Some(served) if header.kind == TYPE_STREAM => {
                served.learn_credit(&header);
                match header.op {
                    op::RW => return self.take_data(used.head, &header),
                    op::CREDIT_UPDATE => {}
                    op::CREDIT_REQUEST => served.owes_update = true,
                    op::SHUTDOWN => served.note_shutdown(header.flags),
                    op::RST => served.note_reset(),
                    _ => self.send_away(&header),
                }
            }
            _ => self.take_from_stranger(&header),
        }
        Fate::GiveBack
    }

    /// A packet that belongs to no served connection.
    fn take_from_stranger(&mut self, header: &Header) {
        let ours = header.dst_port == self.port && header.kind == TYPE_STREAM;
        let waited = ours && self.backlog.remove(header.src_port);
        let welcome = match header.op {
            // A reset is never answered, or two peers could go on for ever.
            op::RST => true,
            op::REQUEST => ours && !waited && self.backlog.push(Peer::of(header)),
            _ => false,
        };
        if !welcome {
            self.refuse(header);
        }
    }

    fn take_data(&mut self, buffer: u16, header: &Header) -> Fate {
        let Some(served) = &mut self.served else {
            return Fate::GiveBack;
        };
        if served.peer_stopped_sending() || !served.note_received(header.len) {
            self.send_away(header);
            return Fate::GiveBack;
        }
        let left = header.len as usize;
        if left == 0 {
            return Fate::GiveBack;
        }
        if self.held.is_none() && self.stash.is_empty() {
            self.held = Some(Held { buffer, at: HEADER_LEN, left });
            return Fate::Hold;
        }
        self.stash_data(buffer, left);
        Fate::GiveBack
    }

    /// Copies data out of the way, because the reader is not ready for it.
    fn stash_data(&mut self, buffer: u16, mut left: usize) {
        let mut piece = [0; 1024];
        let mut at = HEADER_LEN;
        while left != 0 {
            let len = left.min(piece.len());
            let (now, _) = piece.split_at_mut(len);
            self.platform.rx_copy(buffer, at, now);
            self.stash.extend(&*now);
            at += len;
            left -= len;
        }
    }

    /// Ends the served connection because its peer broke the rules.
    fn send_away(&mut self, header: &Header) {
        if let Some(served) = &mut self.served {
            served.note_reset();
        }
        self.refuse(header);
    }

    fn refuse(&mut self, header: &Header) {
        let (from_port, to_port) = (header.dst_port, header.src_port);
        self.refusals.push(Refusal { from_port, to_port, kind: header.kind });
    }
}
