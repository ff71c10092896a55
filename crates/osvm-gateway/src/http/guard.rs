//! Who may speak at all: the host a request names, the page it comes from, the token it shows.
//!
//! A browser sends requests to a local server for any page it shows. Such a page can't choose the
//! `Host` and `Origin` headers, and does not know the token.

use super::reply::{self, Reply};
use super::token::Token;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Response, StatusCode};
use std::net::{IpAddr, SocketAddr};

/// Checks requests before anything else of them is looked at.
#[derive(Debug)]
pub struct Guard {
    /// Only names of this machine itself are good.
    local: bool,
    token: Option<Token>,
}

impl Guard {
    /// A guard for a server at `address`. `None` when everybody could use it: when other machines
    /// reach it, and no token is asked for.
    pub fn new(address: SocketAddr, token: Option<Token>) -> Option<Self> {
        let local = address.ip().is_loopback();
        (local || token.is_some()).then_some(Self { local, token })
    }

    /// Whether the request is meant for this server, and from a page that may send it.
    pub(super) fn check_names(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let forbidden = |message| Err(Refusal::new(StatusCode::FORBIDDEN, message));
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        if self.local && !host.is_some_and(|host| is_local(name(host))) {
            return forbidden("the request is for another host");
        }
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        let fits = |(_, page): (&str, &str)| {
            is_local(name(page)) || !self.local && host.is_some_and(|host| host == page)
        };
        if origin.is_some_and(fits) {
            Ok(())
        } else {
            forbidden("the request is from another site")
        }
    }

    pub(super) fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.token else { return Ok(()) };
        let shown = headers.get(AUTHORIZATION).and_then(|shown| shown.to_str().ok());
        let shown = shown.and_then(|shown| shown.split_once(' '));
        let right = |(scheme, shown): (&str, &str)| {
            scheme.eq_ignore_ascii_case("bearer") && token.is(shown.trim())
        };
        if shown.is_some_and(right) {
            return Ok(());
        }
        let message = "the request needs the token that `osvm mcp token` prints";
        Err(Refusal::new(StatusCode::UNAUTHORIZED, message))
    }
}

/// The host without its port.
fn name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_local(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// A request that is not let through.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    message: &'static str,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: &'static str) -> Self {
        Self { status, message }
    }

    pub(super) fn response(&self) -> Response<Reply> {
        let mut response = reply::plain(self.status, &format!("{}\n", self.message));
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"osvm\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[track_caller]
    fn check(address: &str, pairs: &[(&'static str, &str)], passes: bool) {
        let dir = tempfile::tempdir().unwrap();
        let token = Token::load_or_create(&dir.path().join("token")).unwrap();
        let guard = Guard::new(address.parse().unwrap(), Some(token)).unwrap();
        assert_eq!(guard.check_names(&headers(pairs)).is_ok(), passes, "{pairs:?}");
    }

    #[test]
    fn on_loopback_only_names_of_this_machine_are_good() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:7", "127.8.8.8", "[::1]:9", "[::1]"] {
            check("127.0.0.1:1", &[("host", host)], true);
        }
        for host in
            ["", "evil.example", "localhost.evil.example:80", "10.0.0.1", "[::2]", "0.0.0.0"]
        {
            check("127.0.0.1:1", &[("host", host)], false);
        }
        check("127.0.0.1:1", &[], false);
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        for (origin, passes) in [
            ("http://localhost:3000", true),
            ("https://127.0.0.1", true),
            ("http://evil.example", false),
            ("http://localhost.evil.example", false),
            ("null", false),
        ] {
            check("127.0.0.1:1", &[("host", "localhost"), ("origin", origin)], passes);
            check("10.0.0.1:1", &[("host", "box:1"), ("origin", origin)], passes);
        }
        check("10.0.0.1:1", &[("host", "box:1"), ("origin", "http://box:1")], true);
        check("127.0.0.1:1", &[("host", "localhost:1"), ("origin", "http://box:1")], false);
    }

    #[test]
    fn other_machines_need_a_token() {
        assert!(Guard::new("0.0.0.0:1".parse().unwrap(), None).is_none());
        assert!(Guard::new("[::1]:1".parse().unwrap(), None).is_some());
    }

    #[test]
    fn only_the_token_opens() {
        let dir = tempfile::tempdir().unwrap();
        let token = Token::load_or_create(&dir.path().join("token")).unwrap();
        let guard = Guard::new("127.0.0.1:1".parse().unwrap(), Some(token.clone())).unwrap();
        let token = token.reveal();
        for (shown, opens) in [
            (format!("Bearer {token}"), true),
            (format!("bearer  {token}"), true),
            (format!("Basic {token}"), false),
            (token.to_owned(), false),
            ("Bearer".to_owned(), false),
            (format!("Bearer {token}0"), false),
        ] {
            let shown = headers(&[("authorization", &shown)]);
            assert_eq!(guard.check_token(&shown).is_ok(), opens, "{shown:?}");
        }
        assert!(guard.check_token(&HeaderMap::new()).is_err());
    }
}
