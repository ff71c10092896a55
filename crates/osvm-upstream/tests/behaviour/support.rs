//! Servers whose every word is written by a test, and a client in front of osvm.

use osvm_upstream::{
    ClientFacts, EndLink, Era, Launch, LaunchError, Link, Outgoing, Relay, Reply, Server, Spec,
    Stop, Target, UpstreamError,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The server's end of a link.
pub(crate) struct Wire {
    pub(crate) read: BufReader<UnixStream>,
    pub(crate) write: UnixStream,
}

impl Wire {
    /// The next message; `None` when osvm hung up.
    pub(crate) fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.read.read_line(&mut line) {
            Ok(1..) => Some(serde_json::from_str(&line).unwrap()),
            _ => None,
        }
    }

    pub(crate) fn send(&mut self, message: &Value) {
        self.raw(format!("{message}\n").as_bytes());
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        // osvm may have had enough.
        let _gone = self.write.write_all(bytes);
    }

    /// Ends the link, as a server does that ends.
    pub(crate) fn hang_up(&mut self) {
        let _gone = self.write.shutdown(Shutdown::Both);
    }

    pub(crate) fn result(&mut self, request: &Value, result: &Value) {
        self.send(&json!({"jsonrpc": "2.0", "id": request["id"], "result": result}));
    }

    pub(crate) fn error(&mut self, request: &Value, code: i64) {
        let error = json!({"code": code, "message": "no"});
        self.send(&json!({"jsonrpc": "2.0", "id": request["id"], "error": error}));
    }

    /// Does an old server's handshake; gives back what `initialize` came with.
    pub(crate) fn legacy(&mut self) -> Option<Value> {
        loop {
            let message = self.next()?;
            match message["method"].as_str() {
                Some("server/discover") => self.error(&message, -32_601),
                Some("initialize") => {
                    let capabilities = json!({"tools": {}, "logging": {}});
                    let server = json!({"name": "s", "version": "1"});
                    self.result(
                        &message,
                        &json!({"protocolVersion": "2025-11-25", "capabilities": capabilities,
                                "serverInfo": server}),
                    );
                    let done = self.next()?;
                    assert_eq!(done["method"], "notifications/initialized");
                    return Some(message["params"].clone());
                }
                other => panic!("{other:?} before the handshake"),
            }
        }
    }

    /// Answers `server/discover` like a new server does.
    pub(crate) fn modern(&mut self, versions: &[&str]) -> Option<Value> {
        let message = self.next()?;
        assert_eq!(message["method"], "server/discover");
        let info = json!({"io.modelcontextprotocol/serverInfo": {"name": "s", "version": "1"}});
        self.result(
            &message,
            &json!({"supportedVersions": versions, "capabilities": {"tools": {}}, "_meta": info,
                    "ttlMs": 0, "cacheScope": "public", "resultType": "complete"}),
        );
        Some(message)
    }

    /// Answers everything with its own method and parameters.
    pub(crate) fn echo(&mut self) {
        while let Some(message) = self.next() {
            if message.get("id").is_some() && message.get("method").is_some() {
                let result = json!({"method": message["method"], "params": message["params"]});
                self.result(&message, &result);
            }
        }
    }
}

type Script = Arc<dyn Fn(usize, Wire) + Send + Sync>;

/// Starts a thread that plays a script, each time anew.
#[derive(Clone)]
pub(crate) struct Scripted {
    script: Script,
    pub(crate) starts: Arc<AtomicUsize>,
    pub(crate) ends: Arc<AtomicUsize>,
    pub(crate) greeting: Option<String>,
}

impl Scripted {
    pub(crate) fn new(script: impl Fn(usize, Wire) + Send + Sync + 'static) -> Self {
        let (starts, ends) = (Arc::default(), Arc::default());
        Self { script: Arc::new(script), starts, ends, greeting: None }
    }

    pub(crate) fn starts(&self) -> usize {
        self.starts.load(Ordering::SeqCst)
    }

    pub(crate) fn ends(&self) -> usize {
        self.ends.load(Ordering::SeqCst)
    }

    pub(crate) fn server(&self) -> Arc<Server> {
        Server::new(self.spec(), None)
    }

