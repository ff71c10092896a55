//! `solana`: where the chain is asked.

use super::egress::{DEFAULT_MAX_BYTES, DEFAULT_RATE, check_path_pattern, parse_host};
use crate::json::{Node, Reader};
use crate::model::{EgressRule, HostPattern, PathPattern, RpcUrl};

/// Longest URL, in bytes.
const MAX_URL: usize = 2048;

/// Reads the object; what is in it is the URL.
pub(super) fn solana<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<RpcUrl> {
    let mut fields = node.fields(reader)?;
    let url = fields.require(reader, "rpc_url", |node, reader| {
        let text = node.string(reader)?;
        // Its query may hold a key, so the message does not show it.
        parse(&text).map_err(|reason| node.invalid(reader, "…", reason)).ok()
    });
    fields.finish(reader);
    url
}

/// Takes a URL apart. Anything that another reader could understand in another way is refused.
pub(crate) fn parse(text: &str) -> Result<RpcUrl, &'static str> {
    if MAX_URL < text.len() {
        return Err("a URL is at most 2048 bytes long");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\\"<>^`{|}".contains(&byte)) {
        return Err("a URL has printable ASCII only, the rest as `%XX`");
    }
    if text.contains('#') {
        return Err("this URL is written without a fragment");
    }
    let (rest, default_port) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (rest, 443),
        (_, Some(rest)) => (rest, 80),
        (None, None) => return Err("a URL begins with `https://`"),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at_checked(end).unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err("this URL is written without user and password");
    }
    let (host, port) = split_port(authority, default_port)?;
    let host = parse_host(host)?;
    match &host {
        HostPattern::Below(_) => return Err("a URL has one host, not a pattern"),
        HostPattern::Address(address) if address.is_loopback() => {}
        _ if default_port == 80 => return Err("`http://` is for loopback addresses only"),
        HostPattern::Name(_) | HostPattern::Address(_) => {}
    }
    let path = target.split('?').next().unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    check_path_pattern(path)?;
    if path.contains('*') {
        return Err("the path of a URL is no pattern");
    }
    let rule = EgressRule {
        host,
        methods: vec!["POST".into()],
        paths: vec![PathPattern::Exact(path.into())],
        ports: vec![port],
        max_bytes: DEFAULT_MAX_BYTES,
        rate_per_minute: DEFAULT_RATE,
        headers: Vec::new(),
    };
    Ok(RpcUrl { text: text.into(), rule })
}

fn split_port(authority: &str, default: u16) -> Result<(&str, u16), &'static str> {
    // The colons of an IPv6 address are in brackets.
    let after_host = authority.rfind(']').map_or(0, |end| end + 1);
    let colon = authority.get(after_host..).and_then(|rest| rest.find(':'));
    let Some((host, port)) = colon.and_then(|at| authority.split_at_checked(after_host + at))
    else {
        return Ok((authority, default));
    };
    let digits = port.trim_start_matches(':');
    let plain = port.len() == digits.len() + 1 && digits.bytes().all(|b| b.is_ascii_digit());
    match digits.parse() {
        Ok(port) if plain && port != 0 => Ok((host, port)),
        _ => Err("a port is 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, host: &str, port: u16, path: &str) {
        let RpcUrl { text, rule } = parse(url).unwrap();
        assert_eq!(text, url);
        assert_eq!((rule.host.to_string().as_str(), &*rule.ports), (host, &[port][..]));
        assert_eq!(rule.paths, [PathPattern::Exact(path.into())]);
        assert_eq!(rule.methods, ["POST"]);
    }

    #[test]
    fn a_url_says_what_may_be_reached() {
        check("https://api.devnet.solana.com", "api.devnet.solana.com", 443, "/");
        check("https://RPC.Example.com:8443/v1/x?key=a*b", "rpc.example.com", 8443, "/v1/x");
        check("https://rpc.example.com?api-key=1", "rpc.example.com", 443, "/");
        check("http://127.0.0.1:8899", "127.0.0.1", 8899, "/");
        check("http://[::1]:8899/", "::1", 8899, "/");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for url in [
            "",
            "ftp://example.com",
            "example.com",
            "https://",
            "https://a@example.com",
            "https://example.com:",
            "https://example.com:0",
            "https://example.com:+80",
            "https://example.com::80",
            "https://example.com:65536",
            "https://example.com/#x",
            "https://example.com/../x",
            "https://example.com/*",
            "https://example.com\\x",
            "https://*.example.com",
            "https://exämple.com",
            "https://127.1",
            "http://example.com",
            "http://localhost:8899",
            "http://10.0.0.1",
            "https://[::1",
            "https://[::1]x:80",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
    }
}
