//! Time that a call may work, which does not run while its client is asked something.
//!
//! One thread for all calls: it sleeps until the earliest of their ends.

use osvm_upstream::Stop;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Ends what takes too long. Clones mean the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    earlier: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ends: BTreeMap<(Instant, u64), Arc<Alarm>>,
    next: u64,
    runs: bool,
    over: bool,
}

#[derive(Debug)]
struct Alarm {
    stop: Stop,
    rang: AtomicBool,
}

/// The time of one call. It ends with this.
#[derive(Debug)]
pub(crate) struct Budget {
    clock: Clock,
    alarm: Arc<Alarm>,
    state: Mutex<Left>,
}

#[derive(Debug)]
enum Left {
    /// It runs until then.
    Runs((Instant, u64)),
    /// It stands.
    Stands(Duration),
}

impl Clock {
    /// Stops `stop` at `end`, unless the budget is paused or gone by then.
    pub(crate) fn budget(&self, end: Instant, stop: Stop) -> Budget {
        let alarm = Arc::new(Alarm { stop, rang: AtomicBool::new(false) });
        let key = self.set(end, &alarm);
        Budget { clock: self.clone(), alarm, state: Mutex::new(Left::Runs(key)) }
    }

    /// Rings for nobody any more.
    pub(crate) fn end(&self) {
        self.lock().over = true;
        self.0.earlier.notify_all();
    }

    fn set(&self, end: Instant, alarm: &Arc<Alarm>) -> (Instant, u64) {
        let mut state = self.lock();
        state.next += 1;
        let key = (end, state.next);
        let first = state.ends.first_key_value().is_none_or(|(earliest, _)| key < *earliest);
        state.ends.insert(key, Arc::clone(alarm));
        if !state.runs {
            let clock = self.clone();
            let run = move || clock.run();
            // Without a thread the upstream's own, later deadline ends the call.
            state.runs = thread::Builder::new().name("clock".into()).spawn(run).is_ok();
        } else if first {
            self.0.earlier.notify_all();
        }
        key
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.over {
            let now = Instant::now();
            let wait = state.ends.first_key_value().map(|((end, _), _)| end.duration_since(now));
            match wait {
                Some(Duration::ZERO) => {
                    let rings = state.ends.pop_first();
                    drop(state);
                    if let Some((_, alarm)) = rings {
                        alarm.rang.store(true, Ordering::SeqCst);
                        alarm.stop.stop();
                    }
                    state = self.lock();
                }
                Some(wait) => {
                    let waited = self.0.earlier.wait_timeout(state, wait);
                    (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    let waited = self.0.earlier.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    // Each change is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget {
    /// Lets the time stand until the guard is dropped.
    pub(crate) fn pause(&self) -> Pause<'_> {
        let mut left = self.lock();
        if let Left::Runs(key) = *left {
            self.clock.lock().ends.remove(&key);
            *left = Left::Stands(key.0.saturating_duration_since(Instant::now()));
        }
        Pause(self)
    }

    /// Whether the time has run out.
    pub(crate) fn ran_out(&self) -> bool {
        self.alarm.rang.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        if let Left::Runs(key) = *self.lock() {
            self.clock.lock().ends.remove(&key);
        }
    }
}

/// The time stands.
#[derive(Debug)]
pub(crate) struct Pause<'a>(&'a Budget);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        let mut left = self.0.lock();
        if let Left::Stands(duration) = *left {
            *left = Left::Runs(self.0.clock.set(Instant::now() + duration, &self.0.alarm));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn time_runs_but_not_while_it_stands() {
        let clock = Clock::default();
        let (send, rings) = mpsc::channel();
        let stop = |name: &'static str| {
            let (stop, send) = (Stop::default(), send.clone());
            // Kept for the length of the test.
            std::mem::forget(stop.hook(move || send.send(name).unwrap()));
            stop
        };
        let soon = |ms| Instant::now() + Duration::from_millis(ms);
        let late = clock.budget(soon(40), stop("late"));
        let stands = clock.budget(soon(30), stop("stands"));
        let early = clock.budget(soon(10), stop("early"));
        drop(clock.budget(soon(5), stop("gone")));
        let pause = stands.pause();
        assert_eq!(rings.recv().unwrap(), "early");
        assert_eq!(rings.recv().unwrap(), "late");
        assert!(early.ran_out() && late.ran_out() && !stands.ran_out());
        drop(pause);
        assert_eq!(rings.recv().unwrap(), "stands");
        clock.end();
    }
}
