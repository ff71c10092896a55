//! The VM process: the whole of `osvm-vm`, which runs one guest and nothing else.
//!
//! ```text
//! exec ─▶ lifeline ─▶ empty VM, no network ─▶ spec ─▶ image loaded ─▶ jail ─▶ guest
//!                 (while osvm prepares the spec)
//! ```
//!
//! Standard input is the control socket, standard output the lifeline, standard error takes
//! what the dynamic linker or a panic has to say. There are no arguments and no environment.
//!
//! # Invariants
//!
//! - One thread, one guest. The process ends with its guest, by `_exit`: there is nothing in it
//!   worth destroying that the kernel does not destroy faster.
//! - From the moment the lifeline is armed the kernel kills this process when osvm is gone,
//!   even while the guest spins without an exit.
//! - Everything that handles the guest's own bytes happens inside the jail; only the image
//!   is read before it, by code that trusts none of its fields.

mod console;
mod image;
mod jail;
pub(crate) mod lifeline;
mod run;

use crate::control::{BootTimes, Control, Event, MAX_ORDER, NotStarted, Start};
use crate::cpu;
use crate::error::{OrFail, StepFailed};
use crate::kvm_stats::KvmStats;
use console::Console;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use osvm_vsock::{Device, mmio::Vsock};
use run::Running;
use rustix::mm::Advice;
use rustix::net::RecvFlags;
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::ExitCode;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// The VM process's end of the control socket.
type Socket = Control<BorrowedFd<'static>>;

/// An empty VM.
struct Empty {
    vm: VmFd,
    vcpu: VcpuFd,
}

/// What osvm sent.
struct Given {
    start: Start,
    kernel: File,
    memory: File,
    console: OwnedFd,
    // Held, not used: the guest's CID is taken for as long as this process lives.
    lease: Option<OwnedFd>,
    boot_page: Vec<u8>,
}

/// Runs one guest, told by the control socket that is standard input. Does not return if there
/// was a guest.
pub fn main() -> ExitCode {
    let started = now();
    lifeline::close_inherited();
    let control = Control::new(rustix::stdio::stdin());
    if let Err(error) = lifeline::arm(rustix::stdio::stdout()) {
        return give_up(&error);
    }
    match prepare(&control, started) {
        Ok(running) => {
            let end = running.run(&control);
            // Nothing to do when osvm is gone: nobody is left to be told.
            let _sent = control.send(&Event::Ended(end), &[]);
            lifeline::exit(0)
        }
        Err(failure) => match control.send(&Event::NotStarted(failure), &[]) {
            Ok(()) => ExitCode::FAILURE,
            Err(error) => give_up(&error),
        },
    }
}

/// For whoever starts this program by hand.
fn give_up(error: &io::Error) -> ExitCode {
    let text = format!("osvm-vm: {error}; this program is started by osvm, not by hand\n");
    let _written = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    ExitCode::FAILURE
}

fn prepare(control: &Socket, started: u64) -> Result<Running, NotStarted> {
    let empty = make_vm()?;
    // Before KVM makes its thread: a process with two threads gets no user namespace.
    let network_namespace = jail::leave_network();
    let vm_made = now();
    let mut given = receive(control)?;
    let told = now();
    let memory = map_memory(&empty.vm, &given)?;
    let Given { start, kernel, boot_page, .. } = &mut given;
    let entry = image::load(&memory, kernel, start.protocol, boot_page)?;
    cpu::enter(&empty.vcpu, entry).or_fail("set the processor's registers")?;
    let Given { start, kernel, memory: memory_file, console, lease, .. } = given;
    drop((kernel, memory_file));
    let cid =
        start.cid().ok_or(io::Error::from(io::ErrorKind::InvalidInput)).or_fail("use the CID")?;
    let device = Device::new(cid).and_then(Vsock::new).or_fail("make the vsock device")?;
    let stats = if start.count { Some(KvmStats::open(&empty.vcpu)) } else { None };
    let console_len = rustix::fs::fstat(&console).or_fail("look at the console's file")?.st_size;
    let Empty { vm, vcpu } = empty;
    // The vCPU keeps the VM alive.
    drop(vm);
    let mut running = Running::new(vcpu, memory, device, Console::new(console), stats, lease)?;
    let loaded = now();
    running.enter_without_running()?;
    let jail = jail::enter(network_namespace, start.memory, console_len.unsigned_abs())?;
    let times = BootTimes { started, vm_made, told, loaded, jailed: now() };
    control.send(&Event::Ready { jail, times }, &[]).or_fail("tell osvm that the guest starts")?;
    Ok(running)
}

