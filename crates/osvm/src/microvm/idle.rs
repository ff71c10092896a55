//! Ends microVMs that nobody has used for a while, and servers that hang.

use super::Placed;
use osvm_upstream::Server;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often is looked.
const PAUSE: Duration = Duration::from_secs(1);

/// How long after one look at a server's health comes the next.
const HEALTH: Duration = Duration::from_secs(15);

/// How long a server that lives may take to say so. A Python server starts a module in that time
/// where guests are translated.
const ANSWER: Duration = Duration::from_secs(20);

/// Looks after servers, in a thread that runs as long as this lives.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    watched: Vec<Watched>,
    ended: bool,
}

#[derive(Clone, Debug)]
struct Watched {
    server: Weak<Server>,
    placed: Weak<Placed>,
    idle: Duration,
    health: Arc<Health>,
}

/// The looks at one server's health.
#[derive(Debug)]
struct Health {
    /// When the last one ended; nothing while one goes on.
    last: Mutex<Option<Instant>>,
}

impl Reaper {
    /// Ends what the server does not use for `idle`.
    pub(super) fn watch(&self, server: &Arc<Server>, placed: &Arc<Placed>, idle: Duration) {
        let health = Arc::new(Health { last: Mutex::new(Some(Instant::now())) });
        let (server, placed) = (Arc::downgrade(server), Arc::downgrade(placed));
        let watched = Watched { server, placed, idle, health };
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.watched.push(watched);
        drop(state);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let spawned = thread::Builder::new().name("idle".into()).spawn(move || shared.run());
            match spawned {
                Ok(spawned) => *thread = Some(spawned),
                Err(error) => tracing::warn!(%error, "unused microVMs will not be ended"),
            }
        }
    }
}

impl Health {
    /// Has a thread look, if it is time to: a server that hangs takes its time.
    fn look(self: &Arc<Self>, server: &Weak<Server>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() < HEALTH) {
            return;
        }
        let (health, server) = (Arc::clone(self), Weak::clone(server));
        let look = move || {
            if let Some(server) = server.upgrade()
                && 0 < server.look_after(ANSWER)
            {
                tracing::warn!(server = server.name(), "given up, because it does not answer");
            }
            *health.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        };
        // One that can't be looked at now is looked at later.
        if thread::Builder::new().name("health".into()).spawn(look).is_ok() {
            *last = None;
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.ended {
            state.watched.retain(|watched| 0 < watched.server.strong_count());
            let watched = state.watched.clone();
            drop(state);
            for Watched { server, placed, idle, health } in watched {
                health.look(&server);
                if let Some(server) = server.upgrade()
                    && 0 < server.end_idle(idle)
                {
                    tracing::info!(server = server.name(), "ended, because nobody used it");
                }
                if let Some(placed) = placed.upgrade() {
                    placed.rest(idle);
                }
            }
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.ended {
                let waited = self.changed.wait_timeout(state, PAUSE);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic has ended it too.
            let _ended = thread.join();
        }
    }
}
