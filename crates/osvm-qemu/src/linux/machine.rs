//! One Linux guest under QEMU: started, talked to, saved, killed, reaped.
//!
//! The console has a thread of its own, which ends with QEMU. Whoever drops the machine kills QEMU
//! first and joins the thread after.

use super::QemuLinux;
use super::command::{Life, arguments, fd};
use super::save::{self, GREETING};
use crate::qmp::Events;
use osvm_vmm::linux::{LinuxMachine, Place, Snapshot, SnapshotError, seal};
use osvm_vmm::process::{Launch, VmProcess};
use osvm_vmm::{
    BootError, ConnectError, Console, Death, GuestStream, Killer, Machine, MemoryMib, Usage,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, send, socketpair};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long QEMU gets to end by itself once the stream of its guest has hung up.
const GRACE: Duration = Duration::from_millis(300);

/// A Linux guest under QEMU.
#[derive(Debug)]
pub(super) struct LinuxQemu {
    process: VmProcess,
    stream: Option<OwnedFd>,
    qmp: OwnedFd,
    console: Arc<Mutex<Console>>,
    reader: Option<JoinHandle<()>>,
    memory: Arc<File>,
    size: MemoryMib,
    root: Arc<File>,
    /// The guest's own memory is in the file, not in the process.
    shared: bool,
}

/// Starts a guest, or a copy of one.
pub(super) fn start(
    backend: &QemuLinux,
    life: &Life<'_>,
    place: Place,
) -> Result<LinuxQemu, BootError> {
    let host = |what| move |source: io::Error| BootError::Host { what, source };
    let (stream, stream_end) = pair().map_err(host("a socket"))?;
    let (console, console_end) = pair().map_err(host("a socket"))?;
    let (qmp, qmp_end) = pair().map_err(host("a socket"))?;
    let (memory, root, mut fds, commands) = match life {
        Life::Boot(spec) => {
            let memory = memory_file(spec.memory.bytes());
            let memory = Arc::new(memory.map_err(host("memory for the guest"))?);
            let kernel = again(&spec.kernel).map_err(host("a descriptor"))?;
            let initrd = again(&spec.initrd).map_err(host("a descriptor"))?;
            let fds = vec![(kernel, fd::KERNEL_OR_STATE), (initrd, fd::INITRD)];
            (memory, Arc::clone(&spec.root), fds, GREETING.to_vec())
        }
        Life::Copy(snapshot) => {
            // Opened anew: each copy reads from the start.
            let state = again(&snapshot.state).map_err(host("a descriptor"))?;
            let commands = save::incoming(fd::KERNEL_OR_STATE);
            let (memory, root) = (Arc::clone(&snapshot.memory), Arc::clone(&snapshot.root));
            (memory, root, vec![(state, fd::KERNEL_OR_STATE)], commands)
        }
    };
    send(&qmp, &commands, SendFlags::NOSIGNAL).map_err(|e| host("a socket")(e.into()))?;
    let clone = |file: &File| file.try_clone().map(OwnedFd::from).map_err(host("a descriptor"));
    fds.extend([
        (clone(&memory)?, fd::MEMORY),
        (clone(&root)?, fd::ROOT),
        (console_end, fd::CONSOLE),
        (qmp_end, fd::QMP),
        (stream_end, fd::PORT),
    ]);
    if let Some(lease) = &place.lease {
        fds.push((lease.try_clone().map_err(host("a descriptor"))?, fd::LEASE));
    }
    let process = spawn(backend, life, fds)?;
    let log = Arc::new(Mutex::new(Console::new(place.console)));
    let shared_log = Arc::clone(&log);
    let thread = std::thread::Builder::new().name(format!("osvm-cid-{}", place.cid));
    let thread = thread.stack_size(128 * 1024).spawn(move || read_console(&console, &shared_log));
    Ok(LinuxQemu {
        process,
        stream: Some(stream),
        qmp,
        console: log,
        reader: Some(thread.map_err(host("a thread"))?),
        memory,
        size: life.memory(),
        root,
        shared: matches!(life, Life::Boot(_)),
    })
}

