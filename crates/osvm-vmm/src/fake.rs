//! A backend without a hypervisor, for tests of whatever uses one.
//!
//! The VM process is `cat`, which does nothing until it is killed. The guest is a thread that
//! lives exactly as long as that process does and speaks the protocol: it serves `osvm/info`,
//! `system echo` and `system guest_info`, and misbehaves like the image `hostile` if its boot
//! page says so. A [`Flaw`] makes it break a promise of the conformance suite.
//!
//! Nothing here isolates anything.

mod guest;

use crate::process::{Launch, VmProcess};
use crate::{
    Backend, BootError, ConnectError, Death, GuestStream, Killer, Machine, MachineSpec, Usage,
};
use guest::{Behaviour, Guest};
use osvm_protocol::PORT;
use osvm_protocol::boot::BootPage;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// The program that plays the VM process.
const PROGRAM: &str = "/bin/cat";
/// Where it gets the lease.
const LEASE: i32 = 9;

/// The promise a fake breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Dropping a machine leaves its process running.
    ProcessStays,
    /// The end of a guest does not hang up its streams.
    StreamsStay,
    /// A kill does nothing.
    Unkillable,
    /// The guest has half of the memory it was promised.
    HalfMemory,
    /// The guest has a network device besides its socket device.
    NetworkDevice,
    /// The guest does not get its environment variables.
    NoEnvironment,
    /// Nothing holds the lease.
    NoLease,
    /// Every boot leaves a descriptor open.
    DescriptorStays,
    /// The guest uses more memory than it has.
    Overuse,
    /// However a guest ends, it is said to have triple-faulted.
    WrongDeath,
    /// Every port is said to have a listener.
    AcceptsAnyPort,
    /// Bytes change on their way.
    ChangesBytes,
    /// Whatever a guest writes to its console is kept.
    KeepsWholeConsole,
}

/// What flaws leave behind, until the backend is dropped.
#[derive(Debug, Default)]
struct LeftBehind {
    processes: Vec<VmProcess>,
    descriptors: Vec<OwnedFd>,
}

type Attic = Arc<Mutex<LeftBehind>>;

/// The backend.
#[derive(Debug, Default)]
pub struct Fake {
    flaw: Option<Flaw>,
    attic: Attic,
}

impl Fake {
    /// A fake that keeps every promise.
    pub fn new() -> Self {
        Self::default()
    }

    /// A fake that breaks one.
    pub fn with_flaw(flaw: Flaw) -> Self {
        Self { flaw: Some(flaw), ..Self::default() }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

impl Backend for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn probe(&self) -> Result<(), BootError> {
        std::fs::metadata(PROGRAM).map(|_| ()).map_err(missing)
    }

    fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        let refused = |source| BootError::Host { what: "a descriptor", source };
        // `cat` waits for input that never comes, and ends when osvm, which could write, is gone.
        let (stdin, input) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|error| refused(error.into()))?;
        let mut fds = Vec::new();
        if let Some(lease) = spec.lease.as_deref().filter(|_| !self.has(Flaw::NoLease)) {
            fds.push((duplicate(lease).map_err(refused)?, LEASE));
        }
        let launch = Launch { program: Path::new(PROGRAM), args: &[], stdin, fds };
        let process = VmProcess::spawn(launch).map_err(missing)?;
        if self.has(Flaw::DescriptorStays) {
            let stays = duplicate(&input).map_err(refused)?;
            locked(&self.attic).descriptors.push(stays);
        }
        let page = BootPage::decode(&spec.boot_page).unwrap_or_default();
        let env: Vec<_> = page.env.iter().map(|(name, value)| (&**name, &**value)).collect();
        let behaviour = env.iter().find(|(name, _)| *name == "HOSTILE");
        let names = env.iter().map(|(name, _)| (*name).to_owned());
        let guest = Guest {
            image: spec.image.name.clone(),
            memory: if self.has(Flaw::HalfMemory) { 2 } else { spec.memory.bytes() },
            devices: if self.has(Flaw::NetworkDevice) { vec![19, 1] } else { vec![19] },
            env: if self.has(Flaw::NoEnvironment) { Vec::new() } else { names.collect() },
            behaviour: behaviour.map_or(Behaviour::Good, |(_, value)| Behaviour::named(value)),
            changes_bytes: self.has(Flaw::ChangesBytes),
            keeps_whole_console: self.has(Flaw::KeepsWholeConsole),
            killer: process.killer(),
            death: Mutex::new(None),
        };
        guest.begin(&spec.console);
        let memory_kb = spec.memory.bytes() / 1024;
        let usage = if self.has(Flaw::Overuse) { memory_kb + 1 } else { memory_kb / 2 };
        Ok(Box::new(FakeMachine {
            process: Some(process),
            guest: Arc::new(guest),
            serving: Vec::new(),
            usage: Usage { guest_memory_kb: Some(usage) },
            _input: input,
            flaw: self.flaw,
            attic: Arc::clone(&self.attic),
        }))
    }
}

