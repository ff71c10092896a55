//! Linux guests under Firecracker, and copies of them.
//!
//! ```text
//! boot:     kernel, initial RAM disk, root ──▶ Firecracker ──PUT /snapshot/create──▶ memory, state
//! restore:  memory, private copy on write, and state ──PUT /snapshot/load──▶ Firecracker, running
//! ```
//!
//! # Invariants
//!
//! - What a guest boots from, what it is saved to and what a copy begins with are descriptors, under
//!   the same numbers in every Firecracker: a saved guest knows its root file system by the number.
//! - The root file system is the one file of the user's that Firecracker can open, for reading, and
//!   it is named to the guard by the descriptor that osvm has checked.
//!
//! # Why not in the jailer
//!
//! The jailer closes every descriptor, and what it starts opens files of its chroot by name. Kernel,
//! memory and state would have to be copied into the chroot of every copy, more than 100 MiB for a
//! guest that is to be there in milliseconds, and no two copies would share a page of it. So the
//! guard locks these Firecrackers in, by Landlock, besides Firecracker's own filters of system calls.
//!
//! # Not here
//!
//! - The guest's address on the vsock bus: a copy has its original's, and a bus of its own.

mod delivery;
mod hollow;
mod machine;
mod orders;

use crate::program::Program;
use osvm_protocol::linux::Channel;
use osvm_vmm::linux::{LinuxBackend, LinuxMachine, LinuxSpec, Place, Snapshot};
use osvm_vmm::{BootError, processor};
use std::path::PathBuf;
use std::sync::Arc;

/// Boots and copies Linux guests under Firecracker.
#[derive(Clone, Debug)]
pub struct FirecrackerLinux {
    program: Arc<Program>,
}

impl FirecrackerLinux {
    /// A backend that runs `firecracker`, started by the program `guard` (`osvm-vm`), with its
    /// sockets made in `runtime_dir`, which must be private to the user.
    pub fn new(firecracker: PathBuf, guard: PathBuf, runtime_dir: PathBuf) -> Self {
        Self { program: Arc::new(Program::new(firecracker, guard, runtime_dir)) }
    }
}

impl LinuxBackend for FirecrackerLinux {
    fn name(&self) -> &'static str {
        "firecracker"
    }

    fn probe(&self) -> Result<(), BootError> {
        let version = self.program.check()?;
        if version.restores() {
            return Ok(());
        }
        Err(BootError::Unsupported {
            backend: "firecracker",
            what: format!(
                "copies that can be reached: it is version {version}, and 1.16.1 is the first"
            ),
        })
    }

    fn identity(&self) -> Result<String, BootError> {
        self.program.check()?;
        let said = self.program.says().and_then(|text| text.lines().next()).unwrap_or_default();
        Ok(format!("{said}; {}", processor::identity()))
    }

    fn channel(&self) -> Channel {
        Channel::Vsock
    }

    fn boot(&self, spec: &LinuxSpec, place: Place) -> Result<Box<dyn LinuxMachine>, BootError> {
        self.probe()?;
        Ok(Box::new(machine::boot(&self.program, spec, place)?))
    }

    fn restore(
        &self,
        snapshot: &Snapshot,
        place: Place,
    ) -> Result<Box<dyn LinuxMachine>, BootError> {
        Ok(Box::new(machine::copy(&self.program, snapshot, place)?))
    }
}
