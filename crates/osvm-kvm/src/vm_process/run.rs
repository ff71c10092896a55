//! Runs the guest until it ends.
//!
//! ```text
//! KVM_RUN ─▶ exit ─┬─ MMIO in the vsock device's page ─▶ device ─▶ KVM_RUN
//!                  ├─ serial port ─▶ console ────────────────────▶ KVM_RUN
//!                  ├─ hlt ─▶ wait for host sockets and osvm ─────▶ KVM_RUN
//!                  └─ anything else ─▶ End
//! ```
//!
//! # Invariants
//!
//! - Every exit is answered without blocking, except `hlt`, which waits for the host.
//! - A guest that polls a device register instead of halting is served too: every
//!   [`LOOK_AFTER`] exits the host's side is looked at.
//! - What the guest was given before its `hlt` but may not have seen makes it run on at once,
//!   so no wake-up is lost.

use super::Socket;
use super::console::Console;
use crate::control::{Counts, Device, End, Event, MAX_TEXT, Order};
use crate::error::{OrFail, StepFailed};
use crate::kvm_stats::KvmStats;
use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
use kvm_ioctls::{VcpuExit, VcpuFd};
use osvm_vsock::{Abuse, Event as DeviceEvent, mmio::REGION_SIZE, mmio::Vsock};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::io;
use std::os::fd::OwnedFd;
use vm_memory::GuestMemoryMmap;

/// Where the vsock device's registers are; the command line says so to the guest.
const VSOCK_AT: u64 = 0xd000_0000;
/// Size of the page they are in; what lies behind the registers reads as zero.
const VSOCK_PAGE: u64 = 0x1000;
/// Exits after which the host's side is looked at when the guest does not halt.
const LOOK_AFTER: u64 = 16;
/// Keyboard controller, whose command 0xfe resets a PC.
const RESET_PORT: u16 = 0x64;
const RESET: u8 = 0xfe;

/// Why the loop around KVM_RUN stopped for a moment.
enum Pause {
    /// The guest waits for the host.
    Halted,
    /// The guest asked for something KVM can't interpret.
    InternalError,
}

const NO_MEMORY: &str = "the host has no memory left for the guest";

/// Who woke the process.
const FROM_OSVM: u64 = 0;
const FROM_LIFELINE: u64 = 1;
const FROM_DEVICE: u64 = 2;

/// A guest that can run.
pub(super) struct Running {
    vcpu: VcpuFd,
    parts: Parts,
    _lease: Option<OwnedFd>,
}

/// All of the machine but its processor, which is borrowed while an exit is answered.
struct Parts {
    memory: GuestMemoryMmap,
    vsock: Vsock,
    console: Console,
    epoll: OwnedFd,
    exits: u64,
    // `Some` until the counts have been sent; the inner one is `None` without KVM statistics.
    count: Option<Option<KvmStats>>,
}

impl Running {
    /// Puts the parts together.
    pub(super) fn new(
        vcpu: VcpuFd,
        memory: GuestMemoryMmap,
        mut vsock: Vsock,
        console: Console,
        count: Option<Option<KvmStats>>,
        lease: Option<OwnedFd>,
    ) -> Result<Self, StepFailed> {
        const WHAT: &str = "make an epoll set";
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).or_fail(WHAT)?;
        let (osvm, lifeline) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        let add =
            |fd, from| epoll::add(&set, fd, epoll::EventData::new_u64(from), epoll::EventFlags::IN);
        add(osvm, FROM_OSVM).or_fail(WHAT)?;
        add(lifeline, FROM_LIFELINE).or_fail(WHAT)?;
        add(vsock.device().epoll_fd(), FROM_DEVICE).or_fail(WHAT)?;
        let parts = Parts { memory, vsock, console, epoll: set, exits: 0, count };
        Ok(Self { vcpu, parts, _lease: lease })
    }

    /// See [`enter_without_running`].
    pub(super) fn enter_without_running(&mut self) -> Result<(), StepFailed> {
        enter_without_running(&mut self.vcpu)
    }

    /// Runs the guest until it ends, and says how.
    pub(super) fn run(mut self, osvm: &Socket) -> End {
        loop {
            let paused = match self.vcpu.run() {
                Ok(exit) => self.parts.answer(exit, osvm),
                Err(error) => stopped(error),
            };
            let ended = match paused {
                Ok(None) => continue,
                Ok(Some(Pause::Halted)) => self.parts.wait(osvm).err(),
                Ok(Some(Pause::InternalError)) => Some(internal_error(&mut self.vcpu)),
                Err(end) => Some(end),
            };
            if let Some(end) = ended {
                return last(&mut self.parts.console, end);
            }
        }
    }
}

