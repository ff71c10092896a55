//! Asks the host for an HTTP exchange, and reads its answer to the end.
//!
//! ```text
//! host/http ──▶ status, piece of the body, more? ──▶ host/http.read ──▶ piece, more? ──▶ …
//! ```
//!
//! # Invariants
//!
//! - No more than [`MAX_BODY`] bytes of a body are kept, however long it is.
//!
//! # Not here
//!
//! - What may be reached. The host decides, and its refusal is passed on in its own words.

use crate::answer::Part;
use crate::context::Context;
use crate::solana::encoding::Encoding;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use osvm_protocol::code::{HOST_METHOD_DENIED, NETWORK_NOT_GRANTED, TOOL_FAILED};
use osvm_protocol::message::RpcError;

/// Most bytes of a body that are read. A guest has tens of MiB, and holds a body three times while
/// it reads it.
pub(crate) const MAX_BODY: usize = 4 * 1024 * 1024;

/// What a server answered.
pub(crate) struct Response {
    /// The status code of HTTP.
    pub(crate) status: u64,
    /// The whole body.
    pub(crate) body: String,
}

/// Posts JSON.
pub(crate) fn post_json(
    context: &mut Context<'_>,
    url: &str,
    body: &str,
) -> Result<Response, RpcError> {
    let answer = context.host.call("host/http", &|o| {
        o.text("method", "POST");
        o.text("url", url);
        o.object("headers", |o| o.text("content-type", "application/json"));
        o.text("body", body);
    });
    let answer = answer.map_err(not_granted)?;
    let answer = Part::new("host/http", &answer);
    let [status, text, packed, more] = answer.parts(["status", "body", "body_base64", "more"])?;
    let status = status.number()?;
    if more.is_nothing() && packed.is_nothing() {
        let body = text.optional_text()?.unwrap_or_default().into_owned();
        return checked(body.len()).map(|()| Response { status, body });
    }
    let mut bytes = Vec::new();
    append(&mut bytes, text, packed)?;
    let mut more = more.optional_number()?;
    while let Some(stream) = more {
        let answer = context.host.call("host/http.read", &|o| o.number("stream", stream))?;
        let answer = Part::new("host/http.read", &answer);
        let [text, packed, next] = answer.parts(["body", "body_base64", "more"])?;
        append(&mut bytes, text, packed)?;
        more = next.optional_number()?;
    }
    let body = String::from_utf8(bytes).map_err(|_| {
        RpcError::new(TOOL_FAILED, "the server answered with bytes that are no text")
    })?;
    Ok(Response { status, body })
}

/// Appends a piece of a body, which came as text or as base64.
fn append(bytes: &mut Vec<u8>, text: Part<'_>, packed: Part<'_>) -> Result<(), RpcError> {
    if packed.is_nothing() {
        let piece = text.optional_text()?.unwrap_or_default();
        checked(bytes.len().saturating_add(piece.len()))?;
        bytes.extend_from_slice(piece.as_bytes());
        return Ok(());
    }
    let piece = Encoding::Base64.decode(&packed.text()?).map_err(|_| packed.odd("base64"))?;
    checked(bytes.len().saturating_add(piece.len()))?;
    bytes.extend_from_slice(&piece);
    Ok(())
}

fn checked(len: usize) -> Result<(), RpcError> {
    if len <= MAX_BODY {
        return Ok(());
    }
    let message =
        format!("the server's answer is over the limit of {MAX_BODY} bytes: ask for less");
    Err(RpcError::new(TOOL_FAILED, message))
}

/// A host that offers no HTTP to this call has its own words for it; what the tool needs is ours.
fn not_granted(error: RpcError) -> RpcError {
    if error.code != HOST_METHOD_DENIED {
        return error;
    }
    let message = format!(
        "this tool needs the network, which this call was not granted (`network_enabled` and an \
         `egress` rule in the isolation config): {}",
        error.message
    );
    RpcError { code: NETWORK_NOT_GRANTED, message, data: error.data }
}
