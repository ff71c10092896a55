//! Where the guest of a call comes from: kept from the call before, ready in the pool, or booted.
//!
//! The one place that knows. What comes out is a guest that has accepted a connection, with the
//! facts about it in the report, and from there on all calls are alike.

use super::Run;
use super::remains::{Console, Left};
use super::session::{Kept, KeptParts};
use crate::calls::{CallLog, Header};
use crate::cids::{CidError, Claim, Lease};
use crate::error::{CallError, Phase};
use crate::exchange::Exchange;
use crate::guest::{Booted, Called, Ready, Shared};
use crate::pool::{Busy, Place, Spare, Taken, console};
use crate::recipe::Recipe;
use crate::report::as_millis;
use osvm_vmm::ConnectError;
use std::time::Instant;
use tracing::info;

/// The guest of one call.
#[derive(Debug)]
pub(super) struct Guest {
    // In this order they go: the guest, its address, its place among the VMs.
    body: Body,
    lease: Lease,
    /// Where it writes to, unless that is the log of the call.
    console: Option<Console>,
    place: Option<Place>,
}

#[derive(Debug)]
enum Body {
    Once(Ready),
    /// For the calls of one batch.
    Shared(Shared),
}

impl Guest {
    /// Runs the tool. What is to be cleared away goes to `left`; what may serve the next call of
    /// a batch comes back. `meanwhile` is done while the guest works.
    pub(super) fn call(
        self,
        exchange: &Exchange<'_>,
        left: &mut Left,
        meanwhile: impl FnOnce(&mut Lease) -> Result<(), CallError>,
    ) -> (Called, Option<KeptParts>) {
        let Self { body, mut lease, console, place } = self;
        let meanwhile = || meanwhile(&mut lease);
        match body {
            Body::Once(ready) => {
                let (called, used) = ready.call_once(exchange, meanwhile);
                left.leave(used, lease, console, place);
                (called, None)
            }
            Body::Shared(mut guest) => {
                let called = guest.call(exchange, meanwhile);
                (called, Some(KeptParts { guest, lease, console, place }))
            }
        }
    }
}

