//! What calls leave behind, and that whoever tampers with it is found out.

use crate::support::Home;
use serde_json::Value;
use snapbox::str;
use std::fs;
use std::path::PathBuf;

fn dir(home: &Home) -> PathBuf {
    home.path().join(".local/state/osvm/receipts")
}

/// A home in which these texts were echoed.
fn after(texts: &[&str]) -> Home {
    let home = Home::new();
    for text in texts {
        let arguments = format!("{{\"text\":\"{text}\"}}");
        let call = home.osvm(["mcp", "call-tool", "system", "echo", &arguments]);
        call.assert().code(0);
    }
    home
}

/// Changes the file of receipts.
fn tamper(home: &Home, change: impl FnOnce(Vec<String>) -> Vec<String>) {
    let path = dir(home).join("00000001.jsonl");
    let lines = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
    let lines: String = change(lines).iter().map(|line| format!("{line}\n")).collect();
    fs::write(path, lines).unwrap();
}

#[test]
fn a_call_leaves_a_receipt_that_is_listed_shown_verified_and_exported() {
    let home = after(&["one", "two"]);
    home.osvm(["receipts", "ls"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
NUMBER  TIME                      CLIENT  TOOL         DECISION  MODE       EXIT    REACHED
1       [..]  cli     system/echo  allow     unikernel  result  0
2       [..]  cli     system/echo  allow     unikernel  result  0

"#]]);
    let shown = home.osvm(["receipts", "show", "2"]).output().unwrap().stdout;
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!(shown["arguments"], sha256(&home, r#"{"text":"two"}"#));
    assert_eq!(shown["isolation"]["mode"], "unikernel");
    assert!(shown["isolation"]["vm_pid"].is_u64() || shown["isolation"]["cid"].is_u64(), "{shown}");
    let call = shown["call"].as_str().unwrap();
    let by_call = home.osvm(["receipts", "show", call]).output().unwrap().stdout;
    assert_eq!(serde_json::from_slice::<Value>(&by_call).unwrap(), shown);
    home.osvm(["receipts", "verify"])
        .assert()
        .code(0)
        .stdout_eq("2 receipts, all as they were written\n")
        .stderr_eq(str![[r#"
newest: 2:[..]
key: [..]

"#]]);
    let json = home.osvm(["receipts", "export"]).output().unwrap().stdout;
    assert_eq!(json, fs::read(dir(&home).join("00000001.jsonl")).unwrap());
    let events = home.osvm(["receipts", "export", "--format", "ocsf"]).output().unwrap().stdout;
    let events = String::from_utf8(events).unwrap();
    let event: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert_eq!((event["class_uid"].as_u64(), events.lines().count()), (Some(6003), 2));
}

fn sha256(home: &Home, text: &str) -> String {
    let file = home.write("digested", text);
    let sum = std::process::Command::new("sha256sum").arg(file).output().unwrap().stdout;
    format!("sha256:{}", String::from_utf8(sum).unwrap().split_whitespace().next().unwrap())
}

#[test]
fn a_receipt_that_was_changed_is_found() {
    let home = after(&["one", "two", "three"]);
    tamper(&home, |mut lines| {
        lines[1] = lines[1].replace("\"decision\":\"allow\"", "\"decision\":\"deny\"");
        lines
    });
    home.osvm(["receipts", "verify"]).assert().code(1).stdout_eq(str![[r#"
[HOME]/.local/state/osvm/receipts/00000001.jsonl line 2: this line was changed, or osvm did not write it
2 receipts, NOT all right

"#]]);
    let json = home.osvm(["receipts", "verify", "--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["clean"], &json["findings"][0]["line"]), (&false.into(), &2.into()));
}

#[test]
fn receipts_that_were_removed_are_missed() {
    let home = after(&["one", "two", "three"]);
    tamper(&home, |mut lines| {
        lines.remove(1);
        lines
    });
    home.osvm(["receipts", "verify"]).assert().code(1).stdout_eq(str![[r#"
[HOME]/.local/state/osvm/receipts/00000001.jsonl line 2: receipt 2 is missing
2 receipts, NOT all right

"#]]);
    // The newest is missed too, since the head is signed.
    let home = after(&["one", "two"]);
    tamper(&home, |mut lines| {
        lines.pop();
        lines
    });
    home.osvm(["receipts", "verify"]).assert().code(1).stdout_eq(str![[r#"
[HOME]/.local/state/osvm/receipts/head: the receipts end with 1, but there were 2
1 receipts, NOT all right

"#]]);
}

#[test]
fn a_history_that_went_back_as_a_whole_does_not_fit_its_anchor() {
    let home = after(&["one"]);
    let earlier: Vec<_> = ["00000001.jsonl", "head"]
        .map(|name| (dir(&home).join(name), fs::read(dir(&home).join(name)).unwrap()))
        .into();
    home.osvm(["mcp", "call", "system", "echo", r#"{"text":"two"}"#]).assert().code(0);
    let verified = home.osvm(["receipts", "verify", "--json"]).output().unwrap().stdout;
    let verified: Value = serde_json::from_slice(&verified).unwrap();
    let anchor = verified["newest"].as_str().unwrap();
    let verify = ["receipts", "verify", "--anchor", anchor];
    home.osvm(verify).assert().code(0);
    for (path, bytes) in earlier {
        fs::write(path, bytes).unwrap();
    }
    home.osvm(["receipts", "verify"]).assert().code(0);
    home.osvm(verify).assert().code(1).stdout_eq(str![[r#"
[HOME]/.local/state/osvm/receipts/00000001.jsonl: receipt 2 is not the one that the anchor names
1 receipts, NOT all right

"#]]);
}

#[test]
fn receipts_are_checked_against_a_key_that_was_kept_elsewhere() {
    let home = after(&["one"]);
    let verify = |key: &str| home.osvm_of(&["receipts", "verify", "--key", key]);
    let verified = home.osvm(["receipts", "verify", "--json"]).output().unwrap().stdout;
    let verified: Value = serde_json::from_slice(&verified).unwrap();
    verify(verified["key"].as_str().unwrap()).assert().code(0);
    // That of the first test of RFC 8032, section 7.1.
    let other = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    verify(other).assert().code(1);
    verify("abc").assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `--key` is 64 hexadecimal digits

"#]]);
}

#[test]
fn without_its_key_no_call_runs() {
    let home = after(&["one"]);
    fs::remove_file(dir(&home).join("key")).unwrap();
    let call = home.osvm(["mcp", "call", "system", "echo", r#"{"text":"two"}"#]);
    call.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: no receipt of the call could be kept, so it was not started
  caused by: there are receipts in `[HOME]/.local/state/osvm/receipts`, but their key is missing

hint: bring the key back, or move the directory away: new receipts begin a new chain

"#]]);
}

#[test]
fn where_there_are_none_that_is_said() {
    let home = Home::without_images();
    for command in ["ls", "verify"] {
        let none = home.osvm(["receipts", command]);
        none.assert().code(0).stdout_eq("").stderr_eq("no receipts yet\n");
    }
    home.osvm(["receipts", "show", "7"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: there is no receipt of a call `7`

hint: `osvm receipts ls` lists the newest ones

"#]]);
    assert!(!dir(&home).exists());
}
