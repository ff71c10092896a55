//! What links report about their server: lists that changed, deaths, counters.
//!
//! It knows no link, so links can hold it.

use crate::breaker::Breaker;
use crate::server::Event;
use crate::status::Ping;
use crate::tail::Tail;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type Listener = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// What is known of one server, whichever link is up.
#[derive(Default)]
pub(crate) struct Notice {
    pub(crate) breaker: Breaker,
    pub(crate) tail: Tail,
    pub(crate) starts: AtomicU64,
    pub(crate) deaths: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) restarts: AtomicU64,
    /// Rung at each death.
    pub(crate) bell: Arc<Bell>,
    last_ping: Mutex<Option<Ping>>,
    changed: AtomicU64,
    last_error: Mutex<Option<String>>,
    listeners: Mutex<Vec<Listener>>,
}

impl Notice {
    /// Passes on what the server told.
    pub(crate) fn tell(&self, event: Event<'_>) {
        if !matches!(event, Event::ResourceUpdated(_)) {
            self.changed.fetch_add(1, Relaxed);
        }
        // Out of the lock: a listener may add another one.
        let listeners = lock(&self.listeners).clone();
        listeners.iter().for_each(|listener| listener(event));
    }

    pub(crate) fn listen(&self, listener: Listener) {
        lock(&self.listeners).push(listener);
    }

    pub(crate) fn changed(&self) -> u64 {
        self.changed.load(Relaxed)
    }

    /// A link broke by itself.
    pub(crate) fn died(&self, why: &str) {
        self.deaths.fetch_add(1, Relaxed);
        self.failed(why);
        self.bell.ring();
    }

    /// It was asked whether it lives.
    pub(crate) fn pinged(&self, ping: Ping) {
        *lock(&self.last_ping) = Some(ping);
    }

    pub(crate) fn last_ping(&self) -> Option<Ping> {
        *lock(&self.last_ping)
    }

    /// A start or a link failed.
    pub(crate) fn failed(&self, why: &str) {
        self.breaker.failed();
        *lock(&self.last_error) = Some(why.to_owned());
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notice").field("breaker", &self.breaker).finish_non_exhaustive()
    }
}

/// Wakes whoever waits for something to happen.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<u64>,
    changed: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        let mut rung = lock(&self.rung);
        *rung = rung.wrapping_add(1);
        drop(rung);
        self.changed.notify_all();
    }

    /// How often it was rung.
    pub(crate) fn rung(&self) -> u64 {
        *lock(&self.rung)
    }

    /// Waits until it was rung more often than `seen`, or for that long.
    pub(crate) fn wait(&self, seen: u64, most: Option<Duration>) {
        let unchanged = |rung: &mut u64| *rung == seen;
        let rung = lock(&self.rung);
        // Which of the two it was, whoever waits finds out by looking.
        match most {
            Some(most) => drop(self.changed.wait_timeout_while(rung, most, unchanged)),
            None => drop(self.changed.wait_while(rung, unchanged)),
        }
    }
}

// Each of them is one plain value.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
