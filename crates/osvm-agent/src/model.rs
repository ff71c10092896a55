//! The model: what it is asked, and what it says, whichever provider it is at.
//!
//! ```text
//! Conversation ── body (openai, anthropic) ──▶ host/model ──▶ provider
//! Turn ◀── Assembly ◀── events ◀── sse ◀── model/piece ◀──────┘
//! ```
//!
//! # Invariants
//!
//! - A stream that ends before the model said that it is done is an error, never half an answer.
//! - What a model writes has a limit, and is text until somebody has checked it.

mod anthropic;
mod openai;
mod reading;
mod sse;

use crate::conversation::{Call, Message};
use crate::limits::MAX_TURN;
use crate::peer::{Heard, Peer, PeerError, within};
pub use reading::Reading;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Tries of one request, the first among them.
const TRIES: u32 = 4;

/// Longest wait between two tries, whatever the provider says.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Whose shape of messages is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// `POST /chat/completions`, which most providers and local servers have.
    OpenAi,
    /// `POST /v1/messages`.
    Anthropic,
}

/// Tokens of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Read by the model.
    pub input_tokens: u64,
    /// Written by it.
    pub output_tokens: u64,
}

/// What a model said at once.
#[derive(Debug, Default)]
pub struct Turn {
    /// Its words.
    pub text: String,
    /// The calls it asks for.
    pub calls: Vec<Call>,
    /// What it took.
    pub usage: Usage,
    /// Whether it was cut off by its own limit of tokens.
    pub cut: bool,
}

/// A tool as a model is told of it.
#[derive(Clone, Debug)]
pub(crate) struct ToolForModel<'a> {
    pub(crate) name: &'a str,
    pub(crate) description: &'a str,
    pub(crate) input_schema: &'a RawValue,
}

/// Why there is no answer of the model.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The provider refused.
    #[error("the model's provider answered {status}: {message}")]
    Status {
        /// The status of HTTP.
        status: u16,
        /// What the provider said, cut.
        message: String,
    },
    /// The provider said in mid-answer that it failed.
    #[error("the model's provider failed: {message}")]
    Failed {
        /// What it said, cut.
        message: String,
    },
    /// The answer ended before it was complete.
    #[error("the model's answer was cut off")]
    CutOff,
    /// The answer is none.
    #[error("the model's provider sent what is no answer: {what}")]
    Rubbish {
        /// What was wrong.
        what: String,
    },
    /// The answer has no end.
    #[error("the model's answer is longer than {MAX_TURN} bytes")]
    TooLong,
    /// The host can't reach the provider, or has none.
    #[error("{message}")]
    Host {
        /// What it said.
        message: String,
    },
    /// The stream to the host.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl ModelError {
    /// Whether the same request may succeed a little later.
    fn is_passing(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 409 | 429 | 500..=599),
            Self::CutOff | Self::Failed { .. } => true,
            Self::Rubbish { .. } | Self::TooLong | Self::Host { .. } | Self::Peer(_) => false,
        }
    }
}

/// A model at a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Whose shape it speaks.
    pub provider: Provider,
    /// Its name there.
    pub name: String,
    /// Most tokens of one answer.
    pub max_tokens: u32,
    /// Wait before the second try, in ms; it doubles.
    pub retry_ms: u64,
}

/// What a request consists of.
#[derive(Debug)]
pub(crate) struct Prompt<'a> {
    pub(crate) system: &'a str,
    pub(crate) messages: &'a [Message],
    pub(crate) tools: &'a [ToolForModel<'a>],
}

/// Puts an answer together from the events of a stream.
trait Assembly {
    /// Takes one event; returns text to be shown at once.
    fn event(&mut self, data: &str) -> Result<Option<String>, ModelError>;

    /// The answer, if it is complete.
    fn finish(self: Box<Self>) -> Result<Turn, ModelError>;
}

