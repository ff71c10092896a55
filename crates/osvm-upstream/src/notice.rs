//! What links report about their server: lists that changed, deaths, counters.
//!
//! It knows no link, so links can hold it.

use crate::breaker::Breaker;
use crate::server::Event;
use crate::tail::Tail;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Listener = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// What is known of one server, whichever link is up.
#[derive(Default)]
pub(crate) struct Notice {
    pub(crate) breaker: Breaker,
    pub(crate) tail: Tail,
    pub(crate) starts: AtomicU64,
    pub(crate) deaths: AtomicU64,
    pub(crate) requests: AtomicU64,
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

// Each of them is one plain value.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
