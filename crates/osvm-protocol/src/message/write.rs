//! Writing messages, header included.
//!
//! The pieces that are JSON already (`params`, results) are copied, never parsed again, so a
//! message is put together from text. Strings go through `serde_json`, which escapes them.

use super::{Id, RpcError};
use crate::frame::{Builder, FrameError};
use alloc::vec::Vec;
use serde::Serialize;
use serde_json::value::RawValue;

/// A request as a frame.
pub fn request(
    id: &Id<'_>,
    server_id: Option<&str>,
    method: &str,
    params: Option<&RawValue>,
) -> Result<Vec<u8>, FrameError> {
    let mut frame = start(method.len() + params.map_or(0, |params| params.get().len()));
    member(&mut frame, b",\"id\":", id);
    finish_request(frame, server_id, method, params)
}

/// A request without an id, which is never answered, as a frame.
pub fn notification(method: &str, params: Option<&RawValue>) -> Result<Vec<u8>, FrameError> {
    let frame = start(method.len() + params.map_or(0, |params| params.get().len()));
    finish_request(frame, None, method, params)
}

/// A successful answer as a frame. `result` is JSON text.
pub fn result(id: &Id<'_>, result: &str) -> Result<Vec<u8>, FrameError> {
    let mut frame = begin_result(id, result.len());
    frame.push(result.as_bytes());
    end_result(frame)
}

/// Opens a successful answer with room for `len` bytes of result.
///
/// The caller appends the result, one JSON value, and hands the frame to [`end_result`]: a long
/// result is written once, where it is sent from.
pub fn begin_result(id: &Id<'_>, len: usize) -> Builder {
    let mut frame = start(len);
    member(&mut frame, b",\"id\":", id);
    frame.push(b",\"result\":");
    frame
}

/// Closes what [`begin_result`] opened.
pub fn end_result(mut frame: Builder) -> Result<Vec<u8>, FrameError> {
    frame.push(b"}");
    frame.finish()
}

/// An error as a frame. Without an id it says that no id could be read.
pub fn error(id: Option<&Id<'_>>, error: &RpcError) -> Result<Vec<u8>, FrameError> {
    let mut frame = start(error.message.len());
    match id {
        Some(id) => member(&mut frame, b",\"id\":", id),
        None => frame.push(b",\"id\":null"),
    }
    member(&mut frame, b",\"error\":", error);
    frame.push(b"}");
    frame.finish()
}

/// Room for the members around the payload of an ordinary message.
const ENVELOPE: usize = 96;

fn start(payload: usize) -> Builder {
    let mut frame = Builder::with_capacity(payload.saturating_add(ENVELOPE));
    frame.push(b"{\"jsonrpc\":\"2.0\"");
    frame
}

fn finish_request(
    mut frame: Builder,
    server_id: Option<&str>,
    method: &str,
    params: Option<&RawValue>,
) -> Result<Vec<u8>, FrameError> {
    if let Some(server_id) = server_id {
        member(&mut frame, b",\"server_id\":", server_id);
    }
    member(&mut frame, b",\"method\":", method);
    if let Some(params) = params {
        frame.push(b",\"params\":");
        frame.push(params.get().as_bytes());
    }
    frame.push(b"}");
    frame.finish()
}

fn member(frame: &mut Builder, name: &[u8], value: &(impl Serialize + ?Sized)) {
    frame.push(name);
    // Strings, numbers and raw values always serialise, so `null` is never written in practice.
    match serde_json::to_vec(value) {
        Ok(text) => frame.push(&text),
        Err(_) => frame.push(b"null"),
    }
}
