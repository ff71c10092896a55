//! What a server in a guest reaches through the broker, and that it reaches nothing else.

use crate::guest::{Bench, Runtime, soon};
use crate::persistent::Client;
use osvm_broker::{Broker, NoSecrets, Protected};
use osvm_microvm::{Cloned, Outside, Persistent};
use osvm_policy::{Config, Env, Resolved};
use osvm_protocol::linux::net::MAX_STREAMS;
use osvm_protocol::message::RpcError;
use osvm_runtime::{
    CallId, Cancel, HostRequest, HostServices, LongGuest, LongGuests, OnBehalf, Reach, Trace,
};
use osvm_upstream::{Launch, Stop};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Barrier};

/// A server of this host that answers every connection alike.
fn serve(answer: fn(&mut BufReader<&TcpStream>) -> String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let text = answer(&mut BufReader::new(&connection));
            let _gone = (&connection).write_all(text.as_bytes());
        }
    });
    port
}

fn web() -> u16 {
    serve(|lines| {
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        let mut line = first.clone();
        while line.trim() != "" {
            line.clear();
            lines.read_line(&mut line).unwrap();
        }
        let body = first.split_whitespace().nth(1).unwrap().repeat(1000);
        let len = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}")
    })
}

fn echo() -> u16 {
    serve(|stream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}

/// An echo server whose answers begin when `count` connections stand: each gets a `+`, then its own bytes.
fn crowd(count: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let all = Arc::new(Barrier::new(count));
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let all = Arc::clone(&all);
            std::thread::spawn(move || {
                all.wait();
                connection.write_all(b"+").unwrap();
                let mut text = String::new();
                connection.read_to_string(&mut text).unwrap();
                connection.write_all(text.as_bytes()).unwrap();
            });
        }
    });
    port
}

fn policy(egress: &Value) -> Resolved {
    let config = json!({"mcp_servers": {"s": {"network_enabled": true, "egress": egress}}});
    let env = Env::new(None, None, Some("/home/u".into())).unwrap();
    let config = Config::parse(config.to_string(), Path::new("c.json"), &env).unwrap();
    config.resolve("s", "t")
}

/// The broker, with a name that leads to this host: `a.test`.
#[derive(Debug)]
struct Services(Broker);

impl HostServices for Services {
    fn serve(&self, request: &HostRequest<'_>) -> Result<Box<RawValue>, RpcError> {
        self.0.serve(request)
    }

    fn connect(
        &self,
        request: &HostRequest<'_>,
        host: &str,
        port: u16,
    ) -> Result<TcpStream, RpcError> {
        if host == "a.test" && HostServices::ports(self, request, host)?.contains(&port) {
            return Ok(TcpStream::connect(("127.0.0.1", port)).unwrap());
        }
        HostServices::connect(&self.0, request, host, port)
    }

    fn ports(&self, request: &HostRequest<'_>, name: &str) -> Result<Vec<u16>, RpcError> {
        HostServices::ports(&self.0, request, name)
    }

    fn ended(&self, call: CallId, trace: &Trace) {
        self.0.ended(call, trace);
    }
}

fn outside(policy: &Resolved) -> Outside {
    let protected = Protected::new("/home/u".into(), Vec::new());
    let services = Services(Broker::new(Arc::new(NoSecrets), protected));
    let (services, guests) = (Arc::new(services), LongGuests::default());
    Outside { services, guests, policy: Arc::new(policy.clone()) }
}

/// One call of a server that has a way out.
struct Call {
    client: Client,
    id: u32,
    trace: Arc<Trace>,
    guest: Arc<dyn LongGuest>,
    call: CallId,
    cid: u32,
}

impl Call {
    fn begin(launch: &dyn Launch, outside: &Outside, policy: &Resolved) -> Self {
        let link = launch.launch(soon(), &Stop::default()).unwrap();
        let cid = u32::try_from(link.facts["cid"].as_u64().unwrap()).unwrap();
        let mut client = Client::new(link);
        if !launch.once() {
            let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
            client.ask(1, "initialize", &params);
        }
        let (trace, call) = (Arc::new(Trace::default()), CallId::now());
        let guest = outside.guests.get(cid).unwrap();
        guest.begins(Arc::new(OnBehalf {
            call,
            policy: policy.clone(),
            deadline: soon(),
            cancel: Cancel::default(),
            trace: Arc::clone(&trace),
        }));
        Self { client, id: 1, trace, guest, call, cid }
    }

