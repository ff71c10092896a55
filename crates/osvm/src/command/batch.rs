//! `osvm mcp call-tool --batch`: many calls, one a line, and an envelope a line for each.
//!
//! ```text
//! reader ── lines, in order ──▶ jobs: one line of calls each ── results ──▶ printer, in order
//!    ▲                                                                          │
//!    └──────────── so far ahead of what was printed, and no further ◀───────────┘
//! ```
//!
//! # Invariants
//!
//! - Results come out in the order of the calls, whatever order they end in.
//! - Memory is bounded: a line has a longest length, and only so many calls are between being
//!   read and being printed.
//! - Every line that is not blank gets an answer; a bad one does not keep the others from running.

use super::call_tool::{CLI, Ended, Over};
use super::{Outcome, Status};
use crate::arguments::LIMIT;
use crate::caller::Caller;
use crate::cli::CallTool;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use osvm_runtime::{ClientName, ToolCall};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Longest line, in bytes: the longest arguments, and names around them.
const MAX_LINE: u64 = LIMIT + 4096;

/// Calls between being read and being printed, for each job.
const AHEAD: u64 = 4;

/// One line of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    server: String,
    tool: String,
    #[serde(default)]
    arguments: Option<Box<RawValue>>,
}

/// What the jobs share.
struct Desk {
    state: Mutex<State>,
    /// Told when a result is there, or was printed.
    changed: Condvar,
    ahead: u64,
}

struct State {
    input: Option<Box<dyn BufRead + Send>>,
    /// Number of the next line that is read, blank ones not counted.
    next: u64,
    /// Number of the next one that is printed.
    printed: u64,
    results: BTreeMap<u64, Over>,
    /// Jobs that may still have results.
    working: usize,
    /// Why no more can be read.
    failure: Option<Failure>,
}

/// Runs all of them.
pub(super) fn run(context: &Context, args: &CallTool, file: &Path) -> Outcome {
    let jobs = usize::from(args.jobs);
    let input = open(file)?;
    let caller = Caller::new(context, args.choice())?;
    let interrupt = Interrupt::watch({
        let running = caller.running().clone();
        move || running.stop()
    })?;
    let state = State {
        input: Some(input),
        next: 0,
        printed: 0,
        results: BTreeMap::new(),
        working: jobs,
        failure: None,
    };
    let ahead = AHEAD.saturating_mul(u64::from(args.jobs));
    let desk = Desk { state: Mutex::new(state), changed: Condvar::new(), ahead };
    let mut worst = Status::Success;
    let printed = std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let mut line = caller.line(args.reuse);
                while let Some((number, call)) = desk.next(|| caller.running().is_over()) {
                    let over = match call {
                        Ok(call) => Over::new(line.call(&call), interrupt.signal()),
                        Err(failure) => Over::failed(failure),
                    };
                    desk.done(number, over);
                }
                desk.leave();
            });
        }
        while let Some((number, over)) = desk.result() {
            worst = worse(worst, &over.ended);
            if let Err(failure) = context.printer.json(&over.envelope(Some(number))) {
                // Nobody reads any more, so nothing more needs to be run.
                caller.running().stop();
                desk.end();
                return Err(failure);
            }
        }
        Ok(())
    });
    printed?;
    if let Some(failure) = desk.lock().failure.take() {
        return Err(failure);
    }
    Ok(interrupt.signal().map_or(worst, |signal| Status::Interrupted(signal.exit_code())))
}

/// What a script should know first: that osvm failed, then that a tool did.
fn worse(worst: Status, ended: &Ended) -> Status {
    match (worst, ended) {
        (worst, Ended::Answered(_)) => worst,
        (Status::Success, Ended::ToolError(_)) => Status::ToolFailed,
        (worst, Ended::ToolError(_)) => worst,
        (_, Ended::Failed(_) | Ended::Interrupted(..)) => Status::OsvmFailed,
    }
}

fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(path).map_err(|error| {
        Failure::new("batch", format!("cannot read `{}`", path.display())).caused_by(&error)
    })?;
    Ok(Box::new(BufReader::new(file)))
}

