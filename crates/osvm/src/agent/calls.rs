//! The calls of a session, as far as the agent and the envelopes of the gateway tell.

use super::words;
use osvm_agent::{Event, PlannedCall};
use osvm_runtime::cids::Holder;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::time::Instant;

/// Calls that are remembered.
const MOST: usize = 500;

/// Calls that run at once, as far as they are shown.
const MOST_RUNNING: usize = 64;

/// Longest arguments that are shown, in letters.
const ARGUMENTS: usize = 160;

/// Calls that run, and those that are over.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    planned: VecDeque<PlannedCall>,
    /// Whether the newest plan is a model's, which reads what its calls say.
    by_model: bool,
    running: Vec<Running>,
    done: VecDeque<Done>,
}

/// A call that runs.
#[derive(Debug)]
pub(crate) struct Running {
    id: String,
    /// The tool, as clients call it.
    pub(crate) name: String,
    /// Where it runs, as planned.
    pub(crate) place: String,
    /// What it said last of how far it is.
    pub(crate) progress: String,
    /// Since when.
    pub(crate) since: Instant,
    /// CIDs of the guests that run its tool now; several where several calls do.
    pub(crate) cids: Vec<u32>,
}

/// A call that is over.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// The tool.
    pub(crate) name: String,
    /// Whether it failed.
    pub(crate) is_error: bool,
    /// How it was isolated.
    pub(crate) isolation: Isolation,
    /// The beginning of what it said.
    pub(crate) text: String,
    /// Bytes of the whole result.
    pub(crate) bytes: usize,
    /// Whether a model asked for it.
    by_model: bool,
}

/// `isolation` of the envelope, as far as people are told.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Isolation {
    mode: Option<String>,
    cid: Option<u32>,
    total_ms: Option<f64>,
}

impl Isolation {
    fn read(isolation: Option<&RawValue>) -> Self {
        let read = isolation.map(|isolation| serde_json::from_str(isolation.get()));
        read.and_then(Result::ok).unwrap_or_default()
    }

    /// Where it ran, in words.
    pub(crate) fn words(&self) -> String {
        let Self { mode, cid, total_ms } = self;
        let mut words = match mode {
            Some(mode) => words::brief(mode, 16),
            None => "not run".to_owned(),
        };
        if let Some(cid) = cid {
            words.push_str(&format!(", CID {cid}"));
        }
        if let Some(ms) = total_ms {
            words.push_str(&format!(", {ms:.0} ms"));
        }
        words
    }
}

impl Calls {
    /// Takes an event; a call that ended with it is returned.
    pub(crate) fn take(&mut self, event: &Event, now: Instant) -> Option<Done> {
        match event {
            Event::Plan { calls, by_model } => {
                self.by_model = *by_model;
                self.planned.extend(calls.iter().take(MOST).cloned());
                while MOST < self.planned.len() {
                    self.planned.pop_front();
                }
                None
            }
            Event::CallStarted { id } => {
                self.start(id, now);
                None
            }
            Event::CallProgress { id, message } => {
                let running = self.running.iter_mut().find(|call| call.id == *id);
                if let Some(call) = running {
                    call.progress = words::brief(message, ARGUMENTS);
                }
                None
            }
            Event::CallEnded { id, is_error, text, bytes, isolation } => {
                let at = self.running.iter().position(|call| call.id == *id)?;
                let call = self.running.remove(at);
                let done = Done {
                    name: call.name,
                    is_error: *is_error,
                    isolation: Isolation::read(isolation.as_deref()),
                    text: words::clean(text),
                    bytes: *bytes,
                    by_model: self.by_model,
                };
                self.done.push_back(done.clone());
                if MOST < self.done.len() {
                    self.done.pop_front();
                }
                Some(done)
            }
            _ => None,
        }
    }

