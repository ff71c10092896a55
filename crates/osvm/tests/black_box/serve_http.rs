//! `osvm mcp serve --http` as clients and web pages see it.

use crate::client::stateless;
use crate::support::{Home, eventually};
use serde_json::{Value, json};
use snapbox::str;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A server of one test; killed at its end.
struct Server {
    osvm: Child,
    address: SocketAddr,
}

impl Server {
    fn start(home: &Home, args: &[&str]) -> Self {
        let args = [&["mcp", "serve", "--http", "127.0.0.1:0"], args].concat();
        let mut command = home.osvm_std(&args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut osvm = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(osvm.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("serving MCP at http://").unwrap();
        let address = address.strip_suffix("/mcp").unwrap().parse().unwrap();
        Self { osvm, address }
    }

    /// A request that asks for the connection to be closed after it.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let host = [("host", self.address.to_string())];
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        let has_host = headers.iter().any(|(name, _)| *name == "host");
        for (name, value) in host.iter().filter(|_| !has_host) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses need not read what it refuses.
        let _refused = stream.write_all(body);
        stream
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        Response::read(self.send(method, path, headers, body))
    }

    /// A message, with these headers besides what a message needs.
    fn post(&self, headers: &[(&str, &str)], message: &Value) -> Response {
        let headers = [&[("content-type", "application/json")], headers].concat();
        self.ask("POST", "/mcp", &headers, message.to_string().as_bytes())
    }

    fn stateless(&self, method: &str, params: Value) -> Response {
        let message = request(7, method, stateless(params.clone()));
        let name = params["name"].as_str().unwrap_or("-");
        self.post(&[VERSION, ("mcp-method", method), ("mcp-name", name)], &message)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.osvm.kill();
        let _ended = self.osvm.wait();
    }
}

const VERSION: (&str, &str) = ("mcp-protocol-version", "2026-07-28");

fn request(id: i32, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let head = head.to_ascii_lowercase();
        let chunked = head.contains("transfer-encoding: chunked");
        let body = if chunked { unchunked(body) } else { body.to_owned() };
        Self { status, head, body }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(": ")
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{} {}", self.status, self.body))
    }

    fn events(&self) -> Vec<Value> {
        assert_eq!(self.header("content-type"), Some("text/event-stream"), "{}", self.body);
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.push_str(&rest[..length]);
        body = rest[length..].strip_prefix("\r\n").unwrap();
    }
    whole
}

#[test]
fn both_eras_are_served_at_one_address() {
    let home = Home::new();
    let server = Server::start(&home, &["--no-token"]);
    let discovered = server.stateless("server/discover", json!({}));
    assert_eq!(
        (discovered.status, discovered.json()["result"]["resultType"].as_str()),
        (200, Some("complete"))
    );
    let params = json!({"name": "system__echo", "arguments": {"text": "hi"}});
    let called = server.stateless("tools/call", params.clone());
    assert_eq!(called.json()["result"]["structuredContent"], json!({"text": "hi"}));

    let initialized =
        server.post(&[], &request(1, "initialize", json!({"protocolVersion": "2025-11-25"})));
    assert_eq!(initialized.json()["result"]["protocolVersion"], "2025-11-25");
    let session = ("mcp-session-id", initialized.header("mcp-session-id").unwrap());
    let notified = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(server.post(&[session], &notified).status, 202);
    let called = server.post(&[session], &request(2, "tools/call", params));
    assert_eq!(called.json()["result"]["structuredContent"], json!({"text": "hi"}));
    assert_eq!(server.ask("DELETE", "/mcp", &[session], b"").status, 200);
    assert_eq!(server.post(&[session], &request(3, "tools/list", json!({}))).status, 404);
    assert_eq!(server.post(&[], &request(3, "tools/list", json!({}))).status, 400);
}

#[test]
fn progress_and_the_answer_come_as_events_in_order() {
    let home = Home::new();
    let server = Server::start(&home, &["--no-token"]);
    let params = json!({"name": "system__echo", "arguments": {"text": "hi"},
        "_meta": {"progressToken": "t"}});
    let events = server.stateless("tools/call", params).events();
    assert_eq!(events.len(), 3, "{events:?}");
    for (at, told) in [(1, &events[0]), (2, &events[1])] {
        assert_eq!(told["params"]["progressToken"], "t");
        assert_eq!(told["params"]["progress"], at);
    }
    assert_eq!(events[2]["result"]["structuredContent"], json!({"text": "hi"}));
}

