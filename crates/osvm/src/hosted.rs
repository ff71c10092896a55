//! Calls of tools of configured servers, for commands that call without a gateway.
//!
//! ```text
//! HostedServers::find(name) ──▶ HostedServer ── one for each call ──▶ HostedTool: Hosted
//! ```
//!
//! # Invariants
//!
//! - A server is asked as a client without capabilities: nobody here answers questions.
//! - What was started for a server is kept until its entry or the isolation config says something else of
//!   it, or this is dropped.
//! - The first start of a server in a microVM takes as long as it takes, and no call's time.

use crate::context::Context;
use crate::failure::Failure;
use crate::microvm::{InMicroVm, MicroVms, outside, ready};
use crate::printer::causes;
use crate::servers::{self, Configured};
use crate::trust;
use osvm_gateway::Keeper;
use osvm_policy::{Config, Env, Life};
use osvm_protocol::tool::Annotations;
use osvm_runtime::{
    Answer, Cancel, Hosted, HostedError, HostedReply, Report, RunMode, Runtime, Site, Stage, Terms,
    ToolCall, Working,
};
use osvm_servers::{Entry, Listed, Target};
use osvm_upstream::{
    ClientFacts, Deaf, LaunchError, Outgoing, Relay, Reply, Server, Stop, UpstreamError,
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the first start of a server that lives on may take.
const FIRST_START: Duration = Duration::from_secs(300);

/// The configured servers, each started when it is first called.
#[derive(Debug)]
pub(crate) struct HostedServers {
    micro_vms: MicroVms,
    /// Whether copies are kept ready for later calls.
    keeps: bool,
    keeper: Arc<Keeper>,
    known: Mutex<BTreeMap<String, Arc<HostedServer>>>,
}

/// One server, in all the places where its tools may run.
#[derive(Debug)]
pub(crate) struct HostedServer {
    entry: Entry,
    /// What the isolation config said, as far as it makes another server of it.
    key: String,
    site: Site,
    host: Result<Option<Arc<Server>>, Failure>,
    micro_vm: Result<InMicroVm, Failure>,
    backend: Option<&'static str>,
    keeper: Arc<Keeper>,
}

impl HostedServers {
    /// Starts nothing. Only a process that `keeps` something for later calls has copies ready.
    pub(crate) fn new(context: &Context, env: &Env, keeps: bool) -> Self {
        let micro_vms = MicroVms::new(context, env);
        let keeper = Arc::new(Keeper::new(Some(trust::trust(context, env))));
        Self { micro_vms, keeps, keeper, known: Mutex::default() }
    }

    /// The server of that name; `None` where images have its tools, or nobody configured it.
    ///
    /// # Errors
    ///
    /// It is disabled, or the list can't be read.
    pub(crate) fn find(
        &self,
        context: &Context,
        config: &Config,
        name: &str,
    ) -> Result<Option<Arc<HostedServer>>, Failure> {
        let env = context.env()?;
        let listed = servers::all(context, &env)?.into_iter().find(|listed| listed.name == name);
        let Some(Listed { entry, .. }) = listed else { return Ok(None) };
        if matches!(entry.target, Target::Builtin) {
            return Ok(None);
        }
        let key = key(config, name);
        let mut known = self.lock();
        if let Some(server) = known.get(name)
            && entry.enabled
            && (&server.entry, &server.key) == (&entry, &key)
        {
            return Ok(Some(Arc::clone(server)));
        }
        // Ended before its successor starts: two of them may not share their state.
        drop(known.remove(name));
        let configured = servers::find(context, name)?;
        let server = Arc::new(self.start(context, config, configured, key)?);
        known.insert(name.to_owned(), Arc::clone(&server));
        Ok(Some(server))
    }

    fn start(
        &self,
        context: &Context,
        config: &Config,
        configured: Configured,
        key: String,
    ) -> Result<HostedServer, Failure> {
        let cache = servers::cache_dir(context, &context.env()?);
        let site = match configured.entry.target {
            Target::Http(_) => Site::Remote,
            Target::Builtin | Target::Stdio(_) => Site::Process,
        };
        let held = self.keeps.then(|| ready(config));
        let micro_vm = self.micro_vms.place(context, config, &configured, held);
        let Configured { entry, spec, .. } = configured;
        let host = spec.map(|spec| spec.map(|spec| Server::new(spec, Some(cache))));
        let backend = self.micro_vms.backend(&context.wanted(config));
        let keeper = Arc::clone(&self.keeper);
        Ok(HostedServer { entry, key, site, host, micro_vm, backend, keeper })
    }

    /// Ends all that runs, and waits until it is gone.
    pub(crate) fn shut_down(&self) {
        let known = std::mem::take(&mut *self.lock());
        for server in known.values() {
            server.shut_down();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<HostedServer>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HostedServers {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// What the isolation config says of a server, as far as it makes another server of it.
fn key(config: &Config, name: &str) -> String {
    let resolved = config.resolve(name, "");
    let memory = (resolved.memory_mb, resolved.origins.get("memory_mb"));
    let command = &resolved.server_command;
    let times = (resolved.idle, resolved.ping);
    let place = (resolved.life, &resolved.image, times, command, &resolved.workspace);
    let network = outside::key(config, name);
    format!("{memory:?} {place:?} {:?} {:?} {network}", resolved.mounts, resolved.env_vars)
}

impl HostedServer {
    /// What calls that tool of it, with these arguments.
    pub(crate) fn tool(&self, call: &ToolCall) -> HostedTool<'_> {
        #[derive(Serialize)]
        struct Params<'a> {
            name: &'a str,
            arguments: &'a RawValue,
        }
        let ToolCall { server, tool, arguments, .. } = call;
        // The text is taken over as it is: a number may have more digits than any type holds.
        let params = to_raw_value(&Params { name: tool, arguments });
        // A string and JSON can always be written.
        let params = params.unwrap_or_default();
        HostedTool { server: self, name: server.clone(), tool: tool.clone(), params }
    }

    /// The server in its microVM.
    pub(crate) fn micro_vm(&self) -> Result<&InMicroVm, Failure> {
        self.micro_vm.as_ref().map_err(Clone::clone)
    }

    fn at(&self, place: RunMode) -> Result<Option<&Arc<Server>>, Failure> {
        match place {
            RunMode::MicroVm => self.micro_vm().map(|in_vm| Some(&in_vm.server)),
            RunMode::Direct | RunMode::Remote => {
                self.host.as_ref().map(Option::as_ref).map_err(Clone::clone)
            }
            RunMode::Unikernel => Ok(None),
        }
    }

    fn shut_down(&self) {
        if let Ok(in_vm) = &self.micro_vm {
            in_vm.server.shut_down();
        }
        if let Ok(Some(server)) = &self.host {
            server.shut_down();
        }
    }
}

impl osvm_daemon::Elsewhere for HostedServer {
    fn run(&self, runtime: &Runtime, call: &ToolCall, cancel: &Cancel) -> Report {
        runtime.call_hosted(call, &self.tool(call), cancel)
    }
}

/// One call.
pub(crate) struct HostedTool<'a> {
    server: &'a HostedServer,
    name: String,
    tool: String,
    params: Box<RawValue>,
}

impl Hosted for HostedTool<'_> {
    fn site(&self) -> Site {
        self.server.site
    }

    fn annotations(&self) -> Option<Annotations> {
        #[derive(Deserialize)]
        struct Definition {
            name: String,
            #[serde(default)]
            annotations: Option<Annotations>,
        }
        let places = [RunMode::MicroVm, RunMode::Direct];
        let mut offers = places.iter().filter_map(|place| self.server.at(*place).ok()??.offer());
        let offer = offers.next()?;
        let mut tools = offer.tools.iter();
        tools.find_map(|tool| {
            let definition: Definition = serde_json::from_str(tool.get()).ok()?;
            (definition.name == self.tool).then_some(definition.annotations)?
        })
    }

    fn call(&self, terms: &Terms<'_>) -> Result<HostedReply, HostedError> {
        let place = terms.place;
        let server = self.server.at(place).map_err(|failure| of_failure(failure, place))?;
        let Some(server) = server else {
            let message = format!("server `{}` can't run in mode `{}`", self.name, place.as_str());
            return Err(error("denied", message, place == RunMode::MicroVm));
        };
        let stop = Stop::default();
        let _cancelled = {
            let stop = stop.clone();
            terms.cancel.on_cancel(move || stop.stop())
        };
        let asked = Instant::now();
        let before = server.status().starts;
        if place == RunMode::MicroVm {
            self.warm_up(&stop)?;
        }
        // What the warm-up took is not the tool's.
        let deadline = terms.deadline + asked.elapsed();
        // One that was started anew may define its tools in another way.
        let told = server.refresh_if_stale(deadline, &stop);
        told.map_err(|error| of_upstream(&error, place))?;
        self.server.keeper.check(server, &self.tool)?;
        let ear = Ear { terms, backend: self.server.backend, asked, link: Mutex::new(None) };
        let outgoing = Outgoing {
            method: "tools/call",
            params: Some(&self.params),
            client: ClientFacts::default(),
            era_wanted: None,
            relay: &ear,
        };
        let reply = server.request(&outgoing, deadline, &stop);
        let reply = reply.map_err(|error| of_upstream(&error, place))?;
        let mut answer = HostedReply::new(match reply {
            Reply::Result(result) if needs_input(&result) => {
                let message =
                    format!("server `{}` needs input, and nobody here gives it", self.name);
                return Err(error("no_input", message, false));
            }
            Reply::Result(result) => Answer::Mcp(result),
            Reply::Error(error) => Answer::McpError(error),
        });
        answer.reused = place != RunMode::Remote && server.status().starts == before;
        let link = ear.link.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let (RunMode::MicroVm, Some((facts, started, _works))) = (place, link) {
            answer.describe(&facts);
            answer.backend = self.server.backend;
            answer.boot = (!answer.reused).then_some(started);
        }
        Ok(answer)
    }
}

impl HostedTool<'_> {
    /// Has the server started for the first time, if it was not.
    fn warm_up(&self, stop: &Stop) -> Result<(), HostedError> {
        let place = RunMode::MicroVm;
        let in_vm = self.server.micro_vm().map_err(|failure| of_failure(failure, place))?;
        match in_vm.placed.life() {
            Life::Clone => in_vm.placed.warm_up(stop).map_err(|error| {
                let server = self.name.clone();
                of_upstream(&UpstreamError::Start { server, source: error }, place)
            }),
            Life::Persistent if in_vm.server.status().links.is_empty() => {
                let listed = in_vm.server.refresh(Instant::now() + FIRST_START);
                listed.map(|_| ()).map_err(|error| of_upstream(&error, place))
            }
            Life::Persistent => Ok(()),
        }
    }
}

