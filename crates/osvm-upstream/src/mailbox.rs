//! What a request hears while it waits, from any thread to the one that waits.
//!
//! # Invariants
//!
//! - After the answer, a cancellation or the loss of the link nothing more is heard.
//! - Bounded: notifications that nobody collects are dropped beyond a limit, questions are
//!   refused. The answer always has its place.

use crate::outgoing::{Relay, Reply, refusal};
use crate::stop::Stop;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What waits for one request at most: notifications and questions, and their bytes.
const MAX_QUEUE: usize = 1024;
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Something a server said.
#[derive(Debug)]
pub(crate) enum Said {
    Progress(Box<RawValue>),
    Log(Box<RawValue>),
    Other(String, Option<Box<RawValue>>),
    Ask(Ask),
}

impl Said {
    fn size(&self) -> usize {
        let params = match self {
            Self::Progress(params) | Self::Log(params) => Some(params),
            Self::Other(_, params) | Self::Ask(Ask { params, .. }) => params.as_ref(),
        };
        params.map_or(0, |params| params.get().len())
    }
}

/// A question of the server.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) id: Box<RawValue>,
    pub(crate) method: String,
    pub(crate) params: Option<Box<RawValue>>,
    pub(crate) withdrawn: Stop,
}

/// How the wait ended.
#[derive(Debug)]
pub(crate) enum Ending {
    Reply(Reply),
    Lost(Lost),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The link ended.
    Gone(String),
    Deadline,
    Cancelled,
    /// Too much waits already.
    Busy,
    /// Only over HTTP: credentials are wanted, or other ones.
    Unauthorized(u16),
    /// Only over HTTP: a status, and what came with it.
    Http(u16, String),
    /// Only over HTTP: the session is not known any more.
    NoSession,
}

#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Said>,
    bytes: usize,
    /// Questions that have no answer yet.
    asks: Vec<(String, Stop)>,
    ending: Option<Ending>,
    ended: bool,
}

enum Next {
    Said(Said),
    Ending(Ending),
}

impl Mailbox {
    /// Leaves something; gives it back when there is no place for it or nobody waits any more.
    pub(crate) fn post(&self, said: Said) -> Result<(), Said> {
        let mut state = self.lock();
        let size = said.size();
        let full = MAX_QUEUE <= state.queue.len() || MAX_BYTES < state.bytes.saturating_add(size);
        if state.ended || state.ending.is_some() || full {
            return Err(said);
        }
        if let Said::Ask(ask) = &said {
            state.asks.push((ask.id.get().to_owned(), ask.withdrawn.clone()));
        }
        state.bytes = state.bytes.saturating_add(size);
        state.queue.push_back(said);
        drop(state);
        self.rung.notify_all();
        Ok(())
    }

    /// Ends the wait. The first ending counts.
    pub(crate) fn end(&self, ending: Ending) {
        let mut state = self.lock();
        if state.ended || state.ending.is_some() {
            return;
        }
        // Whichever way it ended, the server waits for no answer to what it asked meanwhile.
        let asks = std::mem::take(&mut state.asks);
        match ending {
            Ending::Reply(_) => state.queue.retain(|said| !matches!(said, Said::Ask(_))),
            Ending::Lost(_) => state.queue.clear(),
        }
        state.ending = Some(ending);
        drop(state);
        self.rung.notify_all();
        asks.iter().for_each(|(_, withdrawn)| withdrawn.stop());
    }

    /// The server takes a question back; whether it was one of this request.
    pub(crate) fn withdraw(&self, id: &str) -> bool {
        let mut state = self.lock();
        let Some(at) = state.asks.iter().position(|(known, _)| known == id) else { return false };
        let (_, withdrawn) = state.asks.swap_remove(at);
        state.queue.retain(|said| !matches!(said, Said::Ask(ask) if ask.id.get() == id));
        drop(state);
        withdrawn.stop();
        true
    }

    /// Waits on this thread, hands what is heard to `relay` and its answers to `answer`.
    pub(crate) fn wait(
        self: &Arc<Self>,
        relay: &dyn Relay,
        deadline: Instant,
        cancel: &Stop,
        answer: &dyn Fn(&RawValue, Result<&RawValue, &RawValue>),
    ) -> Result<Reply, Lost> {
        let mailbox = Arc::downgrade(self);
        let _hook = cancel.hook(move || {
            if let Some(mailbox) = mailbox.upgrade() {
                mailbox.end(Ending::Lost(Lost::Cancelled));
            }
        });
        loop {
            match self.next(deadline) {
                Next::Ending(Ending::Reply(reply)) => return Ok(reply),
                Next::Ending(Ending::Lost(lost)) => return Err(lost),
                Next::Said(Said::Progress(params)) => relay.progress(&params),
                Next::Said(Said::Log(params)) => relay.log(&params),
                Next::Said(Said::Other(method, params)) => {
                    relay.notification(&method, params.as_deref());
                }
                Next::Said(Said::Ask(ask)) => {
                    let said = relay.ask(&ask.method, ask.params.as_deref(), &ask.withdrawn);
                    // To a question that was taken back no answer is sent.
                    if self.answered(ask.id.get()) {
                        let outcome = said.as_deref().map_err(|error| &**error);
                        answer(&ask.id, outcome);
                    }
                }
            }
        }
    }

    fn next(&self, deadline: Instant) -> Next {
        let mut state = self.lock();
        loop {
            if let Some(said) = state.queue.pop_front() {
                state.bytes = state.bytes.saturating_sub(said.size());
                return Next::Said(said);
            }
            if let Some(ending) = state.ending.take() {
                state.ended = true;
                return Next::Ending(ending);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.ended = true;
                return Next::Ending(Ending::Lost(Lost::Deadline));
            }
            let waited = self.rung.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn answered(&self, id: &str) -> bool {
        let mut state = self.lock();
        let at = state.asks.iter().position(|(known, _)| known == id);
        at.map(|at| state.asks.swap_remove(at)).is_some()
    }

    // The state is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server is told when a question can't be put to anybody.
pub(crate) fn unanswerable(method: &str, why: &str) -> Box<RawValue> {
    refusal(-32_603, &format!("`{method}` can't be answered: {why}"))
}
