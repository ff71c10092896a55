//! `osvm mcp serve` as its clients see it, in both eras, with calls in real VMs.

use crate::client::{Client, stateless};
use crate::support::Home;
use serde_json::{Value, json};
use snapbox::str;
use std::path::Path;

#[test]
fn both_eras_are_answered_on_one_pipe_whatever_comes_first() {
    let home = Home::new();
    let mut client = Client::start(&home, &[]);
    let discovered = client.ask(1, "server/discover", stateless(json!({})));
    assert_eq!(discovered["result"]["resultType"], "complete");
    let versions = discovered["result"]["supportedVersions"].as_array().unwrap();
    assert!(versions.contains(&json!("2026-07-28")), "{discovered}");
    for (asked, agreed) in [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2024-11-05", "2024-11-05"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        let answer = client.ask(2, "initialize", json!({"protocolVersion": asked}));
        assert_eq!(answer["result"]["protocolVersion"], agreed);
        assert_eq!(answer["result"]["serverInfo"]["name"], "osvm");
    }
    let old = client.ask(3, "tools/list", json!({}));
    let new = client.ask(4, "tools/list", stateless(json!({})));
    assert_eq!(old["result"].get("resultType"), None);
    assert_eq!(new["result"]["resultType"], "complete");
    assert!(new["result"]["ttlMs"].is_u64() && new["result"]["cacheScope"].is_string());
    assert_eq!(old["result"]["tools"], new["result"]["tools"]);
    let (status, rest) = client.finish();
    assert!(status.success() && rest.is_empty());
    home.assert_nothing_left();
}

