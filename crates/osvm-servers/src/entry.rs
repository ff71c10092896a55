//! What is known of one server.
//!
//! Values of the environment and of headers may be credentials, so `Debug` shows their names only.

use crate::plain::Plain;
use std::fmt;
use std::net::IpAddr;

/// Servers whose tools are in the unikernel image: always there, unless an entry disables them.
pub const BUILTIN: [&str; 3] = ["osvm-mcp", "solana", "system"];

/// What a name looks like, in words.
pub const NAME_RULE: &str = "1 to 64 letters, digits, `_`, `.` and `-`";

/// Whether a server can have this name.
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

/// Whether this is the name of a builtin server.
pub fn is_builtin(name: &str) -> bool {
    BUILTIN.contains(&name)
}

/// One server, as it is written: `${VAR}` is not expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub target: Target,
    /// Whether osvm uses it.
    pub enabled: bool,
    /// Where it was taken from: `npx://…`, `uvx://…`, `git+https://…@commit`, `oci://…`.
    pub source: Option<String>,
    /// A line for people.
    pub description: Option<String>,
}

/// What a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Tools of the unikernel image.
    Builtin,
    /// A program that speaks MCP on stdin and stdout.
    Stdio(Stdio),
    /// A Streamable HTTP endpoint.
    Http(Http),
}

impl Target {
    /// The word in `type`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Stdio(_) => "stdio",
            Self::Http(_) => "http",
        }
    }
}

/// A program.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Stdio {
    /// The program. `None` where there is only a `source`: it can run from an image made of that.
    pub command: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables, in the file's order.
    pub env: Vec<(String, String)>,
    /// Variables whose values are secrets, as variable and name of the secret.
    pub env_from_secret: Vec<(String, String)>,
    /// Working directory.
    pub cwd: Option<String>,
}

impl fmt::Debug for Stdio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdio")
            .field("command", &self.command)
            .field("args", &self.args.len())
            .field("env", &names(&self.env))
            .field("env_from_secret", &self.env_from_secret)
            .field("cwd", &self.cwd)
            .finish()
    }
}

/// An endpoint.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Http {
    /// Its address.
    pub url: String,
    /// Headers, in the file's order.
    pub headers: Vec<(String, String)>,
    /// Headers whose values are secrets, as header and name of the secret.
    pub headers_from_secret: Vec<(String, String)>,
    /// The secret that is sent as `Authorization: Bearer …`.
    pub bearer_from_secret: Option<String>,
}

impl Http {
    /// Whether others may listen in on the way: it is plain HTTP, and not to this host.
    ///
    /// An address whose host can't be told counts as one of those.
    pub fn is_overheard(&self) -> bool {
        let lower = self.url.to_ascii_lowercase();
        let Some(rest) = lower.strip_prefix("http://") else {
            return !lower.starts_with("https://");
        };
        let place = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
        let place = place.rsplit('@').next().unwrap_or_default();
        let host = match place.strip_prefix('[') {
            Some(bracketed) => bracketed.split(']').next(),
            None => place.split(':').next(),
        };
        let host = host.unwrap_or_default();
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        !(is_loopback || host == "localhost" || host.ends_with(".localhost"))
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What follows the `?` may be a key.
        let url = self.url.split('?').next().unwrap_or_default();
        f.debug_struct("Http")
            .field("url", &url)
            .field("headers", &names(&self.headers))
            .field("headers_from_secret", &self.headers_from_secret)
            .field("bearer_from_secret", &self.bearer_from_secret)
            .finish()
    }
}

fn names(pairs: &[(String, String)]) -> Vec<&str> {
    pairs.iter().map(|(name, _)| name.as_str()).collect()
}

impl Entry {
    /// An enabled entry with nothing but its target.
    pub fn new(target: Target) -> Self {
        Self { target, enabled: true, source: None, description: None }
    }

