//! Servers with Streamable HTTP, of both eras, and those that misbehave.

use crate::support::{Ask, Notes, ask, eventually, soon};
use osvm_upstream::{Server, Spec, Target, UpstreamError};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// One request that came in.
#[derive(Clone, Debug)]
struct Seen {
    verb: String,
    headers: HashMap<String, String>,
    body: Value,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn method(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }

    /// The answer to it, as the body of a response.
    fn answer(&self, result: &Value) -> String {
        json!({"jsonrpc": "2.0", "id": self.body["id"], "result": result}).to_string()
    }
}

struct Site {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Site {
    /// Serves each request with `serve`, on a connection of its own.
    fn new(serve: impl Fn(&Seen, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (writing, serve) = (Arc::clone(&seen), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, writing) = (stream.unwrap(), Arc::clone(&writing));
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    writing.lock().unwrap().push(request.clone());
                    serve(&request, &mut stream);
                });
            }
        });
        Self { url, seen }
    }

    fn server(&self) -> Arc<Server> {
        let headers = vec![("Authorization".to_owned(), "Bearer hunter2".to_owned())];
        let target = Target::Http { url: self.url.clone(), headers };
        let probe_timeout = Duration::from_secs(2);
        Server::new(Spec { probe_timeout, ..Spec::new("web", target) }, None)
    }

    fn seen(&self, method: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.method() == method || seen.verb == method).cloned().collect()
    }
}

fn read(stream: &TcpStream) -> Option<Seen> {
    let mut input = BufReader::new(stream);
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    let verb = line.split(' ').next()?.to_owned();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        input.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some(Seen { verb, headers, body })
}

/// Answers with a body, and closes.
fn respond(stream: &mut TcpStream, status: &str, more: &str, body: &str) {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{more}\r\n");
    // osvm may have hung up.
    let _gone = stream.write_all(format!("{head}{body}").as_bytes());
}

const JSON: &str = "Content-Type: application/json; charset=utf-8\r\n";

fn ok(stream: &mut TcpStream, body: &str) {
    respond(stream, "200 OK", JSON, body);
}

/// Opens a stream of events, which ends with the connection.
fn events(stream: &mut TcpStream, text: &str) {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n";
    let _gone = stream.write_all(format!("{head}{text}").as_bytes());
}

fn discovered(seen: &Seen) -> String {
    let capabilities = json!({"tools": {}});
    seen.answer(&json!({"supportedVersions": ["2026-07-28"], "capabilities": capabilities}))
}

/// A new server that does `then` with everything but `server/discover`.
fn modern(then: impl Fn(&Seen, &mut TcpStream) + Send + Sync + 'static) -> Site {
    Site::new(move |seen, stream| match seen.method() {
        "server/discover" => ok(stream, &discovered(seen)),
        _ => then(seen, stream),
    })
}

/// An old server with sessions that does `then` with everything after the handshake.
fn old(then: impl Fn(&Seen, &mut TcpStream) + Send + Sync + 'static) -> Site {
    Site::new(move |seen, stream| match (seen.verb.as_str(), seen.method()) {
        (_, "server/discover") => respond(stream, "400 Bad Request", JSON, "{}"),
        (_, "initialize") => {
            let result = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
            let head = format!("{JSON}Mcp-Session-Id: one\r\n");
            respond(stream, "200 OK", &head, &seen.answer(&result));
        }
        (_, method) if method.starts_with("notifications/") => {
            respond(stream, "202 Accepted", "", "");
        }
        ("DELETE", _) => respond(stream, "204 No Content", "", ""),
        _ => then(seen, stream),
    })
}

#[test]
fn a_new_server_sees_in_headers_what_is_in_the_body() {
    let tools = r#"{"tools":[{"name":"é","inputSchema":{"properties":{"r":{"type":"string",
        "x-mcp-header":"Region"}}}},{"name":"bad","inputSchema":{"properties":{"r":
        {"type":"string","x-mcp-header":"a b"}}}}]}"#;
    let site = modern(move |seen, stream| match seen.method() {
        "tools/list" => ok(stream, &seen.answer(&serde_json::from_str(tools).unwrap())),
        _ => ok(stream, &seen.answer(&json!("fine"))),
    });
    let server = site.server();
    let offer = server.refresh(soon()).unwrap();
    assert_eq!((offer.tools.len(), offer.left_out[0].tool.as_str()), (1, "bad"));
    let params = Some(json!({"name": "é", "arguments": {"r": "eu west"}}));
    let answer = Ask { params, ..Ask::new("tools/call") }.of(&server, &Notes::default());
    assert_eq!(answer.unwrap(), "fine");
    let call = site.seen("tools/call").remove(0);
    assert_eq!(call.header("mcp-protocol-version"), "2026-07-28");
    assert_eq!(call.header("mcp-method"), "tools/call");
    assert_eq!(call.header("mcp-name"), "=?base64?w6k=?=");
    assert_eq!(call.header("mcp-param-region"), "eu west");
    assert_eq!(call.header("authorization"), "Bearer hunter2");
    assert_eq!(call.header("accept"), "application/json, text/event-stream");
    assert!(site.seen("initialize").is_empty());
}

