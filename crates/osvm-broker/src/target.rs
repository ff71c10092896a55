//! What a URL asks for, in the one spelling that rules are compared with and requests are made of.
//!
//! # Invariants
//!
//! - What is checked is what is sent: [`Target`] is built from the parsed URL, and nothing else of
//!   the guest's text is used.
//! - A path that a server might read in two ways is marked as such, see [`Target::is_tricky`].

use crate::refusal::Refusal;
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use url::{Host, Url};

/// Longest URL, in bytes. Servers take about as much.
const MAX_URL: usize = 8 * 1024;

/// Longest piece of a path that is shown or noted, in bytes.
const MAX_SHOWN: usize = 256;

/// Whom to ask, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) tls: bool,
    pub(crate) host: Name,
    pub(crate) port: u16,
    /// The path, normalised: without `.` and `..`, other characters than ASCII as `%XX`.
    pub(crate) path: String,
    /// The query, with its `?`; else empty.
    pub(crate) query: String,
}

/// Who a URL names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    /// Lower case, without a dot at the end.
    Dns(String),
    /// IPv4 in IPv6 form counts as IPv4.
    Address(IpAddr),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Server and way to it: what a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) tls: bool,
    pub(crate) host: Name,
    pub(crate) port: u16,
}

impl Target {
    /// Reads a guest's URL.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let no = |why: &str| Err(Refusal::Params(format!("`url` {why}")));
        if MAX_URL < text.len() {
            return no("is at most 8192 bytes long");
        }
        // A URL parser drops line breaks and takes `\` for `/`; nobody means that.
        if text.chars().any(|c| c.is_control() || c == ' ' || c == '\\') {
            return no("has white space, control characters or `\\`");
        }
        match Url::parse(text) {
            Ok(url) => Self::from_url(&url).or_else(no),
            Err(error) => no(&format!("is no URL: {error}")),
        }
    }

    /// The place a redirect names, seen from here.
    pub(crate) fn join(&self, location: &str) -> Result<Self, &'static str> {
        let base = Url::parse(&self.to_string()).map_err(|_| "its place is no URL")?;
        let odd = location.chars().any(|c| c.is_control() || c == '\\');
        if MAX_URL < location.len() || odd {
            return Err("its place is no URL");
        }
        let url = base.join(location).map_err(|_| "its place is no URL")?;
        Self::from_url(&url).map_err(|_| "its place is no plain http or https URL")
    }

    fn from_url(url: &Url) -> Result<Self, &'static str> {
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err("begins with `https://` or `http://`"),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has no user name and no password: credentials go into headers");
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                if name.is_empty() || name.ends_with('.') {
                    return Err("names no host");
                }
                Name::Dns(name.to_ascii_lowercase())
            }
            Some(Host::Ipv4(address)) => Name::Address(address.into()),
            Some(Host::Ipv6(address)) => Name::Address(IpAddr::from(address).to_canonical()),
            None => return Err("names no host"),
        };
        let port = url.port_or_known_default().ok_or("names no port")?;
        if port == 0 {
            return Err("names no port");
        }
        let path = url.path().to_owned();
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Self { tls, host, port, path, query })
    }

    /// Whom to connect to.
    pub(crate) fn origin(&self) -> Origin {
        Origin { tls: self.tls, host: self.host.clone(), port: self.port }
    }

    /// The `Host` header: the host, and the port unless it is the scheme's own.
    pub(crate) fn authority(&self) -> String {
        let host: Cow<'_, str> = match &self.host {
            Name::Dns(name) => name.into(),
            Name::Address(IpAddr::V6(address)) => format!("[{address}]").into(),
            Name::Address(address) => address.to_string().into(),
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host.into_owned(),
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// The path without anything that is long, for people.
    pub(crate) fn shown_path(&self) -> &str {
        self.path.get(..self.path.floor_char_boundary(MAX_SHOWN)).unwrap_or_default()
    }

    /// Whether a server that decodes the path once more than others do, or cuts parameters off,
    /// would find another path in it: `/v1/..%2fadmin`, `/v1/%252e%252e/admin`, `/v1/..;/admin`.
    pub(crate) fn is_tricky(&self) -> bool {
        let plain = |path: &[u8]| {
            let dots = |part: &[u8]| {
                let part = part.split(|byte| *byte == b';').next().unwrap_or_default();
                part == b"." || part == b".."
            };
            !path.contains(&b'\\') && !path.contains(&0) && !path.split(|b| *b == b'/').any(dots)
        };
        let mut path = self.path.as_bytes().to_vec();
        let slashes = |path: &[u8]| path.iter().filter(|byte| **byte == b'/').count();
        let expected = slashes(&path);
        // Whoever decodes more often than that is beyond help, and so is the path.
        for _ in 0..4 {
            if !plain(&path) || slashes(&path) != expected {
                return true;
            }
            let decoded = decode(&path);
            if decoded == path {
                return false;
            }
            path = decoded;
        }
        true
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}{}", self.authority(), self.path, self.query)
    }
}

