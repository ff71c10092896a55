//! What the agent asked for and was not given, in the receipts: a call that a rule forbids has its
//! receipt from the runtime, and what is no call has it from here.

use osvm_image::Digest;
use osvm_receipts::Receipts;
use osvm_runtime::{CallId, ClientName, Decision, Isolation, Ledger as _, Record, RunMode};
use std::sync::atomic::{AtomicU32, Ordering};

/// Refusals of one session that get receipts. An agent that asks without end fills the log only.
const MOST: u32 = 1000;

/// Who asks.
const AGENT: &str = "osvm-agent";

/// What stands for the server in such a receipt: the host itself.
const HOST: &str = "host";

/// Writes them down.
#[derive(Debug)]
pub(crate) struct Refusals {
    receipts: Receipts,
    written: AtomicU32,
}

impl Refusals {
    /// Into these receipts.
    pub(crate) fn new(receipts: Receipts) -> Self {
        Self { receipts, written: AtomicU32::new(0) }
    }

    /// One: the method that was asked for, made safe to show, and its parameters.
    pub(crate) fn write(&self, method: &str, params: &str) {
        if MOST <= self.written.fetch_add(1, Ordering::Relaxed) {
            return;
        }
        let record = Record {
            call: CallId::now(),
            client: ClientName::new(AGENT),
            server: HOST.into(),
            tool: method.into(),
            arguments: Digest::of(params.as_bytes()),
            result: None,
            decision: Decision::Deny,
            rule: None,
            origin: "what an agent is granted".into(),
            isolation: Isolation::none(RunMode::MicroVm),
            isolation_failure: None,
            exit: "denied".into(),
            reason: Some("an agent is granted nothing of the kind".into()),
            reaches: Vec::new(),
            reaches_left_out: 0,
        };
        if let Err(error) = self.receipts.write(&record) {
            tracing::warn!("a refusal has no receipt: {error}");
        }
    }
}
