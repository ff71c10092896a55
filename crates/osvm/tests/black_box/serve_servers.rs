//! `osvm mcp serve` in front of a configured server, in every pair of eras.

use crate::client::{Client, stateless};
use crate::support::Home;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The server for tests, built where it is not there yet.
pub(crate) fn fixture() -> &'static Path {
    static FIXTURE: OnceLock<PathBuf> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let path = Path::new(env!("CARGO_BIN_EXE_osvm")).with_file_name("osvm-fixture");
        if !path.exists() {
            let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../osvm-fixture/Cargo.toml");
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built =
                Command::new(cargo).arg("build").arg("--manifest-path").arg(manifest).status();
            assert!(built.unwrap().success());
        }
        path
    })
}

/// A home with one configured server, and the mode its tools run in.
pub(crate) fn home(mode: &str) -> Home {
    home_with(json!({ "execution_mode": mode }), &[])
}

/// The same with all that is said of its isolation, and arguments of the server.
pub(crate) fn home_with(isolation: Value, args: &[&str]) -> Home {
    let home = Home::new();
    home.write_config(&json!({"mcp_servers": {"fixture": isolation}}).to_string());
    let servers = json!({"mcpServers": {"fixture": {"command": fixture(), "args": args}}});
    let path = home.config_path().with_file_name("mcp_servers.json");
    fs::write(path, servers.to_string()).unwrap();
    home
}

/// A client after a handshake in which it says what it can be asked.
pub(crate) fn connect(home: &Home, capabilities: Value) -> Client {
    let mut client = Client::start(home, &["--servers", "fixture"]);
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities,
        "clientInfo": {"name": "test", "version": "1"}});
    client.ask(1, "initialize", params);
    client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    client
}

#[track_caller]
pub(crate) fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn tools_of_a_configured_server_are_called_with_a_receipt_of_how_they_ran() {
    let home = home("direct");
    let mut client = connect(&home, json!({}));
    let listed = client.ask(2, "tools/list", json!({}));
    let tools = listed["result"]["tools"].as_array().unwrap();
    let echo = tools.iter().find(|tool| tool["name"] == "fixture__echo").unwrap();
    assert_eq!(echo["_meta"]["osvm/tool"], json!({"server": "fixture", "name": "echo"}));
    for (id, params) in [
        (3, json!({"name": "fixture__echo", "arguments": {"text": "hi"}})),
        (4, stateless(json!({"name": "fixture__echo", "arguments": {"text": "hi"}}))),
    ] {
        let answer = client.ask(id, "tools/call", params);
        assert_eq!(text(&answer), "hi");
        let resulted = answer["result"].get("resultType").cloned();
        assert_eq!(resulted, (id == 4).then(|| json!("complete")));
        let isolation = &answer["result"]["_meta"]["osvm/isolation"]["isolation"];
        assert_eq!(isolation["mode"], "direct");
    }
    let (status, rest) = client.finish();
    assert!(status.success() && rest.is_empty());
}

#[test]
fn a_program_that_may_not_run_on_the_host_is_not_started_and_its_calls_say_why() {
    let home = home("direct");
    // Asked once, so that its list is known.
    connect(&home, json!({})).ask(2, "tools/list", json!({}));
    home.write_config("{}");
    let mut client = connect(&home, json!({}));
    let listed = client.ask(2, "tools/list", json!({}));
    assert!(!listed["result"]["tools"].as_array().unwrap().is_empty());
    let answer = client.ask(3, "tools/call", json!({"name": "fixture__echo"}));
    assert_eq!(answer["result"]["isError"], true);
    assert_eq!(answer["result"]["_meta"]["osvm/isolation"]["error"]["code"], "denied");
    let error = client.ask(4, "prompts/get", json!({"name": "fixture__test_simple_prompt"}));
    assert_eq!(error["error"]["data"]["code"], "denied", "{error}");
}

#[test]
fn a_question_of_a_server_reaches_a_client_with_a_handshake_and_its_answer_the_server() {
    let home = home("direct");
    let mut client = connect(&home, json!({"elicitation": {}}));
    client.ask(2, "tools/list", json!({}));
    client.call(3, "fixture__test_elicitation", json!({"message": "Who?"}));
    let question = client.next();
    assert_eq!(question["method"], "elicitation/create");
    assert_eq!(question["params"]["message"], "Who?");
    let result = json!({"action": "accept", "content": {"username": "u", "email": "e"}});
    client.send(&json!({"jsonrpc": "2.0", "id": question["id"], "result": result}));
    let answer = client.next();
    assert_eq!(answer["id"], 3);
    assert!(text(&answer).starts_with("User response: action=accept"), "{answer}");
    client.assert_only_a_pong_comes();
}

