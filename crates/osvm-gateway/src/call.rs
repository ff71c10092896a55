//! `tools/call`: one request, one guest, one answer.
//!
//! ```text
//! plan ──▶ Call::start ── thread ──▶ Runtime::call ──▶ answer, if it is still wanted
//! ```
//!
//! What the tool says, a result or an error, and what keeps osvm from running it are results that
//! the model can read. What is wrong with the request itself is an error of the protocol.

use crate::catalog::Catalog;
use crate::flight::{Flight, MAX_CALLS};
use crate::message::{Defect, Text, is_object, read_params};
use crate::outlet::Outlet;
use crate::session::{Gateway, Response, shown};
use crate::words::Era;
use osvm_policy::ExecutionMode;
use osvm_protocol::message::RpcError;
use osvm_runtime::{Answer, CallError, CallId, Isolation, Report, ToolCall};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::thread;
use tracing::error;

/// A call that names a tool of the catalog.
#[derive(Debug)]
pub(crate) struct Planned {
    call: ToolCall,
    mode: ExecutionMode,
}

/// Finds the tool that a request names.
pub(crate) fn plan(catalog: &Catalog, params: Option<&RawValue>) -> Result<Planned, Defect> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        name: Text<'a>,
        #[serde(borrow, default)]
        arguments: Option<&'a RawValue>,
    }
    let Some(Params { name: Text(name), arguments }) = read_params(params)? else {
        return Err(Defect::params("`tools/call` needs `params` with `name`"));
    };
    let Some(listed) = catalog.get(&name) else {
        let mut message = format!("no tool is called `{}`", shown(&name));
        if let Some(nearest) = catalog.nearest(&name) {
            message.push_str(&format!(": did you mean `{nearest}`?"));
        }
        return Err(Defect::params(message));
    };
    let arguments = arguments.map_or_else(no_arguments, ToOwned::to_owned);
    if !is_object(&arguments) {
        return Err(Defect::params("`arguments` is not an object"));
    }
    let server = listed.tool.server.to_string();
    let call = ToolCall::new(server, listed.tool.name.to_string(), arguments);
    Ok(Planned { call, mode: listed.mode })
}

fn no_arguments() -> Box<RawValue> {
    #[derive(Serialize)]
    struct Empty {}
    // A struct without fields is an object in JSON and can't fail to be written.
    serde_json::value::to_raw_value(&Empty {}).unwrap_or_default()
}

/// A call that has been let through.
#[derive(Debug)]
pub(crate) struct Call {
    /// Its place among the calls of its client.
    pub(crate) flight: Flight,
    /// What is called.
    pub(crate) planned: Planned,
    /// How the answer is written.
    pub(crate) era: Era,
    /// Under which token the client wants to hear how far it is.
    pub(crate) progress: Option<Box<RawValue>>,
}

impl Call {
    /// Runs it in a thread of its own.
    pub(crate) fn start(self, gateway: &Arc<Gateway>, outlet: &Arc<Outlet>) {
        let (era, id) = (self.era, self.flight.id().clone());
        let thread = {
            let (gateway, outlet) = (Arc::clone(gateway), Arc::clone(outlet));
            move || self.run(&gateway, &outlet)
        };
        if let Err(cause) = thread::Builder::new().name("call".into()).spawn(thread) {
            error!(%cause, "no thread for a call");
            outlet.send(|| true, &Response::new(&id, busy(era)));
        }
    }

    fn run(self, gateway: &Gateway, outlet: &Outlet) {
        let Self { mut flight, planned, era, progress } = self;
        if let Some(token) = &progress {
            let starting = Progress::starting(token, &planned);
            outlet.send(|| flight.may_speak(), &starting);
        }
        let report = gateway.runtime.call(&planned.call, flight.cancel());
        // The request is not needed any more, and may be as long as the answer.
        drop(planned);
        let result = CallResult::of(&report, era);
        let id = flight.id().clone();
        outlet.send(|| flight.last_word(), &Response::new(&id, result));
    }
}

/// `notifications/progress`.
#[derive(Debug, Serialize)]
struct Progress<'a> {
    jsonrpc: &'static str,
    method: &'static str,
    params: ProgressParams<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProgressParams<'a> {
    progress_token: &'a RawValue,
    progress: u32,
    message: String,
}

