//! Machines for Linux guests, and copies of them.
//!
//! ```text
//! LinuxBackend::boot(spec) ──▶ LinuxMachine ──snapshot──▶ Snapshot
//!                                                            │ restore(spec), any number of times
//!                                                            ▼
//!                                                         LinuxMachine, at the same instruction
//! ```
//!
//! # Invariants
//!
//! - A machine that was saved is gone: nothing runs on in the memory its copies share.
//! - What a copy writes is its own. The [`Snapshot`]'s memory is sealed and never changes.
//! - A [`Snapshot`] is restored only where [`LinuxBackend::identity`] is what it was when it was taken.
//!
//! # Not here
//!
//! - What runs in the guest, and making copies unlike each other: whoever asks for them.

use crate::{BootError, Machine, MemoryMib};
use osvm_protocol::Cid;
use osvm_protocol::linux::Channel;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// Boots Linux guests and copies them.
pub trait LinuxBackend: fmt::Debug + Send + Sync {
    /// The name in `--backend`, logs and errors.
    fn name(&self) -> &'static str;

    /// Says whether this host can run the backend. Cheap, starts nothing.
    fn probe(&self) -> Result<(), BootError>;

    /// All that a saved guest depends on besides what it was booted from: the hypervisor and its
    /// version, the kind of processor, the pace of its clock.
    fn identity(&self) -> Result<String, BootError>;

    /// What carries the stream that [`Machine::connect`] opens.
    ///
    /// A copy's stream is a new one, whatever became of its original's: over vsock the guest sees
    /// that the old connection is gone, and takes another.
    fn channel(&self) -> Channel;

    /// Starts a guest. Returns as soon as the guest can be killed.
    fn boot(&self, spec: &LinuxSpec, place: Place) -> Result<Box<dyn LinuxMachine>, BootError>;

    /// Starts a copy of a saved guest. Returns as soon as the copy can be killed.
    fn restore(
        &self,
        snapshot: &Snapshot,
        place: Place,
    ) -> Result<Box<dyn LinuxMachine>, BootError>;
}

/// A running Linux guest.
///
/// [`Machine::connect`] may be called before the guest listens: it says
/// [`Refused`](crate::ConnectError::Refused) then, and is called again. A virtio-serial port is
/// there at once, is the stream of whatever port is asked for, and can be had once.
pub trait LinuxMachine: Machine {
    /// Saves the guest and ends it.
    fn snapshot(self: Box<Self>, deadline: Instant) -> Result<Snapshot, SnapshotError>;

    /// Waits until the VM process has ended by itself; false at `deadline`.
    fn wait(&mut self, deadline: Instant) -> bool;

    /// Memory that this guest shares with no other process, in KiB: the VM process included.
    fn private_kb(&self) -> Option<u64>;
}

/// What a Linux guest boots from.
#[derive(Clone, Debug)]
pub struct LinuxSpec {
    /// The kernel, an ELF file with a PVH entry, in a sealed memory file.
    pub kernel: Arc<File>,
    /// The initial RAM disk, in a sealed memory file.
    pub initrd: Arc<File>,
    /// The root file system, open for reading only.
    pub root: Arc<File>,
    /// Memory the guest sees, exactly.
    pub memory: MemoryMib,
}

/// Where one guest runs.
#[derive(Debug)]
pub struct Place {
    /// Its address in osvm's books.
    pub cid: Cid,
    /// Where the guest's console goes. The backend appends to it and bounds what it appends.
    pub console: File,
    /// Kept open by the VM process for as long as it lives: the lock on the guest's CID.
    pub lease: Option<Arc<OwnedFd>>,
}

/// A guest that was saved. Cheap to clone; the memory is shared.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Guest memory, a sealed memory file.
    pub memory: Arc<File>,
    /// Everything else, a sealed memory file.
    pub state: Arc<File>,
    /// How much memory the guest has.
    pub size: MemoryMib,
    /// The root file system the guest has mounted.
    pub root: Arc<File>,
}

/// A guest could not be saved; it is gone.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The host side failed.
    #[error("the connection to the VM process failed")]
    Io(#[from] io::Error),
    /// The hypervisor said no.
    #[error("the VM process could not save the guest: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// It took too long.
    #[error("the guest was not saved in time")]
    Deadline,
}

/// A memory file that holds `bytes` and can't change any more.
///
/// # Errors
///
/// What the host answered.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create(name, flags)?);
    file.write_all(bytes)?;
    seal(&file)?;
    Ok(file)
}

/// Makes sure that a memory file can't change any more.
///
/// # Errors
///
/// `ResourceBusy` while somebody has it mapped for writing.
pub fn seal(file: &File) -> io::Result<()> {
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    Ok(fcntl_add_seals(file, seals)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;

    #[test]
    fn sealed_memory_can_be_read_anew_and_not_written() {
        let mut file = sealed("test", b"words").unwrap();
        assert!(file.write_all(b"more").is_err());
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut text = String::new();
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "words");
    }
}
