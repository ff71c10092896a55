//! Servers in the shapes of other clients.
//!
//! Builtin servers exist only in osvm, and one without a command runs only from an image: both are
//! left out, and a note says so.

use crate::codex;
use crate::entry::{Entry, Stdio, Target};
use crate::import::Note;
use crate::plain::Plain;

/// A shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `{"mcpServers": {…}}` with osvm's own members, as Claude and Cursor read it and osvm writes it.
    McpServers,
    /// `{"servers": {…}, "inputs": […]}`.
    VsCode,
    /// `[mcp_servers.NAME]`.
    Codex,
}

/// The text of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The text.
    pub text: String,
    /// What the shape can't say.
    pub notes: Vec<Note>,
}

/// Writes servers in a shape.
pub fn export<'e>(
    servers: impl IntoIterator<Item = (&'e str, &'e Entry)>,
    format: Format,
) -> Exported {
    let mut notes = Vec::new();
    let mut kept = Vec::new();
    for (name, entry) in servers {
        let note = |text: &str| Note { server: name.to_owned(), text: text.to_owned() };
        match &entry.target {
            Target::Builtin => notes.push(note("left out: it is part of osvm")),
            Target::Stdio(Stdio { command: None, .. }) if format != Format::McpServers => {
                notes.push(note("left out: it has no command, only a source"));
            }
            Target::Stdio(_) | Target::Http(_) => kept.push((name, entry)),
        }
    }
    let text = match format {
        Format::McpServers => mcp_servers(&kept),
        Format::VsCode => vs_code(&kept, &mut notes),
        Format::Codex => codex_text(&kept, &mut notes),
    };
    Exported { text, notes }
}

fn mcp_servers(servers: &[(&str, &Entry)]) -> String {
    let servers = servers.iter().map(|(name, entry)| ((*name).to_owned(), entry.plain())).collect();
    pretty(&Plain::Map(vec![("mcpServers".into(), Plain::Map(servers))]))
}

fn vs_code(servers: &[(&str, &Entry)], notes: &mut Vec<Note>) -> String {
    let mut inputs: Vec<String> = Vec::new();
    let mut written = Vec::new();
    for (name, entry) in servers {
        if !entry.enabled {
            let text = "left out: it is disabled, and the shape can't say so".to_owned();
            notes.push(Note { server: (*name).to_owned(), text });
            continue;
        }
        written.push(((*name).to_owned(), vs_code_entry(entry, &mut inputs)));
    }
    let mut root = vec![("servers".to_owned(), Plain::Map(written))];
    inputs.sort();
    inputs.dedup();
    if !inputs.is_empty() {
        let input = |id: String| {
            Plain::Map(vec![
                ("type".into(), "promptString".into()),
                ("description".into(), id.as_str().into()),
                ("id".into(), Plain::Text(id)),
                ("password".into(), Plain::Bool(true)),
            ])
        };
        root.push(("inputs".into(), Plain::List(inputs.into_iter().map(input).collect())));
    }
    pretty(&Plain::Map(root))
}

/// VS Code asks its user for what is a secret here.
fn vs_code_entry(entry: &Entry, inputs: &mut Vec<String>) -> Plain {
    let mut entry = Entry { source: None, description: None, ..entry.clone() };
    let never: Result<(), std::convert::Infallible> = entry.try_map(|text| {
        *text = text.replace("${", "${env:");
        Ok(())
    });
    let Ok(()) = never;
    let mut input = |secret: String| {
        let value = format!("${{input:{secret}}}");
        inputs.push(secret);
        value
    };
    match &mut entry.target {
        Target::Builtin => {}
        Target::Stdio(stdio) => {
            for (name, secret) in stdio.env_from_secret.drain(..) {
                let value = input(secret);
                stdio.env.push((name, value));
            }
        }
        Target::Http(http) => {
            for (name, secret) in http.headers_from_secret.drain(..) {
                let value = input(secret);
                http.headers.push((name, value));
            }
            if let Some(secret) = http.bearer_from_secret.take() {
                let value = format!("Bearer {}", input(secret));
                http.headers.push(("Authorization".into(), value));
            }
        }
    }
    entry.plain()
}

fn codex_text(servers: &[(&str, &Entry)], notes: &mut Vec<Note>) -> String {
    let mut text = String::new();
    for (name, entry) in servers {
        let (members, said) = codex::members(entry);
        let server = (*name).to_owned();
        notes.extend(said.into_iter().map(|text| Note { server: server.clone(), text }));
        // A text that this function made is TOML with such a table.
        if let Ok(more) = codex::set(&text, name, members) {
            text = more;
        }
    }
    text
}

fn pretty(value: &Plain) -> String {
    // Nothing in `Plain` can fail to be JSON: names are strings, and there are no numbers.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