#[test]
fn progress_and_answer_come_as_events() {
    let site = modern(|seen, stream| {
        let params = json!({"progressToken": seen.body["id"], "progress": 1});
        let progress =
            json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
        events(
            stream,
            &format!(": hi\n\ndata: {progress}\n\ndata: {}\n\n", seen.answer(&json!(7))),
        );
    });
    let notes = Notes::default();
    let params = Some(json!({"_meta": {"progressToken": 5}}));
    let answer = Ask { params, ..Ask::new("m") }.of(&site.server(), &notes);
    assert_eq!((answer.unwrap(), notes.heard().len()), (json!(7), 1));
}

#[test]
fn a_session_begins_with_the_handshake_and_ends_with_the_server() {
    let site = old(|seen, stream| match seen.verb.as_str() {
        "GET" => respond(stream, "405 Method Not Allowed", "", ""),
        _ => ok(stream, &seen.answer(&json!("fine"))),
    });
    let server = site.server();
    assert_eq!(ask(&server, "m").unwrap(), "fine");
    let call = site.seen("m").remove(0);
    assert_eq!((call.header("mcp-session-id"), call.header("mcp-method")), ("one", ""));
    assert_eq!(call.header("mcp-protocol-version"), "2025-11-25");
    server.shut_down();
    assert_eq!(site.seen("DELETE")[0].header("mcp-session-id"), "one");
}

#[test]
fn a_question_comes_over_the_stream_and_is_answered_with_a_post() {
    let site = old(|seen, stream| match seen.method() {
        "m" => {
            let question = json!({"jsonrpc": "2.0", "id": "q", "method": "roots/list"});
            events(stream, &format!("data: {question}\n\n"));
            thread::sleep(Duration::from_millis(500));
            let _gone = write!(stream, "data: {}\n\n", seen.answer(&json!("fine")));
        }
        _ if seen.verb == "GET" => respond(stream, "405 Method Not Allowed", "", ""),
        _ => respond(stream, "202 Accepted", "", ""),
    });
    let notes = Notes { answer: Some(json!({"roots": []})), ..Notes::default() };
    let capabilities = Some(json!({"roots": {}}));
    let answer = Ask { capabilities, ..Ask::new("m") }.of(&site.server(), &notes);
    assert_eq!(answer.unwrap(), "fine");
    eventually("the answer", || {
        let seen = site.seen.lock().unwrap();
        seen.iter().any(|seen| seen.body["id"] == "q" && seen.body["result"]["roots"] == json!([]))
    });
}

#[test]
fn a_stream_that_ends_before_the_answer_is_taken_up_where_it_ended() {
    let id: Arc<Mutex<Value>> = Arc::default();
    let site = old(move |seen, stream| match (seen.verb.as_str(), seen.header("last-event-id")) {
        ("GET", "e7") => {
            let answer = json!({"jsonrpc": "2.0", "id": *id.lock().unwrap(), "result": "late"});
            events(stream, &format!("id: e8\ndata: {answer}\n\n"));
        }
        ("GET", _) => respond(stream, "405 Method Not Allowed", "", ""),
        _ => {
            *id.lock().unwrap() = seen.body["id"].clone();
            events(stream, "id: e7\nretry: 300\ndata:\n\n");
        }
    });
    let since = Instant::now();
    assert_eq!(ask(&site.server(), "m").unwrap(), "late");
    assert!(Duration::from_millis(300) <= since.elapsed(), "came back too early");
}

#[test]
fn the_get_stream_tells_of_changed_lists() {
    let site = old(|seen, stream| match seen.verb.as_str() {
        "GET" => {
            let change = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
            events(stream, &format!("retry: 60000\ndata: {change}\n\n"));
        }
        _ => ok(stream, &seen.answer(&json!("fine"))),
    });
    let server = site.server();
    ask(&server, "m").unwrap();
    eventually("the change", || server.changed() == 1);
}

