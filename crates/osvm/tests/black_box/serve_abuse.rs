//! `osvm mcp serve` with clients and tools that do what they should not.

use crate::client::{Client, stateless};
use crate::support::{Home, eventually};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

#[test]
fn a_cancelled_call_loses_its_vm_and_is_never_heard_of_again() {
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 30);
    let mut client = Client::connect(&home);
    client.call(2, "system__echo", json!({"text": "hi"}));
    let vm = home.wait_for_vm();
    client.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": {"requestId": 2, "reason": "enough"}}));
    eventually("the VM to be gone", || (!alive(vm)).then_some(()));
    client.assert_only_a_pong_comes();
    let (status, rest) = client.finish();
    assert!(status.success());
    assert_eq!(rest, [Value::Null; 0], "nothing was sent for the cancelled call");
    home.assert_nothing_left();
}

#[test]
fn calls_at_once_have_a_vm_each_and_answers_find_their_requests() {
    let home = Home::new();
    let mut client = Client::connect(&home);
    for id in 10..22 {
        client.call(id, "system__echo", json!({"text": format!("text {id}")}));
    }
    let mut vms = HashSet::new();
    for _ in 10..22 {
        let answer = client.next();
        let expected = format!("text {}", answer["id"]);
        assert_eq!(answer["result"]["structuredContent"]["text"], expected, "{answer}");
        let isolation = &answer["result"]["_meta"]["osvm/isolation"]["isolation"];
        assert!(vms.insert(isolation["vm_pid"].as_u64().unwrap()), "{isolation}");
    }
    assert!(client.finish().0.success());
    home.assert_nothing_left();
}

#[test]
fn guests_that_break_the_rules_harm_only_their_own_call() {
    let home = Home::with_hostile_image();
    for behaviour in ["announce_4gib", "rubbish_json", "wrong_id", "die_mid_frame", "triple_fault"]
    {
        home.use_hostile(behaviour, 10);
        let mut client = Client::connect(&home);
        client.call(2, "system__echo", json!({"text": "hi"}));
        client.call(3, "osvm-mcp__validate_address", json!({}));
        let mut answers = [client.next(), client.next()];
        answers.sort_by_key(|answer| answer["id"].as_i64());
        let [hostile, other] = answers;
        assert_eq!(hostile["result"]["isError"], true, "{behaviour}: {hostile}");
        assert!(!other.is_null());
        client.assert_only_a_pong_comes();
    }
    home.assert_nothing_left();
}

#[test]
fn what_is_no_message_gets_one_error_and_the_next_one_is_answered() {
    let home = Home::new();
    let mut client = Client::connect(&home);
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"x","params":{{"a":{}}}}}"#,
        "[".repeat(100_000) + &"]".repeat(100_000)
    );
    for (line, code) in [
        (b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]".as_slice(), -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"ping\"}", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"ping\"}", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}", -32700),
        (b"Content-Length: 17", -32700),
        (b"\0\0\0", -32700),
        (deep.as_bytes(), -32601),
    ] {
        client.send_bytes(line);
        client.send_bytes(b"\n");
        let error = client.next();
        assert_eq!(error["error"]["code"], code, "{error}");
        client.assert_only_a_pong_comes();
    }
}

#[test]
fn arguments_nested_beyond_reason_are_an_error_of_that_call() {
    let home = Home::new();
    let mut client = Client::connect(&home);
    let deep = "[".repeat(50_000) + &"]".repeat(50_000);
    let line = format!(
        r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"system__echo","arguments":{{"text":{deep}}}}}}}"#
    );
    client.send_bytes(format!("{line}\n").as_bytes());
    assert_eq!(client.next()["result"]["isError"], true);
    client.assert_only_a_pong_comes();
}

