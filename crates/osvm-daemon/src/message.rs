//! What daemon and clients say to each other.
//!
//! ```text
//! client ── frame: Head ── frame: the arguments, as JSON text ──▶ daemon        for a call
//! client ◀─ frame: Reply ─ frame: the result, as JSON text ────── daemon        if it has a result
//! ```
//!
//! Frames are those of `osvm_protocol::frame`. Arguments and results have frames of their own, so
//! that both may be as long as the wire to a guest allows, and are copied, not parsed.
//!
//! # Invariants
//!
//! - [`VERSION`] changes whenever an older peer would misunderstand. Unknown members are ignored.
//! - A reply is told as the CLI tells it: what a program reads does not depend on who ran the call.

use crate::client::{CallReply, Trouble};
use osvm_protocol::message::RpcError;
use osvm_runtime::{CallError, CallId, ClientName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::error::Error;

/// Version of these messages.
pub const VERSION: u32 = 1;

/// Longest head and longest reply without its result, in bytes.
pub const MAX_HEAD: usize = 256 * 1024;

/// The first frame of a request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Head {
    /// [`VERSION`] of the client.
    pub version: u32,
    /// What is asked for.
    pub ask: Ask,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// To call a tool. The arguments follow in a frame of their own.
    Call(CallHead),
    /// What the daemon holds and does.
    Status,
    /// To end: no further calls, those that run may finish.
    Stop,
}

/// A call without its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CallHead {
    /// The server the tool belongs to.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// Whether consecutive calls of this connection to one server may share a guest.
    #[serde(default)]
    pub share: bool,
    /// Who calls.
    #[serde(default)]
    pub client: ClientName,
    /// What the client would decide by itself, so that it gets no other treatment here.
    pub terms: Terms,
}

/// What decides about a call besides its names and arguments.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Terms {
    /// Absolute path of the isolation config.
    pub config: String,
    /// Absolute path of the rules that were asked for by name, if any were.
    #[serde(default)]
    pub policy: Option<String>,
    /// The backend that was asked for by name, if one was.
    #[serde(default)]
    pub backend: Option<String>,
}

/// The first frame of an answer.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// How a call went.
    Call(Box<Told>),
    /// There was no call.
    Refused(Failure),
    /// What the daemon holds and does: a [`crate::DaemonStatus`].
    Status(Box<RawValue>),
    /// It will end.
    Stopping,
}

/// A call, told.
#[derive(Debug, Deserialize, Serialize)]
pub struct Told {
    /// The call; `osvm logs` knows it by this id.
    pub call: CallId,
    /// What came of it.
    pub outcome: Outcome,
    /// How it ran: the JSON of an [`osvm_runtime::Isolation`].
    pub isolation: Box<RawValue>,
}

/// What came of a call.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The tool's result follows in a frame of its own.
    Result,
    /// The tool's error.
    ToolError(RpcError),
    /// Why there is no answer.
    Failed(Failure),
}

/// Why osvm could not do something, as every output of osvm tells it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Failure {
    /// A stable word for programs; `docs/cli.md` lists them.
    pub code: String,
    /// What failed, on which object.
    pub message: String,
    /// The chain of causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What the user can do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// What `error` says, with the chain below it.
    pub fn new(code: &str, error: &dyn Error, hint: Option<String>) -> Self {
        let mut causes = Vec::new();
        let mut cause = error.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        Self { code: code.into(), message: error.to_string(), causes, hint }
    }
}

impl From<&CallError> for Failure {
    fn from(error: &CallError) -> Self {
        Self::new(error.code(), error, error.hint())
    }
}

/// A reply, apart from the result of its tool.
pub(crate) fn tell(reply: CallReply) -> (Reply, Option<Box<RawValue>>) {
    let CallReply { call, outcome, isolation } = reply;
    let (outcome, result) = match outcome {
        Ok(result) => (Outcome::Result, Some(result)),
        Err(Trouble::Tool(error)) => (Outcome::ToolError(error), None),
        Err(Trouble::Osvm(failure)) => (Outcome::Failed(failure), None),
    };
    (Reply::Call(Box::new(Told { call, outcome, isolation })), result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_as_it_is_documented() {
        let text = r#"{"version":1,"ask":{"call":{"server":"solana","tool":"t","share":true,
            "terms":{"config":"/c.json"},"later":[1]}}}"#;
        let terms = Terms { config: "/c.json".into(), policy: None, backend: None };
        let (server, tool, client) = ("solana".into(), "t".into(), ClientName::default());
        let call = CallHead { server, tool, share: true, client, terms };
        let expected = Head { version: 1, ask: Ask::Call(call) };
        assert_eq!(serde_json::from_str::<Head>(text).unwrap(), expected);
        let stop = r#"{"version":1,"ask":"stop"}"#;
        assert_eq!(serde_json::from_str::<Head>(stop).unwrap().ask, Ask::Stop);
    }

    #[test]
    fn what_a_tool_said_comes_through_as_it_wrote_it() {
        let error = r#"{"code":-32602,"message":"no","data":{"a": 1.0}}"#;
        let told = format!(
            r#"{{"call":{{"call":"01M80GHH8C6KV0ZENYVJ8WR8WW","outcome":{{"tool_error":{error}}},"isolation":{{"cid": 200}}}}}}"#
        );
        let reply: Reply = serde_json::from_str(&told).unwrap();
        assert_eq!(serde_json::to_string(&reply).unwrap(), told);
    }
}
