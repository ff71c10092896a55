//! What a daemon holds and does, as `osvm daemon status` shows it.
//!
//! # Invariants
//!
//! - True: VMs are counted from the locks that only living processes hold, descriptors and memory
//!   from what the kernel says about this process.

use crate::clients::Clients;
use crate::message::Failure;
use crate::service::Service;
use osvm_runtime::Report;
use osvm_runtime::cids::Holder;
use osvm_runtime::pool::PoolStatus;
use osvm_runtime::{Answer, CallError};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

/// A daemon at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DaemonStatus {
    /// Its process.
    pub pid: u32,
    /// Version of the program.
    pub version: &'static str,
    /// The isolation config it follows.
    pub config: String,
    /// Why no call can run, if none can.
    pub failure: Option<Failure>,
    /// How long it has been running, in seconds.
    pub up_secs: u64,
    /// Connections to it, this one among them.
    pub clients: usize,
    /// Calls so far.
    pub calls: CallCounts,
    /// Limits, queue and unused guests.
    pub pool: PoolStatus,
    /// Every VM of this daemon that lives.
    pub vms: Vec<VmStatus>,
    /// Descriptors it has open.
    pub open_files: usize,
    /// Its own memory, in KiB.
    pub memory_kb: Option<u64>,
}

/// Calls, by what came of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CallCounts {
    /// Under way, or waiting.
    pub running: u64,
    /// The tool answered with a result.
    pub answered: u64,
    /// The tool answered with an error.
    pub tool_errors: u64,
    /// No answer.
    pub failed: u64,
    /// Cancelled, mostly because the client hung up.
    pub cancelled: u64,
}

/// A VM of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmStatus {
    /// Its address.
    pub cid: u32,
    /// Its process; none while it is being started.
    pub vm_pid: Option<u32>,
    /// Whether it is unused.
    pub idle: bool,
    /// What it serves as `server/tool`; the image of an unused one.
    pub tool: String,
    /// The call it serves.
    pub call: Option<String>,
    /// For how long it has had its address for this purpose, in ms.
    pub since_ms: Option<u64>,
}

/// Counts calls, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    running: AtomicU64,
    answered: AtomicU64,
    tool_errors: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
}

impl Counters {
    pub(crate) fn begin(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self, report: &Report) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        let counter = match &report.outcome {
            Ok(Answer::Result(_) | Answer::Mcp(_)) => &self.answered,
            Ok(Answer::ToolError(_) | Answer::McpError(_)) => &self.tool_errors,
            Err(CallError::Cancelled) => &self.cancelled,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> CallCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CallCounts {
            running: load(&self.running),
            answered: load(&self.answered),
            tool_errors: load(&self.tool_errors),
            failed: load(&self.failed),
            cancelled: load(&self.cancelled),
        }
    }
}

impl VmStatus {
    fn new(holder: Holder) -> Self {
        let age = holder.since.and_then(|since| SystemTime::now().duration_since(since).ok());
        Self {
            cid: holder.cid.get(),
            vm_pid: holder.vm_pid,
            idle: holder.idle,
            tool: holder.tool,
            call: holder.call.map(|call| call.to_string()),
            since_ms: age.and_then(|age| u64::try_from(age.as_millis()).ok()),
        }
    }
}

/// Looks at everything.
pub(crate) fn status(
    service: &Service,
    clients: &Clients,
    since: Instant,
) -> Result<DaemonStatus, Failure> {
    let pid = std::process::id();
    let failure = service.runtime().err();
    let holders = match service.cids() {
        Some(cids) => cids.list().map_err(|error| Failure::new("cids", &error, error.hint()))?,
        None => Vec::new(),
    };
    let own = holders.into_iter().filter(|holder| holder.pid == Some(pid));
    Ok(DaemonStatus {
        pid,
        version: env!("CARGO_PKG_VERSION"),
        config: service.host().terms().config.clone(),
        failure,
        up_secs: since.elapsed().as_secs(),
        clients: clients.count(),
        calls: clients.counters().counts(),
        pool: service.pool().status(),
        vms: own.map(VmStatus::new).collect(),
        open_files: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        memory_kb: memory_kb(),
    })
}

/// Resident memory that is not shared with anybody, from proc_pid_status(5).
fn memory_kb() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}
