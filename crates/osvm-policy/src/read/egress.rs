//! Egress rules: what the broker may fetch for a guest.
//!
//! A rule that can never match, or that matches more than its words seem to say, is an error.
//! Deciding a request by the rules is the broker's business.

use super::{int, text::checked};
use crate::json::{Node, Path, Reader};
use crate::model::{EgressRule, HostPattern, PathPattern};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Methods of a rule that names none: those that only read.
const DEFAULT_METHODS: [&str; 2] = ["GET", "HEAD"];
/// The port of HTTPS.
const DEFAULT_PORTS: [u16; 1] = [443];
/// As much as a frame of the wire carries.
pub(super) const DEFAULT_MAX_BYTES: u64 = 10 << 20;
const MOST_MAX_BYTES: u64 = 1 << 30;
pub(super) const DEFAULT_RATE: u32 = 600;
const MOST_RATE: u32 = 1_000_000;

/// Headers that say how a message is carried or whom it is for. osvm writes them itself.
const OWN_HEADERS: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A list of rules.
pub(super) fn list<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<Vec<EgressRule>> {
    let items = node.items(reader)?;
    Some(items.iter().filter_map(|item| rule(item, reader)).collect())
}

fn rule<'a>(node: &Node<'a, '_>, reader: &mut Reader<'a>) -> Option<EgressRule> {
    let mut fields = node.fields(reader)?;
    let host = fields.require(reader, "host", host);
    let methods = fields.take(reader, "methods", |node, reader| some(&node, reader, method));
    let paths = fields.take(reader, "paths", |node, reader| some(&node, reader, path));
    let ports = fields.take(reader, "ports", |node, reader| some(&node, reader, port));
    let max_bytes = fields.take(reader, "max_bytes", |node, reader| {
        let takes = || format!("a body takes 1 to {MOST_MAX_BYTES} bytes");
        node.integer(reader, (1, MOST_MAX_BYTES), takes)
    });
    let rate_per_minute = fields.take(reader, "rate_per_minute", |node, reader| {
        int(&node, reader, (1, MOST_RATE), "a rule allows", "requests")
    });
    let headers = fields.take(reader, "headers", headers);
    fields.finish(reader);
    Some(EgressRule {
        host: host?,
        methods: methods.unwrap_or_else(|| DEFAULT_METHODS.map(str::to_owned).into()),
        paths: paths.unwrap_or_else(|| vec![PathPattern::Under("/".into())]),
        ports: ports.unwrap_or_else(|| DEFAULT_PORTS.into()),
        max_bytes: max_bytes.unwrap_or(DEFAULT_MAX_BYTES),
        rate_per_minute: rate_per_minute.unwrap_or(DEFAULT_RATE),
        headers: headers.unwrap_or_default(),
    })
}

/// A list with something in it.
fn some<'a, T>(
    node: &Node<'a, '_>,
    reader: &mut Reader<'a>,
    read: impl Fn(&Node<'a, '_>, &mut Reader<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = node.items(reader)?;
    if items.is_empty() {
        node.invalid(reader, "[]", "a rule with an empty list allows nothing");
    }
    Some(items.iter().filter_map(|item| read(item, reader)).collect())
}

fn host<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<HostPattern> {
    let text = node.string(reader)?;
    match parse_host(&text) {
        Ok(host) => Some(host),
        Err(reason) => {
            node.invalid(reader, &text, reason);
            None
        }
    }
}

pub(super) fn parse_host(text: &str) -> Result<HostPattern, &'static str> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<Ipv6Addr>() {
        return Ok(HostPattern::Address(address.into()));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(HostPattern::Address(address));
    }
    if text.contains("://") {
        return Err("a host is written without a scheme");
    }
    if text.contains('/') {
        return Err("a host is written without a path: that goes into `paths`");
    }
    if text.contains(':') {
        return Err("a host is written without a port: that goes into `ports`");
    }
    let lower = text.to_ascii_lowercase();
    if let Some(domain) = lower.strip_prefix("*.") {
        check_domain(domain)?;
        if !domain.contains('.') {
            return Err("a pattern has at least two names after `*.`");
        }
        return Ok(HostPattern::Below(domain.to_owned()));
    }
    check_domain(&lower)?;
    Ok(HostPattern::Name(lower))
}

