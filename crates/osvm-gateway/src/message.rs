//! JSON-RPC messages from a client: the envelope is checked, the rest stays raw text.
//!
//! # Invariants
//!
//! - Total: any bytes give a message or one [`Defect`], which says what to answer.
//! - Depth costs nothing: what is not acted on is skipped without recursion.
//!
//! # Not here
//!
//! - What the methods mean: `session`.

use crate::words::Era;
use osvm_protocol::message::Id;
use rmcp::model::{ErrorCode, ProtocolVersion};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// One message.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// Asks for an answer.
    Request {
        /// Comes back in the answer.
        id: Id<'static>,
        /// What is asked for.
        method: Cow<'a, str>,
        /// How; an object where it is there.
        params: Option<&'a RawValue>,
    },
    /// Is never answered.
    Notification {
        /// What is told.
        method: Cow<'a, str>,
        /// The details.
        params: Option<&'a RawValue>,
    },
    /// Answers a request of ours.
    Answer {
        /// Which one; `None` when the client could not read the id.
        id: Option<Id<'static>>,
        /// The result, or the error object.
        outcome: Result<&'a RawValue, &'a RawValue>,
    },
}

/// What is wrong with a request, as the client is told.
#[derive(Debug)]
pub(crate) struct Defect {
    pub(crate) code: ErrorCode,
    pub(crate) message: Cow<'static, str>,
    pub(crate) data: Option<serde_json::Value>,
}

impl Defect {
    pub(crate) fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::INVALID_REQUEST, message)
    }

    pub(crate) fn params(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::INVALID_PARAMS, message)
    }
}

/// A line that is no message, and the request it belongs to where that could be read.
#[derive(Debug)]
pub(crate) struct NoMessage {
    pub(crate) id: Option<Id<'static>>,
    pub(crate) defect: Box<Defect>,
}

impl From<Defect> for NoMessage {
    fn from(defect: Defect) -> Self {
        Self { id: None, defect: defect.into() }
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// Tells `null` from nothing at all.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Reads one message.
pub(crate) fn parse(line: &[u8]) -> Result<Incoming<'_>, NoMessage> {
    let text = str::from_utf8(line).map_err(|error| {
        Defect::new(ErrorCode::PARSE_ERROR, format!("the message is not UTF-8: {error}"))
    })?;
    if text.trim_start().starts_with('[') {
        return Err(Defect::invalid("MCP has no batches: send one message a line").into());
    }
    let wire: Wire<'_> = serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            Defect::invalid(format!("not a JSON-RPC 2.0 message: {error}"))
        } else {
            Defect::new(ErrorCode::PARSE_ERROR, format!("the message is not JSON: {error}"))
        }
    })?;
    let id = wire.id.map(|raw| Id::deserialize(raw).map(owned)).transpose().map_err(|_| {
        Defect::invalid("`id` is neither a string nor a whole number that fits 64 bits")
    })?;
    incoming(&wire, id.clone()).map_err(|defect| NoMessage { id, defect: defect.into() })
}

fn incoming<'a>(wire: &Wire<'a>, id: Option<Id<'static>>) -> Result<Incoming<'a>, Defect> {
    if wire.jsonrpc.is_none_or(|version| version.get() != r#""2.0""#) {
        return Err(Defect::invalid("`jsonrpc` is not \"2.0\""));
    }
    let Some(method) = wire.method else {
        match (wire.result, wire.error) {
            (Some(result), None) => return Ok(Incoming::Answer { id, outcome: Ok(result) }),
            (None, Some(error)) => return Ok(Incoming::Answer { id, outcome: Err(error) }),
            (Some(_), Some(_)) | (None, None) => {}
        }
        return Err(Defect::invalid("the message has no `method`, `result` or `error`"));
    };
    if wire.result.is_some() || wire.error.is_some() {
        return Err(Defect::invalid("the message is a request and an answer at once"));
    }
    let Text(method) =
        Text::deserialize(method).map_err(|_| Defect::invalid("`method` is not a string"))?;
    if wire.params.is_some_and(|params| !is_object(params)) {
        return Err(Defect::params("`params` is not an object"));
    }
    let params = wire.params;
    Ok(match id {
        Some(id) => Incoming::Request { id, method, params },
        None => Incoming::Notification { method, params },
    })
}

