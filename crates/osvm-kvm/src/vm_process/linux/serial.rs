//! A Linux guest's first serial port: a 16550A that sends and never receives.
//!
//! The registers are those of `vm-superio`. What is sent ends up in the [`Console`].
//!
//! # Invariants
//!
//! - The interrupt is a level that follows from the registers: an enabled condition that the guest
//!   has not taken note of. So an interrupt that the guest masked meanwhile is not lost.
//! - Sending is done as soon as it is asked for, and never blocks: see [`Console`].
//! - What a saved port claims can't make the port do anything but send.
//!
//! # Not here
//!
//! - Input. Nobody sits at the other end, and bytes only come back in loopback mode.

#[cfg(test)]
mod tests;

use crate::vm_process::console::{self, Console};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::io::{self, Write};
use vm_superio::serial::NoEvents;

/// Where the port's eight registers begin.
pub(in crate::vm_process) const PORT: u16 = console::PORT;
/// ISA interrupt of the port.
pub(in crate::vm_process) const IRQ: u32 = 4;

/// Received data available, in the interrupt enable register.
const ENABLE_RECEIVED: u8 = 1;
/// Transmitter holding register empty, in the interrupt enable register.
const ENABLE_EMPTY: u8 = 2;
/// No interrupt is pending, in the interrupt identification register.
const NOTHING_PENDING: u8 = 1;
/// Transmitter holding register empty, in the interrupt identification register.
const PENDING_EMPTY: u8 = 2;
/// Received data available, in the interrupt identification register.
const PENDING_RECEIVED: u8 = 4;
/// The transmitter is ready and idle, in the line status register.
const READY: u8 = 0x60;
/// There is data to read, in the line status register.
const RECEIVED: u8 = 1;

/// A serial port whose far end is a [`Console`].
#[derive(Debug)]
pub(in crate::vm_process) struct Serial {
    port: vm_superio::Serial<ByLevel, NoEvents, Far>,
}

impl Serial {
    /// A port in the state after reset, which sends to `console`.
    pub(in crate::vm_process) fn new(console: Console) -> Self {
        Self { port: vm_superio::Serial::new(ByLevel, Far(console)) }
    }

    /// A port that goes on where a saved one stopped, and sends to `console`.
    ///
    /// # Errors
    ///
    /// The port holds more than its FIFO has room for.
    pub(in crate::vm_process) fn restored(
        state: &SerialState,
        console: Console,
    ) -> io::Result<Self> {
        let port =
            vm_superio::Serial::from_state(&state.checked(), ByLevel, NoEvents, Far(console));
        Ok(Self { port: port.map_err(|_| io::ErrorKind::InvalidData)? })
    }

    /// The port as it is, to be saved.
    pub(in crate::vm_process) fn state(&self) -> SerialState {
        SerialState::from(self.port.state())
    }

    /// What has come through the port.
    pub(in crate::vm_process) fn console(&mut self) -> &mut Console {
        &mut self.port.writer_mut().0
    }

    /// Whether `port` belongs to the serial port.
    pub(in crate::vm_process) fn has(port: u16) -> bool {
        Console::has(port)
    }

    /// The guest reads from `port`. Each byte of `data` is one access to the same register.
    pub(in crate::vm_process) fn read(&mut self, port: u16, data: &mut [u8]) {
        let register = register(port);
        data.iter_mut().for_each(|byte| *byte = register.map_or(0xff, |at| self.port.read(at)));
    }

    /// The guest writes to `port`. Each byte of `data` is one access to the same register.
    pub(in crate::vm_process) fn write(&mut self, port: u16, data: &[u8]) {
        let Some(register) = register(port) else { return };
        for byte in data {
            // Fails only where the far end does, and this one takes everything.
            let _sent = self.port.write(register, *byte);
        }
    }

    /// Whether the guest's interrupt line is to be high. To be asked after every access.
    pub(in crate::vm_process) fn interrupt(&self) -> bool {
        let state = self.port.state();
        let pending = state.interrupt_identification;
        [(ENABLE_EMPTY, PENDING_EMPTY), (ENABLE_RECEIVED, PENDING_RECEIVED)]
            .iter()
            .any(|(enable, bit)| state.interrupt_enable & enable != 0 && pending & bit != 0)
    }
}

fn register(port: u16) -> Option<u8> {
    if !Console::has(port) {
        return None;
    }
    port.checked_sub(PORT).and_then(|at| u8::try_from(at).ok())
}

/// A saved [`Serial`], without what has come through it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(in crate::vm_process) struct SerialState {
    divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    /// Bytes that came back in loopback mode and were not read yet.
    received: Vec<u8>,
}

impl SerialState {
    /// The registers as the port itself would have them. What it never changes, or what follows
    /// from the rest, is not taken from anybody.
    fn checked(&self) -> vm_superio::SerialState {
        let pending = self.interrupt_identification & (PENDING_EMPTY | PENDING_RECEIVED);
        let received = if self.received.is_empty() { 0 } else { RECEIVED };
        let [baud_divisor_low, baud_divisor_high] = self.divisor;
        vm_superio::SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: self.interrupt_enable & 0xf,
            interrupt_identification: if pending == 0 { NOTHING_PENDING } else { pending },
            line_control: self.line_control,
            line_status: READY | received,
            modem_control: self.modem_control,
            modem_status: self.modem_status,
            scratch: self.scratch,
            in_buffer: self.received.clone(),
        }
    }
}

impl From<vm_superio::SerialState> for SerialState {
    fn from(state: vm_superio::SerialState) -> Self {
        Self {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            received: state.in_buffer,
        }
    }
}

/// The interrupt is looked at after each access ([`Serial::interrupt`]), not announced.
#[derive(Debug)]
struct ByLevel;

impl vm_superio::Trigger for ByLevel {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The far end of the port.
#[derive(Debug)]
struct Far(Console);

impl Write for Far {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(PORT, bytes);
        Ok(bytes.len())
    }

    /// Nothing: the port asks for it after every byte, and the console knows better when.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