    /// Every member osvm writes, in order. Reading them back gives the same entry.
    pub fn members(&self) -> Vec<(String, Plain)> {
        let mut members = vec![("type", Plain::from(self.target.as_str()))];
        match &self.target {
            Target::Builtin => {}
            Target::Stdio(stdio) => {
                members.extend(stdio.command.as_deref().map(|c| ("command", c.into())));
                if stdio.command.is_some() {
                    members.push(("args", Plain::texts(&stdio.args)));
                }
                push_pairs(&mut members, "env", &stdio.env);
                push_pairs(&mut members, "envFromSecret", &stdio.env_from_secret);
                members.extend(stdio.cwd.as_deref().map(|cwd| ("cwd", cwd.into())));
            }
            Target::Http(http) => {
                members.push(("url", http.url.as_str().into()));
                push_pairs(&mut members, "headers", &http.headers);
                push_pairs(&mut members, "headersFromSecret", &http.headers_from_secret);
                let bearer = http.bearer_from_secret.as_deref();
                members.extend(bearer.map(|name| ("bearerFromSecret", name.into())));
            }
        }
        members.extend(self.source.as_deref().map(|source| ("source", source.into())));
        members.extend(self.description.as_deref().map(|text| ("description", text.into())));
        if !self.enabled {
            members.push(("enabled", Plain::Bool(false)));
        }
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The entry as a value to be written.
    pub fn plain(&self) -> Plain {
        Plain::Map(self.members())
    }

    /// Replaces every text that may hold `${…}` by what `map` makes of it.
    ///
    /// # Errors
    ///
    /// The first one of `map`.
    pub fn try_map<E>(
        &mut self,
        mut map: impl FnMut(&mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        match &mut self.target {
            Target::Builtin => Ok(()),
            Target::Stdio(stdio) => {
                let values = stdio.env.iter_mut().map(|(_, value)| value);
                let texts = stdio.command.iter_mut().chain(&mut stdio.args).chain(values);
                texts.chain(stdio.cwd.iter_mut()).try_for_each(&mut map)
            }
            Target::Http(http) => {
                let values = http.headers.iter_mut().map(|(_, value)| value);
                std::iter::once(&mut http.url).chain(values).try_for_each(&mut map)
            }
        }
    }

    /// The command line or the URL, for people. No values of variables or headers.
    pub fn summary(&self) -> String {
        match &self.target {
            Target::Builtin => "tools of the unikernel image".into(),
            Target::Http(http) => http.url.split('?').next().unwrap_or_default().to_owned(),
            Target::Stdio(stdio) => match &stdio.command {
                None => self.source.clone().unwrap_or_default(),
                Some(command) => {
                    let words = std::iter::once(command).chain(&stdio.args);
                    words.map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
                }
            },
        }
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn push_pairs(
    members: &mut Vec<(&'static str, Plain)>,
    name: &'static str,
    pairs: &[(String, String)],
) {
    if !pairs.is_empty() {
        members.push((name, Plain::pairs(pairs)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_overheard_but_on_the_way_to_this_host() {
        let is_overheard = |url: &str| Http { url: url.into(), ..Http::default() }.is_overheard();
        for url in [
            "https://notes.example/mcp",
            "HTTPS://notes.example",
            "http://127.0.0.1:7777/mcp",
            "http://127.9.9.9",
            "http://[::1]:1/",
            "http://localhost:3000?x",
            "http://LOCALHOST",
            "http://mcp.localhost/",
        ] {
            assert!(!is_overheard(url), "{url}");
        }
        for url in [
            "http://notes.example/mcp",
            "HTTP://10.0.0.1",
            "http://127.0.0.1@notes.example/",
            "http://localhost.notes.example/",
            "http://notes.example/@localhost",
            "http://notes.example\\@localhost",
            "http://notes.example?@localhost",
            "http://[2001:db8::1]/",
            "http://127.1/",
            "http://0.0.0.0/",
            "http://",
            "ftp://localhost/",
        ] {
            assert!(is_overheard(url), "{url}");
        }
    }
}
