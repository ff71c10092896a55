//! What can go wrong with a microVM, in words a caller can act on.

use crate::talk::Gone;
use crate::workspace::WorkspaceError;
use osvm_runtime::DirError;
use osvm_runtime::cids::CidError;
use osvm_vmm::linux::SnapshotError;
use osvm_vmm::{BootError, ConnectError};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why there is no microVM, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum MicroVmError {
    /// A file every guest needs is missing.
    #[error("cannot read `{}`", path.display())]
    GuestFile {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// What the guest is told would not fit.
    #[error("cannot write the initial RAM disk")]
    Initrd(#[source] io::Error),
    /// The recipe can't be carried out.
    #[error("{0}")]
    Recipe(&'static str),
    /// It did not boot.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// It has no stream.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No CID is free.
    #[error(transparent)]
    Cid(#[from] CidError),
    /// A directory can't be used.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// It could not be saved.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It stopped, or did not answer.
    #[error("{0}")]
    Gone(#[from] Gone),
    /// The server has secrets, which would be in every copy of it.
    #[error("a server with secrets can't be cloned: its secrets would be saved with it")]
    Secrets,
    /// It can't have the files of the host.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The template could not be made; several requests may have waited for it.
    #[error(transparent)]
    Template(Arc<MicroVmError>),
    /// It took longer than the request that wanted it has time.
    #[error("the server's first start takes longer than the call may")]
    Late,
    /// Whoever asked wants it no more.
    #[error("the start was cancelled")]
    Cancelled,
    /// The host refused something the microVM needs.
    #[error("the host refused {what}")]
    Host {
        /// What osvm asked for.
        what: &'static str,
        /// What the host answered.
        source: io::Error,
    },
}

impl MicroVmError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::GuestFile { .. } => {
                Some("make it with `cargo xtask kernel`, then `cargo xtask install`".into())
            }
            Self::Template(error) => error.hint(),
            Self::Workspace(error) => error.hint(),
            Self::Late => Some("call again in a moment, or raise `timeout_secs`".into()),
            Self::Secrets => Some("give it `\"life\": \"persistent\"`".into()),
            Self::Boot(error) => error.hint(),
            Self::Cid(error) => error.hint(),
            Self::Dir(error) => error.hint(),
            _ => None,
        }
    }
}
