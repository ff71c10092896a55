//! The runtime behind the socket: the config as it is now, and the pool that follows it.
//!
//! # Invariants
//!
//! - No call runs under an outdated config: each one asks the file system whether the file has
//!   changed. A config that can't be read fails every call, as it does without a daemon.
//! - Guests of outdated images and options are destroyed, by [`Service::follow`], within a second;
//!   until then no call gets one, because a call asks for a guest of its own kind.

use crate::message::{Failure, Terms};
use osvm_runtime::cids::Cids;
use osvm_runtime::pool::Pool;
use osvm_runtime::{Cancel, Report, Runtime, ToolCall};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::{info, warn};

/// What the binary knows and the daemon does not.
pub trait Host: fmt::Debug + Send + Sync {
    /// The terms a call has to agree with to be run here.
    fn terms(&self) -> &Terms;

    /// Reads the config and puts a runtime together. The daemon gives it the pool.
    ///
    /// # Errors
    ///
    /// What the client is told instead of an answer.
    fn open(&self) -> Result<Runtime, Failure>;

    /// Who runs that call instead of the daemon's runtime alone: a call of a tool that no unikernel
    /// has. Nobody, unless the binary says otherwise.
    ///
    /// # Errors
    ///
    /// What the client is told instead of an answer.
    fn elsewhere(
        &self,
        _runtime: &Runtime,
        _call: &ToolCall,
    ) -> Result<Option<Arc<dyn Elsewhere>>, Failure> {
        Ok(None)
    }

    /// Why a new process had better take over, if one should: its program was replaced.
    fn outdated(&self) -> Option<String>;
}

/// Runs calls of tools that no unikernel has.
pub trait Elsewhere: fmt::Debug + Send + Sync {
    /// Runs one, on the terms of `runtime`.
    fn run(&self, runtime: &Runtime, call: &ToolCall, cancel: &Cancel) -> Report;
}

#[derive(Debug)]
pub(crate) struct Service {
    host: Box<dyn Host>,
    pool: Arc<Pool>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    stamp: Option<Stamp>,
    runtime: Result<Arc<Runtime>, Failure>,
    /// Where VMs are counted, also while the config is wrong.
    cids: Option<Cids>,
}

/// Whether a file is still the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64, u64),
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok()?;
        Some(Self {
            file: (metadata.dev(), metadata.ino(), metadata.size()),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Service {
    pub(crate) fn new(host: Box<dyn Host>, pool: Arc<Pool>) -> Self {
        // Before the config is read, so that a change in between shows.
        let stamp = Stamp::of(Path::new(&host.terms().config));
        let runtime = open(&*host, &pool);
        let cids = runtime.as_ref().ok().map(|runtime| runtime.cids().clone());
        Self { host, pool, current: Mutex::new(Current { stamp, runtime, cids }) }
    }

    pub(crate) fn host(&self) -> &dyn Host {
        &*self.host
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The runtime under the config as it is now.
    pub(crate) fn runtime(&self) -> Result<Arc<Runtime>, Failure> {
        let stamp = Stamp::of(Path::new(&self.host.terms().config));
        let mut current = self.lock();
        // Opening may write the file that is not there.
        if stamp.is_none() || current.stamp != stamp {
            info!(config = self.host.terms().config, "reading the isolation config again");
            current.stamp = stamp;
            current.runtime = open(&*self.host, &self.pool);
            if let Ok(runtime) = &current.runtime {
                current.cids = Some(runtime.cids().clone());
            }
        }
        current.runtime.clone()
    }

    /// Where VMs are counted; none until a config could be read.
    pub(crate) fn cids(&self) -> Option<Cids> {
        self.lock().cids.clone()
    }

    /// Lets the pool follow what has changed in the config and in the image store.
    pub(crate) fn follow(&self) {
        if let Ok(runtime) = self.runtime() {
            self.pool.adopt(runtime.plan());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(host: &dyn Host, pool: &Arc<Pool>) -> Result<Arc<Runtime>, Failure> {
    match host.open() {
        Ok(runtime) => {
            let runtime = runtime.with_pool(Arc::clone(pool));
            pool.adopt(runtime.plan());
            Ok(Arc::new(runtime))
        }
        Err(failure) => {
            warn!(message = failure.message, "no call can run");
            Err(failure)
        }
    }
}
