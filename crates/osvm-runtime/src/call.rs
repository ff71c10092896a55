//! One tool call, from the policy to the report.
//!
//! ```text
//! Run::isolated ── error that is no isolation failure ──▶ report
//!     │ isolation failure
//!     ├── "deny" ──▶ report with the error
//!     └── "fallback" ──▶ Run::direct ──▶ report with the reason
//! ```
//!
//! The gate is asked once, when it is known that the call makes sense and before anything is
//! started for it. Whatever happens, the last thing before the report is the record.
//!
//! The report is there as soon as the answer is; what is left then, the guest above all, is in
//! [`Remains`]. [`Runtime::call`] waits for that, [`Runtime::answer`] leaves it to the caller.
//! Where the guest of a call comes from is decided in one place, `guest`.

mod guest;
mod hosted;
mod record;
mod remains;
mod session;

use crate::behalf::LongGuests;
use crate::calls::{CallLog, CallLogs, Header};
use crate::cancel::Cancel;
use crate::cids::Cids;
use crate::direct::{self, DirectError};
use crate::dirs::Dirs;
use crate::error::{CallError, Denial, Phase, chain};
use crate::exchange::{Answer, Exchange};
use crate::gate::{Gate, Permit, Question};
use crate::host::HostServices;
use crate::hosted::Hosted;
use crate::id::CallId;
use crate::images::Images;
use crate::ledger::Ledger;
use crate::pool::Pool;
use crate::recipe::Recipe;
use crate::report::{Isolation, Report, RunMode, as_millis};
use crate::tool_call::{Stage, ToolCall};
use crate::trace::Trace;
use osvm_image::{Image, Store, arguments};
use osvm_policy::{Config, ExecutionMode, OnFailure, Resolved};
use osvm_protocol::boot::BootPage;
use osvm_protocol::tool::Annotations;
use osvm_vmm::{Backend, MemoryMib};
use remains::Left;
use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

pub use remains::Remains;
pub use session::Session;

/// What a runtime is put together from.
#[derive(Debug)]
pub struct Parts {
    /// Decides about every call.
    pub config: Config,
    /// Boots the guests.
    pub backend: Arc<dyn Backend>,
    /// Serves what guests ask of the host.
    pub host: Arc<dyn HostServices>,
    /// Decides about every call, after the config.
    pub gate: Arc<dyn Gate>,
    /// Keeps a record of every call.
    pub ledger: Arc<dyn Ledger>,
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
    gate: Arc<dyn Gate>,
    ledger: Arc<dyn Ledger>,
    images: Images,
    cids: Cids,
    dirs: Dirs,
    logs: CallLogs,
    pool: Option<Arc<Pool>>,
    guests: LongGuests,
}

impl Runtime {
    /// Puts a runtime together. Touches nothing until it is used.
    pub fn new(parts: Parts) -> Self {
        let Parts { config, backend, host, gate, ledger, dirs, cids } = parts;
        let images = Images::new(Store::new(config.unikernel_dir()));
        let cids = Cids::new(&dirs.run, cids);
        let logs = CallLogs::new(&dirs.calls);
        let guests = LongGuests::default();
        Self { config, backend, host, gate, ledger, images, cids, dirs, logs, pool: None, guests }
    }

    /// The same, with guests of hosted servers that ask on behalf of calls.
    #[must_use]
    pub fn with_guests(self, guests: LongGuests) -> Self {
        Self { guests, ..self }
    }

    /// The same, with guests from a pool, and within its limits.
    #[must_use]
    pub fn with_pool(self, pool: Arc<Pool>) -> Self {
        Self { pool: Some(pool), ..self }
    }

