//! A circuit breaker: a server that keeps failing is left alone for a while.
//!
//! ```text
//! Closed ──5 failures in a row──▶ Open for 1 s ──▶ HalfOpen ──success──▶ Closed
//!    ▲                              ▲                 │ one is let through
//!    └──────────success─────────────┴── twice as long, up to 60 s ◀── failure
//! ```
//!
//! Below five failures a new start only waits: 0, 100, 200, 400 ms.

use crate::status::BreakerState;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
const BACK_OFF: Duration = Duration::from_millis(100);

/// Counts starts that failed and links that died, with no answer between them.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
    /// When the one that was let through in half-open state set out.
    trying: Option<Instant>,
}

/// It is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) failures: u32,
    pub(crate) wait: Duration,
}

impl Breaker {
    /// Whether a start may be made at `now`, and how long it should wait before.
    pub(crate) fn admit(&self, now: Instant) -> Result<Duration, Refused> {
        let mut state = self.lock();
        let Some(until) = state.open_until else {
            return Ok(match state.failures {
                0 | 1 => Duration::ZERO,
                failures => BACK_OFF.saturating_mul(1 << (failures - 2).min(8)),
            });
        };
        if let Some(wait) = until.checked_duration_since(now).filter(|wait| !wait.is_zero()) {
            return Err(Refused { failures: state.failures, wait });
        }
        // Whoever was let through and never came back does not block the rest for good.
        let trying = state.trying.map(|since| now.saturating_duration_since(since));
        if let Some(left) = trying.and_then(|since| LONGEST.checked_sub(since)) {
            return Err(Refused { failures: state.failures, wait: left.min(FIRST) });
        }
        state.trying = Some(now);
        Ok(Duration::ZERO)
    }

    /// The server answered.
    pub(crate) fn succeeded(&self) {
        *self.lock() = State::default();
    }

    /// The one that was let through found out nothing about the server.
    pub(crate) fn withdrew(&self) {
        self.lock().trying = None;
    }

    pub(crate) fn failed(&self) {
        self.failed_at(Instant::now());
    }

    fn failed_at(&self, now: Instant) {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        state.trying = None;
        if let Some(beyond) = state.failures.checked_sub(FAILURES) {
            let wait = FIRST.saturating_mul(1 << beyond.min(6)).min(LONGEST);
            state.open_until = now.checked_add(wait);
        }
    }

    pub(crate) fn failures(&self) -> u32 {
        self.lock().failures
    }

    pub(crate) fn state(&self, now: Instant) -> BreakerState {
        match self.lock().open_until.map(|until| until.saturating_duration_since(now)) {
            None => BreakerState::Closed,
            Some(Duration::ZERO) => BreakerState::HalfOpen,
            Some(left) => BreakerState::Open(left),
        }
    }

    // The state is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn failed(times: u32, now: Instant) -> Breaker {
        let breaker = Breaker::default();
        (0..times).for_each(|_| breaker.failed_at(now));
        breaker
    }

    #[test]
    fn it_opens_after_five_failures_in_a_row() {
        let now = Instant::now();
        let waits: Vec<_> = (0..5).map(|times| failed(times, now).admit(now).unwrap()).collect();
        assert_eq!(waits, [Duration::ZERO, Duration::ZERO, 100 * MS, 200 * MS, 400 * MS]);
        let breaker = failed(5, now);
        assert_eq!(breaker.admit(now), Err(Refused { failures: 5, wait: FIRST }));
        assert_eq!(breaker.state(now), BreakerState::Open(FIRST));
    }

    #[test]
    fn half_open_lets_one_through_and_its_success_closes_it() {
        let now = Instant::now();
        let breaker = failed(5, now);
        let later = now + FIRST;
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        assert_eq!(breaker.admit(later), Ok(Duration::ZERO));
        assert!(breaker.admit(later).is_err(), "two at once");
        breaker.succeeded();
        assert_eq!(breaker.state(later), BreakerState::Closed);
        assert_eq!(breaker.admit(later), Ok(Duration::ZERO));
    }

    #[test]
    fn each_further_failure_doubles_the_time_up_to_a_minute() {
        let now = Instant::now();
        let seconds = |times| match failed(times, now).state(now) {
            BreakerState::Open(wait) => wait.as_secs(),
            other => panic!("{other:?}"),
        };
        let waits: Vec<_> = [5, 6, 7, 10, 11, 12, 1000].into_iter().map(seconds).collect();
        assert_eq!(waits, [1, 2, 4, 32, 60, 60, 60]);
    }

    #[test]
    fn one_that_was_let_through_in_vain_makes_room_for_another() {
        let now = Instant::now();
        let breaker = failed(5, now);
        assert!(breaker.admit(now + FIRST).is_ok());
        breaker.withdrew();
        assert!(breaker.admit(now + FIRST).is_ok());
        assert!(breaker.admit(now + FIRST + MS).is_err());
        assert!(breaker.admit(now + FIRST + LONGEST + MS).is_ok(), "blocked for good");
    }
}
