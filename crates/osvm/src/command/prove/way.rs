//! One way of starting a VM: all attempts, in guests that were started so.

use super::attempts::{self, Aim, Attempt, FLOOD};
use super::judge::{self, Finding, Told};
use super::log_watch::watching;
use super::server::Server;
use super::stage::{Runtimes, SERVER, SLOW_SECS, Stage, TOOL};
use crate::failure::Failure;
use osvm_runtime::{CallError, Cancel, ClientName, Report, Runtime, Session, ToolCall};
use osvm_vmm::Backend;
use serde_json::Value;
use serde_json::value::to_raw_value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a pool may take until it has a guest.
const POOL_PATIENCE: Duration = Duration::from_secs(120);
/// How late a call may be ended.
const SLACK: Duration = Duration::from_secs(5);

/// Name of the call that is ended.
const SLOW: &str = "too slow";
/// Name of the request behind the answer.
const LATE: &str = "request behind the answer";
/// Name of the call that makes a guest a used one.
const WARM: &str = "allowed: earlier call";

/// How a guest comes to its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// It is booted for the call.
    Cold,
    /// It was booted before.
    Pooled,
    /// It served an earlier call of the same batch.
    Reused,
}

impl Start {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Cold, Self::Pooled, Self::Reused];

    /// The word in the table.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Pooled => "pooled",
            Self::Reused => "reused",
        }
    }
}

/// What there is to start guests with.
pub(super) struct Way<'a> {
    pub(super) stage: &'a Stage,
    pub(super) server: &'a Server,
    pub(super) backend: &'a Arc<dyn Backend>,
    pub(super) start: Start,
    pub(super) aim: Aim,
    pub(super) cancel: &'a Cancel,
}

/// Starts guests this way until everything has been tried.
///
/// # Errors
///
/// Nothing could be tried.
pub(super) fn prove(way: &Way<'_>) -> Result<Vec<Finding>, Failure> {
    let runtimes = way.stage.runtimes(way.backend, way.server, way.start == Start::Pooled)?;
    let mut calls = Calls { way, runtimes: &runtimes, session: Session::default() };
    let mut findings = Vec::new();
    let open = attempts::open(way.aim);
    let report = calls.call(&runtimes.open, &attempts::arguments(&open))?;
    findings.extend(calls.judged(&report, &open));
    let closed = attempts::closed(way.aim);
    let arguments = attempts::arguments(&closed);
    let (report, lines) = watching(|| calls.call(&runtimes.closed, &arguments));
    let report = report?;
    let mut judged = calls.judged(&report, &closed);
    if let Some(flood) = judged.last_mut() {
        let (count, longest) = (&lines.count, &lines.longest);
        let (count, longest) = (count.load(Ordering::Relaxed), longest.load(Ordering::Relaxed));
        flood.require(0 < count, || "no line arrived, so nothing was shown".into());
        flood.require(count < FLOOD as usize, || format!("all {count} lines were logged"));
        flood.require(longest <= 1024, || format!("a line of {longest} bytes was logged"));
        let alive = lines.alive.load(Ordering::Relaxed);
        flood.require(!alive, || "control characters were logged".into());
    }
    findings.extend(judged);
    findings.push(calls.late()?);
    findings.push(calls.slow()?);
    Ok(findings)
}

struct Calls<'a> {
    way: &'a Way<'a>,
    runtimes: &'a Runtimes,
    session: Session,
}