/// Lets KVM do what it does at the first entry, without an instruction of the guest: it starts
/// a thread of its own in this process, which the jail's limits would forbid.
pub(super) fn enter_without_running(vcpu: &mut VcpuFd) -> Result<(), StepFailed> {
    vcpu.set_kvm_immediate_exit(1);
    let refused = match vcpu.run().map(|_| ()) {
        // What an immediate exit looks like.
        Err(error) if error.errno() == libc::EINTR => Ok(()),
        Err(error) => Err(error),
        Ok(()) => Err(kvm_ioctls::Error::new(libc::EIO)),
    };
    vcpu.set_kvm_immediate_exit(0);
    refused.or_fail("enter the VM")
}

/// Says what KVM could not do, with the bytes of the instruction if it is known.
pub(super) fn internal_error(vcpu: &mut VcpuFd) -> End {
    let rip = vcpu.get_regs().map_or(0, |regs| regs.rip);
    let run = vcpu.get_kvm_run();
    // SAFETY: the exit was KVM_EXIT_INTERNAL_ERROR, for which KVM fills in this member; all
    // of its bit patterns are valid.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    let reason = if failure.suberror == KVM_INTERNAL_ERROR_EMULATION {
        // SAFETY: the only member of this union, plain bytes.
        let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        // Flag 1: the instruction's bytes are there (linux/kvm.h).
        let known = 3 <= failure.ndata && failure.flags & 1 != 0;
        let len = if known { usize::from(instruction.insn_size) } else { 0 };
        let bytes = instruction.insn_bytes.iter().take(len);
        let bytes: String = bytes.map(|byte| format!(" {byte:02x}")).collect();
        format!("KVM cannot interpret the instruction{bytes} at {rip:#x}")
    } else {
        format!("KVM failed with internal error {} at {rip:#x}", failure.suberror)
    };
    End::VmmFailed { reason }
}

/// What an exit means that asks nothing of any device: the end.
pub(super) fn fatal(exit: VcpuExit<'_>) -> End {
    match exit {
        VcpuExit::Shutdown => End::TripleFault,
        VcpuExit::MemoryFault { .. } => failed(NO_MEMORY),
        VcpuExit::FailEntry(reason, _) => {
            failed(&format!("the processor refused the guest, reason {reason:#x}"))
        }
        exit => failed(&format!("unexpected exit {exit:?}")),
    }
}

/// KVM_RUN failed for good.
pub(super) fn cannot_run(error: kvm_ioctls::Error) -> End {
    match error.errno() {
        libc::EFAULT => failed(NO_MEMORY),
        _ => failed(&format!("KVM_RUN failed: {error}")),
    }
}

/// The end, in the guest's own words if it left any.
pub(super) fn last(console: &mut Console, end: End) -> End {
    console.flush();
    match (end, console.last_words()) {
        (End::TripleFault | End::ShutDown, Some(words)) => {
            End::Panicked { last_words: osvm_vmm::clean(words.as_bytes(), MAX_TEXT) }
        }
        (end, _) => end,
    }
}

/// KVM_RUN returned without an exit of the guest.
fn stopped(error: kvm_ioctls::Error) -> Result<Option<Pause>, End> {
    if error.errno() == libc::EINTR { Ok(None) } else { Err(cannot_run(error)) }
}

