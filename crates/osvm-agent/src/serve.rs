//! The agent as its host sees it: requests in, events and answers out.
//!
//! | method | parameters | answer |
//! |---|---|---|
//! | `agent/start` | [`Start`] | `{"version"}`; first, and once |
//! | `agent/prompt` | `{"text"}` | [`Outcome`] |
//! | `agent/plan` | `{"text"}` | [`Outcome`]; nothing is called |
//! | `agent/call` | `{"server", "tool", "arguments"}` | [`Outcome`]; no model is asked |
//! | `agent/clear` | | `{}` |
//! | `agent/cancel` | | none: a notification that ends what is worked on |
//!
//! The agent asks `host/model`, `tools/list`, `tools/call` and `agent/confirm`, and tells
//! `agent/event`. One request is worked on at a time.

use crate::ask::{Agent, AskError, Outcome};
use crate::conversation::{Call, Conversation, Message};
use crate::limits::Limits;
use crate::local::{self, Plan};
use crate::model::Model;
use crate::peer::{Heard, Incoming, Lines, Peer, PeerError, RpcError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::error::Error;
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Codes of errors, positive as all of osvm's own.
mod code {
    pub(super) const CANCELLED: i64 = 1200;
    pub(super) const FAILED: i64 = 1201;
    pub(super) const BUSY: i64 = 1202;
    pub(super) const INVALID_PARAMS: i64 = -32602;
    pub(super) const METHOD_NOT_FOUND: i64 = -32601;
}

/// How long a person may think before a plan of the local planner runs.
const THINK: Duration = Duration::from_secs(10 * 60);

/// With what an agent begins.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Start {
    /// The model; without one there is the local planner.
    #[serde(default)]
    pub model: Option<Model>,
    /// What was said in this session before.
    #[serde(default)]
    pub messages: Vec<Message>,
}

/// Serves one host, until it is gone.
///
/// # Errors
///
/// [`PeerError`] when the stream is of no more use.
pub fn serve(input: impl BufRead, output: impl Write + Send + 'static) -> Result<(), PeerError> {
    let peer = Peer::new(output);
    let mut lines = Lines::new(input, peer.clone());
    thread::scope(|scope| {
        let (work, jobs) = mpsc::channel::<Incoming>();
        let busy = Arc::new(AtomicBool::new(false));
        let mut worker = Worker { peer: peer.clone(), agent: None, busy: Arc::clone(&busy) };
        scope.spawn(move || worker.run(&jobs));
        let read = listen(&mut lines, &peer, &work, &busy);
        // Whatever is still worked on has nobody to work for.
        peer.cancel_all();
        drop(work);
        read
    })
}

fn listen(
    lines: &mut Lines<impl BufRead>,
    peer: &Peer,
    work: &mpsc::Sender<Incoming>,
    busy: &AtomicBool,
) -> Result<(), PeerError> {
    while let Some(incoming) = lines.hear()? {
        if incoming.method == "agent/cancel" {
            peer.cancel_all();
            continue;
        }
        if incoming.id.is_none() {
            continue;
        }
        if busy.swap(true, Ordering::SeqCst) {
            let error = RpcError { code: code::BUSY, message: "the agent is at work".into() };
            refuse(peer, &incoming, &error)?;
        } else {
            // The worker ends after this sender does.
            let _sent = work.send(incoming);
        }
    }
    Ok(())
}

fn refuse(peer: &Peer, incoming: &Incoming, error: &RpcError) -> Result<(), PeerError> {
    match &incoming.id {
        Some(id) => peer.answer(id, Err::<&(), _>(error)),
        None => Ok(()),
    }
}

/// Works on one request after the other.
struct Worker {
    peer: Peer,
    agent: Option<Agent>,
    /// Whether a request is worked on. Whoever comes meanwhile is told so.
    busy: Arc<AtomicBool>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Started { version: &'static str },
    Done {},
    Outcome(Outcome),
}

impl Worker {
    fn run(&mut self, jobs: &mpsc::Receiver<Incoming>) {
        while let Ok(job) = jobs.recv() {
            self.peer.begin();
            let outcome = self.work(&job);
            // Before the answer: who has it may ask the next thing at once.
            self.busy.store(false, Ordering::SeqCst);
            let Some(id) = &job.id else { continue };
            let told = match &outcome {
                Ok(answer) => self.peer.answer(id, Ok(answer)),
                Err(error) => self.peer.answer(id, Err::<&(), _>(error)),
            };
            if told.is_err() {
                return;
            }
        }
    }

