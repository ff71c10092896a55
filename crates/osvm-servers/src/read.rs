//! One server out of the `mcpServers` shape, which most clients share.
//!
//! Members nobody knows are left alone: other clients have their own. Only what looks like a slip
//! of one of osvm's is a problem, because leaving it out would change what runs.

use crate::entry::{Entry, Http, Stdio, Target, is_builtin};
use crate::error::ProblemKind;
use crate::json::Reader;
use jsonc_parser::ast::{Object, Value};
use osvm_policy::{member_pointer, nearest, printable};

/// Members that osvm reads. Another name that is near to one of these is a slip.
const OURS: [&str; 5] =
    ["command", "enabled", "envFromSecret", "headersFromSecret", "bearerFromSecret"];

/// Every member that an entry of osvm may have written by osvm.
pub(crate) const KNOWN: [&str; 14] = [
    "type",
    "command",
    "args",
    "env",
    "envFromSecret",
    "cwd",
    "url",
    "headers",
    "headersFromSecret",
    "bearerFromSecret",
    "source",
    "description",
    "enabled",
    "disabled",
];

/// What other clients call the address of a server.
const URLS: [&str; 3] = ["url", "httpUrl", "serverUrl"];

/// The server `name` from its object; what is wrong is noted in `reader`.
pub(crate) fn entry(
    reader: &mut Reader<'_>,
    name: &str,
    object: &Object<'_>,
    pointer: &str,
) -> Option<Entry> {
    misspelt(reader, object, pointer);
    let mut fields = Fields { reader, object, pointer };
    let kind = fields.transport(name)?;
    let target = match kind {
        Kind::Builtin => Target::Builtin,
        Kind::Stdio => Target::Stdio(fields.stdio()?),
        Kind::Http => Target::Http(fields.http()?),
    };
    let enabled = fields.bool("enabled").unwrap_or(true);
    let disabled = fields.bool("disabled").unwrap_or(false);
    Some(Entry {
        target,
        enabled: enabled && !disabled,
        source: fields.string("source"),
        description: fields.string("description"),
    })
}

fn misspelt(reader: &mut Reader<'_>, object: &Object<'_>, pointer: &str) {
    for property in &object.properties {
        let name = property.name.as_str();
        if KNOWN.contains(&name) {
            continue;
        }
        if let Some(near) = nearest(name, OURS)
            && let Some(nearest) = OURS.into_iter().find(|ours| *ours == near)
        {
            let kind = ProblemKind::Misspelt { name: printable(name), nearest };
            reader.problem(property, pointer, kind);
        }
    }
}

enum Kind {
    Builtin,
    Stdio,
    Http,
}

struct Fields<'r, 't, 'o, 'a> {
    reader: &'r mut Reader<'t>,
    object: &'o Object<'a>,
    pointer: &'o str,
}

impl<'o, 'a> Fields<'_, '_, 'o, 'a> {
    fn get(&self, name: &str) -> Option<&'o Value<'a>> {
        self.object.get(name).map(|property| &property.value)
    }

    fn string(&mut self, name: &str) -> Option<String> {
        let value = self.get(name)?;
        self.reader.string(value, &member_pointer(self.pointer, name))
    }

    fn bool(&mut self, name: &str) -> Option<bool> {
        let value = self.get(name)?;
        self.reader.bool(value, &member_pointer(self.pointer, name))
    }

    fn pairs(
        &mut self,
        name: &str,
        check: impl FnMut(&str, &str) -> Result<(), &'static str>,
    ) -> Vec<(String, String)> {
        let pairs = self
            .get(name)
            .map(|value| self.reader.pairs(value, &member_pointer(self.pointer, name), check));
        pairs.flatten().unwrap_or_default()
    }

    /// What the entry is, by its `type` or by what else it has.
    fn transport(&mut self, name: &str) -> Option<Kind> {
        let written = match self.get("type") {
            Some(value) => {
                let pointer = member_pointer(self.pointer, "type");
                let word = self.reader.string(value, &pointer)?;
                match known_transport(&word) {
                    Ok(kind) => Some(kind),
                    Err(reason) => {
                        self.reader.invalid(value, &pointer, &word, reason);
                        return None;
                    }
                }
            }
            None => None,
        };
        let has_url = URLS.iter().any(|url| self.get(url).is_some());
        let has_command = self.get("command").is_some() || self.get("source").is_some();
        let kind = match written {
            Some(kind) => kind,
            None if has_command => Kind::Stdio,
            None if has_url => Kind::Http,
            None => {
                let what = "`command`, `url` or `source`";
                self.reader.problem(self.object, self.pointer, ProblemKind::Missing { what });
                return None;
            }
        };
        let builtin = matches!(kind, Kind::Builtin);
        if builtin != is_builtin(name) {
            let reason = if builtin {
                "only `system`, `solana` and `osvm-mcp` are builtin"
            } else {
                "this is the name of a builtin server: give yours another"
            };
            self.reader.invalid(self.object, self.pointer, name, reason);
            return None;
        }
        Some(kind)
    }

