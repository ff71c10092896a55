//! The virtio-mmio transport: finding a device and bringing it up.
//!
//! Registers, order of steps and feature bits are those of "Virtual I/O Device (VIRTIO) Version
//! 1.2", sections 3.1.1 (initialization), 4.2.2 (registers) and 4.2.4 (legacy interface). Status
//! bits are set one at a time: Firecracker refuses two at once.

use super::ring::{self, Ring};
use thiserror::Error;

/// 32-bit registers of one device, at byte offsets from its base.
pub trait Mmio {
    /// Reads the register at `offset`.
    fn read(&self, offset: u16) -> u32;
    /// Writes the register at `offset`.
    fn write(&self, offset: u16, value: u32);
}

/// "virt", little endian: what the first register of every transport reads.
const MAGIC: u32 = 0x7472_6976;
/// Bit 0 of the upper feature word: VIRTIO_F_VERSION_1. Legacy devices don't have it.
const FEATURE_VERSION_1: u32 = 1;
/// Offset of the device's own configuration.
const CONFIG: u16 = 0x100;

/// Register offsets.
mod register {
    pub(super) const MAGIC: u16 = 0x000;
    pub(super) const VERSION: u16 = 0x004;
    pub(super) const DEVICE_ID: u16 = 0x008;
    pub(super) const DRIVER_FEATURES: u16 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u16 = 0x024;
    pub(super) const LEGACY_PAGE_SIZE: u16 = 0x028;
    pub(super) const QUEUE_SEL: u16 = 0x030;
    pub(super) const QUEUE_NUM_MAX: u16 = 0x034;
    pub(super) const QUEUE_NUM: u16 = 0x038;
    pub(super) const LEGACY_QUEUE_ALIGN: u16 = 0x03c;
    pub(super) const LEGACY_QUEUE_PFN: u16 = 0x040;
    pub(super) const QUEUE_READY: u16 = 0x044;
    pub(super) const QUEUE_NOTIFY: u16 = 0x050;
    pub(super) const INTERRUPT_STATUS: u16 = 0x060;
    pub(super) const INTERRUPT_ACK: u16 = 0x064;
    pub(super) const STATUS: u16 = 0x070;
    pub(super) const QUEUE_DESC_LOW: u16 = 0x080;
    pub(super) const QUEUE_DESC_HIGH: u16 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u16 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u16 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u16 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u16 = 0x0a4;
}

/// Bits of the status register.
mod status {
    pub(super) const ACKNOWLEDGE: u32 = 1;
    pub(super) const DRIVER: u32 = 2;
    pub(super) const DRIVER_OK: u32 = 4;
    pub(super) const FEATURES_OK: u32 = 8;
}

/// Which form of the register interface a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interface {
    /// Version 1.
    Legacy,
    /// Version 2.
    Modern,
}

/// A device behind a virtio-mmio transport.
#[derive(Debug)]
pub struct Device<M> {
    mmio: M,
    interface: Interface,
    id: u32,
}

/// Why a device could not be brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// The device did not take the one feature the driver asked for.
    #[error("virtio device {id} refuses the driver's features")]
    Features {
        /// The virtio device id.
        id: u32,
    },
    /// A queue is missing or too short.
    #[error("queue {queue} of virtio device {id} holds {max} descriptors, {needed} are needed", needed = ring::SIZE)]
    Queue {
        /// The virtio device id.
        id: u32,
        /// The queue's index.
        queue: u32,
        /// Its longest possible length.
        max: u32,
    },
}

impl<M: Mmio> Device<M> {
    /// Looks for a device. `None` if there is no transport, or nothing plugged into it.
    pub fn probe(mmio: M) -> Option<Self> {
        if mmio.read(register::MAGIC) != MAGIC {
            return None;
        }
        let interface = match mmio.read(register::VERSION) {
            1 => Interface::Legacy,
            2 => Interface::Modern,
            _ => return None,
        };
        let id = mmio.read(register::DEVICE_ID);
        (id != 0).then_some(Self { mmio, interface, id })
    }

