//! Tools that osvm boots no unikernel for: of a program on the host or in a microVM, or of a
//! server somewhere else.
//!
//! Who implements [`Hosted`] knows how to reach the server. Whether and where the call may run,
//! and what is told about it, is decided by [`crate::Runtime::call_hosted`].

use crate::behalf::{LongGuests, OnBehalf, Working};
use crate::cancel::Cancel;
use crate::exchange::Answer;
use crate::id::CallId;
use crate::report::RunMode;
use crate::tool_call::{Observer, Stage};
use crate::trace::Trace;
use osvm_policy::Resolved;
use osvm_protocol::tool::Annotations;
use serde_json::{Map, Value};
use std::sync::Arc;
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
    /// Where what the call reaches is written down.
    pub trace: &'a Arc<Trace>,
    /// The guests that may work for it.
    pub guests: &'a LongGuests,
}

impl Terms<'_> {
    /// Says that the guest with this CID works for the call until the guard is dropped: what it
    /// asks of the host meanwhile, it asks on behalf of the call. Nothing for a guest that can ask
    /// for nothing.
    #[must_use = "the guest works for the call while the guard lives"]
    pub fn works_in(&self, cid: u32) -> Option<Working> {
        self.guests.works(cid, || OnBehalf {
            call: self.call,
            policy: self.policy.clone(),
            deadline: self.deadline,
            cancel: self.cancel.clone(),
            trace: Arc::clone(self.trace),
        })
    }

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

    /// Says which microVM answered: takes over what whoever started it tells of it, as far as that
    /// makes sense.
    pub fn describe(&mut self, facts: &Map<String, Value>) {
        let number = |name: &str| u32::try_from(facts.get(name)?.as_u64()?).ok();
        let text = |name: &str| facts.get(name)?.as_str().map(str::to_owned);
        (self.cid, self.vm_pid) = (number("cid"), number("vm_pid"));
        (self.image, self.image_digest) = (text("image"), text("image_digest"));
        self.pooled = facts.get("pooled").and_then(Value::as_bool).unwrap_or(false);
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
    fn of_a_link_only_what_makes_sense_is_told() {
        let null = serde_json::value::to_raw_value(&()).unwrap();
        let mut reply = HostedReply::new(Answer::Mcp(null));
        let facts = serde_json::json!({"cid": 201, "vm_pid": -1, "image": "x", "pooled": true});
        reply.describe(facts.as_object().unwrap());
        assert_eq!((reply.cid, reply.vm_pid, reply.image.as_deref()), (Some(201), None, Some("x")));
        assert!(reply.pooled);
    }

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
