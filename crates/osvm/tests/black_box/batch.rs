//! `--batch`: many calls of one file, in order, with and without the daemon.

use crate::support::{Home, eventually};
use serde_json::{Value, json};
use snapbox::str;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Output, Stdio};

fn echo(text: &str) -> String {
    json!({"server": "system", "tool": "echo", "arguments": {"text": text}}).to_string()
}

/// Runs the lines as a batch, and returns its envelopes.
fn batch(home: &Home, lines: &[String], flags: &[&str]) -> (Vec<Value>, Output) {
    let file = home.write("calls.jsonl", lines.join("\n"));
    let file = file.display().to_string();
    let args = [&["mcp", "call-tool", "--batch", &file], flags].concat();
    let output = home.osvm_std(&args).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), output)
}

fn pids(envelopes: &[Value]) -> Vec<u64> {
    envelopes.iter().map(|e| e["isolation"]["vm_pid"].as_u64().unwrap()).collect()
}

#[test]
fn answers_come_in_the_order_of_the_calls_each_from_a_vm_of_its_own() {
    let home = Home::new();
    let lines: Vec<String> = (0..12).map(|number| echo(&number.to_string())).collect();
    let (envelopes, output) = batch(&home, &lines, &["--jobs", "4"]);
    assert!(output.status.success());
    for (number, envelope) in envelopes.iter().enumerate() {
        assert_eq!(envelope["index"], number);
        assert_eq!(envelope["result"]["text"], number.to_string());
        assert_eq!(envelope["isolation"]["reused"], false);
    }
    assert_eq!(pids(&envelopes).into_iter().collect::<BTreeSet<_>>().len(), 12);
    home.assert_nothing_left();
}

#[test]
fn a_bad_line_or_a_tool_that_says_no_keeps_no_other_call_from_running() {
    let home = Home::new();
    let no = json!({"server": "solana", "tool": "validate_address", "arguments": {"address": 1}});
    let lines = [echo("a"), "{".into(), String::new(), no.to_string(), echo("b")];
    let (envelopes, output) = batch(&home, &lines, &[]);
    assert_eq!(output.status.code(), Some(2), "osvm could not make one of the calls");
    let texts: Vec<_> = envelopes.iter().map(|e| &e["result"]["text"]).collect();
    assert_eq!(texts, [&json!("a"), &Value::Null, &Value::Null, &json!("b")]);
    assert_eq!(envelopes[1]["error"]["message"], "call 1 of the batch cannot be read");
    assert_eq!(envelopes[2]["error"]["code"], "arguments");
    let no = json!({"server": "solana", "tool": "decode_transaction",
        "arguments": {"transaction": "!"}});
    let (envelopes, output) = batch(&home, &[echo("a"), no.to_string()], &[]);
    assert_eq!(output.status.code(), Some(1), "a tool said no");
    assert!(envelopes[1]["error"]["code"].is_i64());
    home.assert_nothing_left();
}

#[test]
fn consecutive_calls_of_a_server_share_a_vm_only_when_that_is_asked_for() {
    let home = Home::new();
    let other = json!({"server": "solana", "tool": "validate_address",
        "arguments": {"address": "11111111111111111111111111111111"}});
    let lines = [echo("a"), echo("b"), other.to_string(), echo("c")];
    let (envelopes, output) = batch(&home, &lines, &["--reuse"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reused: Vec<_> = envelopes.iter().map(|e| e["isolation"]["reused"].clone()).collect();
    assert_eq!(reused, [false, true, false, false]);
    let pids = pids(&envelopes);
    assert!(pids[0] == pids[1] && pids[1] != pids[2] && pids[2] != pids[3]);
    home.assert_nothing_left();
}

#[test]
fn a_batch_from_stdin_runs_through_the_daemon() {
    let home = Home::new();
    home.write_config(&json!({"pool": {"size": 2}}).to_string());
    let mut command = home.osvm_std(&["mcp", "call", "--batch", "-", "--jobs", "3", "--reuse"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for number in 0..30 {
        writeln!(stdin, "{}", echo(&number.to_string())).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let envelopes: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let texts: Vec<_> = envelopes.iter().map(|e| e["result"]["text"].as_str().unwrap()).collect();
    let expected: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    assert_eq!(texts, expected);
    let vms = pids(&envelopes).into_iter().collect::<BTreeSet<_>>().len();
    assert!(vms <= 3, "{vms} VMs for three lines of calls that share theirs");
    eventually("the shared VMs to be destroyed", || {
        let status = home.osvm_std(&["daemon", "status", "--json"]).output().unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        (status["pool"]["in_use"] == 0).then_some(())
    });
    home.osvm(["daemon", "stop"]).assert().code(0);
    home.assert_nothing_left();
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let home = Home::without_images();
    home.osvm(["mcp", "call", "--batch", "none.jsonl"]).assert().code(2).stdout_eq("").stderr_eq(
        str![[r#"
error: cannot read `none.jsonl`
  caused by: No such file or directory (os error 2)

"#]],
    );
}
