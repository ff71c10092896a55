//! A supervisor with the true agent beside it, a scripted model and a scripted gateway; and with
//! an agent that was turned.

use super::*;
use crate::models::Posted;
use crate::sessions::Sessions;
use osvm_agent::Model;
use serde_json::{Value, json};
use std::io::{BufRead, PipeReader, PipeWriter, pipe};
use std::time::{Duration, Instant};

#[derive(Debug)]
struct Script(Mutex<Vec<(u16, &'static str)>>);

impl Models for Script {
    fn post(
        &self,
        _: Provider,
        _: &str,
        more: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Posted, String> {
        let mut script = self.0.lock().unwrap();
        if script.is_empty() {
            return Err("the script is over".into());
        }
        let (status, text) = script.remove(0);
        if status == 200 {
            more(text);
        }
        Ok(Posted { status, body: String::new(), retry_after: Some(Duration::from_millis(1)) })
    }
}

#[derive(Default)]
struct Screen {
    events: Mutex<Vec<String>>,
    gone: Mutex<bool>,
    refused: Mutex<Vec<String>>,
    /// Cancels when a call starts.
    cancels: Mutex<Option<Sender<()>>>,
}

impl Terminal for Screen {
    fn event(&self, event: Event) {
        if let (Event::CallStarted { .. }, Some(cancels)) =
            (&event, self.cancels.lock().unwrap().as_ref())
        {
            cancels.send(()).unwrap();
        }
        self.events.lock().unwrap().push(serde_json::to_string(&event).unwrap());
    }

    fn confirm(&self, _: u32) -> bool {
        true
    }

    fn refused(&self, method: &str, _: &str) {
        self.refused.lock().unwrap().push(method.into());
    }

    fn gone(&self) {
        *self.gone.lock().unwrap() = true;
    }
}

/// A gateway with one tool, which answers unless it is told `never`.
fn gateway() -> (GatewayLink, thread::JoinHandle<Vec<Value>>) {
    let (read, to_host) = pipe().unwrap();
    let (from_host, write) = pipe().unwrap();
    let thread = thread::spawn(move || serve_tools(from_host, to_host));
    (GatewayLink { read: Box::new(read), write: Box::new(write) }, thread)
}

fn serve_tools(from: PipeReader, mut to: PipeWriter) -> Vec<Value> {
    let mut heard = Vec::new();
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        let message: Value = serde_json::from_str(&line).unwrap();
        heard.push(message.clone());
        let result = match message["method"].as_str() {
            Some("tools/list") => json!({"tools": [{"name": "system__echo",
                "description": "Says what it was told", "inputSchema": {"type": "object",
                "properties": {"text": {"type": "string"}}, "required": ["text"]}}]}),
            Some("tools/call") if message["params"]["arguments"]["text"] == "never" => continue,
            Some("tools/call") if message["params"]["arguments"]["text"] == "long" => {
                json!({"content": [{"type": "text", "text": "x".repeat(MAX_TO_AGENT)}]})
            }
            Some("tools/call") => json!({"content": [{"type": "text", "text": "one"}]}),
            _ => continue,
        };
        writeln!(to, "{}", json!({"id": message["id"], "result": result})).unwrap();
    }
    heard
}

/// The true agent, in a thread.
fn agent() -> AgentLink {
    let (read, agent_out) = pipe().unwrap();
    let (agent_in, write) = pipe().unwrap();
    thread::spawn(move || osvm_agent::serve(BufReader::new(agent_in), agent_out));
    AgentLink { read: Box::new(read), write: Box::new(write) }
}

fn model() -> Option<Model> {
    Some(Model { provider: Provider::OpenAi, name: "m".into(), max_tokens: 9, retry_ms: 1 })
}

const CALLS: &str = concat!(
    r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"system__echo","arguments":"{\"text\":\"hi\"}"}}]},"finish_reason":"tool_calls"}]}"#,
    "\n\n"
);
const NEVER: &str = concat!(
    r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"system__echo","arguments":"{\"text\":\"never\"}"}}]},"finish_reason":"tool_calls"}]}"#,
    "\n\n"
);
const SAYS: &str = concat!(
    r#"data: {"choices":[{"delta":{"content":"done"},"finish_reason":"stop"}]}"#,
    "\n\ndata: [DONE]\n\n"
);

#[test]
fn a_prompt_goes_through_model_and_tools_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let sessions = Sessions::new(dir.path());
    let script = Script(Mutex::new(vec![(429, ""), (200, CALLS), (200, SAYS)]));
    let screen = Arc::new(Screen::default());
    let (gateway, tools) = gateway();
    let parts = Parts {
        agent: agent(),
        gateway,
        models: Some(Arc::new(script)),
        terminal: Arc::clone(&screen) as Arc<dyn Terminal>,
        log: Some(sessions.begin().unwrap()),
    };
    let start = Start { model: model(), messages: Vec::new() };
    let supervisor = Supervisor::start(parts, &start).unwrap();
    let answer = supervisor.prompt("go").unwrap();
    let answer: Value = serde_json::from_str(answer.get()).unwrap();
    assert_eq!((&answer["text"], &answer["calls"]), (&json!("done"), &json!(1)));
    let (_, messages) = sessions.resume(None).unwrap();
    assert_eq!(messages.len(), 4);
    let failure = supervisor.prompt("again").unwrap_err();
    assert_eq!(failure.message, "the script is over");
    assert!(screen.events.lock().unwrap().iter().any(|event| event.contains("call_ended")));
    drop(supervisor);
    let heard = tools.join().unwrap();
    assert_eq!(heard.iter().filter(|message| message["method"] == "tools/call").count(), 1);
}

