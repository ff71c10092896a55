//! `osvm mcp list|get|remove|enable|disable`: the list of servers.

use super::{Outcome, Status};
use crate::cli::{Get, List, ListFormat, Named};
use crate::context::Context;
use crate::failure::Failure;
use crate::printer::table;
use crate::servers::{all, path, unknown};
use osvm_policy::Config;
use osvm_servers::{Format, Listed, Origin, Plain, Servers, Stdio, Target, export, is_builtin};
use serde::Serialize;

/// One server, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Where its calls run, as far as its tools have no entries of their own.
    mode: &'static str,
    enabled: bool,
    /// `builtin`, `file`, or the variable of the environment.
    from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    /// The command line or the URL.
    target: String,
}

/// Lists all servers.
pub(crate) fn list(context: &Context, args: &List) -> Outcome {
    let env = context.env()?;
    let all = all(context, &env)?;
    let format = if args.json { ListFormat::Json } else { args.format };
    if format == ListFormat::McpServers {
        let in_file = all.iter().filter(|listed| listed.origin == Origin::File);
        let servers = in_file.map(|listed| (listed.name.as_str(), &listed.entry));
        context.printer.result(&export(servers, Format::McpServers).text)?;
        return Ok(Status::Success);
    }
    let config = context.config(&env)?;
    let rows: Vec<Row<'_>> = all.iter().map(|listed| row(&config, listed)).collect();
    if format == ListFormat::Json {
        context.printer.pretty_json(&rows)?;
        return Ok(Status::Success);
    }
    let mut lines = vec![["NAME", "TYPE", "MODE", "STATE", "FROM", "TARGET"].map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let state = if row.enabled { "enabled" } else { "disabled" };
        [row.name, row.kind, row.mode, state, row.from, &row.target].map(str::to_owned)
    }));
    context.printer.result(&table(&lines))?;
    Ok(Status::Success)
}

fn row<'a>(config: &Config, listed: &'a Listed) -> Row<'a> {
    Row {
        name: &listed.name,
        kind: listed.entry.target.as_str(),
        mode: mode(config, listed),
        enabled: listed.entry.enabled,
        from: origin(&listed.origin),
        source: listed.entry.source.as_deref(),
        description: listed.entry.description.as_deref(),
        target: listed.entry.summary(),
    }
}

fn origin(origin: &Origin) -> &str {
    match origin {
        Origin::Builtin => "builtin",
        Origin::File => "file",
        Origin::Environment(variable) => variable,
    }
}

/// Where the calls of a server run: what has an address runs there.
fn mode(config: &Config, listed: &Listed) -> &'static str {
    match listed.entry.target {
        Target::Http(_) => "remote",
        Target::Builtin | Target::Stdio(_) => config.resolve(&listed.name, "").mode.as_str(),
    }
}

/// Shows one server. Values of variables and headers may be credentials: they show only as JSON.
pub(crate) fn get(context: &Context, args: &Get) -> Outcome {
    let env = context.env()?;
    let all = all(context, &env)?;
    let Some(listed) = all.iter().find(|listed| listed.name == args.name) else {
        return Err(unknown(&args.name, all.iter().map(|listed| listed.name.as_str())));
    };
    if args.json {
        context.printer.pretty_json(&listed.entry.plain())?;
        return Ok(Status::Success);
    }
    let config = context.config(&env)?;
    let row = row(&config, listed);
    let mut lines = vec![
        ["name".to_owned(), row.name.to_owned()],
        ["type".to_owned(), row.kind.to_owned()],
        ["mode".to_owned(), row.mode.to_owned()],
        ["enabled".to_owned(), row.enabled.to_string()],
        ["from".to_owned(), row.from.to_owned()],
    ];
    for (name, value) in listed.entry.members() {
        match (name.as_str(), value) {
            ("type" | "enabled" | "args", _) => {}
            // An address may have a key behind its `?`.
            ("command" | "url", _) => lines.push([name, row.target.clone()]),
            ("env" | "headers", Plain::Map(pairs)) => {
                let names =
                    pairs.into_iter().map(|(name, value)| [String::new(), hidden(&name, &value)]);
                lines.extend(titled(&name, names));
            }
            (_, Plain::Map(pairs)) => {
                let names = pairs.into_iter().filter_map(|(name, secret)| match secret {
                    Plain::Text(secret) => {
                        Some([String::new(), format!("{name} is secret {secret}")])
                    }
                    _ => None,
                });
                lines.extend(titled(&name, names));
            }
            (_, Plain::Text(text)) => lines.push([name, text]),
            (_, Plain::Bool(_) | Plain::List(_)) => {}
        }
    }
    context.printer.result(&table(&lines))?;
    Ok(Status::Success)
}

/// A reference to a variable is no credential; what stands there in so many words may be one.
fn hidden(name: &str, value: &Plain) -> String {
    match value {
        Plain::Text(text) if text.starts_with("${") && text.ends_with('}') => {
            format!("{name} is {text}")
        }
        _ => format!("{name} is set"),
    }
}

fn titled(
    title: &str,
    lines: impl Iterator<Item = [String; 2]>,
) -> impl Iterator<Item = [String; 2]> {
    lines.enumerate().map(move |(index, [_, text])| {
        [if index == 0 { title.to_owned() } else { String::new() }, text]
    })
}

/// Takes a server off the list. A builtin one can only be disabled.
pub(crate) fn remove(context: &Context, args: &Named) -> Outcome {
    let env = context.env()?;
    let name = &args.name;
    check_in_file(context, name)?;
    if is_builtin(name) {
        let message = format!("`{name}` is a builtin server");
        return Err(Failure::new("usage", message).hint(format!("`osvm mcp disable {name}`")));
    }
    let removed =
        Servers::update(&path(context, &env), |servers| Ok::<_, Failure>(servers.remove(name)?))?;
    if !removed {
        return Err(unknown(name, std::iter::empty()));
    }
    context.printer.result(&format!("removed server `{name}`"))?;
    Ok(Status::Success)
}

/// Enables or disables a server.
pub(crate) fn set_enabled(context: &Context, args: &Named, enabled: bool) -> Outcome {
    let env = context.env()?;
    let name = &args.name;
    check_in_file(context, name)?;
    Servers::update(&path(context, &env), |servers| match servers.get(name) {
        // A builtin server is enabled as long as nothing says otherwise.
        None if enabled => Ok(()),
        _ => Ok::<_, Failure>(servers.set_enabled(name, enabled)?),
    })?;
    let word = if enabled { "enabled" } else { "disabled" };
    context.printer.result(&format!("{word} server `{name}`"))?;
    Ok(Status::Success)
}

/// A server that is to be changed is builtin or in the file.
fn check_in_file(context: &Context, name: &str) -> Result<(), Failure> {
    let all = all(context, &context.env()?)?;
    match all.iter().find(|listed| listed.name == *name) {
        None => Err(unknown(name, all.iter().map(|listed| listed.name.as_str()))),
        Some(Listed { origin: Origin::Environment(variable), .. }) => {
            let message = format!("server `{name}` is not in a file");
            Err(Failure::new("usage", message)
                .hint(format!("it comes from `{variable}`: unset it")))
        }
        Some(Listed { origin: Origin::Builtin | Origin::File, .. }) => Ok(()),
    }
}

/// Whether a server has a program to start.
pub(super) fn has_command(target: &Target) -> bool {
    matches!(target, Target::Stdio(Stdio { command: Some(_), .. }) | Target::Http(_))
}
