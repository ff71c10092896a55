//! `osvm status`: the status line.

use super::{Outcome, Status};
use crate::cli::StatusArgs;
use crate::context::Context;
use crate::failure::Failure;
use osvm_daemon::Client;
use serde::Deserialize;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Prints it. osvm is up for as long as its daemon; without one, as its oldest living VM.
pub(crate) fn run(context: &Context, args: &StatusArgs) -> Outcome {
    let env = context.env()?;
    let runtime = context.runtime(context.config(&env)?, &env)?;
    let up = match daemon_up(&runtime.dirs().run) {
        Some(up) => up,
        None => {
            let guests = runtime.guests();
            let guests =
                guests.map_err(|error| Failure::from_error("cids", &error, error.hint()))?;
            let oldest = guests.iter().filter_map(|guest| guest.since).min();
            let up = oldest.and_then(|since| SystemTime::now().duration_since(since).ok());
            up.unwrap_or(Duration::ZERO)
        }
    };
    let status = runtime.status(up);
    let status = status.map_err(|error| Failure::from_error("status", &error, error.hint()))?;
    if args.json {
        context.printer.pretty_json(&status)?;
    } else {
        context.printer.result(&status.to_string())?;
    }
    Ok(Status::Success)
}

/// How long the daemon has been running, if there is one that says so.
fn daemon_up(dir: &Path) -> Option<Duration> {
    /// The one member that is of interest here.
    #[derive(Deserialize)]
    struct Told {
        up_secs: u64,
    }
    let status = Client::connect(dir).ok()?.status().ok()?;
    let told: Told = serde_json::from_str(status.get()).ok()?;
    Some(Duration::from_secs(told.up_secs))
}
