//! One request to a server, and all that has to be asked and answered until its answer is there.
//!
//! A server of 2026-07-28 that needs input says so in its answer, and wants to be asked again. A
//! client of before does not know that, so osvm does it for the client.

use crate::asks::PATIENCE;
use crate::clock::Clock;
use crate::raw::{self, Object};
use crate::voice::{Ear, Voice};
use crate::words::Era;
use osvm_upstream::{Era as UpstreamEra, Outgoing, Reply, Server, Stop, UpstreamError};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How often one request may be asked anew because its server needs input.
const MAX_ROUNDS: usize = 32;

/// Inputs that may be needed at once.
const MAX_INPUTS: usize = 16;

/// Before a server is asked anew that needs time and no input.
const MOMENT: Duration = Duration::from_millis(200);

/// Why a request got no answer.
#[derive(Debug, Error)]
pub(crate) enum Trouble {
    /// The server gave none.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The time that the server had ran out.
    #[error("server `{server}` did not answer in time")]
    TimeUp { server: String },
    /// The server needs input that the client does not give.
    #[error("server `{server}` needs input that the client does not give: {why}")]
    NoInput { server: String, why: String },
}

/// Sends a request on behalf of `voice`, and waits for its answer until `deadline`. `taken` hears
/// what is known of the link that the request takes.
pub(crate) fn converse(
    voice: &Voice,
    clock: &Clock,
    server: &Server,
    params: &RawValue,
    deadline: Instant,
    taken: &(dyn Fn(&Map<String, Value>) + Sync),
) -> Result<Reply, Trouble> {
    let stop = Stop::default();
    let _cancelled = {
        let stop = stop.clone();
        voice.cancel().on_cancel(move || stop.stop())
    };
    let facts = &voice.facts;
    // Only who can be asked can make time stand still.
    let budget = facts.answers_any().then(|| clock.budget(deadline, stop.clone()));
    let last = if budget.is_some() { deadline + PATIENCE * 6 } else { deadline };
    let era_wanted = facts.answers_any().then_some(match facts.era {
        Era::Handshake => UpstreamEra::Legacy,
        Era::Stateless => UpstreamEra::Modern,
    });
    let _counted = voice.client.parking.count();
    let ear = Ear { voice, budget: budget.as_ref(), taken };
    let mut next = None;
    for _ in 0..MAX_ROUNDS {
        let outgoing = Outgoing {
            method: voice.of.method,
            params: Some(next.as_deref().unwrap_or(params)),
            client: facts.for_servers(voice.client.number, voice.wants_progress()),
            era_wanted,
            relay: &ear,
        };
        let reply = server.request(&outgoing, last, &stop);
        if budget.as_ref().is_some_and(|budget| budget.ran_out()) {
            return Err(Trouble::TimeUp { server: server.name().into() });
        }
        let reply = reply?;
        let needs_input = match &reply {
            Reply::Result(result) if facts.era == Era::Handshake => input_required(result),
            Reply::Result(_) | Reply::Error(_) => None,
        };
        let Some(needs_input) = needs_input else { return Ok(reply) };
        let _pause = budget.as_ref().map(|budget| budget.pause());
        next = Some(
            answered(voice, &needs_input, params, &stop)
                .map_err(|why| Trouble::NoInput { server: server.name().into(), why })?,
        );
    }
    let why = "it was asked again and again".into();
    Err(Trouble::NoInput { server: server.name().into(), why })
}

/// A result that is no answer yet.
fn input_required(result: &RawValue) -> Option<Object<'_>> {
    let result = Object::read(result)?;
    let is = result.get("resultType").is_some_and(|kind| kind.get() == r#""input_required""#);
    is.then_some(result)
}

/// Asks the client for what a server needs. The parameters to ask the server with again.
fn answered(
    voice: &Voice,
    needed: &Object<'_>,
    params: &RawValue,
    stop: &Stop,
) -> Result<Box<RawValue>, String> {
    let requests = needed.get("inputRequests").and_then(Object::read).unwrap_or_default();
    if MAX_INPUTS < requests.len() {
        return Err(format!("more than {MAX_INPUTS} inputs at once"));
    }
    let mut responses = Object::default();
    for (key, request) in requests.iter() {
        let request = Object::read(request).unwrap_or_default();
        let method = request.text("method").unwrap_or_default();
        let answer = voice.ask(&method, request.get("params"), stop);
        let answer = answer.map_err(|error| {
            let error = Object::read(&error);
            let words = error.as_ref().and_then(|error| error.text("message"));
            words.map_or_else(|| "it answered with an error".into(), |words| words.into_owned())
        })?;
        responses.push(key.to_owned(), answer);
    }
    if requests.len() == 0 {
        std::thread::sleep(MOMENT);
    }
    let mut params = Object::read(params).unwrap_or_default();
    params.set("inputResponses", raw::to_raw(&responses));
    match needed.get("requestState") {
        Some(state) => params.set("requestState", state.to_owned()),
        None => params.remove("requestState"),
    }
    Ok(params.to_raw())
}