impl Run<'_> {
    /// Runs the tool in `guest`.
    ///
    /// For a guest that was there before the call, what people are told of it is written down
    /// while it works already: making the log is a third of what the host does for such a call.
    /// Where that fails the answer is not waited for, and the guest is destroyed.
    pub(super) fn run_in(&mut self, guest: Guest, recipe: &Recipe) -> (Called, Option<KeptParts>) {
        let mut left = Left::default();
        let mut log = None;
        let (called, keep) = guest.call(&self.exchange(), &mut left, |lease| {
            if self.log.is_none() {
                lease.assign(self.claim());
                log = Some(self.guest_log(recipe, lease)?);
            }
            Ok(())
        });
        self.left = left;
        self.log = self.log.take().or(log);
        (called, keep)
    }

    /// A guest that has accepted a connection.
    pub(super) fn guest(&mut self, recipe: &Recipe) -> Result<Guest, CallError> {
        let asked = Instant::now();
        // A guest that does not fit is gone before another one is asked for.
        let kept = self.session.as_deref_mut();
        if let Some(kept) = kept.and_then(|session| session.take(&recipe.key, self.call)) {
            return Ok(self.kept(kept, recipe, asked));
        }
        let place = match &self.runtime.pool {
            None => None,
            Some(pool) => {
                let server = &self.call.server;
                let taken = pool.take(recipe, server, self.deadline, self.cancel);
                let Taken { spare, place } = taken.map_err(|busy| match busy {
                    Busy::Cancelled => CallError::Cancelled,
                    busy => busy.into(),
                })?;
                if let Some(spare) = spare {
                    return Ok(self.pooled(spare, place, recipe, asked));
                }
                Some(place)
            }
        };
        self.booted(recipe, place)
    }

    /// The guest that served the last call of this batch.
    fn kept(&mut self, kept: Kept, recipe: &Recipe, asked: Instant) -> Guest {
        let Kept { parts, boot, .. } = kept;
        let KeptParts { mut guest, lease, console, place } = parts;
        guest.assign(self.cancel);
        self.isolation.reused = true;
        self.isolation.vm_boot = boot;
        self.note(recipe, &lease, guest.vm_pid(), asked);
        info!(vm_pid = guest.vm_pid(), "unikernel of this batch's last call is used again");
        Guest { body: Body::Shared(guest), lease, console, place }
    }

    /// A guest that was booted before the call came.
    fn pooled(&mut self, spare: Spare, place: Place, recipe: &Recipe, asked: Instant) -> Guest {
        let boot = spare.boot;
        let (mut ready, lease, file) = spare.into_parts();
        ready.assign(self.cancel);
        self.isolation.pooled = true;
        self.isolation.vm_boot = Some(boot);
        let vm_pid = ready.vm_pid();
        self.note(recipe, &lease, vm_pid, asked);
        info!(cid = lease.cid().get(), vm_pid, "unikernel taken from the pool");
        let console = Some(Console::new(file));
        Guest { body: self.body(ready), lease, console, place: Some(place) }
    }

    /// A guest that is booted for this call.
    fn booted(&mut self, recipe: &Recipe, place: Option<Place>) -> Result<Guest, CallError> {
        let mut lease = self.lease()?;
        let log = self.guest_log(recipe, &lease)?;
        let written_to = log.console()?;
        self.log = Some(log);
        // The log of a call is no place for what its guest writes in another one.
        let (file, console) = match self.session {
            None => (written_to, None),
            Some(_) => {
                let console = Console::new(console()?);
                (console.file()?, Some(console))
            }
        };
        let spec = recipe.spec(&lease, file)?;
        let booting = Instant::now();
        let backend = recipe.key.backend;
        self.isolation.backend = Some(backend);
        let guest = Booted::boot(&*recipe.backend, &spec, self.cancel)?;
        let vm_pid = guest.vm_pid();
        self.isolation.vm_pid = Some(vm_pid);
        self.isolation.image = Some(recipe.key.image.clone());
        self.isolation.image_digest = Some(recipe.key.digest.to_string());
        lease.set_vm_pid(vm_pid);
        let ready = guest.connect(self.deadline).map_err(|error| self.not_ready(error))?;
        let boot = booting.elapsed();
        self.isolation.boot = Some(boot);
        info!(backend, vm_pid, boot_ms = as_millis(boot), "unikernel booted and ready");
        Ok(Guest { body: self.body(ready), lease, console, place })
    }

    fn body(&self, ready: Ready) -> Body {
        match self.session {
            None => Body::Once(ready),
            Some(_) => Body::Shared(ready.share()),
        }
    }

    /// The facts about a guest that was there before the call.
    fn note(&mut self, recipe: &Recipe, lease: &Lease, vm_pid: u32, asked: Instant) {
        self.isolation.boot = Some(asked.elapsed());
        self.isolation.backend = Some(recipe.key.backend);
        self.isolation.cid = Some(lease.cid().get());
        self.isolation.vm_pid = Some(vm_pid);
        self.isolation.image = Some(recipe.key.image.clone());
        self.isolation.image_digest = Some(recipe.key.digest.to_string());
    }

    fn guest_log(&self, recipe: &Recipe, lease: &Lease) -> Result<CallLog, CallError> {
        let header = Header {
            cid: Some(lease.cid().get()),
            image: Some(recipe.key.image.clone()),
            digest: Some(recipe.key.digest.to_string()),
            ..self.header()
        };
        Ok(self.runtime.logs.begin(header)?)
    }

    fn claim(&self) -> Claim<'_> {
        Claim { call: self.id, server: &self.call.server, tool: &self.call.tool }
    }

    fn lease(&mut self) -> Result<Lease, CallError> {
        let lease = match self.runtime.cids.take(self.claim(), self.deadline, self.cancel) {
            Err(CidError::Cancelled) => return Err(CallError::Cancelled),
            lease => lease?,
        };
        self.isolation.cid = Some(lease.cid().get());
        info!(cid = lease.cid().get(), "CID taken");
        Ok(lease)
    }

    fn not_ready(&self, error: ConnectError) -> CallError {
        if self.cancel.is_cancelled() {
            return CallError::Cancelled;
        }
        match error {
            ConnectError::Deadline { .. } => {
                CallError::Deadline { limit: self.policy.timeout, phase: Phase::Boot }
            }
            error => error.into(),
        }
    }
}