#[test]
fn a_session_that_the_server_forgot_is_begun_anew_once() {
    for (forgets, expected) in [(1, "fine"), (2, "server `web` was lost: it forgot the session")] {
        let calls = AtomicUsize::new(0);
        let site = old(move |seen, stream| match seen.verb.as_str() {
            "GET" => respond(stream, "405 Method Not Allowed", "", ""),
            _ if calls.fetch_add(1, Ordering::SeqCst) < forgets => {
                respond(stream, "404 Not Found", "", "");
            }
            _ => ok(stream, &seen.answer(&json!("fine"))),
        });
        let got = match ask(&site.server(), "m") {
            Ok(answer) => answer.as_str().unwrap().to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expected);
        assert_eq!(site.seen("initialize").len(), 2);
    }
}

#[test]
fn refused_credentials_are_named_as_that() {
    for status in [401, 403] {
        let site = Site::new(move |_, stream| respond(stream, &format!("{status} No"), "", ""));
        let error = ask(&site.server(), "m").unwrap_err();
        let expected = format!("server `web` refused the credentials with HTTP status {status}");
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().is_some());
    }
}

#[test]
fn credentials_follow_no_redirect_to_another_place() {
    let other = Site::new(|_, stream| ok(stream, "{}"));
    let elsewhere = format!("Location: {}\r\n", other.url);
    let site = modern(move |_, stream| respond(stream, "307 Temporary Redirect", &elsewhere, ""));
    let error = ask(&site.server(), "m").unwrap_err();
    assert!(matches!(error, UpstreamError::Http { status: 307, .. }), "{error}");
    assert!(other.seen.lock().unwrap().is_empty());
}

#[test]
fn transports_that_mcp_does_not_have_are_named() {
    let fails = |url: &str| {
        let target = Target::Http { url: url.to_owned(), headers: Vec::new() };
        ask(&Server::new(Spec::new("web", target), None), "m").unwrap_err()
    };
    let error = fails("wss://example.com/mcp");
    assert_eq!(error.to_string(), "server `web` can't be reached over WebSocket");
    assert!(error.hint().unwrap().starts_with("MCP has no WebSocket transport"));
    let site = Site::new(|seen, stream| match seen.verb.as_str() {
        "GET" => events(stream, "event: endpoint\ndata: /messages?id=1\n\n"),
        _ => respond(stream, "405 Method Not Allowed", "", ""),
    });
    assert_eq!(fails(&site.url).to_string(), "server `web` can't be reached over HTTP+SSE");
    // Nobody listens there.
    let error = fails("http://127.0.0.1:1/mcp?key=hunter2");
    assert!(matches!(error, UpstreamError::Gone { .. }));
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn a_body_or_an_event_over_the_limit_is_refused() {
    for streams in [false, true] {
        let site = modern(move |_, stream| {
            if streams {
                events(stream, "data: ");
            } else {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n{JSON}\r\n");
                stream.write_all(head.as_bytes()).unwrap();
            }
            let piece = vec![b'x'; 1 << 20];
            while stream.write_all(&piece).is_ok() {}
        });
        let error = ask(&site.server(), "m").unwrap_err().to_string();
        assert!(error.contains("more than 32 MiB"), "{error}");
    }
}

#[test]
fn an_answer_that_is_no_message_is_shown() {
    let site = modern(|_, stream| respond(stream, "502 Bad Gateway", "", "<html>no\n"));
    let error = ask(&site.server(), "m").unwrap_err();
    let expected = "server `web` answered with HTTP status 502: <html>no\\n";
    assert_eq!(error.to_string(), expected);
    let site = modern(|seen, stream| {
        let error = json!({"code": -32_601, "message": "m"});
        let body = json!({"jsonrpc": "2.0", "id": seen.body["id"], "error": error});
        respond(stream, "404 Not Found", JSON, &body.to_string());
    });
    assert_eq!(ask(&site.server(), "m").unwrap()["error"]["code"], -32_601);
}

#[test]
fn cancelling_closes_the_stream() {
    let (closed, told) = std::sync::mpsc::channel();
    let site = modern(move |_, stream| {
        events(stream, ": working\n\n");
        // Ends when osvm hangs up.
        let ended = stream.read(&mut [0]);
        closed.send(matches!(ended, Ok(0) | Err(_))).unwrap();
    });
    let server = site.server();
    let asked = Ask { deadline: Instant::now() + Duration::from_millis(700), ..Ask::new("m") };
    let error = asked.of(&server, &Notes::default()).unwrap_err();
    assert!(matches!(error, UpstreamError::Deadline { .. }));
    assert!(told.recv_timeout(Duration::from_secs(5)).unwrap());
    assert!(site.seen("notifications/cancelled").is_empty());
}