impl<'a> Progress<'a> {
    fn starting(token: &'a RawValue, planned: &Planned) -> Self {
        let ToolCall { server, tool, .. } = &planned.call;
        let message = match planned.mode {
            ExecutionMode::Unikernel | ExecutionMode::MicroVm => {
                format!("starting a virtual machine for `{server}/{tool}`")
            }
            ExecutionMode::Direct => format!("starting `{server}/{tool}` without isolation"),
        };
        let params = ProgressParams { progress_token: token, progress: 1, message };
        Self { jsonrpc: "2.0", method: "notifications/progress", params }
    }
}

/// `result` of `tools/call`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CallResult<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    result_type: Option<&'static str>,
    content: [Content<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    structured_content: Option<&'a RawValue>,
    is_error: bool,
    #[serde(rename = "_meta")]
    meta: Meta<'a>,
}

#[derive(Debug, Serialize)]
struct Content<'a> {
    r#type: &'static str,
    text: Cow<'a, str>,
}

#[derive(Debug, Serialize)]
struct Meta<'a> {
    #[serde(rename = "osvm/isolation")]
    envelope: Envelope<'a>,
}

/// What `osvm mcp call-tool --json` prints, but for the result, which is the result.
#[derive(Debug, Serialize)]
struct Envelope<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Reason<'a>>,
    call: Option<CallId>,
    isolation: Option<&'a Isolation>,
}

/// The tool's error has a number as `code`, osvm's a word.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Reason<'a> {
    Tool(&'a RpcError),
    Server(&'a RawValue),
    Osvm(Failure),
}

#[derive(Debug, Serialize)]
struct Failure {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Failure {
    fn of(error: &CallError) -> Self {
        let mut causes = Vec::new();
        let mut cause = error.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        Self { code: error.code(), message: error.to_string(), causes, hint: error.hint() }
    }

    /// All of it, for people and models.
    fn text(&self) -> String {
        let mut text = self.message.clone();
        for cause in &self.causes {
            text.push_str("\n  caused by: ");
            text.push_str(cause);
        }
        if let Some(hint) = &self.hint {
            text.push_str("\n\nhint: ");
            text.push_str(hint);
        }
        text
    }
}

impl<'a> CallResult<'a> {
    fn of(report: &'a Report, era: Era) -> Self {
        let (text, structured, error) = match &report.outcome {
            Ok(Answer::Result(result) | Answer::Mcp(result)) => {
                (Cow::Borrowed(result.get()), structured(result, era), None)
            }
            Ok(Answer::McpError(error)) => {
                (Cow::Borrowed(error.get()), None, Some(Reason::Server(error)))
            }
            Ok(Answer::ToolError(error)) => {
                (Cow::Borrowed(error.message.as_str()), None, Some(Reason::Tool(error)))
            }
            Err(error) => {
                let failure = Failure::of(error);
                (Cow::Owned(failure.text()), None, Some(Reason::Osvm(failure)))
            }
        };
        let envelope =
            Envelope { error, call: Some(report.call), isolation: Some(&report.isolation) };
        Self::new(text, structured, envelope, era)
    }

    fn new(
        text: Cow<'a, str>,
        structured_content: Option<&'a RawValue>,
        envelope: Envelope<'a>,
        era: Era,
    ) -> Self {
        Self {
            result_type: (era == Era::Stateless).then_some("complete"),
            content: [Content { r#type: "text", text }],
            structured_content,
            is_error: envelope.error.is_some(),
            meta: Meta { envelope },
        }
    }
}

/// The result as structured content, where the client can take it as such.
fn structured(result: &RawValue, era: Era) -> Option<&RawValue> {
    // Before 2026-07-28, only objects could be structured content.
    (era == Era::Stateless || is_object(result)).then_some(result)
}

/// The result of a call that can't start because too many have.
pub(crate) fn busy(era: Era) -> CallResult<'static> {
    let failure = Failure {
        code: "busy",
        message: format!("too many calls at once: {MAX_CALLS} calls and 64 MiB are the limit"),
        causes: Vec::new(),
        hint: Some("wait for an answer, or cancel a call".into()),
    };
    let text = Cow::Owned(failure.text());
    let error = Some(Reason::Osvm(failure));
    CallResult::new(text, None, Envelope { error, call: None, isolation: None }, era)
}

#[cfg(test)]
mod tests;
