//! The agent's stream on the host: what it asks goes where it may, what it tells is shown and kept.
//!
//! ```text
//! agent lines ─┬─ answer to us ───────▶ whoever waits ([`Supervisor::prompt`], …)
//!              ├─ agent/event ────────▶ SessionLog, Terminal
//!              ├─ agent/confirm ──────▶ Terminal (a thread)
//!              ├─ host/model ─────────▶ Models (a thread) ──▶ model/piece, answer
//!              ├─ notifications/cancelled ─▶ Models, gateway
//!              ├─ tools/list, tools/call ──▶ gateway, as it is
//!              └─ anything else ──────▶ refused
//! gateway lines ──────────────────────▶ agent, as they are
//! ```

mod lines;

use crate::models::Models;
use crate::sessions::SessionLog;
use lines::{Line, Writer, read_line};
use osvm_agent::{Event, Provider, Start};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{BufReader, Read, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use tracing::{debug, warn};

/// Requests of models on their way at once.
const MOST_MODELS: usize = 4;

/// Longest parameters of an event, in bytes; what is longer is not shown, but the session goes on.
const MAX_EVENT: usize = 16 * 1024 * 1024;

/// Longest message the agent is sent, in bytes: what one frame to a guest holds, less its wrapping.
const MAX_TO_AGENT: usize = 10 * 1024 * 1024 - 64 * 1024;

/// What the agent calls itself, towards the gateway and in receipts.
const NAME: &str = "osvm-agent";

/// Code of what the host refuses.
const DENIED: i64 = 1203;
/// Code of what is longer than an agent takes.
const TOO_LONG: i64 = 1205;
/// Code of a model that can't be reached.
const NO_MODEL: i64 = 1204;

/// Shows what happens, and asks the person.
pub trait Terminal: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event);

    /// Whether a plan of `calls` calls, which was shown, is to run.
    fn confirm(&self, calls: u32) -> bool;

    /// The agent asked for what it is not granted: the method, made safe to show, and its parameters.
    fn refused(&self, method: &str, params: &str);

    /// The agent is gone; nothing more comes.
    fn gone(&self);
}

/// The two ends of the agent's stream.
pub struct AgentLink {
    /// What the agent writes.
    pub read: Box<dyn Read + Send>,
    /// What the agent reads.
    pub write: Box<dyn Write + Send>,
}

/// The two ends of a session with the gateway.
pub struct GatewayLink {
    /// What the gateway writes.
    pub read: Box<dyn Read + Send>,
    /// What the gateway reads.
    pub write: Box<dyn Write + Send>,
}

impl fmt::Debug for AgentLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentLink")
    }
}

impl fmt::Debug for GatewayLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatewayLink")
    }
}

/// What a supervisor is put together from.
#[expect(missing_debug_implementations, reason = "a terminal says nothing of itself")]
pub struct Parts {
    /// The agent.
    pub agent: AgentLink,
    /// The tools.
    pub gateway: GatewayLink,
    /// The model, if there is one.
    pub models: Option<Arc<dyn Models>>,
    /// The person.
    pub terminal: Arc<dyn Terminal>,
    /// Where the conversation is kept, if it is.
    pub log: Option<SessionLog>,
}

/// Why the agent did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The agent's number for it; 0 when the agent is gone.
    pub code: i64,
    /// In words.
    pub message: String,
}

impl Failure {
    /// The person ended it.
    pub const CANCELLED: i64 = 1200;

    fn gone() -> Self {
        Self { code: 0, message: "the agent is gone".into() }
    }
}

/// The host's end of one agent.
#[derive(Debug)]
pub struct Supervisor {
    desk: Arc<Desk>,
}

struct Desk {
    agent: Writer,
    gateway: Writer,
    models: Option<Arc<dyn Models>>,
    terminal: Arc<dyn Terminal>,
    log: Mutex<Option<SessionLog>>,
    state: Mutex<State>,
    last: AtomicU64,
    running: AtomicUsize,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("models", &self.models).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// Requests of ours, by number.
    waiting: HashMap<u64, Sender<Result<Box<RawValue>, Failure>>>,
    /// Ids of model requests that the agent gave up.
    given_up: HashSet<String>,
    /// Ids of model requests on their way.
    asked: HashSet<String>,
    gone: bool,
}