    fn stdio(&mut self) -> Option<Stdio> {
        let command = self.string("command");
        if self.get("command").is_none() && self.get("source").is_none() {
            let what = "`command`";
            self.reader.problem(self.object, self.pointer, ProblemKind::Missing { what });
            return None;
        }
        if let (Some(text), Some(value)) = (&command, self.get("command"))
            && (text.is_empty() || text.contains('\0'))
        {
            let pointer = member_pointer(self.pointer, "command");
            self.reader.invalid(value, &pointer, text, "this is no program");
        }
        let args = match self.get("args") {
            Some(value) => self.reader.strings(value, &member_pointer(self.pointer, "args"))?,
            None => Vec::new(),
        };
        Some(Stdio {
            command,
            args,
            env: self.pairs("env", |name, value| {
                variable_name(name)?;
                if value.contains('\0') { Err("a value has no NUL") } else { Ok(()) }
            }),
            env_from_secret: self.pairs("envFromSecret", |name, secret| {
                variable_name(name)?;
                secret_name(secret)
            }),
            cwd: self.string("cwd"),
        })
    }

    fn http(&mut self) -> Option<Http> {
        let Some(name) = URLS.into_iter().find(|name| self.get(name).is_some()) else {
            let what = "`url`";
            self.reader.problem(self.object, self.pointer, ProblemKind::Missing { what });
            return None;
        };
        let url = self.string(name)?;
        if let (Err(reason), Some(value)) = (check_url(&url), self.get(name)) {
            self.reader.invalid(value, &member_pointer(self.pointer, name), &url, reason);
            return None;
        }
        let bearer_from_secret = self.string("bearerFromSecret");
        if let (Some(secret), Some(value)) = (&bearer_from_secret, self.get("bearerFromSecret"))
            && let Err(reason) = secret_name(secret)
        {
            self.reader.invalid(
                value,
                &member_pointer(self.pointer, "bearerFromSecret"),
                "…",
                reason,
            );
        }
        Some(Http {
            url,
            headers: self.pairs("headers", header),
            headers_from_secret: self.pairs("headersFromSecret", |name, secret| {
                header(name, "")?;
                secret_name(secret)
            }),
            bearer_from_secret,
        })
    }
}

fn known_transport(word: &str) -> Result<Kind, &'static str> {
    match word {
        "stdio" | "local" => Ok(Kind::Stdio),
        "http" | "streamable-http" | "streamableHttp" | "streamable_http" | "remote" => {
            Ok(Kind::Http)
        }
        "builtin" => Ok(Kind::Builtin),
        "sse" => Err(NO_SSE),
        "websocket" | "ws" | "wss" => Err(NO_WEBSOCKET),
        _ => Err("known are `stdio`, `http` and `builtin`"),
    }
}

/// Why a server with HTTP+SSE is refused.
pub(crate) const NO_SSE: &str = "HTTP+SSE is deprecated and osvm does not speak it: use `http` with the server's Streamable HTTP \
     endpoint";
/// Why a server with WebSocket is refused.
pub(crate) const NO_WEBSOCKET: &str = "MCP has no WebSocket transport: use `http` or `stdio`";

/// Whether `url` can be the address of a server. It may still have `${VAR}` in it.
pub(crate) fn check_url(url: &str) -> Result<(), &'static str> {
    let lower = url.to_ascii_lowercase();
    if lower.starts_with("ws://") || lower.starts_with("wss://") {
        return Err(NO_WEBSOCKET);
    }
    if url.chars().any(|c| c.is_control() || c == ' ') {
        return Err("a URL has no blanks or control characters");
    }
    match lower.strip_prefix("https://").or(lower.strip_prefix("http://")) {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(()),
        None if url.starts_with("${") => Ok(()),
        _ => Err("it begins with `https://` or `http://` and a host"),
    }
}

/// Whether a variable of the environment can have this name.
pub(crate) fn variable_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err("a variable's name is not empty and has no `=`");
    }
    Ok(())
}

/// Whether a secret can have this name.
pub(crate) fn secret_name(name: &str) -> Result<(), &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
        return Err("a secret's name is 1 to 64 letters, digits, `_` and `-`");
    }
    Ok(())
}

/// Whether a request can have this header.
pub(crate) fn header(name: &str, value: &str) -> Result<(), &'static str> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err("a header's name is letters, digits and `-`");
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err("a header's value has no control characters");
    }
    Ok(())
}
