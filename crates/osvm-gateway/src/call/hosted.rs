//! Calls of tools of configured servers, on the terms of the runtime.

use crate::clock::Clock;
use crate::converse::{Trouble, converse};
use crate::fleet::Member;
use crate::voice::Voice;
use osvm_protocol::tool::Annotations;
use osvm_runtime::{Answer, Hosted, HostedError, HostedReply, RunMode, Site, Terms};
use osvm_upstream::{Reply, ServerStatus, UpstreamError};
use serde_json::value::RawValue;
use std::error::Error;

/// A tool of a configured server, called on behalf of one client.
pub(super) struct HostedTool<'a> {
    pub(super) member: &'a Member,
    pub(super) clock: &'a Clock,
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
        let before = server.status().starts;
        let reply = converse(self.voice, self.clock, server, &self.params, terms.deadline);
        let reply = reply.map_err(|trouble| failed(&trouble, terms.place))?;
        let mut answer = HostedReply::new(match reply {
            Reply::Result(result) => Answer::Mcp(result),
            Reply::Error(error) => Answer::McpError(error),
        });
        let status = server.status();
        answer.reused = terms.place != RunMode::Remote && status.starts == before;
        if terms.place == RunMode::MicroVm {
            describe(&mut answer, &status);
        }
        Ok(answer)
    }
}

/// Where a call in a microVM ran, where that is certain: there was one VM and no other.
fn describe(reply: &mut HostedReply, status: &ServerStatus) {
    let ([link], 1) = (status.links.as_slice(), status.starts) else { return };
    let number = |name: &str| u32::try_from(link.facts.get(name)?.as_u64()?).ok();
    let text = |name: &str| link.facts.get(name)?.as_str().map(str::to_owned);
    reply.cid = number("cid");
    reply.vm_pid = number("vm_pid").or_else(|| number("pid"));
    reply.image = text("image");
    reply.image_digest = text("image_digest");
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
