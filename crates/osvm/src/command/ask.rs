//! `osvm ask` and `osvm plan`: one prompt, and the answer or the plan.

use super::Outcome;
use crate::agent::{Look, Options, Plain, Session, Work, feed, watch_signals};
use crate::cli::{Ask, Plan};
use crate::context::Context;
use crate::failure::Failure;
use osvm_agent::MAX_PROMPT;
use std::io::{self, IsTerminal as _, Read as _};

/// Answers one prompt.
pub(crate) fn run(context: &Context, args: &Ask) -> Outcome {
    let (text, typed) = prompt(&args.text)?;
    // Whoever pipes the prompt in can't be asked on the same pipe.
    let person = !typed && io::stdin().is_terminal() && io::stderr().is_terminal() && !args.json;
    let options =
        Options { direct: args.place.direct, resume: args.resume.clone(), yes: args.yes, person };
    let look = Look { json: args.json, person };
    once(context, &options, look, Work::Prompt(text))
}

/// Shows what a prompt would have called first.
pub(crate) fn plan(context: &Context, args: &Plan) -> Outcome {
    let (text, _) = prompt(&args.text)?;
    let options = Options { direct: args.place.direct, resume: None, yes: None, person: false };
    once(context, &options, Look { json: args.json, person: false }, Work::Plan(text))
}

fn once(context: &Context, options: &Options, look: Look, work: Work) -> Outcome {
    let (to, happenings) = feed();
    let session = Session::open(context, options, &to)?;
    // Until here a signal ends osvm, and with it whatever has been started.
    watch_signals(&to)?;
    let plain = Plain::new(&session, &happenings, context.printer, look);
    let plain = if look.person { plain.hearing(&to)? } else { plain };
    let outcome = plain.once(work, 0 < context.global.verbose);
    drop(happenings);
    session.close();
    outcome
}

/// The prompt, and whether it was read from stdin.
fn prompt(words: &[String]) -> Result<(String, bool), Failure> {
    let from_stdin = words.iter().map(String::as_str).eq(["-"]);
    let text = if from_stdin { read()? } else { words.join(" ") };
    if MAX_PROMPT < text.len() {
        let message = format!("the prompt has more than {MAX_PROMPT} bytes, which is the limit");
        return Err(Failure::new("usage", message));
    }
    if text.trim().is_empty() {
        return Err(Failure::new("usage", "the prompt is empty"));
    }
    Ok((text, from_stdin))
}

fn read() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let longest = u64::try_from(MAX_PROMPT).unwrap_or(u64::MAX).saturating_add(1);
    let read = io::stdin().lock().take(longest).read_to_end(&mut bytes);
    read.map_err(|error| Failure::new("input", "cannot read stdin").caused_by(&error))?;
    if usize::try_from(longest).is_ok_and(|longest| longest <= bytes.len()) {
        let message = format!("the prompt has more than {MAX_PROMPT} bytes, which is the limit");
        return Err(Failure::new("usage", message));
    }
    String::from_utf8(bytes)
        .map_err(|error| Failure::new("usage", "the prompt is not UTF-8").caused_by(&error))
}