    /// The isolation config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The image store.
    pub fn store(&self) -> &Store {
        self.images.store()
    }

    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
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
        let (mut report, remains) = self.answer(call, None, cancel);
        report.isolation.total = Some(remains.settle());
        report
    }

    /// Runs one tool call, and returns as soon as its answer is there. The call is over when the
    /// [`Remains`] have been dropped; `total_ms` ends before that.
    ///
    /// With a `session`, the guest may be the one that served its last call: see [`Session`].
    pub fn answer(
        &self,
        call: &ToolCall,
        session: Option<&mut Session>,
        cancel: &Cancel,
    ) -> (Report, Remains) {
        self.run(call, session, cancel, |run| run.outcome())
    }

    /// Runs one call of a tool that no unikernel has, where the config lets it run.
    pub fn call_hosted(&self, call: &ToolCall, hosted: &dyn Hosted, cancel: &Cancel) -> Report {
        let (mut report, remains) = self.run(call, None, cancel, |run| run.hosted(hosted));
        report.isolation.total = Some(remains.settle());
        report
    }

    fn run(
        &self,
        call: &ToolCall,
        session: Option<&mut Session>,
        cancel: &Cancel,
        outcome: impl FnOnce(&mut Run<'_>) -> Result<Answer, CallError>,
    ) -> (Report, Remains) {
        let start = Instant::now();
        let id = CallId::now();
        let span = tracing::info_span!("call", %id);
        let _entered = span.clone().entered();
        info!("executing tool '{}' from server '{}'", call.tool, call.server);
        info!("checking isolation config for {}/{}", call.server, call.tool);
        let policy = self.config.resolve(&call.server, &call.tool);
        let mut run = Run {
            runtime: self,
            call,
            id,
            start,
            // A time too far to be represented is no limit that anybody could reach.
            deadline: start.checked_add(policy.timeout).unwrap_or(start + A_YEAR),
            cancel,
            permit: None,
            began: false,
            trace: Arc::default(),
            isolation: Isolation::none(policy.mode.into()),
            isolation_failure: None,
            log: None,
            policy: &policy,
            session,
            left: Left::default(),
        };
        let outcome = run.ledger_is_ready().and_then(|()| outcome(&mut run));
        run.finish(outcome, span)
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
    /// What the gate said, once it has been asked.
    permit: Option<Permit>,
    /// Whether the tool may have done something.
    began: bool,
    trace: Arc<Trace>,
    isolation: Isolation,
    isolation_failure: Option<String>,
    log: Option<CallLog>,
    /// Guests that are kept from one call to the next, if the caller wants that.
    session: Option<&'a mut Session>,
    /// What is to be cleared away when the answer is there.
    left: Left,
}

impl Run<'_> {
    fn outcome(&mut self) -> Result<Answer, CallError> {
        match self.policy.mode {
            ExecutionMode::Unikernel => {
                info!(mode = "unikernel", "tool configured for unikernel execution mode");
                self.isolated().or_else(|error| self.without_isolation(error, Self::direct))
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

    /// Nothing runs that would leave no record.
    fn ledger_is_ready(&self) -> Result<(), CallError> {
        self.runtime.ledger.ready().map_err(CallError::Ledger)
    }

    /// Asks the gate, once.
    fn permitted(&mut self, annotations: Option<&Annotations>) -> Result<(), CallError> {
        self.still_wanted()?;
        if self.permit.is_some() {
            return Ok(());
        }
        let decided = self.runtime.gate.decide(&Question {
            call: self.id,
            client: &self.call.client,
            server: &self.call.server,
            tool: &self.call.tool,
            arguments: &self.call.arguments,
            policy: self.policy,
            deadline: self.deadline,
            cancel: self.cancel,
            annotations,
            observer: self.call.observer.as_deref(),
        });
        // Whoever waited for a person has to look up before going on.
        self.still_wanted()?;
        let permit = decided.map_err(Denial::from)?;
        if let Some(rule) = &permit.rule {
            info!(rule, "the call is permitted");
        }
        // The time of a person is not the tool's.
        self.deadline = self.deadline.checked_add(permit.waited).unwrap_or(self.deadline);
        self.permit = Some(permit);
        if self.deadline <= Instant::now() {
            return Err(CallError::Deadline { limit: self.policy.timeout, phase: Phase::Permit });
        }
        Ok(())
    }

    /// In a guest of its own.
    fn isolated(&mut self) -> Result<Answer, CallError> {
        let (recipe, annotations) = self.recipe()?;
        self.permitted(Some(&annotations))?;
        self.call.stage(Stage::Booting);
        let guest = self.guest(&recipe)?;
        let Isolation { cid, backend, .. } = self.isolation;
        self.call.stage(Stage::Running { cid, backend });
        self.began = true;
        let (called, keep) = self.run_in(guest, &recipe);
        self.isolation.call = called.outcome.is_ok().then_some(called.call);
        self.isolation.guest_memory_kb = called.usage.guest_memory_kb;
        if called.outcome.is_ok() {
            let memory_kb = called.usage.guest_memory_kb;
            info!(call_ms = as_millis(called.call), guest_memory_kb = memory_kb, "tool answered");
        }
        // A guest that broke a rule, or was killed, serves nobody any more.
        match (keep, &called.outcome, self.session.as_deref_mut()) {
            (Some(mut kept), Ok(_), Some(session)) => {
                self.left.copy_console(&mut kept);
                let boot = self.isolation.vm_boot.or(self.isolation.boot);
                session.keep(kept, &recipe.key, self.call, boot);
            }
            (Some(kept), ..) => self.left.retire(kept),
            (None, ..) => {}
        }
        called.outcome
    }

    /// What kind of guest the call needs. Nothing has been started when this fails.
    fn recipe(&self) -> Result<(Recipe, Annotations), CallError> {
        let memory = grantable(self.policy)?;
        let image = self.image()?;
        let tool = image.tools.get(&self.call.server, &self.call.tool)?;
        arguments::check(tool, &self.call.arguments)?;
        let annotations = tool.annotations;
        let backend = Arc::clone(&self.runtime.backend);
        Ok((Recipe::new(backend, image, memory, boot_page(self.policy)?), annotations))
    }

    fn image(&self) -> Result<Arc<Image>, CallError> {
        let loading = Instant::now();
        let image = self.runtime.images.load(&self.policy.unikernel_image)?;
        info!(
            path = %image.path.display(),
            digest = %image.digest,
            load_ms = as_millis(loading.elapsed()),
            "unikernel image '{}'",
            image.name
        );
        Ok(image)
    }

    /// Nothing is started for a call that nobody waits for.
    fn still_wanted(&self) -> Result<(), CallError> {
        if self.cancel.is_cancelled() { Err(CallError::Cancelled) } else { Ok(()) }
    }

    fn exchange(&self) -> Exchange<'_> {
        Exchange {
            call: self.id,
            policy: self.policy,
            arguments: &self.call.arguments,
            host: &*self.runtime.host,
            deadline: self.deadline,
            cancel: self.cancel,
            trace: &self.trace,
            cid: self.isolation.cid,
        }
    }

    /// What the config says about a call that could not be isolated; `on_host` runs it without.
    fn without_isolation(
        &mut self,
        failure: CallError,
        on_host: impl FnOnce(&mut Self) -> Result<Answer, CallError>,
    ) -> Result<Answer, CallError> {
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
                self.isolation = Isolation::none(RunMode::Direct);
                self.isolation.fallback = Some(reason);
                on_host(self)
            }
        }
    }

    /// On the host, without isolation.
    fn direct(&mut self) -> Result<Answer, CallError> {
        let name = &self.policy.unikernel_image;
        let executor = self.runtime.store().executor(name).map_err(DirectError::Executor)?;
        // The executor need not carry the tool definitions that its image carries. Where neither
        // has them, it checks the arguments alone.
        let tools = executor
            .tools
            .clone()
            .or_else(|| Some(self.runtime.images.load(name).ok()?.tools.clone()));
        let mut annotations = None;
        if let Some(tools) = tools {
            let tool = tools.get(&self.call.server, &self.call.tool)?;
            arguments::check(tool, &self.call.arguments)?;
            annotations = Some(tool.annotations);
        }
        self.permitted(annotations.as_ref())?;
        self.call.stage(Stage::Booting);
        let console = match &self.log {
            Some(log) => log.console()?,
            None => self.begin_log(|header| header.digest = Some(executor.digest.to_string()))?,
        };
        self.still_wanted()?;
        self.call.stage(Stage::Running { cid: None, backend: None });
        self.began = true;
        info!(path = %executor.path.display(), digest = %executor.digest, "executor on the host");
        let calling = Instant::now();
        let answer = direct::run(&executor, &self.exchange(), console)?;
        self.isolation.call = Some(calling.elapsed());
        info!(call_ms = as_millis(calling.elapsed()), "tool answered");
        Ok(answer)
    }

    fn header(&self) -> Header {
        Header::new(self.id, &self.call.server, &self.call.tool, self.isolation.mode.as_str())
    }

    fn begin_log(&mut self, facts: impl FnOnce(&mut Header)) -> Result<std::fs::File, CallError> {
        let mut header = self.header();
        facts(&mut header);
        let log = self.runtime.logs.begin(header)?;
        let console = log.console()?;
        self.log = Some(log);
        Ok(console)
    }

    fn finish(
        mut self,
        outcome: Result<Answer, CallError>,
        span: tracing::Span,
    ) -> (Report, Remains) {
        self.runtime.host.ended(self.id, &self.trace);
        self.isolation.total = Some(self.start.elapsed());
        let outcome = self.recorded(outcome);
        // Wrong names and arguments leave no log: they would push out those of guests.
        if self.log.is_none() && self.isolation_failure.is_some() && self.begin_log(|_| {}).is_err()
        {
            warn!("the failure is not logged for `osvm status` and `osvm logs`");
        }
        let end = remains::Ending {
            call: self.id,
            start: self.start,
            outcome: match &outcome {
                Ok(Answer::Result(_) | Answer::Mcp(_)) => "result".into(),
                Ok(Answer::ToolError(error)) => format!("tool error {}", error.code),
                Ok(Answer::McpError(_)) => "tool error".into(),
                Err(error) => chain(error),
            },
            answered: outcome.is_ok(),
            isolation_failure: self.isolation_failure,
            fell_back: self.isolation.fallback.is_some(),
            vm_pid: self.isolation.vm_pid,
        };
        let log = self.log.map(|log| (log, self.runtime.logs.clone()));
        let remains = Remains::new(self.left, end, log, span);
        (Report { call: self.id, outcome, isolation: self.isolation }, remains)
    }
}

/// What the policy asks for that can't be given is refused, not left out. Mounts are for the
/// [`HostServices`], which grant or refuse them file by file.
pub(crate) fn grantable(policy: &Resolved) -> Result<MemoryMib, Denial> {
    Ok(MemoryMib::new(policy.memory_mb)?)
}

/// What the guest is told before its first instruction.
pub(crate) fn boot_page(policy: &Resolved) -> Result<Vec<u8>, Denial> {
    let env = policy.env_vars.iter();
    let env = env.map(|(name, value)| (Cow::from(name.as_str()), Cow::from(value.as_str())));
    Ok(BootPage { env: env.collect() }.encode()?)
}

#[cfg(test)]
mod tests;
