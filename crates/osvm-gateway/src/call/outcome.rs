//! What a client is told about a call that is over.

use super::hosted::causes;
use crate::flight::MAX_CALLS;
use crate::message::is_object;
use crate::raw;
use crate::translate;
use crate::voice::Voice;
use crate::words::{Era, OSVM_ERROR};
use osvm_protocol::message::RpcError;
use osvm_runtime::{Answer, CallError, CallId, Isolation, Report};
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

const METHOD: &str = "tools/call";

/// `result` of `tools/call`, of osvm's own making.
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
        let causes = causes(error);
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

/// Answers the request of a call.
pub(super) fn tell(voice: &Voice, report: &Report) {
    let era = voice.facts.era;
    match &report.outcome {
        Ok(Answer::Mcp(result)) => match translate::result(result, METHOD, era) {
            Some(mut result) => {
                let envelope = Envelope::of(report, None);
                result.set_within("_meta", "osvm/isolation", raw::to_raw(&envelope));
                voice.result(result);
            }
            None => voice.result(no_result(report, era)),
        },
        Ok(Answer::McpError(error)) => match translate::error(error, METHOD, era) {
            Some(object) => voice.error(translate::about_the_request(error), object),
            None => voice.result(no_result(report, era)),
        },
        Ok(Answer::Result(_) | Answer::ToolError(_)) | Err(_) => {
            voice.result(CallResult::of(report, era));
        }
    }
}

impl<'a> CallResult<'a> {
    pub(super) fn of(report: &'a Report, era: Era) -> Self {
        let (text, structured, error) = match &report.outcome {
            Ok(Answer::Result(result) | Answer::Mcp(result)) => {
                (Cow::Borrowed(result.get()), structured(result, era), None)
            }
            Ok(Answer::ToolError(error)) => {
                (Cow::Borrowed(error.message.as_str()), None, Some(Reason::Tool(error)))
            }
            Ok(Answer::McpError(error)) => {
                let failure = broken(error.get());
                (Cow::Owned(failure.text()), None, Some(Reason::Osvm(failure)))
            }
            Err(error) => {
                let failure = Failure::of(error);
                (Cow::Owned(failure.text()), None, Some(Reason::Osvm(failure)))
            }
        };
        Self::new(text, structured, Envelope::of(report, error), era)
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

    fn failed(failure: Failure, report: Option<&'a Report>, era: Era) -> Self {
        let text = Cow::Owned(failure.text());
        let envelope = Envelope {
            error: Some(Reason::Osvm(failure)),
            call: report.map(|report| report.call),
            isolation: report.map(|report| &report.isolation),
        };
        Self::new(text, None, envelope, era)
    }
}

impl<'a> Envelope<'a> {
    fn of(report: &'a Report, error: Option<Reason<'a>>) -> Self {
        Self { error, call: Some(report.call), isolation: Some(&report.isolation) }
    }
}

/// The result as structured content, where the client can take it as such.
pub(super) fn structured(result: &RawValue, era: Era) -> Option<&RawValue> {
    // Before 2026-07-28, only objects could be structured content.
    (era == Era::Stateless || is_object(result)).then_some(result)
}

/// What a server answered is neither a result nor an error of MCP.
fn broken(answer: &str) -> Failure {
    /// Enough to recognise it.
    const SHOWN: usize = 80;
    let end = answer.floor_char_boundary(SHOWN);
    Failure {
        code: "server",
        message: "the server's answer is neither a result nor an error of MCP".into(),
        causes: vec![format!("it begins with `{}`", answer.get(..end).unwrap_or_default())],
        hint: None,
    }
}

fn no_result(report: &Report, era: Era) -> CallResult<'_> {
    let answer = match &report.outcome {
        Ok(Answer::Mcp(answer) | Answer::McpError(answer)) => answer.get(),
        Ok(Answer::Result(_) | Answer::ToolError(_)) | Err(_) => "",
    };
    CallResult::failed(broken(answer), Some(report), era)
}

/// The result of a call that can't start because too many have.
pub(crate) fn busy(era: Era) -> CallResult<'static> {
    let failure = Failure {
        code: "busy",
        message: format!("too many calls at once: {MAX_CALLS} calls and 64 MiB are the limit"),
        causes: Vec::new(),
        hint: Some("wait for an answer, or cancel a call".into()),
    };
    CallResult::failed(failure, None, era)
}

/// The result of a call whose server is not there any more.
pub(super) fn gone(server: &str, era: Era) -> CallResult<'static> {
    let message = format!("server `{server}` is not served any more");
    let failure = Failure { code: "unknown_server", message, causes: Vec::new(), hint: None };
    CallResult::failed(failure, None, era)
}

/// An error object of osvm's own, for requests that are no calls.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorObject {
    code: i32,
    message: String,
    data: Failure,
}

impl ErrorObject {
    /// A request that no server answered. The word in `data` is the one that calls have too.
    pub(crate) fn new(
        code: &'static str,
        message: String,
        causes: Vec<String>,
        hint: Option<String>,
    ) -> Self {
        let data = Failure { code, message: message.clone(), causes, hint };
        Self { code: OSVM_ERROR.0, message, data }
    }

    /// What is answered is no MCP.
    pub(crate) fn broken(answer: &str) -> Self {
        let Failure { code, message, causes, hint } = broken(answer);
        Self::new(code, message, causes, hint)
    }
}