    /// The virtio device id: 19 is a vsock device.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The registers, for a driver of one's own.
    pub fn into_registers(self) -> M {
        self.mmio
    }

    /// Resets the device, agrees on features and hands it `rings` as queues 0, 1, ….
    ///
    /// [`Device::start`] must follow once the rings are filled.
    pub fn prepare(&self, rings: &[&Ring]) -> Result<(), DeviceError> {
        self.mmio.write(register::STATUS, 0);
        self.mmio.write(register::STATUS, status::ACKNOWLEDGE);
        self.mmio.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        match self.interface {
            Interface::Legacy => {
                self.mmio.write(register::LEGACY_PAGE_SIZE, ring::ALIGN);
            }
            Interface::Modern => {
                // A version 2 transport always offers VERSION_1; FEATURES_OK tells if it agrees.
                self.mmio.write(register::DRIVER_FEATURES_SEL, 1);
                self.mmio.write(register::DRIVER_FEATURES, FEATURE_VERSION_1);
                self.mmio.write(register::STATUS, self.agreed());
                if self.mmio.read(register::STATUS) & status::FEATURES_OK == 0 {
                    return Err(DeviceError::Features { id: self.id });
                }
            }
        }
        (0..).zip(rings).try_for_each(|(queue, ring)| self.give_queue(queue, ring))
    }

    /// Lets the device run.
    pub fn start(&self) {
        self.mmio.write(register::STATUS, self.agreed() | status::DRIVER_OK);
    }

    /// Tells the device that queue `queue` has something new.
    pub fn notify(&self, queue: u32) {
        self.mmio.write(register::QUEUE_NOTIFY, queue);
    }

    /// Takes back the device's interrupt line, so that its next event raises it again.
    pub fn acknowledge_interrupt(&self) {
        let raised = self.mmio.read(register::INTERRUPT_STATUS);
        if raised != 0 {
            self.mmio.write(register::INTERRUPT_ACK, raised);
        }
    }

    /// Reads 32 bits of the device's own configuration, `offset` bytes into it.
    pub fn config(&self, offset: u16) -> u32 {
        self.mmio.read(CONFIG.saturating_add(offset))
    }

    /// The status up to the agreement on features.
    fn agreed(&self) -> u32 {
        let features_ok = match self.interface {
            Interface::Legacy => 0,
            Interface::Modern => status::FEATURES_OK,
        };
        status::ACKNOWLEDGE | status::DRIVER | features_ok
    }

    fn give_queue(&self, queue: u32, ring: &Ring) -> Result<(), DeviceError> {
        let mmio = &self.mmio;
        mmio.write(register::QUEUE_SEL, queue);
        let max = mmio.read(register::QUEUE_NUM_MAX);
        if max < u32::from(ring::SIZE) {
            return Err(DeviceError::Queue { id: self.id, queue, max });
        }
        mmio.write(register::QUEUE_NUM, u32::from(ring::SIZE));
        match self.interface {
            Interface::Legacy => {
                mmio.write(register::LEGACY_QUEUE_ALIGN, ring::LEGACY_USED_ALIGN);
                mmio.write(
                    register::LEGACY_QUEUE_PFN,
                    low(ring.descriptors_at() / u64::from(ring::ALIGN)),
                );
            }
            Interface::Modern => {
                let parts = [
                    (register::QUEUE_DESC_LOW, register::QUEUE_DESC_HIGH, ring.descriptors_at()),
                    (register::QUEUE_DRIVER_LOW, register::QUEUE_DRIVER_HIGH, ring.avail_at()),
                    (register::QUEUE_DEVICE_LOW, register::QUEUE_DEVICE_HIGH, ring.used_at()),
                ];
                for (low_register, high_register, address) in parts {
                    mmio.write(low_register, low(address));
                    mmio.write(high_register, low(address >> 32));
                }
                mmio.write(register::QUEUE_READY, 1);
            }
        }
        Ok(())
    }
}

/// The lower half of `value`.
#[expect(clippy::cast_possible_truncation, reason = "the other half is written by itself")]
fn low(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests;
