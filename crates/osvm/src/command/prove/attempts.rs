//! What a proof's guests try, and what has to come of it.

use super::server::REACHED;
use super::stage::PLANTED;
use osvm_protocol::code::{
    EGRESS_DENIED, FILE_DENIED, HOST_METHOD_DENIED, INVALID_PARAMS, LIMIT_REACHED,
    METHOD_NOT_FOUND, NETWORK_NOT_GRANTED, SECRET_MISSING, TOO_LONG,
};
use serde_json::{Value, json};

/// What stands in every header that a guest tries to smuggle.
pub(super) const SMUGGLED: &str = "smuggled";

/// Lines that a guest floods the log with, which is more than one call may write.
pub(super) const FLOOD: u32 = 1100;

/// Longer than a line of the log may be, in bytes.
const LONG_LINE: u32 = 1100;

/// Requests to a rule that allows [`RATE`] a minute.
const RATED: u32 = 5;
/// That many.
pub(super) const RATE: u32 = 3;

/// Redirects that are followed, and the request before them.
const HOPS: usize = 6;

/// Something to try.
#[derive(Debug)]
pub(super) struct Attempt {
    /// In the table.
    pub(super) name: &'static str,
    /// For the prober: `method`, `params` and the like.
    request: Value,
    /// What has to come of it.
    pub(super) expect: Expect,
    /// Requests of it that the server has to get, no more and no less.
    pub(super) arrivals: usize,
    /// Entries of it that the receipt has to have.
    pub(super) notes: usize,
}

/// What has to come of an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expect {
    /// It is allowed, and the answer has this text in it.
    Works(&'static str),
    /// It is refused with this code.
    Refused(i64),
    /// So many times it works, then it is refused with this code.
    Limited(u32, i64),
    /// It is allowed, and nothing that was smuggled along arrives.
    Stripped,
    /// It is allowed; the server gets the secret and sends it back, and the guest does not.
    Cut,
    /// Nobody answers.
    Unanswered,
}

/// Ports, and what marks the requests of one way of starting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    /// Of the server that may be reached.
    pub(super) port: u16,
    /// Of the one that may not.
    pub(super) other_port: u16,
    /// Number of the way.
    pub(super) way: usize,
}

impl Aim {
    /// What the URLs of an attempt carry.
    pub(super) fn mark(self, name: &str) -> String {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        format!("{}-{}", self.way, name.chars().map(letter).collect::<String>())
    }

    /// A URL of the server that may be reached.
    pub(super) fn url(self, name: &str, path: &str) -> String {
        let sign = if path.contains('?') { '&' } else { '?' };
        format!("http://127.0.0.1:{}{path}{sign}a={}", self.port, self.mark(name))
    }

    /// A URL that the server answers with a redirect to `place`.
    fn url_that_leads(self, name: &str, path: &str, place: &str) -> String {
        format!("{}&to={place}", self.url(name, path))
    }
}

impl Attempt {
    fn new(name: &'static str, method: &str, params: &Value, expect: Expect) -> Self {
        let request = json!({"name": name, "method": method, "params": params});
        let arrivals =
            usize::from(matches!(expect, Expect::Works(_) | Expect::Stripped | Expect::Cut));
        Self { name, request, expect, arrivals, notes: 1 }
    }

    fn http(name: &'static str, params: &Value, expect: Expect) -> Self {
        Self::new(name, "host/http", params, expect)
    }

    fn get(name: &'static str, url: &str, expect: Expect) -> Self {
        Self::http(name, &json!({ "url": url }), expect)
    }

    fn file(name: &'static str, params: &Value, expect: Expect) -> Self {
        Self { arrivals: 0, ..Self::new(name, "host/file", params, expect) }
    }

    fn read(name: &'static str, path: &str, expect: Expect) -> Self {
        Self::file(name, &json!({"op": "read", "path": path}), expect)
    }

    fn other(name: &'static str, method: &str, code: i64) -> Self {
        Self::new(name, method, &json!({}), Expect::Refused(code))
    }

