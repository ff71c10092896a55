//! One configured server: which link a request takes, and what is remembered of the server.
//!
//! ```text
//! request ─▶ link for era and capabilities? ─ yes ─▶ call
//!                  │ no                                 │ answer: Breaker closed
//!                  └─▶ Breaker ─▶ start, handshake ─▶ ──┘ death: Breaker counts
//! ```
//!
//! Whether it lives while nobody asks for anything is looked after in [`vigil`].
//!
//! # Not here
//!
//! - Asking again: only who asked knows whether a request may be made twice. The exceptions are
//!   an HTTP session that the server forgot and headers it wanted otherwise, because then it did
//!   not look at the request.

pub(crate) mod vigil;

use crate::cache::Cache;
use crate::catalog::{self, NoList};
use crate::channel::Call;
use crate::edit::Meta;
use crate::error::UpstreamError;
use crate::handshake::{own_call, own_meta};
use crate::headers;
use crate::mailbox::Lost;
use crate::notice::Notice;
use crate::offer::Offer;
use crate::outgoing::{ClientFacts, Outgoing, Reply};
use crate::session::{Known, Pool, Session, Step, Wanted};
use crate::spec::{Spec, Target};
use crate::start::{Started, Starter, failed};
use crate::status::{LinkStatus, ServerStatus};
use crate::stop::Stop;
use crate::turn::{Turn, Turns};
use crate::words::{Asks, Era, Level};
use serde_json::value::RawValue;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Something a server told without being asked.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Its tools are others now.
    ToolsChanged,
    /// Its prompts are.
    PromptsChanged,
    /// Its resources are.
    ResourcesChanged,
    /// One resource has other content: parameters of `notifications/resources/updated`.
    ResourceUpdated(&'a RawValue),
}

/// One configured server. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    spec: Spec,
    notice: Arc<Notice>,
    cache: Cache,
    offer: Mutex<Option<Arc<Offer>>>,
    links: Arc<Links>,
    turns: Arc<Turns>,
    /// Stopped when nothing is to be started any more.
    ended: Stop,
}

#[derive(Debug, Default)]
struct Links {
    pool: Mutex<Pool>,
    changed: Condvar,
}

impl Server {
    /// Starts nothing. What it offered last time is read from `cache_dir`.
    pub fn new(spec: Spec, cache_dir: Option<PathBuf>) -> Arc<Self> {
        let cache = Cache::new(cache_dir, &spec.digest());
        let offer = cache.read().map(Arc::new);
        let known = offer.as_ref().map(|offer| Known { era: offer.era, dual: offer.dual });
        let links = Links::default();
        links.lock().known = known;
        Arc::new(Self {
            spec,
            notice: Arc::default(),
            cache,
            offer: Mutex::new(offer),
            links: Arc::new(links),
            turns: Arc::default(),
            ended: Stop::default(),
        })
    }

    /// What the user calls it.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it offers, as far as that is known now, from an earlier run perhaps. Never waits.
    pub fn offer(&self) -> Option<Arc<Offer>> {
        lock(&self.offer).clone()
    }

    /// The era it prefers, as far as that is known.
    pub fn era(&self) -> Option<Era> {
        self.links.lock().known.map(|known| known.era)
    }

    /// Asks it what it offers: as a client without capabilities, every page of every list.
    ///
    /// # Errors
    ///
    /// Why it could not be asked.
    pub fn refresh(&self, deadline: Instant) -> Result<Arc<Offer>, UpstreamError> {
        let cancel = self.ended.clone();
        let turn = self.turn(deadline, &cancel)?;
        self.ask(&turn, deadline, &cancel)
    }

    /// Asks it what it offers if that may not be known: nobody has asked it since this was made,
    /// or a link of it died since, and what was started anew may be something else. Whether it
    /// was asked, perhaps by somebody else meanwhile.
    ///
    /// # Errors
    ///
    /// Why it could not be asked.
    pub fn refresh_if_stale(
        &self,
        deadline: Instant,
        cancel: &Stop,
    ) -> Result<bool, UpstreamError> {
        if !self.is_stale() {
            return Ok(false);
        }
        let turn = self.turn(deadline, cancel)?;
        if self.is_stale() {
            self.ask(&turn, deadline, cancel)?;
        }
        Ok(true)
    }

    fn is_stale(&self) -> bool {
        match self.spec.target {
            // Its identity says what is started, and stays the same.
            Target::Launched(_) => false,
            Target::Process { .. } | Target::Http { .. } => {
                self.turns.is_stale(self.notice.deaths.load(Relaxed))
            }
        }
    }