/// What is known of a link, when it was there, and the word that its guest works for a call.
type Taken = (Map<String, Value>, Duration, Option<Working>);

/// Hears which link a call takes.
struct Ear<'a> {
    terms: &'a Terms<'a>,
    backend: Option<&'static str>,
    asked: Instant,
    /// What is known of it, when it was there, and the word that its guest works for this call.
    link: Mutex<Option<Taken>>,
}

impl Relay for Ear<'_> {
    fn link(&self, facts: &Map<String, Value>) {
        let cid = facts.get("cid").and_then(Value::as_u64);
        let cid = cid.and_then(|cid| u32::try_from(cid).ok());
        let backend = self.backend.filter(|_| self.terms.place == RunMode::MicroVm);
        self.terms.stage(Stage::Running { cid, backend });
        let works = cid.and_then(|cid| self.terms.works_in(cid));
        let link = (facts.clone(), self.asked.elapsed(), works);
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
    }

    fn progress(&self, _: &RawValue) {}

    fn log(&self, _: &RawValue) {}

    fn notification(&self, _: &str, _: Option<&RawValue>) {}

    fn ask(
        &self,
        method: &str,
        params: Option<&RawValue>,
        withdrawn: &Stop,
    ) -> Result<Box<RawValue>, Box<RawValue>> {
        Deaf.ask(method, params, withdrawn)
    }
}

