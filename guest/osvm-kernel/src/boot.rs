//! From the loader's tables to a [`Guest`].

use crate::device::{RX, Registers};
use crate::idle::Idle;
use crate::memory::{LoaderMemory, RAM_LIMIT, image_end};
use crate::{allocator, die};
use alloc::vec::Vec;
use core::ptr;
use osvm_kernel_core::boot::cmdline::{self, Word};
use osvm_kernel_core::boot::{BootData, Entry, heap};
use osvm_kernel_core::virtio::mmio::Device;
use osvm_kernel_core::vsock::{self, Shared, Vsock};
use osvm_protocol::boot::BootPage;
use unikraft_tool_executor::Device as Found;

/// Where QEMU's microvm machine has its virtio-mmio transports when it doesn't announce them.
const QEMU_FIRST: u64 = 0xfeb0_0000;
/// Distance between two of them in bytes.
const QEMU_STRIDE: u64 = 512;
/// How many there are at most.
const QEMU_SLOTS: u64 = 24;

/// Memory shared with the vsock device.
static SHARED: Shared = Shared::new();

/// A vsock device that listens on the port of osvm.
pub type GuestVsock = Vsock<'static, Registers, Platform>;

/// What the guest knows about itself once it is up.
#[derive(Debug)]
pub struct Guest {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The command line.
    pub command_line: &'static str,
    /// What the host put on the boot page.
    pub page: BootPage<'static>,
    /// All virtio devices.
    pub devices: Vec<Found>,
    /// The vsock device, not brought up yet.
    pub vsock: VsockDevice,
}

/// A vsock device that was found, and not brought up yet.
#[derive(Debug)]
pub struct VsockDevice {
    device: Device<Registers>,
    idle: Idle,
}

impl VsockDevice {
    /// The device and what else a driver needs, for a driver of one's own.
    pub fn into_parts(self) -> (Device<Registers>, Platform) {
        (self.device, Platform { idle: self.idle })
    }

    /// Brings up the device and listens on the port of osvm.
    pub fn listen(self) -> GuestVsock {
        let (device, platform) = self.into_parts();
        Vsock::new(device, platform, &SHARED, osvm_protocol::PORT)
            .unwrap_or_else(|error| die(format_args!("{error}")))
    }
}

/// Where entry.s enters Rust.
// SAFETY: no other crate defines this symbol; entry.s calls it once, on the boot processor, with
// a stack and the loader's registers.
#[unsafe(no_mangle)]
extern "C" fn osvm_start(table: u32, protocol: u32) -> ! {
    unsafe extern "Rust" {
        safe fn osvm_main(guest: Guest) -> !;
    }
    let table = u64::from(table);
    osvm_main(boot(if protocol == 0 { Entry::Pvh(table) } else { Entry::Linux(table) }))
}

fn boot(entry: Entry) -> Guest {
    let data =
        BootData::read(entry, &LoaderMemory).unwrap_or_else(|error| die(format_args!("{error}")));
    let ram = heap(&data, image_end(), RAM_LIMIT);
    // SAFETY: `heap` returns RAM above the image that holds nothing of the loader's, and all RAM
    // below the limit is mapped. This is the only call.
    if !unsafe { allocator::give(ram) } {
        die(format_args!("no memory for a heap: {:#x} to {:#x}", ram.start, ram.end));
    }
    let page = match data.page.map(BootPage::decode) {
        Some(Ok(page)) => page,
        Some(Err(error)) => die(format_args!("{error}")),
        None => BootPage::default(),
    };
    let mut search = Search { devices: Vec::new(), vsock: None };
    let mut halt_is_exit = false;
    for word in cmdline::words(data.command_line) {
        match word {
            Word::Transport(transport) => search.look_at(transport.address, transport.irq),
            Word::HaltIsExit => halt_is_exit = true,
        }
    }
    if search.devices.is_empty() {
        for slot in 0..QEMU_SLOTS {
            search.look_at(QEMU_FIRST + slot * QEMU_STRIDE, None);
        }
    }
    let Some((device, irq)) = search.vsock else {
        die(format_args!("no virtio-vsock device found, only {} others", search.devices.len()));
    };
    let idle = if halt_is_exit { Idle::HaltIsExit } else { Idle::Unprepared(irq) };
    Guest {
        memory_bytes: data.map.given_bytes(),
        command_line: data.command_line,
        page,
        devices: search.devices,
        vsock: VsockDevice { device, idle },
    }
}

/// The devices found so far.
struct Search {
    devices: Vec<Found>,
    vsock: Option<(Device<Registers>, Option<u8>)>,
}

impl Search {
    fn look_at(&mut self, address: u64, irq: Option<u8>) {
        if let Some(device) = Registers::at(address).and_then(Device::probe) {
            self.devices.push(Found { address, kind: device.id() });
            if device.id() == vsock::DEVICE_ID && self.vsock.is_none() {
                self.vsock = Some((device, irq));
            }
        }
    }
}

/// What the vsock driver needs of the machine.
#[derive(Debug)]
pub struct Platform {
    idle: Idle,
}

impl vsock::Platform for Platform {
    fn rx_address(&self, buffer: u16) -> u64 {
        RX.start(buffer).expose_provenance() as u64
    }

    fn rx_copy(&self, buffer: u16, at: usize, out: &mut [u8]) {
        if let Some(from) = RX.piece(buffer, at, out.len()) {
            // SAFETY: `piece` checked that `from` has that many bytes, and `out` is not in a
            // receive buffer, since nobody has a reference into one.
            unsafe { ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) }
        }
    }

    fn lend(&self, bytes: &[u8]) -> u64 {
        bytes.as_ptr().expose_provenance() as u64
    }

    fn uses_interrupts(&self) -> bool {
        self.idle.uses_interrupts()
    }

    fn wait(&mut self) {
        self.idle.wait();
    }
}
