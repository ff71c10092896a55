//! Ending a request from another thread, without polling.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ends one request. Clones mean the same one.
#[derive(Clone, Default)]
pub struct Stop(Arc<Mutex<State>>);

type Call = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct State {
    stopped: bool,
    next: u64,
    hooks: HashMap<u64, Call>,
}

impl Stop {
    /// Ends the request. Without effect on one that has ended.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        let hooks = std::mem::take(&mut state.hooks);
        // Out of the lock: a hook may come back here.
        drop(state);
        hooks.values().for_each(|hook| hook());
    }

    /// Whether [`Stop::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Calls `act` once when the request is ended, at once if it has been already, and not at all
    /// when the [`Hook`] is dropped before.
    pub fn hook(&self, act: impl Fn() + Send + Sync + 'static) -> Hook {
        let mut state = self.lock();
        let number = state.next;
        if state.stopped {
            drop(state);
            act();
        } else {
            state.next += 1;
            state.hooks.insert(number, Arc::new(act));
        }
        Hook { stop: self.clone(), number }
    }

    // The state is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").field("stopped", &self.is_stopped()).finish_non_exhaustive()
    }
}

/// Something to be done on [`Stop::stop`]; forgotten when this is dropped.
#[derive(Debug)]
pub struct Hook {
    stop: Stop,
    number: u64,
}

impl Drop for Hook {
    fn drop(&mut self) {
        let forgotten = self.stop.lock().hooks.remove(&self.number);
        // Out of the lock: what it holds may own another hook.
        drop(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_hook_is_called_once_however_often_it_is_stopped() {
        check(|stop, act| {
            let _hook = stop.hook(act);
            stop.stop();
            stop.stop();
            1
        });
    }

    #[test]
    fn a_hook_that_comes_late_is_called_at_once() {
        check(|stop, act| {
            stop.stop();
            let _hook = stop.hook(act);
            1
        });
    }

    #[test]
    fn a_hook_that_was_dropped_is_not_called() {
        check(|stop, act| {
            drop(stop.hook(act));
            stop.stop();
            0
        });
    }

    #[track_caller]
    fn check(run: impl Fn(&Stop, Box<dyn Fn() + Send + Sync>) -> usize) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        let act = move || _ = counter.fetch_add(1, Ordering::SeqCst);
        let expected = run(&Stop::default(), Box::new(act));
        assert_eq!(calls.load(Ordering::SeqCst), expected);
    }
}
