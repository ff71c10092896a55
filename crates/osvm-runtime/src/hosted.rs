//! Tools that osvm boots no unikernel for: of a program on the host or in a microVM, or of a
//! server somewhere else.
//!
//! Who implements [`Hosted`] knows how to reach the server. Whether and where the call may run,
//! and what is told about it, is decided by [`crate::Runtime::call_hosted`].

use crate::cancel::Cancel;
use crate::exchange::Answer;
use crate::id::CallId;
use crate::report::RunMode;
use crate::tool_call::{Observer, Stage};
use osvm_policy::Resolved;
use osvm_protocol::tool::Annotations;
use std::time::{Duration, Instant};
use thiserror::Error;

/// A tool of a server that osvm does not boot a unikernel for.
pub trait Hosted {
    /// Where the server is.
    fn site(&self) -> Site;

    /// What the tool says about itself, if that is known.
    fn annotations(&self) -> Option<Annotations> {
        None
    }

    /// Calls the tool, in the place that the terms name and in no other. Returns by the deadline,
    /// and soon after a cancellation.
    ///
    /// # Errors
    ///
    /// There is no answer.
    fn call(&self, terms: &Terms<'_>) -> Result<HostedReply, HostedError>;
}

/// Where a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// It is a program that is started for its client.
    Process,
    /// It runs already, behind an address.
    Remote,
}

/// On which terms a call may run.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The call.
    pub call: CallId,
    /// What the isolation config says about the tool.
    pub policy: &'a Resolved,
    /// Where it runs: [`RunMode::MicroVm`], [`RunMode::Direct`] or [`RunMode::Remote`].
    pub place: RunMode,
    /// When the call ends.
    pub deadline: Instant,
    /// Whether the call still wants an answer; [`Cancel::on_cancel`] tells when it does not.
    pub cancel: &'a Cancel,
    /// Who wants to hear how far the call is.
    pub observer: Option<&'a dyn Observer>,
}

impl Terms<'_> {
    /// Tells the observer, if there is one.
    pub fn stage(&self, stage: Stage) {
        if let Some(observer) = self.observer {
            observer.stage(stage);
        }
    }
}

/// What a hosted tool answered, and where it ran.
#[derive(Debug)]
pub struct HostedReply {
    /// The answer.
    pub answer: Answer,
    /// Address of the microVM.
    pub cid: Option<u32>,
    /// Process id of the VM process.
    pub vm_pid: Option<u32>,
    /// The hypervisor.
    pub backend: Option<&'static str>,
    /// Name of the image that was booted.
    pub image: Option<String>,
    /// SHA-256 of that image.
    pub image_digest: Option<String>,
    /// How long it took until the server could be asked.
    pub boot: Option<Duration>,
    /// Whether the VM was booted before the call came, and used for the first time by it.
    pub pooled: bool,
    /// Whether the server had served an earlier call.
    pub reused: bool,
}

impl HostedReply {
    /// An answer of a server that is in no VM.
    pub fn new(answer: Answer) -> Self {
        Self {
            answer,
            cid: None,
            vm_pid: None,
            backend: None,
            image: None,
            image_digest: None,
            boot: None,
            pooled: false,
            reused: false,
        }
    }
}

/// Why a hosted tool gave no answer.
#[derive(Debug)]
pub struct HostedError {
    /// A stable word for programs; `docs/cli.md` lists them.
    pub code: &'static str,
    /// What failed, on which object.
    pub message: String,
    /// The chain of causes, outermost first.
    pub causes: Vec<String>,
    /// What the user can do next.
    pub hint: Option<String>,
    /// Whether isolation could not be had, so that a fallback, if configured, may run the tool.
    pub isolation_failure: bool,
}

/// The same as an error with a chain of causes.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct HostedFailure {
    pub(crate) code: &'static str,
    message: String,
    #[source]
    cause: Option<Cause>,
    pub(crate) hint: Option<String>,
    pub(crate) isolation_failure: bool,
}

#[derive(Debug, Error)]
#[error("{message}")]
struct Cause {
    message: String,
    #[source]
    cause: Option<Box<Cause>>,
}

impl From<HostedError> for HostedFailure {
    fn from(error: HostedError) -> Self {
        let HostedError { code, message, causes, hint, isolation_failure } = error;
        let chain =
            |cause: Option<Cause>, message| Some(Cause { message, cause: cause.map(Box::new) });
        let cause = causes.into_iter().rev().fold(None, chain);
        Self { code, message, cause, hint, isolation_failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    #[test]
    fn causes_keep_their_order() {
        let error = HostedError {
            code: "server",
            message: "a".into(),
            causes: vec!["b".into(), "c".into()],
            hint: None,
            isolation_failure: false,
        };
        assert_eq!(chain(&HostedFailure::from(error)), "a: b: c");
    }
}