impl Parts {
    fn answer(&mut self, exit: VcpuExit<'_>, osvm: &Socket) -> Result<Option<Pause>, End> {
        self.exits += 1;
        match exit {
            VcpuExit::Hlt => return Ok(Some(Pause::Halted)),
            VcpuExit::MmioRead(address, data) => {
                let offset = in_vsock(address)?;
                if offset < REGION_SIZE { self.vsock.read(offset, data) } else { data.fill(0) }
            }
            VcpuExit::MmioWrite(address, data) => {
                let offset = in_vsock(address)?;
                self.vsock.write(&self.memory, offset, data).map_err(abuse)?;
                self.tell(osvm)?;
            }
            VcpuExit::IoOut(RESET_PORT, [RESET]) => return Err(End::ShutDown),
            VcpuExit::IoOut(port, data) => self.console.write(port, data),
            VcpuExit::IoIn(port, data) => {
                // A port where nothing answers reads as ones.
                data.fill(if Console::has(port) { Console::read(port) } else { 0xff });
            }
            VcpuExit::Intr => {}
            VcpuExit::InternalError => return Ok(Some(Pause::InternalError)),
            exit => return Err(fatal(exit)),
        }
        if self.exits.is_multiple_of(LOOK_AFTER) {
            self.look(osvm, Some(&Timespec::default()))?;
        }
        Ok(None)
    }

    /// Waits until the guest has something to do.
    fn wait(&mut self, osvm: &Socket) -> Result<(), End> {
        self.console.flush();
        while !self.vsock.take_delivered() {
            self.look(osvm, None)?;
        }
        Ok(())
    }

    /// Serves what the host wants, after waiting for it no longer than `timeout`.
    fn look(&mut self, osvm: &Socket, timeout: Option<&Timespec>) -> Result<(), End> {
        let mut woken = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 3];
        let count = match epoll::wait(&self.epoll, &mut woken, timeout) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(failed(&format!("waiting failed: {error}"))),
        };
        for event in woken.into_iter().take(count) {
            match event.data.u64() {
                FROM_OSVM => self.hear(osvm)?,
                FROM_DEVICE => self.vsock.service(&self.memory).map_err(abuse)?,
                _ => return Err(failed("osvm is gone")),
            }
        }
        if count == 0 { Ok(()) } else { self.tell(osvm) }
    }

    /// Does what osvm asks for.
    fn hear(&mut self, osvm: &Socket) -> Result<(), End> {
        let mut buffer = [0; 256];
        let received = match osvm.receive(&mut buffer, RecvFlags::DONTWAIT) {
            Ok(Some(received)) => received,
            Ok(None) => return Err(failed("osvm is gone")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(failed(&format!("osvm cannot be heard: {error}"))),
        };
        let order = buffer.get(..received.len).unwrap_or_default();
        let order: Result<Order, _> = serde_json::from_slice(order);
        let (Ok(Order::Connect { token, port }), Some(host)) =
            (order, received.fds.into_iter().next())
        else {
            return Err(failed("osvm sent something unreadable"));
        };
        self.vsock.connect(&self.memory, port, host, token).map_err(abuse)
    }

    /// Passes on what happened to the device.
    fn tell(&mut self, osvm: &Socket) -> Result<(), End> {
        for event in self.vsock.device().take_events() {
            let event = match event {
                DeviceEvent::Accepted { token } => Event::Accepted { token },
                DeviceEvent::Refused { token, .. } => Event::Refused { token },
                // Only ports the device listens on come here, and it listens on none.
                DeviceEvent::Incoming(_) => continue,
            };
            osvm.send(&event, &[]).map_err(unheard)?;
        }
        if self.count.is_some() && self.vsock.device().payload_from_guest() != 0 {
            let stats = self.count.take().flatten();
            let interpreted = stats.and_then(|stats| stats.interpreted());
            let counts = Counts { exits: self.exits, interpreted };
            osvm.send(&Event::Counted(counts), &[]).map_err(unheard)?;
        }
        Ok(())
    }
}

/// The offset of `address` in the device's page.
fn in_vsock(address: u64) -> Result<u64, End> {
    let offset = address.checked_sub(VSOCK_AT).filter(|offset| *offset < VSOCK_PAGE);
    offset.ok_or(End::OutOfBounds { address })
}

fn abuse(abuse: Abuse) -> End {
    End::DeviceAbuse { device: Device::Vsock, reason: abuse.to_string() }
}

pub(super) fn unheard(error: io::Error) -> End {
    failed(&format!("osvm does not listen: {error}"))
}

pub(super) fn failed(reason: &str) -> End {
    End::VmmFailed { reason: reason.into() }
}