/// Borrows where it can.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

pub(crate) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

pub(crate) fn owned(id: Id<'_>) -> Id<'static> {
    match id {
        Id::Number(number) => Id::Number(number),
        Id::Text(text) => Id::Text(Cow::Owned(text.into_owned())),
    }
}

/// What is read from the parameters of a request, whatever its method.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Common<'a> {
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<Meta<'a>>,
    /// What an answer that asked for input wants to have back.
    #[serde(borrow, default, rename = "requestState")]
    state: Option<&'a RawValue>,
    /// The input it asked for.
    #[serde(borrow, default, rename = "inputResponses")]
    pub(crate) responses: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientCapabilities")]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientInfo")]
    info: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/logLevel")]
    level: Option<&'a RawValue>,
}

impl<'a> Common<'a> {
    /// Reads the parameters that every request may have.
    pub(crate) fn read(params: Option<&'a RawValue>) -> Result<Self, Defect> {
        read_params(params).map(Option::unwrap_or_default)
    }

    /// The protocol version that the request names, if it names one.
    pub(crate) fn version(&self) -> Option<Cow<'a, str>> {
        let version = self.meta.as_ref()?.version?;
        Text::deserialize(version).map(|Text(version)| version).ok()
    }

    /// Under which rules the request is to be answered. `handshake` says whether there was one.
    pub(crate) fn era(&self, handshake: bool) -> Result<Era, Defect> {
        let meta = self.meta.as_ref();
        let Some(version) = meta.and_then(|meta| meta.version) else {
            if handshake {
                return Ok(Era::Handshake);
            }
            return Err(Defect::params(
                "the request names no protocol version in `_meta`, and there was no `initialize`",
            ));
        };
        let version = Text::deserialize(version);
        let Ok(Text(version)) = version else {
            return Err(Defect::params("the protocol version in `_meta` is not a string"));
        };
        if version != ProtocolVersion::LATEST.as_str() {
            return Err(crate::words::unsupported(&version));
        }
        if meta.and_then(|meta| meta.capabilities).is_none_or(|given| !is_object(given)) {
            return Err(Defect::params(
                "`_meta` has no `io.modelcontextprotocol/clientCapabilities` object",
            ));
        }
        Ok(Era::Stateless)
    }

    /// What the client says it can do, in a stateless request.
    pub(crate) fn capabilities(&self) -> Option<&'a RawValue> {
        self.meta.as_ref()?.capabilities
    }

    /// Who the client says it is, in a stateless request.
    pub(crate) fn info(&self) -> Option<&'a RawValue> {
        self.meta.as_ref()?.info.filter(|info| is_object(info))
    }

    /// From which level on the client wants log messages, in a stateless request.
    pub(crate) fn level(&self) -> Option<Cow<'a, str>> {
        crate::raw::text(self.meta.as_ref()?.level?)
    }

    /// What an answer wanted to have back.
    pub(crate) fn state(&self) -> Option<Cow<'a, str>> {
        crate::raw::text(self.state?)
    }

    /// The token under which the client wants to hear of progress: a string or a number.
    pub(crate) fn progress_token(&self) -> Option<&'a RawValue> {
        let token = self.meta.as_ref()?.progress_token?;
        token
            .get()
            .starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
            .then_some(token)
    }
}

/// Reads the parameters that a method acts on.
pub(crate) fn read_params<'a, T: Deserialize<'a>>(
    params: Option<&'a RawValue>,
) -> Result<Option<T>, Defect> {
    let read = params.map(|params| serde_json::from_str(params.get())).transpose();
    read.map_err(|error| Defect::params(format!("`params` does not fit the method: {error}")))
}

#[cfg(test)]
mod tests;
