//! `osvm secret`: set, list and remove secrets. A value comes from stdin or from a prompt, never from
//! the command line, which other processes can read; and it is never printed.

use super::{Outcome, Status};
use crate::broker;
use crate::cli::Secret;
use crate::context::Context;
use crate::failure::Failure;
use osvm_secrets::{MAX_VALUE, SecretName, SecretValue, SecretsError};
use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use serde_json::json;
use std::io::{self, BufRead as _, Read as _};
use zeroize::Zeroizing;

/// Sets, lists or removes.
pub(crate) fn run(context: &Context, command: &Secret) -> Outcome {
    let store = broker::secrets(&context.env()?);
    match command {
        Secret::Set { name } => {
            let name = parse(name)?;
            let value = value(context, &name)?;
            let new = store.set(name.clone(), value).map_err(|error| failure(&error))?;
            let word = if new { "set" } else { "replaced" };
            context.printer.note(&format!("{word} secret `{name}`"));
        }
        Secret::Ls { json } => {
            let names = store.names().map_err(|error| failure(&error))?;
            let names: Vec<_> = names.iter().map(SecretName::as_str).collect();
            if *json {
                context.printer.pretty_json(&json!(names))?;
            } else if names.is_empty() {
                context.printer.note("no secrets yet");
            } else {
                context.printer.result(&names.join("\n"))?;
            }
        }
        Secret::Rm { name } => {
            let name = parse(name)?;
            if !store.remove(&name).map_err(|error| failure(&error))? {
                let failure = Failure::new("secret", format!("there is no secret `{name}`"));
                return Err(failure.hint("`osvm secret ls` lists them"));
            }
            context.printer.note(&format!("removed secret `{name}`"));
        }
    }
    Ok(Status::Success)
}

fn parse(name: &str) -> Result<SecretName, Failure> {
    name.parse().map_err(|error| Failure::from_error("usage", &error, None))
}

fn failure(error: &SecretsError) -> Failure {
    Failure::from_error("secret", error, error.hint())
}

/// The value, from the terminal or from stdin.
fn value(context: &Context, name: &SecretName) -> Result<SecretValue, Failure> {
    let unreadable = |error: &io::Error| {
        Failure::new("secret", "cannot read the value from stdin").caused_by(error)
    };
    // With room for all of it, so that no copy stays behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_VALUE + 4));
    let input = io::stdin().lock();
    let mut input = input.take(MAX_VALUE as u64 + 3);
    if isatty(io::stdin()) {
        context.printer.question(&format!("value of `{name}` (it is not shown): "));
        let _quiet = Quiet::begin();
        input.read_until(b'\n', &mut bytes).map_err(|error| unreadable(&error))?;
        context.printer.note("");
    } else {
        input.read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    }
    let text = str::from_utf8(&bytes).map_err(|_| Failure::new("secret", "it is no text"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = Zeroizing::new(text.strip_suffix('\r').unwrap_or(text).to_owned());
    SecretValue::new(text)
        .map_err(|error| Failure::from_error("secret", &error, error.hint().map(str::to_owned)))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet(Option<Termios>);

impl Quiet {
    fn begin() -> Self {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(mut quiet) = before.clone() {
            quiet.local_modes.remove(LocalModes::ECHO);
            let _shown_then = tcsetattr(io::stdin(), OptionalActions::Flush, &quiet);
        }
        Self(before)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _stays_quiet = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}
