//! The VM process: the whole of `osvm-vm`, which runs one guest and nothing else.
//!
//! ```text
//! exec ─▶ lifeline ─▶ empty VM, no network ─▶ spec ─▶ image loaded ─▶ jail ─▶ guest
//!                 (while osvm prepares the spec)
//! ```
//!
//! Standard input is the control socket, standard output the lifeline, standard error takes
//! what the dynamic linker or a panic has to say. There is no environment, and no argument but
//! [`LINUX`] for a Linux guest: its VM is made differently, before the spec is there.
//!
//! # Invariants
//!
//! - One guest, and one thread; a Linux guest has two, see `linux`. The process ends with its
//!   guest, by `_exit`: there is nothing in it worth destroying that the kernel does not destroy
//!   faster.
//! - From the moment the lifeline is armed the kernel kills this process when osvm is gone,
//!   even while the guest spins without an exit.
//! - Everything that handles the guest's own bytes happens inside the jail; only the image, or the
//!   state and the rings of a copy, are read before it, by code that trusts none of their fields.

mod console;
mod image;
mod jail;
pub(crate) mod lifeline;
mod linux;
mod run;

/// Its guest is hostile, so the fuzz targets need it.
#[doc(hidden)]
pub use linux::Block;

use crate::control::{BootTimes, Control, End, Event, MAX_ORDER, NotStarted, Start};
use crate::cpu;
use crate::error::{OrFail, StepFailed};
use crate::kvm_stats::KvmStats;
use console::Console;
use jail::Bounds;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use osvm_vsock::{Device, mmio::Vsock};
use run::Running;
use rustix::mm::Advice;
use rustix::net::RecvFlags;
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::ExitCode;
use vm_memory::mmap::{GuestRegionMmap, MmapRegion};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Of the states that Linux guests are saved in: see [`linux`].
pub(crate) const STATE_VERSION: u32 = linux::VERSION;

/// The argument that chooses a Linux guest.
pub const LINUX: &str = "linux";

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

/// Runs one unikernel, told by the control socket that is standard input. Does not return if there
/// was a guest.
pub fn main() -> ExitCode {
    live(prepare, Running::run)
}

/// Runs one Linux guest, as [`main`] does a unikernel.
pub fn linux_main() -> ExitCode {
    live(linux::prepare, linux::Running::run)
}

/// The life of a VM process.
fn live<R>(
    prepare: fn(&Socket, u64) -> Result<R, NotStarted>,
    run: fn(R, &Socket) -> End,
) -> ExitCode {
    let started = now();
    lifeline::close_inherited();
    let control = Control::new(rustix::stdio::stdin());
    if let Err(error) = lifeline::arm(rustix::stdio::stdout()) {
        return give_up(&error);
    }
    match prepare(&control, started) {
        Ok(running) => {
            let end = run(running, &control);
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
    let memory = map_memory(&empty.vm, &given.memory, given.start.memory, Writes::Shared)?;
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
    let bounds = Bounds { memory: start.memory, console_len: console_len.unsigned_abs() };
    let jail = jail::enter(network_namespace, bounds)?;
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
    let mut buffer = vec![0; MAX_ORDER];
    let (start, fds): (Start, _) = receive_spec(control, &mut buffer)?;
    let mut fds = fds.into_iter();
    let (Some(kernel), Some(memory), Some(console)) = (fds.next(), fds.next(), fds.next()) else {
        return Err(unreadable()).or_fail("receive the guest's descriptors");
    };
    let lease = fds.next();
    let mut boot_page = Vec::new();
    if start.boot_page != 0 {
        let (len, _) = receive_message(control, &mut buffer).or_fail("receive the boot page")?;
        buffer.truncate(len);
        boot_page = buffer;
    }
    Ok(Given { start, kernel: kernel.into(), memory: memory.into(), console, lease, boot_page })
}

/// Waits for the first message of osvm.
fn receive_spec<T: DeserializeOwned>(
    control: &Socket,
    buffer: &mut [u8],
) -> Result<(T, Vec<OwnedFd>), StepFailed> {
    let (len, fds) = receive_message(control, buffer).or_fail("receive the spec")?;
    let spec = serde_json::from_slice(buffer.get(..len).unwrap_or_default());
    Ok((spec.map_err(|_| unreadable()).or_fail("read the spec")?, fds))
}

/// Waits for a message; says how much of `buffer` it fills.
fn receive_message(control: &Socket, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let received = control.receive(buffer, RecvFlags::empty())?;
    let received = received.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
    Ok((received.len, received.fds))
}

fn unreadable() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Who sees what the guest writes to its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    /// Whoever has the memory file.
    Shared,
    /// This process alone.
    Private,
}

/// Maps guest memory here and into the guest, from address 0 up.
fn map_memory(
    vm: &VmFd,
    file: &File,
    bytes: u64,
    writes: Writes,
) -> Result<GuestMemoryMmap, StepFailed> {
    const WHAT: &str = "map the guest's memory";
    let file = file.try_clone().or_fail(WHAT)?;
    let size = usize::try_from(bytes).map_err(io::Error::other).or_fail(WHAT)?;
    let sharing = match writes {
        Writes::Shared => libc::MAP_SHARED,
        Writes::Private => libc::MAP_PRIVATE,
    };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_NORESERVE | sharing;
    let region = MmapRegion::build(Some(FileOffset::new(file, 0)), size, protection, flags);
    let region = region.map_err(io::Error::other).or_fail(WHAT)?;
    let region = GuestRegionMmap::new(region, GuestAddress(0));
    let region = region.ok_or(io::Error::from(io::ErrorKind::InvalidInput)).or_fail(WHAT)?;
    let memory =
        GuestMemoryMmap::from_regions(vec![region]).map_err(io::Error::other).or_fail(WHAT)?;
    let host = memory.get_host_address(GuestAddress(0)).map_err(io::Error::other).or_fail(WHAT)?;
    // SAFETY: the range is the mapping just made, and this advice changes no contents.
    unsafe { rustix::mm::madvise(host.cast(), size, Advice::LinuxNoHugepage) }.or_fail(WHAT)?;
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: bytes,
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
