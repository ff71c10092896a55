//! What can go wrong with a guest, in words a caller can act on.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a guest did not boot.
///
/// Each message says what osvm tried and on which object. It leaves the cause to `source`, so a
/// printed chain never says the same thing twice.
#[derive(Debug, Error)]
pub enum BootError {
    /// The host has no `/dev/kvm`, or osvm may not open it.
    #[error("cannot open `/dev/kvm`")]
    OpenKvm(#[source] io::Error),
    /// A program the backend needs is missing or can't be run.
    #[error("cannot run `{}`", program.display())]
    Program {
        /// Where it was expected.
        program: PathBuf,
        /// What the host answered.
        source: io::Error,
        /// What the user can do about it, as a hint.
        fix: &'static str,
    },
    /// No backend works on this host.
    #[error("no virtual machine can be started on this host: {why}")]
    NoBackend {
        /// What is missing.
        why: String,
        /// What the user can do about it, as a hint.
        fix: &'static str,
    },
    /// The image can't be booted by this backend.
    #[error("image `{name}` cannot be booted: {reason}")]
    BadImage {
        /// The image's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The spec asks for what this backend does not give.
    #[error("backend `{backend}` cannot give the guest {what}")]
    Unsupported {
        /// The backend's name.
        backend: &'static str,
        /// What was asked for.
        what: String,
    },
    /// The host refused something the VM needs (memory, descriptors, processes).
    #[error("the host refused {what}")]
    Host {
        /// What osvm asked for.
        what: &'static str,
        /// What the host answered.
        source: io::Error,
    },
    /// The VM process ended before the guest ran.
    #[error("the VM process ended before the guest ran: {reason}")]
    VmProcess {
        /// What the process said.
        reason: String,
    },
}

impl BootError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OpenKvm(cause) if cause.kind() == io::ErrorKind::PermissionDenied => Some(
                "add your user to group `kvm`: `sudo usermod -aG kvm $USER`, then log in again"
                    .into(),
            ),
            Self::OpenKvm(_) => Some("run `osvm doctor` to see what works on this host".into()),
            Self::Program { fix, .. } | Self::NoBackend { fix, .. } => Some((*fix).into()),
            Self::BadImage { .. } => Some("build it anew with `cargo xtask guest`".into()),
            Self::Unsupported { .. } => {
                Some("name another one by `--backend`, or leave the choice to osvm".into())
            }
            Self::Host { .. } | Self::VmProcess { .. } => {
                Some("run `osvm doctor` to see what is wrong with this host".into())
            }
        }
    }
}

/// Why no stream to the guest could be opened.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The guest did not accept in time.
    #[error("the guest did not accept a connection on port {port} in time")]
    Deadline {
        /// The port.
        port: u32,
    },
    /// The guest runs and refuses.
    #[error("the guest refused the connection to port {port}")]
    Refused {
        /// The port.
        port: u32,
    },
    /// The guest ended first.
    #[error("the guest ended before it accepted a connection")]
    Died(#[source] Death),
    /// The host side failed.
    #[error("the connection to the VM process failed")]
    Io(#[from] io::Error),
}

/// How a guest ended. Text in it comes from the guest and is already cut and cleaned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Death {
    /// The kernel panicked or took a fault, and said so on its console.
    #[error("the guest panicked: {last_words}")]
    Panicked {
        /// The end of its console.
        last_words: String,
    },
    /// The processor gave up: a fault while handling a fault while handling a fault.
    #[error("the guest triple-faulted")]
    TripleFault,
    /// The guest shut down by itself.
    #[error("the guest shut itself down")]
    ShutDown,
    /// The guest touched memory it was not given.
    #[error("the guest touched address {address:#x}, which it was not given")]
    OutOfBounds {
        /// The guest-physical address.
        address: u64,
    },
    /// The guest broke the rules of a device.
    #[error("the guest broke the rules of its {device}: {reason}")]
    DeviceAbuse {
        /// The device.
        device: &'static str,
        /// The rule.
        reason: String,
    },
    /// osvm, or somebody else, killed the VM process with this signal.
    #[error("the VM process was killed by signal {signal}")]
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// The hypervisor failed.
    #[error("the VM process failed: {reason}")]
    VmmFailed {
        /// What it said.
        reason: String,
    },
}
