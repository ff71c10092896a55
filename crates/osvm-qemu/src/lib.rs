//! QEMU as a child process: for hosts where the embedded VMM can't or shouldn't run.
//!
//! ```text
//! QemuBackend::boot ──▶ guard ──exec──▶ qemu-system-x86_64 -M microvm …
//!        │                                   │ vhost-user
//!        └──▶ service thread ◀───────────────┘
//!                  │ osvm_vsock::Device
//!                  └──▶ GuestStream
//! ```
//!
//! # Invariants
//!
//! - QEMU never outlives osvm: the guard ties it to the lifeline before it becomes QEMU.
//! - QEMU runs under its own system call filter and holds no path but its own program and
//!   firmware: memory, image, boot page and sockets are given as descriptors.
//! - The guest gets the same image and the same command line devices as on every other backend.
//!
//! # Not here
//!
//! - The vsock device: `osvm-vsock`. The guard program: `osvm-vm`, which any backend may use.

mod command;
mod linux;
mod machine;
mod qmp;
mod service;
mod vhost_user;

pub use command::{Accelerator, VsockDevice};
pub use linux::QemuLinux;

use osvm_vmm::{Backend, BootError, Machine, MachineSpec};
use rustix::fs::{Access, access};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The program's name on every distribution.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// What installs it on Debian and its descendants.
pub const FIX: &str =
    "install QEMU with `sudo apt-get install --no-install-recommends qemu-system-x86`";

/// Boots guests under QEMU.
#[derive(Clone, Debug)]
pub struct QemuBackend {
    qemu: PathBuf,
    guard: PathBuf,
    accelerator: Accelerator,
    kernel_vsock: bool,
}

impl QemuBackend {
    /// A backend that runs `qemu`, started by the program `guard` (`osvm-vm`).
    ///
    /// `kernel_vsock` says whether the host's kernel may hold the device where it can; the guest
    /// then has its CID on the host's own bus.
    pub fn new(
        qemu: PathBuf,
        guard: PathBuf,
        accelerator: Accelerator,
        kernel_vsock: bool,
    ) -> Self {
        Self { qemu, guard, accelerator, kernel_vsock }
    }

    fn vsock(&self) -> VsockDevice {
        let usable = || File::options().read(true).write(true).open("/dev/vhost-vsock").is_ok();
        if self.kernel_vsock && usable() { VsockDevice::Kernel } else { VsockDevice::VhostUser }
    }
}

impl Backend for QemuBackend {
    fn name(&self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => "qemu-kvm",
            Accelerator::Tcg => "qemu-tcg",
        }
    }

    fn translates(&self) -> bool {
        self.accelerator == Accelerator::Tcg
    }

    fn probe(&self) -> Result<(), BootError> {
        let check = |program: &Path, fix| {
            access(program, Access::EXEC_OK).map_err(|error| BootError::Program {
                program: program.to_owned(),
                source: error.into(),
                fix,
            })
        };
        check(&self.qemu, FIX)?;
        check(&self.guard, "build it with `cargo build --release -p osvm --bins`")?;
        if self.accelerator == Accelerator::Kvm {
            let kvm = File::options().read(true).write(true).open("/dev/kvm");
            kvm.map_err(BootError::OpenKvm)?;
        }
        Ok(())
    }

    fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        self.probe()?;
        Ok(Box::new(machine::boot(self, spec)?))
    }
}