impl Desk {
    /// The next call, as soon as it may be read; `None` when there is none any more.
    fn next(&self, is_over: impl Fn() -> bool) -> Option<(u64, Result<ToolCall, Failure>)> {
        let mut state = self.lock();
        loop {
            if is_over() {
                state.input = None;
            }
            state.input.as_ref()?;
            if state.next < state.printed.saturating_add(self.ahead) {
                break;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // Lines are read one at a time, by whoever needs one: their order is that of the file.
        loop {
            let line = read(state.input.as_mut()?);
            match line {
                Ok(Some(line)) if line.iter().all(u8::is_ascii_whitespace) => {}
                Ok(Some(line)) => {
                    let number = state.next;
                    state.next += 1;
                    drop(state);
                    return Some((number, parse(&line, number)));
                }
                Ok(None) => {
                    state.input = None;
                    return None;
                }
                Err(failure) => {
                    state.input = None;
                    state.failure = Some(failure);
                    return None;
                }
            }
        }
    }

    fn done(&self, number: u64, over: Over) {
        self.lock().results.insert(number, over);
        self.changed.notify_all();
    }

    /// A job has nothing more to do.
    fn leave(&self) {
        self.lock().working -= 1;
        self.changed.notify_all();
    }

    /// Reads no further line.
    fn end(&self) {
        self.lock().input = None;
        self.changed.notify_all();
    }

    /// The next result in order; `None` when there will be none any more.
    fn result(&self) -> Option<(u64, Over)> {
        let mut state = self.lock();
        loop {
            let number = state.printed;
            if let Some(over) = state.results.remove(&number) {
                state.printed += 1;
                self.changed.notify_all();
                return Some((number, over));
            }
            if state.working == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next line; one that is too long ends the batch, because its end can't be waited for.
fn read(input: &mut (impl BufRead + ?Sized)) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    let read = Read::take(input, MAX_LINE + 1).read_until(b'\n', &mut line);
    match read {
        Err(error) => Err(Failure::new("batch", "cannot read the batch").caused_by(&error)),
        Ok(0) => Ok(None),
        Ok(read) if read as u64 > MAX_LINE => {
            let message = format!("a line of the batch is longer than {MAX_LINE} bytes");
            Err(Failure::new("arguments_too_long", message))
        }
        Ok(_) => Ok(Some(line)),
    }
}

fn parse(line: &[u8], number: u64) -> Result<ToolCall, Failure> {
    let Line { server, tool, arguments } = serde_json::from_slice(line).map_err(|error| {
        let message = format!("call {number} of the batch cannot be read");
        let failure = Failure::new("batch", message).caused_by(&error);
        failure.hint(r#"a line is {"server":"system","tool":"echo","arguments":{"text":"hi"}}"#)
    })?;
    // An object without members, spelt in the way of the wire.
    let none = || serde_json::from_str("{}");
    let arguments = match arguments {
        Some(arguments) => arguments,
        None => none().map_err(|error| Failure::new("batch", "no arguments").caused_by(&error))?,
    };
    Ok(ToolCall { client: ClientName::new(CLI), ..ToolCall::new(server, tool, arguments) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_call_and_arguments_may_be_left_out() {
        let call = parse(br#"{"server":"s","tool":"t","arguments":{"a": 1.0}}"#, 0).unwrap();
        assert_eq!((call.server.as_str(), call.arguments.get()), ("s", r#"{"a": 1.0}"#));
        assert_eq!(parse(br#"{"server":"s","tool":"t"}"#, 0).unwrap().arguments.get(), "{}");
    }

    #[test]
    fn a_line_that_is_no_call_is_named_by_its_number() {
        for line in [&b"{"[..], b"[]", br#"{"server":"s"}"#, br#"{"server":"s","tool":"t","x":1}"#]
        {
            let failure = parse(line, 7).unwrap_err();
            assert_eq!(failure.message, "call 7 of the batch cannot be read");
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let failure = read(&mut BufReader::new(io::repeat(b'x'))).unwrap_err();
        assert_eq!(failure.code, "arguments_too_long");
    }

    #[test]
    fn the_last_line_needs_no_end() {
        let mut input = BufReader::new(&b"a\nb"[..]);
        assert_eq!(read(&mut input).unwrap().unwrap(), b"a\n");
        assert_eq!(read(&mut input).unwrap().unwrap(), b"b");
        assert_eq!(read(&mut input).unwrap(), None);
    }
}
