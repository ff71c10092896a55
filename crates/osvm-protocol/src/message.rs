//! JSON-RPC 2.0 messages with one extra member, `server_id`, on a request.
//!
//! ```json
//! {"jsonrpc":"2.0","id":123,"server_id":"solana","method":"get_balance","params":{"address":"…"}}
//! {"jsonrpc":"2.0","id":123,"result":{"balance":1000000,"decimals":9}}
//! {"jsonrpc":"2.0","id":123,"error":{"code":-32603,"message":"Internal error","data":"…"}}
//! ```
//!
//! # Invariants
//!
//! - `params`, `result` and `data` stay raw text: what a tool wrote reaches its reader byte for
//!   byte, and whoever acts on it parses it once, into its own type.
//! - Parsing is total. Unknown members are ignored; a member given twice is refused.
//!
//! # Not here
//!
//! - Batches. An array is [`MessageError::Invalid`].
//! - Matching answers to requests: whoever sent the request holds the id.

mod id;
mod write;

pub use id::Id;
pub use write::{begin_result, end_result, error, notification, request, result};

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

/// One message of either direction, borrowed from its frame.
#[derive(Debug)]
pub enum Message<'a> {
    /// Asks for something.
    Request(Request<'a>),
    /// Answers a request.
    Response(Response<'a>),
}

/// A request; without an id it is a notification and is never answered.
#[derive(Debug)]
pub struct Request<'a> {
    /// Comes back in the answer.
    pub id: Option<Id<'a>>,
    /// The server whose tool is meant; `None` for methods under `osvm/` and `host/`.
    pub server_id: Option<Cow<'a, str>>,
    /// A tool's name, `osvm/…` or `host/…`.
    pub method: Cow<'a, str>,
    /// The arguments, not parsed yet.
    pub params: Option<&'a RawValue>,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Response<'a> {
    /// The request's id; `None` when the peer could not read one.
    pub id: Option<Id<'a>>,
    /// The result as the tool wrote it, or its error.
    pub outcome: Result<&'a RawValue, RpcError>,
}

/// The error member of an answer.
#[derive(Clone, Debug, Deserialize, Serialize, Error)]
#[error("{message}")]
pub struct RpcError {
    /// One of [`crate::code`].
    pub code: i64,
    /// One sentence for people.
    pub message: String,
    /// More for programs, in a shape of the method's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

impl RpcError {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }
}

/// The payload is not a message of this wire.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Not JSON, or not UTF-8. Answer with [`crate::code::PARSE_ERROR`].
    #[error("not JSON: {0}")]
    Syntax(String),
    /// JSON, but neither a request nor an answer. Answer with [`crate::code::INVALID_REQUEST`].
    #[error("not a JSON-RPC 2.0 message: {0}")]
    Invalid(String),
}

impl MessageError {
    /// The JSON-RPC code that tells the peer.
    pub fn code(&self) -> i64 {
        match self {
            Self::Syntax(_) => crate::code::PARSE_ERROR,
            Self::Invalid(_) => crate::code::INVALID_REQUEST,
        }
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<Id<'a>>,
    #[serde(borrow, default)]
    server_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    method: Option<Text<'a>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<RpcError>,
}

/// Borrows where it can. An `Option<Cow<str>>` by itself never does.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// `null` is a result like any other; only a missing member is none.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads one payload.
pub fn parse(payload: &[u8]) -> Result<Message<'_>, MessageError> {
    // Checked as a whole, because `from_slice` would check each string on its own.
    let text = str::from_utf8(payload).map_err(|error| MessageError::Syntax(error.to_string()))?;
    let wire: Wire<'_> = serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            MessageError::Invalid(error.to_string())
        } else {
            MessageError::Syntax(error.to_string())
        }
    })?;
    if wire.jsonrpc != "2.0" {
        return Err(MessageError::Invalid("`jsonrpc` is not \"2.0\"".into()));
    }
    let Wire { id, server_id, method, params, result, error, .. } = wire;
    let server_id = server_id.map(|Text(text)| text);
    let method = method.map(|Text(text)| text);
    match (method, result, error) {
        (Some(method), None, None) => {
            Ok(Message::Request(Request { id, server_id, method, params }))
        }
        (None, Some(result), None) => Ok(Message::Response(Response { id, outcome: Ok(result) })),
        (None, None, Some(error)) => Ok(Message::Response(Response { id, outcome: Err(error) })),
        (None, None, None) => {
            Err(MessageError::Invalid("it has no `method`, `result` or `error`".into()))
        }
        _ => Err(MessageError::Invalid("it is a request and an answer at once".into())),
    }
}

#[cfg(test)]
mod tests;
