//! What a request is told while it is worked on: progress, log messages, questions to its client.
//!
//! ```text
//! speaks ──▶ last word
//!   │  ▲
//!   ▼  │ the client came back with another request
//! parked
//! ```
//!
//! # Invariants
//!
//! - After a cancellation, or the last word, nothing is said.
//! - Progress only grows: what osvm says about the start of a virtual machine comes before what
//!   the server says, whose numbers are moved behind it.

use crate::asks::{self, Outcome, PATIENCE, refusal};
use crate::client::{Client, Facts};
use crate::clock::Budget;
use crate::flight::Flight;
use crate::outlet::Outlet;
use crate::parking::{Back, NoPlace, Of, Place, Resumed};
use crate::raw::{self, Object};
use crate::session::{ErrorResponse, Response};
use crate::words::Era;
use osvm_runtime::{Cancel, OnCancel};
use osvm_upstream::{Relay, Stop};
use rmcp::model::ErrorCode;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::{debug, warn};

/// Under which a stateless client is asked for input.
const KEY: &str = "input";

/// How often a client may come back without the input it was asked for.
const MAX_ROUNDS: usize = 16;

/// A request that is to be answered.
#[derive(Debug)]
pub(crate) struct Speaking {
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) flight: Flight,
    /// Under which the client wants to hear how far it is.
    pub(crate) token: Option<Box<RawValue>>,
}

/// The voice of one call, whichever request it answers at the moment.
#[derive(Debug)]
pub(crate) struct Voice {
    pub(crate) client: Arc<Client>,
    pub(crate) facts: Arc<Facts>,
    pub(crate) of: Of,
    cancel: Cancel,
    slot: Mutex<Slot>,
}

#[derive(Debug)]
struct Slot {
    /// `None` while the call is parked, and after its last word.
    speaking: Option<Speaking>,
    /// Cancels the call when the request it answers now is cancelled.
    _chained: Option<OnCancel>,
    /// How often osvm has told of progress itself.
    told: u32,
}

/// A message that asks for no answer.
#[derive(Debug, Serialize)]
struct Notification<'a, P> {
    jsonrpc: &'static str,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<P>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Progress<'a> {
    progress_token: &'a RawValue,
    progress: u32,
    message: &'a str,
}

/// `result` of a request that needs input.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InputRequired<'a> {
    result_type: &'static str,
    input_requests: InputRequests<'a>,
    request_state: &'a str,
}

#[derive(Debug, Serialize)]
struct InputRequests<'a> {
    input: InputRequest<'a>,
}

#[derive(Debug, Serialize)]
struct InputRequest<'a> {
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a RawValue>,
}

impl Voice {
    pub(crate) fn new(client: Arc<Client>, facts: Arc<Facts>, of: Of, speaking: Speaking) -> Self {
        let cancel = speaking.flight.cancel().clone();
        let slot = Slot { speaking: Some(speaking), _chained: None, told: 0 };
        Self { client, facts, of, cancel, slot: Mutex::new(slot) }
    }

    /// Ends the call.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Answers with a result, which is the last word.
    pub(crate) fn result(&self, result: impl Serialize) {
        let Some(mut speaking) = self.lock().speaking.take() else { return };
        let id = speaking.flight.id().clone();
        let Speaking { outlet, flight, .. } = &mut speaking;
        outlet.answer(|| flight.last_word(), None, &Response::new(&id, result));
    }

    /// Answers with an error object, which is the last word. `code` is that of errors that are
    /// about the request itself.
    pub(crate) fn error(&self, code: Option<ErrorCode>, error: impl Serialize) {
        let Some(mut speaking) = self.lock().speaking.take() else { return };
        let id = speaking.flight.id().clone();
        let Speaking { outlet, flight, .. } = &mut speaking;
        let response = ErrorResponse { jsonrpc: "2.0", id: Some(&id), error };
        outlet.answer(|| flight.last_word(), code, &response);
    }

    fn tell<P: Serialize>(&self, method: &str, params: Option<P>) {
        if let Some(Speaking { outlet, flight, .. }) = &self.lock().speaking {
            let notification = Notification { jsonrpc: "2.0", method, params };
            outlet.send(|| flight.may_speak(), &notification);
        }
    }

    /// Tells of progress that osvm itself makes.
    pub(crate) fn step(&self, message: &str) {
        let mut slot = self.lock();
        slot.told += 1;
        let progress = slot.told;
        let Some(Speaking { outlet, flight, token: Some(token) }) = &slot.speaking else { return };
        let params = Some(Progress { progress_token: token, progress, message });
        let method = "notifications/progress";
        outlet.send(|| flight.may_speak(), &Notification { jsonrpc: "2.0", method, params });
    }

    /// Whether the client wants to hear of progress.
    pub(crate) fn wants_progress(&self) -> bool {
        self.lock().speaking.as_ref().is_some_and(|speaking| speaking.token.is_some())
    }

