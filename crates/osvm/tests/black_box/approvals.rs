//! Calls that wait for a person, who answers from another process.

use crate::client::Client;
use crate::support::{Home, eventually};
use serde_json::{Value, json};
use snapbox::str;
use std::fs;
use std::process::{Child, Output};

/// A home in which somebody is asked about every echo.
fn home() -> Home {
    let home = Home::new();
    let rules = "@id(\"look\")\n@approval(\"somebody should look\")\n\
                 permit(principal, action, resource);\n";
    fs::create_dir_all(home.config_path().parent().unwrap()).unwrap();
    fs::write(home.config_path().with_file_name("policy.cedar"), rules).unwrap();
    home
}

fn echo(home: &Home, text: &str) -> Child {
    home.spawn(&["mcp", "call-tool", "system", "echo", &format!("{{\"text\":\"{text}\"}}")])
}

/// The one call that waits.
fn waiting(home: &Home) -> Value {
    eventually("a call that waits", || {
        let list = home.osvm(["approvals", "ls", "--json"]).output().unwrap().stdout;
        let Value::Array(mut list) = serde_json::from_slice(&list).unwrap() else {
            panic!("no list")
        };
        assert!(list.len() <= 1, "{list:?}");
        list.pop()
    })
}

fn ended(child: Child) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_call_waits_until_somebody_allows_it() {
    let home = home();
    let mut call = echo(&home, "hi");
    let pending = waiting(&home);
    assert_eq!(pending["arguments"], r#"{"text":"hi"}"#);
    assert_eq!(
        (&pending["client"], &pending["why"]),
        (&"cli".into(), &"somebody should look".into())
    );
    assert_eq!(call.try_wait().unwrap(), None, "it waits");
    let list = home.osvm(["approvals", "ls"]);
    list.assert().code(0).stderr_eq("").stdout_eq(str![[r#"
ID        UNTIL                 CLIENT  TOOL         ARGUMENTS      WHY
[..]  [..]  cli     system/echo  {"text":"hi"}  somebody should look

"#]]);
    let allow = home.osvm(["approvals", "allow", pending["id"].as_str().unwrap()]);
    allow.assert().code(0).stdout_eq("").stderr_eq("allowed this once: system/echo by cli\n");
    let (code, stdout, _) = ended(call);
    assert_eq!((code, stdout.as_str()), (Some(0), "{\"text\":\"hi\"}\n"));
    // The same call again asks again.
    let again = echo(&home, "hi");
    let pending = waiting(&home);
    home.osvm(["approvals", "deny", pending["id"].as_str().unwrap()]).assert().code(0);
    assert_eq!(ended(again).0, Some(2));
    home.osvm(["approvals", "ls"]).assert().code(0).stderr_eq("no call waits for an approval\n");
}

#[test]
fn a_call_that_somebody_denies_does_not_run_and_says_so() {
    let home = home();
    let call = echo(&home, "hi");
    let pending = waiting(&home);
    home.osvm(["approvals", "deny", pending["id"].as_str().unwrap()]).assert().code(0);
    let (code, stdout, stderr) = ended(call);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    let place = home.config_path().with_file_name("policy.cedar");
    let stderr = stderr.replace(place.to_str().unwrap(), "[RULES]");
    snapbox::assert_data_eq!(
        stderr,
        str![[r#"
warning: system/echo waits for an approval: `osvm approvals allow [..]` id="[..]"
error: `system/echo` was not approved by the user

"#]]
    );
    let receipt = home.osvm(["receipts", "ls", "--json"]).output().unwrap().stdout;
    let receipt: Value = serde_json::from_slice(&receipt).unwrap();
    assert_eq!((&receipt["decision"], &receipt["exit"]), (&"deny".into(), &"denied".into()));
    assert!(receipt["isolation"]["vm_pid"].is_null(), "no VM was started: {receipt}");
    home.assert_nothing_left();
}

#[test]
fn what_is_allowed_for_all_times_is_not_asked_again() {
    let home = home();
    let call = echo(&home, "one");
    let pending = waiting(&home);
    let allow = home.osvm(["approvals", "allow", "--always", pending["id"].as_str().unwrap()]);
    allow.assert().code(0).stderr_eq("allowed from now on: system/echo by cli\n");
    assert_eq!(ended(call).0, Some(0));
    let other = home.osvm(["mcp", "call-tool", "system", "echo", r#"{"text":"two"}"#]);
    other.assert().code(0).stdout_eq("{\"text\":\"two\"}\n");
}

#[test]
fn a_call_that_nobody_answers_in_time_does_not_run_but_may_be_made_again() {
    let home = home();
    home.write_config(r#"{"mcp_servers": {"system": {"timeout_secs": 1}}}"#);
    let (code, stdout, stderr) = ended(echo(&home, "hi"));
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("nobody answered in time"), "{stderr}");
    // An answer that comes too late is for the same call, made again soon.
    let pending = waiting(&home);
    home.osvm(["approvals", "allow", pending["id"].as_str().unwrap()]).assert().code(0);
    let again = echo(&home, "hi");
    assert_eq!(ended(again).0, Some(0));
}

#[test]
fn a_client_is_told_that_its_call_waits_for_a_person() {
    let home = home();
    let mut client = Client::connect(&home);
    let mut params = json!({"name": "system__echo", "arguments": {"text": "hi"}});
    params["_meta"]["progressToken"] = "token".into();
    client.request(2, "tools/call", params);
    let waits = client.next();
    assert_eq!(waits["method"], "notifications/progress");
    let message = waits["params"]["message"].as_str().unwrap();
    assert!(message.starts_with("`system/echo` waits for your approval"), "{message}");
    let pending = waiting(&home);
    home.osvm(["approvals", "allow", pending["id"].as_str().unwrap()]).assert().code(0);
    let starts = client.next();
    assert_eq!(starts["params"]["message"], "starting a virtual machine for `system/echo`");
    assert_eq!(client.next()["params"]["progress"], 3);
    assert_eq!(client.next()["result"]["structuredContent"]["text"], "hi");
}

#[test]
fn an_answer_to_nothing_is_refused() {
    let home = Home::without_images();
    home.osvm(["approvals", "allow", "3f9a0c12"]).assert().code(2).stdout_eq("").stderr_eq(str![[
        r#"
error: no call waits for approval `3f9a0c12`

hint: `osvm approvals ls` lists what waits

"#
    ]]);
    for odd in ["../../x", "", "always"] {
        home.osvm(["approvals", "deny", odd]).assert().code(2).stdout_eq("");
    }
}