    fn tool(&mut self, tool: &str, arguments: &Value) -> String {
        self.id += 1;
        let params = json!({"name": tool, "arguments": arguments});
        let result = self.client.ask(self.id, "tools/call", &params);
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    fn fetch(&mut self, url: &str) -> String {
        self.tool("fetch", &json!({"url": url}))
    }

    fn neighbour(&mut self, cid: u32) -> String {
        self.tool("neighbour", &json!({"cid": cid}))
    }

    fn reach(&mut self, host: &str, port: u16) -> String {
        self.tool("reach", &json!({"host": host, "port": port}))
    }

    /// Ends the call. Method, host, port and bytes of what it reached or not.
    fn end(self) -> Vec<(String, String, u16, u64, bool)> {
        self.guest.ends(self.call);
        let (reaches, _) = self.trace.take();
        let told = reaches.into_iter().map(|reach| match reach {
            Reach::Http { method, host, port, received_bytes, refused, .. } => {
                (method, host, port, received_bytes, refused.is_none())
            }
            other => panic!("{other:?}"),
        });
        told.collect()
    }
}

/// What every life of a server has in common.
fn check(launch: &dyn Launch, outside: &Outside, policy: &Resolved, web: u16, echo: u16) {
    let mut call = Call::begin(launch, outside, policy);
    let answer = call.fetch(&format!("http://127.0.0.1:{web}/x"));
    assert_eq!(answer, format!("200 {}", "/x".repeat(1000)));
    let refused = call.fetch(&format!("http://127.0.0.1:{echo}/x"));
    assert!(refused.starts_with("403 no egress rule allows GET"), "{refused}");
    let refused = call.fetch("http://10.0.0.1/x");
    assert!(refused.starts_with("403 no egress rule allows GET"), "{refused}");
    assert_eq!(call.reach("a.test", echo), "got hello\n");
    let refused = call.reach("b.test", echo);
    assert!(refused.starts_with("failed: [Errno -"), "{refused}");
    // Past proxy and resolver there is nothing.
    for (host, port) in [("127.0.0.1", web), ("10.0.0.1", 80), ("a.test", 1)] {
        let refused = call.reach(host, port);
        assert!(refused.starts_with("failed: [Errno 1"), "{host}: {refused}");
    }
    // Nor is there a bus that leads to the host or to other guests.
    for cid in [2, call.cid, 100, 101, 200, 201] {
        let refused = call.neighbour(cid);
        assert!(refused.starts_with("failed: "), "{cid}: {refused}");
    }
    let told = call.end();
    let has = |method: &str, host: &str, port: u16, bytes: u64, done: bool| {
        let wanted = (method.to_owned(), host.to_owned(), port, bytes, done);
        assert!(told.contains(&wanted), "{wanted:?} is not in {told:?}");
    };
    has("GET", "127.0.0.1", web, 2000, true);
    has("GET", "127.0.0.1", echo, 0, false);
    has("GET", "10.0.0.1", 80, 0, false);
    has("DNS", "a.test", 53, 0, true);
    has("DNS", "b.test", 53, 0, false);
    has("CONNECT", "a.test", echo, 6, true);
}

fn rules(web: u16, echo: u16) -> Resolved {
    policy(&json!([
        {"host": "127.0.0.1", "ports": [web]},
        {"host": "a.test", "methods": ["CONNECT"], "ports": [echo]},
    ]))
}

#[test]
fn a_persistent_server_reaches_what_is_allowed_and_nothing_else() {
    let Some(bench) = Bench::new() else { return };
    let Some(mut recipe) = bench.recipe(Runtime::Python) else { return };
    recipe.network = true;
    let (web, echo) = (web(), echo());
    let policy = rules(web, echo);
    let outside = outside(&policy);
    let server = Persistent::new(bench.host.clone().with_outside(outside.clone()), recipe);
    check(&server, &outside, &policy, web, echo);
}

#[test]
fn a_clone_reaches_what_its_call_may() {
    let Some(bench) = Bench::new() else { return };
    let Some(mut recipe) = bench.recipe(Runtime::Python) else { return };
    recipe.network = true;
    let (web, echo) = (web(), echo());
    let policy = rules(web, echo);
    // The server as a whole may do nothing: a clone has the policy of its call.
    let outside = outside(&self::policy(&json!([])));
    let host = bench.host.clone().with_outside(outside.clone());
    let server = Cloned::new(host, recipe, 0).unwrap();
    check(&server, &outside, &policy, web, echo);
}

#[test]
fn as_many_connections_as_a_guest_may_have_stand_at_once_and_hold_up_nothing_else() {
    let Some(bench) = Bench::new() else { return };
    let Some(mut recipe) = bench.recipe(Runtime::Python) else { return };
    recipe.network = true;
    let port = crowd(MAX_STREAMS);
    let policy = policy(&json!([{"host": "a.test", "methods": ["CONNECT"], "ports": [port]}]));
    let outside = outside(&policy);
    let server = Persistent::new(bench.host.clone().with_outside(outside.clone()), recipe);
    let mut call = Call::begin(&server, &outside, &policy);
    let arguments = json!({"host": "a.test", "port": port, "count": MAX_STREAMS});
    let told: Value = serde_json::from_str(&call.tool("crowd", &arguments)).unwrap();
    assert_eq!(told["heads"], "+".repeat(MAX_STREAMS));
    let back: Vec<_> = (0..MAX_STREAMS).map(|number| number.to_string()).collect();
    assert_eq!(told["back"], json!(back));
    // One too many is hung up on; a name is told, and its address is one that programs take for public.
    let more = told["more"].as_str().unwrap();
    assert!(more == "got " || more.starts_with("failed: "), "{more}");
    assert_eq!(told["public"], true);
    let told = call.end();
    let connections = told.iter().filter(|(method, ..)| method == "CONNECT");
    assert_eq!(connections.filter(|(.., done)| *done).count(), MAX_STREAMS);
}
