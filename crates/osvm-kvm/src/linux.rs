//! Linux guests on the embedded VMM, and copies of them: osvm's side.
//!
//! ```text
//! boot:     memory file, shared ──▶ osvm-vm linux ──Save──▶ state file    (osvm-vm ends)
//! restore:  the same file, private copy on write, and the state ──▶ osvm-vm linux, running
//! ```
//!
//! # Invariants
//!
//! - A memory file is sealed before anybody maps it as a copy, and that fails while the process
//!   that wrote to it could write more.
//! - A copy can't be saved: what it wrote is nowhere but in its process.

use crate::backend::{Prepared, check_kvm, check_memory, check_program, guest_memory, host};
use crate::control::{Life, StartLinux};
use crate::machine::KvmMachine;
use crate::probe::{self, Kind};
use crate::vm_process::{LINUX, STATE_VERSION};
use osvm_protocol::linux::Channel;
use osvm_vmm::linux::{
    LinuxBackend, LinuxMachine, LinuxSpec, Place, Snapshot, SnapshotError, seal,
};
use osvm_vmm::processor;
use osvm_vmm::{BootError, ConnectError, Death, GuestStream, Killer, Machine, MemoryMib, Usage};
use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// The name in `--backend`, logs and errors.
const NAME: &str = "kvm";
/// What a kernel is called that can't be booted.
const KERNEL: &str = "vmlinux";

/// Boots and copies Linux guests on the embedded VMM.
#[derive(Clone, Debug)]
pub struct KvmLinux {
    vm_program: PathBuf,
    identity: Arc<OnceLock<String>>,
}

impl KvmLinux {
    /// A backend that starts `vm_program` (`osvm-vm`).
    pub fn new(vm_program: PathBuf) -> Self {
        Self { vm_program, identity: Arc::default() }
    }

    /// Starts a guest that begins with `life`, from `own`.
    fn start(
        &self,
        memory: Arc<File>,
        size: MemoryMib,
        (life, own): (Life, &[BorrowedFd<'_>]),
        root: &Arc<File>,
        place: &Place,
    ) -> Result<Box<dyn LinuxMachine>, BootError> {
        let prepared = Prepared::spawn(&self.vm_program, &[LINUX.into()])?;
        let start = StartLinux { memory: size.bytes(), cid: place.cid.get(), life };
        let mut fds = vec![memory.as_fd(), place.console.as_fd(), root.as_fd()];
        fds.extend_from_slice(own);
        fds.extend(place.lease.as_deref().map(AsFd::as_fd));
        let sent = prepared.control.send(&start, &fds);
        let machine = prepared.started(memory, sent, KERNEL)?;
        Ok(Box::new(KvmLinuxMachine { machine, size, root: Arc::clone(root), life }))
    }
}

impl LinuxBackend for KvmLinux {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self) -> Result<(), BootError> {
        static KIND: OnceLock<Option<Kind>> = OnceLock::new();
        check_kvm()?;
        check_program(&self.vm_program)?;
        let kind = *KIND.get_or_init(|| probe::measure().ok().map(|speed| speed.kind));
        if kind == Some(Kind::Interpreted) {
            let what = "Linux: this host's KVM interprets guests, which is not enough for it";
            return Err(BootError::Unsupported { backend: NAME, what: what.into() });
        }
        Ok(())
    }

    fn identity(&self) -> Result<String, BootError> {
        let of = || {
            let kernel = rustix::system::uname();
            // The host's kernel is its KVM.
            let kernel = kernel.release().to_string_lossy().into_owned();
            format!("{NAME} {STATE_VERSION}; {}; Linux {kernel}", processor::identity())
        };
        Ok(self.identity.get_or_init(of).clone())
    }

    fn channel(&self) -> Channel {
        Channel::Vsock
    }

    fn boot(&self, spec: &LinuxSpec, place: Place) -> Result<Box<dyn LinuxMachine>, BootError> {
        check_memory(NAME, spec.memory)?;
        // Sealed for good when the guest is saved.
        let memory = guest_memory(spec.memory.bytes(), SealFlags::empty())?;
        let kernel = again(&spec.kernel).map_err(host("a descriptor"))?;
        let life = (Life::Boot, &[kernel.as_fd(), spec.initrd.as_fd()][..]);
        self.start(memory, spec.memory, life, &spec.root, &place)
    }

    fn restore(
        &self,
        snapshot: &Snapshot,
        place: Place,
    ) -> Result<Box<dyn LinuxMachine>, BootError> {
        check_memory(NAME, snapshot.size)?;
        let life = (Life::Copy, &[snapshot.state.as_fd()][..]);
        self.start(Arc::clone(&snapshot.memory), snapshot.size, life, &snapshot.root, &place)
    }
}

/// A Linux guest on the embedded VMM.
#[derive(Debug)]
struct KvmLinuxMachine {
    machine: KvmMachine,
    size: MemoryMib,
    root: Arc<File>,
    life: Life,
}

impl Machine for KvmLinuxMachine {
    fn vm_pid(&self) -> u32 {
        self.machine.vm_pid()
    }

    fn connect(&mut self, port: u32, deadline: Instant) -> Result<GuestStream, ConnectError> {
        self.machine.connect(port, deadline)
    }

    fn killer(&self) -> Killer {
        self.machine.killer()
    }

    fn usage(&self) -> Usage {
        match self.life {
            Life::Boot => self.machine.usage(),
            Life::Copy => Usage { guest_memory_kb: self.private_kb() },
        }
    }

    fn death(&mut self) -> Death {
        self.machine.death()
    }
}

impl LinuxMachine for KvmLinuxMachine {
    fn snapshot(mut self: Box<Self>, deadline: Instant) -> Result<Snapshot, SnapshotError> {
        if self.life == Life::Copy {
            return Err(SnapshotError::Refused { reason: "it is a copy itself".into() });
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let state = File::from(memfd_create("osvm-state", flags).map_err(io::Error::from)?);
        self.machine.save(&state, deadline)?;
        let memory = Arc::clone(self.machine.memory());
        seal(&memory)?;
        seal(&state)?;
        let root = Arc::clone(&self.root);
        Ok(Snapshot { memory, state: Arc::new(state), size: self.size, root })
    }

    fn wait(&mut self, deadline: Instant) -> bool {
        !matches!(self.machine.process().wait(deadline), Ok(None))
    }

    fn private_kb(&self) -> Option<u64> {
        let path = format!("/proc/{}/status", self.vm_pid());
        anonymous_kb(&std::fs::read_to_string(path).ok()?)
    }
}

/// `RssAnon` of proc_pid_status(5), in KiB: what was written by this process or for it, and pages
/// of a private mapping that were copied for it. Of the files that say so, this is the one that
/// everybody may read of a process that is not dumpable.
fn anonymous_kb(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The same file with a position of its own: several guests read it at a time.
fn again(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_file_that_others_have_too_is_not_counted() {
        let status = "VmRSS:\t   900 kB\nRssAnon:\t    42 kB\nRssFile:\t  800 kB\n";
        assert_eq!(anonymous_kb(status), Some(42));
        assert_eq!(anonymous_kb("Name:\tvm\n"), None);
    }
}
