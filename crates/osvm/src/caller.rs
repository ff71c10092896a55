//! Who runs calls: the daemon, if the config keeps a pool, or this process.
//!
//! ```text
//! Caller ──line──▶ Line ── call, call, … ──▶ daemon        one connection
//!                           └─ no daemon ──▶ this process  a runtime, made when it is needed
//! ```
//!
//! # Invariants
//!
//! - A call that a daemon may have begun is never made a second time here.
//! - Isolation is the same either way: without a daemon each call boots a VM of its own.
//! - A signal ends every call that runs, wherever it runs.

use crate::approval_prompt;
use crate::context::Context;
use crate::daemon;
use crate::failure::Failure;
use crate::hosted::HostedServers;
use osvm_daemon::client::{CallReply, HangUp};
use osvm_daemon::message::{CallHead, Terms};
use osvm_daemon::{Client, ClientError};
use osvm_policy::{Config, Env, ExecutionMode, Life};
use osvm_runtime::{Cancel, Runtime, Session, ToolCall};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tracing::{debug, warn};

/// Refusals after which this process can run the call instead.
const ELSEWHERE: [&str; 4] = ["other_daemon", "daemon_protocol", "daemon_stopping", "daemon_full"];

/// Whether calls go to a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// If the config keeps a pool; without one, this process.
    AsConfigured,
    /// Yes, or there is no call.
    Daemon,
    /// No.
    Here,
}

/// Runs calls.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    context: &'a Context,
    env: Env,
    /// Until a runtime takes it.
    config: Mutex<Option<Config>>,
    runtime: OnceLock<Runtime>,
    /// Servers that no image has, as far as they were called.
    hosted: OnceLock<HostedServers>,
    /// `None`: this process runs the calls.
    terms: Option<Terms>,
    /// The same for servers that live on, which a process of one call would end with it.
    lasting: OnceLock<Terms>,
    choice: Choice,
    running: Running,
}

/// Calls one after the other, which may share a guest if they are asked to.
#[derive(Debug)]
pub(crate) struct Line<'c, 'a> {
    caller: &'c Caller<'a>,
    client: Option<Client>,
    session: Option<Session>,
}

/// The calls that run, to end them from another thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running(Arc<Mutex<Ends>>);

#[derive(Debug, Default)]
struct Ends {
    over: bool,
    last: u64,
    ends: HashMap<u64, End>,
}

/// What ends a call.
#[derive(Clone, Debug)]
enum End {
    Here(Cancel),
    Daemon(HangUp),
}

impl<'a> Caller<'a> {
    /// Decides who runs calls. Nothing is started yet.
    pub(crate) fn new(context: &'a Context, choice: Choice) -> Result<Self, Failure> {
        let env = context.env()?;
        let config = context.config(&env)?;
        let pooled = config.pool().is_some_and(|pool| pool.size > 0);
        let asked = choice == Choice::Daemon || choice == Choice::AsConfigured && pooled;
        let terms = asked.then(|| daemon::terms(context, &env));
        Ok(Self {
            context,
            env,
            config: Mutex::new(Some(config)),
            runtime: OnceLock::new(),
            hosted: OnceLock::new(),
            terms,
            lasting: OnceLock::new(),
            choice,
            running: Running::default(),
        })
    }

    /// The calls that run.
    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    /// A line of calls; with `share`, consecutive ones of one server may share a guest.
    pub(crate) fn line(&self, share: bool) -> Line<'_, 'a> {
        Line { caller: self, client: None, session: share.then(Session::default) }
    }

    /// The servers of this process, which keeps nothing ready for others.
    fn hosted(&self) -> &HostedServers {
        self.hosted.get_or_init(|| HostedServers::new(self.context, &self.env, false))
    }

    /// The terms on which the daemon runs that call; `None`: this process runs it.
    fn terms_of(&self, call: &ToolCall) -> Option<&Terms> {
        if self.terms.is_some() || self.choice != Choice::AsConfigured || !self.lives_on(call) {
            return self.terms.as_ref();
        }
        Some(self.lasting.get_or_init(|| daemon::terms(self.context, &self.env)))
    }

    /// Whether the isolation config has that server live on in a microVM.
    fn lives_on(&self, call: &ToolCall) -> bool {
        let resolve = |config: &Config| config.resolve(&call.server, &call.tool);
        let resolved = match self.runtime.get() {
            Some(runtime) => Some(resolve(runtime.config())),
            None => {
                let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
                config.as_ref().map(resolve)
            }
        };
        resolved.is_some_and(|resolved| {
            resolved.mode == ExecutionMode::MicroVm && resolved.life == Life::Persistent
        })
    }