/// Letters, digits and hyphens as in RFC 1123, section 2.1, with the lengths of RFC 1035, 2.3.4.
fn check_domain(domain: &str) -> Result<(), &'static str> {
    const MAX_DOMAIN: usize = 253;
    const MAX_LABEL: usize = 63;
    if domain.contains('*') {
        return Err("a pattern has one `*`, in front: `*.example.com`");
    }
    if !domain.is_ascii() {
        return Err("a host that is not ASCII is written in its `xn--` form");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.chars().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if MAX_DOMAIN < domain.len() || !domain.split('.').all(label) {
        return Err("not a host name");
    }
    // URL parsers read such names as addresses: `127.1`, `0x7f.1`.
    let last = domain.rsplit('.').next().unwrap_or_default();
    let hex = |rest: &str| rest.chars().all(|c| c.is_ascii_hexdigit());
    if last.chars().all(|c| c.is_ascii_digit()) || last.strip_prefix("0x").is_some_and(hex) {
        return Err("not a whole address, and no host name ends in a number");
    }
    Ok(())
}

fn method<'a>(node: &Node<'a, '_>, reader: &mut Reader<'a>) -> Option<String> {
    const METHODS: &[(&str, &str)] = &[
        ("GET", "GET"),
        ("HEAD", "HEAD"),
        ("POST", "POST"),
        ("PUT", "PUT"),
        ("PATCH", "PATCH"),
        ("DELETE", "DELETE"),
        ("OPTIONS", "OPTIONS"),
        // A connection whose bytes nobody reads, for guests that speak TLS themselves.
        ("CONNECT", "CONNECT"),
    ];
    node.word(reader, METHODS).map(str::to_owned)
}

fn path<'a>(node: &Node<'a, '_>, reader: &mut Reader<'a>) -> Option<PathPattern> {
    let text = checked(node, reader, check_path_pattern)?;
    Some(match text.strip_suffix('*') {
        Some(prefix) => PathPattern::Under(prefix.to_owned()),
        None => PathPattern::Exact(text),
    })
}

pub(super) fn check_path_pattern(text: &str) -> Result<(), &'static str> {
    const MAX_PATH: usize = 2048;
    let fixed = text.strip_suffix("/*").unwrap_or(text);
    match text {
        text if !text.starts_with('/') => Err("a path begins with `/`"),
        text if MAX_PATH < text.len() => Err("a path is at most 2048 bytes long"),
        text if text.contains(['?', '#']) => Err("a path is written without query and fragment"),
        text if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err("a path has printable ASCII only, the rest as `%XX`")
        }
        _ if fixed.contains('*') => Err("a `*` stands at the end, after `/`: `/v1/*`"),
        text if text.split('/').any(|part| part == "." || part == "..") => {
            Err("a path is written without `.` and `..`")
        }
        _ => Ok(()),
    }
}

fn port<'a>(node: &Node<'a, '_>, reader: &mut Reader<'a>) -> Option<u16> {
    let takes = || "a port is 1 to 65535".to_owned();
    u16::try_from(node.integer(reader, (1, u16::MAX.into()), takes)?).ok()
}

fn headers<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<Vec<(String, String)>> {
    let mut headers = BTreeMap::new();
    for member in node.members(reader)? {
        let name = member.name.to_ascii_lowercase();
        let value = member.node(Path::Member(&node.path, &member.name));
        if let Err(reason) = check_header(&name, &headers) {
            reader.bad_name(&member, &node.path, reason);
        } else if let Some(text) = value.string(reader) {
            match check_header_value(&text) {
                Ok(()) => drop(headers.insert(name, text.into_owned())),
                // The value may be a credential, so the message does not show it.
                Err(reason) => value.invalid(reader, "…", reason),
            }
        }
    }
    Some(headers.into_iter().collect())
}

/// A token of RFC 9110, section 5.6.2.
fn check_header(name: &str, others: &BTreeMap<String, String>) -> Result<(), &'static str> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        return Err("not a header name");
    }
    if OWN_HEADERS.contains(&name) {
        return Err("osvm writes this header itself");
    }
    if others.contains_key(name) {
        return Err("header names ignore case, and this one is already there");
    }
    Ok(())
}

/// Visible text in which every `${` begins a `${secret:NAME}`.
fn check_header_value(value: &str) -> Result<(), &'static str> {
    const MAX_VALUE: usize = 8192;
    if MAX_VALUE < value.len() {
        return Err("a header value is at most 8192 bytes long");
    }
    if !value.bytes().all(|byte| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic()) {
        return Err("a header value is printable ASCII");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let well_formed = value.split("${").skip(1).all(|rest| {
        let name = rest.split_once('}').and_then(|(inner, _)| inner.strip_prefix("secret:"));
        name.is_some_and(|name| (1..=64).contains(&name.len()) && name.chars().all(plain))
    });
    if !well_formed {
        return Err("`${` begins `${secret:NAME}`, with letters, digits, `_` and `-` in NAME");
    }
    Ok(())
}