#[derive(Deserialize)]
struct RpcError {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

impl Supervisor {
    /// Begins to serve the agent, and starts it.
    ///
    /// # Errors
    ///
    /// [`Failure`] when the agent does not start.
    pub fn start(parts: Parts, start: &Start) -> Result<Self, Failure> {
        let Parts { agent, gateway, models, terminal, log } = parts;
        let desk = Arc::new(Desk {
            agent: Writer::new(agent.write),
            gateway: Writer::new(gateway.write),
            models,
            terminal,
            log: Mutex::new(log),
            state: Mutex::default(),
            last: AtomicU64::new(0),
            running: AtomicUsize::new(0),
        });
        let no_thread = |_| Failure { code: 0, message: "the host has no more threads".into() };
        let hearing = Arc::clone(&desk);
        let hear = move || hearing.hear_agent(BufReader::new(agent.read));
        thread::Builder::new().name("agent".into()).spawn(hear).map_err(no_thread)?;
        let hearing = Arc::clone(&desk);
        let hear = move || hearing.hear_gateway(BufReader::new(gateway.read));
        thread::Builder::new().name("agent-tools".into()).spawn(hear).map_err(no_thread)?;
        let supervisor = Self { desk };
        supervisor.ask("agent/start", start)?;
        Ok(supervisor)
    }

    /// Has the agent answer a prompt.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn prompt(&self, text: &str) -> Result<Box<RawValue>, Failure> {
        self.ask("agent/prompt", &Text { text })
    }

    /// Has the agent say what it would call first.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn plan(&self, text: &str) -> Result<Box<RawValue>, Failure> {
        self.ask("agent/plan", &Text { text })
    }

    /// Calls a tool by hand.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn call(
        &self,
        server: &str,
        tool: &str,
        arguments: &RawValue,
    ) -> Result<Box<RawValue>, Failure> {
        #[derive(Serialize)]
        struct Call<'a> {
            server: &'a str,
            tool: &'a str,
            arguments: &'a RawValue,
        }
        self.ask("agent/call", &Call { server, tool, arguments })
    }

    /// Forgets the conversation.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn clear(&self) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Nothing {}
        self.ask("agent/clear", &Nothing {}).map(drop)
    }

    /// Ends what the agent works on, its calls and their virtual machines among it.
    pub fn cancel(&self) {
        self.desk.agent.line(r#"{"jsonrpc":"2.0","method":"agent/cancel"}"#);
    }

    /// Whether the agent is gone.
    pub fn is_gone(&self) -> bool {
        self.desk.lock().gone
    }

    fn ask(&self, method: &str, params: &impl Serialize) -> Result<Box<RawValue>, Failure> {
        #[derive(Serialize)]
        struct Request<'a, P> {
            jsonrpc: &'static str,
            id: u64,
            method: &'a str,
            params: P,
        }
        let id = self.desk.last.fetch_add(1, Ordering::SeqCst);
        let request = serde_json::to_string(&Request { jsonrpc: "2.0", id, method, params });
        let request =
            request.map_err(|error| Failure { code: TOO_LONG, message: error.to_string() })?;
        if MAX_TO_AGENT < request.len() {
            let message = format!("{}: start a new session", too_long(request.len()));
            return Err(Failure { code: TOO_LONG, message });
        }
        let (sender, answer) = mpsc::channel();
        {
            let mut state = self.desk.lock();
            if state.gone {
                return Err(Failure::gone());
            }
            state.waiting.insert(id, sender);
        }
        self.desk.agent.line(&request);
        answer.recv().unwrap_or_else(|_| Err(Failure::gone()))
    }
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

/// What is said of a message that is too long for an agent.
fn too_long(bytes: usize) -> String {
    format!("the message has {bytes} bytes, and an agent takes {MAX_TO_AGENT}")
}

