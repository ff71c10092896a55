//! A model's provider on loopback that answers by a script, in either shape.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// One answer of the script.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A stream that is complete.
    Stream(String),
    /// A stream that breaks off.
    Cut(String),
    /// A stream that begins, and then nothing for as long as the other side waits.
    Begin(String),
    /// A status with headers of its own.
    Status(u16, &'static str, String),
    /// Nothing, for as long as the other side waits.
    Silence,
}

/// Which API is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    OpenAi,
    Anthropic,
}

impl Shape {
    /// An answer that asks for calls: id, tool and arguments of each.
    pub(crate) fn calls(self, calls: &[(&str, &str, Value)]) -> Reply {
        let mut stream = String::new();
        match self {
            Self::OpenAi => {
                for (index, (id, name, arguments)) in calls.iter().enumerate() {
                    let function = json!({"name": name, "arguments": arguments.to_string()});
                    let call =
                        json!({"index": index, "id": id, "type": "function", "function": function});
                    data(
                        &mut stream,
                        &json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}),
                    );
                }
                let end =
                    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]});
                data(&mut stream, &end);
                finish(&mut stream);
            }
            Self::Anthropic => {
                begin(&mut stream);
                for (index, (id, name, arguments)) in calls.iter().enumerate() {
                    let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                    event(
                        &mut stream,
                        &json!({"type": "content_block_start", "index": index, "content_block": block}),
                    );
                    let delta =
                        json!({"type": "input_json_delta", "partial_json": arguments.to_string()});
                    event(
                        &mut stream,
                        &json!({"type": "content_block_delta", "index": index, "delta": delta}),
                    );
                    event(&mut stream, &json!({"type": "content_block_stop", "index": index}));
                }
                stop(&mut stream, "tool_use");
            }
        }
        Reply::Stream(stream)
    }

    /// An answer in words.
    pub(crate) fn says(self, text: &str) -> Reply {
        let mut stream = String::new();
        match self {
            Self::OpenAi => {
                data(&mut stream, &json!({"choices": [{"index": 0, "delta": {"content": text}}]}));
                let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
                data(&mut stream, &end);
                finish(&mut stream);
            }
            Self::Anthropic => {
                begin(&mut stream);
                let block = json!({"type": "text", "text": ""});
                event(
                    &mut stream,
                    &json!({"type": "content_block_start", "index": 0, "content_block": block}),
                );
                let delta = json!({"type": "text_delta", "text": text});
                event(
                    &mut stream,
                    &json!({"type": "content_block_delta", "index": 0, "delta": delta}),
                );
                event(&mut stream, &json!({"type": "content_block_stop", "index": 0}));
                stop(&mut stream, "end_turn");
            }
        }
        Reply::Stream(stream)
    }

    /// What `OSVM_AI_PROVIDER` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }
}

fn data(stream: &mut String, value: &Value) {
    stream.push_str(&format!("data: {value}\n\n"));
}

fn finish(stream: &mut String) {
    data(stream, &json!({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}));
    stream.push_str("data: [DONE]\n\n");
}

fn event(stream: &mut String, value: &Value) {
    stream.push_str(&format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap()));
}

fn begin(stream: &mut String) {
    let message = json!({"usage": {"input_tokens": 100, "output_tokens": 1}});
    event(stream, &json!({"type": "message_start", "message": message}));
}

fn stop(stream: &mut String, reason: &str) {
    let usage = json!({"output_tokens": 10});
    event(
        stream,
        &json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}),
    );
    event(stream, &json!({"type": "message_stop"}));
}

/// The provider. It serves until the test ends.
#[derive(Debug)]
pub(crate) struct Endpoint {
    port: u16,
    shape: Shape,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Endpoint {
    /// One that gives these answers, and the last one again and again.
    pub(crate) fn start(shape: Shape, script: Vec<Reply>) -> Self {
        Self::watched(shape, script, |_| {})
    }

    /// The same; `watch` is told the number of each request before it is answered.
    pub(crate) fn watched(
        shape: Shape,
        script: Vec<Reply>,
        watch: impl Fn(usize) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let heard = Arc::clone(&asked);
        let watch = Arc::new(watch);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, script) = (Arc::clone(&heard), script.clone());
                let watch = Arc::clone(&watch);
                thread::spawn(move || answer(stream, &heard, &script, &*watch));
            }
        });
        Self { port, shape, asked }
    }

    /// What has osvm ask here.
    pub(crate) fn env(&self) -> [(&'static str, String); 4] {
        [
            ("OSVM_AI_URL", format!("http://127.0.0.1:{}/v1", self.port)),
            ("OSVM_AI_PROVIDER", self.shape.name().into()),
            ("OSVM_AI_MODEL", "scripted".into()),
            ("OSVM_AI_KEY", "sk-planted".into()),
        ]
    }

    /// The bodies of the requests so far.
    pub(crate) fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    heard: &Mutex<Vec<Value>>,
    script: &[Reply],
    watch: &dyn Fn(usize),
) {
    let Some(body) = request(&mut stream) else { return };
    let at = {
        let mut heard = heard.lock().unwrap();
        heard.push(serde_json::from_slice(&body).unwrap());
        heard.len() - 1
    };
    watch(at);
    let reply = script.get(at).or(script.last()).unwrap();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n";
    // Whoever was cancelled has hung up.
    let _gone = match reply {
        Reply::Stream(text) => {
            write!(stream, "{head}content-length: {}\r\n\r\n{text}", text.len())
        }
        Reply::Cut(text) => write!(stream, "{head}content-length: 1000000\r\n\r\n{text}"),
        Reply::Status(status, headers, body) => write!(
            stream,
            "HTTP/1.1 {status} Scripted\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        ),
        Reply::Begin(_) | Reply::Silence => {
            let text = if let Reply::Begin(text) = reply { text } else { "" };
            let _sent = write!(stream, "{head}content-length: 1000000\r\n\r\n{text}");
            let _patience = stream.set_read_timeout(Some(Duration::from_secs(120)));
            // Ends when the other side does.
            stream.read(&mut [0]).map(drop)
        }
    };
}

/// The body of one request.
fn request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length?.trim().parse().ok()?;
            if end + 4 + length <= bytes.len() {
                return Some(bytes[end + 4..end + 4 + length].to_vec());
            }
        }
        match stream.read(&mut piece) {
            Ok(read) if 0 < read => bytes.extend_from_slice(&piece[..read]),
            _ => return None,
        }
    }
}
