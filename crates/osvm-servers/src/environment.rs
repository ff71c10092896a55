//! Servers that variables of the environment name.
//!
//! They are never written to a file. A server of the same name in the file wins, since somebody
//! wrote that one on purpose.

use crate::entry::{Entry, Http, Target, is_builtin, is_name};
use crate::read::check_url;
use osvm_policy::printable;
use std::ffi::OsString;

/// The variable of the server for Solana.
const SOLANA: &str = "SOLANA_MCP_SERVER_URL";

/// What the variables say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FromEnvironment {
    /// Name of the server, the entry, and the variable, in name order.
    pub servers: Vec<(String, Entry, String)>,
    /// Variables that name no server, and why.
    pub refused: Vec<String>,
}

/// Reads `SOLANA_MCP_SERVER_URL` and `MCP_SERVER_<NAME>_URL`: the first is server
/// `solana-mcp-server`, the second `<name>`, in lower case and with `-` for `_`.
pub fn from_environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> FromEnvironment {
    let mut found = FromEnvironment::default();
    for (variable, value) in variables {
        let Some(variable) = variable.to_str() else { continue };
        let Some(name) = server_name(variable) else { continue };
        if value.is_empty() {
            continue;
        }
        match entry(&name, value.to_str()) {
            Ok(entry) => found.servers.push((name, entry, variable.to_owned())),
            Err(reason) => found.refused.push(format!("`{}` {reason}", printable(variable))),
        }
    }
    found.servers.sort_by(|(a, _, _), (b, _, _)| a.cmp(b));
    found.servers.dedup_by(|(later, _, _), (first, _, _)| later == first);
    found.refused.sort();
    found
}

fn server_name(variable: &str) -> Option<String> {
    let stem = match variable {
        SOLANA => "SOLANA_MCP_SERVER",
        _ => variable.strip_prefix("MCP_SERVER_")?.strip_suffix("_URL")?,
    };
    Some(stem.to_ascii_lowercase().replace('_', "-"))
}

fn entry(name: &str, url: Option<&str>) -> Result<Entry, String> {
    if !is_name(name) {
        return Err(format!("names no server: a name is {}", crate::NAME_RULE));
    }
    if is_builtin(name) {
        return Err(format!("is ignored: `{name}` is a builtin server"));
    }
    let url = url.ok_or("is not text")?;
    check_url(url).map_err(|reason| format!("is no address of a server: {reason}"))?;
    if url.contains("${") {
        return Err("is no address of a server: nothing in it is expanded".into());
    }
    let http = Http { url: url.to_owned(), ..Http::default() };
    Ok(Entry::new(Target::Http(http)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_name_http_servers() {
        let found = read(&[
            ("MCP_SERVER_MY_NOTES_URL", "https://notes.example/mcp"),
            ("SOLANA_MCP_SERVER_URL", "http://127.0.0.1:1/mcp"),
            ("MCP_SERVER_EMPTY_URL", ""),
            ("PATH", "/bin"),
            ("MCP_SERVER_X", "https://x.example"),
        ]);
        let names: Vec<_> = found.servers.iter().map(|(name, _, var)| (&**name, &**var)).collect();
        assert_eq!(
            names,
            [
                ("my-notes", "MCP_SERVER_MY_NOTES_URL"),
                ("solana-mcp-server", "SOLANA_MCP_SERVER_URL")
            ]
        );
        assert!(found.refused.is_empty());
    }

    #[test]
    fn what_is_no_server_is_told() {
        let found = read(&[
            ("MCP_SERVER_A_URL", "ws://a.example"),
            ("MCP_SERVER_SYSTEM_URL", "https://a.example"),
            ("MCP_SERVER__URL", "https://a.example"),
        ]);
        assert!(found.servers.is_empty());
        assert_eq!(
            found.refused,
            [
                "`MCP_SERVER_A_URL` is no address of a server: MCP has no WebSocket transport: use \
                 `http` or `stdio`",
                "`MCP_SERVER_SYSTEM_URL` is ignored: `system` is a builtin server",
                "`MCP_SERVER__URL` names no server: a name is 1 to 64 letters, digits, `_`, `.` and `-`",
            ]
        );
    }

    fn read(variables: &[(&str, &str)]) -> FromEnvironment {
        from_environment(variables.iter().map(|(name, value)| (name.into(), value.into())))
    }
}