/// Whether a request says that it comes from the agent, and from nobody else.
fn is_itself(params: Option<&RawValue>) -> bool {
    #[derive(Deserialize)]
    struct Params {
        #[serde(rename = "_meta")]
        meta: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "io.modelcontextprotocol/clientInfo")]
        client: Client,
    }
    #[derive(Deserialize)]
    struct Client {
        name: String,
    }
    // A member that is there twice is an error, so whoever reads it next reads the same name.
    let params = params.and_then(|params| serde_json::from_str::<Params>(params.get()).ok());
    params.is_some_and(|params| params.meta.client.name == NAME)
}

impl Desk {
    fn hear_agent(self: Arc<Self>, mut input: BufReader<Box<dyn Read + Send>>) {
        let mut buffer = Vec::new();
        loop {
            match read_line(&mut input, &mut buffer) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    warn!("the agent's stream is of no more use: {error}");
                    break;
                }
            }
            match serde_json::from_slice::<Line>(&buffer) {
                Ok(line) => self.take(&line, &buffer),
                // Whatever a turned agent prints harms nobody but itself.
                Err(error) => debug!("the agent sent what is no message: {error}"),
            }
        }
        {
            let mut state = self.lock();
            state.gone = true;
            state.waiting.clear();
        }
        // The gateway ends the calls of a client that is gone.
        self.gateway.close();
        self.terminal.gone();
    }

    fn hear_gateway(&self, mut input: BufReader<Box<dyn Read + Send>>) {
        let mut buffer = Vec::new();
        while let Ok(true) = read_line(&mut input, &mut buffer) {
            if buffer.len() <= MAX_TO_AGENT {
                self.agent.bytes(&buffer);
            } else if let Ok(Line { id: Some(id), method: None, .. }) =
                serde_json::from_slice(&buffer)
            {
                // The tool has run: whoever asked hears why there is no result to be seen.
                self.refuse(&id, TOO_LONG, &too_long(buffer.len()));
            }
        }
        // Without its gateway an agent can do nothing.
        self.agent.close();
    }

    fn take(self: &Arc<Self>, line: &Line, bytes: &[u8]) {
        let Some(method) = line.method.as_deref() else { return self.answered(line) };
        match method {
            "agent/event" => self.event(line.params.as_deref()),
            // Rules may tell clients apart by their names, so an agent has no name but its own.
            "tools/list" | "tools/call" if is_itself(line.params.as_deref()) => {
                self.gateway.bytes(bytes);
            }
            "notifications/cancelled" => {
                self.give_up(line.params.as_deref());
                self.gateway.bytes(bytes);
            }
            "host/model" => self.in_a_thread(line, Self::model),
            "agent/confirm" => self.in_a_thread(line, Self::confirm),
            other => {
                let other: String = other.chars().take(64).collect();
                let other = other.escape_debug().to_string();
                warn!("the agent asks for `{other}`, which it may not");
                self.terminal.refused(&other, line.params.as_deref().map_or("", RawValue::get));
                if let Some(id) = &line.id {
                    self.refuse(id, DENIED, "an agent is granted nothing of the kind");
                }
            }
        }
    }

    fn answered(&self, line: &Line) {
        let id = line.id.as_ref().and_then(|id| id.get().parse().ok());
        let waiting = id.and_then(|id: u64| self.lock().waiting.remove(&id));
        let Some(waiting) = waiting else { return };
        let outcome = match (&line.result, &line.error) {
            (Some(result), None) => Ok(result.clone()),
            (_, Some(error)) => {
                let error = serde_json::from_str::<RpcError>(error.get());
                let RpcError { code, message } =
                    error.unwrap_or(RpcError { code: 0, message: "the agent failed".into() });
                Err(Failure { code, message })
            }
            (None, None) => Err(Failure { code: 0, message: "the agent answered nothing".into() }),
        };
        // Whoever asked may have gone.
        let _told = waiting.send(outcome);
    }

    fn event(&self, params: Option<&RawValue>) {
        let Some(params) = params.filter(|params| params.get().len() <= MAX_EVENT) else { return };
        let event = match serde_json::from_str::<Event>(params.get()) {
            Ok(event) => event,
            Err(error) => return debug!("the agent tells what is no event: {error}"),
        };
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match (&event, log.as_mut()) {
            (Event::Message { message }, Some(log)) => log.add(message),
            (Event::Cleared {}, Some(log)) => log.clear(),
            _ => Ok(()),
        };
        if let Err(error) = kept {
            warn!("the session is not kept any more: {error}");
            *log = None;
        }
        drop(log);
        self.terminal.event(event);
    }

    /// A request that takes time.
    fn in_a_thread(self: &Arc<Self>, line: &Line, work: fn(&Self, &RawValue, Option<&RawValue>)) {
        let Some(id) = line.id.clone() else { return };
        if MOST_MODELS <= self.running.fetch_add(1, Ordering::SeqCst) {
            self.running.fetch_sub(1, Ordering::SeqCst);
            return self.refuse(&id, DENIED, "too many requests at once");
        }
        let (desk, params) = (Arc::clone(self), line.params.clone());
        let thread = thread::Builder::new().name("agent-asks".into()).spawn({
            let id = id.clone();
            move || {
                work(&desk, &id, params.as_deref());
                desk.running.fetch_sub(1, Ordering::SeqCst);
            }
        });
        if thread.is_err() {
            self.running.fetch_sub(1, Ordering::SeqCst);
            self.refuse(&id, DENIED, "the host has no more threads");
        }
    }

    fn model(&self, id: &RawValue, params: Option<&RawValue>) {
        #[derive(Deserialize)]
        struct Params<'a> {
            provider: Provider,
            #[serde(borrow)]
            body: &'a RawValue,
        }
        #[derive(Serialize)]
        struct Piece<'a> {
            request: &'a RawValue,
            text: &'a str,
        }
        #[derive(Serialize)]
        struct Posted {
            status: u16,
            body: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry_after_ms: Option<u64>,
        }
        let Some(models) = &self.models else {
            return self.refuse(id, NO_MODEL, "no model is configured");
        };
        let params =
            params.and_then(|params| serde_json::from_str::<Params<'_>>(params.get()).ok());
        let Some(Params { provider, body }) = params else {
            return self.refuse(id, DENIED, "`host/model` takes {\"provider\", \"body\"}");
        };
        let key = id.get().to_owned();
        self.lock().asked.insert(key.clone());
        let posted = models.post(provider, body.get(), &mut |text| {
            let params = to_raw_value(&Piece { request: id, text });
            params.into_iter().for_each(|params| self.agent.notify("model/piece", &params));
            !self.lock().given_up.contains(&key)
        });
        let given_up = {
            let mut state = self.lock();
            state.asked.remove(&key);
            state.given_up.remove(&key)
        };
        match posted {
            // Nobody waits for it.
            _ if given_up => {}
            Ok(posted) => {
                let retry_after = posted.retry_after.map(|wait| wait.as_millis());
                self.agent.answer(
                    id,
                    &Posted {
                        status: posted.status,
                        body: posted.body,
                        retry_after_ms: retry_after.and_then(|wait| u64::try_from(wait).ok()),
                    },
                );
            }
            Err(why) => self.refuse(id, NO_MODEL, &why),
        }
    }

    fn confirm(&self, id: &RawValue, params: Option<&RawValue>) {
        #[derive(Deserialize)]
        struct Params {
            calls: u32,
        }
        #[derive(Serialize)]
        struct Answer {
            yes: bool,
        }
        let params = params.and_then(|params| serde_json::from_str::<Params>(params.get()).ok());
        let Some(Params { calls }) = params else {
            return self.refuse(id, DENIED, "`agent/confirm` takes {\"calls\"}");
        };
        self.agent.answer(id, &Answer { yes: self.terminal.confirm(calls) });
    }

    /// Remembers that nobody waits for a model's answer any more.
    fn give_up(&self, params: Option<&RawValue>) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Params {
            request_id: Box<RawValue>,
        }
        let params = params.and_then(|params| serde_json::from_str::<Params>(params.get()).ok());
        let Some(Params { request_id }) = params else { return };
        let mut state = self.lock();
        // Only of those that are on their way: the set must not grow at the agent's wish.
        if state.asked.contains(request_id.get()) {
            state.given_up.insert(request_id.get().to_owned());
        }
    }

    fn refuse(&self, id: &RawValue, code: i64, message: &str) {
        self.agent.error(id, code, message);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.desk.agent.close();
        self.desk.gateway.close();
    }
}

#[cfg(test)]
mod tests;
