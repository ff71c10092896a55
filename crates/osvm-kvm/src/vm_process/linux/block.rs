//! A Linux guest's disk: a read-only virtio-blk device over a file.
//!
//! ```text
//! driver ──▶ requests ring ──▶ header, sector ──preadv──▶ guest memory
//!        ◀──────────────────────── status ◀───────────────────┘
//! ```
//!
//! A request is answered in the exit that brings it. The bytes go from the page cache, which all
//! guests with the same file share, straight into guest memory.
//!
//! # Invariants
//!
//! - The file is never written to, and its position is never used: other processes hold the same
//!   open file.
//! - One exit reads at most a queue of requests of [`REQUEST_MAX`] bytes each.
//! - A request that makes no sense to a disk is answered with a status. A chain that has no room
//!   for one is [`Abuse`].
//!
//! # Not here
//!
//! - Registers and chains: `osvm-vsock`, which checks them for every device.

#[cfg(test)]
mod tests;

use osvm_vsock::chain::{self, Chain};
use osvm_vsock::mmio::{NotRestored, Registers, RegistersState, Written};
use osvm_vsock::{Abuse, QueueName};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::QueueT;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, Permissions};

/// What capacity and position are counted in, whatever the disk.
const SECTOR: u64 = 512;
/// Type, a word that means nothing any more, and the first sector.
const HEADER_LEN: usize = 16;
/// Most bytes one request may ask for. Linux asks for 1280 KiB at most, 4 MiB in newer versions.
const REQUEST_MAX: u64 = 4 << 20;
/// Most buffers of one request, without header and status: two requests fit into a full queue.
const SEGMENTS_MAX: u32 = 126;
/// Most buffers for one system call (`UIO_MAXIOV`).
const VECTORS_MAX: usize = 1024;
/// Bytes of the disk's serial number.
const ID_LEN: usize = VIRTIO_BLK_ID_BYTES as usize;
const FEATURES: u64 = 1 << VIRTIO_BLK_F_RO | 1 << VIRTIO_BLK_F_SEG_MAX;
const QUEUE: QueueName = QueueName::Requests;

/// A read-only disk behind virtio-mmio registers.
///
/// After an [`Abuse`] its state means nothing any more: drop it with the guest.
#[derive(Debug)]
pub struct Block {
    registers: Registers<1>,
    chain: Chain,
    disk: Disk,
}

impl Block {
    /// The disk whose contents are `file`, in the state after reset. Bytes behind the last whole
    /// sector (512 bytes) are not part of it. The guest finds the first 20 bytes of `id` as the
    /// disk's serial number.
    ///
    /// # Errors
    ///
    /// The file's size can't be known.
    pub fn new(file: File, id: &str) -> io::Result<Self> {
        let sectors = file.metadata()?.len() / SECTOR;
        let mut padded = [0; ID_LEN];
        padded.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
        Ok(Self {
            registers: Registers::new(VIRTIO_ID_BLOCK, FEATURES, [QUEUE])?,
            chain: Chain::new(QUEUE, Permissions::ReadWrite),
            disk: Disk { file, sectors, id: padded },
        })
    }

    /// A disk that goes on where a saved one stopped, for a guest with the same memory as then.
    ///
    /// # Errors
    ///
    /// The state is none that a driver can have made, or the file's size can't be known.
    pub fn restored(
        file: File,
        id: &str,
        state: &RegistersState,
        mem: &GuestMemoryMmap,
    ) -> Result<Self, NotRestored> {
        let mut block = Self::new(file, id)?;
        block.registers.restore(mem, state)?;
        Ok(block)
    }

    /// The device as it is, to be saved together with guest memory. Between two exits no request
    /// is under way, so the registers are all there is.
    pub fn state(&self) -> RegistersState {
        self.registers.state()
    }

    /// Whether the guest's interrupt line is to be high.
    pub fn interrupt(&self) -> bool {
        self.registers.interrupt()
    }

    /// The guest loads from `offset` in the register file.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.registers.read(offset, data, &self.disk.config());
    }

    /// The guest stores `data` at `offset` in the register file. Requests are answered at once.
    ///
    /// # Errors
    ///
    /// The guest has to be ended: see [`Abuse`].
    pub fn write(&mut self, mem: &GuestMemoryMmap, offset: u64, data: &[u8]) -> Result<(), Abuse> {
        match self.registers.write(mem, offset, data)? {
            Written::Work => self.answer(mem),
            // There is nothing to forget.
            Written::Settled | Written::Reset => Ok(()),
        }
    }

    /// Answers what is in the queue. A processor that adds to it meanwhile notifies again.
    fn answer(&mut self, mem: &GuestMemoryMmap) -> Result<(), Abuse> {
        let [Some(queue)] = self.registers.queues() else { return Ok(()) };
        chain::check(mem, queue, QUEUE)?;
        let mut used: u16 = 0;
        while used < queue.size() && self.chain.next(mem, queue)? {
            let written = self.disk.answer(mem, &self.chain)?;
            self.chain.give_back(mem, queue, written)?;
            used = used.saturating_add(1);
        }
        if chain::wants_interrupt(mem, queue, used, QUEUE)? {
            self.registers.raise();
        }
        Ok(())
    }
}

