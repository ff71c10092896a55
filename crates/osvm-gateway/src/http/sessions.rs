//! Sessions of clients before 2026-07-28: what ties a cancellation to the call it is for.

use super::token::random_hex;
use crate::flight::Flights;
use crate::listen::Listeners;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Sessions at once. The one that was silent for longest makes room for a new one.
const MAX_SESSIONS: usize = 64;

/// How long one look at the calls that are left may take.
const LOOK: Duration = Duration::from_millis(50);

/// All sessions of one server.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<String, (Session, Instant)>,
    /// The calls of requests without a session, as long as there are any.
    stateless: Vec<Flights>,
}

/// One session. Clones mean the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) flights: Flights,
    pub(super) listeners: Listeners,
}

impl Sessions {
    /// A new session; `None` when the host gives no randomness for its id.
    pub(super) fn begin(&self) -> Option<Session> {
        let session = Session { id: random_hex::<16>().ok()?, ..Session::default() };
        let mut state = self.lock();
        if MAX_SESSIONS <= state.sessions.len() {
            let silent = state.sessions.iter().min_by_key(|(_, (_, used))| *used);
            if let Some((_, (session, _))) =
                silent.map(|(id, _)| id.clone()).and_then(|id| state.sessions.remove_entry(&id))
            {
                session.flights.cancel_all();
            }
        }
        state.sessions.insert(session.id.clone(), (session.clone(), Instant::now()));
        Some(session)
    }

    /// The session of this id.
    pub(super) fn get(&self, id: &str) -> Option<Session> {
        let mut state = self.lock();
        let (session, used) = state.sessions.get_mut(id)?;
        *used = Instant::now();
        Some(session.clone())
    }

    /// Ends a session and its calls; `false` when there was none.
    pub(super) fn end(&self, id: &str) -> bool {
        let ended = self.lock().sessions.remove(id);
        if let Some((session, _)) = &ended {
            session.flights.cancel_all();
            self.lock().stateless.push(session.flights.clone());
        }
        ended.is_some()
    }

    /// The calls of a request without a session.
    pub(super) fn stateless(&self) -> Flights {
        let flights = Flights::default();
        let mut state = self.lock();
        state.stateless.retain(|flights| !flights.wait(Duration::ZERO));
        state.stateless.push(flights.clone());
        flights
    }

    /// Ends everything, and waits until nothing of it is left.
    pub(super) fn end_all(&self) {
        let all: Vec<Flights> = {
            let mut state = self.lock();
            let sessions = std::mem::take(&mut state.sessions);
            let of_sessions = sessions.into_values().map(|(session, _)| session.flights);
            std::mem::take(&mut state.stateless).into_iter().chain(of_sessions).collect()
        };
        all.iter().for_each(Flights::cancel_all);
        // A killed guest is gone within milliseconds.
        all.iter().for_each(|flights| while !flights.wait(LOOK) {});
    }

    // Each change is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osvm_protocol::message::Id;

    #[test]
    fn the_session_that_was_silent_for_longest_makes_room() {
        let sessions = Sessions::default();
        let first = sessions.begin().unwrap();
        let second = sessions.begin().unwrap();
        let call = second.flights.take_off(Id::Number(1), 1).unwrap();
        for _ in 2..MAX_SESSIONS {
            sessions.begin().unwrap();
        }
        assert!(sessions.get(&first.id).is_some());
        sessions.begin().unwrap();
        assert!(sessions.get(&first.id).is_some());
        assert!(sessions.get(&second.id).is_none());
        assert!(!call.may_speak(), "the calls of a session end with it");
    }

    #[test]
    fn a_session_that_was_ended_is_gone() {
        let sessions = Sessions::default();
        let session = sessions.begin().unwrap();
        let call = session.flights.take_off(Id::Number(1), 1).unwrap();
        assert!(sessions.end(&session.id));
        assert!(!call.may_speak());
        assert!(!sessions.end(&session.id) && sessions.get(&session.id).is_none());
    }
}
