//! One guest under QEMU: started, connected to, killed, reaped.
//!
//! ```text
//! boot: memory file, sockets ──▶ guard ──exec──▶ QEMU        (VmProcess)
//!                          └───▶ service thread              (Service)
//! drop: kill QEMU, reap it, join the thread, in this order
//! ```
//!
//! # Not here
//!
//! - What QEMU is told: [`crate::command`]. What the thread does: [`crate::service`].

use crate::QemuBackend;
use crate::command::{Guest, VsockDevice, arguments, fd};
use crate::qmp::GREETING;
use crate::service::{Connect, Ends, Fate, Orders, Service, lock};
use crate::vhost_user::Rings;
use nix::sys::socket as vsock;
use osvm_protocol::Cid;
use osvm_vmm::process::{Launch, VmProcess};
use osvm_vmm::{
    BootError, ConnectError, Console, Death, GuestStream, Killer, Machine, MachineSpec, Usage,
};
use osvm_vsock::{Device, Refusal};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc::{RecvTimeoutError, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A guest under QEMU.
#[derive(Debug)]
pub(crate) struct QemuMachine {
    process: VmProcess,
    orders: Orders,
    service: Option<JoinHandle<()>>,
    fate: Arc<Mutex<Fate>>,
    memory: OwnedFd,
    cid: Cid,
    vsock: VsockDevice,
}

/// Starts a guest.
pub(crate) fn boot(backend: &QemuBackend, spec: &MachineSpec) -> Result<QemuMachine, BootError> {
    let host = |what| move |source: io::Error| BootError::Host { what, source };
    let memory = sealed_memory(spec.memory.bytes()).map_err(host("memory for the guest"))?;
    let boot_page = memory_file("osvm-boot-page", &spec.boot_page);
    let boot_page = boot_page.map_err(host("memory for the boot page"))?;
    let (console, console_end) = pair().map_err(host("a socket"))?;
    let (qmp, qmp_end) = pair().map_err(host("a socket"))?;
    send(&qmp, GREETING, SendFlags::NOSIGNAL).map_err(|e| host("a socket")(e.into()))?;
    let (vhost, vhost_end) = pair().map_err(host("a socket"))?;
    for end in [&console, &qmp] {
        rustix::io::ioctl_fionbio(end, true).map_err(|e| host("a socket")(e.into()))?;
    }

    let clone = |fd: &OwnedFd| fd.try_clone().map_err(host("a descriptor"));
    let image = spec.image.file.try_clone().map_err(host("a descriptor"))?;
    let mut fds = vec![
        (clone(&memory)?, fd::MEMORY),
        (image.into(), fd::IMAGE),
        (boot_page, fd::BOOT_PAGE),
        (console_end, fd::CONSOLE),
        (qmp_end, fd::QMP),
    ];
    let vsock = backend.vsock();
    let vhost = match vsock {
        VsockDevice::VhostUser => {
            fds.push((vhost_end, fd::VHOST));
            Some(UnixStream::from(vhost))
        }
        VsockDevice::Kernel => None,
    };
    if let Some(lease) = &spec.lease {
        fds.push((clone(lease)?, fd::LEASE));
    }
    let process = start(backend, spec, vsock, fds)?;

    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let wake = wake.map_err(|error| host("a descriptor")(error.into()))?;
    let (sender, receiver) = channel();
    let orders = Orders::new(sender, clone(&wake)?);
    let device = Device::new(spec.cid).map_err(host("a descriptor"))?;
    let rings = Rings::new(clone(&memory)?, device.config());
    let rings = rings.map_err(host("memory for the rings"))?;
    let log = spec.console.try_clone().map_err(host("a descriptor"))?;
    let ends = Ends { vhost, wake, console, qmp };
    let service = Service::new(ends, rings, device, receiver, Console::new(log), process.killer());
    let service = service.map_err(host("a descriptor"))?;
    let fate = service.fate();
    let thread = std::thread::Builder::new().name(format!("osvm-cid-{}", spec.cid));
    let thread = thread.spawn(|| service.run()).map_err(host("a thread"))?;
    Ok(QemuMachine { process, orders, service: Some(thread), fate, memory, cid: spec.cid, vsock })
}

fn start(
    backend: &QemuBackend,
    spec: &MachineSpec,
    vsock: VsockDevice,
    fds: Vec<(OwnedFd, i32)>,
) -> Result<VmProcess, BootError> {
    let args = arguments(Guest {
        qemu: &backend.qemu,
        accelerator: backend.accelerator,
        vsock,
        memory: spec.memory,
        cid: spec.cid,
    });
    let null = File::open("/dev/null");
    let stdin = null.map_err(|source| BootError::Host { what: "`/dev/null`", source })?;
    let launch = Launch { program: &backend.guard, args: &args, stdin: stdin.into(), fds };
    VmProcess::spawn(launch).map_err(|source| BootError::Program {
        program: backend.guard.clone(),
        source,
        fix: "build it with `cargo build --release -p osvm --bins`",
    })
}

impl Machine for QemuMachine {
    fn vm_pid(&self) -> u32 {
        self.process.pid()
    }

    fn connect(&mut self, port: u32, deadline: Instant) -> Result<GuestStream, ConnectError> {
        match self.vsock {
            VsockDevice::VhostUser => self.connect_through_service(port, deadline),
            VsockDevice::Kernel => self.connect_through_kernel(port, deadline),
        }
    }

    fn killer(&self) -> Killer {
        self.process.killer()
    }

    fn usage(&self) -> Usage {
        // Blocks of 512 bytes, whatever the page size: see stat(2).
        let blocks = fstat(&self.memory).ok().and_then(|stat| u64::try_from(stat.st_blocks).ok());
        Usage { guest_memory_kb: blocks.map(|blocks| blocks / 2) }
    }

    fn death(&mut self) -> Death {
        // A guest that resets makes QEMU end by itself; give it the time to say so.
        let ended = self.process.wait(Instant::now() + GRACE);
        let status = match ended {
            Ok(Some(status)) => Ok(status),
            Ok(None) => self.process.end(),
            Err(error) => Err(error),
        };
        self.join();
        let fate = lock(&self.fate).clone();
        let by_status = |report: String| match status {
            Ok(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => Death::Killed { signal },
                // Whatever it was came before QEMU listened to us. A guest of ours has one way to
                // stop its machine, and that is the reset of a triple fault.
                (None, Some(0)) => Death::TripleFault,
                (None, code) => Death::VmmFailed {
                    reason: format!("QEMU exited with {}: {report}", code.unwrap_or_default()),
                },
            },
            Err(error) => Death::VmmFailed { reason: error.to_string() },
        };
        match (fate.last_words, fate.cause) {
            (Some(last_words), None | Some(Death::TripleFault | Death::ShutDown)) => {
                Death::Panicked { last_words }
            }
            (_, Some(Death::VmmFailed { reason })) => {
                Death::VmmFailed { reason: format!("{reason}: {}", self.process.report()) }
            }
            (_, Some(cause)) => cause,
            (None, None) => by_status(self.process.report()),
        }
    }
}

/// How long QEMU gets to end by itself once a stream of its guest has hung up.
const GRACE: Duration = Duration::from_millis(200);

impl QemuMachine {
    fn connect_through_service(
        &mut self,
        port: u32,
        deadline: Instant,
    ) -> Result<GuestStream, ConnectError> {
        let (ours, socket) = pair()?;
        let (answer, answered) = sync_channel(1);
        self.orders.send(Connect { port, socket, answer });
        let left = deadline.saturating_duration_since(Instant::now());
        match answered.recv_timeout(left) {
            Ok(Ok(())) => Ok(GuestStream::new(ours)),
            Ok(Err(Refusal::ByGuest)) => Err(ConnectError::Refused { port }),
            Ok(Err(Refusal::DeviceReset | Refusal::ByHost)) => {
                Err(ConnectError::Died(self.death()))
            }
            Ok(Err(refusal @ (Refusal::TooMany | Refusal::BadSocket))) => {
                Err(ConnectError::Io(io::Error::other(format!("{refusal:?}"))))
            }
            Err(RecvTimeoutError::Timeout) => Err(ConnectError::Deadline { port }),
            Err(RecvTimeoutError::Disconnected) => Err(ConnectError::Died(self.death())),
        }
    }

    /// The kernel gives up on a driver that is not up in two seconds, so this asks again.
    fn connect_through_kernel(
        &mut self,
        port: u32,
        deadline: Instant,
    ) -> Result<GuestStream, ConnectError> {
        loop {
            match kernel_connect(self.cid, port) {
                Ok(socket) => return Ok(GuestStream::new(socket)),
                Err(_) if self.process.wait(Instant::now() + RETRY)?.is_some() => {
                    return Err(ConnectError::Died(self.death()));
                }
                // A guest that is up and has nobody at the port.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ConnectError::Refused { port });
                }
                Err(_) if Instant::now() < deadline => {}
                Err(_) => return Err(ConnectError::Deadline { port }),
            }
        }
    }

    fn join(&mut self) {
        if let Some(service) = self.service.take() {
            // A panic in the service has ended it, which is all that is waited for.
            let _ended = service.join();
        }
    }
}

/// Time between two attempts to reach a guest through the kernel's vsock.
const RETRY: Duration = Duration::from_millis(2);

/// Blocks for as long as the kernel waits for a driver that is not up: two seconds by default.
fn kernel_connect(cid: Cid, port: u32) -> io::Result<OwnedFd> {
    let flags = vsock::SockFlag::SOCK_CLOEXEC;
    let socket = vsock::socket(vsock::AddressFamily::Vsock, vsock::SockType::Stream, flags, None)?;
    vsock::connect(socket.as_raw_fd(), &vsock::VsockAddr::new(cid.get(), port))?;
    Ok(socket)
}

/// A connected pair of stream sockets.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// A memory file of `len` bytes that can neither shrink nor grow.
fn sealed_memory(len: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("osvm-guest-memory", flags)?;
    ftruncate(&memory, len)?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

/// A memory file that holds `bytes`.
fn memory_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

impl Drop for QemuMachine {
    fn drop(&mut self) {
        // The service ends when QEMU's end of its socket is closed.
        let _status = self.process.end();
        self.join();
    }
}
