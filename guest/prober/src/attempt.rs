//! One attempt: what is asked, how often, and what came of it.

use crate::wire::{Answer, End, Wire};
use alloc::borrow::Cow;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use osvm_protocol::frame::FrameError;
use osvm_protocol::message::{self, RpcError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use unikraft_tool_executor::Stream;

/// What a result is cut to when nobody says otherwise, in bytes.
const EXCERPT: usize = 4096;
/// The most that can be asked for, in bytes.
const MAX_EXCERPT: usize = 1024 * 1024;
/// Most copies of one attempt.
const MAX_TIMES: u32 = 100_000;
/// Most letters that are filled in.
const MAX_FILL: usize = 16 * 1024 * 1024;
/// Longest message of an error that is reported, in bytes.
const MESSAGE: usize = 4096;
/// Where letters are filled in.
const PLACE: &str = "${fill}";

/// The arguments of a call.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments<'a> {
    /// Made one after the other, before the answer.
    #[serde(borrow)]
    pub(crate) attempts: Vec<Attempt<'a>>,
    /// Sent behind the answer.
    #[serde(borrow, default)]
    pub(crate) after: Vec<Attempt<'a>>,
    #[serde(default)]
    excerpt: Option<usize>,
}

impl Arguments<'_> {
    /// Most bytes of one result that are reported.
    pub(crate) fn excerpt(&self) -> usize {
        self.excerpt.unwrap_or(EXCERPT).min(MAX_EXCERPT)
    }
}

/// Something to ask the host for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attempt<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(default)]
    times: Option<u32>,
    #[serde(default)]
    at_once: bool,
    #[serde(default)]
    id: Option<u64>,
    #[serde(default)]
    notify: bool,
    #[serde(default)]
    fill: Option<usize>,
}

/// The result of a call.
#[derive(Serialize)]
pub(crate) struct Report {
    /// One for each attempt, in their order.
    pub(crate) outcomes: Vec<Outcome>,
}

/// What came of one attempt.
#[derive(Serialize)]
pub(crate) struct Outcome {
    name: String,
    sent: u32,
    succeeded: u32,
    refused: u32,
    strays: u32,
    unsent: Option<String>,
    result: Option<String>,
    error: Option<Refusal>,
}

/// The host's error.
#[derive(Serialize)]
struct Refusal {
    code: i64,
    message: String,
    data: Option<String>,
}

impl Attempt<'_> {
    /// Asks, waits for all answers, and says what they were.
    pub(crate) fn make<S: Stream>(
        &self,
        wire: &mut Wire<'_, S>,
        excerpt: usize,
    ) -> Result<Outcome, End<S::Error>> {
        let mut outcome = Outcome::of(&self.name);
        let params = match self.params() {
            Ok(params) => params,
            Err(why) => {
                outcome.unsent = Some(why);
                return Ok(outcome);
            }
        };
        let mut waiting = VecDeque::new();
        for _ in 0..self.times() {
            match self.frame(wire, params.as_deref()) {
                Ok((id, frame)) => {
                    wire.send(&frame)?;
                    outcome.sent = outcome.sent.saturating_add(1);
                    waiting.extend(id);
                }
                Err(error) => {
                    outcome.unsent = Some(format!("{error}"));
                    break;
                }
            }
            if !self.at_once {
                collect(wire, &mut outcome, &mut waiting, excerpt)?;
            }
        }
        collect(wire, &mut outcome, &mut waiting, excerpt)?;
        Ok(outcome)
    }

    /// Asks, and does not wait.
    pub(crate) fn send_only<S: Stream>(&self, wire: &mut Wire<'_, S>) -> Result<(), End<S::Error>> {
        let Ok(params) = self.params() else { return Ok(()) };
        for _ in 0..self.times() {
            if let Ok((_, frame)) = self.frame(wire, params.as_deref()) {
                wire.send(&frame)?;
            }
        }
        Ok(())
    }

    fn times(&self) -> u32 {
        self.times.unwrap_or(1).min(MAX_TIMES)
    }

    /// The request as a frame, and the id its answer will have.
    fn frame<S: Stream>(
        &self,
        wire: &mut Wire<'_, S>,
        params: Option<&RawValue>,
    ) -> Result<(Option<u64>, Vec<u8>), FrameError> {
        if self.notify {
            return Ok((None, message::notification(&self.method, params)?));
        }
        let id = self.id.unwrap_or_else(|| wire.fresh_id());
        Ok((Some(id), message::request(&id.into(), None, &self.method, params)?))
    }

    /// The parameters with letters filled in.
    fn params(&self) -> Result<Option<Cow<'_, RawValue>>, String> {
        let (Some(params), Some(letters)) = (self.params, self.fill) else {
            return Ok(self.params.map(Cow::Borrowed));
        };
        let text = params.get().replace(PLACE, &"x".repeat(letters.min(MAX_FILL)));
        RawValue::from_string(text).map(|raw| Some(Cow::Owned(raw))).map_err(|e| e.to_string())
    }
}

/// Takes answers until every request that waits has one.
fn collect<S: Stream>(
    wire: &mut Wire<'_, S>,
    outcome: &mut Outcome,
    waiting: &mut VecDeque<u64>,
    excerpt: usize,
) -> Result<(), End<S::Error>> {
    while !waiting.is_empty() {
        let Answer { id, outcome: answered } = wire.answer()?;
        match waiting.iter().position(|waits| Some(*waits) == id) {
            Some(at) => drop(waiting.remove(at)),
            // Nobody knows which request it was for, so nobody waits for it any more.
            None => {
                outcome.strays = outcome.strays.saturating_add(1);
                waiting.pop_front();
            }
        }
        outcome.note(answered, excerpt);
    }
    Ok(())
}

impl Outcome {
    fn of(name: &str) -> Self {
        Self {
            name: name.into(),
            sent: 0,
            succeeded: 0,
            refused: 0,
            strays: 0,
            unsent: None,
            result: None,
            error: None,
        }
    }

    fn note(&mut self, answered: Result<String, RpcError>, excerpt: usize) {
        match answered {
            Ok(mut result) => {
                self.succeeded = self.succeeded.saturating_add(1);
                cut(&mut result, excerpt);
                self.result = Some(result);
            }
            Err(RpcError { code, mut message, data }) => {
                self.refused = self.refused.saturating_add(1);
                cut(&mut message, MESSAGE);
                let data = data.map(|data| {
                    let mut data = String::from(data.get());
                    cut(&mut data, excerpt);
                    data
                });
                self.error = Some(Refusal { code, message, data });
            }
        }
    }
}

fn cut(text: &mut String, limit: usize) {
    text.truncate(text.floor_char_boundary(limit));
}
