//! The Firecracker that is run, the guard that starts it, and where its sockets are made.

use crate::{FIX, Version};
use osvm_vmm::BootError;
use rustix::fs::{Access, access};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What to do about a guard that is missing.
pub(crate) const BUILD: &str = "build it with `cargo build --release -p osvm --bins`";

/// Firecracker and its surroundings.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) firecracker: PathBuf,
    pub(crate) guard: PathBuf,
    pub(crate) runtime_dir: PathBuf,
    said: OnceLock<Option<String>>,
}

impl Program {
    pub(crate) fn new(firecracker: PathBuf, guard: PathBuf, runtime_dir: PathBuf) -> Self {
        Self { firecracker, guard, runtime_dir, said: OnceLock::new() }
    }

    /// What it says of itself, asked once: `Firecracker v1.16.1` and more lines.
    pub(crate) fn says(&self) -> Option<&str> {
        let ask = || {
            let mut command = Command::new(&self.firecracker);
            command.arg("--version").env_clear().stdin(Stdio::null()).stderr(Stdio::null());
            String::from_utf8(command.output().ok()?.stdout).ok()
        };
        self.said.get_or_init(ask).as_deref()
    }

    /// Which release it is. `None` when it says nothing that is understood.
    pub(crate) fn version(&self) -> Option<Version> {
        Version::parse(self.says()?)
    }

    /// Which release it is, if it can be run here.
    pub(crate) fn check(&self) -> Result<Version, BootError> {
        let check = |program: &Path, fix| {
            access(program, Access::EXEC_OK).map_err(|error| BootError::Program {
                program: program.to_owned(),
                source: error.into(),
                fix,
            })
        };
        check(&self.firecracker, FIX)?;
        check(&self.guard, BUILD)?;
        let kvm = File::options().read(true).write(true).open("/dev/kvm");
        kvm.map_err(BootError::OpenKvm)?;
        self.version().ok_or_else(|| BootError::Program {
            program: self.firecracker.clone(),
            source: io::Error::other("it does not say which version it is"),
            fix: FIX,
        })
    }
}
