//! `osvm logs`: what a guest wrote to its console, and how its call ended.

use super::{Outcome, Status};
use crate::cli::Logs;
use crate::context::Context;
use crate::failure::Failure;
use crate::printer::table;
use osvm_runtime::calls::{CallLogs, LogError, LogLine, Summary};
use serde_json::json;

/// Lists the kept calls, or shows the log of one.
pub(crate) fn run(context: &Context, args: &Logs) -> Outcome {
    let logs = context.call_logs(&context.env()?);
    match &args.call {
        Some(call) => show(context, &logs, call, args.follow)?,
        None => list(context, &logs, args.json)?,
    }
    Ok(Status::Success)
}

fn show(context: &Context, logs: &CallLogs, call: &str, follow: bool) -> Result<(), Failure> {
    let id = logs.find(call).map_err(|error| failure(&error))?;
    let mut log = logs.open(id).map_err(|error| failure(&error))?;
    let header = log.header();
    let cid = header.cid.map_or_else(String::new, |cid| format!(", CID {cid}"));
    let what = format!("{id}: {}/{} at {}{cid}", header.server, header.tool, header.started);
    context.printer.note(&what);
    let mut ended = false;
    while let Some(line) = log.next(follow).map_err(|error| failure(&error))? {
        match line {
            LogLine::Console(line) => context.printer.result(&line)?,
            LogLine::End(end) => {
                ended = true;
                let note = format!("ended after {:.1} ms: {}", end.total_ms, end.outcome);
                context.printer.note(&note);
            }
        }
    }
    if !ended {
        let note = if log.is_live() { "still running" } else { "ended without a word: killed" };
        context.printer.note(note);
    }
    Ok(())
}

fn list(context: &Context, logs: &CallLogs, as_json: bool) -> Result<(), Failure> {
    let calls = logs.list().map_err(|error| failure(&error))?;
    if as_json {
        let calls: Vec<_> = calls
            .iter()
            .map(|Summary { header, end, live }| json!({"call": header, "end": end, "live": live}))
            .collect();
        return context.printer.pretty_json(&calls);
    }
    if calls.is_empty() {
        context.printer.note("no calls yet");
        return Ok(());
    }
    let mut rows = vec![["CALL", "STARTED", "CID", "TOOL", "OUTCOME"].map(str::to_owned)];
    rows.extend(calls.into_iter().map(|Summary { header, end, live }| {
        let outcome = match end {
            Some(end) => end.outcome,
            None if live => "running".into(),
            None => "killed".into(),
        };
        let cid = header.cid.map_or_else(|| "-".into(), |cid| cid.to_string());
        let tool = format!("{}/{}", header.server, header.tool);
        [header.id.to_string(), header.started, cid, tool, outcome]
    }));
    context.printer.result(&table(&rows))
}

fn failure(error: &LogError) -> Failure {
    Failure::from_error("log", error, error.hint())
}
