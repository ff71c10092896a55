//! Looking after a server that lives on, for as long as somebody holds it.
//!
//! ```text
//! up ── every interval: look ── dead ─┐
//!  ▲  └──────── its link broke ───────┤
//!  │                                  ▼
//!  └── started ◀── Breaker: wait ── fallen ── unused for too long, or ended on purpose ──▶ down
//! ```
//!
//! # Invariants
//!
//! - What osvm ended itself, because nobody used it for example, is not started again.
//! - A start by itself is no use: it does not put off the end of a server that nobody uses.
//! - When [`Kept`] is dropped, nothing is started any more, and nobody here holds the server.
//!
//! # Not here
//!
//! - How long to wait between starts: the breaker decides, as for any request.

use super::Server;
use crate::error::UpstreamError;
use crate::health::{self, Health};
use crate::notice::Bell;
use crate::session::{Fallen, Wanted};
use crate::stop::Stop;
use serde_json::{Map, Value};
use std::fmt;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long to wait where no link can be had for other reasons than the server.
const BUSY: Duration = Duration::from_secs(1);

/// Says from the facts of a link whether it is to be there.
pub type IsWanted = Arc<dyn Fn(&Map<String, Value>) -> bool + Send + Sync>;

/// How a server that lives on is looked after.
#[derive(Clone)]
pub struct Care {
    /// How long after one look at its health comes the next; nothing for never.
    pub interval: Option<Duration>,
    /// How long it may take to answer a ping. The third one in a row without an answer is a death.
    pub patience: Duration,
    /// What has not been used for this long is not started again.
    pub idle: Duration,
    /// Asked with the facts of a link that broke: whether another one is wanted.
    pub wanted: IsWanted,
}

impl fmt::Debug for Care {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interval, patience, idle, wanted: _ } = self;
        let mut care = f.debug_struct("Care");
        care.field("interval", interval).field("patience", patience).field("idle", idle);
        care.finish_non_exhaustive()
    }
}

/// Somebody looks after a server until this is dropped.
#[derive(Debug)]
pub struct Kept {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // A panic has ended it too.
            let _ended = thread.join();
        }
    }
}

impl Server {
    /// Has the server looked after: asked whether it lives, and started again when it does not, with
    /// the pauses of the breaker. It is not started for the first time here.
    ///
    /// # Errors
    ///
    /// There can be no thread for it.
    pub fn keep(self: &Arc<Self>, care: Care) -> io::Result<Kept> {
        let stop = Stop::default();
        let bell = Arc::clone(&self.notice.bell);
        self.links.lock().kept = true;
        let vigil = Vigil { server: Arc::downgrade(self), care, stop: stop.clone(), bell };
        let thread = thread::Builder::new().name("mcp-keep".into()).spawn(move || vigil.run())?;
        Ok(Kept { stop, thread: Some(thread) })
    }

    /// Asks the server on every link that is up whether it lives, unless it has just shown that or
    /// is busy, and gives up those that do not answer three times in a row for `patience` each: what waits
    /// there fails at once. How many were given up.
    ///
    /// Waits for the answers. Links that serve one request are not looked at.
    pub fn look_after(&self, patience: Duration) -> usize {
        self.look(patience, &self.ended)
    }

    fn look(&self, patience: Duration, cancel: &Stop) -> usize {
        let sessions = self.links.lock().sessions.clone();
        thread::scope(|scope| {
            let looks: Vec<_> = sessions
                .iter()
                .filter(|session| session.channel.is_alive())
                .map(|session| {
                    scope.spawn(|| health::look(session, &self.notice, patience, cancel))
                })
                .collect();
            // A panic in one has ended it.
            let looks = looks.into_iter().filter_map(|look| look.join().ok());
            looks.filter(|health| *health == Health::Dead).count()
        })
    }

    /// A link that broke and that nothing has taken the place of.
    fn fallen(&self) -> Option<Fallen> {
        let mut pool = self.links.lock();
        pool.prune();
        if pool.fallen.is_some() && !pool.sessions.is_empty() {
            // A request had it started before it was done here.
            pool.fallen = None;
            self.notice.restarts.fetch_add(1, Relaxed);
        }
        pool.fallen.clone()
    }

    /// Starts it again. How long to wait before the next try, if there has to be one.
    fn raise(&self, fallen: &Fallen, cancel: &Stop) -> Option<Duration> {
        let deadline = Instant::now().checked_add(self.spec.start_timeout)?;
        match self.session(&Wanted::nothing(), deadline, cancel) {
            Ok(session) => {
                session.was_used(fallen.used);
                None
            }
            Err(UpstreamError::Open { wait, .. }) => Some(wait),
            Err(UpstreamError::Busy { .. }) => Some(BUSY),
            Err(error) => {
                tracing::warn!(server = self.spec.name, %error, "it can't be started again");
                // The breaker knows of it, and has the next try wait.
                Some(Duration::ZERO)
            }
        }
    }
}

struct Vigil {
    server: Weak<Server>,
    care: Care,
    stop: Stop,
    bell: Arc<Bell>,
}

impl Vigil {
    fn run(self) {
        let ended = self.server.upgrade().map(|server| server.ended.clone());
        let _hooks = [Some(self.stop.clone()), ended].map(|stop| {
            let bell = Arc::clone(&self.bell);
            stop.map(|stop| stop.hook(move || bell.ring()))
        });
        let next =
            |care: &Care| care.interval.and_then(|interval| Instant::now().checked_add(interval));
        let mut look = next(&self.care);
        loop {
            // Read first: what happens from here on is not slept through.
            let rung = self.bell.rung();
            let Some(server) = self.server.upgrade() else { return };
            if self.stop.is_stopped() || server.ended.is_stopped() {
                return;
            }
            let wait = match server.fallen() {
                Some(fallen) => self.raise(&server, &fallen),
                None if look.is_some_and(|look| look <= Instant::now()) => {
                    if 0 < server.look(self.care.patience, &self.stop) {
                        tracing::warn!(
                            server = server.name(),
                            "given up, because it does not answer"
                        );
                    }
                    look = next(&self.care);
                    Some(Duration::ZERO)
                }
                None => look.map(|look| look.saturating_duration_since(Instant::now())),
            };
            drop(server);
            self.bell.wait(rung, wait);
        }
    }

    /// Starts the server again, if it is to be. How long to wait then.
    fn raise(&self, server: &Server, fallen: &Fallen) -> Option<Duration> {
        let unused = self.care.idle <= fallen.used.elapsed();
        if unused || !(self.care.wanted)(&fallen.facts) {
            server.links.lock().fallen = None;
            return Some(Duration::ZERO);
        }
        server.raise(fallen, &self.stop).or(Some(Duration::ZERO))
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        if let Some(server) = self.server.upgrade() {
            let mut pool = server.links.lock();
            (pool.kept, pool.fallen) = (false, None);
        }
    }
}
