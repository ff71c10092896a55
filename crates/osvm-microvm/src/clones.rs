//! Copies of a template, some of them made before they are wanted.
//!
//! ```text
//! Template ──restore──▶ frozen copy ──wake──▶ unique ──exercise──▶ Ready ──▶ one request
//!                                                  └── not in the pool: handed out as it is
//! ```
//!
//! # Invariants
//!
//! - The pool holds [`Ready`] clones only, and nothing makes a used one [`Ready`] again.
//! - A clone that fails on its way is destroyed, and the reason kept until one succeeds.

use crate::error::MicroVmError;
use crate::guest::{Awake, Guest, Host};
use crate::template::{Template, exercise};
use osvm_protocol::linux::method;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a clone is exercised for the pool, besides what its programs do by themselves
/// ([`method::EXERCISE`]). The second time takes other turns through code that the first has
/// translated.
const EXERCISES: usize = 2;

/// How long a clone may take to be ready for the pool.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the pool waits after a clone was taken before it makes another: the call that took it
/// has the processor first.
const AFTER_TAKING: Duration = Duration::from_millis(100);

/// How long the pool waits after a clone failed.
const AFTER_FAILING: Duration = Duration::from_secs(2);

/// A clone that is unique and unused. Good for one request.
#[derive(Debug)]
pub struct Ready {
    pub(crate) guest: Guest,
    awake: Awake,
    exercised: bool,
}

impl Ready {
    /// Makes one: without `exercised` as fast as it can be, with it so that its first request is
    /// answered as fast as it can be.
    ///
    /// # Errors
    ///
    /// [`MicroVmError`]; the clone is gone then.
    pub fn make(
        host: &Host,
        template: &Template,
        exercised: bool,
        deadline: Instant,
    ) -> Result<Self, MicroVmError> {
        let mut guest = host.restore(&template.name, &template.snapshot, deadline)?;
        let awake = guest.wake(deadline)?;
        if let Some(era) = template.era().filter(|_| exercised) {
            let () = guest
                .talk()
                .ask(method::EXERCISE, &json!({}), deadline)
                .map_err(|gone| guest.explain(gone))?;
            for _ in 0..EXERCISES {
                let done = exercise(&mut guest, template.exercise, era, deadline);
                done.map_err(|gone| guest.explain(gone))?;
            }
        }
        Ok(Self { guest, awake, exercised })
    }

    /// Programs in it that had random generators of their own and seeded them anew.
    pub fn hooks(&self) -> u32 {
        self.awake.hooks
    }

    /// How far its clock was off at most when it was set.
    pub fn clock_error(&self) -> Duration {
        self.awake.clock_error
    }

    /// Whether it was made ahead, and so that its first request is answered as fast as it can be.
    pub fn was_waiting(&self) -> bool {
        self.exercised
    }

    /// The guest, for the one request.
    pub fn into_guest(self) -> Guest {
        self.guest
    }
}

/// Clones of one template that are ready before they are wanted.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    maker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    host: Host,
    template: Template,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<Ready>,
    wanted: usize,
    not_before: Instant,
    ended: bool,
    failure: Option<String>,
}

impl Pool {
    /// Keeps `wanted` clones of `template` ready.
    ///
    /// # Errors
    ///
    /// When the host refuses a thread.
    pub fn new(host: Host, template: Template, wanted: usize) -> Result<Self, MicroVmError> {
        let ready = VecDeque::new();
        let now = Instant::now();
        let state = State { ready, wanted, not_before: now, ended: false, failure: None };
        let changed = Condvar::new();
        let shared = Arc::new(Shared { host, template, state: Mutex::new(state), changed });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("osvm-clones".into());
        let maker = thread.spawn(move || theirs.keep_ready());
        let maker = maker.map_err(|source| MicroVmError::Host { what: "a thread", source })?;
        Ok(Self { shared, maker: Some(maker) })
    }

    /// The template.
    pub fn template(&self) -> &Template {
        &self.shared.template
    }

    /// A clone: one that is ready, or a new one.
    ///
    /// # Errors
    ///
    /// [`MicroVmError`].
    pub fn take(&self, deadline: Instant) -> Result<Ready, MicroVmError> {
        let mut state = self.shared.lock();
        state.not_before = Instant::now() + AFTER_TAKING;
        let ready = state.ready.pop_front();
        drop(state);
        self.shared.changed.notify_all();
        match ready {
            Some(ready) => Ok(ready),
            None => Ready::make(&self.shared.host, &self.shared.template, false, deadline),
        }
    }

    /// How many are ready, and why the last one failed if it did.
    pub fn status(&self) -> (usize, Option<String>) {
        let state = self.shared.lock();
        (state.ready.len(), state.failure.clone())
    }
}

impl Shared {
    fn keep_ready(&self) {
        let mut state = self.lock();
        while !state.ended {
            let wait = state.not_before.saturating_duration_since(Instant::now());
            if state.wanted <= state.ready.len() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else if !wait.is_zero() {
                let waited = self.changed.wait_timeout(state, wait);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                drop(state);
                let deadline = Instant::now() + PATIENCE;
                let made = Ready::make(&self.host, &self.template, true, deadline);
                state = self.lock();
                match made {
                    Ok(ready) => {
                        state.ready.push_back(ready);
                        state.failure = None;
                    }
                    Err(error) => {
                        tracing::warn!(server = %self.template.name, "no clone: {error}");
                        state.failure = Some(error.to_string());
                        state.not_before = Instant::now() + AFTER_FAILING;
                    }
                }
                self.changed.notify_all();
            }
        }
    }

    // The state is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        if let Some(maker) = self.maker.take() {
            // A panic in the thread has ended it, which is all that is waited for.
            let _ended = maker.join();
        }
        self.shared.lock().ready.clear();
    }
}
