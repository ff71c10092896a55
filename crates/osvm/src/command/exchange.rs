//! `osvm mcp import`, `osvm mcp export`: servers from and for other clients.

use super::add::explain;
use super::{Outcome, Status};
use crate::cli::{Export, ExportFormat, Import};
use crate::context::Context;
use crate::failure::Failure;
use crate::servers::{all, path};
use osvm_servers::{Format, Imported, Origin, Servers, file};
use serde::Serialize;
use std::path::Path;

/// The servers in a file of another client.
pub(super) fn read(path: &Path) -> Result<Imported, Failure> {
    let bytes = file::read(path)?
        .ok_or_else(|| Failure::new("servers", format!("`{}` does not exist", path.display())))?;
    osvm_servers::import(&bytes, path)
        .map_err(|error| Failure::from_error("servers", &error, error.hint()))
}

/// What an import did, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct Report {
    imported: Vec<String>,
    replaced: Vec<String>,
    skipped: Vec<String>,
    notes: Vec<Said>,
}

#[derive(Debug, Serialize)]
struct Said {
    server: String,
    note: String,
}

/// Takes servers over.
pub(crate) fn import(context: &Context, args: &Import) -> Outcome {
    let imported = read(&args.file)?;
    let env = context.env()?;
    let target = path(context, &env);
    let mut report = Report::default();
    report.notes.extend(
        imported.notes.into_iter().map(|note| Said { server: note.server, note: note.text }),
    );
    let mut take = |servers: &mut Servers| {
        for (name, entry) in &imported.servers {
            match (servers.get(name).is_some(), args.force) {
                (true, false) => {
                    report.skipped.push(name.clone());
                    continue;
                }
                (true, true) => report.replaced.push(name.clone()),
                (false, _) => report.imported.push(name.clone()),
            }
            servers.set(name, entry)?;
        }
        Ok::<_, Failure>(())
    };
    if args.dry_run {
        // The same work on a copy that nobody writes.
        take(&mut Servers::load(&target)?)?;
    } else {
        Servers::update(&target, take)?;
    }
    if args.json {
        context.printer.pretty_json(&report)?;
    } else {
        show(context, &report, args.dry_run)?;
    }
    if !args.dry_run {
        let config = context.config(&env)?;
        let taken =
            |name: &String| report.imported.contains(name) || report.replaced.contains(name);
        let added: Vec<_> = imported.servers.iter().filter(|(name, _)| taken(name)).collect();
        let added: Vec<_> = added.iter().map(|(name, entry)| (name.as_str(), entry)).collect();
        explain(context, &config, &added);
    }
    Ok(Status::Success)
}

fn show(context: &Context, report: &Report, dry_run: bool) -> Result<(), Failure> {
    let mut lines = Vec::new();
    let would = if dry_run { "would be " } else { "" };
    for (names, what) in [(&report.imported, "imported"), (&report.replaced, "replaced")] {
        lines.extend(names.iter().map(|name| format!("{would}{what}: {name}")));
    }
    let skipped = |name: &String| format!("skipped: {name} (there is one; `--force` replaces it)");
    lines.extend(report.skipped.iter().map(skipped));
    for said in &report.notes {
        context.printer.note(&format!("note: {}: {}", said.server, said.note));
    }
    if lines.is_empty() {
        lines.push("nothing to import".into());
    }
    context.printer.result(&lines.join("\n"))
}

/// Prints the servers of the file in a shape.
pub(crate) fn export(context: &Context, args: &Export) -> Outcome {
    let all = all(context, &context.env()?)?;
    let format = match args.format {
        ExportFormat::McpServers => Format::McpServers,
        ExportFormat::VsCode => Format::VsCode,
        ExportFormat::Codex => Format::Codex,
    };
    let servers = all.iter().filter(|listed| listed.origin != Origin::Builtin);
    let servers = servers.map(|listed| (listed.name.as_str(), &listed.entry));
    let exported = osvm_servers::export(servers, format);
    for note in &exported.notes {
        context.printer.note(&format!("note: {}: {}", note.server, note.text));
    }
    match &args.output {
        None => context.printer.result(&exported.text)?,
        Some(path) => {
            if path.exists() && !args.force {
                let message = format!("`{}` exists already", path.display());
                return Err(Failure::new("exists", message).hint("`--force` replaces it"));
            }
            file::replace(path, exported.text.as_bytes())?;
        }
    }
    Ok(Status::Success)
}
