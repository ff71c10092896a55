//! Servers out of the files of other clients: `mcpServers`, VS Code's `servers`, Codex' TOML, and
//! `server.json` of the registry.
//!
//! What can't be taken over is left out or switched off, and a note says so. One server that is
//! wrong does not keep the others out.

use crate::entry::{Entry, Target, is_name};
use crate::error::{Problem, ProblemKind, Problems};
use crate::json::{self, Dialect, Reader};
use crate::{codex, read, registry};
use jsonc_parser::ast::Object;
use osvm_policy::{member_pointer, printable};
use std::path::Path;
use thiserror::Error;

/// Why a file has no servers to import.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImportError {
    /// Its text is wrong.
    #[error(transparent)]
    Invalid(#[from] Problems),
    /// It is none of the known shapes.
    #[error("`{0}` has no `mcpServers`, `servers`, `mcp_servers` or `packages`")]
    Shape(String),
}

impl ImportError {
    /// What the user can do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Shape(_) => Some(
                "it reads files of Claude, Cursor, VS Code and Codex, and `server.json`".into(),
            ),
            Self::Invalid(_) => None,
        }
    }
}

/// What a file has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Servers, in the order of the file.
    pub servers: Vec<(String, Entry)>,
    /// What the user should know, in the order of the file.
    pub notes: Vec<Note>,
}

/// Something about one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The server.
    pub server: String,
    /// What.
    pub text: String,
}

impl Imported {
    pub(crate) fn note(&mut self, server: &str, text: impl Into<String>) {
        self.notes.push(Note { server: printable(server), text: text.into() });
    }
}

/// Reads a file; `path` is for messages, and says by `.toml` that it is TOML.
///
/// # Errors
///
/// It is not JSON or TOML, or has none of the known shapes.
pub fn import(bytes: &[u8], path: &Path) -> Result<Imported, ImportError> {
    let fail = |problem| Problems { path: path.to_owned(), problems: vec![problem], more: 0 };
    let text = json::decode(bytes).map_err(fail)?;
    if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("toml")) {
        return codex::import(text).map_err(|problem| match problem {
            Some(problem) => fail(problem).into(),
            None => ImportError::Shape(path.display().to_string()),
        });
    }
    let value = json::parse(text, Dialect::Comments).map_err(fail)?;
    let shape = || ImportError::Shape(path.display().to_string());
    let root = value.as_ref().and_then(|value| value.as_object()).ok_or_else(shape)?;
    for name in ["mcpServers", "servers", "mcp_servers"] {
        if let Some(servers) = root.get_object(name) {
            let mut imported = Imported::default();
            for property in &servers.properties {
                one(&mut imported, text, name, property.name.as_str(), property.value.as_object());
            }
            return Ok(imported);
        }
    }
    if root.get("packages").is_some() || root.get("remotes").is_some() {
        return Ok(registry::import(root));
    }
    Err(shape())
}

/// Reads one server of the `mcpServers` shape.
fn one(imported: &mut Imported, text: &str, parent: &str, name: &str, object: Option<&Object<'_>>) {
    let server = usable_name(name);
    let Some(object) = object else {
        imported.note(name, "left out: it is not an object");
        return;
    };
    let mut reader = Reader::new(text);
    let entry = read::entry(&mut reader, &server, object, &member_pointer(parent, name));
    let entry = match (reader.finish(Path::new("")), entry) {
        (Err(problems), _) => {
            let reasons: Vec<_> = problems.problems.iter().map(Problem::to_string).collect();
            imported.note(name, format!("left out: {}", reasons.join("; ")));
            return;
        }
        (Ok(()), None) => return,
        (Ok(()), Some(entry)) => entry,
    };
    if server != name {
        imported.note(name, format!("is called `{server}` here: a name is {}", crate::NAME_RULE));
    }
    if imported.servers.iter().any(|(known, _)| *known == server) {
        imported.note(name, format!("left out: there is a `{server}` before it"));
        return;
    }
    let entry = taken_over(imported, &server, entry);
    imported.servers.push((server, entry));
}

/// `name` with what no name can have replaced by `-`.
pub(crate) fn usable_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let usable: String = name.chars().take(64).map(|c| if plain(c) { c } else { '-' }).collect();
    if is_name(&usable) { usable } else { "server".into() }
}

/// Turns what only the other client understands into what osvm does.
pub(crate) fn taken_over(imported: &mut Imported, server: &str, mut entry: Entry) -> Entry {
    inputs_to_secrets(imported, server, &mut entry);
    let mut strange: Vec<String> = Vec::new();
    let never: Result<(), std::convert::Infallible> = entry.try_map(|text| {
        *text = text.replace("${env:", "${").replace("${userHome}", "${HOME}");
        let references = text.split("${").skip(1).filter_map(|rest| rest.split_once('}'));
        strange.extend(references.filter_map(|(inner, _)| {
            let foreign = ["input:", "workspaceFolder", "workspaceRoot", "command:", "config:"];
            foreign.iter().any(|word| inner.starts_with(word)).then(|| printable(inner))
        }));
        Ok(())
    });
    let Ok(()) = never;
    if let Some(first) = strange.first() {
        entry.enabled = false;
        imported.note(server, format!("disabled: only the other client knows `${{{first}}}`"));
    }
    entry
}

/// What VS Code asks its user for is a secret of the same name here.
fn inputs_to_secrets(imported: &mut Imported, server: &str, entry: &mut Entry) {
    let mut secrets: Vec<String> = Vec::new();
    let mut move_out = |pairs: &mut Vec<(String, String)>, to: &mut Vec<(String, String)>| {
        pairs.retain(|(name, value)| {
            let Some(secret) = input(value) else { return true };
            secrets.push(secret.clone());
            to.push((name.clone(), secret));
            false
        });
    };
    match &mut entry.target {
        Target::Builtin => {}
        Target::Stdio(stdio) => move_out(&mut stdio.env, &mut stdio.env_from_secret),
        Target::Http(http) => {
            move_out(&mut http.headers, &mut http.headers_from_secret);
            let bearer = |(name, value): &(String, String)| {
                let secret = value.strip_prefix("Bearer ").and_then(input)?;
                name.eq_ignore_ascii_case("authorization").then_some(secret)
            };
            if let Some(secret) = http.headers.iter().find_map(bearer) {
                http.headers.retain(|header| bearer(header).is_none());
                secrets.push(secret.clone());
                http.bearer_from_secret = Some(secret);
            }
        }
    }
    secrets.sort();
    secrets.dedup();
    for secret in secrets {
        imported.note(server, format!("needs secret `{secret}`: `osvm secret set {secret}`"));
    }
}

/// The name in `${input:NAME}`, if that is all there is and a secret can have it.
fn input(value: &str) -> Option<String> {
    let name = value.strip_prefix("${input:")?.strip_suffix('}')?;
    read::secret_name(name).is_ok().then(|| name.to_owned())
}

/// A problem of a file that is not JSON.
pub(crate) fn not_toml(text: &str, error: &toml_edit::TomlError) -> Problem {
    let location = json::locate(text, error.span().map_or(0, |span| span.start));
    let kind = ProblemKind::Syntax { language: "TOML", reason: printable(error.message()) };
    Problem { location, pointer: String::new(), kind }
}

#[cfg(test)]
mod tests;
