//! `osvm mcp trust`: tool definitions that a server changed, and whether they are believed.

use super::{Outcome, Status};
use crate::cli::Trust;
use crate::context::Context;
use crate::failure::Failure;
use crate::printer::table;
use osvm_rules::pins::{Changed, PinError};
use serde_json::Value;

/// Lists what changed, shows it, or believes one server.
pub(crate) fn run(context: &Context, args: &Trust) -> Outcome {
    let pins = context.pins(&context.env()?);
    let mut changed = pins.changed().map_err(|error| failure(&error))?;
    if let Some(server) = &args.server {
        changed.retain(|name, _| name == server);
        if !args.diff {
            let count = pins.trust(server).map_err(|error| failure(&error))?;
            let what = match count {
                0 => format!("`{server}` has changed nothing since it was believed"),
                count => format!("{count} changed tools of `{server}` are believed now"),
            };
            context.printer.note(&what);
            return Ok(Status::Success);
        }
    }
    if changed.is_empty() {
        context.printer.note("no server has changed a tool since it was believed");
    } else if args.diff {
        for (server, tools) in &changed {
            for tool in tools {
                context.printer.result(&diff(server, tool))?;
            }
        }
    } else {
        let mut rows = vec![["SERVER", "CHANGED TOOLS"].map(str::to_owned)];
        rows.extend(changed.into_iter().map(|(server, tools)| {
            let names: Vec<_> = tools.into_iter().map(|changed| changed.tool).collect();
            [server, names.join(", ")]
        }));
        context.printer.result(&table(&rows))?;
    }
    Ok(Status::Success)
}

/// The members that differ, before and now.
fn diff(server: &str, changed: &Changed) -> String {
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let (before, now) = (read(&changed.before), read(&changed.now));
    let mut text = format!("{server}/{}", changed.tool);
    let names = [&before, &now].into_iter().filter_map(Value::as_object).flat_map(|o| o.keys());
    let mut names: Vec<&String> = names.collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (old, new) = (before.get(name), now.get(name));
        if old != new {
            for (sign, value) in [('-', old), ('+', new)] {
                if let Some(value) = value {
                    text.push_str(&format!("\n  {sign} {name}: {value}"));
                }
            }
        }
    }
    text
}

fn failure(error: &PinError) -> Failure {
    Failure::from_error("pins", error, error.hint())
}