impl Calls<'_> {
    /// Runs one call in a guest that was started as it should be.
    fn call(&mut self, runtime: &Runtime, arguments: &Value) -> Result<Report, Failure> {
        match self.way.start {
            Start::Cold => {}
            Start::Pooled => self.wait_for_guest()?,
            Start::Reused => {
                let warm = attempts::control(self.way.aim, WARM);
                let report = self.run(runtime, &attempts::arguments(&warm))?;
                self.ended(&report)?;
            }
        }
        self.run(runtime, arguments)
    }

    fn run(&mut self, runtime: &Runtime, arguments: &Value) -> Result<Report, Failure> {
        let Way { start, backend, cancel, .. } = self.way;
        let unwritable = |error| Failure::new("output", "no arguments").caused_by(&error);
        let arguments = to_raw_value(arguments).map_err(unwritable)?;
        let client = ClientName::new(&format!("prove/{}-{}", backend.name(), start.as_str()));
        let call = ToolCall { client, ..ToolCall::new(SERVER, TOOL, arguments) };
        let session = (*start == Start::Reused).then_some(&mut self.session);
        let (mut report, remains) = runtime.answer(&call, session, cancel);
        report.isolation.total = Some(remains.settle());
        if cancel.is_cancelled() {
            return Err(Failure::new("interrupted", "the proof was interrupted"));
        }
        Ok(report)
    }

    /// Nothing can be shown with a guest that does not run.
    fn ended(&self, report: &Report) -> Result<(), Failure> {
        match &report.outcome {
            Ok(_) => Ok(()),
            Err(error) => {
                let Way { start, backend, .. } = self.way;
                let what =
                    format!("a guest on {}, {}, did not run", backend.name(), start.as_str());
                Err(Failure::new("guest", what).caused_by(error))
            }
        }
    }

    fn wait_for_guest(&self) -> Result<(), Failure> {
        let Some(pool) = &self.runtimes.pool else { return Ok(()) };
        let begun = Instant::now();
        loop {
            let status = pool.status();
            if status.shelves.iter().any(|shelf| !shelf.idle.is_empty()) {
                return Ok(());
            }
            let failed = status.shelves.into_iter().find_map(|shelf| shelf.failure);
            let problem = failed.or_else(|| status.problems.into_iter().next());
            let problem = problem
                .or_else(|| (POOL_PATIENCE < begun.elapsed()).then(|| "it takes long".into()));
            if let Some(problem) = problem {
                return Err(Failure::new("guest", format!("the pool has no guest: {problem}")));
            }
            if self.way.cancel.is_cancelled() {
                return Err(Failure::new("interrupted", "the proof was interrupted"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn judged(&self, report: &Report, attempts: &[Attempt]) -> Vec<Finding> {
        judge::judge(&self.told(report), attempts)
    }

    fn told<'r>(&'r self, report: &'r Report) -> Told<'r> {
        let Way { stage, server, backend, start, aim, .. } = self.way;
        Told { stage, server, backend: backend.name(), start: *start, aim: *aim, report }
    }

    /// What a guest asks for when its answer is there already, nobody hears.
    fn late(&mut self) -> Result<Finding, Failure> {
        let runtimes = self.runtimes;
        let report = self.call(&runtimes.open, &attempts::late(self.way.aim, LATE))?;
        self.ended(&report)?;
        let mut finding = judge::of_call(&self.told(&report), LATE);
        let arrived = self.way.server.seen(&self.way.aim.mark(LATE)).len();
        finding.require(arrived == 0, || "the server got it".into());
        finding.require(judge::notes(&self.told(&report)).is_empty(), || {
            "the receipt says that it was served".into()
        });
        Ok(finding)
    }

    /// A call that would take for ever is ended.
    fn slow(&mut self) -> Result<Finding, Failure> {
        let slow = attempts::slow(self.way.aim, SLOW);
        let runtimes = self.runtimes;
        let begun = Instant::now();
        let report = self.call(&runtimes.slow, &attempts::arguments(&slow))?;
        let mut finding = judge::of_call(&self.told(&report), SLOW);
        let took = report.isolation.total.unwrap_or_else(|| begun.elapsed());
        let limit = Duration::from_secs(SLOW_SECS);
        // The broker gives up at the same moment as the call, and a guest that hears of it may just
        // be able to say so.
        let ended = match &report.outcome {
            Ok(_) => limit <= took,
            Err(error) => matches!(error, CallError::Deadline { .. }),
        };
        finding.require(ended, || "the call was not ended by its deadline".into());
        finding.require(took < limit + SLACK, || format!("it was ended after {took:?}"));
        let arrived = self.way.server.seen(&self.way.aim.mark(SLOW)).len();
        finding.shown(arrived == 1, || "its request never arrived".into());
        let noted = judge::notes(&self.told(&report)).len();
        finding.shown(noted == 1, || "its request is not in the receipts".into());
        Ok(finding)
    }
}