    /// The runtime of this process.
    fn runtime(&self) -> Result<&Runtime, Failure> {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = config.take() {
            let prompt = approval_prompt::prompt(self.context.printer);
            let runtime = self.context.runtime_asking(prompt, config, &self.env)?;
            // The lock is held, so nobody else sets it meanwhile.
            let _first = self.runtime.set(runtime);
        }
        let unusable = || Failure::new("config", "the isolation config cannot be used");
        self.runtime.get().ok_or_else(unusable)
    }
}

impl Line<'_, '_> {
    /// Runs one call, and waits for its answer.
    ///
    /// # Errors
    ///
    /// [`Failure`] when nothing is known of a call.
    pub(crate) fn call(&mut self, call: &ToolCall) -> Result<CallReply, Failure> {
        let Some(terms) = self.caller.terms_of(call) else { return self.here(call) };
        match self.at_daemon(call, terms) {
            Ok(reply) => Ok(reply),
            Err(error) => {
                // Whatever went wrong, this connection is of no more use.
                self.client = None;
                let elsewhere = match &error {
                    ClientError::Refused(refusal) => ELSEWHERE.contains(&refusal.code.as_str()),
                    error => error.is_harmless(),
                };
                if !elsewhere || self.caller.choice == Choice::Daemon {
                    return Err(failure(error));
                }
                warn!("the daemon does not run the call, so osvm does it itself: {error}");
                self.here(call)
            }
        }
    }

    fn at_daemon(&mut self, call: &ToolCall, terms: &Terms) -> Result<CallReply, ClientError> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(daemon::connect(self.caller.context, &self.caller.env)?),
        };
        let running = &self.caller.running;
        let id = running.begin(End::Daemon(client.hang_up()));
        let head = CallHead {
            server: call.server.clone(),
            tool: call.tool.clone(),
            share: self.session.is_some(),
            client: call.client.clone(),
            terms: terms.clone(),
        };
        let reply = client.call(head, &call.arguments);
        running.end(id);
        if let Ok(reply) = &reply {
            debug!(call = %reply.call, isolation = reply.isolation.get(), "the daemon ran the call");
        }
        reply
    }

    fn here(&mut self, call: &ToolCall) -> Result<CallReply, Failure> {
        let runtime = self.caller.runtime()?;
        let hosted =
            self.caller.hosted().find(self.caller.context, runtime.config(), &call.server)?;
        let cancel = Cancel::default();
        let id = self.caller.running.begin(End::Here(cancel.clone()));
        let report = match (&hosted, &mut self.session) {
            (Some(server), _) => runtime.call_hosted(call, &server.tool(call), &cancel),
            (None, None) => runtime.call(call, &cancel),
            (None, Some(session)) => {
                let (mut report, remains) = runtime.answer(call, Some(session), &cancel);
                report.isolation.total = Some(remains.settle());
                report
            }
        };
        self.caller.running.end(id);
        Ok(report.into())
    }
}

impl Running {
    /// Ends all that runs, and whatever begins from now on.
    pub(crate) fn stop(&self) {
        let mut ends = self.lock();
        ends.over = true;
        ends.ends.values().for_each(End::end);
    }

    /// Whether [`Running::stop`] was called.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().over
    }

    fn begin(&self, end: End) -> u64 {
        let mut ends = self.lock();
        if ends.over {
            end.end();
        }
        ends.last += 1;
        let id = ends.last;
        ends.ends.insert(id, end);
        id
    }

    fn end(&self, id: u64) {
        self.lock().ends.remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl End {
    fn end(&self) {
        match self {
            Self::Here(cancel) => cancel.cancel(),
            Self::Daemon(hang_up) => hang_up.hang_up(),
        }
    }
}

/// What a daemon that gave no answer comes to.
pub(crate) fn failure(error: ClientError) -> Failure {
    let hint = match &error {
        ClientError::Refused(refusal) => return refusal.clone().into(),
        ClientError::Absent { .. } => Some("start it with `osvm daemon`"),
        ClientError::Foreign { .. } | ClientError::Wire(_) | ClientError::Rubbish { .. } => None,
    };
    Failure::from_error("daemon", &error, hint.map(str::to_owned))
}
