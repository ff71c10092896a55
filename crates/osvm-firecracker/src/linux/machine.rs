//! One Linux guest under Firecracker: booted or copied, connected to, saved.
//!
//! ```text
//! copy:    guard ──▶ Firecracker, idle ──PUT /snapshot/load──▶ running
//! save:    PATCH /vm, PUT /snapshot/create ──▶ kill ──▶ seal what was written
//! ```
//!
//! # Not here
//!
//! - What it has in common with a unikernel's machine: [`crate::machine`].

use super::delivery::{self, Saved};
use super::hollow::hollow;
use super::orders;
use crate::api::{ApiError, Method};
use crate::machine::{self, FirecrackerMachine};
use crate::program::Program;
use crate::sockets::LOOK;
use osvm_vmm::linux::{LinuxMachine, LinuxSpec, Place, Snapshot, SnapshotError, seal};
use osvm_vmm::{BootError, ConnectError, Death, GuestStream, Killer, Machine, MemoryMib, Usage};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a guest gets to answer one request for a connection before it is asked anew. A copy
/// answers as soon as its driver has seen that it is one, which takes milliseconds.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How long Firecracker gets to make a copy of a guest. It takes milliseconds.
const LOAD: Duration = Duration::from_secs(30);

/// A Linux guest under Firecracker.
#[derive(Debug)]
pub(super) struct FirecrackerLinuxMachine {
    machine: FirecrackerMachine,
    saved: Saved,
    size: MemoryMib,
    root: Arc<File>,
    copy: bool,
}

/// Starts a guest.
pub(super) fn boot(
    program: &Program,
    spec: &LinuxSpec,
    place: Place,
) -> Result<FirecrackerLinuxMachine, BootError> {
    let (size, root) = (spec.memory, Arc::clone(&spec.root));
    start(program, place, size, root, |place, saved| delivery::boot(program, spec, place, saved))
}

/// Starts a copy of a guest, and returns when it runs.
pub(super) fn copy(
    program: &Program,
    snapshot: &Snapshot,
    place: Place,
) -> Result<FirecrackerLinuxMachine, BootError> {
    let (size, root) = (snapshot.size, Arc::clone(&snapshot.root));
    let deliver = |place: &Place, saved: &Saved| delivery::copy(program, snapshot, place, saved);
    let mut copy = start(program, place, size, root, deliver)?;
    copy.copy = true;
    let failed = |reason: String| BootError::VmProcess { reason };
    let vsock = copy.machine.sockets().vsock_path().unwrap_or_default();
    let load = orders::load(&vsock).map_err(|error| failed(error.to_string()))?;
    let orders = [(Method::Put, "/snapshot/load", load.as_str())];
    match copy.machine.order(&orders, Instant::now() + LOAD) {
        Ok(()) => {
            copy.machine.sockets().unname();
            Ok(copy)
        }
        Err(ApiError::Io(error)) if !copy.machine.ended(LOOK) => Err(failed(error.to_string())),
        Err(ApiError::Io(_)) => Err(failed(copy.death().to_string())),
        Err(refusal) => Err(failed(refusal.to_string())),
    }
}

fn start(
    program: &Program,
    place: Place,
    size: MemoryMib,
    root: Arc<File>,
    deliver: impl FnOnce(&Place, &Saved) -> io::Result<crate::delivery::Delivery>,
) -> Result<FirecrackerLinuxMachine, BootError> {
    let host = |what| move |source: io::Error| BootError::Host { what, source };
    let saved = Saved::new(size).map_err(host("memory for the guest"))?;
    let delivery = deliver(&place, &saved).map_err(host("files for Firecracker"))?;
    // A Linux guest of ours stops its machine by resetting it.
    let (Place { cid, console, .. }, at_zero) = (place, Death::ShutDown);
    let machine = machine::start(&program.guard, delivery, cid, size, console, at_zero)?;
    Ok(FirecrackerLinuxMachine { machine, saved, size, root, copy: false })
}

impl Machine for FirecrackerLinuxMachine {
    fn vm_pid(&self) -> u32 {
        self.machine.vm_pid()
    }

    fn connect(&mut self, port: u32, deadline: Instant) -> Result<GuestStream, ConnectError> {
        loop {
            let attempt = deadline.min(Instant::now() + ATTEMPT);
            match self.machine.ask(port, attempt) {
                Ok(Some(stream)) => return Ok(stream),
                // Whoever asks again learns of an end that this misses.
                Ok(None) if self.machine.ended(LOOK) => {
                    return Err(ConnectError::Died(self.death()));
                }
                Ok(None) => return Err(ConnectError::Refused { port }),
                Err(ConnectError::Deadline { .. }) if Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn killer(&self) -> Killer {
        self.machine.killer()
    }

    fn usage(&self) -> Usage {
        // Most of a copy's memory is its original's.
        if self.copy { Usage { guest_memory_kb: self.private_kb() } } else { self.machine.usage() }
    }

    fn death(&mut self) -> Death {
        self.machine.death()
    }
}

impl LinuxMachine for FirecrackerLinuxMachine {
    fn snapshot(mut self: Box<Self>, deadline: Instant) -> Result<Snapshot, SnapshotError> {
        let create = orders::create().map_err(io::Error::from)?;
        let orders = [
            (Method::Patch, "/vm", orders::PAUSE),
            (Method::Put, "/snapshot/create", create.as_str()),
        ];
        self.machine.order(&orders, deadline).map_err(refusal)?;
        let Self { mut machine, saved, size, root, .. } = *self;
        // Gone before anybody maps the memory: Firecracker still could write to it.
        machine.process().end()?;
        drop(machine);
        hollow(&saved.memory)?;
        seal(&saved.memory)?;
        seal(&saved.state)?;
        let Saved { memory, state } = saved;
        Ok(Snapshot { memory: Arc::new(memory), state: Arc::new(state), size, root })
    }

    fn wait(&mut self, deadline: Instant) -> bool {
        !matches!(self.machine.process().wait(deadline), Ok(None))
    }

    fn private_kb(&self) -> Option<u64> {
        self.machine.private_kb()
    }
}

/// Why a guest was not saved.
fn refusal(error: ApiError) -> SnapshotError {
    match error {
        ApiError::Io(error) if error.kind() == io::ErrorKind::TimedOut => SnapshotError::Deadline,
        ApiError::Io(error) => SnapshotError::Io(error),
        refused => SnapshotError::Refused { reason: refused.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_is_not_saved_in_time_is_told_from_one_that_cannot_be() {
        let late = refusal(ApiError::Io(io::ErrorKind::TimedOut.into()));
        assert!(matches!(late, SnapshotError::Deadline));
        let broken = refusal(ApiError::Io(io::ErrorKind::BrokenPipe.into()));
        assert!(matches!(broken, SnapshotError::Io(_)));
        let words = ApiError::Refused { status: 400, body: "no".into() };
        let refused = refusal(words).to_string();
        assert!(refused.ends_with("Firecracker refused with status 400: no"), "{refused}");
    }
}
