//! A server of one era and a client of the other, with questions in between.

use crate::client::{Client, stateless};
use crate::serve_servers::{connect, home_with, text};
use crate::support::Home;
use serde_json::{Value, json};
use std::time::Duration;

fn one_era(mode: &str, timeout_secs: u32) -> Home {
    home_with(json!({"execution_mode": "direct", "timeout_secs": timeout_secs}), &[mode])
}

/// A stateless client that answers forms.
fn with_forms(params: Value) -> Value {
    let mut params = stateless(params);
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    params
}

/// The answer to the form of `test_elicitation`.
fn filled() -> Value {
    json!({"action": "accept", "content": {"username": "u", "email": "e"}})
}

/// A call of `test_elicitation` that waits for its form; what it is taken up again with.
#[track_caller]
fn parked(client: &mut Client, id: i32) -> Value {
    let params = json!({"name": "fixture__test_elicitation", "arguments": {"message": "Who?"}});
    let needed = client.ask(id, "tools/call", with_forms(params.clone()));
    assert_eq!(needed["result"]["resultType"], "input_required", "{needed}");
    let request = &needed["result"]["inputRequests"]["input"];
    assert_eq!(request["method"], "elicitation/create");
    assert_eq!(request["params"]["message"], "Who?");
    let mut again = with_forms(params);
    again["requestState"] = needed["result"]["requestState"].clone();
    again["inputResponses"] = json!({"input": filled()});
    again
}

fn stateless_client(home: &Home) -> Client {
    let mut client = Client::start(home, &["--servers", "fixture"]);
    client.ask(1, "tools/list", stateless(json!({})));
    client
}

#[test]
fn a_stateless_server_asks_a_client_with_a_handshake_through_osvm_which_calls_it_again() {
    let home = one_era("--modern-only", 60);
    let mut client = connect(&home, json!({"elicitation": {}}));
    client.ask(2, "tools/list", json!({}));
    client.call(3, "fixture__test_elicitation", json!({"message": "Who?"}));
    let question = client.next();
    assert_eq!(question["method"], "elicitation/create", "{question}");
    assert_eq!(question["params"]["message"], "Who?");
    client.send(&json!({"jsonrpc": "2.0", "id": question["id"], "result": filled()}));
    let answer = client.next();
    assert_eq!(answer["id"], 3);
    assert!(text(&answer).starts_with("User response: action=accept"), "{answer}");
    assert_eq!(answer["result"].get("resultType"), None, "a word of the other era");
    // Two rounds, each with a state of the server's own.
    client.call(4, "fixture__test_input_required_result_multi_round", json!({}));
    for _ in 0..2 {
        let question = client.next();
        assert_eq!(question["method"], "elicitation/create", "{question}");
        client.send(&json!({"jsonrpc": "2.0", "id": question["id"], "result": filled()}));
    }
    assert_eq!(text(&client.next()), "both steps are done");
    client.assert_only_a_pong_comes();
}

#[test]
fn a_client_that_can_not_give_input_hears_that_its_call_needs_it() {
    let home = one_era("--modern-only", 60);
    let mut client = connect(&home, json!({}));
    client.ask(2, "tools/list", json!({}));
    let params = json!({"name": "fixture__test_elicitation", "arguments": {"message": "?"}});
    let answer = client.ask(3, "tools/call", params);
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    let error = &answer["result"]["_meta"]["osvm/isolation"]["error"];
    assert_eq!(error["code"], "no_input", "{answer}");
}

#[test]
fn a_question_of_a_server_with_a_handshake_parks_the_call_of_a_stateless_client() {
    let home = one_era("--legacy-only", 60);
    let mut client = stateless_client(&home);
    let again = parked(&mut client, 2);
    // The state is good for the same request only, and once.
    let mut other = again.clone();
    other["name"] = "fixture__echo".into();
    assert_eq!(client.ask(3, "tools/call", other)["error"]["code"], -32602);
    let answer = client.ask(4, "tools/call", again.clone());
    assert!(text(&answer).starts_with("User response: action=accept"), "{answer}");
    assert_eq!(answer["result"]["resultType"], "complete");
    assert_eq!(client.ask(5, "tools/call", again)["error"]["code"], -32602);
    let (status, rest) = client.finish();
    assert!(status.success() && rest.is_empty(), "{rest:?}");
}

#[test]
fn the_state_of_another_clients_call_is_refused_and_its_call_goes_on() {
    let home = one_era("--legacy-only", 60);
    let (mut one, mut other) = (stateless_client(&home), stateless_client(&home));
    let again = parked(&mut one, 2);
    assert_eq!(other.ask(2, "tools/call", again.clone())["error"]["code"], -32602);
    let answer = one.ask(3, "tools/call", again);
    assert!(text(&answer).starts_with("User response: action=accept"), "{answer}");
}

#[test]
fn a_server_has_no_less_time_because_its_client_takes_long() {
    let home = one_era("--legacy-only", 2);
    let mut client = stateless_client(&home);
    let again = parked(&mut client, 2);
    std::thread::sleep(Duration::from_millis(2500));
    let answer = client.ask(3, "tools/call", again);
    assert!(text(&answer).starts_with("User response: action=accept"), "{answer}");
    let sleep = json!({"name": "fixture__sleep", "arguments": {"ms": 600_000}});
    let answer = client.ask(4, "tools/call", with_forms(sleep));
    assert_eq!(answer["result"]["_meta"]["osvm/isolation"]["error"]["code"], "timeout");
}

#[test]
fn a_client_that_leaves_while_its_call_is_parked_leaves_nothing_behind() {
    let home = one_era("--legacy-only", 60);
    let mut client = stateless_client(&home);
    parked(&mut client, 2);
    let (status, rest) = client.finish();
    assert!(status.success() && rest.is_empty(), "{rest:?}");
    home.assert_nothing_left();
}