#[test]
fn a_line_of_a_hundred_mebibytes_costs_no_memory_and_one_error() {
    let home = Home::new();
    let mut client = Client::connect(&home);
    let before = peak_kib(client.pid());
    let mebibyte = vec![b'x'; 1 << 20];
    client.send_bytes(b"{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"");
    for _ in 0..100 {
        client.send_bytes(&mebibyte);
    }
    client.send_bytes(b"\"}\n");
    let error = client.next();
    assert_eq!(error["error"]["code"], -32600, "{error}");
    client.assert_only_a_pong_comes();
    let grown = peak_kib(client.pid()) - before;
    assert!(grown < 40 << 10, "grew by {grown} KiB");
}

#[test]
fn ten_mebibytes_come_back_as_they_went_with_little_memory() {
    let home = Home::new();
    // Without a VM, so that nothing but the gateway's own work is in the way.
    home.write_config(r#"{"mcp_servers": {"system": {"execution_mode": "direct"}}}"#);
    let mut client = Client::connect(&home);
    let before = peak_kib(client.pid());
    let text = "x".repeat((10 << 20) - 4096);
    client.call(2, "system__echo", json!({"text": text}));
    let answer = client.next();
    assert!(answer["result"]["structuredContent"]["text"] == *text, "as long and the same");
    let grown = peak_kib(client.pid()) - before;
    println!("a call with 10 MiB in and out grew the gateway by {grown} KiB");
    assert!(grown < 40 << 10, "grew by {grown} KiB");
    assert!(client.finish().0.success());
    home.assert_nothing_left();
}

#[test]
fn an_id_in_use_is_refused_without_touching_the_call_that_has_it() {
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 30);
    let mut client = Client::connect(&home);
    client.call(2, "system__echo", json!({"text": "hi"}));
    home.wait_for_vm();
    client.call(2, "system__echo", json!({"text": "hi"}));
    let error = client.next();
    assert_eq!((&error["id"], &error["error"]["code"]), (&Value::Null, &json!(-32600)));
    client.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": {"requestId": 2}}));
    client.assert_only_a_pong_comes();
}

#[test]
fn calls_are_answered_after_the_client_has_said_all() {
    let home = Home::new();
    let mut client = Client::start(&home, &[]);
    let params = json!({"name": "system__echo", "arguments": {"text": "hi"}});
    client.request("last", "tools/call", stateless(params));
    let (status, rest) = client.finish();
    assert!(status.success());
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0]["id"], "last");
    home.assert_nothing_left();
}

#[test]
fn a_client_that_dies_takes_its_calls_with_it() {
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 60);
    let mut osvm = {
        let mut command = home.osvm_std(&["mcp", "serve"]);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": stateless(json!({"name": "system__echo", "arguments": {"text": "hi"}}))});
    let mut stdin = osvm.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, format!("{call}\n").as_bytes()).unwrap();
    let vm = home.wait_for_vm();
    let begun = Instant::now();
    drop((stdin, osvm.stdout.take()));
    osvm.wait().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "it did not wait for the call");
    assert!(!alive(vm));
    home.assert_nothing_left();
}

#[test]
fn sigterm_ends_it_in_order_even_with_a_client_that_does_not_read() {
    let home = Home::new();
    let mut command = home.osvm_std(&["mcp", "serve"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut osvm = command.spawn().unwrap();
    let mut stdin = osvm.stdin.take().unwrap();
    let text = "x".repeat(48 << 10);
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": stateless(json!({"name": "system__echo", "arguments": {"text": text}}))});
    std::io::Write::write_all(&mut stdin, format!("{call}\n").as_bytes()).unwrap();
    // Its answer does not fit the pipe, so once the VM is gone the writer waits for a reader.
    let vm = home.wait_for_vm();
    eventually("the call to end", || (!alive(vm)).then_some(()));
    let pid = rustix::process::Pid::from_child(&osvm);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(osvm.wait().unwrap().code(), Some(143));
    home.assert_nothing_left();
}

fn alive(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}

/// The most memory a process ever had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}
