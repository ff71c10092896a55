//! Codex' `config.toml`: `[mcp_servers.NAME]`.

use crate::entry::{Entry, Http, Stdio, Target, is_builtin};
use crate::error::Problem;
use crate::import::{Imported, not_toml, taken_over, usable_name};
use crate::plain::Plain;
use crate::read;
use osvm_policy::printable;
use toml_edit::{DocumentMut, Item, TableLike};

/// The table that holds the servers.
pub(crate) const TABLE: &str = "mcp_servers";

/// Members that say how, not what; osvm has settings of its own for that.
const IGNORED: [&str; 4] =
    ["startup_timeout_sec", "startup_timeout_ms", "tool_timeout_sec", "required"];

/// The servers of a file. `Err(None)` means that there is no such table.
pub(crate) fn import(text: &str) -> Result<Imported, Option<Problem>> {
    let document: DocumentMut = text.parse().map_err(|error| Some(not_toml(text, &error)))?;
    let servers = document.get(TABLE).and_then(Item::as_table_like).ok_or(None)?;
    let mut imported = Imported::default();
    for (name, item) in servers.iter() {
        let server = usable_name(name);
        match item
            .as_table_like()
            .ok_or("it is not a table")
            .and_then(|table| entry(&server, table))
        {
            Ok((entry, notes)) => {
                for note in notes {
                    imported.note(name, note);
                }
                let entry = taken_over(&mut imported, &server, entry);
                imported.servers.push((server, entry));
            }
            Err(reason) => imported.note(name, format!("left out: {reason}")),
        }
    }
    Ok(imported)
}

fn entry(name: &str, table: &dyn TableLike) -> Result<(Entry, Vec<String>), &'static str> {
    if is_builtin(name) {
        return Err("this is the name of a builtin server");
    }
    let mut notes = Vec::new();
    let known = [
        "command",
        "args",
        "env",
        "env_vars",
        "cwd",
        "url",
        "bearer_token_env_var",
        "http_headers",
        "env_http_headers",
        "enabled",
    ];
    for (key, _) in table.iter() {
        if !known.contains(&key) && !IGNORED.contains(&key) {
            notes.push(format!("`{}` is not taken over", printable(key)));
        }
    }
    let target = match (string(table, "command")?, string(table, "url")?) {
        (Some(command), _) => Target::Stdio(stdio(table, command)?),
        (None, Some(url)) => Target::Http(http(table, url)?),
        (None, None) => return Err("it has no `command` or `url`"),
    };
    let enabled = match table.get("enabled") {
        None => true,
        Some(item) => item.as_bool().ok_or("`enabled` is not true or false")?,
    };
    Ok((Entry { enabled, ..Entry::new(target) }, notes))
}

fn stdio(table: &dyn TableLike, command: String) -> Result<Stdio, &'static str> {
    if command.is_empty() || command.contains('\0') {
        return Err("`command` is no program");
    }
    let mut env = pairs(table, "env")?;
    // Variables that Codex hands on from its own environment.
    for name in strings(table, "env_vars")? {
        let value = format!("${{{name}}}");
        env.push((name, value));
    }
    for (name, value) in &env {
        read::variable_name(name)?;
        if value.contains('\0') {
            return Err("a value has no NUL");
        }
    }
    Ok(Stdio {
        command: Some(command),
        args: strings(table, "args")?,
        env,
        env_from_secret: Vec::new(),
        cwd: string(table, "cwd")?,
    })
}

fn http(table: &dyn TableLike, url: String) -> Result<Http, &'static str> {
    read::check_url(&url)?;
    let mut headers = pairs(table, "http_headers")?;
    let from_env = pairs(table, "env_http_headers")?;
    headers.extend(from_env.into_iter().map(|(name, var)| (name, format!("${{{var}}}"))));
    if let Some(variable) = string(table, "bearer_token_env_var")? {
        headers.push(("Authorization".into(), format!("Bearer ${{{variable}}}")));
    }
    for (name, value) in &headers {
        read::header(name, value)?;
    }
    Ok(Http { url, headers, ..Http::default() })
}

fn string(table: &dyn TableLike, name: &str) -> Result<Option<String>, &'static str> {
    match table.get(name) {
        None => Ok(None),
        Some(item) => item
            .as_str()
            .map(|text| Some(text.to_owned()))
            .ok_or("it has a member of the wrong type"),
    }
}

fn strings(table: &dyn TableLike, name: &str) -> Result<Vec<String>, &'static str> {
    let Some(item) = table.get(name) else { return Ok(Vec::new()) };
    let list = item.as_array().ok_or("it has a member of the wrong type")?;
    let text = |value: &toml_edit::Value| value.as_str().map(str::to_owned);
    list.iter().map(text).collect::<Option<_>>().ok_or("it has a list of something else than text")
}

