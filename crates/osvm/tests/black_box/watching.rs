//! `ps`, `status` and `logs`: before, during and after a call.

use crate::support::{Home, eventually, wait_for_end_of};
use serde_json::{Value, json};
use snapbox::str;

#[test]
fn with_nothing_running_nothing_is_counted() {
    let home = Home::without_images();
    home.osvm(["ps"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
CID  VM PID  OSVM PID  UP  TOOL  CALL

"#]]);
    home.osvm(["status"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
OSVM: 0μVMs 0uK • osvm-mcp(uK:cfg) solana(uK:cfg) system(uK:cfg) • net:none • up:0s

"#]]);
    home.osvm(["logs"]).assert().code(0).stdout_eq("").stderr_eq("no calls yet\n");
}

#[test]
fn a_running_vm_is_listed_and_gone_when_its_osvm_is_killed() {
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 30);
    let mut osvm = home.spawn(&["mcp", "call", "system", "echo", r#"{"text":"hi"}"#]);
    let vm_pid = home.wait_for_vm();
    // A VM is listed once it has booted, which is a little after its process is there.
    let ps = eventually("`osvm ps` to list it", || {
        let ps = home.osvm(["ps", "--json"]).output().unwrap();
        let ps: Value = serde_json::from_slice(&ps.stdout).unwrap();
        (ps != json!([])).then_some(ps)
    });
    assert_eq!(ps[0]["cid"], 200);
    assert_eq!(ps[0]["vm_pid"], vm_pid);
    assert_eq!(ps[0]["osvm_pid"], osvm.id());
    assert_eq!(ps[0]["tool"], "system/echo");
    home.osvm(["ps"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
CID  VM PID  OSVM PID  UP[..]TOOL         CALL
200  [..]  system/echo  [..]

"#]]);
    home.osvm(["status"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
OSVM: 0μVMs 1uK • system(uK:cfg) • net:none • up:[..]s

"#]]);
    osvm.kill().unwrap();
    osvm.wait().unwrap();
    wait_for_end_of(vm_pid);
    home.assert_nothing_left();
    home.osvm(["status"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
OSVM: 0μVMs 0uK • system(uK:cfg) • net:none • up:0s

"#]]);
    home.osvm(["logs"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
CALL                        STARTED                   CID  TOOL         OUTCOME
[..]  [..]  200  system/echo  killed

"#]]);
}

#[test]
fn the_log_of_a_call_is_found_by_cid_and_by_id() {
    let home = Home::new();
    let call = ["mcp", "call", "system", "echo", r#"{"text":"hi"}"#, "--json"];
    let envelope = home.osvm(call).output().unwrap();
    let envelope: Value = serde_json::from_slice(&envelope.stdout).unwrap();
    let id = envelope["call"].as_str().unwrap();
    let by_cid = home.osvm(["logs", "200"]).output().unwrap();
    let by_id = home.osvm(["logs", "-f", id]).output().unwrap();
    assert!(by_cid.status.success());
    assert_eq!(by_cid, by_id);
    let said = String::from_utf8(by_id.stderr).unwrap();
    assert!(said.starts_with(id), "{said}");
    assert!(said.contains("system/echo") && said.trim_end().ends_with(": result"), "{said}");
}

#[test]
fn a_call_without_a_log_is_said_to_have_none() {
    let home = Home::without_images();
    home.osvm(["logs", "299"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: no log of a call `299`

hint: `osvm logs` lists the calls whose logs are kept

"#]]);
}