fn spawn(
    backend: &QemuLinux,
    life: &Life<'_>,
    fds: Vec<(OwnedFd, i32)>,
) -> Result<VmProcess, BootError> {
    let args = arguments(&backend.qemu, backend.accelerator, life);
    let null = File::open("/dev/null");
    let stdin = null.map_err(|source| BootError::Host { what: "`/dev/null`", source })?;
    let launch = Launch { program: &backend.guard, args: &args, stdin: stdin.into(), fds };
    VmProcess::spawn(launch).map_err(|source| BootError::Program {
        program: backend.guard.clone(),
        source,
        fix: "build it with `cargo build --release -p osvm --bins`",
    })
}

/// Until QEMU is gone.
fn read_console(socket: &OwnedFd, console: &Mutex<Console>) {
    let mut piece = [0; 4096];
    loop {
        match recv(socket, &mut piece, RecvFlags::empty()) {
            Ok((0, _)) => return,
            Ok((len, _)) => {
                let mut console = console.lock().unwrap_or_else(PoisonError::into_inner);
                console.append(piece.get(..len).unwrap_or_default());
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

impl Machine for LinuxQemu {
    fn vm_pid(&self) -> u32 {
        self.process.pid()
    }

    fn connect(&mut self, port: u32, _deadline: Instant) -> Result<GuestStream, ConnectError> {
        self.stream.take().map(GuestStream::new).ok_or(ConnectError::Refused { port })
    }

    fn killer(&self) -> Killer {
        self.process.killer()
    }

    fn usage(&self) -> Usage {
        let guest_memory_kb = if self.shared {
            // Blocks of 512 bytes, whatever the page size: see stat(2).
            let blocks = fstat(&self.memory).ok().and_then(|s| u64::try_from(s.st_blocks).ok());
            blocks.map(|blocks| blocks / 2)
        } else {
            self.private_kb()
        };
        Usage { guest_memory_kb }
    }

    fn death(&mut self) -> Death {
        let ended = match self.process.wait(Instant::now() + GRACE) {
            Ok(None) => self.process.end(),
            Ok(Some(status)) => Ok(status),
            Err(error) => Err(error),
        };
        self.join();
        let console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last_words) = console.last_words() {
            return Death::Panicked { last_words };
        }
        match ended {
            Ok(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => Death::Killed { signal },
                // A Linux guest of ours stops its machine by resetting it.
                (None, Some(0)) if self.reset() => Death::ShutDown,
                (None, code) => {
                    let code = code.unwrap_or_default();
                    let reason = format!("QEMU exited with {code}: {}", self.process.report());
                    Death::VmmFailed { reason }
                }
            },
            Err(error) => Death::VmmFailed { reason: error.to_string() },
        }
    }
}

impl LinuxMachine for LinuxQemu {
    fn snapshot(mut self: Box<Self>, deadline: Instant) -> Result<Snapshot, SnapshotError> {
        let state = save::save(self.qmp.as_fd(), deadline)?;
        // Gone before anybody maps the memory: QEMU still could write to it.
        self.process.end()?;
        self.join();
        seal(&self.memory)?;
        seal(&state)?;
        Ok(Snapshot {
            memory: Arc::clone(&self.memory),
            state: Arc::new(state),
            size: self.size,
            root: Arc::clone(&self.root),
        })
    }

    fn wait(&mut self, deadline: Instant) -> bool {
        !matches!(self.process.wait(deadline), Ok(None))
    }

    fn private_kb(&self) -> Option<u64> {
        self.process.private_kb()
    }
}

impl LinuxQemu {
    /// Whether QEMU ended because its guest reset the machine.
    fn reset(&self) -> bool {
        let mut events = Events::default();
        let mut piece = [0; 4096];
        while let Ok((len @ 1.., _)) = recv(&self.qmp, &mut piece, RecvFlags::DONTWAIT) {
            if events.feed(piece.get(..len).unwrap_or_default()).is_some() {
                return true;
            }
        }
        false
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            // A panic in the thread has ended it, which is all that is waited for.
            let _ended = reader.join();
        }
    }
}

impl Drop for LinuxQemu {
    fn drop(&mut self) {
        let _status = self.process.end();
        self.join();
    }
}

/// A connected pair of stream sockets.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// A memory file of `len` bytes that can neither shrink nor grow.
fn memory_file(len: u64) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("osvm-guest-memory", flags)?;
    ftruncate(&memory, len)?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(memory.into())
}

/// The same memory file, read from its start.
fn again(file: &File) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
}