fn pairs(table: &dyn TableLike, name: &str) -> Result<Vec<(String, String)>, &'static str> {
    let Some(item) = table.get(name) else { return Ok(Vec::new()) };
    let members = item.as_table_like().ok_or("it has a member of the wrong type")?;
    let pair = |(key, value): (&str, &Item)| Some((key.to_owned(), value.as_str()?.to_owned()));
    members.iter().map(pair).collect::<Option<_>>().ok_or("it has a value that is no text")
}

/// The members that Codex reads, and what it can't be told.
pub(crate) fn members(entry: &Entry) -> (Vec<(String, Plain)>, Vec<String>) {
    let mut notes = Vec::new();
    let mut members: Vec<(&str, Plain)> = Vec::new();
    match &entry.target {
        Target::Builtin => {}
        Target::Stdio(stdio) => {
            members.push(("command", stdio.command.as_deref().unwrap_or_default().into()));
            members.push(("args", Plain::texts(&stdio.args)));
            let forwarded = |(name, value): &(String, String)| *value == format!("${{{name}}}");
            let (names, env): (Vec<_>, Vec<_>) = stdio.env.iter().cloned().partition(forwarded);
            let mut names: Vec<String> = names.into_iter().map(|(name, _)| name).collect();
            for (name, _) in &stdio.env_from_secret {
                notes.push(format!("set `{name}` in the environment of Codex: it has no secrets"));
                names.push(name.clone());
            }
            push(&mut members, "env", &env);
            if !names.is_empty() {
                members.push(("env_vars", Plain::texts(&names)));
            }
            members.extend(stdio.cwd.as_deref().map(|cwd| ("cwd", cwd.into())));
        }
        Target::Http(http) => {
            members.push(("url", http.url.as_str().into()));
            push(&mut members, "http_headers", &http.headers);
            push(&mut members, "env_http_headers", &http.headers_from_secret);
            let secrets = http.headers_from_secret.iter().map(|(_, secret)| secret);
            for secret in secrets.chain(&http.bearer_from_secret) {
                notes
                    .push(format!("set `{secret}` in the environment of Codex: it has no secrets"));
            }
            let bearer = http.bearer_from_secret.as_deref();
            members.extend(bearer.map(|name| ("bearer_token_env_var", name.into())));
        }
    }
    if !entry.enabled {
        members.push(("enabled", Plain::Bool(false)));
    }
    (members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(), notes)
}

fn push(members: &mut Vec<(&str, Plain)>, name: &'static str, pairs: &[(String, String)]) {
    if !pairs.is_empty() {
        members.push((name, Plain::pairs(pairs)));
    }
}

/// The text of a file with the server `name` set to `members`; everything else stays.
pub(crate) fn set(
    text: &str,
    name: &str,
    members: Vec<(String, Plain)>,
) -> Result<String, Problem> {
    let mut document: DocumentMut = text.parse().map_err(|error| not_toml(text, &error))?;
    if !document.contains_key(TABLE) {
        let mut table = toml_edit::Table::new();
        table.set_implicit(true);
        document.insert(TABLE, Item::Table(table));
    }
    let mut server = toml_edit::Table::new();
    for (key, value) in members {
        server.insert(&key, Item::Value(value.into()));
    }
    let servers = document.get_mut(TABLE).and_then(Item::as_table_like_mut);
    match servers {
        Some(servers) => {
            servers.insert(name, Item::Table(server));
            Ok(document.to_string())
        }
        None => Err(no_table()),
    }
}

/// The text without the server `name`; `None` if it is not there.
pub(crate) fn remove(text: &str, name: &str) -> Result<Option<String>, Problem> {
    let mut document: DocumentMut = text.parse().map_err(|error| not_toml(text, &error))?;
    let servers = document.get_mut(TABLE).and_then(Item::as_table_like_mut);
    let removed = servers.and_then(|servers| servers.remove(name));
    Ok(removed.map(|_| document.to_string()))
}

/// Program and arguments, or the URL, of server `name`.
pub(crate) fn find(text: &str, name: &str) -> Result<Option<Entry>, Problem> {
    let document: DocumentMut = text.parse().map_err(|error| not_toml(text, &error))?;
    let servers = document.get(TABLE).and_then(Item::as_table_like);
    let table = servers.and_then(|servers| servers.get(name)).and_then(Item::as_table_like);
    Ok(table.and_then(|table| entry(name, table).ok()).map(|(entry, _)| entry))
}

fn no_table() -> Problem {
    Problem {
        location: osvm_policy::Location { line: 1, column: 1 },
        pointer: TABLE.into(),
        kind: crate::ProblemKind::WrongType { expected: "a table", found: "another value" },
    }
}