/// What the guest reads, and is told about it.
#[derive(Debug)]
struct Disk {
    file: File,
    sectors: u64,
    id: [u8; ID_LEN],
}

impl Disk {
    /// `struct virtio_blk_config`, up to the last member that a feature offers: the capacity, a
    /// member that is not offered, and the most buffers of a request.
    fn config(&self) -> [u8; 16] {
        let mut config = [0; 16];
        let members = self.sectors.to_le_bytes().into_iter();
        let members = members.chain([0; 4]).chain(SEGMENTS_MAX.to_le_bytes());
        config.iter_mut().zip(members).for_each(|(to, from)| *to = from);
        config
    }

    /// Answers one request. Returns how many bytes were written into its buffers.
    fn answer(&self, mem: &GuestMemoryMmap, chain: &Chain) -> Result<u32, Abuse> {
        // The last byte is for the status.
        let room = chain.writable_len().checked_sub(1).ok_or_else(|| chain.too_short())?;
        if chain.readable_len() < HEADER_LEN as u64 {
            return Err(chain.too_short());
        }
        let mut header = [0; HEADER_LEN];
        chain.read(mem, 0, &mut header)?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let (status, written) = match u32::from_le_bytes([a, b, c, d]) {
            VIRTIO_BLK_T_IN => match self.read(mem, chain, u64::from_le_bytes(sector), room) {
                Ok(()) => (VIRTIO_BLK_S_OK, room),
                Err(_) => (VIRTIO_BLK_S_IOERR, 0),
            },
            VIRTIO_BLK_T_GET_ID => {
                let len = room.min(VIRTIO_BLK_ID_BYTES.into());
                let id = self.id.get(..usize::try_from(len).unwrap_or(ID_LEN)).unwrap_or_default();
                chain.write(mem, 0, id)?;
                (VIRTIO_BLK_S_OK, len)
            }
            // Nothing is ever written, so everything is on the disk.
            VIRTIO_BLK_T_FLUSH => (VIRTIO_BLK_S_OK, 0),
            VIRTIO_BLK_T_OUT => (VIRTIO_BLK_S_IOERR, 0),
            _ => (VIRTIO_BLK_S_UNSUPP, 0),
        };
        let [status, ..] = status.to_le_bytes();
        chain.write(mem, room, &[status])?;
        // At most `REQUEST_MAX`.
        Ok(u32::try_from(written).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Reads `len` bytes from `sector` on into the buffers of `chain`.
    fn read(&self, mem: &GuestMemoryMmap, chain: &Chain, sector: u64, len: u64) -> io::Result<()> {
        let end = sector.checked_add(len.div_ceil(SECTOR));
        let on_disk = end.is_some_and(|end| end <= self.sectors);
        if !on_disk || !len.is_multiple_of(SECTOR) || REQUEST_MAX < len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut slices = Vec::new();
        for (addr, len) in chain.writable(len) {
            for slice in mem.get_slices(addr, len) {
                slices.push(slice.map_err(io::Error::other)?);
            }
        }
        let guards: Vec<_> = slices.iter().map(|slice| slice.ptr_guard_mut()).collect();
        let mut vectors: Vec<_> = guards
            .iter()
            .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
            .collect();
        // Within the file, so the product fits.
        let mut at = sector.saturating_mul(SECTOR);
        let mut left = vectors.as_mut_slice();
        while !left.is_empty() {
            let now = left.len().min(VECTORS_MAX);
            let offset = libc::off_t::try_from(at).map_err(io::Error::other)?;
            let count = libc::c_int::try_from(now).map_err(io::Error::other)?;
            // SAFETY: the first `count` vectors are parts of guest memory, which `mem` keeps mapped
            // and writable. No reference to these bytes exists: the guest changes them too.
            let read = unsafe { libc::preadv(self.file.as_raw_fd(), left.as_ptr(), count, offset) };
            match usize::try_from(read) {
                // The file has become shorter.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    at = at.saturating_add(read as u64);
                    left = behind(left, read);
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}

/// What is left of `vectors` behind their first `len` bytes.
fn behind(vectors: &mut [libc::iovec], mut len: usize) -> &mut [libc::iovec] {
    let whole = vectors.iter().take_while(|vector| {
        let covered = vector.iov_len <= len;
        len = len.saturating_sub(if covered { vector.iov_len } else { 0 });
        covered
    });
    let whole = whole.count();
    let left = vectors.get_mut(whole..).unwrap_or_default();
    if let Some(first) = left.first_mut() {
        first.iov_base = first.iov_base.wrapping_byte_add(len);
        first.iov_len = first.iov_len.saturating_sub(len);
    }
    left
}