#[test]
fn without_a_model_the_local_planner_works_and_calls_by_hand_do() {
    let (gateway, _tools) = gateway();
    let screen = Arc::new(Screen::default());
    let terminal = Arc::clone(&screen) as Arc<dyn Terminal>;
    let parts = Parts { agent: agent(), gateway, models: None, terminal, log: None };
    let supervisor = Supervisor::start(parts, &Start::default()).unwrap();
    assert!(supervisor.prompt("echo \"hi\"").unwrap().get().contains("\"text\":\"one\""));
    let arguments = RawValue::from_string("{\"text\":\"x\"}".into()).unwrap();
    assert!(supervisor.call("x", "system__echo", &arguments).unwrap().get().contains("one"));
    assert!(supervisor.plan("echo \"hi\"").unwrap().get().contains("\"calls\":1"));
    let arguments = RawValue::from_string("{\"text\":\"long\"}".into()).unwrap();
    let long = supervisor.call("x", "system__echo", &arguments).unwrap();
    assert!(long.get().contains("and an agent takes 10420224"), "{}", long.get());
    let failure = supervisor.prompt(&"x".repeat(MAX_TO_AGENT)).unwrap_err();
    assert_eq!(failure.code, TOO_LONG);
    supervisor.clear().unwrap();
}

#[test]
fn a_cancellation_reaches_the_gateway_and_the_agent_goes_on() {
    let script = Script(Mutex::new(vec![(200, NEVER), (200, SAYS)]));
    let (gateway, tools) = gateway();
    let screen = Arc::new(Screen::default());
    let (cancels, cancel) = mpsc::channel();
    *screen.cancels.lock().unwrap() = Some(cancels);
    let terminal = Arc::clone(&screen) as Arc<dyn Terminal>;
    let models = Some(Arc::new(script) as Arc<dyn Models>);
    let parts = Parts { agent: agent(), gateway, models, terminal, log: None };
    let start = Start { model: model(), messages: Vec::new() };
    let supervisor = Arc::new(Supervisor::start(parts, &start).unwrap());
    let asking = {
        let supervisor = Arc::clone(&supervisor);
        thread::spawn(move || supervisor.prompt("go"))
    };
    cancel.recv().unwrap();
    supervisor.cancel();
    let failure = asking.join().unwrap().unwrap_err();
    assert_eq!(failure.code, Failure::CANCELLED);
    assert!(supervisor.prompt("again").unwrap().get().contains("done"));
    drop(supervisor);
    let heard = tools.join().unwrap();
    assert!(
        heard.iter().any(|message| message["method"] == "notifications/cancelled"),
        "{heard:?}"
    );
}

#[test]
fn an_agent_that_was_turned_reaches_nothing_else() {
    let (read, mut turned_out) = pipe().unwrap();
    let (turned_in, write) = pipe().unwrap();
    let turned = thread::spawn(move || {
        let mut answers = Vec::new();
        let mut lines = BufReader::new(turned_in).lines().map_while(Result::ok);
        let started = lines.next().unwrap();
        let started: Value = serde_json::from_str(&started).unwrap();
        let tries = [
            json!({"id": 1, "method": "host/file", "params": {"op": "read", "path": "/etc/passwd"}}),
            json!({"id": 2, "method": "host/http", "params": {"url": "http://169.254.169.254/"}}),
            json!({"id": 3, "method": "initialize", "params": {}}),
            json!({"id": 4, "method": "resources/read", "params": {"uri": "file:///etc/passwd"}}),
            json!({"id": 5, "method": "host/model", "params": {"url": "http://evil"}}),
            json!({"id": 6, "method": "agent/event", "params": {"text": 1}}),
            json!({"id": 7, "method": "tools/list"}),
            json!({"id": 8, "method": "tools/call", "params": {"name": "system__echo", "_meta":
                {"io.modelcontextprotocol/clientInfo": {"name": "claude-code", "version": "1"}}}}),
            json!({"id": 77, "result": {"version": "not mine to answer"}}),
        ];
        writeln!(turned_out, "rubbish\n[1]\n\"x\"").unwrap();
        for message in &tries {
            writeln!(turned_out, "{message}").unwrap();
        }
        for _ in 0..7 {
            answers.push(serde_json::from_str::<Value>(&lines.next().unwrap()).unwrap());
        }
        writeln!(turned_out, "{}", json!({"id": started["id"], "result": {}})).unwrap();
        answers
    });
    let (gateway, tools) = gateway();
    let agent = AgentLink { read: Box::new(read), write: Box::new(write) };
    let screen = Arc::new(Screen::default());
    let terminal = Arc::clone(&screen) as Arc<dyn Terminal>;
    let script: Arc<dyn Models> = Arc::new(Script(Mutex::new(Vec::new())));
    let parts = Parts { agent, gateway, models: Some(script), terminal, log: None };
    let supervisor = Supervisor::start(parts, &Start::default()).unwrap();
    let answers = turned.join().unwrap();
    assert!(answers.iter().all(|answer| answer["error"]["code"] == DENIED), "{answers:?}");
    let refused =
        ["host/file", "host/http", "initialize", "resources/read", "tools/list", "tools/call"];
    assert_eq!(*screen.refused.lock().unwrap(), refused);
    assert!(supervisor.prompt("x").is_err());
    assert!(supervisor.is_gone());
    let until = Instant::now() + Duration::from_secs(10);
    while !*screen.gone.lock().unwrap() {
        assert!(Instant::now() < until, "the terminal was not told");
        thread::sleep(Duration::from_millis(1));
    }
    drop(supervisor);
    assert!(tools.join().unwrap().is_empty());
}
