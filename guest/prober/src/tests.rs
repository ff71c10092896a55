//! What the prober asks and reports, with a host that the test plays.

use super::*;
use alloc::string::String;
use alloc::vec;
use osvm_protocol::frame;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::convert::Infallible;

/// A host that answers every request of the guest with `answer`.
struct Host<F> {
    input: Vec<u8>,
    heard: Vec<u8>,
    requests: Vec<Value>,
    answers: Vec<Value>,
    answer: F,
}

impl<F: FnMut(&Value) -> Option<Value>> Stream for Host<F> {
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
            if message.get("method").is_none() {
                self.answers.push(message);
                continue;
            }
            if let Some(answer) = (self.answer)(&message) {
                self.input.extend(frame::encode(answer.to_string().as_bytes()).unwrap());
            }
            self.requests.push(message);
        }
        Ok(())
    }
}

/// Serves one call: what the guest asked for, in order, and its answers.
fn serve_with(
    request: &Value,
    answer: impl FnMut(&Value) -> Option<Value>,
) -> (Vec<Value>, Vec<Value>) {
    let input = frame::encode(request.to_string().as_bytes()).unwrap();
    let mut host = Host { input, heard: vec![], requests: vec![], answers: vec![], answer };
    let Ok(()) = serve(&mut host, "osvm_prober", "0123");
    (host.requests, host.answers)
}

fn call(arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 7, "server_id": "probe", "method": "attempt", "params": arguments})
}

/// Probes a host, and checks the result against the tool's schema.
fn probe(
    arguments: &Value,
    answer: impl FnMut(&Value) -> Option<Value>,
) -> (Vec<Value>, Vec<Value>) {
    let [input, output] = ["inputSchema", "outputSchema"]
        .map(|schema| jsonschema::draft202012::new(&definition()[schema]).unwrap());
    input.validate(arguments).unwrap();
    let (requests, mut answers) = serve_with(&call(arguments), answer);
    assert_eq!(answers.len(), 1, "{answers:?}");
    let result = answers[0]["result"].take();
    output.validate(&result).unwrap_or_else(|error| panic!("{error} in {result}"));
    (requests, result["outcomes"].as_array().unwrap().clone())
}

fn definition() -> Value {
    let tools: Vec<Value> = serde_json::from_str(include_str!("../tools.json")).unwrap();
    assert_eq!(tools.len(), 1);
    tools[0].clone()
}

fn result(request: &Value, result: Value) -> Option<Value> {
    Some(json!({"jsonrpc": "2.0", "id": request["id"], "result": result}))
}

fn refusal(request: &Value) -> Option<Value> {
    let error = json!({"code": 1002, "message": "no", "data": {"why": 1}});
    Some(json!({"jsonrpc": "2.0", "id": request["id"], "error": error}))
}

#[test]
fn the_definition_is_one_of_a_tool() {
    let tools: Vec<osvm_protocol::tool::Tool<'_>> =
        serde_json::from_str(include_str!("../tools.json")).unwrap();
    assert_eq!((&*tools[0].server, &*tools[0].name), (SERVER, TOOL));
    for schema in ["inputSchema", "outputSchema"] {
        jsonschema::draft202012::meta::validate(&definition()[schema]).unwrap();
    }
}

#[test]
fn each_attempt_is_made_as_given_and_its_outcome_told() {
    let params = json!({"method": "CONNECT", "url": "file:///etc/passwd\r\nX: y", "n": 1});
    let attempts = json!({"attempts": [
        {"name": "a", "method": "host/http", "params": params},
        {"name": "b", "method": "host/nothing"},
    ]});
    let (requests, outcomes) = probe(&attempts, |request| {
        if request["method"] == "host/http" {
            refusal(request)
        } else {
            result(request, json!([1]))
        }
    });
    assert_eq!((&requests[0]["params"], &requests[1].get("params")), (&params, &None));
    let counts = |succeeded: u32, refused: u32| json!({"sent": 1, "succeeded": succeeded, "refused": refused, "strays": 0, "unsent": null});
    let mut refused = counts(0, 1);
    refused["name"] = "a".into();
    refused["result"] = Value::Null;
    refused["error"] = json!({"code": 1002, "message": "no", "data": "{\"why\":1}"});
    let mut succeeded = counts(1, 0);
    succeeded["name"] = "b".into();
    succeeded["result"] = "[1]".into();
    succeeded["error"] = Value::Null;
    assert_eq!(outcomes, [refused, succeeded]);
}

