//! What `status` shows of a server.

use crate::words::Era;
use serde::Serialize;
use std::time::Duration;

/// One server, as it is now. Everything in it happened.
#[derive(Clone, Debug, Serialize)]
pub struct ServerStatus {
    /// What the user calls it.
    pub name: String,
    /// The era it was found to speak, this time or before.
    pub era: Option<Era>,
    /// Whether it is let through.
    pub breaker: BreakerState,
    /// Starts and deaths in a row that nothing good came between.
    pub failures: u32,
    /// Links that were made.
    pub starts: u64,
    /// Links that broke by themselves.
    pub deaths: u64,
    /// Requests that were sent.
    pub requests: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Links that are up.
    pub links: Vec<LinkStatus>,
}

/// One link.
#[derive(Clone, Debug, Serialize)]
pub struct LinkStatus {
    /// What is spoken on it.
    pub era: Era,
    /// The revision.
    pub version: String,
    /// Requests that wait for their answer.
    pub in_flight: usize,
    /// Lines that were no JSON and were skipped.
    pub skipped: u64,
    /// What its maker knows: a process id, a CID.
    pub facts: serde_json::Map<String, serde_json::Value>,
}

/// A circuit breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Requests go through.
    Closed,
    /// None does for this long.
    Open(Duration),
    /// The next one decides.
    HalfOpen,
}