#[test]
fn without_handshake_and_version_only_a_ping_is_answered() {
    let home = Home::new();
    let mut client = Client::start(&home, &[]);
    client.assert_only_a_pong_comes();
    assert_eq!(client.ask(1, "tools/list", json!({}))["error"]["code"], -32602);
    assert_eq!(client.ask(2, "server/discover", json!({}))["error"]["code"], -32602);
    let mut unknown = stateless(json!({}));
    unknown["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2031-01-01".into();
    let error = client.ask(3, "tools/list", unknown);
    assert_eq!(error["error"]["code"], -32022);
    assert_eq!(error["error"]["data"]["requested"], "2031-01-01");
    assert_eq!(client.ask(4, "ping", stateless(json!({})))["error"]["code"], -32601);
    assert_eq!(client.ask(5, "resources/list", stateless(json!({})))["error"]["code"], -32601);
}

#[test]
fn tools_are_listed_as_their_image_defines_them_before_any_vm_runs() {
    let home = Home::new();
    let mut client = Client::connect(&home);
    let listed = client.ask(2, "tools/list", json!({}));
    let output = home.osvm(["mcp", "tools", "--json"]).output().unwrap();
    let defined: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let listed = listed["result"]["tools"].as_array().unwrap();
    assert_eq!(listed.len(), defined.len());
    for tool in listed {
        let origin = &tool["_meta"]["osvm/tool"];
        let is =
            |other: &&Value| other["server"] == origin["server"] && other["name"] == origin["name"];
        let defined = defined.iter().find(is).unwrap();
        for member in ["description", "inputSchema", "outputSchema", "annotations"] {
            assert_eq!(tool[member], defined[member], "{member} of {}", tool["name"]);
        }
        let name =
            format!("{}__{}", origin["server"].as_str().unwrap(), origin["name"].as_str().unwrap());
        assert_eq!(tool["name"], name);
    }
    assert!(listed.iter().any(|tool| tool["name"] == "solana__get_balance"), "network or not");
    home.osvm(["logs"]).assert().code(0).stdout_eq("").stderr_eq("no calls yet\n");
}

#[test]
fn a_call_answers_with_the_result_and_how_it_was_isolated() {
    let home = Home::new();
    let mut client = Client::connect(&home);
    let params = json!({"name": "system__echo", "arguments": {"text": "hi"}});
    for (id, params) in [(2, params.clone()), (3, stateless(params))] {
        let answer = client.ask(id, "tools/call", params);
        let result = &answer["result"];
        assert_eq!(result["content"], json!([{"type": "text", "text": r#"{"text":"hi"}"#}]));
        assert_eq!(result["structuredContent"], json!({"text": "hi"}));
        assert_eq!(result["isError"], false);
        assert_eq!(result["resultType"], if id == 2 { Value::Null } else { "complete".into() });
        let envelope = &result["_meta"]["osvm/isolation"];
        assert_eq!(envelope["isolation"]["mode"], "unikernel");
        assert_eq!(envelope["isolation"]["fallback"], Value::Null);
        let log = home.osvm(["logs", envelope["call"].as_str().unwrap()]).output().unwrap();
        assert!(log.status.success(), "the call is in the logs");
        let vm = envelope["isolation"]["vm_pid"].as_u64().unwrap();
        assert!(!Path::new(&format!("/proc/{vm}")).exists(), "the VM is gone");
    }
    assert!(client.finish().0.success());
    home.assert_nothing_left();
}

#[test]
fn errors_of_tools_arguments_and_osvm_are_results_that_say_so() {
    let home = Home::new();
    let mut client = Client::connect(&home);
    for (tool, arguments, code, words) in [
        ("solana__decode_transaction", json!({"transaction": "!"}), json!(-32602), "base58"),
        ("system__echo", json!({"text": 7}), json!("arguments"), "must be a string"),
        (
            "solana__get_balance",
            json!({"address": "11111111111111111111111111111111"}),
            json!(1001),
            "network",
        ),
    ] {
        let answer = client.ask(2, "tools/call", json!({"name": tool, "arguments": arguments}));
        let result = &answer["result"];
        assert_eq!(result["isError"], true, "{answer}");
        assert_eq!(result["_meta"]["osvm/isolation"]["error"]["code"], code, "{answer}");
        assert!(result["content"][0]["text"].as_str().unwrap().contains(words), "{answer}");
        assert_eq!(result.get("structuredContent"), None);
    }
    std::fs::write(home.store().image_path("unikraft_tool_executor"), "altered").unwrap();
    let params = json!({"name": "system__echo", "arguments": {"text": "hi"}});
    let denied = client.ask(3, "tools/call", params);
    assert_eq!(denied["result"]["_meta"]["osvm/isolation"]["error"]["code"], "image");
    let text = denied["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("was altered") && text.contains("hint: "), "{text}");
}

#[test]
fn a_call_that_names_no_tool_is_an_error_of_the_protocol() {
    let home = Home::new();
    let mut client = Client::connect(&home);
    let error = client.ask(2, "tools/call", json!({"name": "system__eco"}));
    assert_eq!(error["error"]["code"], -32602);
    assert_eq!(
        error["error"]["message"],
        "no tool is called `system__eco`: did you mean `system__echo`?"
    );
    let error = client.ask(3, "tools/call", json!({"name": "system__echo", "arguments": [1]}));
    assert_eq!(error["error"]["code"], -32602);
    let error = client.ask(4, "tools/list", json!({"cursor": "x"}));
    assert_eq!(error["error"]["code"], -32602);
}

#[test]
fn progress_is_told_to_those_who_ask_before_the_answer() {
    let home = Home::new();
    let mut client = Client::connect(&home);
    let mut params = json!({"name": "system__echo", "arguments": {"text": "hi"}});
    params["_meta"]["progressToken"] = "token".into();
    client.request(2, "tools/call", params);
    let progress = client.next();
    assert_eq!(progress["method"], "notifications/progress");
    assert_eq!(progress["params"]["progressToken"], "token");
    assert_eq!(progress["params"]["message"], "starting a virtual machine for `system/echo`");
    let runs = client.next();
    assert_eq!(runs["params"]["progress"], 2);
    let message = runs["params"]["message"].as_str().unwrap();
    assert!(message.starts_with("`system/echo` runs in a virtual machine"), "{message}");
    assert_eq!(client.next()["id"], 2);
    client.assert_only_a_pong_comes();
}

#[test]
fn clients_are_told_when_the_tools_have_changed_and_only_then() {
    let home = Home::new();
    let install = |image: &[u8]| {
        let file = home.write("image", image);
        home.store().install("unikraft_tool_executor", &file, None).unwrap();
    };
    let image = std::fs::read(home.store().image_path("unikraft_tool_executor")).unwrap();
    let mut old = Client::connect(&home);
    let mut new = Client::start(&home, &[]);
    let filter = json!({"notifications": {"toolsListChanged": true, "promptsListChanged": true}});
    new.request(5, "subscriptions/listen", stateless(filter));
    let id = "io.modelcontextprotocol/subscriptionId";
    let acknowledged = json!({"jsonrpc": "2.0",
        "method": "notifications/subscriptions/acknowledged",
        "params": {"_meta": {id: 5}, "notifications": {"toolsListChanged": true}}});
    assert_eq!(new.next(), acknowledged);
    let before = old.ask(2, "tools/list", json!({}));
    // Installed anew, but the same: nothing to tell.
    install(&image);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let (was, is) = (b"Returns the text it was given.", b"Says again what it has heard..");
    let at = image.windows(was.len()).position(|bytes| bytes == was).unwrap();
    install(&[&image[..at], is, &image[at + was.len()..]].concat());
    assert_eq!(old.next(), json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
    let told = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed",
        "params": {"_meta": {id: 5}}});
    assert_eq!(new.next(), told);
    let after = old.ask(3, "tools/list", json!({}));
    let said = before
        .to_string()
        .replace("Returns the text it was given.", "Says again what it has heard..");
    assert_eq!(after["result"], serde_json::from_str::<Value>(&said).unwrap()["result"]);
    let (_, rest) = new.finish();
    assert_eq!(
        rest,
        [json!({"jsonrpc": "2.0", "id": 5,
        "result": {"resultType": "complete", "_meta": {id: 5}}})]
    );
}

#[test]
fn names_are_short_where_the_user_wants_them_so() {
    let home = Home::new();
    let dry = |args: &[&str]| {
        let args = [&["mcp", "serve", "--dry-run", "--json"], args].concat();
        let output = home.osvm_std(&args).output().unwrap();
        serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap()
    };
    let names = |args: &[&str]| -> Vec<String> {
        dry(args).iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        names(&["--servers", "system"]),
        [
            "system__echo",
            "system__guest_info",
            "system__list_directory",
            "system__read_file",
            "system__write_file"
        ]
    );
    assert_eq!(
        names(&["--servers", "system", "--no-prefix"]),
        ["echo", "guest_info", "list_directory", "read_file", "write_file"]
    );
    assert_eq!(
        names(&["--tools", "system/echo,solana__get_balance"]),
        ["solana__get_balance", "system__echo"]
    );
    let mut client = Client::start(&home, &["--no-prefix", "--tools", "system/echo"]);
    client.ask(1, "initialize", json!({"protocolVersion": "2025-11-25"}));
    client.call(2, "echo", json!({"text": "hi"}));
    assert_eq!(client.next()["result"]["structuredContent"]["text"], "hi");
    assert_eq!(client.ask(3, "tools/call", json!({"name": "guest_info"}))["error"]["code"], -32602);
}

#[test]
fn what_would_be_served_is_shown_to_people() {
    let home = Home::new();
    let dry = home.osvm(["mcp", "serve", "--dry-run", "--servers", "system"]);
    dry.assert().code(0).stderr_eq("").stdout_eq(str![[r#"
NAME                    SERVER  TOOL            MODE       NETWORK
system__echo            system  echo            unikernel  -
system__guest_info      system  guest_info      unikernel  -
system__list_directory  system  list_directory  unikernel  -
system__read_file       system  read_file       unikernel  -
system__write_file      system  write_file      unikernel  -

"#]]);
}

#[test]
fn what_can_not_be_served_is_an_error_not_an_empty_list() {
    let home = Home::new();
    home.osvm(["mcp", "serve", "--servers", "solano"]).assert().code(2).stdout_eq("").stderr_eq(
        str![[r#"
error: no server is called `solano`

hint: did you mean `solana`?

"#]],
    );
    let empty = Home::without_images();
    empty.osvm(["mcp", "serve"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: cannot read the tools of image `unikraft_tool_executor`
  caused by: unikernel image not found: `[HOME]/.osvm/unikernels/unikraft_tool_executor.img`

hint: build and install it with `scripts/build-unikraft-tool-executor.sh`

"#]]);
}
