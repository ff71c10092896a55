//! Asking a server what it offers, one at a time, and whether it has to be asked again.
//!
//! ```text
//! never asked, or a link died since ──▶ stale ── asked ──▶ fresh
//! ```

use crate::mailbox::Lost;
use crate::stop::Stop;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Who asks now, and what was so when it was asked last.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    state: Mutex<State>,
    free: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: bool,
    /// Deaths of links before it was asked last; `None` when it never was.
    asked: Option<u64>,
}

/// The turn to ask. It ends with this.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for a turn.
    pub(crate) fn take(
        self: &Arc<Self>,
        deadline: Instant,
        cancel: &Stop,
    ) -> Result<Turn<'_>, Lost> {
        let turns = Arc::downgrade(self);
        let _hook = cancel.hook(move || {
            if let Some(turns) = turns.upgrade() {
                // In the lock, so that it can't fall between a look at `cancel` and the wait.
                let _state = turns.lock();
                turns.free.notify_all();
            }
        });
        let mut state = self.lock();
        loop {
            if cancel.is_stopped() {
                return Err(Lost::Cancelled);
            }
            if !state.taken {
                state.taken = true;
                return Ok(Turn(self));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Lost::Deadline);
            }
            let waited = self.free.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether nobody has asked since that many links had died.
    pub(crate) fn is_stale(&self, deaths: u64) -> bool {
        self.lock().asked != Some(deaths)
    }

    // Each change is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// It was asked when that many links had died.
    pub(crate) fn asked(&self, deaths: u64) {
        self.0.lock().asked = Some(deaths);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().taken = false;
        self.0.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn who_waits_for_a_turn_gets_it_or_gives_up() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(soon(), &Stop::default()).unwrap();
        assert!(matches!(turns.take(Instant::now(), &Stop::default()), Err(Lost::Deadline)));
        let stop = Stop::default();
        thread::scope(|scope| {
            let waits = scope.spawn(|| turns.take(soon(), &stop).err());
            stop.stop();
            assert!(matches!(waits.join().unwrap(), Some(Lost::Cancelled)));
            let waits = scope.spawn(|| turns.take(soon(), &Stop::default()).is_ok());
            drop(first);
            assert!(waits.join().unwrap());
        });
    }

    #[test]
    fn a_death_makes_stale_what_was_asked_before_it() {
        let turns = Arc::new(Turns::default());
        assert!(turns.is_stale(0));
        turns.take(soon(), &Stop::default()).unwrap().asked(0);
        assert!(!turns.is_stale(0) && turns.is_stale(1));
    }
}
