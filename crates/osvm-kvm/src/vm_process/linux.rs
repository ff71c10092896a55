//! The VM process of a Linux guest, or of a copy of one.
//!
//! ```text
//! vCPU thread (the first)                    host thread
//! KVM_RUN ─▶ exit ─▶ Board ◀── mutex ──▶ Board ◀─ vsock's sockets, osvm's orders
//!                                                  └─ Save: signal ─▶ vCPU thread saves, ends
//! ```
//!
//! Unlike a unikernel's, this machine has KVM's own interrupt controllers and timer, so `hlt` does
//! not leave KVM_RUN, and a second thread is there for the host's side.
//!
//! # Invariants
//!
//! - As for unikernels: the jail is in force before the guest's first instruction, in both threads.
//! - The devices are behind one mutex. Whoever ends the process holds it, so nothing is done to
//!   guest memory after the last word, and one end is told.
//! - A copy's state is a stranger's words: bounded, checked by the devices and by KVM. One that is
//!   not taken in full is no guest.
//!
//! # Not here
//!
//! - What the devices do: [`block`], [`serial`] and `osvm-vsock`.

mod block;
mod board;
mod boot;
mod cpuid;
mod processor;
mod run;
mod serial;
mod state;

use super::console::Console;
use super::jail::{self, Bounds};
use super::{Socket, Writes, image, map_memory, now, receive_spec, unreadable};
use crate::control::{BootTimes, Event, Life, NotStarted, StartLinux};
use crate::cpu;
use crate::error::{OrFail, StepFailed};
pub use block::Block;
use board::{Board, Devices};
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use osvm_protocol::Cid;
use osvm_vsock::{Device, mmio::Vsock};
use serial::Serial;
use state::{MAX_STATE, State};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use vm_memory::GuestMemoryMmap;

pub(super) use run::Running;
pub(super) use state::VERSION;

/// Longest first message of osvm, in bytes.
const MAX_SPEC: usize = 1024;
/// The disk's serial number.
const DISK: &str = "root";

/// A VM without memory, and what it takes from the host's KVM.
struct Empty {
    vm: VmFd,
    vcpu: VcpuFd,
    kvm: Kvm,
}

/// What osvm sent.
struct Given {
    memory_bytes: u64,
    cid: Cid,
    memory: File,
    console: OwnedFd,
    root: File,
    life: Files,
    // Held, not used: the guest's CID is taken for as long as this process lives.
    lease: Option<OwnedFd>,
}

/// What the guest begins from.
enum Files {
    Boot { kernel: File, initrd: File },
    Copy { state: File },
}

/// Makes the guest, up to its first instruction.
pub(super) fn prepare(control: &Socket, started: u64) -> Result<Running, NotStarted> {
    let Empty { vm, vcpu, kvm } = make_vm()?;
    // Before KVM makes its thread: a process with two threads gets no user namespace.
    let network_namespace = jail::leave_network();
    let vm_made = now();
    let mut given = receive(control)?;
    let told = now();
    let writes = match given.life {
        Files::Boot { .. } => Writes::Shared,
        Files::Copy { .. } => Writes::Private,
    };
    let bytes = given.memory_bytes;
    let memory = map_memory(&vm, &given.memory, bytes, writes)?;
    let console_len = rustix::fs::fstat(&given.console).or_fail("look at the console's file")?;
    let bounds = Bounds { memory: bytes, console_len: console_len.st_size.unsigned_abs() };
    let device = Device::new(given.cid).or_fail("make the vsock device")?;
    let (root, console) = (given.root, Console::new(given.console));
    let (devices, cpuid) = match &mut given.life {
        Files::Boot { kernel, initrd } => {
            let entry = boot::load(&memory, kernel, initrd)?;
            let cpuid = cpuid::supported(&kvm).or_fail("ask KVM for CPUID")?;
            vcpu.set_cpuid2(&cpuid).or_fail("set CPUID")?;
            cpu::enter(&vcpu, entry).or_fail("set the processor's registers")?;
            (new_devices(device, root, console)?, cpuid)
        }
        Files::Copy { state } => {
            let state = State::read(state, bytes)?;
            let devices = restored_devices(device, root, console, &state, &memory)?;
            (devices, state.set(&vm, &vcpu)?)
        }
    };
    let msrs = processor::msr_indices(&kvm).or_fail("ask KVM for its list of registers")?;
    drop((kvm, given.memory, given.life));
    let board = Board::new(vm, memory, devices)?;
    let mut running = Running::new(vcpu, cpuid, msrs, board, given.lease)?;
    let loaded = now();
    running.enter_without_running()?;
    let threads = || running.start_host_thread();
    let (jail, ()) = jail::enter_linux(network_namespace, bounds, MAX_STATE, threads)?;
    let times = BootTimes { started, vm_made, told, loaded, jailed: now() };
    control.send(&Event::Ready { jail, times }, &[]).or_fail("tell osvm that the guest starts")?;
    Ok(running)
}

/// Makes what does not depend on the spec, while osvm still prepares it.
fn make_vm() -> Result<Empty, NotStarted> {
    let kvm = Kvm::new().map_err(|error| NotStarted::OpenKvm { errno: error.errno() })?;
    let vm = kvm.create_vm().or_fail("make a VM")?;
    cpu::prepare(&vm).or_fail("set the VM's TSS address")?;
    if !processor::fits(&kvm) {
        let unfit = io::Error::from(io::ErrorKind::Unsupported);
        return Err(unfit).or_fail("save so large a processor as this KVM has").map_err(Into::into);
    }
    // Before the vCPU, whose local APIC they are wired to.
    vm.create_irq_chip().or_fail("make the interrupt controllers")?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
    vm.create_pit2(pit).or_fail("make the timer")?;
    let vcpu = vm.create_vcpu(0).or_fail("make a vCPU")?;
    Ok(Empty { vm, vcpu, kvm })
}

fn receive(control: &Socket) -> Result<Given, StepFailed> {
    let (start, fds): (StartLinux, _) = receive_spec(control, &mut [0; MAX_SPEC])?;
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(unreadable).or_fail("receive the guest's descriptors");
    let (memory, console, root) = (next()?.into(), next()?, next()?.into());
    let life = match start.life {
        Life::Boot => Files::Boot { kernel: next()?.into(), initrd: next()?.into() },
        Life::Copy => Files::Copy { state: next()?.into() },
    };
    let cid = Cid::new(start.cid).map_err(io::Error::other).or_fail("use the CID")?;
    Ok(Given { memory_bytes: start.memory, cid, memory, console, root, life, lease: fds.next() })
}

fn new_devices(device: Device, root: File, console: Console) -> Result<Devices, StepFailed> {
    Ok(Devices {
        vsock: Vsock::new(device).or_fail("make the vsock device")?,
        block: Block::new(root, DISK).or_fail("make the disk")?,
        serial: Serial::new(console),
    })
}

fn restored_devices(
    device: Device,
    root: File,
    console: Console,
    state: &State,
    memory: &GuestMemoryMmap,
) -> Result<Devices, NotStarted> {
    let unfit = |error: &dyn std::error::Error| NotStarted::BadState { reason: error.to_string() };
    let vsock = Vsock::restored(device, &state.vsock, memory).map_err(|error| unfit(&error))?;
    let block = Block::restored(root, DISK, &state.block, memory).map_err(|error| unfit(&error))?;
    let serial = Serial::restored(&state.serial, console).map_err(|error| unfit(&error))?;
    Ok(Devices { vsock, block, serial })
}
