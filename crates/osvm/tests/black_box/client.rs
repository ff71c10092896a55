//! An MCP client as small as it can be: it sends what it is told to and waits for lines.

use crate::support::Home;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// Longest an answer may take. Hit only by a bug.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client of `osvm mcp serve`.
pub(crate) struct Client {
    osvm: Child,
    to: Option<ChildStdin>,
    from: Receiver<String>,
}

impl Client {
    /// A client that has not said anything yet.
    pub(crate) fn start(home: &Home, args: &[&str]) -> Self {
        Self::start_with(home, args, &[])
    }

    /// The same, with these variables in osvm's environment.
    pub(crate) fn start_with(home: &Home, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = home.osvm_std(&[&["mcp", "serve"], args].concat());
        command.envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut osvm = command.spawn().unwrap();
        let out = BufReader::new(osvm.stdout.take().unwrap());
        let (send, from) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines() {
                let Ok(line) = line else { break };
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self { to: osvm.stdin.take(), osvm, from }
    }

    /// A client after the handshake of 2025-11-25.
    pub(crate) fn connect(home: &Home) -> Self {
        let mut client = Self::start(home, &[]);
        let answer = client.ask(1, "initialize", json!({"protocolVersion": "2025-11-25"}));
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25");
        client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        client
    }

    /// The process id of osvm.
    pub(crate) fn pid(&self) -> u32 {
        self.osvm.id()
    }

    /// Sends bytes as they are.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.to.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Sends one message.
    pub(crate) fn send(&mut self, message: &Value) {
        self.send_bytes(format!("{message}\n").as_bytes());
    }

    /// Sends a request.
    pub(crate) fn request(&mut self, id: impl Into<Value>, method: &str, params: Value) {
        let id: Value = id.into();
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
    }

    /// Asks for a call of a tool.
    pub(crate) fn call(&mut self, id: i32, tool: &str, arguments: Value) {
        self.request(id, "tools/call", json!({"name": tool, "arguments": arguments}));
    }

    /// The next line, as text.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        self.from.recv_timeout(PATIENCE).expect("a line from osvm")
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    /// Sends a request and takes the next message as its answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, id: i32, method: &str, params: Value) -> Value {
        self.request(id, method, params);
        let answer = self.next();
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// Whether osvm still answers, and has said nothing else before.
    #[track_caller]
    pub(crate) fn assert_only_a_pong_comes(&mut self) {
        assert_eq!(
            self.ask(999, "ping", json!({})),
            json!({"jsonrpc": "2.0", "id": 999, "result": {}})
        );
    }

    /// Says no more, hears the rest and waits for the end.
    pub(crate) fn finish(mut self) -> (ExitStatus, Vec<Value>) {
        self.to = None;
        let rest = self.from.iter().map(|line| serde_json::from_str(&line).unwrap()).collect();
        (self.osvm.wait().unwrap(), rest)
    }
}

/// Parameters of a stateless request.
pub(crate) fn stateless(mut params: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    params
}
