//! `osvm status`: the status line, and how the servers behind running gateways are.

use super::{Outcome, Status};
use crate::cli::StatusArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::gateways::{self, Seen};
use crate::printer::table;
use osvm_daemon::Client;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What `--json` prints.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    status: osvm_runtime::Status,
    /// Each `osvm mcp serve` that runs.
    gateways: Vec<Seen>,
}

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
    let gateways = gateways::seen(context, &env);
    if args.json {
        context.printer.pretty_json(&Told { status, gateways })?;
        return Ok(Status::Success);
    }
    context.printer.result(&status.to_string())?;
    if gateways.iter().any(|gateway| !gateway.servers.is_empty()) {
        let head = ["GATEWAY", "SERVER", "MODE", "ERA", "BREAKER", "STARTS", "NOTE"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(gateways.iter().flat_map(Seen::rows));
        context.printer.result(&table(&rows))?;
    }
    Ok(Status::Success)
}

/// How long the daemon has been running, if there is one that says so.
fn daemon_up(dir: &Path) -> Option<Duration> {
    /// The one member that is of interest here.
    #[derive(Deserialize)]
    struct OfDaemon {
        up_secs: u64,
    }
    let status = Client::connect(dir).ok()?.status().ok()?;
    let told: OfDaemon = serde_json::from_str(status.get()).ok()?;
    Some(Duration::from_secs(told.up_secs))
}
