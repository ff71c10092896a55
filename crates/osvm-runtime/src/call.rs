//! One tool call, from the policy to the report.
//!
//! ```text
//! Run::isolated ── error that is no isolation failure ──▶ report
//!     │ isolation failure
//!     ├── "deny" ──▶ report with the error
//!     └── "fallback" ──▶ Run::direct ──▶ report with the reason
//! ```

use crate::calls::{CallLog, CallLogs, End, Header};
use crate::cancel::Cancel;
use crate::cids::{CidError, Cids, Claim, Lease};
use crate::direct::{self, DirectError};
use crate::dirs::Dirs;
use crate::error::{CallError, Denial, Phase, chain};
use crate::exchange::{Answer, Exchange};
use crate::guest::Booted;
use crate::host::HostServices;
use crate::id::CallId;
use crate::report::{Isolation, Report, as_millis};
use osvm_image::{Image, Store, arguments};
use osvm_policy::{Config, ExecutionMode, OnFailure, Resolved};
use osvm_protocol::boot::BootPage;
use osvm_vmm::{Backend, ConnectError, GuestImage, MachineSpec, MemoryMib};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// What a runtime is put together from.
#[derive(Debug)]
pub struct Parts {
    /// Decides about every call.
    pub config: Config,
    /// Boots the guests.
    pub backend: Arc<dyn Backend>,
    /// Serves what guests ask of the host.
    pub host: Arc<dyn HostServices>,
    /// Where CIDs and logs are kept.
    pub dirs: Dirs,
    /// CIDs for guests of one call; [`osvm_protocol::cid::EPHEMERAL`] unless somebody needs more.
    pub cids: RangeInclusive<u32>,
}

/// Runs tool calls, each in its own guest. Several threads may call at once.
#[derive(Debug)]
pub struct Runtime {
    config: Config,
    backend: Arc<dyn Backend>,
    host: Arc<dyn HostServices>,
    store: Store,
    cids: Cids,
    dirs: Dirs,
    logs: CallLogs,
}

/// What to call.
#[derive(Clone, Debug)]
pub struct ToolCall {
    /// The server the tool belongs to.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// Its arguments.
    pub arguments: Box<RawValue>,
}

impl Runtime {
    /// Puts a runtime together. Touches nothing until it is used.
    pub fn new(parts: Parts) -> Self {
        let Parts { config, backend, host, dirs, cids } = parts;
        let store = Store::new(config.unikernel_dir());
        let cids = Cids::new(&dirs.run, cids);
        let logs = CallLogs::new(&dirs.calls);
        Self { config, backend, host, store, cids, dirs, logs }
    }

    /// The isolation config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The image store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The CIDs of guests of one call.
    pub fn cids(&self) -> &Cids {
        &self.cids
    }

    /// The logs of calls.
    pub fn logs(&self) -> &CallLogs {
        &self.logs
    }

    /// Where CIDs and logs are kept.
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// Runs one tool call. When it returns, nothing of the call is left but its log.
    pub fn call(&self, call: &ToolCall, cancel: &Cancel) -> Report {
        let start = Instant::now();
        let id = CallId::now();
        let span = tracing::info_span!("call", %id);
        let _entered = span.enter();
        let ToolCall { server, tool, .. } = call;
        info!(server, tool, "executing tool '{tool}' from server '{server}'");
        info!(config = %self.config.path().display(), "checking isolation config for {server}/{tool}");
        let policy = self.config.resolve(&call.server, &call.tool);
        let mut run = Run {
            runtime: self,
            call,
            id,
            start,
            // A time too far to be represented is no limit that anybody could reach.
            deadline: start.checked_add(policy.timeout).unwrap_or(start + A_YEAR),
            cancel,
            isolation: Isolation::none(policy.mode),
            isolation_failure: None,
            log: None,
            policy: &policy,
        };
        let outcome = run.outcome();
        run.finish(outcome)
    }
}

const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A call on its way.
struct Run<'a> {
    runtime: &'a Runtime,
    call: &'a ToolCall,
    policy: &'a Resolved,
    id: CallId,
    start: Instant,
    deadline: Instant,
    cancel: &'a Cancel,
    isolation: Isolation,
    isolation_failure: Option<String>,
    log: Option<CallLog>,
}

