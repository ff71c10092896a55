//! Calls of tools of configured servers, on the terms of the runtime.

use crate::converse::{Trouble, converse};
use crate::fleet::Member;
use crate::gateway::Gateway;
use crate::trust::held_back;
use crate::voice::Voice;
use osvm_protocol::tool::Annotations;
use osvm_runtime::{Answer, Hosted, HostedError, HostedReply, RunMode, Site, Stage, Terms};
use osvm_upstream::{Reply, Stop, UpstreamError};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A tool of a configured server, called on behalf of one client.
pub(super) struct HostedTool<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) member: &'a Member,
    /// What the server calls it.
    pub(super) tool: &'a str,
    pub(super) voice: &'a Voice,
    /// The parameters of `tools/call`, with the server's own name of the tool.
    pub(super) params: Box<RawValue>,
    pub(super) annotations: Option<Annotations>,
}

impl Hosted for HostedTool<'_> {
    fn site(&self) -> Site {
        self.member.site()
    }

    fn annotations(&self) -> Option<Annotations> {
        self.annotations
    }

    /// Waits for the client as long as it is asked something, beyond the deadline too: a person
    /// takes longer than a tool.
    fn call(&self, terms: &Terms<'_>) -> Result<HostedReply, HostedError> {
        let Some(server) = self.member.at(terms.place) else {
            return Err(no_place(self.member.name(), terms.place));
        };
        let before = server.starts();
        self.believed(terms)?;
        let asked = Instant::now();
        let link = Mutex::new(None);
        let taken = |facts: &Map<String, Value>| {
            let cid = facts.get("cid").and_then(Value::as_u64);
            let cid = cid.and_then(|cid| u32::try_from(cid).ok());
            terms.stage(Stage::Running { cid, backend: self.member.backend(terms.place) });
            let started = (facts.clone(), asked.elapsed(), cid.and_then(|cid| terms.works_in(cid)));
            *link.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        };
        let (clock, params) = (&self.gateway.clock, &self.params);
        let reply = converse(self.voice, clock, server, params, terms.deadline, &taken);
        let reply = reply.map_err(|trouble| failed(&trouble, terms.place))?;
        let mut answer = HostedReply::new(match reply {
            Reply::Result(result) => Answer::Mcp(result),
            Reply::Error(error) => Answer::McpError(error),
        });
        answer.reused = terms.place != RunMode::Remote && server.starts() == before;
        let link = link.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let (RunMode::MicroVm, Some((facts, started, _working))) = (terms.place, link) {
            answer.describe(&facts);
            answer.backend = self.member.backend(terms.place);
            answer.boot = (!answer.reused).then_some(started);
        }
        Ok(answer)
    }
}

impl HostedTool<'_> {
    /// Whether the definition of the tool is believed, as the server says it now.
    fn believed(&self, terms: &Terms<'_>) -> Result<(), HostedError> {
        let (server, tool) = (self.member.name(), self.tool);
        if let Some(to_ask) = self.member.to_ask() {
            let stop = Stop::default();
            let _cancelled = {
                let stop = stop.clone();
                terms.cancel.on_cancel(move || stop.stop())
            };
            let asked = to_ask.refresh_if_stale(terms.deadline, &stop);
            if asked.map_err(|error| failed(&error.into(), terms.place))? {
                self.gateway.refresh();
            }
        }
        self.gateway.doubt(server, tool).map_or(Ok(()), |doubt| Err(held_back(server, tool, doubt)))
    }
}

/// The config wants a microVM, and nothing here runs them.
fn no_place(server: &str, place: RunMode) -> HostedError {
    HostedError {
        code: "denied",
        message: format!("server `{server}` can't run in mode `{}` here", place.as_str()),
        causes: Vec::new(),
        hint: (place == RunMode::MicroVm).then(|| {
            "build an image for it, or set `\"execution_mode\": \"direct\"` to run it on the \
             host without isolation"
                .into()
        }),
        isolation_failure: true,
    }
}

/// The word for programs, for a request that no server answered.
pub(crate) fn code(trouble: &Trouble) -> &'static str {
    match trouble {
        Trouble::TimeUp { .. } | Trouble::Upstream(UpstreamError::Deadline { .. }) => "timeout",
        Trouble::Upstream(UpstreamError::Cancelled { .. } | UpstreamError::ShutDown { .. }) => {
            "interrupted"
        }
        Trouble::Upstream(UpstreamError::Busy { .. }) => "busy",
        Trouble::Upstream(_) => "server",
        Trouble::NoInput { .. } => "no_input",
    }
}

/// What the user can do about it.
pub(crate) fn hint(trouble: &Trouble) -> Option<&str> {
    match trouble {
        Trouble::Upstream(error) => error.hint(),
        Trouble::TimeUp { .. } | Trouble::NoInput { .. } => None,
    }
}

/// All causes of an error, outermost first.
pub(crate) fn causes(error: &dyn Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    causes
}

fn failed(trouble: &Trouble, place: RunMode) -> HostedError {
    // What could not be started has not isolated anything; what was started has.
    let start = matches!(trouble, Trouble::Upstream(UpstreamError::Start { .. }));
    HostedError {
        code: code(trouble),
        message: trouble.to_string(),
        causes: causes(trouble),
        hint: hint(trouble).map(str::to_owned),
        isolation_failure: start && place == RunMode::MicroVm,
    }
}
