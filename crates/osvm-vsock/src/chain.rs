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
//! - Where a chain may have both, what the device reads stands before what it writes.
//! - Bytes are copied in and out: nothing in guest memory is looked at twice.

use crate::abuse::{Abuse, QueueName};
use crate::packet::HEADER_LEN;
use std::sync::atomic::Ordering;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
struct Segment {
    addr: GuestAddress,
    len: u32,
}

/// The buffers of a chain that go one way.
#[derive(Debug, Default)]
struct Buffers {
    segments: Vec<Segment>,
    len: u64,
}

impl Buffers {
    fn clear(&mut self) {
        self.segments.clear();
        self.len = 0;
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
}

/// The buffers the guest made available under one head. Made once per queue and filled anew for
/// each chain, so that taking one allocates nothing.
#[derive(Debug)]
pub struct Chain {
    queue: QueueName,
    access: Permissions,
    head: u16,
    readable: Buffers,
    writable: Buffers,
}

impl Chain {
    /// An empty chain of a queue whose buffers the device reads, or writes, or reads and then
    /// writes.
    pub fn new(queue: QueueName, access: Permissions) -> Self {
        let (readable, writable) = Default::default();
        Self { queue, access, head: 0, readable, writable }
    }

    /// Takes the next available chain; false when the guest has made none available.
    ///
    /// # Errors
    ///
    /// The ring or the chain is rubbish.
    pub fn next<M: GuestMemory>(&mut self, mem: &M, queue: &mut Queue) -> Result<bool, Abuse> {
        let size = queue.size();
        let mut available = queue.iter(mem).map_err(|error| self.ring_error(&error))?;
        // The iterator takes a head it can't read for the end, but `check` put it in memory.
        let Some(chain) = available.next() else { return Ok(false) };
        self.head = chain.head_index();
        self.readable.clear();
        self.writable.clear();
        let mut follows = Some(self.head);
        for descriptor in chain {
            if usize::from(size) <= self.descriptors() {
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
            Some(_) if usize::from(size) <= self.descriptors() => {
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
        let access = if writable { Permissions::Write } else { Permissions::Read };
        let in_order = writable || self.writable.segments.is_empty();
        if !self.access.allow(access) || !in_order {
            return Err(Abuse::WrongDirection(self.queue));
        }
        let segment = Segment { addr, len };
        if !mem.check_range(addr, len as usize, access) {
            return Err(self.outside(segment));
        }
        let buffers = if writable { &mut self.writable } else { &mut self.readable };
        buffers.segments.push(segment);
        buffers.len = buffers.len.saturating_add(len.into());
        Ok(())
    }

    fn descriptors(&self) -> usize {
        self.readable.segments.len().saturating_add(self.writable.segments.len())
    }

    /// Bytes in all buffers together.
    pub(crate) fn len(&self) -> u64 {
        self.readable.len.saturating_add(self.writable.len)
    }

    /// Bytes the guest gave the device to read.
    pub fn readable_len(&self) -> u64 {
        self.readable.len
    }

    /// Bytes the device may write.
    pub fn writable_len(&self) -> u64 {
        self.writable.len
    }

    /// The buffers for the first `len` bytes the device may write, in order: where each begins,
    /// and its length in bytes.
    pub fn writable(&self, len: u64) -> impl Iterator<Item = (GuestAddress, usize)> {
        let mut left = len;
        self.writable.from(0).map_while(move |segment| {
            let now = left.min(segment.len.into());
            left = left.saturating_sub(now);
            let len = usize::try_from(now).ok().filter(|len| *len != 0)?;
            Some((segment.addr, len))
        })
    }

    /// Bytes behind the packet header.
    pub(crate) fn payload_len(&self) -> Result<u64, Abuse> {
        self.len().checked_sub(HEADER_LEN as u64).ok_or_else(|| self.too_short())
    }

    /// The reason for refusing a chain that has no room for what belongs into it.
    pub fn too_short(&self) -> Abuse {
        Abuse::BufferTooShort { queue: self.queue, len: self.len() }
    }

    /// Copies guest memory at `offset` in what the device may read into `out`. What lies behind
    /// the last buffer stays as it is in `out`.
    ///
    /// # Errors
    ///
    /// A buffer is outside guest memory.
    pub fn read<M: GuestMemory>(
        &self,
        mem: &M,
        offset: u64,
        mut out: &mut [u8],
    ) -> Result<(), Abuse> {
        for segment in self.readable.from(offset) {
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

    /// Copies `bytes` into guest memory at `offset` in what the device may write. What finds no
    /// room is dropped.
    ///
    /// # Errors
    ///
    /// A buffer is outside guest memory.
    pub fn write<M: GuestMemory>(
        &self,
        mem: &M,
        offset: u64,
        mut bytes: &[u8],
    ) -> Result<(), Abuse> {
        for segment in self.writable.from(offset) {
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
    ///
    /// # Errors
    ///
    /// The used ring is outside guest memory, or the head outside the table.
    pub fn give_back<M: GuestMemory>(
        &self,
        mem: &M,
        queue: &mut Queue,
        written: u32,
    ) -> Result<(), Abuse> {
        queue.add_used(mem, self.head, written).map_err(|error| self.ring_error(&error))
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
///
/// # Errors
///
/// They are not.
pub fn check<M: GuestMemory>(mem: &M, queue: &Queue, name: QueueName) -> Result<(), Abuse> {
    if queue.avail_ring() == 0 || !queue.is_valid(mem) {
        return Err(Abuse::RingOutsideMemory(name));
    }
    Ok(())
}

/// Whether the driver wants to hear of `used` buffers that were just given back to it.
///
/// # Errors
///
/// The available ring is outside guest memory.
pub fn wants_interrupt<M: GuestMemory>(
    mem: &M,
    queue: &mut Queue,
    used: u16,
    name: QueueName,
) -> Result<bool, Abuse> {
    let outside = Abuse::RingOutsideMemory(name);
    if used == 0 {
        return Ok(false);
    }
    if queue.event_idx_enabled() {
        return queue.needs_notification(mem).map_err(|_| outside);
    }
    let flags = mem.load(GuestAddress(queue.avail_ring()), Ordering::Relaxed);
    let flags = u16::from_le(flags.map_err(|_| outside)?);
    Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0)
}