/// A result of the new era that is no answer yet.
fn needs_input(result: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(default, rename = "resultType")]
        kind: Option<String>,
    }
    let kind = serde_json::from_str::<Kind>(result.get()).ok().and_then(|kind| kind.kind);
    kind.as_deref() == Some("input_required")
}

fn error(code: &'static str, message: String, isolation_failure: bool) -> HostedError {
    HostedError { code, message, causes: Vec::new(), hint: None, isolation_failure }
}

fn of_failure(failure: Failure, place: RunMode) -> HostedError {
    let Failure { message, causes, hint, .. } = failure;
    let isolation_failure = place == RunMode::MicroVm;
    HostedError { code: "server", message, causes, hint, isolation_failure }
}

fn of_upstream(trouble: &UpstreamError, place: RunMode) -> HostedError {
    let (code, start) = match trouble {
        UpstreamError::Deadline { .. } => ("timeout", false),
        UpstreamError::Start { source: LaunchError::Deadline, .. } => ("timeout", true),
        UpstreamError::Cancelled { .. } | UpstreamError::ShutDown { .. } => ("interrupted", false),
        UpstreamError::Busy { .. } => ("busy", false),
        UpstreamError::Start { .. } => ("server", true),
        _ => ("server", false),
    };
    HostedError {
        code,
        message: trouble.to_string(),
        causes: causes(trouble),
        hint: trouble.hint().map(str::to_owned),
        isolation_failure: start && place == RunMode::MicroVm,
    }
}
