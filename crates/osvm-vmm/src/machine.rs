//! The two traits every hypervisor implements, and the plain data they take.

use crate::{BootError, ConnectError, Death, GuestStream};
use osvm_protocol::Cid;
use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;

/// Boots guests. One implementation per hypervisor, one crate per implementation.
///
/// Every implementation passes one conformance suite. Callers rely on its promises and never
/// ask which backend they hold.
pub trait Backend: fmt::Debug + Send + Sync {
    /// The name in `--backend`, logs and errors.
    fn name(&self) -> &'static str;

    /// Says whether this host can run the backend. Cheap, starts nothing.
    fn probe(&self) -> Result<(), BootError>;

    /// Whether a guest's code is translated when it first runs, and is faster from then on.
    fn translates(&self) -> bool {
        false
    }

    /// Starts a guest. Returns as soon as the guest can be killed.
    fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError>;
}

/// A running guest. Dropping it destroys the guest and all it held.
pub trait Machine: fmt::Debug + Send {
    /// Process id of the VM process.
    fn vm_pid(&self) -> u32;

    /// Opens a byte stream to `port` inside the guest; returns when the guest has accepted it.
    fn connect(&mut self, port: u32, deadline: Instant) -> Result<GuestStream, ConnectError>;

    /// A handle that stops the guest from any thread, even one stuck in a loop.
    fn killer(&self) -> Killer;

    /// What the guest uses right now. Cheap enough for every call.
    fn usage(&self) -> Usage;

    /// Why the guest ended, once a stream of it has hung up. Ends the guest if it has not.
    fn death(&mut self) -> Death;
}

/// Stops one guest. Cloneable, and safe to use after the guest is gone.
#[derive(Clone)]
pub struct Killer(Arc<dyn Fn() + Send + Sync>);

impl Killer {
    /// Wraps what a backend does to stop a guest at once. It must be idempotent and must not block.
    pub fn new(kill: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(kill))
    }

    /// Stops the guest. Its streams hang up; the [`Machine`] still has to be dropped.
    pub fn kill(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Killer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Killer")
    }
}

/// All a backend needs to boot a guest.
///
/// Plain data with public fields: every value is valid on its own, so there is nothing for a
/// builder to check. No `Default`, because only the caller knows what the tool may use.
#[derive(Debug)]
pub struct MachineSpec {
    /// What the guest boots.
    pub image: GuestImage,
    /// Memory the guest sees, exactly.
    pub memory: MemoryMib,
    /// Address of the guest on the vsock bus.
    pub cid: Cid,
    /// Encoded [`osvm_protocol::boot::BootPage`], given to the guest as its boot module.
    pub boot_page: Vec<u8>,
    /// Where the guest's console goes. The backend appends to it and bounds what it appends.
    pub console: File,
    /// Kept open by the VM process for as long as it lives: the lock on the guest's CID. So the
    /// CID stays taken until the last process that could use it is gone.
    pub lease: Option<Arc<OwnedFd>>,
}

/// A guest image whose bytes have been read and checked, and can't change any more.
#[derive(Clone, Debug)]
pub struct GuestImage {
    /// Name in the image store.
    pub name: String,
    /// The ELF file, in a sealed memory file: what was checked is what is booted.
    pub file: Arc<File>,
}

/// What a running guest uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Guest memory that has been touched, in KiB; `None` where the backend can't tell.
    pub guest_memory_kb: Option<u64>,
}

/// An amount of guest memory, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemoryMib(u32);

impl MemoryMib {
    /// Accepts 16 MiB to 64 GiB. A backend may take less than that.
    pub const fn new(mib: u32) -> Result<Self, BadMemorySize> {
        match mib {
            16..=65_536 => Ok(Self(mib)),
            _ => Err(BadMemorySize(mib)),
        }
    }

    /// The number itself.
    pub const fn mib(self) -> u32 {
        self.0
    }

    /// The same amount in bytes.
    pub const fn bytes(self) -> u64 {
        (self.0 as u64) << 20
    }
}

/// No guest can be given this much memory, or this little.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("guest memory of {0} MiB is outside 16 to 65536 MiB")]
pub struct BadMemorySize(u32);