/// One guest.
#[derive(Debug)]
struct FakeMachine {
    // `None` only inside of `drop`.
    process: Option<VmProcess>,
    guest: Arc<Guest>,
    serving: Vec<JoinHandle<()>>,
    usage: Usage,
    _input: OwnedFd,
    flaw: Option<Flaw>,
    attic: Attic,
}

impl FakeMachine {
    /// A hostile guest has no time for a second stream.
    fn is_busy(&self) -> bool {
        !matches!(self.guest.behaviour, Behaviour::Good) && !self.serving.is_empty()
    }
}

impl Machine for FakeMachine {
    fn vm_pid(&self) -> u32 {
        self.process.as_ref().map_or(0, VmProcess::pid)
    }

    fn connect(&mut self, port: u32, deadline: Instant) -> Result<GuestStream, ConnectError> {
        let is_deaf = self.guest.behaviour.is_deaf() || self.is_busy();
        let Some(process) = &mut self.process else { return Err(gone()) };
        if is_deaf {
            return match process.wait(deadline)? {
                Some(_) => Err(ConnectError::Died(self.death())),
                None => Err(ConnectError::Deadline { port }),
            };
        }
        if self.guest.ended() || process.wait(Instant::now())?.is_some() {
            return Err(ConnectError::Died(self.death()));
        }
        if port != PORT && self.flaw != Some(Flaw::AcceptsAnyPort) {
            return Err(ConnectError::Refused { port });
        }
        let pidfd = fcntl_dupfd_cloexec(process.pidfd(), 3).map_err(io::Error::from)?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(io::Error::from)?;
        let guest = Arc::clone(&self.guest);
        let attic = (self.flaw == Some(Flaw::StreamsStay)).then(|| Arc::clone(&self.attic));
        self.serving.push(std::thread::spawn(move || {
            guest.serve(&theirs, &pidfd);
            if let Some(attic) = attic {
                locked(&attic).descriptors.push(theirs);
            }
        }));
        Ok(GuestStream::new(ours))
    }

    fn killer(&self) -> Killer {
        match &self.process {
            Some(process) if self.flaw != Some(Flaw::Unkillable) => process.killer(),
            _ => Killer::new(|| {}),
        }
    }

    fn usage(&self) -> Usage {
        self.usage
    }

    fn death(&mut self) -> Death {
        let status = self.process.as_mut().map(VmProcess::end);
        if self.flaw == Some(Flaw::WrongDeath) {
            return Death::TripleFault;
        }
        if let Some(death) = locked(&self.guest.death).clone() {
            return death;
        }
        match status {
            Some(Ok(status)) => Death::Killed { signal: status.signal().unwrap_or(0) },
            Some(Err(error)) => Death::VmmFailed { reason: error.to_string() },
            None => Death::VmmFailed { reason: "it is gone".into() },
        }
    }
}

impl Drop for FakeMachine {
    fn drop(&mut self) {
        if self.flaw == Some(Flaw::ProcessStays) {
            locked(&self.attic).processes.extend(self.process.take());
            return;
        }
        drop(self.process.take());
        for thread in self.serving.drain(..) {
            // It has panicked or not; either way it is over.
            let _over = thread.join();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn duplicate(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(fd, 3)?)
}

fn gone() -> ConnectError {
    io::Error::from(io::ErrorKind::NotConnected).into()
}

fn missing(source: io::Error) -> BootError {
    BootError::Program {
        program: PROGRAM.into(),
        source,
        fix: "install it with `apt-get install coreutils`",
    }
}