#[test]
fn of_ten_clients_those_that_behave_do_not_notice_the_others() {
    let home = crate::serve_servers::home("direct");
    let server = Server::start(&home, &["--no-token", "--no-prefix", "--servers", "fixture"]);
    let call = |name: &str, arguments: Value| {
        let message =
            request(7, "tools/call", stateless(json!({"name": name, "arguments": arguments})));
        let headers = [
            VERSION,
            ("mcp-method", "tools/call"),
            ("mcp-name", name),
            ("content-type", "application/json"),
        ];
        server.send("POST", "/mcp", &headers, message.to_string().as_bytes())
    };
    let listed = server.stateless("tools/list", json!({})).json();
    assert!(!listed["result"]["tools"].as_array().unwrap().is_empty());
    let killed = call("sleep", json!({"ms": 600_000}));
    let deaf = call("big", json!({"bytes": 10 * 1024 * 1024}));
    let noisy = server.send("POST", "/mcp", &[], &[0xff; 100_000]);
    std::thread::scope(|scope| {
        for client in 0..7 {
            let call = &call;
            scope.spawn(move || {
                for n in 0..10 {
                    let text = format!("{client}-{n}");
                    let answer = Response::read(call("echo", json!({ "text": text }))).json();
                    assert_eq!(answer["result"]["content"][0]["text"], text, "{answer}");
                }
            });
        }
        drop(killed);
    });
    drop((deaf, noisy));
    // The call of the client that was killed is over too, or osvm would not end.
    drop(server);
    home.assert_nothing_left();
}

#[test]
fn a_subscription_stays_open_until_its_client_goes() {
    let home = Home::new();
    let server = Server::start(&home, &["--no-token"]);
    let params = stateless(json!({"notifications": {"toolsListChanged": true}}));
    let message = request(5, "subscriptions/listen", params).to_string();
    let headers =
        [VERSION, ("mcp-method", "subscriptions/listen"), ("content-type", "application/json")];
    let mut lines =
        BufReader::new(server.send("POST", "/mcp", &headers, message.as_bytes())).lines();
    let mut next = || loop {
        if let Some(data) = lines.next().unwrap().unwrap().strip_prefix("data: ") {
            break serde_json::from_str::<Value>(data).unwrap();
        }
    };
    assert_eq!(next()["method"], "notifications/subscriptions/acknowledged");
    let store = home.store();
    let image = fs::read(store.image_path("unikraft_tool_executor")).unwrap();
    let (was, is) = (b"Returns the text it was given.", b"Says again what it has heard..");
    let at = image.windows(was.len()).position(|bytes| bytes == was).unwrap();
    let file = home.write("image", [&image[..at], is, &image[at + was.len()..]].concat());
    store.install("unikraft_tool_executor", &file, None).unwrap();
    let told = next();
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 5);
}

#[test]
fn errors_have_the_status_that_mcp_gives_them() {
    let home = Home::new();
    let server = Server::start(&home, &["--no-token"]);
    let unknown = server.stateless("resources/list", json!({}));
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (404, &json!(-32601)));
    let removed = server.stateless("initialize", json!({"protocolVersion": "2025-11-25"}));
    assert_eq!((removed.status, &removed.json()["error"]["code"]), (404, &json!(-32601)));
    let wrong = server.stateless("tools/call", json!({"name": "x"}));
    assert_eq!((wrong.status, &wrong.json()["error"]["code"]), (400, &json!(-32602)));
    let mismatch = server
        .post(&[VERSION, ("mcp-method", "ping")], &request(1, "tools/list", stateless(json!({}))));
    assert_eq!((mismatch.status, &mismatch.json()["error"]["code"]), (400, &json!(-32020)));
    assert_eq!(mismatch.json()["id"], 1);
    let mut params = stateless(json!({}));
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = "1999-01-01".into();
    let message = request(1, "tools/list", params);
    let mismatch = server.post(&[VERSION, ("mcp-method", "tools/list")], &message);
    assert_eq!((mismatch.status, &mismatch.json()["error"]["code"]), (400, &json!(-32020)));
    let asked = [("mcp-protocol-version", "1999-01-01"), ("mcp-method", "tools/list")];
    let version = server.post(&asked, &message);
    assert_eq!((version.status, &version.json()["error"]["code"]), (400, &json!(-32022)));
    let json = ("content-type", "application/json");
    for body in [b"[]".as_slice(), b"{", b"\xff", b"{\"id\":null}"] {
        assert_eq!(server.ask("POST", "/mcp", &[json], body).status, 400);
    }
    assert_eq!(server.ask("POST", "/mcp", &[("content-type", "text/plain")], b"{}").status, 415);
    assert_eq!(server.ask("GET", "/mcp", &[], b"").status, 405);
    assert_eq!(server.ask("GET", "/", &[], b"").status, 404);
    assert_eq!(server.ask("GET", "/healthz", &[], b"").body, "ok\n");
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_sent() {
    let home = Home::new();
    let server = Server::start(&home, &["--no-token"]);
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: 104857600\r\n\r\n",
        server.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b' '; 12 << 20]).unwrap_or_default();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
    assert_eq!(server.ask("GET", "/healthz", &[], b"").status, 200);
}

