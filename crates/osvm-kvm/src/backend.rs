//! Starts VM processes: osvm's side of a boot.

use crate::control::{self, Control, Event, MAX_TEXT, NotStarted, Start};
use crate::machine::KvmMachine;
use crate::vm_process::now;
use osvm_vmm::process::{Launch, VmProcess};
use osvm_vmm::{Backend, BootError, Machine, MachineSpec, MemoryMib, clean};
use rustix::fs::{Access, MemfdFlags, SealFlags, access, fcntl_add_seals, ftruncate, memfd_create};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Guest memory ends where the devices begin.
const MAX_MEMORY: u64 = 3 << 30;

/// Time a VM process has from its start to its guest's first instruction. It takes milliseconds;
/// what takes longer than this on a busy host is stuck.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The embedded VMM as a backend.
#[derive(Debug)]
pub struct KvmBackend {
    /// The program `osvm-vm`.
    pub vm_program: PathBuf,
    /// How images are entered.
    pub protocol: BootProtocol,
    /// Whether guests are counted until their first answer: see [`KvmMachine::counts`].
    pub count: bool,
    prepared: Mutex<Option<Prepared>>,
}

/// A VM process that has no spec yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    process: VmProcess,
    pub(crate) control: Control<OwnedFd>,
    begun: u64,
}

/// How an image is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum BootProtocol {
    /// At the entry point of its PVH note, in 32-bit mode without paging.
    #[default]
    Pvh,
    /// At the ELF entry point, in 64-bit mode with the first GiB mapped.
    Linux64,
}

impl KvmBackend {
    /// The backend as every call uses it: PVH, nothing counted.
    pub fn new(vm_program: PathBuf) -> Self {
        let prepared = Mutex::new(None);
        Self { vm_program, protocol: BootProtocol::default(), count: false, prepared }
    }

    /// Starts a VM process for the next boot, which will find most of the way behind it: the
    /// process makes its empty VM and leaves the host's network while the caller still finds out
    /// what to boot. Worth 2 ms to a caller with that much to do.
    ///
    /// What is prepared and never booted ends with the backend.
    pub fn prepare(&self) -> Result<(), BootError> {
        let prepared = self.spawn()?;
        *self.lock() = Some(prepared);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Prepared>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self) -> Result<Prepared, BootError> {
        Prepared::spawn(&self.vm_program, &[])
    }

    /// Like [`Backend::boot`], with the machine's own type.
    pub fn start(&self, spec: &MachineSpec) -> Result<KvmMachine, BootError> {
        check_memory(self.name(), spec.memory)?;
        let prepared = self.lock().take();
        let prepared = prepared.map_or_else(|| self.spawn(), Ok)?;
        // From here on the VM process makes its empty VM, while this side prepares the rest.
        let memory = guest_memory(spec.memory.bytes(), SealFlags::SEAL)?;
        let start = Start {
            memory: spec.memory.bytes(),
            cid: spec.cid.get(),
            protocol: self.protocol,
            count: self.count,
            boot_page: spec.boot_page.len(),
        };
        let mut fds = vec![spec.image.file.as_fd(), memory.as_fd(), spec.console.as_fd()];
        fds.extend(spec.lease.as_deref().map(AsFd::as_fd));
        let control = &prepared.control;
        let sent = control.send(&start, &fds).and_then(|()| match &spec.boot_page[..] {
            [] => Ok(()),
            page => control.send_bytes(page, &[]),
        });
        prepared.started(memory, sent, &spec.image.name)
    }
}

impl Prepared {
    /// Starts `program` as a VM process.
    pub(crate) fn spawn(program: &Path, args: &[OsString]) -> Result<Self, BootError> {
        let begun = now();
        let (control, theirs) = control::pair().map_err(host("a socket pair"))?;
        let launch = Launch { program, args, stdin: theirs, fds: Vec::new() };
        let process = VmProcess::spawn(launch).map_err(|error| no_program(program, error))?;
        Ok(Self { process, control, begun })
    }

