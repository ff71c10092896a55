//! Firecracker as a child process.
//!
//! ```text
//! FirecrackerBackend::boot ──▶ guard ──exec──▶ firecracker --config-file … --api-sock …
//!                                                  │ Unix socket, "CONNECT 5252"
//!                                                  └──▶ GuestStream
//! ```
//!
//! Unikernels are booted by [`FirecrackerBackend`], Linux guests and copies of them by
//! [`FirecrackerLinux`].
//!
//! # Invariants
//!
//! - Firecracker never outlives osvm: the guard ties it to the lifeline before it becomes
//!   Firecracker.
//! - It is found, never fetched: on `PATH`, by `OSVM_FIRECRACKER` or by the config.
//! - Its sockets have no name in the file system once osvm has connected.
//! - With its jailer it runs in a chroot under a user id of its own besides.
//!
//! # Not here
//!
//! - The vsock device: Firecracker brings its own. The guard program: `osvm-vm`.

mod api;
mod config;
mod delivery;
mod linux;
mod machine;
mod program;
mod sockets;
mod version;

pub use api::ApiError;
pub use linux::FirecrackerLinux;
pub use machine::FirecrackerMachine;
pub use sockets::sweep;
pub use version::Version;

use osvm_vmm::{Backend, BootError, Death, Machine, MachineSpec};
use program::Program;
use std::path::PathBuf;

/// The program's name.
pub const PROGRAM: &str = "firecracker";

/// No distribution packages it, and osvm never fetches it by itself.
pub const FIX: &str = "put a release of Firecracker on `PATH`, or name it by `OSVM_FIRECRACKER`";

/// Boots guests under Firecracker.
#[derive(Debug)]
pub struct FirecrackerBackend {
    program: Program,
    jailer: Option<PathBuf>,
}

impl FirecrackerBackend {
    /// A backend that runs `firecracker`, started by the program `guard` (`osvm-vm`), with its
    /// sockets made in `runtime_dir`, which must be private to the user.
    pub fn new(firecracker: PathBuf, guard: PathBuf, runtime_dir: PathBuf) -> Self {
        Self { program: Program::new(firecracker, guard, runtime_dir), jailer: None }
    }

    /// The same, with each Firecracker in a chroot of its own under a user id of its own. Needs
    /// root, and a Firecracker that is linked statically.
    #[must_use]
    pub fn with_jailer(self, jailer: PathBuf) -> Self {
        Self { jailer: Some(jailer), ..self }
    }

    /// Which release it is; asked once. `None` when the program says nothing that is understood.
    pub fn version(&self) -> Option<Version> {
        self.program.version()
    }
}

impl Backend for FirecrackerBackend {
    fn name(&self) -> &'static str {
        "firecracker"
    }

    fn probe(&self) -> Result<(), BootError> {
        let version = self.program.check()?;
        if version.boots() {
            return Ok(());
        }
        Err(BootError::Unsupported {
            backend: "firecracker",
            what: format!("what osvm needs: it is version {version}, and 1.4 to 1.x is known"),
        })
    }

    fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        self.probe()?;
        let Program { firecracker, runtime_dir, .. } = &self.program;
        let delivery = match &self.jailer {
            Some(jailer) => delivery::jailed(jailer, firecracker, runtime_dir, spec),
            None => delivery::unikernel(firecracker, runtime_dir, spec),
        };
        let delivery =
            delivery.map_err(|source| BootError::Host { what: "files for Firecracker", source })?;
        let console = spec.console.try_clone();
        let console = console.map_err(|source| BootError::Host { what: "a descriptor", source })?;
        // Firecracker ends with 0 when the processor shuts down, which a unikernel of ours only
        // does by a triple fault.
        let at_zero = Death::TripleFault;
        let guard = &self.program.guard;
        let machine = machine::start(guard, delivery, spec.cid, spec.memory, console, at_zero);
        Ok(Box::new(machine?))
    }
}
