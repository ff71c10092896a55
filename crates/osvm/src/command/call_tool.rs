//! `osvm mcp call-tool`: one call, its result on stdout, everything else on stderr.
//!
//! With `--json` stdout gets one envelope, whatever happens:
//!
//! ```json
//! {"result": …, "call": "…", "isolation": {…}}
//! {"error": {…}, "call": "…", "isolation": {…}}
//! ```

use super::{Outcome, Status};
use crate::arguments;
use crate::cli::CallTool;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::{Interrupt, Signal};
use osvm_protocol::message::RpcError;
use osvm_runtime::{Answer, CallError, CallId, Cancel, Isolation, Report, ToolCall};
use serde::Serialize;
use serde_json::value::RawValue;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Envelope<'a> {
    #[serde(flatten)]
    outcome: Told<'a>,
    /// The call's id; `null` when the call did not begin.
    call: Option<CallId>,
    /// How it ran; `null` when the call did not begin.
    isolation: Option<&'a Isolation>,
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

/// Runs the call and tells how it went.
pub(crate) fn run(context: &Context, args: &CallTool) -> Outcome {
    let (report, interrupt) = match call(context, args) {
        Ok(called) => called,
        Err(failure) if args.json => {
            return tell(context, None, Err(Reason::Osvm(&failure))).and(Err(failure));
        }
        Err(failure) => return Err(failure),
    };
    match &report.outcome {
        Ok(Answer::Result(result)) if args.json => {
            tell(context, Some(&report), Ok(result))?;
            Ok(Status::Success)
        }
        Ok(Answer::Result(result)) => {
            context.printer.result(result.get())?;
            Ok(Status::Success)
        }
        Ok(Answer::ToolError(error)) => {
            if args.json {
                tell(context, Some(&report), Err(Reason::Tool(error)))?;
            }
            // The code of a failure that is only shown to people is never seen.
            context.printer.failure(&Failure::new("tool", &error.message));
            Ok(Status::ToolFailed)
        }
        Err(error) => {
            let signal = interrupt.signal().filter(|_| matches!(error, CallError::Cancelled));
            let failure = failure(error, signal);
            if args.json {
                tell(context, Some(&report), Err(Reason::Osvm(&failure)))?;
            }
            context.printer.failure(&failure);
            Ok(signal.map_or(Status::OsvmFailed, |signal| Status::Interrupted(signal.exit_code())))
        }
    }
}

fn call(context: &Context, args: &CallTool) -> Result<(Report, Interrupt), Failure> {
    let arguments = arguments::read(args.arguments.as_deref())?;
    let env = context.env()?;
    let runtime = context.runtime(context.config(&env)?, &env)?;
    let cancel = Cancel::default();
    let interrupt = Interrupt::watch({
        let cancel = cancel.clone();
        move || cancel.cancel()
    })?;
    let call = ToolCall { server: args.server.clone(), tool: args.tool.clone(), arguments };
    Ok((runtime.call(&call, &cancel), interrupt))
}

fn tell(
    context: &Context,
    report: Option<&Report>,
    outcome: Result<&RawValue, Reason<'_>>,
) -> Result<(), Failure> {
    context.printer.json(&Envelope {
        outcome: outcome.map_or_else(Told::Error, Told::Result),
        call: report.map(|report| report.call),
        isolation: report.map(|report| &report.isolation),
    })
}

fn failure(error: &CallError, signal: Option<Signal>) -> Failure {
    match signal {
        Some(signal) => Failure::new("interrupted", format!("interrupted by {}", signal.name())),
        None => Failure::from_error(error.code(), error, error.hint()),
    }
}
