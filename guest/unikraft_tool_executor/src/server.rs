//! Serves one connection: every frame is one request, every request but a notification gets one
//! answer, in order.

use crate::context::Context;
use crate::tool::{Arguments, Reply};
use crate::tools::{self, Entry};
use crate::wire::{End, Wire};
use crate::{Facts, Stream};
use alloc::format;
use alloc::vec::Vec;
use osvm_protocol::PROTOCOL_VERSION;
use osvm_protocol::code::{ANSWER_TOO_LONG, INVALID_REQUEST};
use osvm_protocol::frame::{FrameError, MAX_PAYLOAD};
use osvm_protocol::info;
use osvm_protocol::message::{self, Message, Request, RpcError};

/// Serves frames until the host hangs up or breaks the framing.
///
/// # Errors
///
/// The platform's own, when it cannot read or write.
pub fn serve<S: Stream>(stream: &mut S, facts: &Facts<'_>) -> Result<(), S::Error> {
    let mut wire = Wire::new(stream);
    loop {
        let served = wire.receive().and_then(|payload| serve_one(&mut wire, facts, &payload));
        match served {
            Ok(()) => continue,
            Err(End::Closed) => return Ok(()),
            Err(End::Failed(error)) => return Err(error),
        }
    }
}

fn serve_one<S: Stream>(
    wire: &mut Wire<'_, S>,
    facts: &Facts<'_>,
    payload: &[u8],
) -> Result<(), End<S::Error>> {
    let request = match message::parse(payload) {
        Ok(Message::Request(request)) => request,
        Ok(Message::Response(_)) => {
            let error = RpcError::new(INVALID_REQUEST, "an answer came without a request");
            return wire.refuse(None, &error);
        }
        Err(error) => {
            return wire.refuse(None, &RpcError::new(error.code(), format!("{error}")));
        }
    };
    // A notification asks for no answer, and no tool is worth running for nobody.
    let Some(id) = &request.id else { return Ok(()) };
    let mut reply = Reply::new(message::begin_result(id, payload.len()));
    let answered = answer(wire, facts, &request, &mut reply).and_then(|()| finish(reply));
    match answered {
        Ok(frame) => wire.send(&frame),
        Err(error) => wire.refuse(Some(id), &error),
    }
}

fn finish(reply: Reply) -> Result<Vec<u8>, RpcError> {
    message::end_result(reply.into_frame()).map_err(|FrameError::TooLong { len }| {
        let message = format!("answer of {len} bytes is over the limit of {MAX_PAYLOAD}");
        RpcError::new(ANSWER_TOO_LONG, message)
    })
}

fn answer<S: Stream>(
    wire: &mut Wire<'_, S>,
    facts: &Facts<'_>,
    request: &Request<'_>,
    reply: &mut Reply,
) -> Result<(), RpcError> {
    let server = request.server_id.as_deref();
    if server.is_none() && request.method == info::METHOD {
        if request.params.is_some_and(|params| params.get() == info::REHEARSE) {
            rehearse(wire, facts);
        }
        reply.object(|info| {
            info.number("protocol", PROTOCOL_VERSION.into());
            info.text("name", facts.name);
            info.text("build", facts.build);
        });
        return Ok(());
    }
    let Entry { run, .. } = tools::find(server, &request.method)?;
    run(&mut Context { facts, host: wire }, Arguments(request.params), reply)
}

/// Runs the code that every call runs, on a request that nobody sent, and drops the answer.
fn rehearse<S: Stream>(wire: &mut Wire<'_, S>, facts: &Facts<'_>) {
    const REQUEST: &[u8] = br#"{"jsonrpc":"2.0","id":1,"server_id":"system","method":"echo","params":{"text":"osvm"}}"#;
    if let Ok(Message::Request(request)) = message::parse(REQUEST)
        && let Some(id) = &request.id
    {
        let mut reply = Reply::new(message::begin_result(id, REQUEST.len()));
        let answered = answer(wire, facts, &request, &mut reply).and_then(|()| finish(reply));
        // The work is what it is for, so it must not be found useless.
        core::hint::black_box(&answered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_over_the_limit_is_an_error() {
        let mut reply = Reply::new(message::begin_result(&1.into(), 0));
        reply.object(|o| o.text("text", &"x".repeat(MAX_PAYLOAD as usize)));
        let error = finish(reply).unwrap_err();
        assert_eq!(error.code, ANSWER_TOO_LONG);
        assert_eq!(error.message, "answer of 10485805 bytes is over the limit of 10485760");
    }
}
