//! What is left of a call when its answer is there, and its end.

use crate::calls::{CallLog, CallLogs, End};
use crate::cids::Lease;
use crate::error::{CallError, chain};
use crate::guest::Used;
use crate::id::CallId;
use crate::pool::Place;
use crate::report::as_millis;
use osvm_vmm::BootError;
use std::fs::File;
use std::time::{Duration, Instant};
use tracing::{Span, error, info, warn};

use super::session::KeptParts;

/// What a call left behind. Dropping it destroys the guest, ends the log, and lets the next call
/// have the place of this one.
#[derive(Debug)]
pub struct Remains {
    left: Left,
    end: Option<Ending>,
    log: Option<(CallLog, CallLogs)>,
    span: Span,
}

/// How a call ended, as far as its log tells.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) call: CallId,
    pub(super) start: Instant,
    pub(super) outcome: String,
    pub(super) answered: bool,
    pub(super) isolation_failure: Option<String>,
    pub(super) fell_back: bool,
    pub(super) vm_pid: Option<u32>,
}

/// What is to be cleared away.
#[derive(Debug, Default)]
pub(super) struct Left {
    guest: Option<Used>,
    lease: Option<Lease>,
    /// What the guest wrote, if that is not in the log already.
    console: Option<Console>,
    place: Option<Place>,
}

/// The console of a guest that may see several calls, or none.
#[derive(Debug)]
pub(super) struct Console {
    file: File,
    /// How much of it is in the logs of earlier calls, in bytes.
    told: u64,
}

impl Console {
    /// A console that no log has seen anything of.
    pub(super) fn new(file: File) -> Self {
        Self { file, told: 0 }
    }

    /// The file, for the guest.
    pub(super) fn file(&self) -> Result<File, CallError> {
        let cannot = |source| BootError::Host { what: "a descriptor", source };
        Ok(self.file.try_clone().map_err(cannot)?)
    }

    /// What was written since the last call, for the log of this one; the rest is for the next.
    fn part(&mut self) -> Option<Self> {
        let part = Self { file: self.file.try_clone().ok()?, told: self.told };
        self.told = self.file.metadata().map_or(self.told, |metadata| metadata.len());
        Some(part)
    }
}

impl Left {
    /// The guest of a call, which is over.
    pub(super) fn leave(
        &mut self,
        guest: Used,
        lease: Lease,
        console: Option<Console>,
        place: Option<Place>,
    ) {
        *self = Self { guest: Some(guest), lease: Some(lease), console, place };
    }

    /// The guest of a batch, which has served its last call.
    pub(super) fn retire(&mut self, parts: KeptParts) {
        let KeptParts { guest, lease, console, place } = parts;
        self.leave(guest.retire(), lease, console, place);
    }

    /// What the guest of a batch wrote during the call that is over.
    pub(super) fn copy_console(&mut self, parts: &mut KeptParts) {
        self.console = parts.console.as_mut().and_then(Console::part);
    }
}

impl Remains {
    pub(super) fn new(
        left: Left,
        end: Ending,
        log: Option<(CallLog, CallLogs)>,
        span: Span,
    ) -> Self {
        Self { left, end: Some(end), log, span }
    }

    /// Ends the call; says how long all of it took.
    pub fn settle(mut self) -> Duration {
        self.end()
    }

    fn end(&mut self) -> Duration {
        let Some(end) = self.end.take() else { return Duration::ZERO };
        let _entered = self.span.enter();
        let Left { guest, lease, console, place } = std::mem::take(&mut self.left);
        if let Some(guest) = guest {
            info!(destroy_ms = as_millis(guest.destroy()), "unikernel destroyed");
        }
        drop(lease);
        drop(place);
        let total = end.start.elapsed();
        let outcome = &end.outcome;
        match end.answered {
            true => info!(total_ms = as_millis(total), "call done"),
            false => error!(total_ms = as_millis(total), "call failed: {outcome}"),
        }
        if let Some((mut log, logs)) = self.log.take() {
            if let Some(Console { file, told }) = console {
                log.append(&file, told);
            }
            let Ending { call, outcome, isolation_failure, fell_back, vm_pid, .. } = end;
            let total_ms = as_millis(total);
            let end = End { end: call, outcome, isolation_failure, fell_back, vm_pid, total_ms };
            // The answer is there and the guest is gone: not a reason to take the answer back.
            if let Err(error) = log.end(&end).and_then(|()| logs.prune()) {
                warn!("{}", chain(&error));
            }
        }
        total
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        self.end();
    }
}