/// Takes `%XX` for the byte it stands for, once.
fn decode(path: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        let pair = (digit(tail.first()), digit(tail.get(1)));
        let byte = match (first, pair) {
            (b'%', (Some(high), Some(low))) => u8::try_from(high << 4 | low).ok(),
            _ => None,
        };
        decoded.push(byte.unwrap_or(*first));
        rest = tail.get(if byte.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Target {
        Target::parse(text).unwrap()
    }

    #[test]
    fn a_url_has_one_spelling() {
        let target = parse("HTTPS://Api.Example.COM.:443/a/./b/../c/%2E%2e/d?x=1#y");
        assert_eq!(target.to_string(), "https://api.example.com/a/d?x=1");
        assert_eq!(parse("http://h:8080").authority(), "h:8080");
        assert_eq!(parse("http://[::1]/").authority(), "[::1]");
    }

    #[test]
    fn addresses_are_addresses_however_they_are_written() {
        let loopback = Name::Address([127, 0, 0, 1].into());
        for url in [
            "http://127.0.0.1/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://[::ffff:127.0.0.1]/",
            "http://127.0.0.1./",
            "http://%31%32%37.0.0.1/",
            "http://\u{ff11}27.0.0.1/",
        ] {
            assert_eq!(parse(url).host, loopback, "{url}");
        }
    }

    #[test]
    fn what_is_no_plain_web_address_is_refused() {
        for url in [
            "",
            "/a",
            "ftp://h/",
            "file:///etc/passwd",
            "gopher://h/",
            "http://",
            "http://u@h/",
            "http://u:p@h/",
            "http://h:0/",
            "http://h:99999/",
            "http://h /",
            "http://h\n/",
            "http://h\\@g/",
            "http://./",
            "http://a..b../",
            "https://:443/",
            "data:,x",
            "http://[1/",
        ] {
            assert!(Target::parse(url).is_err(), "{url:?}");
        }
        assert!(Target::parse(&format!("http://h/{}", "a".repeat(MAX_URL))).is_err());
    }

    #[test]
    fn a_path_with_two_readings_is_told_from_one_with_one() {
        for path in [
            "/v1/..%2fadmin",
            "/v1/%2e%2e%2fadmin",
            "/v1/%252e%252e/admin",
            "/v1/..%5cadmin",
            "/v1/..;/admin",
            "/v1/..;x=1/admin",
            "/a%00b",
            "/a%2Fb",
            "/%25252525252fa",
        ] {
            assert!(parse(&format!("https://h{path}")).is_tricky(), "{path}");
        }
        for path in ["/", "/v1/a%20b", "/v1//x", "/v1/a;b=c", "/100%", "/%zz", "/a..b/...", "/%41"]
        {
            assert!(!parse(&format!("https://h{path}")).is_tricky(), "{path}");
        }
    }

    #[test]
    fn a_redirect_is_read_from_where_it_came() {
        let base = parse("https://h:444/a/b?q");
        assert_eq!(base.join("c").unwrap().to_string(), "https://h:444/a/c");
        assert_eq!(base.join("//g/x").unwrap().to_string(), "https://g/x");
        assert!(base.join("ftp://h/").is_err());
        assert!(base.join("https://u:p@h/").is_err());
        assert!(base.join("https:\\\\h").is_err());
    }
}
