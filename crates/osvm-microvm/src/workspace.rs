//! Host folders of which guests get copies, and what becomes of what they change.
//!
//! ```text
//! host folder ─ tree ─▶ guest ─ call ─ answer ─▶ what changed ─┬─ rw ──▶ host folder
//!                                                              ├─ diff ─▶ Pending ─ apply ─▶ host folder
//!                                                              └─ list and patch, in the answer
//! ```
//!
//! # Invariants
//!
//! - Nothing of a guest reaches the host folder but regular files and folders, below it and over no
//!   symbolic link, and only where the host's file is still the one that the guest had seen.
//! - A call whose changes can't be kept has an error, never an answer that says they were.
//! - Bounded: bytes and files in each direction, and the patch in an answer.
//!
//! # Not here
//!
//! - Which folders may be shared at all: whoever makes the recipe.

mod apply;
mod changes;
mod exercise;
mod members;
mod patch;
mod pending;
mod settle;
mod tree;

pub use apply::ApplyError;
pub(crate) use changes::Incoming;
pub use changes::{Change, State};
pub use exercise::exercise;
pub use pending::{ChangeSet, Pending};
pub(crate) use settle::Files;

use crate::guest::Guest;
use crate::talk::Gone;
use osvm_policy::WorkspaceMode;
use osvm_protocol::linux::workspace::{MAX_PLACES, Place, Said, frame, method};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::path::Arg;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tree::Room;

/// Bytes of frames that go into a guest at once: each write wakes it, and a small file has two frames.
const TOGETHER: usize = 64 * 1024;

/// A host folder of which the guests of a server get copies.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The folder.
    pub host_path: PathBuf,
    /// Where a guest has it.
    pub guest_path: String,
    /// What becomes of changes.
    pub mode: WorkspaceMode,
    /// Where changes wait.
    pub pending: Pending,
    /// Whether it is one of several mounts, which results then tell apart by their guest paths. The mode of a
    /// mount is `ro` or `rw`.
    pub is_mount: bool,
}

/// Why a guest does not get its files.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The host refused to read something.
    #[error("cannot read workspace `{}`", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// It does not fit a guest.
    #[error("workspace `{}` holds more than {what}", path.display())]
    TooMuch {
        /// The folder.
        path: PathBuf,
        /// How much fits.
        what: String,
    },
    /// A name that can't be carried.
    #[error("`{}` in the workspace can't be carried: its path is too long or no UTF-8", path.display())]
    Name {
        /// What has it.
        path: PathBuf,
    },
    /// Two of them would be in each other.
    #[error("the guest paths `{first}` and `{second}` overlap")]
    Overlap {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// There are too many folders.
    #[error("{count} folders of the host are over the limit of {MAX_PLACES}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// The guest did not take them.
    #[error("the guest did not take the workspace")]
    Guest(#[source] Gone),
}

impl WorkspaceError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooMuch { .. } => Some(
                "give the server more `memory_mb`, of which a part is for files, or a smaller \
                 folder"
                    .into(),
            ),
            Self::Read { .. } => {
                Some("`host_path` of `workspace` and `mounts` has to be a folder".into())
            }
            Self::Overlap { .. } => {
                Some("give each of `workspace` and `mounts` a guest path of its own".into())
            }
            Self::TooMany { .. } => Some("mount a folder that they are all in".into()),
            Self::Name { .. } | Self::Guest(_) => None,
        }
    }
}

impl Workspace {
    /// Where a guest has its files; one that lives on starts its server when they are there.
    pub(crate) fn place(&self, copied: bool) -> Place {
        let writable = self.mode != WorkspaceMode::Ro;
        Place { path: self.guest_path.clone(), writable, first: !copied }
    }

    fn unreadable(&self, below: &str, source: io::Error) -> WorkspaceError {
        WorkspaceError::Read { path: self.host_path.join(below), source }
    }
}

/// Whether a guest can have all of these.
pub(crate) fn check<'a>(places: impl Iterator<Item = &'a Workspace>) -> Result<(), WorkspaceError> {
    let paths: Vec<_> = places.map(|workspace| workspace.guest_path.as_str()).collect();
    if MAX_PLACES < paths.len() {
        return Err(WorkspaceError::TooMany { count: paths.len() });
    }
    for (at, first) in paths.iter().enumerate() {
        let overlaps = |second: &&&str| {
            Path::new(first).starts_with(second) || Path::new(second).starts_with(first)
        };
        if let Some(second) = paths.iter().skip(at + 1).find(overlaps) {
            let (first, second) = ((*first).to_owned(), (*second).to_owned());
            return Err(WorkspaceError::Overlap { first, second });
        }
    }
    Ok(())
}

/// Gives `guest` the files of `places` as they are now. At most `most` bytes fit.
pub(crate) fn fill(
    guest: &mut Guest,
    places: Vec<Workspace>,
    server: &str,
    most: u64,
    deadline: Instant,
) -> Result<Arc<Files>, WorkspaceError> {
    let talk = guest.talk();
    let mut together = Vec::with_capacity(TOGETHER);
    let mut say = |said: Said<'_>| -> Result<(), Gone> {
        together.extend_from_slice(&frame(said)?);
        if TOGETHER <= together.len() {
            talk.frame(&together, deadline)?;
            together.clear();
        }
        Ok(())
    };
    let (mut room, mut parts, mut bases) = (Room::new(most), Vec::new(), Vec::new());
    for (number, workspace) in (0..).zip(places) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&workspace.host_path, flags, Mode::empty());
        let root = root.map_err(|error| workspace.unreadable("", error.into()))?;
        if number != 0 {
            say(Said::Place(number)).map_err(WorkspaceError::Guest)?;
        }
        bases.push(tree::send(&workspace, &root, &mut room, &mut say)?);
        parts.push((workspace, root));
    }
    talk.frame(&together, deadline).map_err(WorkspaceError::Guest)?;
    let ready: Result<(), Gone> = talk.ask(method::READY, &serde_json::json!({}), deadline);
    ready.map_err(WorkspaceError::Guest)?;
    Ok(Arc::new(Files::new(server, parts, bases)))
}

/// Opens what is below `root`, over no symbolic link.
fn open_below(root: impl AsFd, path: impl Arg, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(openat2(root, path, flags, Mode::empty(), resolve)?)
}

#[cfg(test)]
mod tests;
