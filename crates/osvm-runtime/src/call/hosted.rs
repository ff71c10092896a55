//! A call of a tool that no unikernel has: where it may run, and what is told about it.
//!
//! ```text
//! remote ───────────────────────────────▶ on the server
//! program ── "microvm" ─────────────────▶ in a microVM ── isolation failure, "fallback" ─▶ host
//!    ├────── "direct" ──────────────────▶ on the host
//!    └────── anything else ─▶ denied
//! ```

use super::Run;
use crate::error::{CallError, Denial, Phase};
use crate::exchange::Answer;
use crate::hosted::{Hosted, HostedReply, Site, Terms};
use crate::report::{RunMode, as_millis};
use crate::tool_call::Stage;
use osvm_policy::ExecutionMode;
use std::time::Instant;
use tracing::{info, warn};

impl Run<'_> {
    pub(super) fn hosted(&mut self, hosted: &dyn Hosted) -> Result<Answer, CallError> {
        let place = self.place(hosted.site())?;
        self.isolation.mode = place;
        self.permitted(hosted.annotations().as_ref())?;
        match self.hosted_in(hosted, place) {
            Err(failure) if place == RunMode::MicroVm => {
                self.without_isolation(failure, |run| run.hosted_in(hosted, RunMode::Direct))
            }
            outcome => outcome,
        }
    }

    fn place(&self, site: Site) -> Result<RunMode, Denial> {
        match (site, self.policy.mode) {
            (Site::Remote, _) => {
                info!(mode = "remote", "tool of a server that runs elsewhere");
                Ok(RunMode::Remote)
            }
            (Site::Process, ExecutionMode::MicroVm) => {
                info!(mode = "microvm", "tool configured for microvm execution mode");
                Ok(RunMode::MicroVm)
            }
            (Site::Process, ExecutionMode::Direct) => {
                warn!(
                    mode = "direct",
                    "tool configured for direct execution mode: it runs without isolation"
                );
                Ok(RunMode::Direct)
            }
            (Site::Process, ExecutionMode::Unikernel) => {
                let (server, tool) = (self.call.server.clone(), self.call.tool.clone());
                Err(Denial::NotUnikernel { server, tool })
            }
        }
    }

    fn hosted_in(&mut self, hosted: &dyn Hosted, place: RunMode) -> Result<Answer, CallError> {
        if self.log.is_none() {
            self.begin_log(|_| {})?;
        }
        self.still_wanted()?;
        self.call.stage(Stage::Booting);
        self.began = true;
        let asked = Instant::now();
        let reply = hosted.call(&Terms {
            call: self.id,
            policy: self.policy,
            place,
            deadline: self.deadline,
            cancel: self.cancel,
            observer: self.call.observer.as_deref(),
            trace: &self.trace,
            guests: &self.runtime.guests,
        });
        let took = asked.elapsed();
        let HostedReply { answer, cid, vm_pid, backend, image, image_digest, boot, pooled, reused } =
            match reply {
                Ok(reply) => reply,
                Err(_) if self.cancel.is_cancelled() => return Err(CallError::Cancelled),
                Err(error) if error.code == TIMEOUT => {
                    let limit = self.policy.timeout;
                    return Err(CallError::Deadline { limit, phase: Phase::Tool });
                }
                Err(error) => return Err(error.into()),
            };
        let isolation = &mut self.isolation;
        (isolation.cid, isolation.vm_pid, isolation.backend) = (cid, vm_pid, backend);
        (isolation.image, isolation.image_digest) = (image, image_digest);
        (isolation.boot, isolation.pooled, isolation.reused) = (boot, pooled, reused);
        let call = took.saturating_sub(boot.unwrap_or_default());
        isolation.call = Some(call);
        info!(call_ms = as_millis(call), cid, backend, "tool answered");
        Ok(answer)
    }
}

/// The code of a hosted call that reached its deadline, told as that of any other call.
const TIMEOUT: &str = "timeout";