    fn seen(self, arrivals: usize, notes: usize) -> Self {
        Self { arrivals, notes, ..self }
    }

    fn also(mut self, member: &str, value: Value) -> Self {
        if let Some(request) = self.request.as_object_mut() {
            request.insert(member.into(), value);
        }
        self
    }

    /// How often it is made.
    pub(super) fn times(&self) -> u32 {
        let times = self.request.get("times").and_then(Value::as_u64);
        times.and_then(|times| u32::try_from(times).ok()).unwrap_or(1)
    }
}

/// The arguments of a call that makes these attempts.
pub(super) fn arguments(attempts: &[Attempt]) -> Value {
    let requests: Vec<&Value> = attempts.iter().map(|attempt| &attempt.request).collect();
    json!({ "attempts": requests })
}

/// The arguments of a call that asks when its answer is there already.
pub(super) fn late(aim: Aim, name: &str) -> Value {
    let request = json!({"name": name, "method": "host/http",
        "params": {"url": aim.url(name, "/allowed/late")}});
    json!({"attempts": [], "after": [request]})
}

/// A call that reaches what it may, and nothing else.
pub(super) fn control(aim: Aim, name: &'static str) -> Vec<Attempt> {
    vec![Attempt::get(name, &aim.url(name, "/allowed/plain"), Expect::Works(REACHED))]
}

/// A call that never gets its answer.
pub(super) fn slow(aim: Aim, name: &'static str) -> Vec<Attempt> {
    vec![Attempt::get(name, &aim.url(name, "/allowed/slow"), Expect::Works(""))]
}

/// What is tried where rules and mounts let the guest do a little.
pub(super) fn open(aim: Aim) -> Vec<Attempt> {
    [controls(aim), places(aim), requests(aim), redirects(aim), secrets(aim), limits(aim), files()]
        .into_iter()
        .flatten()
        .chain(methods())
        .collect()
}

/// What is tried where they let it do nothing.
pub(super) fn closed(aim: Aim) -> Vec<Attempt> {
    let name = "network not granted";
    let flood = json!({"level": "info", "message": "\u{1b}[2Jlog ${fill}"});
    vec![
        Attempt::get(name, &aim.url(name, "/allowed/plain"), Expect::Refused(NETWORK_NOT_GRANTED)),
        Attempt::read("nothing mounted", "/in/hello", Expect::Refused(FILE_DENIED)),
        Attempt::new("flood of log lines", "host/log", &flood, Expect::Unanswered)
            .seen(0, 0)
            .also("times", FLOOD.into())
            .also("notify", true.into())
            .also("fill", LONG_LINE.into()),
    ]
}

fn controls(aim: Aim) -> Vec<Attempt> {
    let written = json!({"op": "write", "path": "/out/written", "data": "by a guest"});
    let mut controls = control(aim, "allowed: request");
    controls.push(Attempt::read("allowed: read a file", "/in/hello", Expect::Works("hello")));
    controls.push(Attempt::file("allowed: write a file", &written, Expect::Works("written")));
    controls
}

/// Other hosts, ports, addresses.
fn places(aim: Aim) -> Vec<Attempt> {
    let Aim { port, other_port, .. } = aim;
    let to = |name: &'static str, host: &str| {
        let url = format!("http://{host}/allowed/plain?a={}", aim.mark(name));
        Attempt::get(name, &url, Expect::Refused(EGRESS_DENIED))
    };
    vec![
        to("other host", &format!("127.0.0.2:{other_port}")),
        to("other host by name", "other.test"),
        to("other port", &format!("127.0.0.1:{other_port}")),
        to("address in other digits", &format!("0x7f000002:{other_port}")),
        to("loopback address", &format!("[::1]:{port}")),
        to("private address", "10.0.0.1"),
        to("link-local address", "169.254.1.1"),
        to("metadata address", "169.254.169.254"),
        to("name of a loopback address", &format!("loopback.proof.test:{port}")),
        to("localhost", &format!("localhost:{port}")),
        to("name of a private address", &format!("private.proof.test:{port}")),
        to("name of a link-local address", &format!("link-local.proof.test:{port}")),
        to("name of a metadata address", &format!("metadata.proof.test:{port}")),
        to("name of an IPv6 private address", &format!("private6.proof.test:{port}")),
        to("name of a mapped address", &format!("mapped.proof.test:{port}")),
    ]
}

