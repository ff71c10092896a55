//! The register file: status, features and queues of any device.
//!
//! # Invariants
//!
//! - A driver that asks for a feature that was not offered never gets to DRIVER_OK, so the device
//!   behind the registers need not look at the driver's features.
//! - A queue is given to the device only when it has been checked and the driver has said
//!   DRIVER_OK.

use super::{NotRestored, QUEUE_SIZE_MAX, RegistersState, RingState};
use crate::abuse::{Abuse, QueueName};
use std::io;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory};

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// virtio-mmio as of virtio 1.0.
const VERSION: u32 = 2;
/// "OSVM", little-endian.
const VENDOR: u32 = 0x4d56_534f;
/// The driver must know virtio 1.0, whatever the device.
const DEMANDED: u64 = 1 << VIRTIO_F_VERSION_1;
/// With either of these the driver goes by its features, which are therefore fixed.
const ACCEPTED: u32 = VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

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
    fn new(name: QueueName) -> Result<Self, virtio_queue::Error> {
        let queue = Queue::new(QUEUE_SIZE_MAX)?;
        Ok(Self { name, queue, size: QUEUE_SIZE_MAX.into(), desc: 0, avail: 0, used: 0 })
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

    fn state(&self) -> RingState {
        let ready = self.queue.ready();
        // A queue that is made ready begins at its beginning.
        let position = |at: u16| if ready { at } else { 0 };
        RingState {
            size: self.size,
            desc: self.desc,
            avail: self.avail,
            used: self.used,
            ready,
            next_avail: position(self.queue.next_avail()),
            next_used: position(self.queue.next_used()),
        }
    }

    fn restore<M: GuestMemory>(&mut self, mem: &M, state: &RingState) -> Result<(), Abuse> {
        let RingState { size, desc, avail, used, ready, next_avail, next_used } = *state;
        (self.size, self.desc, self.avail, self.used) = (size, desc, avail, used);
        if ready {
            self.make_ready(mem)?;
            self.queue.set_next_avail(next_avail);
            self.queue.set_next_used(next_used);
        }
        Ok(())
    }
}

/// What a store into the register file asks of the device behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// Nothing.
    Settled,
    /// The driver begins anew: the device forgets what it was doing for it.
    Reset,
    /// There may be buffers to use: see [`Registers::queues`].
    Work,
}

/// The register file of a device with `N` queues.
#[derive(Debug)]
pub struct Registers<const N: usize> {
    device: u32,
    features: u64,
    rings: [Ring; N],
    queue_select: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    status: u32,
    interrupt_status: u32,
}

impl<const N: usize> Registers<N> {
    /// The registers of a `device` (a virtio device ID) that offers `features` beyond virtio 1.0
    /// itself, in the state after reset.
    ///
    /// # Errors
    ///
    /// None as long as [`QUEUE_SIZE_MAX`] is a size a queue may have.
    pub fn new(device: u32, features: u64, queues: [QueueName; N]) -> io::Result<Self> {
        let rings: Vec<_> = queues
            .into_iter()
            .map(Ring::new)
            .collect::<Result<_, _>>()
            .map_err(io::Error::other)?;
        let rings = <[Ring; N]>::try_from(rings).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self {
            device,
            features: features | DEMANDED,
            rings,
            queue_select: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            status: 0,
            interrupt_status: 0,
        })
    }

    /// The registers as they are, to be saved.
    pub fn state(&self) -> RegistersState {
        RegistersState {
            rings: self.rings.iter().map(Ring::state).collect(),
            queue_select: self.queue_select,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            driver_features: self.driver_features,
            status: self.status,
            interrupt_status: self.interrupt_status,
        }
    }

    /// Puts a saved state into registers that are as after [`Registers::new`].
    ///
    /// # Errors
    ///
    /// No driver can have brought a device of this kind into that state. The registers must not be
    /// used any more.
    pub fn restore<M: GuestMemory>(
        &mut self,
        mem: &M,
        state: &RegistersState,
    ) -> Result<(), NotRestored> {
        let found = state.rings.len();
        if found != N {
            return Err(NotRestored::Queues { expected: N, found });
        }
        for (ring, state) in self.rings.iter_mut().zip(&state.rings) {
            ring.restore(mem, state)?;
        }
        self.queue_select = state.queue_select;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.driver_features = state.driver_features;
        self.status = state.status;
        if self.has(ACCEPTED) && !self.acceptable() {
            return Err(NotRestored::Features { features: self.driver_features });
        }
        self.interrupt_status =
            state.interrupt_status & (VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
        Ok(())
    }

    /// The queues the device may use now, by index: those the driver has made ready, and none
    /// before it has said DRIVER_OK.
    pub fn queues(&mut self) -> [Option<&mut Queue>; N] {
        let running = self.is_running();
        self.rings.each_mut().map(|ring| (running && ring.queue.ready()).then_some(&mut ring.queue))
    }

    /// Whether the driver has said DRIVER_OK.
    pub fn is_running(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK)
    }

    /// Tells the driver that buffers have been used, until it acknowledges.
    pub fn raise(&mut self) {
        self.interrupt_status |= VIRTIO_MMIO_INT_VRING;
    }

    /// Whether the guest's interrupt line is to be high.
    pub fn interrupt(&self) -> bool {
        self.interrupt_status != 0
    }

    /// The guest loads from `offset` in the register file of a device whose configuration space is
    /// `config`.
    pub fn read(&self, offset: u64, data: &mut [u8], config: &[u8]) {
        data.fill(0);
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        if let Some(skip) = offset.checked_sub(VIRTIO_MMIO_CONFIG) {
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
            VIRTIO_MMIO_DEVICE_ID => self.device,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.features, self.device_features_select),
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
    ) -> Result<Written, Abuse> {
        let (Ok(offset), Ok(value)) = (u32::try_from(offset), data.try_into()) else {
            return Ok(Written::Settled);
        };
        let value = u32::from_le_bytes(value);
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES if !self.has(ACCEPTED) => {
                set_half(&mut self.driver_features, self.driver_features_select, value);
            }
            VIRTIO_MMIO_QUEUE_SEL => self.queue_select = value,
            VIRTIO_MMIO_QUEUE_NOTIFY => return Ok(Written::Work),
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            VIRTIO_MMIO_STATUS => return Ok(self.set_status(value)),
            _ => self.set_up_ring(mem, offset, value)?,
        }
        Ok(Written::Settled)
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

    fn set_status(&mut self, value: u32) -> Written {
        if value == 0 {
            self.reset();
            return Written::Reset;
        }
        self.status = value;
        if !self.acceptable() {
            // How virtio says no: the driver reads the bit back and finds it clear.
            self.status &= !ACCEPTED;
        }
        Written::Work
    }

    fn reset(&mut self) {
        self.rings.iter_mut().for_each(Ring::reset);
        self.queue_select = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.status = 0;
        self.interrupt_status = 0;
    }

    /// Whether the driver takes what it must and nothing that is not there.
    fn acceptable(&self) -> bool {
        self.driver_features & DEMANDED == DEMANDED && self.driver_features & !self.features == 0
    }

    fn has(&self, status: u32) -> bool {
        self.status & status != 0
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
