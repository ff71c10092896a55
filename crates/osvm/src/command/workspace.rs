//! `osvm workspace`: what calls changed in copies of a folder, and whether the folder gets it.

use super::{Outcome, Status};
use crate::cli::Workspace;
use crate::context::Context;
use crate::failure::Failure;
use crate::microvm::pending;
use crate::printer::{escape, table};
use osvm_microvm::workspace::{ApplyError, ChangeSet, Pending};
use serde_json::{Value, json};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Does what the command says.
pub(crate) fn run(context: &Context, command: &Workspace) -> Outcome {
    let pending = pending(&context.dirs(&context.env()?));
    match command {
        Workspace::Ls { json } => list(context, &pending, *json)?,
        Workspace::Show { id, json } => show(context, &pending, id.as_deref(), *json)?,
        Workspace::Apply { id, force } => apply(context, &pending, id.as_deref(), *force)?,
        Workspace::Rm { ids } => {
            for id in ids {
                pending.remove(id).map_err(|error| unusable(id, &error))?;
                context.printer.note(&format!("forgot the changes {id}"));
            }
        }
    }
    Ok(Status::Success)
}

fn unusable(id: &str, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::NotFound {
        return Failure::new("workspace", format!("no changes `{id}` wait"))
            .hint("`osvm workspace ls` lists those that do");
    }
    Failure::new("workspace", format!("cannot use the changes `{id}`")).caused_by(error)
}

fn all(pending: &Pending) -> Result<Vec<ChangeSet>, Failure> {
    let failed = |error: io::Error| {
        Failure::new("workspace", "cannot read the folder of changes").caused_by(&error)
    };
    pending.list().map_err(failed)
}

/// The changes that are named, or the only ones.
fn chosen(pending: &Pending, id: Option<&str>) -> Result<ChangeSet, Failure> {
    if let Some(id) = id {
        return pending.load(id).map_err(|error| unusable(id, &error));
    }
    let mut all = all(pending)?;
    match (all.pop(), all.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(Failure::new("workspace", "no changes wait")),
        (Some(_), more) => {
            Err(Failure::new("usage", format!("{} changes wait: name one", more + 1))
                .hint("`osvm workspace ls` lists them"))
        }
    }
}

fn age(set: &ChangeSet) -> u64 {
    let made = UNIX_EPOCH + Duration::from_secs(set.made_secs);
    SystemTime::now().duration_since(made).map_or(0, |age| age.as_secs())
}

fn told(set: &ChangeSet) -> Value {
    let change = |change: &osvm_microvm::workspace::Change| json!({"path": change.path, "change": change.kind(), "bytes": change.size()});
    let changes: Vec<_> = set.changes.iter().map(change).collect();
    json!({"id": set.id, "server": set.server, "host_path": set.host_path.display().to_string(),
        "age_secs": age(set), "changes": changes, "left_out": set.left_out})
}

fn list(context: &Context, pending: &Pending, as_json: bool) -> Result<(), Failure> {
    let all = all(pending)?;
    if as_json {
        return context.printer.pretty_json(&all.iter().map(told).collect::<Vec<_>>());
    }
    if all.is_empty() {
        context.printer.note("no changes wait");
        return Ok(());
    }
    let mut rows = vec![["ID", "SERVER", "FILES", "AGE", "FOLDER"].map(str::to_owned)];
    rows.extend(all.into_iter().map(|set| {
        let (age, files) = (format!("{}s", age(&set)), set.changes.len().to_string());
        [set.id, set.server, files, age, set.host_path.display().to_string()]
    }));
    context.printer.result(&table(&rows))
}

fn show(
    context: &Context,
    pending: &Pending,
    id: Option<&str>,
    as_json: bool,
) -> Result<(), Failure> {
    let set = chosen(pending, id)?;
    if as_json {
        return context.printer.pretty_json(&told(&set));
    }
    for path in &set.left_out {
        let path = escape(path);
        context.printer.note(&format!("note: `{path}` is left out; docs/microvm.md says why"));
    }
    let patch = pending.patch(&set.id).map_err(|error| unusable(&set.id, &error))?;
    // What a guest wrote: it may not speak to the terminal.
    for line in patch.lines() {
        context.printer.result(&escape(line))?;
    }
    Ok(())
}

fn apply(
    context: &Context,
    pending: &Pending,
    id: Option<&str>,
    force: bool,
) -> Result<(), Failure> {
    let set = chosen(pending, id)?;
    pending.apply(&set, force).map_err(|error| {
        let hint = match &error {
            ApplyError::Conflict { .. } => {
                let id = &set.id;
                Some(format!(
                    "look at `osvm workspace show {id}`, then `osvm workspace apply {id} --force` \
                     or `rm {id}`"
                ))
            }
            ApplyError::Io { .. } => None,
        };
        Failure::from_error("workspace", &error, hint)
    })?;
    let mut text = format!("applied to `{}`:", set.host_path.display());
    for change in &set.changes {
        text.push_str(&format!("\n  {} {}", change.kind(), escape(&change.path)));
    }
    context.printer.result(&text)
}