    pub(crate) fn spec(&self) -> Spec {
        let target = Target::Launched(Arc::new(self.clone()));
        Spec {
            probe_timeout: Duration::from_millis(300),
            start_timeout: Duration::from_secs(10),
            ..Spec::new("s", target)
        }
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Launch for Scripted {
    fn launch(&self, _: Instant, _: &Stop) -> Result<Link, LaunchError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let number = self.starts.fetch_add(1, Ordering::SeqCst);
        let wire = Wire { read: BufReader::new(theirs.try_clone().unwrap()), write: theirs };
        let script = Arc::clone(&self.script);
        thread::spawn(move || script(number, wire));
        Ok(Link {
            read: Box::new(ours.try_clone().unwrap()),
            write: Box::new(ours.try_clone().unwrap()),
            greeting: self.greeting.clone().map(|text| RawValue::from_string(text).unwrap()),
            end: Box::new(Hangup { stream: ours, ends: Some(Arc::clone(&self.ends)) }),
            facts: serde_json::Map::new(),
        })
    }

    fn once(&self) -> bool {
        self.greeting.is_some()
    }

    fn for_all(&self) -> bool {
        false
    }

    fn identity(&self) -> String {
        "script".to_owned()
    }
}

struct Hangup {
    stream: UnixStream,
    ends: Option<Arc<AtomicUsize>>,
}

impl EndLink for Hangup {
    fn end(&mut self, _: Duration) {
        if let Some(ends) = self.ends.take() {
            ends.fetch_add(1, Ordering::SeqCst);
            let _gone = self.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Hangup {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

/// A client that writes down what it hears and has one answer to every question.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) heard: Mutex<Vec<String>>,
    pub(crate) answer: Option<Value>,
}

impl Notes {
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    fn note(&self, line: String) {
        self.heard.lock().unwrap().push(line);
    }
}

impl Relay for Notes {
    fn progress(&self, params: &RawValue) {
        self.note(format!("progress {params}"));
    }

    fn log(&self, params: &RawValue) {
        self.note(format!("log {params}"));
    }

    fn notification(&self, method: &str, _: Option<&RawValue>) {
        self.note(format!("told {method}"));
    }

    fn ask(
        &self,
        method: &str,
        _: Option<&RawValue>,
        _: &Stop,
    ) -> Result<Box<RawValue>, Box<RawValue>> {
        self.note(format!("asked {method}"));
        let answer = self.answer.clone().unwrap_or(json!({"code": 1, "message": "no"}));
        let raw = raw(&answer);
        if self.answer.is_some() { Ok(raw) } else { Err(raw) }
    }
}

pub(crate) fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

/// Long enough for a busy machine.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// One request of one client.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) params: Option<Value>,
    pub(crate) capabilities: Option<Value>,
    pub(crate) owner: u64,
    pub(crate) level: Option<&'a str>,
    pub(crate) era: Option<Era>,
    pub(crate) deadline: Instant,
    pub(crate) cancel: Stop,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(method: &'a str) -> Self {
        Self {
            method,
            params: None,
            capabilities: None,
            owner: 1,
            level: None,
            era: None,
            deadline: soon(),
            cancel: Stop::default(),
        }
    }

    pub(crate) fn of(&self, server: &Server, relay: &dyn Relay) -> Result<Value, UpstreamError> {
        let params = self.params.as_ref().map(raw);
        let capabilities = self.capabilities.as_ref().map(raw);
        let client = ClientFacts {
            owner: self.owner,
            capabilities: capabilities.as_deref(),
            log_level: self.level,
            ..ClientFacts::default()
        };
        let outgoing = Outgoing {
            method: self.method,
            params: params.as_deref(),
            client,
            era_wanted: self.era,
            relay,
        };
        let reply = server.request(&outgoing, self.deadline, &self.cancel)?;
        Ok(match reply {
            Reply::Result(result) => serde_json::from_str(result.get()).unwrap(),
            Reply::Error(error) => {
                json!({"error": serde_json::from_str::<Value>(error.get()).unwrap()})
            }
        })
    }
}

/// A request of a client that can nothing.
pub(crate) fn ask(server: &Server, method: &str) -> Result<Value, UpstreamError> {
    Ask::new(method).of(server, &Notes::default())
}

/// Waits until `done`.
#[track_caller]
pub(crate) fn eventually(what: &str, done: impl Fn() -> bool) {
    let until = soon();
    while !done() {
        assert!(Instant::now() < until, "{what} never came");
        thread::sleep(Duration::from_millis(5));
    }
}