impl Model {
    /// Asks the model; `say` hears its text while it comes.
    pub(crate) fn answer(
        &self,
        peer: &Peer,
        prompt: &Prompt<'_>,
        deadline: Instant,
        say: &dyn Fn(&str),
        note: &dyn Fn(String),
    ) -> Result<Turn, ModelError> {
        let body = match self.provider {
            Provider::OpenAi => openai::body(self, prompt),
            Provider::Anthropic => anthropic::body(self, prompt),
        };
        let body = body.map_err(PeerError::Unwritable)?;
        let mut wait = Duration::from_millis(self.retry_ms);
        for attempt in 1.. {
            let mut said = false;
            let tried = self.attempt(peer, &body, deadline, &mut |text| {
                said = true;
                say(text);
            });
            let (error, asked) = match tried {
                Ok(turn) => return Ok(turn),
                Err(failed) => failed,
            };
            // What was shown can't be taken back.
            if said || TRIES <= attempt || !error.is_passing() {
                return Err(error);
            }
            let pause = asked.unwrap_or(wait).min(LONGEST_WAIT);
            note(format!("{error}: trying again in {:.1} s", pause.as_secs_f64()));
            rest(peer, pause, deadline)?;
            wait = wait.saturating_mul(2);
        }
        Err(ModelError::CutOff)
    }

    fn attempt(
        &self,
        peer: &Peer,
        body: &RawValue,
        deadline: Instant,
        say: &mut dyn FnMut(&str),
    ) -> Result<Turn, (ModelError, Option<Duration>)> {
        #[derive(Serialize)]
        struct Params<'a> {
            provider: Provider,
            body: &'a RawValue,
        }
        #[derive(Default, Deserialize)]
        struct Answer {
            #[serde(default)]
            status: u16,
            #[serde(default)]
            body: String,
            #[serde(default)]
            retry_after_ms: Option<u64>,
        }
        let plain = |error: PeerError| (ModelError::from(error), None);
        let provider = self.provider;
        let waiting = peer.ask("host/model", |_| Params { provider, body }).map_err(plain)?;
        let mut reading = Reading::new(provider);
        loop {
            match waiting.next(deadline).map_err(plain)? {
                Heard::Piece(piece) => {
                    reading.take(&piece, say).map_err(|error| (error, None))?;
                }
                Heard::Progress(_) => {}
                Heard::Cancelled => return Err(plain(PeerError::Cancelled)),
                Heard::Answer(Err(error)) => {
                    return Err((ModelError::Host { message: error.message }, None));
                }
                Heard::Answer(Ok(answer)) => {
                    let answer: Answer = serde_json::from_str(answer.get()).unwrap_or_default();
                    if answer.status == 200 {
                        return reading.finish().map_err(|error| (error, None));
                    }
                    let asked = answer.retry_after_ms.map(Duration::from_millis);
                    let message = message_of(&answer.body);
                    return Err((ModelError::Status { status: answer.status, message }, asked));
                }
            }
        }
    }
}

/// Waits, and ends early when the person cancels or the host goes.
fn rest(peer: &Peer, pause: Duration, deadline: Instant) -> Result<(), PeerError> {
    /// How soon a cancellation is noticed.
    const LOOK: Duration = Duration::from_millis(20);
    let until = Instant::now() + within(pause, deadline);
    while Instant::now() < until {
        if peer.is_cancelled() {
            return Err(PeerError::Cancelled);
        }
        thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
    }
    if deadline <= Instant::now() { Err(PeerError::Deadline) } else { Ok(()) }
}

/// What a provider says in the body of a refusal: `error.message` in both shapes.
fn message_of(body: &str) -> String {
    #[derive(Deserialize)]
    struct Body {
        error: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        message: String,
    }
    let message = serde_json::from_str::<Body>(body).map(|body| body.error.message);
    shown(message.as_deref().unwrap_or(body))
}

/// A text of somebody else's, on one line and cut.
fn shown(text: &str) -> String {
    const LONGEST: usize = 300;
    let cut: String = text.chars().take(LONGEST).collect();
    cut.split(char::is_control).filter(|piece| !piece.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Arguments as a model wrote them: an object, or else a JSON string of what it wrote.
fn arguments(text: &str) -> Box<RawValue> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    let raw = RawValue::from_string(text.to_owned());
    // Text can't fail to be written.
    raw.or_else(|_| serde_json::value::to_raw_value(text)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
