//! JSON-RPC messages from a server: the envelope is checked, the rest stays raw text.
//!
//! # Invariants
//!
//! - Total: any bytes give a message or the reason why not.
//! - Depth costs nothing: what is not acted on is skipped without recursion.
//! - One copy: a result is the line it came in, with the envelope cut off.
//!
//! # Not here
//!
//! - Which request an answer belongs to, and what methods mean: `flights`.

use crate::outgoing::Reply;
use osvm_protocol::message::Id;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// One message.
#[derive(Debug)]
pub enum Incoming {
    /// Answers a request of ours.
    Answer {
        /// The id of that request, as far as it could be one.
        id: Option<u64>,
        /// The answer.
        reply: Reply,
    },
    /// Asks for an answer.
    Request {
        /// Comes back in the answer.
        id: Box<RawValue>,
        /// What is asked for.
        method: String,
        /// How.
        params: Option<Box<RawValue>>,
    },
    /// Is never answered.
    Notification {
        /// What is told.
        method: String,
        /// The details.
        params: Option<Box<RawValue>>,
    },
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
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
///
/// # Errors
///
/// In a few words, why `line` is none.
pub fn parse(line: Vec<u8>) -> Result<Incoming, String> {
    let text = String::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let wire: Wire<'_> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if wire.jsonrpc != "2.0" {
        return Err("`jsonrpc` is not \"2.0\"".to_owned());
    }
    let Some(method) = wire.method else {
        let id = wire.id.and_then(number);
        return match (wire.result, wire.error) {
            (Some(result), None) => {
                let (start, len) = place(&text, result);
                Ok(Incoming::Answer { id, reply: Reply::Result(cut(text, start, len)?) })
            }
            (None, Some(error)) => {
                let (start, len) = place(&text, error);
                Ok(Incoming::Answer { id, reply: Reply::Error(cut(text, start, len)?) })
            }
            (None, None) => Err("it has no `method`, `result` or `error`".to_owned()),
            (Some(_), Some(_)) => Err("it is a result and an error at once".to_owned()),
        };
    };
    if wire.result.is_some() || wire.error.is_some() {
        return Err("it is a request and an answer at once".to_owned());
    }
    let (method, params) = (method.into_owned(), wire.params.map(ToOwned::to_owned));
    match wire.id {
        None => Ok(Incoming::Notification { method, params }),
        Some(id) if Id::deserialize(id).is_ok() => {
            Ok(Incoming::Request { id: id.to_owned(), method, params })
        }
        Some(_) => Err("`id` is neither a string nor a whole number".to_owned()),
    }
}

/// An id that osvm may have given.
fn number(id: &RawValue) -> Option<u64> {
    // Some servers answer with the number in quotes.
    id.get().trim_matches('"').parse().ok()
}

fn place(text: &str, part: &RawValue) -> (usize, usize) {
    let start = (part.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    (start, part.get().len())
}

/// What stands at `start` in `text`, in the buffer of `text`.
fn cut(mut text: String, start: usize, len: usize) -> Result<Box<RawValue>, String> {
    text.truncate(start.saturating_add(len));
    text.drain(..start);
    RawValue::from_string(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_the_text_that_it_was() {
        let line = r#" {"id":7, "result" : {"b":1.0,"a": [ 1e400 ]} ,"jsonrpc":"2.0"}"#;
        let Ok(Incoming::Answer { id: Some(7), reply: Reply::Result(result) }) =
            parse(line.as_bytes().to_vec())
        else {
            panic!()
        };
        assert_eq!(result.get(), r#"{"b":1.0,"a": [ 1e400 ]}"#);
    }

    #[test]
    fn depth_costs_nothing() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{deep}}}"#);
        assert!(matches!(parse(line.into_bytes()), Ok(Incoming::Answer { .. })));
    }

    #[test]
    fn requests_notifications_and_answers_are_told_apart() {
        let kind = |line: &str| match parse(line.as_bytes().to_vec()) {
            Ok(Incoming::Answer { id, reply: Reply::Result(_) }) => format!("result {id:?}"),
            Ok(Incoming::Answer { id, reply: Reply::Error(_) }) => format!("error {id:?}"),
            Ok(Incoming::Request { id, method, .. }) => format!("request {id} {method}"),
            Ok(Incoming::Notification { method, .. }) => format!("notification {method}"),
            Err(why) => why,
        };
        for (line, expected) in [
            (r#"{"jsonrpc":"2.0","id":"1","result":null}"#, "result Some(1)"),
            (r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#, "error None"),
            (r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#, "request \"a\" ping"),
            (r#"{"jsonrpc":"2.0","method":"n","params":null}"#, "notification n"),
            (
                r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#,
                "`id` is neither a string nor a whole number",
            ),
            (r#"{"jsonrpc":"1.0","id":1,"result":1}"#, "`jsonrpc` is not \"2.0\""),
            (r#"{"jsonrpc":"2.0","id":1}"#, "it has no `method`, `result` or `error`"),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":1,"error":1}"#,
                "it is a result and an error at once",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"m","result":1}"#,
                "it is a request and an answer at once",
            ),
        ] {
            assert_eq!(kind(line), expected, "{line}");
        }
    }

    #[test]
    fn rubbish_is_refused() {
        for line in
            [&b"starting up..."[..], b"", b"[]", b"42", b"{\"jsonrpc\":\"2.0\"", b"\xff\xfe"]
        {
            assert!(parse(line.to_vec()).is_err(), "{line:?}");
        }
    }
}
