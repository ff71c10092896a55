//! One guest with its CID and its stream: booted or copied, woken, ended.
//!
//! # Invariants
//!
//! - Dropping a [`Guest`] destroys it before its CID is free.

use crate::error::MicroVmError;
use crate::outside::Outside;
use crate::recipe::{Recipe, entropy, random};
use crate::talk::{Gone, Talk};
use crate::workspace::{self, Files, WorkspaceError};
use osvm_protocol::linux::{Wake, Woken, method};
use osvm_protocol::{PORT, cid};
use osvm_runtime::cids::{Cids, Lease};
use osvm_upstream::Stop;
use osvm_vmm::linux::{LinuxBackend, LinuxMachine, Place, Snapshot};
use osvm_vmm::{ConnectError, Death};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far a clone's clock may be off when it is handed out.
const CLOCK_ERROR: Duration = Duration::from_millis(40);

/// How long setting a clock that well may take. On a host that is busy, an answer may come so late
/// that nobody can say how right the clock is; the clone is handed out then, and the log says so.
const CLOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Time between two tries to reach a guest that does not listen yet.
const PAUSE: Duration = Duration::from_millis(2);

/// Where microVMs of this osvm run.
#[derive(Clone, Debug)]
pub struct Host {
    /// The hypervisor.
    pub backend: Arc<dyn LinuxBackend>,
    /// CIDs of guests that live on.
    persistent: Cids,
    /// CIDs of clones and of what they are made from.
    clones: Cids,
    /// Folder for consoles of persistent guests; `None` keeps none.
    logs: Option<PathBuf>,
    /// Who serves what guests ask of the host; without it nobody does.
    outside: Option<Outside>,
}

/// Which CIDs a guest takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Persistent,
    Clone,
}

/// A clone that is unique.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awake {
    /// Programs in it that seeded generators of their own.
    pub(crate) hooks: u32,
    /// How far its clock is off at most.
    pub(crate) clock_error: Duration,
}

/// A running guest that has its stream.
#[derive(Debug)]
pub struct Guest {
    // In this order: the stream closes, the guest dies, the CID is free.
    pub(crate) talk: Talk,
    machine: Box<dyn LinuxMachine>,
    lease: Lease,
    /// Who serves what it asks, and whether it lives on.
    pub(crate) outside: Option<(Outside, bool)>,
    /// What becomes of the files that it was given.
    pub(crate) files: Option<Arc<Files>>,
}

impl Host {
    /// CIDs are shared through a file in `runtime_dir`, the consoles of persistent guests are
    /// written to files in `logs`.
    pub fn new(
        backend: Arc<dyn LinuxBackend>,
        runtime_dir: impl Into<PathBuf>,
        logs: Option<PathBuf>,
    ) -> Self {
        let runtime_dir = runtime_dir.into();
        let persistent = Cids::new(runtime_dir.clone(), cid::PERSISTENT);
        let clones = Cids::new(runtime_dir, cid::EPHEMERAL);
        Self { backend, persistent, clones, logs, outside: None }
    }

    /// The same for copies that live on: they take the CIDs of guests that do.
    #[must_use]
    pub fn with_copies_that_live_on(self) -> Self {
        Self { clones: self.persistent.clone(), ..self }
    }

    /// The same for a server that may reach something: its recipe says so too.
    #[must_use]
    pub fn with_outside(self, outside: Outside) -> Self {
        Self { outside: Some(outside), ..self }
    }

    /// Boots a guest of `recipe`. Its PID 1 runs where the stream needs somebody who takes it, and
    /// may not run yet where it needs none.
    pub(crate) fn boot(
        &self,
        recipe: &Recipe,
        life: Life,
        deadline: Instant,
        cancel: &Stop,
    ) -> Result<Guest, MicroVmError> {
        let spec = recipe.spec(life == Life::Clone, self.backend.channel())?;
        let (place, lease) = self.place(&recipe.name, life)?;
        let machine = self.backend.boot(&spec, place)?;
        let killer = machine.killer();
        let _hook = cancel.hook(move || killer.kill());
        let guest = match Guest::new(&recipe.name, machine, lease, deadline) {
            Err(_) if cancel.is_stopped() => return Err(MicroVmError::Cancelled),
            guest => guest?,
        };
        Ok(Guest { outside: self.outside.clone().map(|o| (o, life == Life::Persistent)), ..guest })
    }

    /// Starts a copy of a saved guest; it is not unique yet.
    pub(crate) fn restore(
        &self,
        name: &str,
        snapshot: &Snapshot,
        deadline: Instant,
    ) -> Result<Guest, MicroVmError> {
        let (place, lease) = self.place(name, Life::Clone)?;
        let machine = self.backend.restore(snapshot, place)?;
        let guest = Guest::new(name, machine, lease, deadline)?;
        Ok(Guest { outside: self.outside.clone().map(|outside| (outside, false)), ..guest })
    }

    fn place(&self, name: &str, life: Life) -> Result<(Place, Lease), MicroVmError> {
        let cids = match life {
            Life::Persistent => &self.persistent,
            Life::Clone => &self.clones,
        };
        let lease = cids.take_micro_vm(name)?;
        let path = match (life, &self.logs) {
            (Life::Persistent, Some(folder)) => folder.join(format!("{name}.console")),
            _ => PathBuf::from("/dev/null"),
        };
        let console = File::options().create(true).append(true).open(path);
        let console = console.map_err(|source| host("a file for the console", source))?;
        Ok((Place { cid: lease.cid(), console, lease: Some(lease.keep()) }, lease))
    }
}

