//! Sessions of clients before 2026-07-28: what ties a cancellation to the call it is for.

use super::token::random_hex;
use crate::client::Client;
use crate::parking::Parking;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Sessions at once. The one that was silent for longest makes room for a new one.
const MAX_SESSIONS: usize = 64;

/// How long one look at the calls that are left may take.
const LOOK: Duration = Duration::from_millis(50);

/// All sessions of one server.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    state: Mutex<State>,
    /// The calls of clients without a session that wait for input.
    parking: Arc<Parking>,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<String, (Session, Instant)>,
    /// Clients without a session, and those whose session has ended, as long as a call of theirs
    /// is left.
    others: Vec<Arc<Client>>,
}

/// One session. Clones mean the same one.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) client: Arc<Client>,
    has_stream: Arc<AtomicBool>,
}

/// The stream on which a session hears what belongs to no request. There is one at most.
#[derive(Debug)]
pub(super) struct Stream(Arc<AtomicBool>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Session {
    /// Begins the stream, unless there is one.
    pub(super) fn stream(&self) -> Option<Stream> {
        let had = self.has_stream.swap(true, Ordering::SeqCst);
        (!had).then(|| Stream(Arc::clone(&self.has_stream)))
    }
}

impl Sessions {
    /// A new session, of a client with that number; `None` when the host gives no randomness for
    /// its id.
    pub(super) fn begin(&self, number: u64) -> Option<Session> {
        // A client with a session is asked in it, and never parked.
        let client = Arc::new(Client::new(number, Arc::default()));
        let id = random_hex::<16>().ok()?;
        let session = Session { id, client, has_stream: Arc::default() };
        let mut state = self.lock();
        let mut ended = None;
        if MAX_SESSIONS <= state.sessions.len() {
            let silent = state.sessions.iter().min_by_key(|(_, (_, used))| *used);
            ended =
                silent.map(|(id, _)| id.clone()).and_then(|id| state.sessions.remove_entry(&id));
        }
        state.sessions.insert(session.id.clone(), (session.clone(), Instant::now()));
        drop(state);
        if let Some((_, (session, _))) = ended {
            self.over(&session.client);
        }
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
            self.over(&session.client);
        }
        ended.is_some()
    }

    /// A client without a session, for one request.
    pub(super) fn stateless(&self, number: u64) -> Arc<Client> {
        let client = Arc::new(Client::new(number, Arc::clone(&self.parking)));
        self.remember(&client);
        client
    }

    /// Ends everything, and waits until nothing of it is left.
    pub(super) fn end_all(&self) {
        let all: Vec<Arc<Client>> = {
            let mut state = self.lock();
            let sessions = std::mem::take(&mut state.sessions);
            let of_sessions = sessions.into_values().map(|(session, _)| session.client);
            std::mem::take(&mut state.others).into_iter().chain(of_sessions).collect()
        };
        self.parking.close();
        all.iter().for_each(|client| client.end());
        // A killed guest is gone within milliseconds.
        all.iter().for_each(|client| while !client.wait(LOOK) {});
        while !self.parking.wait(LOOK) {}
    }

    fn over(&self, client: &Arc<Client>) {
        client.end();
        self.remember(client);
    }

    /// Keeps a client as long as it has calls.
    fn remember(&self, client: &Arc<Client>) {
        let mut state = self.lock();
        state.others.retain(|client| !client.flights.wait(Duration::ZERO));
        state.others.push(Arc::clone(client));
    }

    // Each change is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osvm_protocol::message::Id;

    #[test]
    fn the_session_that_was_silent_for_longest_makes_room() {
        let sessions = Sessions::default();
        let first = sessions.begin(1).unwrap();
        let second = sessions.begin(1).unwrap();
        let call = second.client.flights.take_off(Id::Number(1), 1).unwrap();
        for _ in 2..MAX_SESSIONS {
            sessions.begin(1).unwrap();
        }
        assert!(sessions.get(&first.id).is_some());
        sessions.begin(1).unwrap();
        assert!(sessions.get(&first.id).is_some());
        assert!(sessions.get(&second.id).is_none());
        assert!(!call.may_speak(), "the calls of a session end with it");
    }

    #[test]
    fn a_session_has_one_stream_at_a_time() {
        let session = Sessions::default().begin(1).unwrap();
        let stream = session.stream().unwrap();
        assert!(session.clone().stream().is_none());
        drop(stream);
        assert!(session.stream().is_some());
    }

    #[test]
    fn a_session_that_was_ended_is_gone() {
        let sessions = Sessions::default();
        let session = sessions.begin(1).unwrap();
        let call = session.client.flights.take_off(Id::Number(1), 1).unwrap();
        assert!(sessions.end(&session.id));
        assert!(!call.may_speak());
        assert!(!sessions.end(&session.id) && sessions.get(&session.id).is_none());
    }
}