    fn turn(&self, deadline: Instant, cancel: &Stop) -> Result<Turn<'_>, UpstreamError> {
        self.turns.take(deadline, cancel).map_err(|lost| self.lost("tools/list", lost))
    }

    fn ask(
        &self,
        turn: &Turn<'_>,
        deadline: Instant,
        cancel: &Stop,
    ) -> Result<Arc<Offer>, UpstreamError> {
        let deaths = self.notice.deaths.load(Relaxed);
        let session = self.session(&Wanted::nothing(), deadline, cancel)?;
        let http = matches!(self.spec.target, Target::Http { .. });
        let asked = catalog::ask(&session, http, deadline, cancel);
        self.give_back(&session);
        let offer = asked.map_err(|error| match error {
            NoList::Lost(method, lost) => self.lost(method, lost),
            NoList::Wrong(why) => UpstreamError::Handshake { server: self.spec.name.clone(), why },
        })?;
        turn.asked(deaths);
        self.notice.breaker.succeeded();
        self.cache.write(&offer);
        let offer = Arc::new(offer);
        *lock(&self.offer) = Some(Arc::clone(&offer));
        Ok(offer)
    }

    /// Counts how often the server said that a list of its has changed.
    pub fn changed(&self) -> u64 {
        self.notice.changed()
    }

    /// Has `listener` called for what the server tells without being asked. It must be quick:
    /// the link waits meanwhile.
    pub fn listen(&self, listener: impl Fn(Event<'_>) + Send + Sync + 'static) {
        self.notice.listen(Arc::new(listener));
    }

    /// Sends a request and waits for its answer on this thread, on which `request.relay` is
    /// called too.
    ///
    /// # Errors
    ///
    /// Why there is no answer. An error that the server answered is a [`Reply`].
    pub fn request(
        &self,
        request: &Outgoing<'_>,
        deadline: Instant,
        cancel: &Stop,
    ) -> Result<Reply, UpstreamError> {
        let wanted = match &self.spec.target {
            Target::Launched(launch) if launch.for_all() => Wanted::nothing(),
            Target::Launched(_) | Target::Process { .. } | Target::Http { .. } => {
                Wanted::by(&request.client, request.era_wanted)
            }
        };
        let mut again = true;
        loop {
            let session = self.session(&wanted, deadline, cancel)?;
            request.relay.link(&session.facts);
            let replied = self.call(&session, request, deadline, cancel);
            self.give_back(&session);
            match replied {
                Ok(Reply::Error(error)) if again && self.wants_other_headers(&error) => {
                    again = false;
                    self.refresh(deadline)?;
                }
                Ok(reply) => {
                    self.notice.breaker.succeeded();
                    return Ok(reply);
                }
                Err(Lost::NoSession) if again => {
                    again = false;
                    self.forget(&session);
                }
                Err(lost) => return Err(self.lost(request.method, lost)),
            }
        }
    }

    fn call(
        &self,
        session: &Session,
        request: &Outgoing<'_>,
        deadline: Instant,
        cancel: &Stop,
    ) -> Result<Reply, Lost> {
        let client = &request.client;
        let era = session.greeting.era;
        if era == Era::Legacy {
            self.set_level(session, client, deadline, cancel)?;
        }
        let meta = Meta {
            era,
            version: &session.greeting.version,
            capabilities: client.capabilities,
            info: client.info,
            level: client.log_level,
            progress: client.wants_progress,
        };
        let asks = match era {
            Era::Legacy => Asks::declared(client.capabilities),
            // There, a server asks in its result.
            Era::Modern => Asks::default(),
        };
        let headers = match self.offer() {
            Some(offer) if matches!(self.spec.target, Target::Http { .. }) => {
                headers::of_arguments(&offer, request.method, request.params)
            }
            _ => Vec::new(),
        };
        let Outgoing { method, params, relay, .. } = *request;
        let owner = client.owner;
        let call = Call { method, params, meta, owner, asks, own: false, relay, headers: &headers };
        self.notice.requests.fetch_add(1, Relaxed);
        session.channel.call(&call, deadline, cancel)
    }

    /// Has a server of the old era log from the level on that the client wants, or from a lower
    /// one that another client wanted.
    fn set_level(
        &self,
        session: &Session,
        client: &ClientFacts<'_>,
        deadline: Instant,
        cancel: &Stop,
    ) -> Result<(), Lost> {
        let Some(level) = client.log_level.and_then(Level::named) else { return Ok(()) };
        let capabilities = session.greeting.capabilities.as_deref();
        let declared = capabilities.and_then(crate::edit::Members::read);
        if declared.is_none_or(|declared| declared.get("logging").is_none()) {
            return Ok(());
        }
        let mut current = lock(&session.level);
        if current.is_some_and(|current| current <= level) {
            return Ok(());
        }
        let params = RawValue::from_string(format!(r#"{{"level":"{}"}}"#, level.name())).ok();
        let meta = own_meta(Era::Legacy, &session.greeting.version);
        let call = own_call("logging/setLevel", params.as_deref(), meta);
        session.channel.call(&call, deadline, cancel)?;
        *current = Some(level);
        Ok(())
    }

    fn wants_other_headers(&self, error: &RawValue) -> bool {
        matches!(self.spec.target, Target::Http { .. }) && catalog::code(error) == Some(-32_020)
    }

    /// Tells the server something on behalf of a client, on the links for that client that are
    /// up: `notifications/roots/list_changed`, for example.
    pub fn notify(&self, client: &ClientFacts<'_>, method: &str, params: Option<&RawValue>) {
        let wanted = Wanted::by(client, None);
        let sessions = self.links.lock().sessions.clone();
        for session in sessions.iter().filter(|session| {
            session.key.era == Era::Legacy && session.key == wanted.key(Era::Legacy)
        }) {
            session.channel.notify(method, params.map(RawValue::get));
        }
    }

    /// Links that were made.
    pub fn starts(&self) -> u64 {
        self.notice.starts.load(Relaxed)
    }

    /// How it is.
    pub fn status(&self) -> ServerStatus {
        let mut pool = self.links.lock();
        pool.prune();
        let links = pool.sessions.iter().chain(&pool.lent);
        let links = links.filter(|session| session.channel.is_alive()).map(|session| LinkStatus {
            era: session.greeting.era,
            version: session.greeting.version.clone(),
            in_flight: session.channel.in_flight(),
            skipped: session.channel.skipped(),
            facts: session.facts.clone(),
        });
        let notice = &self.notice;
        ServerStatus {
            name: self.spec.name.clone(),
            era: pool.known.map(|known| known.era),
            breaker: notice.breaker.state(Instant::now()),
            failures: notice.breaker.failures(),
            starts: notice.starts.load(Relaxed),
            deaths: notice.deaths.load(Relaxed),
            restarts: notice.restarts.load(Relaxed),
            restarting: pool.fallen.is_some() && pool.sessions.is_empty(),
            last_ping: notice.last_ping(),
            requests: notice.requests.load(Relaxed),
            last_error: notice.last_error(),
            links: links.collect(),
        }
    }

    /// The last 64 KiB that its processes wrote to standard error.
    pub fn logs(&self) -> Vec<u8> {
        self.notice.tail.bytes()
    }

    /// Ends it: its input is closed, then it is asked to end, then killed. Requests that wait
    /// are lost, and later ones are refused.
    pub fn shut_down(&self) {
        self.ended.stop();
        let mut pool = self.links.lock();
        pool.shut = true;
        let mut sessions = std::mem::take(&mut pool.sessions);
        sessions.append(&mut pool.lent);
        drop(pool);
        self.links.changed.notify_all();
        let patience = self.spec.end_timeout;
        std::thread::scope(|scope| {
            for session in &sessions {
                scope.spawn(move || session.channel.end(patience));
            }
        });
    }

    /// Ends the links that no request has taken for `idle`. The next request starts another one.
    pub fn end_idle(&self, idle: Duration) -> usize {
        let leaving = self.links.lock().idle(idle);
        for session in &leaving {
            session.channel.end(self.spec.end_timeout);
        }
        leaving.len()
    }

    fn lost(&self, method: &str, lost: Lost) -> UpstreamError {
        if self.ended.is_stopped() {
            return UpstreamError::ShutDown { server: self.spec.name.clone() };
        }
        failed(&self.spec.name, method, lost)
    }

    fn is_once(&self) -> bool {
        matches!(&self.spec.target, Target::Launched(launch) if launch.once())
    }

    /// The link for a request, started if there is none.
    fn session(
        &self,
        wanted: &Wanted,
        deadline: Instant,
        cancel: &Stop,
    ) -> Result<Arc<Session>, UpstreamError> {
        if self.is_once() {
            let known = self.links.lock().known;
            let session =
                self.open(known.map(|known| known.era), false, wanted, deadline, cancel)?;
            let mut pool = self.links.lock();
            pool.learn(&session.greeting, None);
            pool.lent.push(Arc::clone(&session));
            return Ok(session);
        }
        let links = Arc::downgrade(&self.links);
        let _hook = cancel.hook(move || {
            if let Some(links) = links.upgrade() {
                // In the lock, so that it can't fall between a look at `cancel` and the wait.
                let _pool = links.lock();
                links.changed.notify_all();
            }
        });
        let mut pool = self.links.lock();
        loop {
            if cancel.is_stopped() {
                return Err(self.lost("initialize", Lost::Cancelled));
            }
            match pool.step(wanted) {
                Step::Use(session) => return Ok(session),
                Step::Busy => return Err(self.lost("initialize", Lost::Busy)),
                Step::Shut => {
                    return Err(UpstreamError::ShutDown { server: self.spec.name.clone() });
                }
                Step::Wait => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(self.lost("initialize", Lost::Deadline));
                    }
                    let waited = self.links.changed.wait_timeout(pool, left);
                    pool = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Step::Start(key, leaving) => {
                    let chosen = pool.known.is_some_and(|known| known.dual);
                    drop(pool);
                    drop(leaving);
                    let era = key.as_ref().map(|key| key.era);
                    let opened = self.open(era, chosen, wanted, deadline, cancel);
                    pool = self.links.lock();
                    let session = opened.as_ref().ok().cloned();
                    let late = pool.started(key.as_ref(), session);
                    self.links.changed.notify_all();
                    let session = opened?;
                    if late.is_none() {
                        crate::watch::start(&self.spec.name, &session);
                    }
                }
            }
        }
    }

    /// Starts a link, if the breaker lets it.
    fn open(
        &self,
        era: Option<Era>,
        chosen: bool,
        wanted: &Wanted,
        deadline: Instant,
        cancel: &Stop,
    ) -> Result<Arc<Session>, UpstreamError> {
        let server = || self.spec.name.clone();
        let breaker = &self.notice.breaker;
        let delay = breaker.admit(Instant::now()).map_err(|refused| UpstreamError::Open {
            server: server(),
            failures: refused.failures,
            wait: refused.wait,
        })?;
        let both = Stop::default();
        let (one, other) = (both.clone(), both.clone());
        let _hooks = (cancel.hook(move || one.stop()), self.ended.hook(move || other.stop()));
        let patience = Instant::now().checked_add(self.spec.start_timeout);
        let limit = patience.map_or(deadline, |patience| patience.min(deadline));
        sleep(delay, limit, &both);
        self.notice.starts.fetch_add(1, Relaxed);
        let capabilities = &*wanted.capabilities;
        let (spec, notice) = (&self.spec, &self.notice);
        let starter = Starter { spec, notice, capabilities, limit, cancel: &both };
        let started = starter.start(era, chosen).inspect_err(|error| match error {
            UpstreamError::Cancelled { .. } => breaker.withdrew(),
            error => self.notice.failed(&chain(error)),
        });
        let Started { channel, greeting, facts } = started.map_err(|error| match error {
            UpstreamError::Cancelled { .. } => self.lost("initialize", Lost::Cancelled),
            error => error,
        })?;
        let key = wanted.key(greeting.era);
        Ok(Session::new(channel, greeting, key, facts))
    }

    /// A link that serves one request has served it.
    fn give_back(&self, session: &Arc<Session>) {
        if !self.is_once() {
            return;
        }
        self.links.lock().lent.retain(|lent| !Arc::ptr_eq(lent, session));
        session.channel.end(Duration::ZERO);
    }

    /// Does not use a link any more.
    fn forget(&self, session: &Arc<Session>) {
        self.links.lock().sessions.retain(|known| !Arc::ptr_eq(known, session));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Links {
    // The pool is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits, but not past `limit` or a stop.
fn sleep(delay: Duration, limit: Instant, stop: &Stop) {
    if delay.is_zero() {
        return;
    }
    let (wake, woken) = std::sync::mpsc::sync_channel(1);
    let _hook = stop.hook(move || _ = wake.try_send(()));
    // Whether time or a stop ended it is seen by who asks next.
    let _which = woken.recv_timeout(delay.min(limit.saturating_duration_since(Instant::now())));
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

// What is locked with it is one plain value each.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
