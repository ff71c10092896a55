//! The agent against a scripted host, over the stream that it has in a virtual machine too.

use crate::serve;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::thread::{self, JoinHandle};

/// What the host answers to one request of a model: the status and the events.
type Script = Vec<(u16, Vec<Value>)>;

struct Host {
    to: PipeWriter,
    from: BufReader<PipeReader>,
    agent: JoinHandle<Result<(), crate::PeerError>>,
    script: std::vec::IntoIter<(u16, Vec<Value>)>,
    /// Bodies that the model was sent.
    asked: Vec<Value>,
    /// Names of events, and the whole of some.
    events: Vec<Value>,
    called: Vec<Value>,
    tools: usize,
    /// What `tools/call` answers.
    result: String,
    confirm: bool,
}

impl Host {
    fn new(script: Script) -> Self {
        let (agent_in, to) = std::io::pipe().unwrap();
        let (from, agent_out) = std::io::pipe().unwrap();
        let agent = thread::spawn(move || serve(BufReader::new(agent_in), agent_out));
        Self {
            to,
            from: BufReader::new(from),
            agent,
            script: script.into_iter(),
            asked: Vec::new(),
            events: Vec::new(),
            called: Vec::new(),
            tools: 1,
            result: "one".into(),
            confirm: true,
        }
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.to, "{message}").unwrap();
    }

    fn start(&mut self, provider: Option<&str>) {
        let model = provider
            .map(|name| json!({"provider": name, "name": "m", "max_tokens": 9, "retry_ms": 1}));
        let started = self.ask("agent/start", &json!({ "model": model }));
        assert!(started["result"]["version"].is_string(), "{started}");
    }

    /// Asks the agent, and serves it until it answers.
    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.send(&json!({"jsonrpc": "2.0", "id": "q", "method": method, "params": params}));
        loop {
            let mut line = String::new();
            assert!(self.from.read_line(&mut line).unwrap() > 0, "the agent is gone");
            let message: Value = serde_json::from_str(&line).unwrap();
            match message["method"].as_str() {
                None => return message,
                Some("agent/event") => self.events.push(message["params"].clone()),
                Some("notifications/cancelled") => {}
                Some(method) => {
                    let method = method.to_owned();
                    self.serve(&method, &message);
                }
            }
        }
    }

    fn serve(&mut self, method: &str, message: &Value) {
        let id = message["id"].clone();
        let result = match method {
            "host/model" => {
                self.asked.push(message["params"]["body"].clone());
                let Some((status, events)) = self.script.next() else {
                    self.send(&json!({"id": id, "error": {"code": 1, "message": "no more"}}));
                    return;
                };
                for event in events {
                    let text = format!("data: {event}\n\n");
                    let params = json!({"request": id, "text": text});
                    self.send(&json!({"method": "model/piece", "params": params}));
                }
                json!({"status": status, "body": r#"{"error":{"message":"slow down"}}"#})
            }
            "tools/list" => {
                let tool = |n: usize| {
                    let name = if n == 0 { "system__echo".into() } else { format!("other__t{n}") };
                    let schema = json!({"type": "object", "properties": {"text": {"type": "string"}},
                        "required": ["text"]});
                    json!({"name": name, "description": "Says what it was told",
                        "inputSchema": schema,
                        "_meta": {"osvm/tool": {"server": "system", "name": "echo", "mode": "unikernel"}}})
                };
                json!({"tools": (0..self.tools).map(tool).collect::<Vec<_>>()})
            }
            "tools/call" => {
                self.called.push(message["params"].clone());
                json!({"content": [{"type": "text", "text": self.result}],
                    "_meta": {"osvm/isolation": {"isolation": {"cid": 200}}}})
            }
            "agent/confirm" => json!({ "yes": self.confirm }),
            other => panic!("the agent asks for {other}"),
        };
        self.send(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
    }

    /// What happened, by name.
    fn names(&self) -> Vec<&str> {
        self.events
            .iter()
            .flat_map(|event| event.as_object().unwrap().keys())
            .map(String::as_str)
            .collect()
    }

    fn event(&self, name: &str) -> &Value {
        self.events.iter().find_map(|event| event.get(name)).unwrap()
    }

    fn end(self) {
        drop(self.to);
        drop(self.from);
        self.agent.join().unwrap().unwrap();
    }
}

/// An answer with these calls, or with this text if there are none.
fn says(text: &str, calls: &[(&str, &str, &str)]) -> (u16, Vec<Value>) {
    let calls: Vec<Value> = calls
        .iter()
        .enumerate()
        .map(|(index, (id, name, arguments))| {
            json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}})
        })
        .collect();
    let reason = if calls.is_empty() { "stop" } else { "tool_calls" };
    let first = json!({"choices": [{"delta": {"content": text, "tool_calls": calls}}]});
    let last = json!({"choices": [{"delta": {}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2}});
    (200, vec![first, last])
}

