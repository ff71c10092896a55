//! `osvm client ls|connect|disconnect`: osvm as a server in the files of other MCP clients.
//!
//! A change is shown before it is made, the file is copied beside itself, and only then replaced.

use super::{Outcome, Status};
use crate::cli::{self, ClientName, Connect};
use crate::confirm::confirm;
use crate::context::Context;
use crate::failure::Failure;
use crate::printer::table;
use osvm_policy::Env;
use osvm_servers::client::{Client, ClientError, Places};
use osvm_servers::file;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Runs one of the commands below `osvm client`.
pub(crate) fn run(context: &Context, command: &cli::Client) -> Outcome {
    match command {
        cli::Client::Ls { project, json } => list(context, project.as_deref(), *json),
        cli::Client::Connect(args) => connect(context, args),
        cli::Client::Disconnect(args) => disconnect(context, args),
    }
}

impl From<ClientName> for Client {
    fn from(name: ClientName) -> Self {
        match name {
            ClientName::ClaudeDesktop => Self::ClaudeDesktop,
            ClientName::ClaudeCode => Self::ClaudeCode,
            ClientName::Cursor => Self::Cursor,
            ClientName::VsCode => Self::VsCode,
            ClientName::Codex => Self::Codex,
        }
    }
}

fn places(env: &Env) -> Places {
    let dir = |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    Places {
        home: env.home.clone(),
        xdg_config_home: env.xdg_config_home.clone(),
        claude_config_dir: dir("CLAUDE_CONFIG_DIR"),
        codex_home: dir("CODEX_HOME"),
    }
}

/// One client, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    client: &'static str,
    /// `connected`, `not connected`, `no file` or `unreadable`.
    state: &'static str,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn list(context: &Context, project: Option<&Path>, json: bool) -> Outcome {
    let places = places(&context.env()?);
    let rows: Vec<Row> = Client::ALL
        .into_iter()
        .filter_map(|client| {
            let path = match project {
                Some(project) => client.project_file(project)?,
                None => client.user_file(&places),
            };
            let (state, error) = match state(client, &path) {
                Ok(state) => (state, None),
                Err(failure) => ("unreadable", Some(failure.message)),
            };
            let file = path.display().to_string();
            Some(Row { client: client.as_str(), state, file, error })
        })
        .collect();
    if json {
        context.printer.pretty_json(&rows)?;
        return Ok(Status::Success);
    }
    let mut lines = vec![["CLIENT", "STATE", "FILE"].map(str::to_owned)];
    lines.extend(rows.iter().map(|row| [row.client, row.state, &row.file].map(str::to_owned)));
    context.printer.result(&table(&lines))?;
    for error in rows.iter().filter_map(|row| row.error.as_deref()) {
        context.printer.note(&format!("warning: {error}"));
    }
    Ok(Status::Success)
}

fn state(client: Client, path: &Path) -> Result<&'static str, Failure> {
    let Some((_, text)) = read(path)? else { return Ok("no file") };
    let found = client.find(&text, path).map_err(|error| unreadable(&error))?;
    Ok(if found.is_some() { "connected" } else { "not connected" })
}

/// The bytes of a client's file, and the same as text.
fn read(path: &Path) -> Result<Option<(Vec<u8>, String)>, Failure> {
    let Some(bytes) = file::read(path)? else { return Ok(None) };
    match String::from_utf8(bytes.clone()) {
        Ok(text) => Ok(Some((bytes, text))),
        Err(_) => Err(Failure::new("client", format!("`{}` is not UTF-8 text", path.display()))),
    }
}

fn unreadable(error: &ClientError) -> Failure {
    Failure::from_error("client", error, None)
}

/// Where a client keeps its servers, for the user or for a project.
fn file_of(context: &Context, args: &Connect) -> Result<PathBuf, Failure> {
    let client = Client::from(args.client);
    match &args.project {
        None => Ok(client.user_file(&places(&context.env()?))),
        Some(project) => client.project_file(project).ok_or_else(|| {
            Failure::new("client", format!("`{}` has no files of projects", client.as_str()))
                .hint("leave out `--project`")
        }),
    }
}

fn connect(context: &Context, args: &Connect) -> Outcome {
    let client = Client::from(args.client);
    let path = file_of(context, args)?;
    let (command, arguments) = own_command(context, args.project.is_some())?;
    change(context, args, &path, |text| client.connect(text, &path, &command, &arguments).map(Some))
}

fn disconnect(context: &Context, args: &Connect) -> Outcome {
    let client = Client::from(args.client);
    let path = file_of(context, args)?;
    change(context, args, &path, |text| client.disconnect(text, &path))
}

/// How a client starts this osvm.
fn own_command(context: &Context, shared: bool) -> Result<(String, Vec<String>), Failure> {
    // Others who work in the project have theirs elsewhere. A client that was started from a
    // desktop may not have the user's PATH, so for the user it is the whole path.
    let command = if shared {
        "osvm".to_owned()
    } else {
        let own = std::env::current_exe()
            .map_err(|error| Failure::new("host", "cannot tell where osvm is").caused_by(&error))?;
        own.to_str().map(str::to_owned).ok_or_else(|| {
            Failure::new("host", format!("the path `{}` is not UTF-8", own.display()))
        })?
    };
    let mut arguments = Vec::new();
    if let Some(config) = &context.global.config {
        let config = std::path::absolute(config).unwrap_or_else(|_| config.clone());
        arguments.extend(["--config".to_owned(), config.display().to_string()]);
    }
    arguments.extend(["mcp".to_owned(), "serve".to_owned()]);
    Ok((command, arguments))
}

/// Shows the change that `edit` makes to the file at `path`, and makes it if the user wants it.
fn change(
    context: &Context,
    args: &Connect,
    path: &Path,
    edit: impl Fn(&str) -> Result<Option<String>, ClientError>,
) -> Outcome {
    let before = read(path)?;
    let text = before.as_ref().map(|(_, text)| text.as_str()).unwrap_or_default();
    let after = edit(text).map_err(|error| unreadable(&error))?;
    let Some(after) = after.filter(|after| after != text) else {
        context.printer.result(&format!("`{}` stays as it is", path.display()))?;
        return Ok(Status::Success);
    };
    context.printer.result(&diff(path, text, &after))?;
    if args.dry_run {
        return Ok(Status::Success);
    }
    confirm(context.printer, &format!("Change `{}`?", path.display()), args.yes)?;
    let _lock = file::lock(path)?;
    // The client may have written meanwhile; what was shown is then no longer what would happen.
    if read(path)? != before {
        let message = format!("`{}` was changed meanwhile", path.display());
        return Err(Failure::new("client", message).hint("try again"));
    }
    if let Some((bytes, _)) = &before {
        let backup = file::back_up(path, bytes)?;
        context.printer.note(&format!("the old file is `{}`", backup.display()));
    }
    file::replace(path, after.as_bytes())?;
    context.printer.note(&format!("changed `{}`: restart the client", path.display()));
    Ok(Status::Success)
}

fn diff(path: &Path, before: &str, after: &str) -> String {
    let name = path.display().to_string();
    let diff = similar::TextDiff::from_lines(before, after);
    diff.unified_diff().context_radius(3).header(&name, &name).to_string()
}