    fn work(&mut self, job: &Incoming) -> Result<Answer, RpcError> {
        #[derive(Deserialize)]
        struct Text {
            text: String,
        }
        let params = job.params.as_deref();
        if job.method == "agent/start" {
            let start: Start = read(params)?;
            let conversation = Conversation::resumed(start.messages);
            let limits = Limits::default();
            self.agent = Some(Agent::new(self.peer.clone(), start.model, limits, conversation));
            return Ok(Answer::Started { version: env!("CARGO_PKG_VERSION") });
        }
        let Some(agent) = &mut self.agent else {
            return Err(RpcError {
                code: code::FAILED,
                message: "`agent/start` comes first".into(),
            });
        };
        match job.method.as_str() {
            "agent/prompt" => {
                let Text { text } = read(params)?;
                let outcome =
                    if agent.has_model() { agent.ask(&text) } else { agent.ask_local(&text, true) };
                outcome.map(Answer::Outcome).map_err(|error| told(&error))
            }
            "agent/plan" => {
                let Text { text } = read(params)?;
                let outcome = if agent.has_model() {
                    agent.plan(&text)
                } else {
                    agent.ask_local(&text, false)
                };
                outcome.map(Answer::Outcome).map_err(|error| told(&error))
            }
            "agent/call" => {
                let by_hand: ByHand = read(params)?;
                agent.call_by_hand(&by_hand).map(Answer::Outcome).map_err(|error| told(&error))
            }
            "agent/clear" => {
                agent.clear();
                Ok(Answer::Done {})
            }
            method => {
                let method: String = method.chars().take(64).collect();
                let message = format!("the agent has no method `{method}`");
                Err(RpcError { code: code::METHOD_NOT_FOUND, message })
            }
        }
    }
}

fn read<'a, T: Deserialize<'a>>(params: Option<&'a RawValue>) -> Result<T, RpcError> {
    let params = params.map_or("{}", RawValue::get);
    serde_json::from_str(params)
        .map_err(|error| RpcError { code: code::INVALID_PARAMS, message: error.to_string() })
}

fn told(error: &AskError) -> RpcError {
    let code = if error.is_cancelled() { code::CANCELLED } else { code::FAILED };
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    RpcError { code, message }
}

/// `/call server tool {json}`.
#[derive(Debug, Deserialize)]
struct ByHand {
    server: String,
    tool: String,
    arguments: Box<RawValue>,
}

impl Agent {
    /// Plans without a model, asks whether to go on, and shows what the tools say. What is said is
    /// kept like a conversation with a model, so that a session can go on with one.
    fn ask_local(&mut self, request: &str, run: bool) -> Result<Outcome, AskError> {
        let outcome = self.local(request, run)?;
        if run {
            self.keep(request.to_owned(), &outcome.text);
        }
        Ok(outcome)
    }

    fn keep(&mut self, request: String, answer: &str) {
        let text = answer.get(..answer.floor_char_boundary(self.limits().result));
        self.say(Message::User { text: request });
        self.say(Message::Assistant { text: text.unwrap_or_default().into(), calls: Vec::new() });
    }

    fn local(&mut self, request: &str, run: bool) -> Result<Outcome, AskError> {
        self.begin(request)?;
        let calls = match local::plan(&self.catalog, request) {
            Plan::Calls(calls) => calls,
            Plan::Missing { tool, arguments } => {
                let arguments = arguments.join("`, `");
                let text = format!(
                    "`{tool}` fits, but the request does not say its `{arguments}`. What a text is \
                     has to stand in \"double quotes\"."
                );
                return Ok(Outcome { text, ..Outcome::default() });
            }
            Plan::NoTool => {
                let text = "No tool has any of these words, and no model is configured that would \
                    understand them. `osvm mcp tools` lists the tools."
                    .to_owned();
                return Ok(Outcome { text, ..Outcome::default() });
            }
        };
        self.tell_plan(&calls, false);
        let count = u32::try_from(calls.len()).unwrap_or(u32::MAX);
        if !run {
            return Ok(Outcome { calls: count, ..Outcome::default() });
        }
        if !self.confirmed(count)? {
            let text = "Nothing was called.".to_owned();
            return Ok(Outcome { text, ..Outcome::default() });
        }
        self.run_in_turn(&calls)
    }

    fn confirmed(&self, calls: u32) -> Result<bool, AskError> {
        #[derive(Serialize)]
        struct Params {
            calls: u32,
        }
        #[derive(Deserialize)]
        struct Answer {
            yes: bool,
        }
        let waiting = self.peer.ask("agent/confirm", |_| Params { calls })?;
        let deadline = Instant::now() + THINK;
        loop {
            match waiting.next(deadline)? {
                Heard::Answer(Ok(answer)) => {
                    let answer = serde_json::from_str::<Answer>(answer.get());
                    return Ok(answer.is_ok_and(|answer| answer.yes));
                }
                Heard::Answer(Err(_)) => return Ok(false),
                Heard::Cancelled => return Err(PeerError::Cancelled.into()),
                Heard::Piece(_) | Heard::Progress(_) => {}
            }
        }
    }

    fn call_by_hand(&mut self, by_hand: &ByHand) -> Result<Outcome, AskError> {
        self.begin(&by_hand.tool)?;
        let tool = self.catalog.of_server(&by_hand.server, &by_hand.tool);
        let name = tool.map_or_else(|| by_hand.tool.clone(), |tool| tool.name.clone());
        let call = Call { id: "by_hand".into(), name, arguments: by_hand.arguments.clone() };
        self.tell_plan(std::slice::from_ref(&call), false);
        let outcome = self.run_in_turn(&[call])?;
        let ByHand { server, tool, arguments } = by_hand;
        self.keep(format!("/call {server} {tool} {}", arguments.get()), &outcome.text);
        Ok(outcome)
    }

    fn run_in_turn(&self, calls: &[Call]) -> Result<Outcome, AskError> {
        let mut texts = Vec::new();
        for call in calls {
            let deadline = Instant::now() + Limits::default().time;
            let called = self.run(&call.id, &call.name, &call.arguments, deadline)?;
            texts.push(if called.is_error {
                format!("failed: {}", called.text)
            } else {
                called.text
            });
        }
        let calls = u32::try_from(calls.len()).unwrap_or(u32::MAX);
        Ok(Outcome { text: texts.join("\n"), calls, ..Outcome::default() })
    }
}
