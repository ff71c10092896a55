//! What the host is told while a prompt is worked on. `osvm ask --json` prints these as they are:
//! an object whose one member is named after what happened, such as `{"text":{"text":"hi"}}`.

use crate::conversation::Message;
use crate::model::Usage;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The model said a piece of its answer.
    Text {
        /// The piece.
        text: String,
    },
    /// What is about to be called, before any of it is.
    Plan {
        /// The calls; independent ones run at once.
        calls: Vec<PlannedCall>,
        /// Whether a model made the plan. The local planner says no.
        by_model: bool,
    },
    /// A call was handed to the host.
    CallStarted {
        /// Which of the plan.
        id: String,
    },
    /// A call said how far it is: that its virtual machine is up, or what its tool reports.
    CallProgress {
        /// Which of the plan.
        id: String,
        /// In words.
        message: String,
    },
    /// A call is over.
    CallEnded {
        /// Which of the plan.
        id: String,
        /// Whether it failed.
        is_error: bool,
        /// The beginning of what it said.
        text: String,
        /// Bytes of the whole result.
        bytes: usize,
        /// `_meta["osvm/isolation"]`: where and how it ran.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        isolation: Option<Box<RawValue>>,
    },
    /// Something the person should know.
    Note {
        /// In words.
        message: String,
    },
    /// A message was added to the conversation. The host keeps it.
    Message {
        /// It.
        message: Message,
    },
    /// Everything said so far is forgotten.
    Cleared {},
    /// What the model took for one answer.
    Usage {
        /// Tokens.
        #[serde(flatten)]
        usage: Usage,
    },
}

/// One call of a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlannedCall {
    /// Tells it apart from the others.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Box<RawValue>,
    /// Where it will run, as far as the gateway says: `unikernel`, `microvm`, `direct`, `remote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Whether a person is asked first.
    pub needs_approval: bool,
}
