//! Runs a Linux guest: the vCPU's thread, the host's thread, and how one stops the other.
//!
//! # Invariants
//!
//! - Every exit is answered without blocking. The threads wait for each other's turn at the
//!   [`Board`], which is as long as one exit or one look at the host's sockets.
//! - The signal that stops the vCPU is blocked but while KVM_RUN runs. So it is never lost between
//!   two of them, and never delivered: it makes KVM_RUN return, and stays.
//! - When KVM_RUN returns for a signal, the exit before it has been completed.

use super::Socket;
use super::board::Board;
use super::state::State;
use crate::control::{Control, End, Event, Order};
use crate::error::{OrFail, StepFailed};
use crate::vm_process::lifeline;
use crate::vm_process::run::{cannot_run, enter_without_running, failed, fatal, internal_error};
use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};

/// `_IOW(KVMIO, 0x8b, struct kvm_signal_mask)` of `linux/kvm.h`.
const KVM_SET_SIGNAL_MASK: libc::Ioctl = 0x4004_ae8b;
/// What makes KVM_RUN return.
const KICK: libc::c_int = libc::SIGUSR1;
/// The host thread's stack, in bytes.
const STACK: usize = 512 << 10;

/// Who woke the host thread.
const FROM_OSVM: u64 = 0;
const FROM_LIFELINE: u64 = 1;
const FROM_VSOCK: u64 = 2;

/// A Linux guest that can run.
pub(in crate::vm_process) struct Running {
    vcpu: VcpuFd,
    cpuid: CpuId,
    msrs: Vec<u32>,
    shared: Arc<Shared>,
    _lease: Option<OwnedFd>,
}

/// What the two threads have in common.
struct Shared {
    board: Mutex<Board>,
    epoll: OwnedFd,
    /// Both threads are there; then, both may begin.
    together: Barrier,
    process: libc::pid_t,
}

impl Running {
    /// Puts the parts together. This thread becomes the vCPU's.
    pub(super) fn new(
        vcpu: VcpuFd,
        cpuid: CpuId,
        msrs: Vec<u32>,
        mut board: Board,
        lease: Option<OwnedFd>,
    ) -> Result<Self, StepFailed> {
        const WHAT: &str = "make an epoll set";
        block_kick().or_fail("block a signal")?;
        allow_kick(&vcpu).or_fail("let a signal stop the guest")?;
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).or_fail(WHAT)?;
        let (osvm, lifeline) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        let add =
            |fd, from| epoll::add(&set, fd, epoll::EventData::new_u64(from), epoll::EventFlags::IN);
        add(osvm, FROM_OSVM).or_fail(WHAT)?;
        add(lifeline, FROM_LIFELINE).or_fail(WHAT)?;
        add(board.devices.vsock.device().epoll_fd(), FROM_VSOCK).or_fail(WHAT)?;
        // SAFETY: getpid has no preconditions.
        let process = unsafe { libc::getpid() };
        let (board, together) = (Mutex::new(board), Barrier::new(2));
        let shared = Arc::new(Shared { board, epoll: set, together, process });
        Ok(Self { vcpu, cpuid, msrs, shared, _lease: lease })
    }

    /// See [`enter_without_running`].
    pub(super) fn enter_without_running(&mut self) -> Result<(), StepFailed> {
        enter_without_running(&mut self.vcpu)
    }

    /// Starts the host's thread. When this returns, that thread has done what threads do at their
    /// start, and waits for [`Running::run`].
    pub(super) fn start_host_thread(&self) -> Result<(), StepFailed> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("host".into()).stack_size(STACK);
        let _detached = thread.spawn(move || shared.host_thread()).or_fail("start a thread")?;
        self.shared.together.wait();
        Ok(())
    }

    /// Runs the guest until it ends. The process ends with it, so this does not return.
    pub(in crate::vm_process) fn run(mut self, osvm: &Socket) -> End {
        self.shared.together.wait();
        loop {
            let end = match self.vcpu.run() {
                Ok(VcpuExit::Intr) => continue,
                Ok(VcpuExit::InternalError) => Err(internal_error(&mut self.vcpu)),
                Ok(exit) => answer(&mut self.shared.board(), exit),
                Err(error) if error.errno() == libc::EINTR => self.save_if_told(osvm),
                Err(error) => Err(cannot_run(error)),
            };
            if let Err(end) = end {
                finish(self.shared.board(), end, osvm);
            }
        }
    }

    /// The vCPU stands still: saves the guest if that is why.
    fn save_if_told(&self, osvm: &Socket) -> Result<(), End> {
        let mut board = self.shared.board();
        let Some(file) = board.save.take() else { return Ok(()) };
        let state = State::of(&board, &self.vcpu, &self.cpuid, &self.msrs);
        let event = match state.and_then(|state| state.write(&file)) {
            Ok(()) => Event::Saved,
            Err(error) => Event::NotSaved { reason: error.to_string() },
        };
        board.devices.serial.console().flush();
        let _sent = osvm.send(&event, &[]);
        // With the board in hand: nothing touches guest memory any more.
        lifeline::exit(0)
    }
}

