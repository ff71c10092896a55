//! The virtio-mmio transport, version 2, with a vsock device behind it.
//!
//! For a VMM that sees the guest's loads and stores itself. [`Vsock`] does all the work of one
//! exit in that exit: a notification on the tx queue takes the packets, writes them to the host
//! sockets, and puts what those sockets hold already, and every answer, into the rx queue.
//!
//! # Invariants
//!
//! - No ring is touched before the driver has negotiated `VIRTIO_F_VERSION_1` and said DRIVER_OK.
//! - A register that does not exist, or an access of the wrong width, reads as zero and
//!   ignores writes: that is a driver's mistake, not abuse.
//! - A ring that can't work (size, alignment, place) is abuse at the moment it is made ready.
//!
//! # Not here
//!
//! - Version 1 ("legacy"): hypervisors that need it bring their own transport.
//! - Interrupt delivery. The status register is kept; raising a line is the VMM's part.

use crate::abuse::{Abuse, QueueName};
use crate::device::{Device, Progress};
use std::io;
use std::os::fd::OwnedFd;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_bindings::virtio_mmio::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory};

/// Bytes of guest-physical address space the register file takes.
pub const REGION_SIZE: u64 = 0x200;

/// Most entries a queue may have. Linux takes the maximum; other drivers choose.
pub const QUEUE_SIZE_MAX: u16 = 256;

/// How often queues are looked at in one exit. A vCPU that waits for the exit to end can fill a
/// queue once; only another one that runs meanwhile can fill it more often, and it notifies again.
const LOOKS: usize = 16;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// virtio-mmio as of virtio 1.0.
const VERSION: u32 = 2;
/// "OSVM", little-endian.
const VENDOR: u32 = 0x4d56_534f;
/// The driver must know virtio 1.0; streams are implied, other socket types are not offered.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1;
/// Queue order of a vsock device.
const QUEUES: [QueueName; 3] = [QueueName::Rx, QueueName::Tx, QueueName::Event];

/// One ring as the driver describes it, before and after it is made ready.
#[derive(Debug)]
struct Ring {
    name: QueueName,
    queue: Queue,
    size: u32,
    desc: u64,
    avail: u64,
    used: u64,
}

impl Ring {
    fn new(name: QueueName) -> Option<Self> {
        let queue = Queue::new(QUEUE_SIZE_MAX).ok()?;
        Some(Self { name, queue, size: QUEUE_SIZE_MAX.into(), desc: 0, avail: 0, used: 0 })
    }

    fn reset(&mut self) {
        self.queue.reset();
        self.size = QUEUE_SIZE_MAX.into();
        (self.desc, self.avail, self.used) = (0, 0, 0);
    }

    /// Checks the whole ring once, so that later trouble with it can only come from its contents.
    fn make_ready<M: GuestMemory>(&mut self, mem: &M) -> Result<(), Abuse> {
        let queue = self.name;
        let bad_size = Abuse::BadQueueSize { queue, size: self.size };
        let size = u16::try_from(self.size).map_err(|_| bad_size)?;
        self.queue.reset();
        self.queue.try_set_size(size).map_err(|_| bad_size)?;
        self.queue
            .try_set_desc_table_address(GuestAddress(self.desc))
            .and_then(|()| self.queue.try_set_avail_ring_address(GuestAddress(self.avail)))
            .and_then(|()| self.queue.try_set_used_ring_address(GuestAddress(self.used)))
            .map_err(|_| Abuse::RingMisaligned(queue))?;
        self.queue.set_ready(true);
        if !self.queue.is_valid(mem) {
            self.queue.set_ready(false);
            return Err(Abuse::RingOutsideMemory(queue));
        }
        Ok(())
    }
}

/// A vsock device behind virtio-mmio registers.
#[derive(Debug)]
pub struct Vsock {
    device: Device,
    rings: [Ring; 3],
    queue_select: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    status: u32,
    interrupt_status: u32,
    delivered: bool,
}

impl Vsock {
    /// A device in the state after reset.
    pub fn new(device: Device) -> io::Result<Self> {
        let [rx, tx, event] = QUEUES.map(Ring::new);
        let (Some(rx), Some(tx), Some(event)) = (rx, tx, event) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok(Self {
            device,
            rings: [rx, tx, event],
            queue_select: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            status: 0,
            interrupt_status: 0,
            delivered: false,
        })
    }

    /// The device, for its events, its epoll set and the sockets the guest may connect to.
    pub fn device(&mut self) -> &mut Device {
        &mut self.device
    }

    /// Connects the stream socket `host` to the guest's `port`, at once if the guest has room;
    /// see [`Device::connect`].
    pub fn connect<M: GuestMemory>(
        &mut self,
        mem: &M,
        port: u32,
        host: OwnedFd,
        token: u64,
    ) -> Result<(), Abuse> {
        self.device.connect(port, host, token);
        self.pump(mem)
    }

    /// Does what host sockets want. To be called when [`Device::epoll_fd`] is readable.
    pub fn service<M: GuestMemory>(&mut self, mem: &M) -> Result<(), Abuse> {
        self.device.service_host();
        self.pump(mem)
    }

    /// Whether the guest was given anything since this was last asked. A guest that waits (`hlt`)
    /// after that has not seen it yet and must run on.
    pub fn take_delivered(&mut self) -> bool {
        std::mem::take(&mut self.delivered)
    }

    /// Whether the guest's interrupt line is to be high.
    pub fn interrupt(&self) -> bool {
        self.interrupt_status != 0
    }

