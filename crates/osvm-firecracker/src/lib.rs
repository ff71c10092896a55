//! Firecracker as a child process.
//!
//! ```text
//! FirecrackerBackend::boot ──▶ guard ──exec──▶ firecracker --config-file … --api-sock …
//!                                                  │ Unix socket, "CONNECT 5252"
//!                                                  └──▶ GuestStream
//! ```
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
mod machine;
mod sockets;
mod version;

pub use api::ApiError;
pub use machine::FirecrackerMachine;
pub use sockets::sweep;
pub use version::Version;

use osvm_vmm::{Backend, BootError, Machine, MachineSpec};
use rustix::fs::{Access, access};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The program's name.
pub const PROGRAM: &str = "firecracker";

/// No distribution packages it, and osvm never fetches it by itself.
pub const FIX: &str = "put a release of Firecracker on `PATH`, or name it by `OSVM_FIRECRACKER`";

/// Boots guests under Firecracker.
#[derive(Debug)]
pub struct FirecrackerBackend {
    firecracker: PathBuf,
    guard: PathBuf,
    jailer: Option<PathBuf>,
    runtime_dir: PathBuf,
    version: OnceLock<Option<Version>>,
}

impl FirecrackerBackend {
    /// A backend that runs `firecracker`, started by the program `guard` (`osvm-vm`), with its
    /// sockets made in `runtime_dir`, which must be private to the user.
    pub fn new(firecracker: PathBuf, guard: PathBuf, runtime_dir: PathBuf) -> Self {
        Self { firecracker, guard, jailer: None, runtime_dir, version: OnceLock::new() }
    }

    /// The same, with each Firecracker in a chroot of its own under a user id of its own. Needs
    /// root, and a Firecracker that is linked statically.
    #[must_use]
    pub fn with_jailer(self, jailer: PathBuf) -> Self {
        Self { jailer: Some(jailer), ..self }
    }

    /// Which release it is; asked once. `None` when the program says nothing that is understood.
    pub fn version(&self) -> Option<Version> {
        *self.version.get_or_init(|| {
            let mut command = Command::new(&self.firecracker);
            command.arg("--version").env_clear().stdin(Stdio::null()).stderr(Stdio::null());
            Version::parse(str::from_utf8(&command.output().ok()?.stdout).ok()?)
        })
    }
}

impl Backend for FirecrackerBackend {
    fn name(&self) -> &'static str {
        "firecracker"
    }

    fn probe(&self) -> Result<(), BootError> {
        let check = |program: &Path, fix| {
            access(program, Access::EXEC_OK).map_err(|error| BootError::Program {
                program: program.to_owned(),
                source: error.into(),
                fix,
            })
        };
        check(&self.firecracker, FIX)?;
        check(&self.guard, "build it with `cargo build --release -p osvm --bins`")?;
        let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm");
        kvm.map_err(BootError::OpenKvm)?;
        match self.version() {
            Some(version) if version.boots() => Ok(()),
            Some(version) => Err(BootError::Unsupported {
                backend: "firecracker",
                what: format!("what osvm needs: it is version {version}, and 1.4 to 1.x is known"),
            }),
            None => Err(BootError::Program {
                program: self.firecracker.clone(),
                source: io::Error::other("it does not say which version it is"),
                fix: FIX,
            }),
        }
    }

    fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        self.probe()?;
        Ok(Box::new(machine::boot(self, spec)?))
    }
}
