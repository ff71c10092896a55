//! Ends microVMs that nobody has used for a while, and tells of those that live on.

use super::Placed;
use super::kept::Record;
use osvm_upstream::Server;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often is looked.
const PAUSE: Duration = Duration::from_secs(1);

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
    /// Where is told of it.
    record: Weak<Record>,
}

impl Reaper {
    /// Ends what the server does not use for `idle`, and keeps its record.
    pub(super) fn watch(
        &self,
        server: &Arc<Server>,
        placed: &Arc<Placed>,
        idle: Duration,
        record: Option<&Arc<Record>>,
    ) {
        let (server, placed) = (Arc::downgrade(server), Arc::downgrade(placed));
        let record = record.map(Arc::downgrade).unwrap_or_default();
        let watched = Watched { server, placed, idle, record };
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

impl Watched {
    fn look(&self) {
        if let Some(server) = self.server.upgrade() {
            if 0 < server.end_idle(self.idle) {
                tracing::info!(server = server.name(), "ended, because nobody used it");
            }
            if let Some(record) = self.record.upgrade() {
                record.tell(&server.status());
            }
        }
        if let Some(placed) = self.placed.upgrade() {
            placed.rest(self.idle);
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
            watched.iter().for_each(Watched::look);
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
