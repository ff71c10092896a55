//! Calls on their way: which ids they have, how to end them, how many there may be.
//!
//! ```text
//! take_off ──▶ may_speak = true ──▶ last_word = true ──▶ dropped
//!                 │ cancel                                  ▲
//!                 └─▶ both false, guest killed ─────────────┘
//! ```
//!
//! A call keeps its place until it is dropped, cancelled or not. Its id is free again just before
//! its answer is written: a client may use it anew as soon as it has the answer.

use osvm_protocol::message::Id;
use osvm_runtime::Cancel;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Calls at once for one client: as many as there are CIDs for guests of one call.
pub const MAX_CALLS: usize = 100;

/// Bytes of the requests that are on their way, together.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The calls of one client. Clones mean the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flights(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    landed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Those whose answer is still to come.
    calls: HashMap<Id<'static>, Cancel>,
    /// All that have not been dropped.
    flying: usize,
    /// Bytes of their requests.
    bytes: usize,
}

/// Why a call can't start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A call with this id is on its way.
    SameId,
    /// There are too many, or they are too long together.
    Busy,
}

/// A call on its way; it lands when this is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    flights: Flights,
    id: Id<'static>,
    cancel: Cancel,
    bytes: usize,
    has_id: bool,
}

impl Flights {
    /// Registers a call whose request is `bytes` long.
    pub(crate) fn take_off(&self, id: Id<'static>, bytes: usize) -> Result<Flight, Refused> {
        let mut state = self.lock();
        if state.calls.contains_key(&id) {
            return Err(Refused::SameId);
        }
        if MAX_CALLS <= state.flying || MAX_BYTES < state.bytes.saturating_add(bytes) {
            return Err(Refused::Busy);
        }
        let cancel = Cancel::default();
        state.bytes += bytes;
        state.flying += 1;
        state.calls.insert(id.clone(), cancel.clone());
        Ok(Flight { flights: self.clone(), id, cancel, bytes, has_id: true })
    }

    /// Ends a call, if there is one with this id.
    pub(crate) fn cancel(&self, id: &Id<'_>) {
        // Out of the lock: it has to be free for the call to land.
        let cancel = self.lock().calls.get(id).cloned();
        if let Some(cancel) = cancel {
            cancel.cancel();
        }
    }

    /// Ends all calls.
    pub(crate) fn cancel_all(&self) {
        let cancels: Vec<Cancel> = self.lock().calls.values().cloned().collect();
        cancels.iter().for_each(Cancel::cancel);
    }

    /// Waits until all calls have landed; `false` when `patience` was not enough.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let state = self.lock();
        let waited = self.0.landed.wait_timeout_while(state, patience, |state| state.flying > 0);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.flying == 0
    }

    // Each change is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// The id of its request.
    pub(crate) fn id(&self) -> &Id<'static> {
        &self.id
    }

    /// Ends it.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Whether the answer may be written, which then is the last that is heard of it.
    pub(crate) fn last_word(&mut self) -> bool {
        self.give_back_id();
        self.may_speak()
    }

    fn give_back_id(&mut self) {
        if std::mem::take(&mut self.has_id) {
            self.flights.lock().calls.remove(&self.id);
        }
    }

    /// Whether the client still wants to hear of it.
    pub(crate) fn may_speak(&self) -> bool {
        !self.cancel.is_cancelled()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.give_back_id();
        let mut state = self.flights.lock();
        state.flying = state.flying.saturating_sub(1);
        state.bytes = state.bytes.saturating_sub(self.bytes);
        drop(state);
        self.flights.0.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    #[test]
    fn an_id_is_free_again_when_its_call_has_landed() {
        let flights = Flights::default();
        let flight = flights.take_off(Id::Number(1), 1).unwrap();
        assert_eq!(flights.take_off(Id::Number(1), 1).unwrap_err(), Refused::SameId);
        assert!(flights.take_off(Id::Text("1".into()), 1).is_ok(), "text is another id");
        assert!(!flights.wait(AT_ONCE));
        drop(flight);
        assert!(flights.wait(AT_ONCE));
        assert!(flights.take_off(Id::Number(1), 1).is_ok());
    }

    #[test]
    fn an_id_may_be_used_anew_by_whom_has_the_answer() {
        let flights = Flights::default();
        let mut first = flights.take_off(Id::Number(1), 1).unwrap();
        assert!(first.last_word());
        let mut second = flights.take_off(Id::Number(1), 1).unwrap();
        drop(first);
        assert_eq!(flights.take_off(Id::Number(1), 1).unwrap_err(), Refused::SameId);
        flights.cancel(&Id::Number(1));
        assert!(!second.last_word());
    }

    #[test]
    fn a_cancelled_call_is_silent_and_keeps_its_place_until_it_lands() {
        let flights = Flights::default();
        let flight = flights.take_off(Id::Number(1), 1).unwrap();
        flights.cancel(&Id::Number(2));
        assert!(flight.may_speak());
        flights.cancel(&Id::Number(1));
        assert!(!flight.may_speak());
        assert_eq!(flights.take_off(Id::Number(1), 1).unwrap_err(), Refused::SameId);
    }

    #[test]
    fn calls_and_their_bytes_are_limited_together() {
        let flights = Flights::default();
        let big = flights.take_off(Id::Number(-1), MAX_BYTES).unwrap();
        assert_eq!(flights.take_off(Id::Number(-2), 1).unwrap_err(), Refused::Busy);
        drop(big);
        let take_off = |n: usize| flights.take_off(Id::Number(n as i128), 1);
        let calls: Vec<Flight> = (0..MAX_CALLS).map(|n| take_off(n).unwrap()).collect();
        assert_eq!(take_off(MAX_CALLS).unwrap_err(), Refused::Busy);
        flights.cancel_all();
        assert!(calls.iter().all(|call| !call.may_speak()));
    }
}