/// Other methods, paths, schemes, and what is hidden in them.
fn requests(aim: Aim) -> Vec<Attempt> {
    let ask = |name: &'static str, method: &str, path: &str, code: i64| {
        let params = json!({"method": method, "url": aim.url(name, path)});
        Attempt::http(name, &params, Expect::Refused(code))
    };
    let to = |name, url: String, code| Attempt::get(name, &url, Expect::Refused(code));
    let port = aim.port;
    let smuggled = json!({
        "Host": SMUGGLED, "X-Forwarded-Host": SMUGGLED, "X-Original-URL": SMUGGLED,
        "X-HTTP-Method-Override": SMUGGLED, "Transfer-Encoding": SMUGGLED, "Upgrade": SMUGGLED,
        "Connection": SMUGGLED, "Proxy-Authorization": SMUGGLED, "Content-Length": "4",
    });
    let name = "headers that are osvm's";
    let headers = json!({"url": aim.url(name, "/allowed/plain"), "headers": smuggled});
    let name = "line break in a header";
    let broken = format!("x\r\nHost: {SMUGGLED}");
    let broken = json!({"url": aim.url(name, "/allowed/plain"), "headers": {"X-A": broken}});
    vec![
        ask("other method", "DELETE", "/allowed/plain", EGRESS_DENIED),
        ask("method in small letters", "delete", "/allowed/plain", INVALID_PARAMS),
        ask("CONNECT", "CONNECT", "/allowed/plain", INVALID_PARAMS),
        ask("TRACE", "TRACE", "/allowed/plain", INVALID_PARAMS),
        ask("line break in the method", "GET / HTTP/1.1\r\nX: y", "/allowed/plain", INVALID_PARAMS),
        ask("other path", "GET", "/forbidden", EGRESS_DENIED),
        ask("path with ..", "GET", "/allowed/../forbidden", EGRESS_DENIED),
        ask("path with encoded ..", "GET", "/allowed/%2e%2e%2fforbidden", EGRESS_DENIED),
        ask("path encoded twice", "GET", "/allowed/%252e%252e/forbidden", EGRESS_DENIED),
        ask("line break in the URL", "GET", "/allowed/ HTTP/1.1\r\nX: y", INVALID_PARAMS),
        to(
            "user name in the URL",
            format!("http://me:pw@127.0.0.1:{port}/allowed/"),
            INVALID_PARAMS,
        ),
        to(
            "host behind a user name",
            format!("http://127.0.0.1:{port}@other.test/"),
            INVALID_PARAMS,
        ),
        to("ftp", format!("ftp://127.0.0.1:{port}/allowed/"), INVALID_PARAMS),
        to("file URL", "file:///etc/passwd".into(), INVALID_PARAMS),
        to("gopher", format!("gopher://127.0.0.1:{port}/allowed/"), INVALID_PARAMS),
        Attempt::http("headers that are osvm's", &headers, Expect::Stripped),
        Attempt::http(name, &broken, Expect::Refused(INVALID_PARAMS)),
    ]
}

fn redirects(aim: Aim) -> Vec<Attempt> {
    let to = |name: &'static str, place: &str| {
        let url = aim.url_that_leads(name, "/allowed/to", place);
        Attempt::get(name, &url, Expect::Refused(EGRESS_DENIED))
    };
    let Aim { port, other_port, .. } = aim;
    let name = "redirect without end";
    vec![
        to("redirect to another host", &format!("http://127.0.0.2:{other_port}/x")).seen(1, 2),
        to("redirect to another path", "/forbidden").seen(1, 2),
        to("redirect to a private address", &format!("http://private.proof.test:{port}/"))
            .seen(1, 2),
        to("redirect to a metadata address", "http://169.254.169.254/latest").seen(1, 2),
        to("redirect to a file", "file:///etc/passwd").seen(1, 1),
        Attempt::get(name, &aim.url(name, "/allowed/loop"), Expect::Refused(EGRESS_DENIED))
            .seen(HOPS, HOPS),
    ]
}