const ECHO: (&str, &str, &str) = ("c1", "system__echo", r#"{"text":"one"}"#);

#[test]
fn calls_are_made_and_their_results_go_back_to_the_model() {
    let two = [ECHO, ("c2", "system__echo", r#"{"text":"two"}"#)];
    let mut host = Host::new(vec![says("I look", &two), says("done", &[])]);
    host.start(Some("openai"));
    let answer = host.ask("agent/prompt", &json!({"text": "go"}));
    assert_eq!(
        answer["result"],
        json!({"text": "done", "steps": 2, "calls": 2, "input_tokens": 20, "output_tokens": 4})
    );
    assert_eq!(host.called.len(), 2);
    let second = &host.asked[1]["messages"];
    assert_eq!(second[3], json!({"role": "tool", "content": "one", "tool_call_id": "c1"}));
    assert_eq!(second[4]["tool_call_id"], "c2");
    assert_eq!(host.event("plan")["calls"][0]["mode"], "unikernel");
    assert_eq!(host.event("call_ended")["isolation"]["cid"], 200);
    let names = host.names();
    let at = |name| names.iter().position(|known| *known == name).unwrap();
    assert!(at("plan") < at("call_started"), "{names:?}");
    host.end();
}

#[test]
fn a_provider_that_is_busy_is_asked_again() {
    let busy = (429, Vec::new());
    let mut host = Host::new(vec![busy.clone(), (500, Vec::new()), says("done", &[])]);
    host.start(Some("openai"));
    let answer = host.ask("agent/prompt", &json!({"text": "go"}));
    assert_eq!(answer["result"]["text"], "done");
    assert_eq!(host.names().iter().filter(|name| **name == "note").count(), 2);
    host.end();
    let mut host = Host::new(vec![busy.clone(), busy.clone(), busy.clone(), busy]);
    host.start(Some("openai"));
    let answer = host.ask("agent/prompt", &json!({"text": "go"}));
    assert_eq!(answer["error"]["message"], "the model's provider answered 429: slow down");
    host.end();
}

#[test]
fn a_key_that_is_refused_is_not_tried_again() {
    let mut host = Host::new(vec![(401, Vec::new()), says("done", &[])]);
    host.start(Some("anthropic"));
    let answer = host.ask("agent/prompt", &json!({"text": "go"}));
    assert_eq!(answer["error"]["message"], "the model's provider answered 401: slow down");
    assert_eq!(host.asked.len(), 1);
    host.end();
}

#[test]
fn a_tool_that_the_model_invented_is_an_error_it_can_mend() {
    let invented = ("c1", "system_echo", "{}");
    let no_object = ("c2", "system__echo", "[1]");
    let mut host = Host::new(vec![says("", &[invented, no_object]), says("sorry", &[])]);
    host.start(Some("openai"));
    let answer = host.ask("agent/prompt", &json!({"text": "go"}));
    assert_eq!(answer["result"]["text"], "sorry");
    assert!(host.called.is_empty());
    let told = &host.asked[1]["messages"];
    assert_eq!(told[3]["content"], "no tool is called `system_echo`: did you mean `system__echo`?");
    assert_eq!(told[4]["content"], "the arguments are not a JSON object");
    host.end();
}

#[test]
fn a_model_that_calls_without_end_is_stopped_and_can_be_asked_again() {
    let mut script: Script = (0..24).map(|_| says("", &[ECHO])).collect();
    script.push(says("done", &[]));
    let mut host = Host::new(script);
    host.start(Some("openai"));
    let answer = host.ask("agent/prompt", &json!({"text": "go"}));
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("24 times without an answer"), "{message}");
    let answer = host.ask("agent/prompt", &json!({"text": "again"}));
    assert_eq!(answer["result"]["text"], "done");
    // The unfinished turn is not in it: the system's words and the new prompt are.
    assert_eq!(host.asked.last().unwrap()["messages"].as_array().unwrap().len(), 2);
    host.end();
}

#[test]
fn a_large_result_is_cut_and_can_be_read_on() {
    let more = ("c2", "osvm_read_result", r#"{"result":1,"offset":32768}"#);
    let mut host = Host::new(vec![says("", &[ECHO]), says("", &[more]), says("done", &[])]);
    host.result = "x".repeat(10 * 1024 * 1024);
    host.start(Some("openai"));
    let answer = host.ask("agent/prompt", &json!({"text": "go"}));
    assert_eq!(answer["result"]["text"], "done");
    let content = |asked: usize, message: usize| {
        host.asked[asked]["messages"][message]["content"].as_str().unwrap()
    };
    assert!(content(1, 3).contains("bytes 0 to 32768 of 10485760 are shown"));
    assert!(content(2, 5).contains("[bytes 32768 to 65536 of 10485760]"));
    assert!(content(2, 5).len() < 33_000);
    host.end();
}

#[test]
fn with_many_tools_the_model_searches_first() {
    let search = ("c1", "osvm_search_tools", r#"{"words":"echo"}"#);
    let mut host = Host::new(vec![says("", &[search]), says("done", &[])]);
    host.tools = 200;
    host.start(Some("openai"));
    host.ask("agent/prompt", &json!({"text": "go"}));
    let names = |asked: usize| -> Vec<String> {
        let tools = host.asked[asked]["tools"].as_array().unwrap();
        tools.iter().map(|tool| tool["function"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(0), ["osvm_search_tools", "osvm_read_result"]);
    assert!(names(1).contains(&"system__echo".to_owned()));
    host.end();
}

#[test]
fn a_plan_runs_nothing() {
    let mut host = Host::new(vec![says("I would", &[ECHO])]);
    host.start(Some("openai"));
    let answer = host.ask("agent/plan", &json!({"text": "go"}));
    assert_eq!(answer["result"]["calls"], 1);
    assert!(host.called.is_empty());
    assert!(host.names().contains(&"plan"));
    host.end();
}

#[test]
fn without_a_model_a_plan_is_shown_and_runs_only_when_somebody_says_so() {
    let mut host = Host::new(Vec::new());
    host.start(None);
    let answer = host.ask("agent/prompt", &json!({"text": "echo \"hi\""}));
    assert_eq!(answer["result"]["text"], "one");
    assert_eq!(host.called[0]["arguments"], json!({"text": "hi"}));
    assert_eq!(host.event("plan")["by_model"], false);
    host.confirm = false;
    let answer = host.ask("agent/prompt", &json!({"text": "echo \"hi\""}));
    assert_eq!(answer["result"]["text"], "Nothing was called.");
    assert_eq!(host.called.len(), 1);
    assert!(host.asked.is_empty());
    host.end();
}

#[test]
fn a_call_by_hand_needs_no_model() {
    let mut host = Host::new(Vec::new());
    host.start(None);
    let call = json!({"server": "system", "tool": "echo", "arguments": {"text": "x"}});
    let answer = host.ask("agent/call", &call);
    assert_eq!(answer["result"]["text"], "one");
    assert_eq!(host.called[0]["name"], "system__echo");
    host.end();
}

#[test]
fn prompts_that_are_none_are_refused() {
    let mut host = Host::new(Vec::new());
    let early = host.ask("agent/prompt", &json!({"text": "x"}));
    assert_eq!(early["error"]["message"], "`agent/start` comes first");
    host.start(Some("openai"));
    let empty = host.ask("agent/prompt", &json!({"text": " \n"}));
    assert_eq!(empty["error"]["message"], "the prompt is empty");
    let long = host.ask("agent/prompt", &json!({"text": "x".repeat(1024 * 1024 + 1)}));
    assert!(long["error"]["message"].as_str().unwrap().starts_with("the prompt has 1048577 bytes"));
    let wrong = host.ask("agent/prompt", &json!({"text": 1}));
    assert_eq!(wrong["error"]["code"], -32602);
    let unknown = host.ask("agent/dance", &json!({}));
    assert_eq!(unknown["error"]["code"], -32601);
    host.end();
}

#[test]
fn what_is_worked_on_can_be_cancelled_and_the_next_prompt_works() {
    let mut host = Host::new(vec![says("done", &[])]);
    host.start(Some("openai"));
    host.send(&json!({"id": "p", "method": "agent/prompt", "params": {"text": "go"}}));
    let mut seen = Vec::new();
    loop {
        let mut line = String::new();
        host.from.read_line(&mut line).unwrap();
        let message: Value = serde_json::from_str(&line).unwrap();
        if message["method"] == "tools/list" {
            // Never answered: the person gives up.
            host.send(&json!({"method": "agent/cancel"}));
        }
        let over = message["id"] == "p";
        seen.push(message);
        if over {
            break;
        }
    }
    let last = seen.last().unwrap();
    assert_eq!(
        (last["error"]["code"].as_i64(), &last["error"]["message"]),
        (Some(1200), &json!("cancelled"))
    );
    assert!(seen.iter().any(|message| message["method"] == "notifications/cancelled"));
    let answer = host.ask("agent/prompt", &json!({"text": "again"}));
    assert_eq!(answer["result"]["text"], "done");
    host.end();
}
