//! The back end of QEMU's `vhost-user-vsock-device`: QEMU says where the rings are, we hold them.
//!
//! ```text
//! guest ── rings in shared memory ──▶ Rings ──▶ osvm_vsock::Device
//!   │ notify                            ▲
//!   ▼                                   │ SET_MEM_TABLE, SET_VRING_…, kick and call descriptors
//! QEMU ────────── vhost-user socket ────┘
//! ```
//!
//! # Invariants
//!
//! - QEMU may have fallen to its guest, so its messages are hostile. The memory it names must be
//!   the sealed memory file that osvm made: a file that can't shrink can't fault osvm.
//! - A ring is handed out only while it is started, enabled and lies inside that memory.
//!
//! # Not here
//!
//! - The messages' format: crate `vhost`. What goes through the rings: `osvm-vsock`.
//! - When the rings are looked at: [`crate::service`].

use osvm_vsock::QueueName;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstat};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// Virtio features of the device. Streams are implied; other socket types are not offered.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// Protocol features: answers to every message, and the configuration space, which holds the CID.
const PROTOCOL: VhostUserProtocolFeatures =
    VhostUserProtocolFeatures::REPLY_ACK.union(VhostUserProtocolFeatures::CONFIG);

/// Most entries a ring may have; QEMU's vsock device uses 128.
const QUEUE_SIZE_MAX: u16 = 1024;

/// The rings QEMU hands over. It keeps the third, the event queue, to itself.
const QUEUES: [QueueName; 2] = [QueueName::Rx, QueueName::Tx];

/// One ring and the descriptors around it.
#[derive(Debug)]
struct Ring {
    queue: Queue,
    kick: Option<File>,
    call: Option<File>,
    enabled: bool,
}

impl Ring {
    fn new() -> io::Result<Self> {
        let queue = Queue::new(QUEUE_SIZE_MAX).map_err(io::Error::other)?;
        Ok(Self { queue, kick: None, call: None, enabled: false })
    }
}

/// One part of guest memory and where QEMU has it.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    qemu: u64,
    guest: u64,
    len: u64,
}

/// The guest's rings, as far as QEMU has described them.
#[derive(Debug)]
pub(crate) struct Rings {
    memory_file: OwnedFd,
    config: [u8; 8],
    memory: GuestMemoryMmap,
    mappings: Vec<Mapping>,
    rings: [Ring; QUEUES.len()],
}

impl Rings {
    /// Rings in `memory_file`, the sealed file that QEMU was given as guest memory, of a device
    /// with the configuration space `config`.
    pub(crate) fn new(memory_file: OwnedFd, config: [u8; 8]) -> io::Result<Self> {
        let rings = [Ring::new()?, Ring::new()?];
        let memory = GuestMemoryMmap::new();
        Ok(Self { memory_file, config, memory, mappings: Vec::new(), rings })
    }

    /// Guest memory and the ring `name`, when it may be used.
    pub(crate) fn queue(&mut self, name: QueueName) -> Option<(&GuestMemoryMmap, &mut Queue)> {
        let ring = self.rings.iter_mut().zip(QUEUES).find(|(_, of)| *of == name)?.0;
        let usable = ring.enabled && ring.queue.is_valid(&self.memory);
        usable.then_some((&self.memory, &mut ring.queue))
    }

    /// The descriptors that become readable when the guest has put something into a ring.
    pub(crate) fn kicks(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.rings.iter().filter_map(|ring| ring.kick.as_ref().map(AsFd::as_fd))
    }

    /// Takes back the guest's notifications, so that only new ones wake the service.
    pub(crate) fn clear_kicks(&self) {
        for kick in self.kicks() {
            // An eventfd that was not readable says EAGAIN, and that is as good.
            let _count = rustix::io::read(kick, &mut [0; 8]);
        }
    }

    /// Interrupts the guest because of the ring `name`.
    pub(crate) fn interrupt(&self, name: QueueName) {
        let ring = self.rings.iter().zip(QUEUES).find(|(_, of)| *of == name);
        if let Some(call) = ring.and_then(|(ring, _)| ring.call.as_ref()) {
            // A full counter is an interrupt that is pending already.
            let _pending = rustix::io::write(call, &1_u64.to_ne_bytes());
        }
    }

    fn ring(&mut self, index: impl TryInto<usize>) -> Result<&mut Ring> {
        let index = index.try_into().map_err(|_| Error::InvalidParam)?;
        self.rings.get_mut(index).ok_or(Error::InvalidParam)
    }

    fn guest_address(&self, qemu: u64) -> Result<GuestAddress> {
        let of = |mapping: &Mapping| {
            let offset = qemu.checked_sub(mapping.qemu).filter(|offset| *offset < mapping.len)?;
            mapping.guest.checked_add(offset)
        };
        self.mappings.iter().find_map(of).map(GuestAddress).ok_or(Error::InvalidParam)
    }