    /// The guest loads from `offset` in the register file.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        if let Some(skip) = offset.checked_sub(VIRTIO_MMIO_CONFIG) {
            let config = self.device.config();
            let config = config.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX));
            data.iter_mut().zip(config).for_each(|(to, from)| *to = *from);
        } else if let Ok(register) = <&mut [u8; 4]>::try_from(data) {
            *register = self.register(offset).to_le_bytes();
        }
    }

    fn register(&self, offset: u32) -> u32 {
        let ring = self.rings.get(self.queue_select as usize);
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => VIRTIO_ID_VSOCK,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(FEATURES, self.device_features_select),
            VIRTIO_MMIO_QUEUE_NUM_MAX => ring.map_or(0, |_| QUEUE_SIZE_MAX.into()),
            VIRTIO_MMIO_QUEUE_READY => ring.map_or(0, |ring| ring.queue.ready().into()),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status,
            VIRTIO_MMIO_STATUS => self.status,
            // There is no shared memory: the specification wants its length to read as -1.
            VIRTIO_MMIO_SHM_LEN_LOW | VIRTIO_MMIO_SHM_LEN_HIGH => u32::MAX,
            _ => 0,
        }
    }

    /// The guest stores `data` at `offset` in the register file.
    ///
    /// # Errors
    ///
    /// The guest has to be ended: see [`Abuse`].
    pub fn write<M: GuestMemory>(
        &mut self,
        mem: &M,
        offset: u64,
        data: &[u8],
    ) -> Result<(), Abuse> {
        let (Ok(offset), Ok(value)) = (u32::try_from(offset), data.try_into()) else {
            return Ok(());
        };
        let value = u32::from_le_bytes(value);
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES if !self.has(VIRTIO_CONFIG_S_FEATURES_OK) => {
                set_half(&mut self.driver_features, self.driver_features_select, value);
            }
            VIRTIO_MMIO_QUEUE_SEL => self.queue_select = value,
            VIRTIO_MMIO_QUEUE_NOTIFY => return self.pump(mem),
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            VIRTIO_MMIO_STATUS => return self.set_status(mem, value),
            _ => return self.set_up_ring(mem, offset, value),
        }
        Ok(())
    }

    fn set_up_ring<M: GuestMemory>(
        &mut self,
        mem: &M,
        offset: u32,
        value: u32,
    ) -> Result<(), Abuse> {
        let Some(ring) = self.rings.get_mut(self.queue_select as usize) else { return Ok(()) };
        if offset == VIRTIO_MMIO_QUEUE_READY && value == 0 {
            ring.queue.set_ready(false);
            return Ok(());
        }
        if ring.queue.ready() {
            return Ok(());
        }
        match offset {
            VIRTIO_MMIO_QUEUE_READY => return ring.make_ready(mem),
            VIRTIO_MMIO_QUEUE_NUM => ring.size = value,
            VIRTIO_MMIO_QUEUE_DESC_LOW => set_half(&mut ring.desc, 0, value),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => set_half(&mut ring.desc, 1, value),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_half(&mut ring.avail, 0, value),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_half(&mut ring.avail, 1, value),
            VIRTIO_MMIO_QUEUE_USED_LOW => set_half(&mut ring.used, 0, value),
            VIRTIO_MMIO_QUEUE_USED_HIGH => set_half(&mut ring.used, 1, value),
            _ => {}
        }
        Ok(())
    }

    fn set_status<M: GuestMemory>(&mut self, mem: &M, value: u32) -> Result<(), Abuse> {
        if value == 0 {
            self.reset();
            return Ok(());
        }
        self.status = value;
        let acceptable = self.driver_features == FEATURES;
        if !acceptable {
            // How virtio says no: the driver reads the bit back and finds it clear.
            self.status &= !(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
        }
        self.pump(mem)
    }

    fn reset(&mut self) {
        self.device.driver_reset();
        self.rings.iter_mut().for_each(Ring::reset);
        self.queue_select = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.status = 0;
        self.interrupt_status = 0;
    }

    fn has(&self, status: u32) -> bool {
        self.status & status != 0
    }

    /// All there is to do between guest and host right now.
    fn pump<M: GuestMemory>(&mut self, mem: &M) -> Result<(), Abuse> {
        if !self.has(VIRTIO_CONFIG_S_DRIVER_OK) {
            return Ok(());
        }
        for _ in 0..LOOKS {
            if !self.look(mem)? {
                break;
            }
        }
        Ok(())
    }

    /// Looks at each queue once. Says whether to look again.
    fn look<M: GuestMemory>(&mut self, mem: &M) -> Result<bool, Abuse> {
        let [rx, tx, event] = &mut self.rings;
        let idle = Progress::default();
        let ready = |ring: &Ring| ring.queue.ready();
        let sent = match ready(tx) {
            true => self.device.process_tx(mem, &mut tx.queue)?,
            false => idle,
        };
        let told = match ready(event) {
            true => self.device.process_event(mem, &mut event.queue)?,
            false => idle,
        };
        let got = match ready(rx) {
            true => self.device.process_rx(mem, &mut rx.queue)?,
            false => idle,
        };
        self.delivered |= got.used != 0 || told.used != 0;
        if sent.interrupt || told.interrupt || got.interrupt {
            self.interrupt_status |= VIRTIO_MMIO_INT_VRING;
        }
        Ok(sent.more || got.more)
    }
}

/// The low (0) or high (1) half of a 64-bit register; other halves do not exist.
fn half(whole: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = whole.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn set_half(whole: &mut u64, select: u32, value: u32) {
    let value = u64::from(value);
    match select {
        0 => *whole = (*whole & !0xffff_ffff) | value,
        1 => *whole = (*whole & 0xffff_ffff) | (value << 32),
        _ => {}
    }
}