    fn start(&mut self, id: &str, now: Instant) {
        // The newest plan counts: a model may use an id again.
        let planned = self.planned.iter().rev().find(|call| call.id == id);
        let (name, mode) = match planned {
            Some(call) => (call.name.clone(), call.mode.clone()),
            // What no plan named is a tool of the agent's own, which runs nowhere.
            None => return,
        };
        if self.running.len() < MOST_RUNNING {
            self.running.push(Running {
                id: id.to_owned(),
                name: words::brief(&name, 80),
                place: words::brief(mode.as_deref().unwrap_or("?"), 16),
                progress: String::new(),
                since: now,
                cids: Vec::new(),
            });
        }
    }

    /// Says which guests run now: whatever holds a CID for the same tool runs one of its calls.
    pub(crate) fn see(&mut self, guests: &[Holder], own: u32) {
        for call in &mut self.running {
            let runs = |guest: &&Holder| {
                guest.pid == Some(own)
                    && guest.vm_pid.is_some()
                    && guest.tool.replacen('/', "__", 1) == call.name
            };
            call.cids = guests.iter().filter(runs).map(|guest| guest.cid.get()).collect();
        }
    }

    /// Ends what nobody tells of any more.
    pub(crate) fn forget_running(&mut self) {
        self.running.clear();
        self.planned.clear();
    }

    /// Those that run, oldest first.
    pub(crate) fn running(&self) -> &[Running] {
        &self.running
    }

    /// All of them, in words.
    pub(crate) fn list(&self) -> String {
        let mut lines: Vec<String> = self.done.iter().map(Done::words).collect();
        lines.extend(self.running.iter().map(|call| format!("… {}: runs", call.name)));
        if lines.is_empty() { "no calls yet".to_owned() } else { lines.join("\n") }
    }
}

impl Done {
    /// One line of it.
    pub(crate) fn words(&self) -> String {
        let mark = if self.is_error { "✗" } else { "✓" };
        format!("{mark} {}: {}, {} bytes", self.name, self.isolation.words(), self.bytes)
    }

    /// Why it failed, if nobody else says so: without a model the result is the answer.
    pub(crate) fn why(&self) -> Option<String> {
        (self.is_error && self.by_model).then(|| format!("  {}", words::brief(&self.text, 300)))
    }
}

/// A planned call on one line.
pub(crate) fn planned(call: &PlannedCall) -> String {
    let name = words::brief(&call.name, 80);
    let arguments = words::brief(call.arguments.get(), ARGUMENTS);
    let place = words::brief(call.mode.as_deref().unwrap_or("?"), 16);
    let asks = if call.needs_approval { ", may destroy something" } else { "" };
    format!("{name} {arguments} ({place}{asks})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_call_runs_from_its_start_to_its_end() {
        let mut calls = Calls::default();
        let now = Instant::now();
        calls.take(
            &event(
                r#"{"plan":{"calls":[{"id":"a","name":"s__t","arguments":{},
            "mode":"unikernel","needs_approval":false}],"by_model":true}}"#,
            ),
            now,
        );
        assert!(calls.running().is_empty());
        calls.take(&event(r#"{"call_started":{"id":"a"}}"#), now);
        assert_eq!((calls.running()[0].name.as_str(), calls.running().len()), ("s__t", 1));
        let ended = event(
            r#"{"call_ended":{"id":"a","is_error":false,"text":"x\u001b","bytes":2,
            "isolation":{"mode":"unikernel","cid":200,"total_ms":12.3}}}"#,
        );
        let done = calls.take(&ended, now).unwrap();
        assert_eq!(done.words(), "✓ s__t: unikernel, CID 200, 12 ms, 2 bytes");
        assert_eq!(done.text, "x\\u001b");
        assert!(calls.take(&ended, now).is_none() && calls.running().is_empty());
        assert_eq!(calls.list(), "✓ s__t: unikernel, CID 200, 12 ms, 2 bytes");
    }

    #[test]
    fn a_call_that_nobody_planned_is_not_shown() {
        let mut calls = Calls::default();
        calls.take(&event(r#"{"call_started":{"id":"x"}}"#), Instant::now());
        assert!(calls.running().is_empty());
    }
}
