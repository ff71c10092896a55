//! What a line says: a call, or that a crash was made good.

use crate::line::MAX_LINE;
use osvm_runtime::{CallId, ClientName, Decision, Isolation, Reach, Record};
use serde::Serialize;
use std::time::SystemTime;

/// Longest name of a server or tool, in bytes. Longer ones are no tool's.
const MAX_NAME: usize = 256;

/// Longest explanation, in bytes.
const MAX_REASON: usize = 4096;

/// Room for all that is not a list, in bytes.
const REST: usize = 64 * 1024;

#[derive(Serialize)]
struct CallLine<'a> {
    seq: u64,
    kind: &'static str,
    time: String,
    call: CallId,
    client: &'a ClientName,
    server: &'a str,
    tool: &'a str,
    arguments: String,
    result: Option<String>,
    decision: Decision,
    rule: Option<&'a str>,
    origin: &'a str,
    exit: &'a str,
    reason: Option<&'a str>,
    isolation: &'a Isolation,
    isolation_failure: Option<&'a str>,
    reaches: &'a [Reach],
    reaches_left_out: u64,
}

/// The line of a call, unsigned.
pub(crate) fn call(record: &Record, seq: u64) -> Result<Vec<u8>, serde_json::Error> {
    let kept = as_many_as_fit(&record.reaches);
    let left_out = record.reaches.len().saturating_sub(kept.len());
    let left_out = u64::try_from(left_out).unwrap_or(u64::MAX);
    serde_json::to_vec(&CallLine {
        seq,
        kind: "call",
        time: humantime::format_rfc3339_millis(record.call.time()).to_string(),
        call: record.call,
        client: &record.client,
        server: cut(&record.server, MAX_NAME),
        tool: cut(&record.tool, MAX_NAME),
        arguments: record.arguments.to_string(),
        result: record.result.map(|digest| digest.to_string()),
        decision: record.decision,
        rule: record.rule.as_deref().map(|rule| cut(rule, MAX_REASON)),
        origin: cut(&record.origin, MAX_REASON),
        exit: cut(&record.exit, MAX_NAME),
        reason: record.reason.as_deref().map(|reason| cut(reason, MAX_REASON)),
        isolation: &record.isolation,
        isolation_failure: record.isolation_failure.as_deref().map(|text| cut(text, MAX_REASON)),
        reaches: kept,
        reaches_left_out: record.reaches_left_out.saturating_add(left_out),
    })
}

/// What a writer found that was not as it should be, and made good as far as it could be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovery {
    /// Length of the line that a crash cut off.
    pub(crate) torn_bytes: u64,
    /// Lines behind the newest one that osvm did not write.
    pub(crate) foreign_lines: u64,
    /// The head was missing or not genuine.
    pub(crate) head_lost: bool,
    /// The newest lines were missing.
    pub(crate) lines_lost: bool,
}

#[derive(Serialize)]
struct RecoveryLine {
    seq: u64,
    kind: &'static str,
    time: String,
    torn_bytes: u64,
    foreign_lines: u64,
    head_lost: bool,
    lines_lost: bool,
}

/// The line of a recovery, unsigned.
pub(crate) fn recovery(found: Recovery, seq: u64) -> Result<Vec<u8>, serde_json::Error> {
    let Recovery { torn_bytes, foreign_lines, head_lost, lines_lost } = found;
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let kind = "recovery";
    let line = RecoveryLine { seq, kind, time, torn_bytes, foreign_lines, head_lost, lines_lost };
    serde_json::to_vec(&line)
}

/// The first ones, as many as a line takes.
fn as_many_as_fit(reaches: &[Reach]) -> &[Reach] {
    let mut room = MAX_LINE - REST;
    let fitting = reaches.iter().take_while(|reach| {
        let len = serde_json::to_vec(reach).map_or(usize::MAX, |json| json.len());
        let rest = room.checked_sub(len.saturating_add(1));
        room = rest.unwrap_or(0);
        rest.is_some()
    });
    let count = fitting.count();
    reaches.get(..count).unwrap_or_default()
}

fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or_default()
}