impl Guest {
    fn new(
        name: &str,
        mut machine: Box<dyn LinuxMachine>,
        mut lease: Lease,
        deadline: Instant,
    ) -> Result<Self, MicroVmError> {
        lease.set_vm_pid(machine.vm_pid());
        let stream = loop {
            match machine.connect(PORT, deadline) {
                Ok(stream) => break stream,
                // Nobody listens yet.
                Err(ConnectError::Refused { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                }
                Err(ConnectError::Died(death)) => {
                    return Err(host("a guest that lives", std::io::Error::other(death)));
                }
                Err(ConnectError::Refused { .. } | ConnectError::Deadline { .. }) => {
                    return Err(Gone::Deadline.into());
                }
                Err(error) => return Err(error.into()),
            }
        };
        let talk = Talk::new(name.to_owned(), stream);
        Ok(Self { talk, machine, lease, outside: None, files: None })
    }

    /// Its CID.
    pub fn cid(&self) -> u32 {
        self.lease.cid().get()
    }

    /// Process id of its VM process.
    pub fn vm_pid(&self) -> u32 {
        self.machine.vm_pid()
    }

    /// Memory it shares with no other process, in KiB.
    pub fn private_kb(&self) -> Option<u64> {
        self.machine.private_kb()
    }

    /// The stream.
    pub fn talk(&mut self) -> &mut Talk {
        &mut self.talk
    }

    /// Gives it the files of the host that its recipe names, if there are some.
    pub(crate) fn fill(&mut self, recipe: &Recipe, deadline: Instant) -> Result<(), MicroVmError> {
        let places: Vec<_> = recipe.places().cloned().collect();
        if places.is_empty() {
            return Ok(());
        }
        let most = u64::from(recipe.writable_mib) << 20;
        match workspace::fill(self, places, &recipe.name, most, deadline) {
            Ok(files) => self.files = Some(files),
            // That it broke off says less than why it ended.
            Err(WorkspaceError::Guest(gone @ (Gone::Ended(_) | Gone::HungUp))) => {
                return Err(self.explain(gone));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    pub(crate) fn killer(&self) -> osvm_vmm::Killer {
        self.machine.killer()
    }

    /// Why it ended: what PID 1 said is better than what the host sees.
    pub(crate) fn explain(&mut self, gone: Gone) -> MicroVmError {
        match gone {
            Gone::HungUp => match self.machine.death() {
                Death::ShutDown => Gone::HungUp.into(),
                death => host("a guest that lives", std::io::Error::other(death)),
            },
            other => other.into(),
        }
    }

    /// Saves it and ends it.
    pub(crate) fn save(self, deadline: Instant) -> Result<Snapshot, MicroVmError> {
        let Self { machine, lease, .. } = self;
        let snapshot = machine.snapshot(deadline)?;
        drop(lease);
        Ok(snapshot)
    }

    /// Parts with its stream.
    pub(crate) fn without_talk(self) -> (Rest, Talk) {
        (Rest { machine: self.machine, _lease: self.lease }, self.talk)
    }

    /// Makes a copy unlike its original and lets its programs run: new randomness, the right time.
    pub(crate) fn wake(&mut self, deadline: Instant) -> Result<Awake, MicroVmError> {
        let entropy = Some(entropy().map_err(random)?);
        let started = Instant::now();
        let (Woken { hooks, .. }, mut clock_error) = self.set_time(entropy, deadline)?;
        while CLOCK_ERROR < clock_error && started.elapsed() < CLOCK_PATIENCE {
            clock_error = self.set_time(None, deadline)?.1;
        }
        if CLOCK_ERROR < clock_error {
            tracing::warn!(cid = self.cid(), "a clone's clock may be off by {clock_error:?}");
        }
        Ok(Awake { hooks, clock_error })
    }

    /// Sets the clock; also says by how much it is off at most.
    fn set_time(
        &mut self,
        entropy: Option<[u8; 32]>,
        deadline: Instant,
    ) -> Result<(Woken, Duration), MicroVmError> {
        let wake = Wake { entropy, unix_ns: Some(unix_ns()) };
        let woken: Result<Woken, Gone> = self.talk.ask(method::WAKE, &wake, deadline);
        let woken = woken.map_err(|gone| self.explain(gone))?;
        // The guest read its clock before now, so it is no further behind than this.
        Ok((woken, Duration::from_nanos(unix_ns().abs_diff(woken.unix_ns))))
    }
}

/// A guest whose stream others hold. Dropping it destroys it.
#[derive(Debug)]
pub(crate) struct Rest {
    // In this order: the guest dies, the CID is free.
    machine: Box<dyn LinuxMachine>,
    _lease: Lease,
}

impl Rest {
    /// Waits for the VM process to end by itself.
    pub(crate) fn wait(&mut self, deadline: Instant) {
        self.machine.wait(deadline);
    }
}

/// The host's wall clock, in nanoseconds since 1970.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn host(what: &'static str, source: std::io::Error) -> MicroVmError {
    MicroVmError::Host { what, source }
}
