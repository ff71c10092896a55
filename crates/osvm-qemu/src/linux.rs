//! Linux guests under QEMU, and copies of them.
//!
//! ```text
//! boot:     memory file, shared ──▶ QEMU ──migrate──▶ device state      (QEMU ends)
//! restore:  the same file, private copy on write, and the device state ──▶ QEMU, running
//! ```
//!
//! A restored QEMU is told everything before it starts: the commands stand in its machine protocol
//! socket already, and the state is a descriptor it inherits.
//!
//! # Invariants
//!
//! - As for unikernels: QEMU is tied to the lifeline, filters its own system calls and holds no path.
//!   The root file system is a descriptor that QEMU never opens anew.
//! - A machine has one stream, the virtio-serial port.
//!
//! # Not here
//!
//! - What QEMU is told: [`command`]. How it is asked to save a guest: [`save`].

mod command;
mod machine;
mod save;

use crate::{Accelerator, FIX};
use command::Life;
use osvm_protocol::linux::Channel;
use osvm_vmm::linux::{LinuxBackend, LinuxMachine, LinuxSpec, Place, Snapshot};
use osvm_vmm::{BootError, processor};
use rustix::fs::{Access, access};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

/// Boots and copies Linux guests under QEMU.
#[derive(Clone, Debug)]
pub struct QemuLinux {
    qemu: PathBuf,
    guard: PathBuf,
    accelerator: Accelerator,
    version: Arc<OnceLock<String>>,
}

impl QemuLinux {
    /// A backend that runs `qemu`, started by the program `guard` (`osvm-vm`).
    pub fn new(qemu: PathBuf, guard: PathBuf, accelerator: Accelerator) -> Self {
        Self { qemu, guard, accelerator, version: Arc::default() }
    }

    /// What the program says of itself: asked once.
    fn version(&self) -> Result<&str, BootError> {
        if let Some(version) = self.version.get() {
            return Ok(version);
        }
        let output = Command::new(&self.qemu).arg("--version").env_clear().output();
        let output = output.map_err(|source| self.no_program(source))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default().to_owned();
        Ok(self.version.get_or_init(|| first))
    }

    fn no_program(&self, source: std::io::Error) -> BootError {
        BootError::Program { program: self.qemu.clone(), source, fix: FIX }
    }
}

impl LinuxBackend for QemuLinux {
    fn name(&self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => "qemu-kvm",
            Accelerator::Tcg => "qemu-tcg",
        }
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

    fn identity(&self) -> Result<String, BootError> {
        Ok(format!("{} {}; {}", self.name(), self.version()?, processor::identity()))
    }

    /// QEMU can't save a guest whose vsock is another process, and the kernel's can't be copied.
    fn channel(&self) -> Channel {
        Channel::VirtioSerial
    }

    fn boot(&self, spec: &LinuxSpec, place: Place) -> Result<Box<dyn LinuxMachine>, BootError> {
        self.probe()?;
        let machine = machine::start(self, &Life::Boot(spec), place)?;
        Ok(Box::new(machine))
    }

    fn restore(
        &self,
        snapshot: &Snapshot,
        place: Place,
    ) -> Result<Box<dyn LinuxMachine>, BootError> {
        let machine = machine::start(self, &Life::Copy(snapshot), place)?;
        Ok(Box::new(machine))
    }
}
