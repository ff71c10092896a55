//! One request, the guest's requests meanwhile, one answer.

use crate::host::{GuestLog, HostRequest, HostServices};
use crate::wire::{Wire, WireError};
use osvm_policy::Resolved;
use osvm_protocol::code;
use osvm_protocol::frame::FrameError;
use osvm_protocol::message::{self, Id, Message, MessageError, Request, Response, RpcError};
use osvm_vmm::clean;
use serde_json::value::RawValue;
use std::time::Instant;

use crate::cancel::Cancel;
use crate::id::CallId;
use crate::trace::{Reach, Trace};

/// Id of the first request on a stream.
pub(crate) const FIRST_ID: u64 = 1;

/// Longest piece of a guest's id that is shown, in bytes.
const MAX_SHOWN: usize = 64;

/// What a tool answered.
#[derive(Debug)]
pub enum Answer {
    /// Its result, as it wrote it.
    Result(Box<RawValue>),
    /// Its error.
    ToolError(RpcError),
    /// An MCP `CallToolResult`, or another result of `tools/call`, as the server wrote it.
    Mcp(Box<RawValue>),
    /// An MCP server's JSON-RPC error object, as it wrote it.
    McpError(Box<RawValue>),
}

/// What is asked of a guest, and what it may ask meanwhile.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// The call.
    pub call: CallId,
    /// What the policy says about the tool, its name among it.
    pub policy: &'a Resolved,
    /// Its arguments.
    pub arguments: &'a RawValue,
    /// Serves the guest's requests.
    pub host: &'a dyn HostServices,
    /// When the call ends.
    pub deadline: Instant,
    /// Whether the call still wants an answer.
    pub cancel: &'a Cancel,
    /// Where what the guest reaches is written down.
    pub trace: &'a Trace,
    /// The guest's address, for its lines in the host's log.
    pub cid: Option<u32>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The stream gave no further frame.
    Wire(WireError),
    /// The guest sent what is no message.
    Rubbish(MessageError),
    /// The guest answered what was not asked.
    WrongId(String),
    /// The request does not fit a frame.
    Request(FrameError),
}

enum Step {
    Answered(Answer),
    Reply(Vec<u8>),
    GoOn,
}

impl Exchange<'_> {
    /// Sends the request as number `id` and serves the guest until it answers.
    pub(crate) fn run(&self, wire: &mut Wire, id: u64) -> Result<Answer, Broken> {
        self.ask(wire, id)?;
        self.answered(wire, id)
    }

    /// Sends the request as number `id`.
    pub(crate) fn ask(&self, wire: &mut Wire, id: u64) -> Result<(), Broken> {
        let (server, tool) = (self.policy.server.as_str(), self.policy.tool.as_str());
        let request = message::request(&Id::from(id), Some(server), tool, Some(self.arguments));
        wire.begin();
        wire.send(&request.map_err(Broken::Request)?, self.deadline).map_err(Broken::Wire)
    }

    /// Serves the guest until it answers request `id`, which it was sent.
    pub(crate) fn answered(&self, wire: &mut Wire, id: u64) -> Result<Answer, Broken> {
        let mut log = GuestLog::default();
        loop {
            let payload = wire.next(self.deadline).map_err(Broken::Wire)?;
            match self.step(payload, id, &mut log)? {
                Step::Answered(answer) => return Ok(answer),
                Step::Reply(reply) => wire.send(&reply, self.deadline).map_err(Broken::Wire)?,
                Step::GoOn => {}
            }
        }
    }

    fn step(&self, payload: &[u8], id: u64, log: &mut GuestLog) -> Result<Step, Broken> {
        match message::parse(payload).map_err(Broken::Rubbish)? {
            Message::Response(response) => answer(response, id).map(Step::Answered),
            Message::Request(request) => Ok(self.serve(&request, log)),
        }
    }

    fn serve(&self, request: &Request<'_>, log: &mut GuestLog) -> Step {
        let method = &*request.method;
        let outcome = if method == "host/log" {
            log.write(request.params, self)
        } else if method.starts_with("host/") && request.id.is_some() {
            self.host.serve(&HostRequest {
                call: self.call,
                policy: self.policy,
                method,
                params: request.params,
                deadline: self.deadline,
                cancel: self.cancel,
                trace: self.trace,
            })
        } else {
            let shown = clean(method.as_bytes(), MAX_SHOWN);
            let message = format!("the host has no method `{shown}`");
            self.trace.note(Reach::Other { method: shown, refused: message.clone() });
            Err(RpcError::new(code::METHOD_NOT_FOUND, message))
        };
        match &request.id {
            Some(id) => reply(id, &outcome).map_or(Step::GoOn, Step::Reply),
            None => Step::GoOn,
        }
    }
}

/// The answer to a guest's request. One that is too long becomes an error; if not even that fits
/// (the guest's id fills a frame), the guest gets none and waits for its deadline.
fn reply(id: &Id<'_>, outcome: &Result<Box<RawValue>, RpcError>) -> Option<Vec<u8>> {
    let reply = match outcome {
        Ok(result) => message::result(id, result.get()),
        Err(error) => message::error(Some(id), error),
    };
    let too_long = || RpcError::new(code::ANSWER_TOO_LONG, "the answer does not fit a frame");
    reply.or_else(|_| message::error(Some(id), &too_long())).ok()
}

/// Takes the answer to request `id`, and no other.
pub(crate) fn answer(response: Response<'_>, id: u64) -> Result<Answer, Broken> {
    if response.id != Some(Id::from(id)) {
        let id = response.id.map_or_else(|| "null".to_owned(), |id| id.to_string());
        return Err(Broken::WrongId(clean(id.as_bytes(), MAX_SHOWN)));
    }
    Ok(match response.outcome {
        Ok(result) => Answer::Result(result.to_owned()),
        Err(error) => Answer::ToolError(error),
    })
}
