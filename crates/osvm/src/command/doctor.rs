//! `osvm doctor`: can calls run on this host, and if not, what to do about it.
//!
//! Looks at the host as it is, and changes nothing unless `--fix` is given. Each check stands
//! alone: one that fails does not hide the others.

mod checks;
mod leftovers;

use super::{Outcome, Status};
use crate::cli::Doctor;
use crate::context::Context;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// Calls run, but somebody should know.
    Warn,
    /// Calls can't run.
    Fail,
    /// Could not be looked at, because something else is wrong.
    Skipped,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    /// What was found, in words.
    summary: String,
    /// What to type, or to do, where something is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
    /// The same for programs.
    #[serde(flatten)]
    facts: Map<String, Value>,
}

impl Check {
    fn new(name: &'static str, state: State, summary: impl Into<String>) -> Self {
        Self { name, state, summary: summary.into(), fix: None, facts: Map::new() }
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.into(), value.into());
        self
    }
}

/// All that was looked at.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether calls can run.
    ok: bool,
    checks: Vec<Check>,
}

/// Looks at everything, after mending what `--fix` may mend.
pub(crate) fn run(context: &Context, args: &Doctor) -> Outcome {
    if args.fix {
        for ended in leftovers::end()? {
            context.printer.note(&format!("ended VM process {ended}, which an earlier osvm left"));
        }
    }
    let checks = checks::all(context);
    let report = Report { ok: checks.iter().all(|check| check.state != State::Fail), checks };
    if args.json {
        context.printer.pretty_json(&report)?;
    } else {
        context.printer.result(&render(&report))?;
    }
    Ok(if report.ok { Status::Success } else { Status::OsvmFailed })
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for Check { name, state, summary, fix, .. } in &report.checks {
        let state = match state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
            State::Skipped => "-",
        };
        // Writing to a string can't fail.
        let _ = writeln!(text, "{state:<4}  {name:<width$}  {summary}");
        if let Some(fix) = fix {
            let _ = writeln!(text, "{:6}{:width$}  fix: {fix}", "", "");
        }
    }
    text.push_str(if report.ok { "\ncalls can run here\n" } else { "\ncalls cannot run here\n" });
    text
}
