//! What a Linux guest's processor is connected to: memory, devices, ports, interrupt lines.
//!
//! | where | what |
//! |---|---|
//! | 0xd000_0000, IRQ 5 | vsock |
//! | 0xd000_1000, IRQ 6 | the root file system, read-only |
//! | ports 0x3f8, IRQ 4 | serial port |
//! | port 0x64 | keyboard controller: only its reset, which ends the guest |
//! | port 0x71 | clock of a PC: not there, and never busy |
//!
//! KVM itself has the interrupt controllers and the timer.
//!
//! # Invariants
//!
//! - After everything that touches a device, each line is at the level that the device wants
//!   ([`Board::settle`]). The controllers notice rising levels; a device lowers its line when the
//!   guest has taken note, and has something new to say only after that. So none is lost.

use super::Socket;
use super::block::Block;
use super::serial::{self, Serial};
use crate::control::{Control, Device, End, Event};
use crate::error::{OrFail, StepFailed};
use crate::vm_process::run::{failed, last, unheard};
use kvm_ioctls::VmFd;
use osvm_vsock::mmio::{REGION_SIZE, Vsock};
use osvm_vsock::{Abuse, Event as VsockEvent};
use std::os::fd::OwnedFd;
use vm_memory::GuestMemoryMmap;

/// Where a device's registers are, and its interrupt line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) at: u64,
    pub(super) irq: u32,
}

/// The vsock device.
pub(super) const VSOCK: Slot = Slot { at: 0xd000_0000, irq: 5 };
/// The disk.
pub(super) const BLOCK: Slot = Slot { at: 0xd000_1000, irq: 6 };
/// Size of the page that a device's registers are in; what lies behind them reads as zero.
const PAGE: u64 = 0x1000;

/// Keyboard controller: its status reads as "idle", and command 0xfe resets a PC.
const KEYBOARD: u16 = 0x64;
const RESET: u8 = 0xfe;
/// Data of the clock of a PC. Zero says that no update is under way, in the register that does.
const CLOCK_DATA: u16 = 0x71;

/// The devices that this process plays.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) vsock: Vsock,
    pub(super) block: Block,
    pub(super) serial: Serial,
}

/// All of the machine but its processor.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) vm: VmFd,
    pub(super) memory: GuestMemoryMmap,
    pub(super) devices: Devices,
    /// Levels of the interrupt lines, as KVM knows them: vsock, disk, serial port.
    lines: [bool; 3],
    osvm: Socket,
    /// Where the guest is to be saved to, once its processor stands still.
    pub(super) save: Option<OwnedFd>,
}

/// Which device's page an address is in.
enum Page {
    Vsock(u64),
    Block(u64),
}

impl Board {
    /// Connects the devices to the VM.
    pub(super) fn new(
        vm: VmFd,
        memory: GuestMemoryMmap,
        devices: Devices,
    ) -> Result<Self, StepFailed> {
        let osvm = Control::new(rustix::stdio::stdin());
        let mut board = Self { vm, memory, devices, lines: [false; 3], osvm, save: None };
        board.drive_lines().or_fail("set the interrupt lines")?;
        Ok(board)
    }

    /// The guest loads from an address that is not memory.
    pub(super) fn load(&mut self, address: u64, data: &mut [u8]) -> Result<(), End> {
        match page(address)? {
            Page::Vsock(offset) if offset < REGION_SIZE => self.devices.vsock.read(offset, data),
            Page::Block(offset) if offset < REGION_SIZE => self.devices.block.read(offset, data),
            Page::Vsock(_) | Page::Block(_) => data.fill(0),
        }
        Ok(())
    }

    /// The guest stores to an address that is not memory.
    pub(super) fn store(&mut self, address: u64, data: &[u8]) -> Result<(), End> {
        let Self { memory, devices, .. } = self;
        match page(address)? {
            Page::Vsock(offset) => {
                devices.vsock.write(memory, offset, data).map_err(abuse(Device::Vsock))?;
            }
            Page::Block(offset) => {
                devices.block.write(memory, offset, data).map_err(abuse(Device::Block))?;
            }
        }
        self.settle()
    }

