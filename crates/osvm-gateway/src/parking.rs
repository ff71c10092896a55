//! Calls that wait for a stateless client to come back.
//!
//! ```text
//! server asks mid-call ──▶ the client's request is answered with `input_required` and a token
//!                              client asks again, with the token and its input ──▶ the call goes on
//! ```
//!
//! # Invariants
//!
//! - A token can't be guessed, is good for one use, and only for the request it was given to.
//! - Parked calls are bounded in number and time; one whose client does not come back is cancelled.

use crate::http::random_hex;
use crate::voice::Speaking;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Calls that may be parked at once.
const MAX_PARKED: usize = 64;

/// In front of each token, so that it is told from those of servers.
const PREFIX: &str = "osvm-parked-";

/// The parked calls of one client, or of all clients of an HTTP server that have no session.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct State {
    parked: HashMap<String, Parked>,
    closed: bool,
    /// Calls that were ever parked and have not ended.
    calls: usize,
}

#[derive(Debug)]
struct Parked {
    /// What the request was, which its repetition has to be too.
    of: Of,
    wake: SyncSender<Back>,
}

/// Why the wait is over.
#[derive(Debug)]
pub(crate) enum Back {
    /// The client came back.
    Resumed(Box<Resumed>),
    /// Nobody waits for what it would say.
    Withdrawn,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Of {
    pub(crate) method: &'static str,
    /// The tool, prompt or resource.
    pub(crate) name: String,
}

/// A client that came back.
#[derive(Debug)]
pub(crate) struct Resumed {
    /// Where the call speaks from now on.
    pub(crate) speaking: Speaking,
    /// What the client says, by the key it was asked under.
    pub(crate) responses: Option<Box<RawValue>>,
}

/// A place, to wait at for the client.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    parking: &'a Parking,
    /// What the client has to show.
    pub(crate) token: String,
    pub(crate) back: Receiver<Back>,
    /// Ends the wait.
    pub(crate) wake: SyncSender<Back>,
}

/// Why there is no place.
#[derive(Debug)]
pub(crate) enum NoPlace {
    /// There are too many.
    Full,
    /// The host gives no randomness.
    NoToken(io::Error),
}

/// Counts a call that may be parked, until it ends.
#[derive(Debug)]
pub(crate) struct Counted<'a>(&'a Parking);

impl Parking {
    /// A place for a call.
    pub(crate) fn park(&self, of: &Of) -> Result<Place<'_>, NoPlace> {
        let token = random_hex::<16>().map_err(NoPlace::NoToken)?;
        let token = format!("{PREFIX}{token}");
        let mut state = self.lock();
        if state.closed || MAX_PARKED <= state.parked.len() {
            return Err(NoPlace::Full);
        }
        let (wake, back) = mpsc::sync_channel(2);
        state.parked.insert(token.clone(), Parked { of: of.clone(), wake: wake.clone() });
        Ok(Place { parking: self, token, back, wake })
    }

    /// Whether `token` looks like one of ours.
    pub(crate) fn is_token(token: &str) -> bool {
        token.starts_with(PREFIX)
    }

    /// Goes on with the call that was given `token`. Gives back what it was not told when there
    /// is no such call.
    pub(crate) fn resume(
        &self,
        token: &str,
        of: &Of,
        resumed: Box<Resumed>,
    ) -> Result<(), Box<Resumed>> {
        let parked = {
            let mut state = self.lock();
            match state.parked.get(token) {
                Some(parked) if parked.of == *of => state.parked.remove(token),
                Some(_) | None => None,
            }
        };
        let Some(parked) = parked else { return Err(resumed) };
        match parked.wake.try_send(Back::Resumed(resumed)) {
            // Who waited has given up just now.
            Err(
                TrySendError::Full(Back::Resumed(back))
                | TrySendError::Disconnected(Back::Resumed(back)),
            ) => Err(back),
            _ => Ok(()),
        }
    }

    /// Counts a call until the guard is dropped.
    pub(crate) fn count(&self) -> Counted<'_> {
        self.lock().calls += 1;
        Counted(self)
    }

    /// Lets nobody park any more, and wakes those who are parked.
    pub(crate) fn close(&self) {
        let parked = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.parked)
        };
        for parked in parked.into_values() {
            let _awake_already = parked.wake.try_send(Back::Withdrawn);
        }
    }

    /// Waits until all calls that were counted have ended; `false` when `patience` was not enough.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let state = self.lock();
        let waited = self.left.wait_timeout_while(state, patience, |state| state.calls > 0);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.calls == 0
    }

    // Each change is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.parking.lock().parked.remove(&self.token);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.calls = state.calls.saturating_sub(1);
        drop(state);
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flight::Flights;
    use crate::outlet::Outlet;
    use osvm_protocol::message::Id;
    use std::sync::Arc;

    fn resumed() -> Box<Resumed> {
        let flight = Flights::default().take_off(Id::Number(1), 1).unwrap();
        let outlet = Arc::new(Outlet::new(io::sink(), || ()));
        Box::new(Resumed { speaking: Speaking { outlet, flight, token: None }, responses: None })
    }

    fn of(name: &str) -> Of {
        Of { method: "tools/call", name: name.into() }
    }

    #[test]
    fn a_token_is_good_once_and_for_its_own_request_only() {
        let parking = Parking::default();
        let place = parking.park(&of("a")).unwrap();
        assert!(Parking::is_token(&place.token));
        assert!(parking.resume(&place.token, &of("b"), resumed()).is_err());
        assert!(parking.resume("osvm-parked-0", &of("a"), resumed()).is_err());
        parking.resume(&place.token, &of("a"), resumed()).unwrap();
        assert!(matches!(place.back.recv(), Ok(Back::Resumed(_))));
        assert!(parking.resume(&place.token, &of("a"), resumed()).is_err());
    }

    #[test]
    fn places_are_limited_and_end_with_the_parking() {
        let parking = Parking::default();
        let places: Vec<_> = (0..MAX_PARKED).map(|_| parking.park(&of("a")).unwrap()).collect();
        assert!(matches!(parking.park(&of("a")), Err(NoPlace::Full)));
        parking.close();
        assert!(places.iter().all(|p| matches!(p.back.recv(), Ok(Back::Withdrawn))));
        drop(places);
        assert!(matches!(parking.park(&of("a")), Err(NoPlace::Full)));
        let counted = parking.count();
        assert!(!parking.wait(Duration::ZERO));
        drop(counted);
        assert!(parking.wait(Duration::ZERO));
    }
}