    /// Whether `file` is the guest's memory and holds what `region` says.
    fn check_region(&self, region: &VhostUserMemoryRegion, file: &File) -> io::Result<()> {
        let ours = fstat(&self.memory_file)?;
        let named = fstat(file)?;
        let end = region.mmap_offset.checked_add(region.memory_size);
        let inside = end.is_some_and(|end| i64::try_from(end).is_ok_and(|end| end <= ours.st_size));
        if (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino) && inside {
            Ok(())
        } else {
            Err(io::Error::other("the memory is not what osvm gave the guest"))
        }
    }
}

/// A descriptor from QEMU that can't make osvm wait.
fn nonblocking(file: File) -> Result<File> {
    let flags = fcntl_getfl(&file).map_err(|error| Error::ReqHandlerError(error.into()))?;
    fcntl_setfl(&file, flags | OFlags::NONBLOCK)
        .map_err(|error| Error::ReqHandlerError(error.into()))?;
    Ok(file)
}

/// QEMU asks for something that osvm never offered.
fn not_offered<T>() -> Result<T> {
    Err(Error::InvalidOperation("not offered"))
}

impl VhostUserBackendReqHandlerMut for Rings {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        for ring in &mut self.rings {
            ring.queue.reset();
            ring.enabled = false;
        }
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !FEATURES != 0 {
            return Err(Error::InvalidParam);
        }
        // Without the protocol features there is no SET_VRING_ENABLE: rings start enabled.
        if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            self.rings.iter_mut().for_each(|ring| ring.enabled = true);
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        if postcopy_listening.is_some() {
            return not_offered();
        }
        let mut mapped = Vec::new();
        let mut mappings = Vec::new();
        for (region, file) in regions.iter().zip(files) {
            self.check_region(region, &file).map_err(Error::ReqHandlerError)?;
            let guest = region.guest_phys_addr;
            let len = region.memory_size;
            let region_mmap = GuestRegionMmap::new(region.mmap_region(file)?, GuestAddress(guest));
            mapped.push(region_mmap.ok_or(Error::InvalidParam)?);
            mappings.push(Mapping { qemu: region.user_addr, guest, len });
        }
        let memory = GuestMemoryMmap::from_regions(mapped);
        self.memory = memory.map_err(|error| Error::ReqHandlerError(io::Error::other(error)))?;
        self.mappings = mappings;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).map_err(|_| Error::InvalidParam)?;
        self.ring(index)?.queue.try_set_size(size).map_err(|_| Error::InvalidParam)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let desc_table = self.guest_address(descriptor)?;
        let used_ring = self.guest_address(used)?;
        let avail_ring = self.guest_address(available)?;
        let queue = &mut self.ring(index)?.queue;
        queue.try_set_desc_table_address(desc_table).map_err(|_| Error::InvalidParam)?;
        queue.try_set_used_ring_address(used_ring).map_err(|_| Error::InvalidParam)?;
        queue.try_set_avail_ring_address(avail_ring).map_err(|_| Error::InvalidParam)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        let queue = &mut self.ring(index)?.queue;
        queue.set_next_avail(base);
        // Rings are handed over with nothing under way, so both indexes stand at the same place.
        queue.set_next_used(base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let ring = self.ring(index)?;
        ring.queue.set_ready(false);
        ring.kick = None;
        ring.call = None;
        Ok(VhostUserVringState::new(index, ring.queue.next_avail().into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let ring = self.ring(index)?;
        // Without a descriptor the ring would have to be polled; QEMU always gives one.
        ring.kick = Some(nonblocking(fd.ok_or(Error::InvalidParam)?)?);
        ring.queue.set_ready(true);
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index)?.call = fd.map(nonblocking).transpose()?;
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        // A ring that breaks the rules ends the guest, so nobody is left to be told.
        self.ring(index).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(PROTOCOL)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        if features & !PROTOCOL.bits() == 0 { Ok(()) } else { Err(Error::InvalidParam) }
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(QUEUES.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        Ok(())
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let start = usize::try_from(offset).map_err(|_| Error::InvalidParam)?;
        let size = usize::try_from(size).map_err(|_| Error::InvalidParam)?;
        let end = start.checked_add(size).ok_or(Error::InvalidParam)?;
        self.config.get(start..end).map(<[u8]>::to_vec).ok_or(Error::InvalidParam)
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        not_offered()
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        not_offered()
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        not_offered()
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        not_offered()
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        not_offered()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        not_offered()
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<u64>> {
        not_offered()
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        not_offered()
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        not_offered()
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered()
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        not_offered()
    }
}

#[cfg(test)]
mod tests;
