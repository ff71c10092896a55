//! Links that are up, and which request goes over which.
//!
//! # Invariants
//!
//! - A server of the old era was initialised with just the capabilities that the client has whose
//!   requests go over the link. Where it may ask for roots, the link is for that client alone.
//! - One link is started for a key at a time; whoever else needs it waits for that one.
//! - At most [`MAX_LINKS`] are up. The one that was idle longest makes place.

use crate::channel::Channel;
use crate::handshake::Greeting;
use crate::health::Pulse;
use crate::outgoing::ClientFacts;
use crate::words::{Asks, Era, Level, canonical};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Links to one server at once.
pub(crate) const MAX_LINKS: usize = 8;

/// What a link was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) era: Era,
    /// Canonical JSON.
    pub(crate) capabilities: String,
    pub(crate) owner: u64,
}

/// What a request needs of a link.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) era: Option<Era>,
    pub(crate) capabilities: String,
    pub(crate) owner: u64,
}

impl Wanted {
    /// For osvm itself: a client without capabilities.
    pub(crate) fn nothing() -> Self {
        Self { era: None, capabilities: canonical(None), owner: 0 }
    }

    pub(crate) fn by(client: &ClientFacts<'_>, era: Option<Era>) -> Self {
        let alone = Asks::declared(client.capabilities).roots();
        let owner = if alone { client.owner } else { 0 };
        Self { era, capabilities: canonical(client.capabilities), owner }
    }

    /// Which link that is, for a server that is spoken to in `era`.
    pub(crate) fn key(&self, era: Era) -> Key {
        match era {
            // Whatever differs between clients comes with each request.
            Era::Modern => Key { era, capabilities: String::new(), owner: 0 },
            Era::Legacy => Key { era, capabilities: self.capabilities.clone(), owner: self.owner },
        }
    }
}

/// A link that has shaken hands. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) channel: Arc<dyn Channel>,
    pub(crate) greeting: Greeting,
    pub(crate) key: Key,
    pub(crate) facts: serde_json::Map<String, serde_json::Value>,
    used: Mutex<Instant>,
    /// What is known of its health.
    pub(crate) pulse: Mutex<Pulse>,
    /// From which level on the server logs, once it was told.
    pub(crate) level: Mutex<Option<Level>>,
}

impl Session {
    pub(crate) fn new(
        channel: Arc<dyn Channel>,
        greeting: Greeting,
        key: Key,
        facts: serde_json::Map<String, serde_json::Value>,
    ) -> Arc<Self> {
        let pulse = Mutex::new(Pulse::new(channel.heard()));
        let (used, level) = (Mutex::new(Instant::now()), Mutex::default());
        Arc::new(Self { channel, greeting, key, facts, used, pulse, level })
    }

    fn touch(&self) {
        self.was_used(Instant::now());
    }

    /// Some request used it at that time for the last time.
    pub(crate) fn was_used(&self, at: Instant) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.channel.end(Duration::ZERO);
    }
}

/// What is known of the server's eras.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) era: Era,
    pub(crate) dual: bool,
}

/// The links of one server.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) sessions: Vec<Arc<Session>>,
    /// Those that serve one request.
    pub(crate) lent: Vec<Arc<Session>>,
    /// Being started; `None` where the era is still to be found out.
    starting: Vec<Option<Key>>,
    pub(crate) known: Option<Known>,
    pub(crate) shut: bool,
    /// Somebody starts again what breaks.
    pub(crate) kept: bool,
    /// What broke and has to be started again.
    pub(crate) fallen: Option<Fallen>,
}

/// A link that broke by itself.
#[derive(Clone, Debug)]
pub(crate) struct Fallen {
    pub(crate) facts: serde_json::Map<String, serde_json::Value>,
    /// When a request took it last.
    pub(crate) used: Instant,
}

/// What to do for a link.
pub(crate) enum Step {
    Use(Arc<Session>),
    /// Start one; the other one makes place for it.
    Start(Option<Key>, Option<Arc<Session>>),
    Wait,
    Busy,
    Shut,
}

impl Pool {
    /// The era in which a request is put to the server.
    pub(crate) fn era(&self, wanted: Option<Era>) -> Option<Era> {
        let known = self.known?;
        Some(match wanted {
            Some(wanted) if known.dual => wanted,
            _ => known.era,
        })
    }

    /// Decides; a start has to be reported by [`Pool::started`].
    pub(crate) fn step(&mut self, wanted: &Wanted) -> Step {
        if self.shut {
            return Step::Shut;
        }
        self.prune();
        let key = self.era(wanted.era).map(|era| wanted.key(era));
        if let Some(session) =
            self.sessions.iter().find(|session| Some(&session.key) == key.as_ref())
        {
            session.touch();
            return Step::Use(Arc::clone(session));
        }
        if self.starting.contains(&key) {
            return Step::Wait;
        }
        let mut leaving = None;
        if MAX_LINKS <= self.sessions.len() + self.starting.len() {
            let idle = self.sessions.iter().enumerate();
            let idle = idle.filter(|(_, session)| Arc::strong_count(session) == 1);
            let Some((at, _)) = idle.min_by_key(|(_, session)| session.used()) else {
                return Step::Busy;
            };
            leaving = Some(self.sessions.swap_remove(at));
        }
        self.starting.push(key.clone());
        Step::Start(key, leaving)
    }

    /// A start has ended. Gives the session back if there is no place for it any more.
    pub(crate) fn started(
        &mut self,
        key: Option<&Key>,
        session: Option<Arc<Session>>,
    ) -> Option<Arc<Session>> {
        if let Some(at) = self.starting.iter().position(|starting| starting.as_ref() == key) {
            self.starting.swap_remove(at);
        }
        let session = session?;
        if self.shut {
            return Some(session);
        }
        self.learn(&session.greeting, key);
        self.sessions.push(session);
        None
    }

    /// Takes out the sessions that broke.
    pub(crate) fn prune(&mut self) {
        for session in self.sessions.extract_if(.., |session| !session.channel.is_alive()) {
            if self.kept {
                self.fallen = Some(Fallen { facts: session.facts.clone(), used: session.used() });
            }
        }
    }

    /// Takes out the sessions that nobody uses, and that nobody has used for `idle`.
    pub(crate) fn idle(&mut self, idle: Duration) -> Vec<Arc<Session>> {
        // Under the lock of the pool, in which alone a session is lent.
        let unused = |session: &mut Arc<Session>| {
            Arc::strong_count(session) == 1 && idle <= session.used().elapsed()
        };
        self.sessions.extract_if(.., unused).collect()
    }

    /// Remembers the era in which the server prefers to be spoken to.
    pub(crate) fn learn(&mut self, greeting: &Greeting, key: Option<&Key>) {
        let chosen = self.known.is_some_and(|known| known.dual) && key.is_some();
        // Old era by choice says nothing new of a server that knows both.
        if !(chosen && greeting.era == Era::Legacy) {
            self.known = Some(Known { era: greeting.era, dual: greeting.dual });
        }
    }
}
