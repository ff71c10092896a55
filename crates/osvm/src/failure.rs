//! Why a command could not do its work, in the one shape that text and `--json` output share.

use crate::printer::causes;
use serde::Serialize;
use std::borrow::Cow;
use std::error::Error;

/// What went wrong, why, and the one thing to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// A stable word for programs; `docs/cli.md` lists them.
    pub(crate) code: Cow<'static, str>,
    /// What failed, on which object.
    pub(crate) message: String,
    /// The chain of causes, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) causes: Vec<String>,
    /// What the user can do next; works when pasted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// A failure without cause or hint.
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code), message: message.into(), causes: Vec::new(), hint: None }
    }

    /// A failure that says what `error` says, with the chain below it.
    pub(crate) fn from_error(code: &'static str, error: &dyn Error, hint: Option<String>) -> Self {
        Self { hint, causes: causes(error), ..Self::new(code, error.to_string()) }
    }

    /// Adds `error`, and the chain below it, as the cause.
    pub(crate) fn caused_by(mut self, error: &dyn Error) -> Self {
        self.causes.push(error.to_string());
        self.causes.extend(causes(error));
        self
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<osvm_daemon::message::Failure> for Failure {
    fn from(failure: osvm_daemon::message::Failure) -> Self {
        let osvm_daemon::message::Failure { code, message, causes, hint } = failure;
        Self { code: Cow::Owned(code), message, causes, hint }
    }
}

impl From<Failure> for osvm_daemon::message::Failure {
    fn from(failure: Failure) -> Self {
        let Failure { code, message, causes, hint } = failure;
        Self { code: code.into_owned(), message, causes, hint }
    }
}
