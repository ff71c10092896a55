//! A byte pipe to a server, and whatever makes such pipes.

use serde_json::value::RawValue;
use std::error::Error;
use std::fmt;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::stop::Stop;

/// Makes links to one server.
pub trait Launch: fmt::Debug + Send + Sync {
    /// Starts the server, or another instance of it.
    ///
    /// # Errors
    ///
    /// Why it did not start; when `deadline` passes or `cancel` is stopped, that.
    fn launch(&self, deadline: Instant, cancel: &Stop) -> Result<Link, LaunchError>;

    /// Whether a link serves one request and is thrown away after it: a clone for each call.
    fn once(&self) -> bool;

    /// Whether one instance serves all clients, so that none of them decides in which era it is
    /// spoken to and what it may ask for. Otherwise clients that differ get links that do.
    fn for_all(&self) -> bool {
        true
    }

    /// Tells what is started from other things, for the cache of definitions: an image's digest
    /// and a command line, for example. No secrets.
    fn identity(&self) -> String;
}

/// Newline-delimited JSON-RPC in both directions.
pub struct Link {
    /// What the server says.
    pub read: Box<dyn Read + Send>,
    /// What it is told. Dropped when the server is to end by itself.
    pub write: Box<dyn Write + Send>,
    /// The `DiscoverResult` of the new era or the `InitializeResult` of the old one, when the server
    /// behind it has been greeted already.
    pub greeting: Option<Box<RawValue>>,
    /// Ends it.
    pub end: Box<dyn EndLink>,
    /// What is known of it, for `status`: a process id, a CID.
    pub facts: serde_json::Map<String, serde_json::Value>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Ends what is at the other end of a [`Link`]. Dropping it ends it too.
pub trait EndLink: Send {
    /// Waits up to `patience` for it to end by itself, now that its input is closed; then kills
    /// it. Returns when it is gone. Asked again it does nothing.
    ///
    /// Both ends of the pipe are hung up by then, whoever else inherited them.
    fn end(&mut self, patience: Duration);

    /// How it ended, in a few words ("exit status: 1"), if it has by itself. Never waits.
    fn last_words(&mut self) -> Option<String> {
        None
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Whoever asked for it wants it no more.
    #[error("the start was cancelled")]
    Cancelled,
    /// It took too long.
    #[error("it did not start in time")]
    Deadline,
    /// It can't be started.
    #[error("{what}")]
    Failed {
        /// What failed, on which object.
        what: String,
        /// What the user can do about it.
        hint: Option<String>,
        /// Why.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
}

impl LaunchError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Cancelled | Self::Deadline => None,
            Self::Failed { hint, .. } => hint.as_deref(),
        }
    }
}
