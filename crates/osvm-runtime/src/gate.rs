//! Whether a call may run, beyond what the isolation config says.

use crate::cancel::Cancel;
use crate::id::CallId;
use crate::tool_call::{ClientName, Observer};
use osvm_policy::Resolved;
use osvm_protocol::tool::Annotations;
use serde_json::value::RawValue;
use std::fmt;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Decides about calls. Asked once for each call, before anything is started for it.
pub trait Gate: fmt::Debug + Send + Sync {
    /// Lets the call run, or not. May wait for a person, beyond the deadline too, but not longer
    /// than the call is wanted; a refusal of a cancelled call is told as its cancellation.
    ///
    /// # Errors
    ///
    /// Why not.
    fn decide(&self, ask: &Question<'_>) -> Result<Permit, Refusal>;
}

/// A call that is to be decided about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The call.
    pub call: CallId,
    /// Who calls, as it says itself.
    pub client: &'a ClientName,
    /// The server the tool belongs to.
    pub server: &'a str,
    /// The tool.
    pub tool: &'a str,
    /// Its arguments. Those of a unikernel's tool have been checked against its schema.
    pub arguments: &'a RawValue,
    /// What the isolation config says.
    pub policy: &'a Resolved,
    /// When the call ends.
    pub deadline: Instant,
    /// Whether the call still wants an answer.
    pub cancel: &'a Cancel,
    /// What the tool says about itself, if that is known.
    pub annotations: Option<&'a Annotations>,
    /// Who wants to hear that the call waits.
    pub observer: Option<&'a dyn Observer>,
}

/// The call may run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permit {
    /// What says so, if it is more than the isolation config.
    pub rule: Option<String>,
    /// How long a person took to say so. The call's deadline is that much later.
    pub waited: Duration,
}

/// The call may not run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What says so.
    pub rule: Option<String>,
    /// Why, in one sentence that names server and tool.
    pub reason: String,
    /// What the user can do next.
    pub hint: Option<String>,
}

/// Lets every call run that the isolation config lets run.
#[derive(Clone, Copy, Debug)]
pub struct NoGate;

impl Gate for NoGate {
    fn decide(&self, _ask: &Question<'_>) -> Result<Permit, Refusal> {
        Ok(Permit::default())
    }
}