    /// The guest reads a port.
    pub(super) fn port_in(&mut self, port: u16, data: &mut [u8]) -> Result<(), End> {
        match port {
            KEYBOARD | CLOCK_DATA => data.fill(0),
            port if Serial::has(port) => {
                self.devices.serial.read(port, data);
                return self.settle();
            }
            // A port where nothing answers reads as ones.
            _ => data.fill(0xff),
        }
        Ok(())
    }

    /// The guest writes to a port.
    pub(super) fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), End> {
        match (port, data) {
            (KEYBOARD, [RESET]) => Err(End::ShutDown),
            (port, data) if Serial::has(port) => {
                self.devices.serial.write(port, data);
                self.settle()
            }
            _ => Ok(()),
        }
    }

    /// Host sockets of connections want something.
    pub(super) fn serve_host(&mut self) -> Result<(), End> {
        let Self { memory, devices, .. } = self;
        devices.vsock.service(memory).map_err(abuse(Device::Vsock))?;
        self.settle()
    }

    /// osvm wants a stream to a port of the guest.
    pub(super) fn connect(&mut self, port: u32, host: OwnedFd, token: u64) -> Result<(), End> {
        let Self { memory, devices, .. } = self;
        devices.vsock.connect(memory, port, host, token).map_err(abuse(Device::Vsock))?;
        self.settle()
    }

    /// The end, in the guest's own words if it left any.
    pub(super) fn last(&mut self, end: End) -> End {
        last(self.devices.serial.console(), end)
    }

    /// Says to the guest and to osvm what has changed.
    fn settle(&mut self) -> Result<(), End> {
        self.drive_lines().map_err(|error| failed(&format!("KVM takes no interrupt: {error}")))?;
        for event in self.devices.vsock.device().take_events() {
            let event = match event {
                VsockEvent::Accepted { token } => Event::Accepted { token },
                VsockEvent::Refused { token, .. } => Event::Refused { token },
                // Only ports the device listens on come here, and it listens on none.
                VsockEvent::Incoming(_) => continue,
            };
            self.osvm.send(&event, &[]).map_err(unheard)?;
        }
        Ok(())
    }

    fn drive_lines(&mut self) -> Result<(), kvm_ioctls::Error> {
        let Devices { vsock, block, serial } = &self.devices;
        let wanted = [
            (VSOCK.irq, vsock.interrupt()),
            (BLOCK.irq, block.interrupt()),
            (serial::IRQ, serial.interrupt()),
        ];
        for (level, (irq, wanted)) in self.lines.iter_mut().zip(wanted) {
            if *level != wanted {
                self.vm.set_irq_line(irq, wanted)?;
                *level = wanted;
            }
        }
        Ok(())
    }
}

/// The device's page that `address` is in, and the offset there.
fn page(address: u64) -> Result<Page, End> {
    let offset = |slot: Slot| address.checked_sub(slot.at).filter(|offset| *offset < PAGE);
    let block = || offset(BLOCK).map(Page::Block);
    offset(VSOCK).map(Page::Vsock).or_else(block).ok_or(End::OutOfBounds { address })
}

fn abuse(device: Device) -> impl Fn(Abuse) -> End {
    move |abuse| End::DeviceAbuse { device, reason: abuse.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_one_device_or_to_nothing() {
        assert!(matches!(page(0xd000_0fff), Ok(Page::Vsock(0xfff))));
        assert!(matches!(page(0xd000_1000), Ok(Page::Block(0))));
        for address in [0, 0xcfff_ffff, 0xd000_2000, u64::MAX] {
            assert!(matches!(page(address), Err(End::OutOfBounds { .. })), "{address:#x}");
        }
    }
}
