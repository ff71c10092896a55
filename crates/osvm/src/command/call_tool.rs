//! `osvm mcp call-tool`: one call, its result on stdout, everything else on stderr.
//!
//! With `--json` stdout gets one envelope, whatever happens:
//!
//! ```json
//! {"result": …, "call": "…", "isolation": {…}}
//! {"error": {…}, "call": "…", "isolation": {…}}
//! ```
//!
//! With `--batch` there are many calls, and `batch` tells of them in the same envelopes.

use super::{Outcome, Status, batch};
use crate::arguments;
use crate::caller::Caller;
use crate::cli::CallTool;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::{Interrupt, Signal};
use crate::microvm::pending;
use osvm_daemon::client::{CallReply, Trouble};
use osvm_microvm::workspace::ChangeSet;
use osvm_protocol::message::RpcError;
use osvm_runtime::{CallId, ClientName, ToolCall};
use serde::Serialize;
use serde_json::value::RawValue;

/// Who calls, in receipts and rules.
pub(super) const CLI: &str = "cli";

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Envelope<'a> {
    /// Number of the line in the batch, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<u64>,
    #[serde(flatten)]
    outcome: Told<'a>,
    /// The call's id; `null` when the call did not begin.
    call: Option<CallId>,
    /// How it ran; `null` when the call did not begin.
    isolation: Option<&'a RawValue>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Told<'a> {
    Result(&'a RawValue),
    Error(Reason<'a>),
}

/// The tool's error has a number as `code`, osvm's a word.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Reason<'a> {
    Tool(&'a RpcError),
    Osvm(&'a Failure),
}

/// What came of a call, as every output tells it.
#[derive(Debug)]
pub(super) enum Ended {
    Answered(Box<RawValue>),
    ToolError(RpcError),
    Failed(Failure),
    /// A signal ended it.
    Interrupted(Failure, Signal),
}

/// A call that is over.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) ended: Ended,
    /// `None` when the call did not begin.
    call: Option<(CallId, Box<RawValue>)>,
}

/// Runs the call, or those of a batch, and tells how it went.
pub(crate) fn run(context: &Context, args: &CallTool) -> Outcome {
    if let Some(file) = &args.batch {
        return batch::run(context, args, file);
    }
    let over = match call(context, args) {
        Ok(over) => over,
        Err(failure) => Over { ended: Ended::Failed(failure), call: None },
    };
    if args.json {
        context.printer.json(&over.envelope(None))?;
    }
    match &over.ended {
        Ended::Answered(_) if args.json => Ok(Status::Success),
        Ended::Answered(result) => {
            context.printer.result(result.get())?;
            let server = args.server.as_deref().unwrap_or_default();
            if let Some(note) = waiting(context, server, result, "_meta") {
                context.printer.note(&note);
            }
            Ok(Status::Success)
        }
        Ended::ToolError(error) => {
            // The code of a failure that is only shown to people is never seen.
            context.printer.failure(&Failure::new("tool", &error.message));
            let told = serde_json::value::to_raw_value(error).ok().filter(|_| !args.json);
            let server = args.server.as_deref().unwrap_or_default();
            if let Some(note) = told.and_then(|told| waiting(context, server, &told, "data")) {
                context.printer.note(&note);
            }
            Ok(Status::ToolFailed)
        }
        Ended::Failed(failure) => {
            context.printer.failure(failure);
            Ok(Status::OsvmFailed)
        }
        Ended::Interrupted(failure, signal) => {
            context.printer.failure(failure);
            Ok(Status::Interrupted(signal.exit_code()))
        }
    }
}

fn call(context: &Context, args: &CallTool) -> Result<Over, Failure> {
    let (Some(server), Some(tool)) = (&args.server, &args.tool) else {
        return Err(Failure::new("usage", "a call needs a server and a tool"));
    };
    let arguments = arguments::read(args.arguments.as_deref())?;
    let caller = Caller::new(context, args.choice())?;
    let interrupt = Interrupt::watch({
        let running = caller.running().clone();
        move || running.stop()
    })?;
    let call = ToolCall::new(server.as_str(), tool.as_str(), arguments);
    let call = ToolCall { client: ClientName::new(CLI), ..call };
    Ok(Over::new(caller.line(false).call(&call), interrupt.signal()))
}

impl Over {
    /// What came of a call; `signal` has arrived meanwhile.
    pub(super) fn new(reply: Result<CallReply, Failure>, signal: Option<Signal>) -> Self {
        let (outcome, call) = match reply {
            Ok(CallReply { call, outcome, isolation }) => (outcome, Some((call, isolation))),
            // A daemon that was hung up on tells nothing of the call.
            Err(failure) => {
                let ended = match signal {
                    Some(signal) => interrupted(signal),
                    None => Ended::Failed(failure),
                };
                return Self { ended, call: None };
            }
        };
        let ended = match outcome {
            Ok(result) => Ended::Answered(result),
            Err(Trouble::Tool(error)) => Ended::ToolError(error),
            Err(Trouble::Osvm(failure)) => match signal.filter(|_| failure.code == "interrupted") {
                Some(signal) => interrupted(signal),
                None => Ended::Failed(failure.into()),
            },
        };
        Self { ended, call }
    }

    /// A call that could not even be made.
    pub(super) fn failed(failure: Failure) -> Self {
        Self { ended: Ended::Failed(failure), call: None }
    }

    /// The same for programs.
    pub(super) fn envelope(&self, index: Option<u64>) -> Envelope<'_> {
        let outcome = match &self.ended {
            Ended::Answered(result) => Told::Result(result),
            Ended::ToolError(error) => Told::Error(Reason::Tool(error)),
            Ended::Failed(failure) | Ended::Interrupted(failure, _) => {
                Told::Error(Reason::Osvm(failure))
            }
        };
        let call = self.call.as_ref();
        Envelope {
            index,
            outcome,
            call: call.map(|(id, _)| *id),
            isolation: call.map(|(_, isolation)| &**isolation),
        }
    }
}

/// What to say of changes to a workspace that wait, by the member `place` of what was answered. Any
/// server can write such news there, so they are looked up.
fn waiting(context: &Context, server: &str, told: &RawValue, place: &str) -> Option<String> {
    let told: serde_json::Value = serde_json::from_str(told.get()).ok()?;
    let id = told.get(place)?.get("osvm/workspace")?.get("id")?.as_str()?;
    let pending = pending(&context.dirs(&context.env().ok()?));
    let ChangeSet { id, changes, .. } = pending.load(id).ok().filter(|set| set.server == server)?;
    let count = changes.len();
    Some(format!(
        "{count} changed files wait: `osvm workspace show {id}`, then `apply {id}` or `rm {id}`"
    ))
}

fn interrupted(signal: Signal) -> Ended {
    let failure = Failure::new("interrupted", format!("interrupted by {}", signal.name()));
    Ended::Interrupted(failure, signal)
}
