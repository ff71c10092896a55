//! `tools/call`: one request, one call of the runtime, one answer.
//!
//! ```text
//! plan ──▶ Call::start ── thread ──▶ Runtime::call, call_hosted ──▶ answer, if it is still wanted
//! ```
//!
//! What the tool says, a result or an error, and what keeps osvm from running it are results that
//! the model can read. What is wrong with the request itself is an error of the protocol, and so
//! is what a configured server answers as one.

mod hosted;
mod outcome;

pub(crate) use hosted::{causes, code, hint};
pub(crate) use outcome::{ErrorObject, busy};

use crate::catalog::{Catalog, Kind, Listed};
use crate::client::{Client, Facts};
use crate::fleet::Member;
use crate::gateway::Gateway;
use crate::message::{Defect, Text, is_object, read_params};
use crate::parking::Of;
use crate::raw::{self, Object};
use crate::session::{Response, shown};
use crate::voice::{Speaking, Voice};
use hosted::HostedTool;
use osvm_runtime::{Observer, RunMode, Stage, ToolCall};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;
use std::thread;
use tracing::error;

/// A call that names a tool of the catalog.
#[derive(Debug)]
pub(crate) struct Planned {
    call: ToolCall,
    place: RunMode,
    target: Target,
}

/// Who runs it.
#[derive(Debug)]
enum Target {
    Image,
    Server {
        /// The parameters as the server gets them.
        params: Box<RawValue>,
        annotations: Option<osvm_protocol::tool::Annotations>,
    },
}

/// Finds the tool that a request names.
pub(crate) fn plan(catalog: &Catalog, params: Option<&RawValue>) -> Result<Planned, Defect> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        name: Text<'a>,
        #[serde(borrow, default)]
        arguments: Option<&'a RawValue>,
    }
    let Some(Params { name: Text(name), arguments }) = read_params(params)? else {
        return Err(Defect::params("`tools/call` needs `params` with `name`"));
    };
    // A call of one that is held back says so, with a receipt.
    let Some(listed) = catalog.get(&name).or_else(|| catalog.get_held(&name)) else {
        let mut message = format!("no tool is called `{}`", shown(&name));
        if let Some(nearest) = catalog.nearest(&name) {
            message.push_str(&format!(": did you mean `{nearest}`?"));
        }
        return Err(Defect::params(message));
    };
    let arguments = arguments.map_or_else(no_arguments, ToOwned::to_owned);
    if !is_object(&arguments) {
        return Err(Defect::params("`arguments` is not an object"));
    }
    let Listed { server, tool, place, kind, annotations, .. } = listed;
    let target = match kind {
        Kind::Image => Target::Image,
        Kind::Server => {
            // There are some: the name was in them.
            let Some(mut params) = params.and_then(Object::read) else {
                return Err(Defect::params("`params` has too many members"));
            };
            params.set("name", raw::to_raw(tool));
            Target::Server { params: params.to_raw(), annotations: *annotations }
        }
    };
    Ok(Planned { call: ToolCall::new(server, tool, arguments), place: *place, target })
}

fn no_arguments() -> Box<RawValue> {
    #[derive(Serialize)]
    struct Empty {}
    raw::to_raw(&Empty {})
}

impl Planned {
    /// What the request asks for, for when it is asked again.
    pub(crate) fn of(&self) -> Of {
        Of { method: "tools/call", name: format!("{}/{}", self.call.server, self.call.tool) }
    }

    /// The server it goes to.
    pub(crate) fn server(&self) -> &str {
        &self.call.server
    }

    /// Whether a request for it may be the repetition of one that is parked.
    pub(crate) fn may_be_parked(&self) -> bool {
        matches!(self.target, Target::Server { .. })
    }
}

/// A call that has been let through.
#[derive(Debug)]
pub(crate) struct Call {
    /// The request it answers.
    pub(crate) speaking: Speaking,
    /// What is called.
    pub(crate) planned: Planned,
    /// Who calls.
    pub(crate) client: Arc<Client>,
    /// What the client is and can do.
    pub(crate) facts: Arc<Facts>,
}

impl Call {
    /// Runs it in a thread of its own.
    pub(crate) fn start(self, gateway: &Arc<Gateway>) {
        let (era, id) = (self.facts.era, self.speaking.flight.id().clone());
        let outlet = Arc::clone(&self.speaking.outlet);
        let gateway = Arc::clone(gateway);
        let run = move || self.run(&gateway);
        if let Err(cause) = thread::Builder::new().name("call".into()).spawn(run) {
            error!(%cause, "no thread for a call");
            outlet.answer(|| true, None, &Response::new(&id, busy(era)));
        }
    }

    fn run(self, gateway: &Gateway) {
        let Self { speaking, planned, client, facts } = self;
        let of = planned.of();
        let Planned { mut call, place, target } = planned;
        let has_token = speaking.token.is_some();
        let voice = Arc::new(Voice::new(client, facts, of, speaking));
        call.client = voice.facts.name.clone();
        if has_token {
            let tool = format!("{}/{}", call.server, call.tool);
            // A server that is not started for the call has no start to tell of.
            let starts = matches!(target, Target::Image) || place == RunMode::MicroVm;
            let voice = Arc::clone(&voice);
            call.observer = Some(Arc::new(Watcher { voice, tool, place, starts }));
        }
        let report = match target {
            Target::Image => gateway.runtime.call(&call, voice.cancel()),
            Target::Server { params, annotations } => match gateway.member(&call.server) {
                Some(member) => {
                    let hosted = hosted(gateway, member, &voice, params, annotations, &call.tool);
                    gateway.runtime.call_hosted(&call, &hosted, voice.cancel())
                }
                None => {
                    voice.result(outcome::gone(&call.server, voice.facts.era));
                    return;
                }
            },
        };
        // The request is not needed any more, and may be as long as the answer.
        drop(call);
        outcome::tell(&voice, &report);
    }
}

fn hosted<'a>(
    gateway: &'a Gateway,
    member: &'a Arc<Member>,
    voice: &'a Voice,
    params: Box<RawValue>,
    annotations: Option<osvm_protocol::tool::Annotations>,
    tool: &'a str,
) -> HostedTool<'a> {
    HostedTool { gateway, member, tool, voice, params, annotations }
}

/// Tells a client what its call waits for.
#[derive(Debug)]
struct Watcher {
    voice: Arc<Voice>,
    tool: String,
    place: RunMode,
    starts: bool,
}

impl Observer for Watcher {
    fn stage(&self, stage: Stage) {
        let tool = &self.tool;
        match (stage, self.place) {
            (Stage::Asking, _) => self
                .voice
                .step(&format!("`{tool}` waits for your approval: `osvm approvals ls` shows it")),
            _ if !self.starts => {}
            (Stage::Booting, RunMode::Unikernel | RunMode::MicroVm) => {
                self.voice.step(&format!("starting a virtual machine for `{tool}`"));
            }
            (Stage::Booting, RunMode::Direct | RunMode::Remote) => {
                self.voice.step(&format!("starting `{tool}` without isolation"));
            }
            (Stage::Running { cid: Some(cid), .. }, _) => {
                self.voice.step(&format!("`{tool}` runs in a virtual machine with CID {cid}"));
            }
            (Stage::Running { cid: None, .. }, _) => {}
        }
    }
}

#[cfg(test)]
mod tests;