/// Makes what does not depend on the spec, while osvm still prepares it.
fn make_vm() -> Result<Empty, NotStarted> {
    let kvm = Kvm::new().map_err(|error| NotStarted::OpenKvm { errno: error.errno() })?;
    let vm = kvm.create_vm().or_fail("make a VM")?;
    cpu::prepare(&vm).or_fail("set the VM's TSS address")?;
    let vcpu = vm.create_vcpu(0).or_fail("make a vCPU")?;
    cpu::set_cpuid(&vcpu).or_fail("set CPUID")?;
    Ok(Empty { vm, vcpu })
}

fn receive(control: &Socket) -> Result<Given, StepFailed> {
    let unreadable = || io::Error::from(io::ErrorKind::InvalidData);
    let mut buffer = vec![0; MAX_ORDER];
    let receive = |buffer: &mut [u8]| {
        let received = control.receive(buffer, RecvFlags::empty())?;
        received.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))
    };
    let received = receive(&mut buffer).or_fail("receive the spec")?;
    let start: Result<Start, _> =
        serde_json::from_slice(buffer.get(..received.len).unwrap_or_default());
    let start = start.map_err(|_| unreadable()).or_fail("read the spec")?;
    let mut fds = received.fds.into_iter();
    let (Some(kernel), Some(memory), Some(console)) = (fds.next(), fds.next(), fds.next()) else {
        return Err(unreadable()).or_fail("receive the guest's descriptors");
    };
    let lease = fds.next();
    let mut boot_page = Vec::new();
    if start.boot_page != 0 {
        let received = receive(&mut buffer).or_fail("receive the boot page")?;
        buffer.truncate(received.len);
        boot_page = buffer;
    }
    Ok(Given { start, kernel: kernel.into(), memory: memory.into(), console, lease, boot_page })
}

/// Maps guest memory here and into the guest, from address 0 up.
fn map_memory(vm: &VmFd, given: &Given) -> Result<GuestMemoryMmap, StepFailed> {
    const WHAT: &str = "map the guest's memory";
    let file = given.memory.try_clone().or_fail(WHAT)?;
    let size = usize::try_from(given.start.memory).map_err(io::Error::other).or_fail(WHAT)?;
    let range = (GuestAddress(0), size, Some(FileOffset::new(file, 0)));
    let memory =
        GuestMemoryMmap::from_ranges_with_files([range]).map_err(io::Error::other).or_fail(WHAT)?;
    let host = memory.get_host_address(GuestAddress(0)).map_err(io::Error::other).or_fail(WHAT)?;
    // SAFETY: the range is the mapping just made, and this advice changes no contents.
    unsafe { rustix::mm::madvise(host.cast(), size, Advice::LinuxNoHugepage) }.or_fail(WHAT)?;
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: given.start.memory,
        userspace_addr: host as u64,
    };
    // SAFETY: `memory` maps these bytes and is dropped only when the process ends; everything
    // that reads them knows that the guest writes there too.
    unsafe { vm.set_user_memory_region(slot) }.or_fail("give the guest its memory")?;
    Ok(memory)
}

/// CLOCK_MONOTONIC in nanoseconds, the same clock in osvm and in the VM process.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec
        .unsigned_abs()
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec.unsigned_abs())
}
