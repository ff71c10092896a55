//! What the broker keeps for one call, and drops with it.
//!
//! # Invariants
//!
//! - Connections, names, secrets and streams are of one call. Nothing of it reaches another.
//! - Every list has a limit.
//! - A request that was begun is noted once, however it ends: when it is done, when it fails, or
//!   when the call is over.

use crate::client::Sender;
use crate::dial::Dialer;
use crate::file::Grants;
use crate::http::Stream;
use crate::refusal::Refusal;
use crate::secret::{SecretSource, Vault};
use crate::target::{Name, Origin};
use osvm_policy::Resolved;
use osvm_runtime::{Reach, Trace};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Names one call may have resolved.
const MAX_NAMES: usize = 100;

/// Connections that wait for their next request.
const MAX_IDLE: usize = 8;

/// Bodies that may go on at once.
const MAX_STREAMS: usize = 8;

/// The state of one call.
#[derive(Debug)]
pub(crate) struct Session {
    /// When it can be thrown away even if nobody says that the call is over.
    pub(crate) deadline: Instant,
    vault: OnceLock<Vault>,
    grants: OnceLock<Grants>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<Name, Vec<IpAddr>>,
    idle: Vec<(Origin, Sender)>,
    streams: BTreeMap<u64, Stream>,
    begun: BTreeMap<u64, Begun>,
    last: u64,
}

/// A request on its way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Begun {
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) status: Option<u16>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl Begun {
    fn note(self, trace: &Trace, refused: Option<String>) {
        let Self { method, host, port, path, status, sent, received } = self;
        tracing::info!(method, host, port, path, status, refused, "brokered request");
        trace.note(Reach::Http {
            method,
            host,
            port,
            path,
            status,
            sent_bytes: sent,
            received_bytes: received,
            refused,
        });
    }
}

impl Session {
    pub(crate) fn new(deadline: Instant) -> Self {
        let (vault, grants) = (OnceLock::new(), OnceLock::new());
        Self { deadline, vault, grants, state: Mutex::default() }
    }

    /// The secrets of the call, fetched once.
    pub(crate) fn vault(&self, source: &dyn SecretSource, policy: &Resolved) -> &Vault {
        self.vault.get_or_init(|| Vault::open(source, policy))
    }

    /// The mounts of the call, opened once.
    pub(crate) fn grants(&self, make: impl FnOnce() -> Grants) -> &Grants {
        self.grants.get_or_init(make)
    }

    /// The addresses of a host: the same ones during the whole call.
    pub(crate) async fn addresses(
        &self,
        dialer: &Dialer,
        host: &Name,
        port: u16,
    ) -> Result<Vec<IpAddr>, Refusal> {
        {
            let state = self.lock();
            if let Some(known) = state.names.get(host) {
                return Ok(known.clone());
            }
            if MAX_NAMES <= state.names.len() {
                return Err(Refusal::TooMany { what: "hosts", max: MAX_NAMES });
            }
        }
        let found = dialer.addresses(host, port).await?;
        Ok(self.lock().names.entry(host.clone()).or_insert(found).clone())
    }

    /// A connection that is open to `origin` and free.
    pub(crate) fn idle(&self, origin: &Origin) -> Option<Sender> {
        let mut state = self.lock();
        state.idle.retain(|(_, sender)| !sender.is_closed());
        let place = state.idle.iter().position(|(other, _)| other == origin)?;
        Some(state.idle.swap_remove(place).1)
    }

    /// Keeps a connection whose response has been read to its end.
    pub(crate) fn keep(&self, origin: Origin, sender: Sender) {
        let mut state = self.lock();
        if state.idle.len() < MAX_IDLE && !sender.is_closed() {
            state.idle.push((origin, sender));
        }
    }

    /// Writes down that a request begins.
    pub(crate) fn begin(&self, begun: Begun) -> u64 {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.begun.insert(number, begun);
        number
    }

    /// Changes what will be noted of a request.
    pub(crate) fn update(&self, number: u64, change: impl FnOnce(&mut Begun)) {
        if let Some(begun) = self.lock().begun.get_mut(&number) {
            change(begun);
        }
    }

    /// Notes a request, unless it was noted.
    pub(crate) fn settle(&self, number: u64, trace: &Trace, refused: Option<String>) {
        let begun = self.lock().begun.remove(&number);
        if let Some(begun) = begun {
            begun.note(trace, refused);
        }
    }

    /// Takes a request out that is noted elsewhere.
    pub(crate) fn forget(&self, number: u64) {
        self.lock().begun.remove(&number);
    }

    /// Room for one more stream.
    pub(crate) fn room(&self) -> Result<(), Refusal> {
        if MAX_STREAMS <= self.lock().streams.len() {
            return Err(Refusal::TooMany { what: "bodies that go on", max: MAX_STREAMS });
        }
        Ok(())
    }

    /// Keeps a body that goes on, under the number of its request.
    pub(crate) fn put(&self, number: u64, stream: Stream) {
        self.lock().streams.insert(number, stream);
    }

    /// Takes a body that goes on; nobody else has it until it is put back.
    pub(crate) fn take(&self, number: u64) -> Result<Stream, Refusal> {
        self.lock().streams.remove(&number).ok_or(Refusal::NoStream(number))
    }

    /// The call is over: what is still on its way is noted and dropped.
    pub(crate) fn end(&self, trace: &Trace) {
        let State { begun, .. } = std::mem::take(&mut *self.lock());
        for (_, begun) in begun {
            begun.note(trace, Some("the call ended first".into()));
        }
    }

    // Lists that no panic leaves half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All sessions, by call.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<osvm_runtime::CallId, Arc<Session>>>);

impl Sessions {
    /// The session of a call, made when it asks for the first time.
    pub(crate) fn of(&self, call: osvm_runtime::CallId, deadline: Instant) -> Arc<Session> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get(&call) {
            return Arc::clone(session);
        }
        // A caller that forgets to say that a call is over must not fill the memory.
        let now = Instant::now();
        sessions.retain(|_, session| now < session.deadline || 1 < Arc::strong_count(session));
        Arc::clone(sessions.entry(call).or_insert_with(|| Arc::new(Session::new(deadline))))
    }

    pub(crate) fn remove(&self, call: osvm_runtime::CallId) -> Option<Arc<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&call)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
