//! The two lives of a server as `osvm-upstream` sees them.

use crate::clones::{Pool, Ready};
use crate::error::MicroVmError;
use crate::guest::{Guest, Host, Life};
use crate::link::split;
use crate::recipe::Recipe;
use crate::snapshots::Snapshots;
use crate::template::Template;
use crate::workspace::WorkspaceError;
use osvm_image::Digest;
use osvm_upstream::{Launch, LaunchError, Link, Stop};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the first start of a server may take, whoever waits for it.
const FIRST_START: Duration = Duration::from_secs(300);

/// A server that lives on in a guest of its own.
#[derive(Debug)]
pub struct Persistent {
    host: Host,
    recipe: Recipe,
}

impl Persistent {
    /// A server that is started when it is launched.
    pub fn new(host: Host, recipe: Recipe) -> Self {
        Self { host, recipe }
    }
}

impl Launch for Persistent {
    fn launch(&self, deadline: Instant, cancel: &Stop) -> Result<Link, LaunchError> {
        // The server's answer takes longer than this, and the caller awaits that.
        let booted = self.host.boot(&self.recipe, Life::Persistent, deadline, cancel);
        let mut guest = booted.map_err(failed)?;
        fill(&mut guest, &self.recipe, deadline, cancel)?;
        if cancel.is_stopped() {
            return Err(LaunchError::Cancelled);
        }
        link(guest, None, false).map_err(failed)
    }

    fn once(&self) -> bool {
        false
    }

    fn identity(&self) -> String {
        format!("microvm {}", self.recipe.key("").hex())
    }
}

/// A server of which every request gets a copy of its own.
///
/// The first start outlives the request that wanted it first: one that has less time than a start
/// takes fails, and the next one finds the template. Dropping this ends a start, and all clones.
#[derive(Debug)]
pub struct Cloned {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    host: Host,
    recipe: Recipe,
    ready: usize,
    snapshots: Option<Snapshots>,
    state: Mutex<State>,
    changed: Condvar,
    ended: Stop,
}

#[derive(Debug, Default)]
struct State {
    pool: Option<(Digest, Arc<Pool>)>,
    /// The start that runs.
    start: Option<JoinHandle<()>>,
    /// How many starts were begun, and why the last one failed if it did.
    starts: u64,
    failure: Option<(u64, Arc<MicroVmError>)>,
}

impl Cloned {
    /// A server whose template is made when it is first launched; `ready` clones are kept from then
    /// on.
    ///
    /// # Errors
    ///
    /// [`MicroVmError::Secrets`] for a recipe that has some.
    pub fn new(host: Host, recipe: Recipe, ready: usize) -> Result<Self, MicroVmError> {
        if !recipe.secrets.is_empty() {
            return Err(MicroVmError::Secrets);
        }
        let state = Mutex::default();
        let (changed, ended) = (Condvar::new(), Stop::default());
        let shared = Shared { host, recipe, ready, snapshots: None, state, changed, ended };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The same, with a template from `snapshots` if there is one, which is kept there else.
    #[must_use]
    pub fn with_snapshots(mut self, snapshots: Snapshots) -> Self {
        // Nobody shares it yet.
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.snapshots = Some(snapshots);
        }
        self
    }

    /// Whether a launch would find a template.
    ///
    /// # Errors
    ///
    /// It is not known what the host is.
    pub fn has_template(&self) -> Result<bool, MicroVmError> {
        let Shared { host, recipe, snapshots, .. } = &*self.shared;
        let key = recipe.key(&host.backend.identity()?);
        let made = self.shared.lock().pool.as_ref().is_some_and(|(known, _)| *known == key);
        Ok(made || snapshots.as_ref().is_some_and(|snapshots| snapshots.has(&key)))
    }

