//! Asks the host for whatever a call says, and reports what came of it.
//!
//! ```text
//! host ── probe/attempt {attempts} ──▶ prober ──▶ host/… requests, exactly as given
//!                                        ◀── answers
//! host ◀── outcomes: succeeded or refused, and how ──┘ ──▶ more requests, behind the answer
//! ```
//!
//! `osvm policy prove` boots it to see that what policy forbids is refused. It knows nothing of what
//! is forbidden: the host chooses the attempts and judges the outcomes. It is harmless, because any
//! guest can ask for anything.
//!
//! # Invariants
//!
//! - A request goes out as it was given: parameters are not read, only letters are filled in.
//! - Every answer is counted, also one that nobody asked for.
//! - What is reported of one answer is bounded.
//!
//! # Not here
//!
//! - Breaking the framing or the vsock device: `guest/hostile`.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod attempt;
mod wire;

use crate::attempt::{Arguments, Report};
use crate::wire::{End, Wire};
use alloc::borrow::Cow;
use alloc::format;
use alloc::vec::Vec;
use osvm_protocol::code::{INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND};
use osvm_protocol::message::{self, Id, Message, Request, RpcError};
use osvm_protocol::{PROTOCOL_VERSION, info};
use serde::Serialize;
use serde_json::value::RawValue;
use unikraft_tool_executor::Stream;

/// The one server and its one tool, as `tools.json` says.
const SERVER: &str = "probe";
const TOOL: &str = "attempt";

/// Serves one connection until the host hangs up. `name` and `build` are those of the image.
///
/// # Errors
///
/// The platform's own, when it cannot read or write.
pub fn serve<S: Stream>(stream: &mut S, name: &str, build: &str) -> Result<(), S::Error> {
    let mut wire = Wire::new(stream);
    loop {
        let served = wire.receive().and_then(|payload| serve_one(&mut wire, &payload, name, build));
        match served {
            Ok(()) => {}
            Err(End::Closed) => return Ok(()),
            Err(End::Failed(error)) => return Err(error),
        }
    }
}

fn serve_one<S: Stream>(
    wire: &mut Wire<'_, S>,
    payload: &[u8],
    name: &str,
    build: &str,
) -> Result<(), End<S::Error>> {
    let request = match message::parse(payload) {
        Ok(Message::Request(request)) => request,
        // Answers to what was asked behind the last answer.
        Ok(Message::Response(_)) => return Ok(()),
        Err(error) => {
            let error = RpcError::new(error.code(), format!("{error}"));
            return wire.refuse(None, &error);
        }
    };
    let Some(id) = &request.id else { return Ok(()) };
    let server = request.server_id.as_deref();
    if server.is_none() && request.method == info::METHOD {
        return reply(wire, id, &Info { protocol: PROTOCOL_VERSION, name, build });
    }
    if server.is_some_and(|server| server != SERVER) || request.method != TOOL {
        let message = format!("this guest has only `{SERVER}` `{TOOL}`");
        return wire.refuse(Some(id), &RpcError::new(METHOD_NOT_FOUND, message));
    }
    match arguments(&request) {
        Ok(arguments) => probe(wire, id, &arguments),
        Err(error) => wire.refuse(Some(id), &error),
    }
}

#[derive(Serialize)]
struct Info<'a> {
    protocol: u32,
    name: &'a str,
    build: &'a str,
}

fn arguments<'a>(request: &Request<'a>) -> Result<Arguments<'a>, RpcError> {
    let text = request.params.map_or("{}", RawValue::get);
    serde_json::from_str(text)
        .map_err(|error| RpcError::new(INVALID_PARAMS, format!("wrong arguments: {error}")))
}

fn probe<S: Stream>(
    wire: &mut Wire<'_, S>,
    id: &Id<'_>,
    arguments: &Arguments<'_>,
) -> Result<(), End<S::Error>> {
    let mut outcomes = Vec::new();
    for attempt in &arguments.attempts {
        outcomes.push(attempt.make(wire, arguments.excerpt())?);
    }
    reply(wire, id, &Report { outcomes })?;
    for attempt in &arguments.after {
        attempt.send_only(wire)?;
    }
    Ok(())
}

fn reply<S: Stream>(
    wire: &mut Wire<'_, S>,
    id: &Id<'_>,
    result: &impl Serialize,
) -> Result<(), End<S::Error>> {
    let text = serde_json::to_string(result).map_err(|error| Cow::Owned(format!("{error}")));
    let frame = text.and_then(|text| {
        message::result(id, &text).map_err(|error| Cow::<str>::Owned(format!("{error}")))
    });
    match frame {
        Ok(frame) => wire.send(&frame),
        Err(message) => wire.refuse(Some(id), &RpcError::new(INTERNAL_ERROR, message)),
    }
}

#[cfg(test)]
mod tests;