fn secrets(aim: Aim) -> Vec<Attempt> {
    let placeholder = format!("${{secret:{PLANTED}}}");
    let name = "placeholder of a secret";
    let own = json!({"url": aim.url(name, &format!("/allowed/plain?x={placeholder}")),
        "headers": {"X-A": placeholder}});
    let moved = "redirect with a secret";
    let url = aim.url_that_leads(moved, "/secret/to", "/allowed/plain");
    let away = "secret to another host";
    let place = format!("http://127.0.0.2:{}/x", aim.other_port);
    let gone = aim.url_that_leads(away, "/secret/to", &place);
    vec![
        Attempt::get("secret sent back", &aim.url("secret sent back", "/secret/echo"), Expect::Cut),
        // The server gets the text that the guest sent, which is no secret.
        Attempt::http(name, &own, Expect::Works(REACHED)),
        Attempt::get(moved, &url, Expect::Works(REACHED)).seen(2, 2),
        Attempt::get(away, &gone, Expect::Refused(EGRESS_DENIED)).seen(1, 2),
        Attempt::get(
            "secret that is not set",
            &aim.url("secret that is not set", "/unset"),
            Expect::Refused(SECRET_MISSING),
        ),
    ]
}

fn limits(aim: Aim) -> Vec<Attempt> {
    let name = "request too long";
    let long = json!({"method": "POST", "url": aim.url(name, "/small/plain"), "body": "${fill}"});
    let back = "response too long";
    let often = "too many per minute";
    let limited = Expect::Limited(RATE, LIMIT_REACHED);
    vec![
        Attempt::http(name, &long, Expect::Refused(TOO_LONG)).also("fill", 5000.into()),
        Attempt::get(back, &aim.url(back, "/small/long"), Expect::Refused(TOO_LONG)).seen(1, 1),
        Attempt::get(often, &aim.url(often, "/rated"), limited)
            .seen(RATE as usize, RATED as usize)
            .also("times", RATED.into()),
    ]
}

fn files() -> Vec<Attempt> {
    let read = |name, path: &str| Attempt::read(name, path, Expect::Refused(FILE_DENIED));
    let write = |name, path: &str, offset: Option<u64>| {
        let params = json!({"op": "write", "path": path, "data": "by a guest", "offset": offset});
        Attempt::file(name, &params, Expect::Refused(FILE_DENIED))
    };
    let list = json!({"op": "list", "path": "/own"});
    vec![
        read("file outside with ..", "/in/../outside"),
        read("file outside, absolute", "/etc/passwd"),
        read("file by a relative path", "in/hello"),
        read("file behind a link", "/in/link"),
        read("file below a link", "/in/up/outside"),
        read("pipe", "/in/pipe"),
        read("osvm's own files", "/own/secrets"),
        Attempt::file("list osvm's own files", &list, Expect::Refused(FILE_DENIED)),
        read("the kernel's files", "/kernel/version"),
        write("write where it is read-only", "/in/hello", None),
        write("new file where it is read-only", "/in/new", None),
        write("write behind a link", "/out/link", None),
        write("write far behind the end", "/out/written", Some(1 << 40)),
    ]
}

fn methods() -> Vec<Attempt> {
    let stream = json!({"stream": 1});
    vec![
        Attempt::other("unknown host method", "host/exec", HOST_METHOD_DENIED),
        Attempt::other("ask for a secret", "host/secret.get", HOST_METHOD_DENIED),
        Attempt::other("ask for the environment", "host/env", HOST_METHOD_DENIED),
        Attempt::other("method of no host", "tools/call", METHOD_NOT_FOUND),
        Attempt::new(
            "body of another call",
            "host/http.read",
            &stream,
            Expect::Refused(INVALID_PARAMS),
        ),
        Attempt::new("no parameters", "host/http", &json!([]), Expect::Refused(INVALID_PARAMS)),
    ]
}
