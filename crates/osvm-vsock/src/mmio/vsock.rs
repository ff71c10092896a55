//! The vsock device behind its registers.
//!
//! [`Vsock`] does all the work of one exit in that exit: a notification on the tx queue takes the
//! packets, writes them to the host sockets, and puts what those sockets hold already, and every
//! answer, into the rx queue.
//!
//! # A saved device
//!
//! Connections are not saved: their other ends are sockets of a process that is gone. The driver of
//! a restored device is told so with a transport reset (virtio 1.2, 5.10.6.7): its connections end,
//! its listeners stay. What the host connects before the driver has dealt with that waits.

use super::{NotRestored, Registers, RegistersState, Written};
use crate::abuse::{Abuse, QueueName};
use crate::device::{Device, Progress};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vm_memory::GuestMemory;

/// How often queues are looked at in one exit. A vCPU that waits for the exit to end can fill a
/// queue once; only another one that runs meanwhile can fill it more often, and it notifies again.
const LOOKS: usize = 16;

/// Nothing beyond virtio 1.0: streams are implied, other socket types are not offered.
const FEATURES: u64 = 0;
/// Queue order of a vsock device.
const QUEUES: [QueueName; 3] = [QueueName::Rx, QueueName::Tx, QueueName::Event];

/// A saved [`Vsock`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {
    /// The transport.
    pub registers: RegistersState,
    /// The host's port of the next connection, so that no copy of the guest takes a new connection
    /// for one it had.
    pub next_port: u32,
}

/// A vsock device behind virtio-mmio registers.
#[derive(Debug)]
pub struct Vsock {
    device: Device,
    registers: Registers<3>,
    delivered: bool,
}

impl Vsock {
    /// A device in the state after reset.
    pub fn new(device: Device) -> io::Result<Self> {
        let registers = Registers::new(VIRTIO_ID_VSOCK, FEATURES, QUEUES)?;
        Ok(Self { device, registers, delivered: false })
    }

    /// A device that goes on where a saved one stopped, for a guest with the same memory as then.
    ///
    /// `device` is new. Its guest may have another CID than the saved one: the driver learns it
    /// with the transport reset.
    ///
    /// # Errors
    ///
    /// The state, or what the rings hold, is none that a driver can have made.
    pub fn restored<M: GuestMemory>(
        device: Device,
        state: &VsockState,
        mem: &M,
    ) -> Result<Self, NotRestored> {
        let mut vsock = Self::new(device)?;
        vsock.registers.restore(mem, &state.registers)?;
        vsock.device.succeed(state.next_port);
        if vsock.registers.is_running() {
            vsock.device.transport_reset();
            vsock.pump(mem)?;
        }
        Ok(vsock)
    }

    /// The device as it is, without its connections, to be saved together with guest memory.
    pub fn state(&self) -> VsockState {
        VsockState { registers: self.registers.state(), next_port: self.device.next_port() }
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
        self.registers.interrupt()
    }

    /// The guest loads from `offset` in the register file.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.registers.read(offset, data, &self.device.config());
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
        match self.registers.write(mem, offset, data)? {
            Written::Settled => Ok(()),
            Written::Work => self.pump(mem),
            Written::Reset => {
                self.device.driver_reset();
                Ok(())
            }
        }
    }

    /// All there is to do between guest and host right now.
    fn pump<M: GuestMemory>(&mut self, mem: &M) -> Result<(), Abuse> {
        for _ in 0..LOOKS {
            if !self.look(mem)? {
                break;
            }
        }
        Ok(())
    }

    /// Looks at each queue once. Says whether to look again.
    fn look<M: GuestMemory>(&mut self, mem: &M) -> Result<bool, Abuse> {
        let [rx, tx, event] = self.registers.queues();
        let device = &mut self.device;
        let idle = Ok(Progress::default());
        let sent = tx.map_or(idle, |tx| device.process_tx(mem, tx))?;
        let told = event.map_or(idle, |event| device.process_event(mem, event))?;
        let got = rx.map_or(idle, |rx| device.process_rx(mem, rx))?;
        self.delivered |= got.used != 0 || told.used != 0;
        if sent.interrupt || told.interrupt || got.interrupt {
            self.registers.raise();
        }
        Ok(sent.more || got.more)
    }
}
