//! `osvm snapshot`: the templates that calls get copies of.

use super::{Outcome, Status};
use crate::cli::Snapshot;
use crate::context::Context;
use crate::failure::Failure;
use crate::microvm::{MicroVms, runs_in_one, snapshots};
use crate::printer::table;
use crate::servers;
use osvm_microvm::snapshots::Saved;
use osvm_policy::Life;
use osvm_upstream::{Stop, UpstreamError};
use serde_json::json;
use std::io;
use std::time::{Instant, SystemTime};

/// Does what the command says.
pub(crate) fn run(context: &Context, command: &Snapshot) -> Outcome {
    match command {
        Snapshot::Ls { json } => list(context, *json)?,
        Snapshot::Rm { names } => {
            for name in names {
                remove(context, name, true)?;
            }
        }
        Snapshot::Rebuild(args) => rebuild(context, &args.server)?,
    }
    Ok(Status::Success)
}

fn all(context: &Context) -> Result<Vec<Saved>, Failure> {
    let all = snapshots(&context.env()?.home).list();
    all.map_err(|error| unusable(&error))
}

fn unusable(error: &io::Error) -> Failure {
    Failure::new("host", "cannot use the folder of templates").caused_by(error)
}

fn list(context: &Context, as_json: bool) -> Result<(), Failure> {
    let all = all(context)?;
    let age =
        |saved: &Saved| SystemTime::now().duration_since(saved.made).map_or(0, |age| age.as_secs());
    if as_json {
        let all: Vec<_> = all
            .iter()
            .map(|saved| {
                json!({"key": saved.key, "server": saved.name, "memory_mb": saved.memory_mb,
                    "bytes": saved.bytes, "age_secs": age(saved), "usable": saved.whole})
            })
            .collect();
        return context.printer.pretty_json(&all);
    }
    if all.is_empty() {
        context.printer.note("no templates yet: the first call of a server makes one");
        return Ok(());
    }
    let mut rows = vec![["KEY", "SERVER", "MEMORY", "DISK", "AGE", "USABLE"].map(str::to_owned)];
    rows.extend(all.iter().map(|saved| {
        let usable = if saved.whole { "yes" } else { "no: its files were changed" };
        [
            saved.key.clone(),
            saved.name.clone(),
            format!("{} MiB", saved.memory_mb),
            format!("{} MB", saved.bytes / 1_000_000),
            format!("{}s", age(saved)),
            usable.to_owned(),
        ]
    }));
    context.printer.result(&table(&rows))
}

/// Removes the templates of a server, or the one of a key.
fn remove(context: &Context, name: &str, needed: bool) -> Result<(), Failure> {
    let place = snapshots(&context.env()?.home);
    let mut removed = false;
    for saved in all(context)?.iter().filter(|saved| saved.name == name || saved.key == name) {
        place.remove(&saved.key).map_err(|error| unusable(&error))?;
        context.printer.note(&format!("removed the template of `{}`", saved.name));
        removed = true;
    }
    if needed && !removed {
        return Err(Failure::new("unknown_server", format!("there is no template of `{name}`"))
            .hint("`osvm snapshot ls` lists them"));
    }
    Ok(())
}

fn rebuild(context: &Context, name: &str) -> Result<(), Failure> {
    let env = context.env()?;
    let config = context.config(&env)?;
    let configured = servers::find(context, name)?;
    if !runs_in_one(&config, &configured) || config.resolve(name, "").life != Life::Clone {
        return Err(Failure::new("denied", format!("calls of `{name}` get no copies of it"))
            .hint(format!("`osvm mcp demote {name}` has them get some")));
    }
    remove(context, name, false)?;
    let started = Instant::now();
    let in_vm = MicroVms::new(context, &env).place(context, &config, &configured, None)?;
    in_vm.placed.warm_up(&Stop::default()).map_err(|source| {
        let error = UpstreamError::Start { server: name.to_owned(), source };
        Failure::from_error("server", &error, error.hint().map(str::to_owned))
    })?;
    let seconds = started.elapsed().as_secs_f64();
    context.printer.result(&format!("made the template of `{name}` in {seconds:.1} s"))
}
