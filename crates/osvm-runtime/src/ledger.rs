//! Where every call leaves a record, whether it ran or not.

use crate::id::CallId;
use crate::report::{Isolation, RunMode};
use crate::tool_call::ClientName;
use crate::trace::Reach;
use osvm_image::Digest;
use serde::Serialize;
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Keeps records of calls. Several threads may write at once.
pub trait Ledger: fmt::Debug + Send + Sync {
    /// Whether a record could be written now. Asked before anything is started for a call.
    ///
    /// # Errors
    ///
    /// Why not; the call is denied then.
    fn ready(&self) -> Result<(), LedgerError>;

    /// Writes one. Called once for each call, before anybody sees its answer.
    ///
    /// # Errors
    ///
    /// The record is not kept; the caller gets no answer then.
    fn write(&self, record: &Record) -> Result<(), LedgerError>;
}

/// One call, for the books.
#[derive(Clone, Debug)]
pub struct Record {
    /// The call. Its id holds when it began.
    pub call: CallId,
    /// Who called, as it says itself.
    pub client: ClientName,
    /// The server the tool belongs to.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// Digest of the arguments, as they were sent.
    pub arguments: Digest,
    /// Digest of the result, or of the tool's error, as it came; `None` if there is neither.
    pub result: Option<Digest>,
    /// What was decided.
    pub decision: Decision,
    /// The rule that decided, if it is more than the isolation config.
    pub rule: Option<String>,
    /// What in the isolation config says where the call runs.
    pub origin: String,
    /// How it ran. `total` ends when the record was made.
    pub isolation: Isolation,
    /// Why the call could not be isolated, if it could not.
    pub isolation_failure: Option<String>,
    /// `result`, `tool_error`, or the word of [`crate::CallError::code`].
    pub exit: String,
    /// The failure and its causes on one line, if there is one.
    pub reason: Option<String>,
    /// What the call reached of the world outside.
    pub reaches: Vec<Reach>,
    /// How many more of these there were.
    pub reaches_left_out: u64,
}

impl Record {
    /// Mode the call ran in, or was to run in.
    pub fn mode(&self) -> RunMode {
        self.isolation.mode
    }

    /// From the start of the call until the record was made.
    pub fn total(&self) -> Option<Duration> {
        self.isolation.total
    }
}

/// What was decided about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It could run.
    Allow,
    /// It could not.
    Deny,
    /// It ended before: its names or arguments were wrong, there was no room, it was cancelled.
    None,
}

/// Records can't be kept.
#[derive(Debug)]
pub struct LedgerError {
    cause: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
}

impl LedgerError {
    /// Wraps what a ledger says, and what the user can do next.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>, hint: Option<String>) -> Self {
        Self { cause: cause.into(), hint }
    }

    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cause, f)
    }
}

impl Error for LedgerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.source()
    }
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoLedger;

impl Ledger for NoLedger {
    fn ready(&self) -> Result<(), LedgerError> {
        Ok(())
    }

    fn write(&self, _record: &Record) -> Result<(), LedgerError> {
        Ok(())
    }
}
