//! `osvm status`: the status line.

use super::{Outcome, Status};
use crate::cli::StatusArgs;
use crate::context::Context;
use crate::failure::Failure;
use std::time::{Duration, SystemTime};

/// Prints it. Without a daemon, osvm is up for as long as its oldest living VM.
pub(crate) fn run(context: &Context, args: &StatusArgs) -> Outcome {
    let env = context.env()?;
    let runtime = context.runtime(context.config(&env)?, &env)?;
    let guests = runtime.guests();
    let guests = guests.map_err(|error| Failure::from_error("cids", &error, error.hint()))?;
    let oldest = guests.iter().filter_map(|guest| guest.since).min();
    let up = oldest.and_then(|since| SystemTime::now().duration_since(since).ok());
    let status = runtime.status(up.unwrap_or(Duration::ZERO));
    let status = status.map_err(|error| Failure::from_error("status", &error, error.hint()))?;
    if args.json {
        context.printer.pretty_json(&status)?;
    } else {
        context.printer.result(&status.to_string())?;
    }
    Ok(Status::Success)
}
