//! `osvm` and `osvm agent`: a conversation at the terminal. `osvm agent sessions`: the ones before.

use super::{Outcome, Status};
use crate::agent::{Look, Options, Plain, Session, feed, full_screen, sessions, watch_signals};
use crate::cli::{Agent, AgentCommand, ColorWhen};
use crate::context::Context;
use crate::failure::Failure;
use crate::printer::table;
use std::env;
use std::io::{self, IsTerminal as _};

/// What stderr gets while a screen is drawn, in the state directory.
const LOG: &str = "agent.log";

/// Talks until somebody leaves.
pub(crate) fn run(context: &Context, args: &Agent) -> Outcome {
    if let Some(AgentCommand::Sessions { json }) = &args.command {
        return list(context, *json);
    }
    let person = io::stdin().is_terminal() && io::stderr().is_terminal();
    let options =
        Options { direct: args.place.direct, resume: args.resume.clone(), yes: args.yes, person };
    let (to, happenings) = feed();
    let session = Session::open(context, &options, &to)?;
    // Until here a signal ends osvm, and with it whatever has been started.
    watch_signals(&to)?;
    let outcome = if args.plain || !has_screen() {
        let look = Look { json: false, person };
        Plain::new(&session, &happenings, context.printer, look).chat(&to)
    } else {
        let log = context.dirs(&context.env()?).state().join(LOG);
        full_screen(&session, &to, &happenings, has_colors(context), &log)
    };
    let id = session.id.clone();
    drop(happenings);
    session.close();
    if person && sessions(context, &context.env()?).has(&id) {
        context.printer.note(&format!("session {id}: `osvm agent --resume {id}` goes on with it"));
    }
    outcome
}

/// Whether there is a terminal to draw on.
fn has_screen() -> bool {
    let term = env::var("TERM").unwrap_or_default();
    io::stdin().is_terminal() && io::stdout().is_terminal() && !matches!(&*term, "" | "dumb")
}

fn has_colors(context: &Context) -> bool {
    match context.global.color {
        ColorWhen::Always => true,
        ColorWhen::Never => false,
        ColorWhen::Auto => env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

fn list(context: &Context, json: bool) -> Outcome {
    let sessions = sessions(context, &context.env()?).list();
    let sessions = sessions.map_err(|error| Failure::from_error("session", &error, None))?;
    if json {
        context.printer.pretty_json(&sessions)?;
        return Ok(Status::Success);
    }
    if sessions.is_empty() {
        context.printer.note("no sessions yet");
        return Ok(Status::Success);
    }
    let mut rows = vec![["SESSION", "STARTED", "FIRST PROMPT"].map(str::to_owned)];
    rows.extend(sessions.into_iter().map(|session| [session.id, session.started, session.first]));
    context.printer.result(&table(&rows))?;
    Ok(Status::Success)
}