    /// The pool, made if it is not there or if the host is another one than it was made on.
    ///
    /// # Errors
    ///
    /// Why there is no template.
    pub fn pool(&self, deadline: Instant, cancel: &Stop) -> Result<Arc<Pool>, MicroVmError> {
        let shared = &self.shared;
        let key = shared.recipe.key(&shared.host.backend.identity()?);
        let _hook = {
            let shared = Arc::downgrade(shared);
            cancel.hook(move || {
                if let Some(shared) = shared.upgrade() {
                    // In the lock, so that it can't fall between a look at `cancel` and the wait.
                    let _state = shared.lock();
                    shared.changed.notify_all();
                }
            })
        };
        let mut state = shared.lock();
        let mut awaited = None;
        loop {
            if let Some((_, pool)) = state.pool.as_ref().filter(|(known, _)| *known == key) {
                return Ok(Arc::clone(pool));
            }
            if cancel.is_stopped() {
                return Err(MicroVmError::Cancelled);
            }
            match (&state.failure, awaited) {
                (Some((failed, error)), Some(awaited)) if awaited <= *failed => {
                    return Err(MicroVmError::Template(Arc::clone(error)));
                }
                _ => {}
            }
            if state.start.is_none() {
                shared.begin(&mut state, key)?;
            }
            awaited.get_or_insert(state.starts);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(MicroVmError::Late);
            }
            let waited = shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Forgets the clones that are ready, and the template in memory.
    pub fn rest(&self) {
        let pool = self.shared.lock().pool.take();
        drop(pool);
    }

    /// How many clones are ready, and why the last one failed if it did; `None` before the first
    /// use.
    pub fn status(&self) -> Option<(usize, Option<String>)> {
        let pool = self.shared.lock().pool.as_ref().map(|(_, pool)| Arc::clone(pool));
        pool.map(|pool| pool.status())
    }
}

impl Shared {
    /// Starts to make the template, in a thread.
    fn begin(self: &Arc<Self>, state: &mut State, key: Digest) -> Result<(), MicroVmError> {
        state.starts += 1;
        let number = state.starts;
        let shared = Arc::clone(self);
        let run = move || {
            let made = shared.make(&key);
            let mut state = shared.lock();
            match made {
                Ok(pool) => state.pool = Some((key, pool)),
                Err(error) => state.failure = Some((number, Arc::new(error))),
            }
            state.start = None;
            shared.changed.notify_all();
        };
        let thread = std::thread::Builder::new().name("osvm-template".into()).spawn(run);
        let thread = thread.map_err(|source| MicroVmError::Host { what: "a thread", source })?;
        state.start = Some(thread);
        Ok(())
    }

    fn make(&self, key: &Digest) -> Result<Arc<Pool>, MicroVmError> {
        let Self { host, recipe, snapshots, ready, ended, .. } = self;
        let kept = snapshots.as_ref().and_then(|snapshots| snapshots.load(key, recipe));
        let template = match kept {
            Some(template) => template,
            None => {
                let deadline = Instant::now() + FIRST_START;
                let template = Template::make(host, recipe, deadline, ended)?;
                if let Some(snapshots) = snapshots
                    && let Err(error) = snapshots.save(key, &template)
                {
                    let server = &recipe.name;
                    tracing::warn!(server, "the template can't be kept on the disk: {error}");
                }
                template
            }
        };
        Ok(Arc::new(Pool::new(host.clone(), template, *ready)?))
    }

    // The state is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cloned {
    fn drop(&mut self) {
        self.shared.ended.stop();
        let start = self.shared.lock().start.take();
        if let Some(start) = start {
            // Its guest was killed, so it ends at once; a panic has ended it too.
            let _ended = start.join();
        }
        self.rest();
    }
}

impl Launch for Cloned {
    fn launch(&self, deadline: Instant, cancel: &Stop) -> Result<Link, LaunchError> {
        let pool = self.pool(deadline, cancel).map_err(failed)?;
        let ready: Ready = pool.take(deadline).map_err(failed)?;
        if cancel.is_stopped() {
            return Err(LaunchError::Cancelled);
        }
        let pooled = ready.was_waiting();
        let mut guest = ready.into_guest();
        fill(&mut guest, &self.shared.recipe, deadline, cancel)?;
        link(guest, pool.template().greeting.clone(), pooled).map_err(failed)
    }

    fn once(&self) -> bool {
        true
    }

    fn identity(&self) -> String {
        format!("microvm {}", self.shared.recipe.key("").hex())
    }
}

/// Gives a guest the files of the host, as they are now.
fn fill(
    guest: &mut Guest,
    recipe: &Recipe,
    deadline: Instant,
    cancel: &Stop,
) -> Result<(), LaunchError> {
    let killer = guest.killer();
    let _hook = cancel.hook(move || killer.kill());
    match guest.fill(recipe, deadline) {
        Err(_) if cancel.is_stopped() => Err(LaunchError::Cancelled),
        filled => filled.map_err(failed),
    }
}

fn link(guest: Guest, greeting: Option<Box<RawValue>>, pooled: bool) -> Result<Link, MicroVmError> {
    let mut facts = Map::new();
    facts.insert("cid".into(), Value::from(guest.cid()));
    facts.insert("vm_pid".into(), Value::from(guest.vm_pid()));
    facts.insert("pooled".into(), Value::from(pooled));
    let (read, write, end) =
        split(guest).map_err(|source| MicroVmError::Host { what: "a descriptor", source })?;
    Ok(Link { read: Box::new(read), write: Box::new(write), greeting, end: Box::new(end), facts })
}

fn failed(error: MicroVmError) -> LaunchError {
    match error {
        MicroVmError::Cancelled => LaunchError::Cancelled,
        MicroVmError::Gone(crate::talk::Gone::Deadline)
        | MicroVmError::Workspace(WorkspaceError::Guest(crate::talk::Gone::Deadline)) => {
            LaunchError::Deadline
        }
        error => LaunchError::Failed {
            what: "cannot start a microVM".into(),
            hint: error.hint(),
            source: Some(Box::new(error)),
        },
    }
}