#[test]
fn an_attempt_can_be_made_many_times_at_once_and_with_one_id() {
    for at_once in [false, true] {
        let mut asked = 0;
        let (requests, outcomes) = probe(
            &json!({"attempts": [{"name": "a", "method": "host/log", "times": 1000, "at_once": at_once, "id": 5}]}),
            |request| {
                asked += 1;
                if asked % 2 == 0 { refusal(request) } else { result(request, Value::Null) }
            },
        );
        assert_eq!(requests.len(), 1000);
        assert!(requests.iter().all(|request| request["id"] == 5));
        assert_eq!(
            (&outcomes[0]["succeeded"], &outcomes[0]["refused"]),
            (&json!(500), &json!(500))
        );
    }
}

#[test]
fn ids_are_new_each_time_and_strays_are_counted() {
    let (requests, outcomes) = probe(
        &json!({"attempts": [{"name": "a", "method": "m", "times": 3, "at_once": true}]}),
        |_| result(&json!({"id": 4}), Value::Null),
    );
    let ids: std::collections::BTreeSet<_> = requests.iter().map(|r| r["id"].as_u64()).collect();
    assert_eq!(ids.len(), 3);
    assert_eq!((&outcomes[0]["strays"], &outcomes[0]["succeeded"]), (&json!(3), &json!(3)));
}

#[test]
fn letters_are_filled_in_and_what_is_too_long_is_not_sent() {
    let attempt = |fill: usize| json!({"attempts": [{"name": "a", "method": "m", "params": {"body": "<${fill}>"}, "fill": fill}]});
    let (requests, _) = probe(&attempt(3), |request| result(request, Value::Null));
    assert_eq!(requests[0]["params"], json!({"body": "<xxx>"}));
    let (requests, outcomes) = probe(&attempt(11 << 20), |_| None);
    assert!(requests.is_empty());
    assert!(outcomes[0]["unsent"].as_str().unwrap().contains("over the limit"), "{outcomes:?}");
}

#[test]
fn a_long_result_is_cut() {
    let arguments = json!({"excerpt": 10, "attempts": [{"name": "a", "method": "m"}]});
    let (_, outcomes) = probe(&arguments, |request| result(request, json!("ä".repeat(100))));
    assert_eq!(outcomes[0]["result"], "\"ääää");
}

#[test]
fn notifications_wait_for_nobody_and_the_rest_comes_behind_the_answer() {
    let arguments = json!({
        "attempts": [{"name": "a", "method": "m", "notify": true, "times": 2}],
        "after": [{"name": "b", "method": "late", "times": 2}],
    });
    let (requests, outcomes) = probe(&arguments, |request| {
        if request["method"] == "late" { result(request, Value::Null) } else { None }
    });
    let methods: Vec<_> = requests.iter().map(|request| request["method"].clone()).collect();
    assert_eq!(methods, ["m", "m", "late", "late"]);
    assert!(requests[0].get("id").is_none());
    assert_eq!((&outcomes[0]["sent"], &outcomes[0]["succeeded"]), (&json!(2), &json!(0)));
}

#[test]
fn the_prober_says_what_it_is_and_has_no_other_tool() {
    let (_, answers) =
        serve_with(&json!({"jsonrpc": "2.0", "id": 1, "method": "osvm/info"}), |_| None);
    let info = json!({"protocol": 1, "name": "osvm_prober", "build": "0123"});
    assert_eq!(answers[0]["result"], info);
    for request in [
        json!({"jsonrpc": "2.0", "id": 1, "server_id": "system", "method": "attempt"}),
        json!({"jsonrpc": "2.0", "id": 1, "server_id": "probe", "method": "echo"}),
    ] {
        assert_eq!(serve_with(&request, |_| None).1[0]["error"]["code"], METHOD_NOT_FOUND);
    }
    let (_, answers) = serve_with(&call(&json!({"attempts": [{"name": 1}]})), |_| None);
    assert_eq!(answers[0]["error"]["code"], INVALID_PARAMS);
}

#[test]
fn a_host_that_hangs_up_ends_the_probe() {
    let arguments = json!({"attempts": [{"name": "a", "method": "m"}]});
    assert_eq!(serve_with(&call(&arguments), |_| None).1, [] as [Value; 0]);
}

proptest! {
    #[test]
    fn any_answer_is_an_outcome(answer in r#"[\[{}":,0-9a-z\]]{0,30}"#, code: i64) {
        let mut texts: Vec<String> = vec![answer];
        let arguments = json!({"attempts": [{"name": "a", "method": "m"}]});
        let _ = serve_with(&call(&arguments), |request| match texts.pop() {
            Some(text) => Some(Value::String(text)),
            None => Some(json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": code, "message": ""}})),
        });
    }

    #[test]
    fn any_request_is_answered_or_ends_the_connection(payload: Vec<u8>) {
        let input = frame::encode(&payload).unwrap();
        let answer = |request: &Value| result(request, Value::Null);
        let mut host = Host { input, heard: vec![], requests: vec![], answers: vec![], answer };
        let Ok(()) = serve(&mut host, "", "b");
        assert!(host.answers.len() <= 1);
    }
}