    /// Waits until the guest has begun, after its spec was `sent`. `image` is what it boots.
    pub(crate) fn started(
        self,
        memory: Arc<File>,
        sent: io::Result<()>,
        image: &str,
    ) -> Result<KvmMachine, BootError> {
        let Self { process, control, begun } = self;
        let mut machine = KvmMachine::new(process, control, memory, begun);
        match sent {
            Ok(()) => {}
            // It has ended already; what it says about that is more to the point.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(host("a message to the VM process")(error)),
        }
        match machine.event(Instant::now() + START_TIMEOUT) {
            Ok(Some(Event::Ready { jail, times })) => {
                machine.started(jail, times);
                Ok(machine)
            }
            Ok(Some(Event::NotStarted(reason))) => Err(refusal(reason, image)),
            Ok(Some(_)) => Err(BootError::VmProcess { reason: "it answered out of turn".into() }),
            Ok(None) => Err(BootError::VmProcess { reason: machine.epitaph() }),
            Err(source) => Err(host("an answer from the VM process")(source)),
        }
    }
}

impl Backend for KvmBackend {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn probe(&self) -> Result<(), BootError> {
        check_kvm()?;
        check_program(&self.vm_program)
    }

    fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        Ok(Box::new(self.start(spec)?))
    }
}

/// Refuses more memory than fits.
pub(crate) fn check_memory(backend: &'static str, memory: MemoryMib) -> Result<(), BootError> {
    if memory.bytes() <= MAX_MEMORY {
        return Ok(());
    }
    let what = format!("{} MiB of memory: at most 3072 MiB fit", memory.mib());
    Err(BootError::Unsupported { backend, what })
}

/// Whether `/dev/kvm` can be opened.
pub(crate) fn check_kvm() -> Result<(), BootError> {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    kvm.map(drop).map_err(BootError::OpenKvm)
}

/// Whether `program`, the VM process, can be started.
pub(crate) fn check_program(program: &Path) -> Result<(), BootError> {
    access(program, Access::EXEC_OK).map_err(|error| no_program(program, error.into()))
}

fn no_program(program: &Path, source: io::Error) -> BootError {
    let fix = "build it with `cargo build --release -p osvm --bins`";
    BootError::Program { program: program.to_owned(), source, fix }
}

/// A memory file, so that both processes hold the same pages and osvm can count them. The VM
/// process can't make it larger or smaller; `seals` are added to that.
pub(crate) fn guest_memory(bytes: u64, seals: SealFlags) -> Result<Arc<File>, BootError> {
    let make = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("osvm-guest", flags)?;
        ftruncate(&file, bytes)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | seals)?;
        Ok(Arc::new(File::from(file)))
    };
    make().map_err(|error: rustix::io::Errno| host("guest memory")(error.into()))
}

pub(crate) fn host(what: &'static str) -> impl Fn(io::Error) -> BootError {
    move |source| BootError::Host { what, source }
}

/// The VM process's reason, in the words of osvm.
fn refusal(reason: NotStarted, image: &str) -> BootError {
    match reason {
        NotStarted::OpenKvm { errno } => BootError::OpenKvm(io::Error::from_raw_os_error(errno)),
        NotStarted::BadImage { reason } => {
            BootError::BadImage { name: image.into(), reason: clean(reason.as_bytes(), MAX_TEXT) }
        }
        NotStarted::BadState { reason } => {
            let reason = clean(reason.as_bytes(), MAX_TEXT);
            BootError::VmProcess { reason: format!("the saved state is unfit: {reason}") }
        }
        NotStarted::Step { what, errno } => {
            let what = clean(what.as_bytes(), MAX_TEXT);
            let reason = match errno {
                0 => format!("it could not {what}"),
                errno => format!("it could not {what}: {}", io::Error::from_raw_os_error(errno)),
            };
            BootError::VmProcess { reason }
        }
    }
}
