//! The two lives of a server as `osvm-upstream` sees them.

use crate::clones::{Pool, Ready};
use crate::error::MicroVmError;
use crate::guest::{Guest, Host, Life};
use crate::link::split;
use crate::recipe::Recipe;
use crate::template::Template;
use osvm_image::Digest;
use osvm_upstream::{Launch, LaunchError, Link, Stop};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
    fn launch(&self, _deadline: Instant, cancel: &Stop) -> Result<Link, LaunchError> {
        // Booting takes no time; what takes time is the server's answer, which the caller awaits.
        let guest = self.host.boot(&self.recipe, Life::Persistent).map_err(failed)?;
        if cancel.is_stopped() {
            return Err(LaunchError::Cancelled);
        }
        link(guest, None).map_err(failed)
    }

    fn once(&self) -> bool {
        false
    }

    fn identity(&self) -> String {
        format!("microvm {}", self.recipe.key("").hex())
    }
}

/// A server of which every request gets a copy of its own.
#[derive(Debug)]
pub struct Cloned {
    host: Host,
    recipe: Recipe,
    ready: usize,
    pool: Mutex<Option<(Digest, Arc<Pool>)>>,
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
        Ok(Self { host, recipe, ready, pool: Mutex::new(None) })
    }

    /// The pool, made if it is not there or if the host is another one than it was made on.
    ///
    /// # Errors
    ///
    /// Why there is no template.
    pub fn pool(&self, deadline: Instant, cancel: &Stop) -> Result<Arc<Pool>, MicroVmError> {
        let key = self.recipe.key(&self.host.backend.identity()?);
        // Held while the template is made: whoever comes meanwhile waits for it.
        let mut pool = self.lock();
        if let Some((_, pool)) = pool.as_ref().filter(|(known, _)| *known == key) {
            return Ok(Arc::clone(pool));
        }
        let template = Template::make(&self.host, &self.recipe, deadline, cancel)?;
        let made = Arc::new(Pool::new(self.host.clone(), template, self.ready)?);
        *pool = Some((key, Arc::clone(&made)));
        Ok(made)
    }

    /// Forgets the template and its clones; the next launch makes another.
    pub fn rebuild(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Digest, Arc<Pool>)>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launch for Cloned {
    fn launch(&self, deadline: Instant, cancel: &Stop) -> Result<Link, LaunchError> {
        let pool = self.pool(deadline, cancel).map_err(failed)?;
        let ready: Ready = pool.take(deadline).map_err(failed)?;
        if cancel.is_stopped() {
            return Err(LaunchError::Cancelled);
        }
        link(ready.into_guest(), pool.template().greeting.clone()).map_err(failed)
    }

    fn once(&self) -> bool {
        true
    }

    fn identity(&self) -> String {
        format!("microvm {}", self.recipe.key("").hex())
    }
}

fn link(guest: Guest, greeting: Option<Box<RawValue>>) -> Result<Link, MicroVmError> {
    let mut facts = Map::new();
    facts.insert("cid".into(), Value::from(guest.cid()));
    facts.insert("vm_pid".into(), Value::from(guest.vm_pid()));
    let (read, write, end) =
        split(guest).map_err(|source| MicroVmError::Host { what: "a descriptor", source })?;
    Ok(Link { read: Box::new(read), write: Box::new(write), greeting, end: Box::new(end), facts })
}

fn failed(error: MicroVmError) -> LaunchError {
    match error {
        MicroVmError::Cancelled => LaunchError::Cancelled,
        MicroVmError::Gone(crate::talk::Gone::Deadline) => LaunchError::Deadline,
        error => LaunchError::Failed {
            what: "cannot start a microVM".into(),
            hint: error.hint(),
            source: Some(Box::new(error)),
        },
    }
}
