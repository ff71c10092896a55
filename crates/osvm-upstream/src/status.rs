//! What `status` shows of a server.

use crate::words::Era;
use serde::Serialize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    /// Links that took the place of one that broke.
    pub restarts: u64,
    /// One broke, and another is about to be started.
    pub restarting: bool,
    /// The last time it was asked whether it lives.
    pub last_ping: Option<Ping>,
    /// Requests that were sent.
    pub requests: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Links that are up.
    pub links: Vec<LinkStatus>,
}

/// A question whether a server lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ping {
    /// When that was known, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Milliseconds that the answer took; `None` if there was none in time.
    pub answer_ms: Option<u64>,
}

impl Ping {
    pub(crate) fn now(answer: Option<Duration>) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // Before 1970 only where the clock is not set.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { unix_ms: ms(since), answer_ms: answer.map(ms) }
    }
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