    /// Asks the client, in the way of its era.
    pub(crate) fn ask(&self, method: &str, params: Option<&RawValue>, withdrawn: &Stop) -> Outcome {
        if !self.facts.answers(method) {
            let message = format!("the client does not answer `{}`", crate::session::shown(method));
            return Err(refusal(asks::NOT_FOUND, &message));
        }
        match self.facts.era {
            Era::Handshake => {
                let outlet = self.lock().speaking.as_ref().map(|s| Arc::clone(&s.outlet));
                let Some(outlet) = outlet else {
                    return Err(refusal(asks::NOT_FOUND, "the request was answered"));
                };
                let wanted = || !self.cancel.is_cancelled();
                self.client.asks.ask(&outlet, wanted, method, params, withdrawn)
            }
            Era::Stateless => self.park(method, params, withdrawn),
        }
    }

    fn park(&self, method: &str, params: Option<&RawValue>, withdrawn: &Stop) -> Outcome {
        let failed = |why: &str| Err(refusal(asks::NOT_FOUND, why));
        for _ in 0..MAX_ROUNDS {
            let place = match self.client.parking.park(&self.of) {
                Ok(place) => place,
                Err(NoPlace::Full) => return failed("too many calls wait for input"),
                Err(NoPlace::NoToken(cause)) => {
                    warn!(%cause, "a call can't wait for input");
                    return failed("the host gives no randomness");
                }
            };
            if !self.say_input_is_required(method, params, &place) {
                return failed("the client does not wait for an answer");
            }
            let Some(responses) = self.wait(&place, withdrawn) else {
                return failed("the client did not come back with the input");
            };
            let input = responses.as_deref().and_then(Object::read);
            if let Some(input) = input.as_ref().and_then(|input| input.get(KEY)) {
                return Ok(input.to_owned());
            }
            debug!("the input is missing: asking again");
        }
        failed("the client came back without the input again and again")
    }

    /// Answers the request the call speaks to, which is then parked.
    fn say_input_is_required(
        &self,
        method: &str,
        params: Option<&RawValue>,
        place: &Place<'_>,
    ) -> bool {
        let Some(mut speaking) = self.lock().speaking.take() else { return false };
        let result = InputRequired {
            result_type: "input_required",
            input_requests: InputRequests { input: InputRequest { method, params } },
            request_state: &place.token,
        };
        let id = speaking.flight.id().clone();
        let Speaking { outlet, flight, .. } = &mut speaking;
        outlet.answer(|| flight.last_word(), None, &Response::new(&id, result));
        true
    }

    /// Waits for the client, which may bring responses.
    fn wait(&self, place: &Place<'_>, withdrawn: &Stop) -> Option<Option<Box<RawValue>>> {
        let wake = place.wake.clone();
        let _hook = withdrawn.hook(move || _ = wake.try_send(Back::Withdrawn));
        match place.back.recv_timeout(PATIENCE) {
            Ok(Back::Resumed(resumed)) => {
                let Resumed { speaking, responses } = *resumed;
                let cancel = self.cancel.clone();
                let chained = speaking.flight.cancel().on_cancel(move || cancel.cancel());
                let mut slot = self.lock();
                slot.speaking = Some(speaking);
                slot._chained = Some(chained);
                Some(responses)
            }
            Ok(Back::Withdrawn) => None,
            Err(_) => {
                // Nobody will ever hear of this call.
                self.cancel.cancel();
                None
            }
        }
    }

    /// What a server's progress is moved by.
    fn told(&self) -> u32 {
        self.lock().told
    }

    // Each change is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears a server on behalf of a call.
pub(crate) struct Ear<'a> {
    pub(crate) voice: &'a Voice,
    /// The time the server has, which stands while the client is asked.
    pub(crate) budget: Option<&'a Budget>,
    /// Hears which link the request takes.
    pub(crate) taken: &'a (dyn Fn(&Map<String, Value>) + Sync),
}

impl Relay for Ear<'_> {
    fn link(&self, facts: &Map<String, Value>) {
        (self.taken)(facts);
    }

    fn progress(&self, params: &RawValue) {
        let Some(mut params) = Object::read(params) else { return };
        let told = self.voice.told();
        let slot = self.voice.lock();
        let Some(Speaking { outlet, flight, token: Some(token) }) = &slot.speaking else { return };
        params.set("progressToken", token.clone());
        if told > 0 {
            for member in ["progress", "total"] {
                if let Some(moved) = params.get(member).and_then(|number| moved(number, told)) {
                    params.set(member, moved);
                }
            }
        }
        let method = "notifications/progress";
        let notification = Notification { jsonrpc: "2.0", method, params: Some(params) };
        outlet.send(|| flight.may_speak(), &notification);
    }

    fn log(&self, params: &RawValue) {
        if self.voice.facts.wants_log(params) {
            self.voice.tell("notifications/message", Some(params));
        }
    }

    fn notification(&self, method: &str, params: Option<&RawValue>) {
        // What is left of those belongs to the era with a handshake.
        if self.voice.facts.era == Era::Handshake {
            self.voice.tell(method, params);
        }
    }

    fn ask(&self, method: &str, params: Option<&RawValue>, withdrawn: &Stop) -> Outcome {
        let _pause = self.budget.map(Budget::pause);
        self.voice.ask(method, params, withdrawn)
    }
}

/// A number that is larger by `by`.
fn moved(number: &RawValue, by: u32) -> Option<Box<RawValue>> {
    let number: f64 = serde_json::from_str(number.get()).ok()?;
    Some(raw::to_raw(&(number + f64::from(by))))
}
