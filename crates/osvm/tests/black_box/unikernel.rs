//! Calls in real VMs: they answer, they end, and nothing of them stays.

use crate::support::{Home, wait_for_end_of};
use serde_json::{Value, json};
use snapbox::str;
use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::Instant;

/// The command line of a call of `system echo`.
fn echo<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    [&["mcp", "call-tool", "system", "echo"], rest].concat()
}

#[test]
fn test_spawn_and_terminate_unikernel() {
    let home = Home::new();
    // Long enough for the VM to be seen while it works.
    let text = "x".repeat(64 << 10);
    let arguments = home.write("arguments.json", json!({ "text": text }).to_string());
    let call = home.spawn(&["mcp", "call", "system", "echo", &at(&arguments), "--json"]);
    let vm_pid = home.wait_for_vm();
    let envelope = answer(call);
    assert_eq!(envelope["result"]["text"], text);
    assert_eq!(envelope["isolation"]["vm_pid"], vm_pid, "the process that was seen was the VM");
    assert!(!Path::new(&format!("/proc/{vm_pid}")).exists(), "the VM process is gone");
    home.assert_nothing_left();
}

#[test]
fn a_call_answers_with_the_result_and_nothing_else() {
    let home = Home::new();
    let call = home.osvm(["mcp", "call-tool", "system", "echo", r#"{"text":"hi"}"#]);
    call.assert().code(0).stdout_eq("{\"text\":\"hi\"}\n").stderr_eq("");
    home.assert_nothing_left();
}

#[test]
fn a_tool_that_says_no_ends_with_one_and_its_own_words() {
    let home = Home::new();
    let call = home.osvm(["mcp", "call", "solana", "decode_transaction", r#"{"transaction":"!"}"#]);
    call.assert().code(1).stdout_eq("").stderr_eq(str![[r#"
error: wrong argument `transaction`: neither base64 nor base58: character `!` is not base58

"#]]);
    home.assert_nothing_left();
}

#[test]
fn every_field_of_the_envelope_is_true() {
    let home = Home::new();
    let begun = Instant::now();
    let envelope = answer(home.spawn(&echo(&[r#"{"text":"hi"}"#, "--json"])));
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    let isolation = &envelope["isolation"];
    let image = home.store().image_path("unikraft_tool_executor");
    let expected = Command::new("sha256sum").arg(image).output().unwrap();
    let expected = String::from_utf8(expected.stdout).unwrap();
    let digest = isolation["image_digest"].as_str().unwrap();
    assert!(digest.ends_with(expected.split_whitespace().next().unwrap()), "{digest} {expected}");
    assert_eq!(isolation["mode"], "unikernel");
    assert_eq!(isolation["backend"], "kvm");
    assert_eq!(isolation["image"], "unikraft_tool_executor");
    assert_eq!(isolation["fallback"], Value::Null);
    assert!((200..=299).contains(&isolation["cid"].as_u64().unwrap()));
    let [boot, call, total] =
        ["boot_ms", "call_ms", "total_ms"].map(|f| isolation[f].as_f64().unwrap());
    assert!(0.0 < boot && 0.0 < call && boot + call <= total && total <= took, "{envelope}");
    let touched = isolation["guest_memory_kb"].as_u64().unwrap();
    assert!((16..=16 << 10).contains(&touched), "a call touches some memory, not all: {touched}");
}

#[test]
fn the_longest_arguments_go_in_and_come_out() {
    let home = Home::new();
    // The request around the arguments has to fit into the same 10 MiB. A guest looks at every
    // byte, which takes minutes for 10 MiB where its instructions are interpreted.
    let size = if home.kvm_is_hardware() { (10 << 20) - 2048 } else { 256 << 10 };
    let text = "x".repeat(size);
    let arguments = home.write("arguments.json", json!({ "text": text }).to_string());
    let output = home.spawn(&echo(&[&at(&arguments)])).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["text"] == text);
    home.assert_nothing_left();
}

#[test]
fn arguments_that_leave_no_room_for_the_request_are_refused() {
    let home = Home::new();
    let text = "x".repeat((10 << 20) - r#"{"text":""}"#.len());
    let arguments = home.write("arguments.json", json!({ "text": text }).to_string());
    let at = at(&arguments);
    let call = home.osvm(["mcp", "call", "system", "echo", &at]);
    call.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: arguments of 10485760 bytes are over the limit of 10484736

"#]]);
    home.assert_nothing_left();
}

#[test]
fn twenty_calls_at_once_have_a_vm_each() {
    let home = Home::new();
    let calls: Vec<Child> =
        (0..20).map(|n| home.spawn(&echo(&[&format!(r#"{{"text":"{n}"}}"#), "--json"]))).collect();
    let mut pids = HashSet::new();
    for (n, call) in calls.into_iter().enumerate() {
        let envelope = answer(call);
        assert_eq!(envelope["result"]["text"], n.to_string());
        assert!(pids.insert(envelope["isolation"]["vm_pid"].as_u64().unwrap()));
    }
    home.assert_nothing_left();
}

#[test]
fn killing_osvm_in_mid_call_leaves_nothing_behind() {
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 30);
    let mut osvm = home.spawn(&echo(&[r#"{"text":"hi"}"#]));
    let vm_pid = home.wait_for_vm();
    osvm.kill().unwrap();
    osvm.wait().unwrap();
    wait_for_end_of(vm_pid);
    home.assert_nothing_left();
}

#[test]
fn ctrl_c_ends_the_call_in_order() {
    check_signal("INT", 130, "error: interrupted by SIGINT\n");
}

#[test]
fn sigterm_ends_the_call_in_order() {
    check_signal("TERM", 143, "error: interrupted by SIGTERM\n");
}

#[track_caller]
fn check_signal(signal: &str, code: i32, stderr: &str) {
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 30);
    let osvm = home.spawn(&echo(&[r#"{"text":"hi"}"#]));
    home.wait_for_vm();
    let pid = osvm.id().to_string();
    assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    let output = osvm.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(code));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), stderr);
    assert_eq!(output.stdout, b"");
    home.assert_nothing_left();
}

/// The envelope of a call that was answered.
#[track_caller]
fn answer(call: Child) -> Value {
    let Output { status, stdout, stderr } = call.wait_with_output().unwrap();
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).unwrap()
}

fn at(path: &Path) -> String {
    format!("@{}", path.display())
}
