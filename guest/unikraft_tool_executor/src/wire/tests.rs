//! What the guest's own requests to the host promise.

use super::*;
use crate::context::Context;
use crate::{Facts, Stream};
use alloc::string::{String, ToString};
use alloc::vec;
use osvm_protocol::code::HOST_METHOD_DENIED;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A host that has said all it will say before it is asked.
#[derive(Default)]
struct Script {
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes taken before writing fails.
    room: Option<usize>,
}

impl Script {
    fn saying(payloads: &[&str]) -> Self {
        let frames = payloads.iter().map(|payload| frame::encode(payload.as_bytes()).unwrap());
        Self { input: frames.flatten().collect(), ..Self::default() }
    }

    /// The payloads of all frames the guest sent.
    fn heard(&self) -> Vec<Value> {
        let mut heard = vec![];
        let mut rest = self.output.as_slice();
        while let Some(frame) = frame::split(rest).unwrap() {
            heard.push(serde_json::from_slice(frame.payload).unwrap());
            rest = frame.rest;
        }
        heard
    }
}

impl Stream for Script {
    type Error = &'static str;

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Self::Error> {
        let len = buf.len().min(self.input.len());
        buf[..len].copy_from_slice(&self.input[..len]);
        self.input.drain(..len);
        Ok(len)
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        if self.room.is_some_and(|room| room < self.output.len() + bytes.len()) {
            return Err("no room");
        }
        self.output.extend_from_slice(bytes);
        Ok(())
    }
}

/// The result as text, or code and message of the error.
type Outcome = Result<String, (i64, String)>;

/// Asks `host/http` twice, as a tool would, and says whether the connection lives on.
fn ask(script: &mut Script) -> ([Outcome; 2], bool) {
    let facts = Facts {
        memory_bytes: 0,
        devices: &[],
        command_line: "",
        name: "",
        build: "",
        env: &[],
        platform: "linux",
    };
    let mut wire = Wire::new(script);
    let context = Context { facts: &facts, host: &mut wire };
    let answers = [1, 2].map(|number| {
        let answer = context.host.call("host/http", &|o| o.number("n", number));
        answer.map(|result| result.get().to_string()).map_err(|error| (error.code, error.message))
    });
    let lives = wire.end.is_none();
    (answers, lives)
}

fn internal(message: &str) -> Outcome {
    Err((INTERNAL_ERROR, message.to_string()))
}

#[test]
fn the_host_is_asked_and_its_answer_is_returned_as_it_wrote_it() {
    let mut script = Script::saying(&[
        r#"{"jsonrpc":"2.0","id":1,"result":{"status": 200.0}}"#,
        r#"{"jsonrpc":"2.0","id":2,"error":{"code":1002,"message":"not for this call"}}"#,
    ]);
    let (answers, lives) = ask(&mut script);
    assert_eq!(
        answers,
        [Ok(r#"{"status": 200.0}"#.into()), Err((HOST_METHOD_DENIED, "not for this call".into()))]
    );
    assert!(lives);
    assert_eq!(
        script.heard(),
        [1, 2].map(|number| {
            json!({"jsonrpc": "2.0", "id": number, "method": "host/http", "params": {"n": number}})
        })
    );
}

#[test]
fn a_second_call_is_refused_while_the_first_waits_for_the_host() {
    let mut script = Script::saying(&[
        r#"{"jsonrpc":"2.0","id":"x","server_id":"system","method":"echo","params":{"text":""}}"#,
        r#"{"jsonrpc":"2.0","method":"some/notification"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":1}"#,
        r#"{"jsonrpc":"2.0","id":2,"result":2}"#,
    ]);
    let (answers, lives) = ask(&mut script);
    assert_eq!(answers, [Ok("1".into()), Ok("2".into())]);
    assert!(lives);
    assert_eq!(script.heard()[1]["id"], "x");
    assert_eq!(script.heard()[1]["error"]["code"], INVALID_REQUEST);
}

#[test]
fn an_answer_to_another_request_ends_the_connection() {
    let mut script = Script::saying(&[r#"{"jsonrpc":"2.0","id":7,"result":1}"#]);
    let (answers, lives) = ask(&mut script);
    assert_eq!(answers[0], internal("host answered request 7 instead of 1"));
    assert!(!lives);
    let mut script =
        Script::saying(&[r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#]);
    assert_eq!(ask(&mut script).0[0], internal("host answered request null instead of 1"));
}

#[test]
fn rubbish_instead_of_an_answer_ends_the_connection() {
    let mut script = Script::saying(&["[]", r#"{"jsonrpc":"2.0","id":2,"result":1}"#]);
    let (answers, lives) = ask(&mut script);
    let Err((INTERNAL_ERROR, message)) = &answers[0] else { panic!("{answers:?}") };
    assert!(message.starts_with("host answered with rubbish: "), "{message}");
    assert!(!lives);
    // The rest of the stream is not listened to, whatever it says.
    assert_eq!(answers[1], internal("host hung up instead of answering"));
}

#[test]
fn a_host_that_hangs_up_fails_the_request_and_ends_the_connection() {
    let (answers, lives) = ask(&mut Script::default());
    assert_eq!(answers[0], internal("host hung up instead of answering"));
    assert!(!lives);
}

#[test]
fn a_platform_that_cannot_write_is_remembered() {
    let mut script = Script { room: Some(3), ..Script::default() };
    let mut wire = Wire::new(&mut script);
    let error = wire.call("host/log", &|_| ()).unwrap_err();
    assert_eq!(error.message, "host hung up before it was asked");
    assert!(matches!(wire.receive(), Err(End::Failed("no room"))));
}

#[test]
fn a_request_too_long_for_a_frame_is_not_sent() {
    let mut script = Script::default();
    let long = "x".repeat(frame::MAX_PAYLOAD as usize);
    let error = Wire::new(&mut script).call("host/log", &|o| o.text("message", &long)).unwrap_err();
    assert_eq!(error.message, "request to the host is too long");
    assert_eq!(script.output, b"");
}

#[test]
fn an_error_too_long_for_a_frame_is_answered_by_its_code() {
    let mut script = Script::default();
    let long = "x".repeat(frame::MAX_PAYLOAD as usize);
    let sent = Wire::new(&mut script).refuse(Some(&3.into()), &RpcError::new(5, long.as_str()));
    assert!(sent.is_ok());
    let id = Id::Text(long.into());
    assert!(Wire::new(&mut script).refuse(Some(&id), &RpcError::new(5, "no")).is_ok());
    let error = json!({"code": 5, "message": "error is too long"});
    assert_eq!(script.heard()[0], json!({"jsonrpc": "2.0", "id": 3, "error": error}));
    assert_eq!(script.heard()[1]["id"], Value::Null);
}

proptest! {
    #[test]
    fn whatever_the_host_answers_is_an_answer_or_an_error(payloads: Vec<Vec<u8>>) {
        let frames = payloads.iter().map(|payload| frame::encode(payload).unwrap());
        let _ = ask(&mut Script { input: frames.flatten().collect(), ..Script::default() });
    }
}