#[test]
fn a_client_that_can_not_be_asked_is_not_and_the_tool_hears_of_it() {
    let home = home("direct");
    let mut client = connect(&home, json!({}));
    client.ask(2, "tools/list", json!({}));
    client.call(3, "fixture__test_sampling", json!({"prompt": "?"}));
    let answer = client.next();
    assert_eq!(answer["result"]["isError"], true);
    assert!(text(&answer).starts_with("no sampling"), "{answer}");
}

#[test]
fn input_that_a_stateless_server_needs_is_asked_of_a_stateless_client() {
    let home = home("direct");
    let mut client = Client::start(&home, &["--servers", "fixture", "--no-prefix"]);
    let with = |mut params: Value| {
        params = stateless(params);
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
        params
    };
    client.ask(1, "tools/list", stateless(json!({})));
    let name = "test_input_required_result_request_state";
    let first = client.ask(2, "tools/call", with(json!({ "name": name })));
    assert_eq!(first["result"]["resultType"], "input_required", "{first}");
    let responses = json!({"confirm": {"action": "accept", "content": {"ok": true}}});
    let again = json!({"name": name, "inputResponses": responses,
        "requestState": first["result"]["requestState"]});
    assert_eq!(text(&client.ask(3, "tools/call", with(again))), "state-ok");
    let forged = json!({"name": name, "inputResponses": responses, "requestState": "x"});
    assert_eq!(client.ask(4, "tools/call", with(forged))["error"]["code"], -32602);
}

#[test]
fn prompts_resources_and_completions_come_from_their_server() {
    let home = home("direct");
    let mut client = connect(&home, json!({}));
    let prompts = client.ask(2, "prompts/list", json!({}));
    assert_eq!(prompts["result"]["prompts"].as_array().unwrap().len(), 5);
    let prompt = client.ask(3, "prompts/get", json!({"name": "fixture__test_simple_prompt"}));
    assert_eq!(prompt["result"]["messages"][0]["role"], "user");
    let read = client.ask(4, "resources/read", json!({"uri": "test://template/7/data"}));
    assert_eq!(read["result"]["contents"][0]["uri"], "test://template/7/data");
    assert_eq!(read["result"].get("ttlMs"), None);
    let missing = client.ask(5, "resources/read", stateless(json!({"uri": "test://none"})));
    assert_eq!(missing["error"]["code"], -32602);
    assert_eq!(missing["error"]["data"]["uri"], "test://none");
    let reference = json!({"type": "ref/prompt", "name": "fixture__test_prompt_with_arguments"});
    let argument = json!({"name": "arg1", "value": "pa"});
    let completed =
        client.ask(6, "completion/complete", json!({"ref": reference, "argument": argument}));
    assert_eq!(completed["result"]["completion"]["values"][0], "paris");
}

#[test]
fn a_cancelled_call_is_never_answered_and_others_go_on() {
    let home = home("direct");
    let mut client = connect(&home, json!({}));
    client.ask(2, "tools/list", json!({}));
    client.call(3, "fixture__sleep", json!({"ms": 600_000}));
    client.call(4, "fixture__echo", json!({"text": "meanwhile"}));
    assert_eq!(text(&client.next()), "meanwhile");
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": {"requestId": 3}});
    client.send(&cancel);
    client.call(5, "fixture__echo", json!({"text": "after"}));
    assert_eq!(client.next()["id"], 5);
    let (status, rest) = client.finish();
    assert!(status.success() && rest.is_empty(), "{rest:?}");
}

#[test]
fn progress_of_a_server_comes_under_the_token_of_the_client() {
    let home = home("direct");
    let mut client = connect(&home, json!({}));
    client.ask(2, "tools/list", json!({}));
    let mut params = json!({"name": "fixture__test_tool_with_progress"});
    params["_meta"]["progressToken"] = "mine".into();
    client.request(3, "tools/call", params);
    for progress in [0.0, 50.0, 100.0] {
        let told = client.next();
        assert_eq!(told["params"]["progressToken"], "mine");
        assert_eq!(told["params"]["progress"].as_f64(), Some(progress));
    }
    assert_eq!(client.next()["id"], 3);
}

#[test]
fn a_call_with_more_members_than_any_tool_has_is_refused_and_not_made_without_its_arguments() {
    let home = home("direct");
    let mut client = Client::connect(&home);
    let mut params = json!({"name": "fixture__echo", "arguments": {"text": "hi"}});
    let called = client.ask(2, "tools/call", params.clone());
    assert_eq!(called["result"]["content"][0]["text"], "hi", "{called}");
    for number in 0..10_001 {
        params[format!("x{number}")] = Value::Null;
    }
    let refused = client.ask(3, "tools/call", params);
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
}
