//! Descriptor chains of a hostile guest, made safe to use.
//!
//! `virtio-queue` walks rings and chains and never leaves guest memory, but ends a bad chain as if
//! it were a short one. [`Chain::next`] tells the two apart, so that rubbish is named and not
//! half-served.
//!
//! # Invariants
//!
//! - A chain has at most as many descriptors as its queue has entries, also through an indirect
//!   table, so a walk ends.
//! - Every buffer of a chain has been inside guest memory and of the right direction when it was
//!   taken. Reads and writes check again, so memory that goes away is an error too.
//! - Bytes are copied in and out: nothing in guest memory is looked at twice.

use crate::abuse::{Abuse, QueueName};
use crate::packet::HEADER_LEN;
use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
struct Segment {
    addr: GuestAddress,
    len: u32,
}

/// The buffers the guest made available under one head. Made once per queue and filled anew for
/// each chain, so that taking one allocates nothing.
#[derive(Debug)]
pub(crate) struct Chain {
    queue: QueueName,
    access: Permissions,
    head: u16,
    segments: Vec<Segment>,
    len: u64,
}

impl Chain {
    /// An empty chain of a queue whose buffers the device reads, or writes.
    pub(crate) fn new(queue: QueueName, access: Permissions) -> Self {
        Self { queue, access, head: 0, segments: Vec::new(), len: 0 }
    }

    /// Takes the next available chain; false when the guest has made none available.
    pub(crate) fn next<M: GuestMemory>(
        &mut self,
        mem: &M,
        queue: &mut Queue,
    ) -> Result<bool, Abuse> {
        let size = queue.size();
        let mut available = queue.iter(mem).map_err(|error| self.ring_error(&error))?;
        // The iterator takes a head it can't read for the end, but `check` put it in memory.
        let Some(chain) = available.next() else { return Ok(false) };
        self.head = chain.head_index();
        self.segments.clear();
        self.len = 0;
        let mut follows = Some(self.head);
        for descriptor in chain {
            if usize::from(size) <= self.segments.len() {
                return Err(Abuse::EndlessChain(self.queue));
            }
            self.push(mem, descriptor.addr(), descriptor.len(), descriptor.is_write_only())?;
            follows = descriptor.has_next().then_some(descriptor.next());
        }
        match follows {
            None => Ok(true),
            Some(index) if size <= index => {
                Err(Abuse::DescriptorIndex { queue: self.queue, index })
            }
            Some(_) if usize::from(size) <= self.segments.len() => {
                Err(Abuse::EndlessChain(self.queue))
            }
            Some(_) => Err(Abuse::BrokenChain(self.queue)),
        }
    }

    fn push<M: GuestMemory>(
        &mut self,
        mem: &M,
        addr: GuestAddress,
        len: u32,
        writable: bool,
    ) -> Result<(), Abuse> {
        if writable != self.access.has_write() {
            return Err(Abuse::WrongDirection(self.queue));
        }
        let segment = Segment { addr, len };
        if !mem.check_range(addr, len as usize, self.access) {
            return Err(self.outside(segment));
        }
        self.segments.push(segment);
        self.len = self.len.saturating_add(len.into());
        Ok(())
    }

    /// Bytes in all buffers together.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes behind the packet header.
    pub(crate) fn payload_len(&self) -> Result<u64, Abuse> {
        self.len.checked_sub(HEADER_LEN as u64).ok_or_else(|| self.too_short())
    }

    /// The reason for refusing a chain that has no room for what belongs into it.
    pub(crate) fn too_short(&self) -> Abuse {
        Abuse::BufferTooShort { queue: self.queue, len: self.len }
    }

    /// Copies guest memory at `offset` in the chain into `out`.
    pub(crate) fn read<M: GuestMemory>(
        &self,
        mem: &M,
        offset: u64,
        mut out: &mut [u8],
    ) -> Result<(), Abuse> {
        for segment in self.from(offset) {
            let len = out.len().min(segment.len as usize);
            let (now, later) = out.split_at_mut(len);
            mem.read_slice(now, segment.addr).map_err(|_| self.outside(segment))?;
            out = later;
            if out.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Copies `bytes` into guest memory at `offset` in the chain.
    pub(crate) fn write<M: GuestMemory>(
        &self,
        mem: &M,
        offset: u64,
        mut bytes: &[u8],
    ) -> Result<(), Abuse> {
        for segment in self.from(offset) {
            let len = bytes.len().min(segment.len as usize);
            let (now, later) = bytes.split_at(len);
            mem.write_slice(now, segment.addr).map_err(|_| self.outside(segment))?;
            bytes = later;
            if bytes.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Gives the buffers back to the guest, with `written` bytes in them.
    pub(crate) fn give_back<M: GuestMemory>(
        &self,
        mem: &M,
        queue: &mut Queue,
        written: u32,
    ) -> Result<(), Abuse> {
        queue.add_used(mem, self.head, written).map_err(|error| self.ring_error(&error))
    }

    /// The buffers from `offset` on.
    fn from(&self, offset: u64) -> impl Iterator<Item = Segment> {
        let mut skip = offset;
        self.segments.iter().filter_map(move |segment| {
            let skipped = u32::try_from(skip).unwrap_or(u32::MAX).min(segment.len);
            skip = skip.saturating_sub(skipped.into());
            let addr = GuestAddress(segment.addr.0.saturating_add(skipped.into()));
            let len = segment.len.saturating_sub(skipped);
            (len != 0).then_some(Segment { addr, len })
        })
    }

    fn outside(&self, segment: Segment) -> Abuse {
        let Segment { addr, len } = segment;
        Abuse::BufferOutsideMemory { queue: self.queue, addr: addr.0, len }
    }

    fn ring_error(&self, error: &Error) -> Abuse {
        match error {
            Error::InvalidAvailRingIndex => Abuse::AvailIndexJump(self.queue),
            Error::InvalidDescriptorIndex => {
                Abuse::DescriptorIndex { queue: self.queue, index: self.head }
            }
            _ => Abuse::RingOutsideMemory(self.queue),
        }
    }
}

/// Whether all three rings of a queue are inside guest memory.
pub(crate) fn check<M: GuestMemory>(mem: &M, queue: &Queue, name: QueueName) -> Result<(), Abuse> {
    if queue.avail_ring() == 0 || !queue.is_valid(mem) {
        return Err(Abuse::RingOutsideMemory(name));
    }
    Ok(())
}