/// Does what the guest asks of the board.
fn answer(board: &mut Board, exit: VcpuExit<'_>) -> Result<(), End> {
    match exit {
        VcpuExit::MmioRead(address, data) => board.load(address, data),
        VcpuExit::MmioWrite(address, data) => board.store(address, data),
        VcpuExit::IoIn(port, data) => board.port_in(port, data),
        VcpuExit::IoOut(port, data) => board.port_out(port, data),
        exit => Err(fatal(exit)),
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        // A thread that panics while it holds the board ends the process: it may not unwind to
        // its end in the jail.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves the host's side for as long as the process lives.
    fn host_thread(&self) {
        let osvm = Control::new(rustix::stdio::stdin());
        self.together.wait();
        self.together.wait();
        loop {
            if let Err(end) = self.look(&osvm) {
                finish(self.board(), end, &osvm);
            }
        }
    }

    /// Waits for the host, and serves it.
    fn look(&self, osvm: &Socket) -> Result<(), End> {
        let mut woken = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 3];
        let count = match epoll::wait(&self.epoll, &mut woken, None) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(failed(&format!("waiting failed: {error}"))),
        };
        for event in woken.into_iter().take(count) {
            match event.data.u64() {
                FROM_OSVM => self.hear(osvm)?,
                FROM_VSOCK => self.board().serve_host()?,
                _ => return Err(failed("osvm is gone")),
            }
        }
        Ok(())
    }

    /// Does what osvm asks for.
    fn hear(&self, osvm: &Socket) -> Result<(), End> {
        let mut buffer = [0; 256];
        let received = match osvm.receive(&mut buffer, RecvFlags::DONTWAIT) {
            Ok(Some(received)) => received,
            Ok(None) => return Err(failed("osvm is gone")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(failed(&format!("osvm cannot be heard: {error}"))),
        };
        let order = serde_json::from_slice(buffer.get(..received.len).unwrap_or_default());
        let (Ok(order), Some(fd)) = (order, received.fds.into_iter().next()) else {
            return Err(failed("osvm sent something unreadable"));
        };
        match order {
            Order::Connect { token, port } => self.board().connect(port, fd, token),
            Order::Save => {
                self.board().save = Some(fd);
                self.kick().map_err(|error| failed(&format!("the guest can't be stopped: {error}")))
            }
        }
    }

    /// Makes the vCPU's thread, the first of the process, return from KVM_RUN.
    fn kick(&self) -> io::Result<()> {
        // SAFETY: takes three numbers and touches no memory.
        match unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.process, KICK) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Tells how the guest ended and ends the process, with the board in hand.
fn finish(mut board: MutexGuard<'_, Board>, end: End, osvm: &Socket) -> ! {
    let end = board.last(end);
    // Nothing to do when osvm is gone: nobody is left to be told.
    let _sent = osvm.send(&Event::Ended(end), &[]);
    lifeline::exit(0)
}

/// Blocks [`KICK`] in this thread and those it starts.
fn block_kick() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` has room for what this writes.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was made just now.
    unsafe { libc::sigaddset(set.as_mut_ptr(), KICK) };
    // SAFETY: the set was made above; nothing is written to a null pointer.
    let error =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Has KVM_RUN run with no signal blocked.
fn allow_kick(vcpu: &VcpuFd) -> io::Result<()> {
    /// `struct kvm_signal_mask` with the kernel's set of signals.
    #[repr(C)]
    struct Mask {
        len: u32,
        set: [u8; 8],
    }
    let mask = Mask { len: 8, set: [0; 8] };
    // SAFETY: KVM reads the length and as many bytes behind it.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK, &raw const mask) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