impl Run<'_> {
    fn outcome(&mut self) -> Result<Answer, CallError> {
        match self.policy.mode {
            ExecutionMode::Unikernel => {
                info!(mode = "unikernel", "tool configured for unikernel execution mode");
                self.isolated().or_else(|error| self.without_isolation(error))
            }
            ExecutionMode::Direct => {
                warn!(
                    mode = "direct",
                    "tool configured for direct execution mode: it runs without isolation"
                );
                self.direct()
            }
            ExecutionMode::MicroVm => {
                info!(mode = "microvm", "tool configured for microvm execution mode");
                let (server, tool) = (self.call.server.clone(), self.call.tool.clone());
                Err(Denial::MicroVm { server, tool }.into())
            }
        }
    }

    /// In a guest of its own.
    fn isolated(&mut self) -> Result<Answer, CallError> {
        let memory = self.grantable()?;
        let image = self.image()?;
        let tool = image.tools.get(&self.call.server, &self.call.tool)?;
        arguments::check(tool, &self.call.arguments)?;
        let mut lease = self.lease()?;
        let log = self.begin_log(|header| {
            header.cid = Some(lease.cid().get());
            header.image = Some(image.name.clone());
            header.digest = Some(image.digest.to_string());
        })?;
        let spec = MachineSpec {
            image: GuestImage { name: image.name, file: image.file },
            memory,
            cid: lease.cid(),
            boot_page: self.boot_page()?,
            console: log,
            lease: Some(lease.keep()),
        };
        let booting = Instant::now();
        let backend = &*self.runtime.backend;
        self.isolation.backend = Some(backend.name());
        let guest = Booted::boot(backend, &spec, self.cancel)?;
        self.isolation.vm_pid = Some(guest.vm_pid());
        self.isolation.image = Some(spec.image.name.clone());
        self.isolation.image_digest = Some(image.digest.to_string());
        lease.set_vm_pid(guest.vm_pid());
        let ready = guest.connect(self.deadline).map_err(|error| self.not_ready(error))?;
        let boot = booting.elapsed();
        self.isolation.boot = Some(boot);
        let (backend, boot_ms) = (backend.name(), as_millis(boot));
        info!(backend, vm_pid = self.isolation.vm_pid, boot_ms, "unikernel booted and ready");
        let ended = ready.call(&self.exchange());
        self.isolation.call = ended.outcome.is_ok().then_some(ended.call);
        self.isolation.guest_memory_kb = ended.usage.guest_memory_kb;
        if ended.outcome.is_ok() {
            let memory_kb = ended.usage.guest_memory_kb;
            info!(call_ms = as_millis(ended.call), guest_memory_kb = memory_kb, "tool answered");
        }
        info!(destroy_ms = as_millis(ended.destroy), "unikernel destroyed");
        ended.outcome
    }

    /// What the policy asks for that can't be given is refused, not left out.
    fn grantable(&self) -> Result<MemoryMib, Denial> {
        if !self.policy.mounts.is_empty() {
            let (server, tool) = (self.call.server.clone(), self.call.tool.clone());
            return Err(Denial::Mounts { server, tool, count: self.policy.mounts.len() });
        }
        Ok(MemoryMib::new(self.policy.memory_mb)?)
    }

    fn image(&self) -> Result<Image, CallError> {
        let loading = Instant::now();
        let image = self.runtime.store.load(&self.policy.unikernel_image)?;
        info!(
            path = %image.path.display(),
            digest = %image.digest,
            load_ms = as_millis(loading.elapsed()),
            "unikernel image '{}'",
            image.name
        );
        Ok(image)
    }

    fn lease(&mut self) -> Result<Lease, CallError> {
        self.still_wanted()?;
        let claim = Claim { call: self.id, server: &self.call.server, tool: &self.call.tool };
        let lease = match self.runtime.cids.take(claim, self.deadline, self.cancel) {
            Err(CidError::Cancelled) => return Err(CallError::Cancelled),
            lease => lease?,
        };
        self.isolation.cid = Some(lease.cid().get());
        info!(cid = lease.cid().get(), "CID taken");
        Ok(lease)
    }

    /// Nothing is started for a call that nobody waits for.
    fn still_wanted(&self) -> Result<(), CallError> {
        if self.cancel.is_cancelled() { Err(CallError::Cancelled) } else { Ok(()) }
    }

    fn boot_page(&self) -> Result<Vec<u8>, Denial> {
        let borrowed = |text: &str| Cow::<'_, str>::Owned(text.to_owned());
        let env = self.policy.env_vars.iter();
        let env = env.map(|(name, value)| (borrowed(name), borrowed(value))).collect();
        Ok(BootPage { env }.encode()?)
    }

    fn exchange(&self) -> Exchange<'_> {
        Exchange {
            call: self.id,
            policy: self.policy,
            arguments: &self.call.arguments,
            host: &*self.runtime.host,
            deadline: self.deadline,
            cancel: self.cancel,
        }
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

    /// What the config says about a call that could not be isolated.
    fn without_isolation(&mut self, failure: CallError) -> Result<Answer, CallError> {
        if !failure.is_isolation_failure() {
            return Err(failure);
        }
        // A guest that was killed while it booted looks like one that failed to.
        self.still_wanted()?;
        let reason = chain(&failure);
        self.isolation_failure = Some(reason.clone());
        match self.policy.on_isolation_failure {
            OnFailure::Deny => {
                error!(reason, "isolation failed: the call is denied");
                Err(failure)
            }
            OnFailure::Fallback => {
                warn!(reason, "isolation failed: the tool runs on the host, as configured");
                self.isolation = Isolation::none(ExecutionMode::Direct);
                self.isolation.fallback = Some(reason);
                self.direct()
            }
        }
    }

    /// On the host, without isolation.
    fn direct(&mut self) -> Result<Answer, CallError> {
        let name = &self.policy.unikernel_image;
        let executor = self.runtime.store.executor(name).map_err(DirectError::Executor)?;
        // The executor need not carry the tool definitions that its image carries. Where neither
        // has them, it checks the arguments alone.
        let tools =
            executor.tools.clone().or_else(|| Some(self.runtime.store.load(name).ok()?.tools));
        if let Some(tools) = tools {
            let tool = tools.get(&self.call.server, &self.call.tool)?;
            arguments::check(tool, &self.call.arguments)?;
        }
        let console = match &self.log {
            Some(log) => log.console()?,
            None => self.begin_log(|header| header.digest = Some(executor.digest.to_string()))?,
        };
        self.still_wanted()?;
        info!(path = %executor.path.display(), digest = %executor.digest, "executor on the host");
        let calling = Instant::now();
        let answer = direct::run(&executor, &self.exchange(), console)?;
        self.isolation.call = Some(calling.elapsed());
        info!(call_ms = as_millis(calling.elapsed()), "tool answered");
        Ok(answer)
    }

    fn begin_log(&mut self, facts: impl FnOnce(&mut Header)) -> Result<std::fs::File, CallError> {
        let mode = self.isolation.mode.as_str();
        let mut header = Header::new(self.id, &self.call.server, &self.call.tool, mode);
        facts(&mut header);
        let log = self.runtime.logs.begin(header)?;
        let console = log.console()?;
        self.log = Some(log);
        Ok(console)
    }

    fn finish(mut self, outcome: Result<Answer, CallError>) -> Report {
        let total = self.start.elapsed();
        self.isolation.total = Some(total);
        match &outcome {
            Ok(_) => info!(total_ms = as_millis(total), "call done"),
            Err(error) => error!(total_ms = as_millis(total), "call failed: {}", chain(error)),
        }
        // Wrong names and arguments leave no log: they would push out those of guests.
        if self.log.is_none() && self.isolation_failure.is_some() && self.begin_log(|_| {}).is_err()
        {
            warn!("the failure is not logged for `osvm status` and `osvm logs`");
        }
        if let Some(log) = self.log.take() {
            let end = End {
                end: self.id,
                outcome: match &outcome {
                    Ok(Answer::Result(_)) => "result".into(),
                    Ok(Answer::ToolError(error)) => format!("tool error {}", error.code),
                    Err(error) => chain(error),
                },
                fell_back: self.isolation.fallback.is_some(),
                isolation_failure: self.isolation_failure.take(),
                vm_pid: self.isolation.vm_pid,
                total_ms: as_millis(total),
            };
            // The answer is there and the guest is gone: not a reason to take the answer back.
            if let Err(error) = log.end(&end).and_then(|()| self.runtime.logs.prune()) {
                warn!("{}", chain(&error));
            }
        }
        Report { call: self.id, outcome, isolation: self.isolation }
    }
}

#[cfg(test)]
mod tests;