#[test]
fn pages_of_other_sites_and_other_hosts_are_turned_away() {
    let home = Home::new();
    let server = Server::start(&home, &["--no-token"]);
    let message = request(1, "ping", json!({}));
    for header in [("host", "evil.example"), ("origin", "http://evil.example"), ("origin", "null")]
    {
        assert_eq!(server.post(&[header], &message).status, 403, "{header:?}");
    }
    assert_ne!(server.post(&[("origin", "http://localhost:1")], &message).status, 403);
}

#[test]
fn without_the_token_nothing_is_answered_but_the_health_check() {
    let home = Home::new();
    let server = Server::start(&home, &[]);
    let token = home.osvm(["mcp", "token"]).output().unwrap();
    let token = String::from_utf8(token.stdout).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let message = request(1, "initialize", json!({"protocolVersion": "2025-11-25"}));
    for wrong in ["Bearer x", "Basic x", "x"] {
        let refused = server.post(&[("authorization", wrong)], &message);
        assert_eq!(refused.status, 401);
        assert!(refused.header("www-authenticate").unwrap().starts_with("bearer"));
    }
    assert_eq!(server.post(&[], &message).status, 401);
    assert_eq!(server.post(&[("authorization", &bearer)], &message).status, 200);
    assert_eq!(server.ask("GET", "/healthz", &[], b"").status, 200);
}

#[test]
fn other_machines_are_not_served_without_a_token() {
    let home = Home::new();
    let serve = home.osvm(["mcp", "serve", "--http", "0.0.0.0:0", "--no-token"]);
    serve.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: other machines reach `0.0.0.0:0`, so clients have to show a token

hint: leave out `--no-token`, or serve at 127.0.0.1

"#]]);
}

#[test]
fn a_stateless_client_that_goes_away_takes_its_call_with_it() {
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 60);
    let server = Server::start(&home, &["--no-token"]);
    let params = stateless(json!({"name": "system__echo", "arguments": {"text": "hi"}}));
    let message = request(1, "tools/call", params).to_string();
    let headers = [
        VERSION,
        ("mcp-method", "tools/call"),
        ("mcp-name", "system__echo"),
        ("content-type", "application/json"),
    ];
    let connection = server.send("POST", "/mcp", &headers, message.as_bytes());
    let vm = home.wait_for_vm();
    drop(connection);
    eventually("the VM to be gone", || (!alive(vm)).then_some(()));
    assert_eq!(server.ask("GET", "/healthz", &[], b"").status, 200);
}

#[test]
fn a_call_of_a_session_is_cancelled_by_a_notification() {
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 60);
    let server = Server::start(&home, &["--no-token"]);
    let begin = || {
        let message = request(1, "initialize", json!({"protocolVersion": "2025-11-25"}));
        server.post(&[], &message).header("mcp-session-id").unwrap().to_owned()
    };
    let (ours, other) = (begin(), begin());
    let call =
        request(2, "tools/call", json!({"name": "system__echo", "arguments": {"text": "hi"}}));
    let headers = [("mcp-session-id", &*ours), ("content-type", "application/json")];
    let waiting = server.send("POST", "/mcp", &headers, call.to_string().as_bytes());
    let vm = home.wait_for_vm();
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}});
    assert_eq!(server.post(&[("mcp-session-id", &other)], &cancel).status, 202);
    std::thread::sleep(Duration::from_millis(300));
    assert!(alive(vm), "another session's request has the same id and is another one");
    assert_eq!(server.post(&[("mcp-session-id", &ours)], &cancel).status, 202);
    eventually("the VM to be gone", || (!alive(vm)).then_some(()));
    assert_eq!(Response::read(waiting).body, "", "nothing is sent for a cancelled call");
}

#[test]
fn sigterm_ends_calls_and_connections_in_order() {
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 60);
    let mut server = Server::start(&home, &["--no-token"]);
    let params = stateless(json!({"name": "system__echo", "arguments": {"text": "hi"}}));
    let message = request(1, "tools/call", params).to_string();
    let headers = [
        VERSION,
        ("mcp-method", "tools/call"),
        ("mcp-name", "system__echo"),
        ("content-type", "application/json"),
    ];
    let _waiting = server.send("POST", "/mcp", &headers, message.as_bytes());
    home.wait_for_vm();
    let pid = rustix::process::Pid::from_child(&server.osvm);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(server.osvm.wait().unwrap().code(), Some(143));
    home.assert_nothing_left();
}

fn alive(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}
