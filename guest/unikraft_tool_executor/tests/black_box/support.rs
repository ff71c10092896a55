//! A host in memory: sends requests to `serve` and reads the answers.

use osvm_protocol::frame;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::LazyLock;
use unikraft_tool_executor::{Device, Facts, Stream, manifest_json, serve};

/// What the host sends, in pieces of at most `piece` bytes, and what it got.
pub(crate) struct Script {
    input: Vec<u8>,
    piece: usize,
    pub(crate) output: Vec<u8>,
}

impl Stream for Script {
    type Error = Infallible;

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        let len = buf.len().min(self.input.len()).min(self.piece);
        buf[..len].copy_from_slice(&self.input[..len]);
        self.input.drain(..len);
        Ok(len)
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.output.extend_from_slice(bytes);
        Ok(())
    }
}

/// What a host says to one request of the guest: method and parameters in, result or error out.
pub(crate) type Served = Result<Value, (i64, String)>;

/// A host that is asked things while the guest works on one request.
struct Asked<F> {
    input: Vec<u8>,
    heard: Vec<u8>,
    answers: Vec<Value>,
    host: F,
}

impl<F: FnMut(&str, &Value) -> Served> Stream for Asked<F> {
    type Error = Infallible;

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        let len = buf.len().min(self.input.len());
        buf[..len].copy_from_slice(&self.input[..len]);
        self.input.drain(..len);
        Ok(len)
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.heard.extend_from_slice(bytes);
        while let Some(frame) = frame::split(&self.heard).unwrap() {
            let message: Value = serde_json::from_slice(frame.payload).unwrap();
            self.heard = frame.rest.to_vec();
            let Some(method) = message["method"].as_str() else {
                self.answers.push(message);
                continue;
            };
            let answer = match (self.host)(method, &message["params"]) {
                Ok(result) => json!({"jsonrpc": "2.0", "id": message["id"], "result": result}),
                Err((code, message_of_it)) => json!({
                    "jsonrpc": "2.0", "id": message["id"],
                    "error": {"code": code, "message": message_of_it},
                }),
            };
            self.input.extend(frame::encode(answer.to_string().as_bytes()).unwrap());
        }
        Ok(())
    }
}

/// The facts of a made-up guest.
pub(crate) fn facts() -> Facts<'static> {
    Facts {
        memory_bytes: 128 << 20,
        devices: &[Device { address: 0xfeb0_0e00, kind: 19 }, Device { address: 0, kind: 4 }],
        command_line: "console=none \"quoted\"",
        name: "unikraft_tool_executor",
        build: "0123456789abcdef",
        env: &[(Cow::Borrowed("TOKEN"), Cow::Borrowed("secret value"))],
        platform: "osvm-kernel",
    }
}

/// Serves `input` to its end, read `piece` bytes at a time, and returns all that was sent.
pub(crate) fn serve_bytes(input: Vec<u8>, piece: usize) -> Vec<u8> {
    let mut script = Script { input, piece, output: Vec::new() };
    let Ok(()) = serve(&mut script, &facts());
    script.output
}

/// Sends each payload in a frame and returns the payloads of the answers.
pub(crate) fn converse(payloads: &[&[u8]]) -> Vec<Value> {
    let input = payloads.iter().flat_map(|payload| frame::encode(payload).unwrap()).collect();
    answers(&serve_bytes(input, usize::MAX))
}

/// The payloads of complete frames.
pub(crate) fn answers(mut bytes: &[u8]) -> Vec<Value> {
    let mut answers = Vec::new();
    while let Some(frame) = frame::split(bytes).unwrap() {
        answers.push(serde_json::from_slice(frame.payload).unwrap());
        bytes = frame.rest;
    }
    assert!(bytes.is_empty(), "the last frame is cut off");
    answers
}

/// Calls a tool whose host refuses whatever it is asked: its result, or code and message of its
/// error.
///
/// The result is compared with the tool's own output schema in passing.
pub(crate) fn call(server: &str, tool: &str, params: &Value) -> Result<Value, (i64, String)> {
    let host = |method: &str, _: &Value| Err((1002, format!("`{method}` is refused")));
    call_with(&facts(), host, server, tool, params).map_err(|(code, message, _)| (code, message))
}

/// Calls a tool that may ask `host`: its result, or code, message and data of its error.
pub(crate) fn call_with(
    facts: &Facts<'_>,
    host: impl FnMut(&str, &Value) -> Served,
    server: &str,
    tool: &str,
    params: &Value,
) -> Result<Value, (i64, String, Value)> {
    let request =
        json!({"jsonrpc": "2.0", "id": 7, "server_id": server, "method": tool, "params": params});
    let input = frame::encode(request.to_string().as_bytes()).unwrap();
    let mut asked = Asked { input, heard: Vec::new(), answers: Vec::new(), host };
    let Ok(()) = serve(&mut asked, facts);
    assert_eq!(asked.answers.len(), 1, "{:?}", asked.answers);
    let mut answer = asked.answers.remove(0);
    assert_eq!(answer["jsonrpc"], "2.0");
    assert_eq!(answer["id"], 7);
    if let Some(error) = answer.get_mut("error") {
        let message = error["message"].as_str().unwrap().to_owned();
        return Err((error["code"].as_i64().unwrap(), message, error["data"].take()));
    }
    let result = answer["result"].take();
    let schema = &SCHEMAS[&(server.to_owned(), tool.to_owned())];
    if let Err(error) = schema.validate(&result) {
        panic!("{server} {tool}: {error} in {result}");
    }
    Ok(result)
}

static SCHEMAS: LazyLock<BTreeMap<(String, String), jsonschema::Validator>> = LazyLock::new(|| {
    let manifest: Vec<Value> = serde_json::from_str(&manifest_json()).unwrap();
    let schema = |tool: &Value| jsonschema::draft202012::new(&tool["outputSchema"]).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    manifest
        .iter()
        .map(|tool| ((text(&tool["server"]), text(&tool["name"])), schema(tool)))
        .collect()
});
