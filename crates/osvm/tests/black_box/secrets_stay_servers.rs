//! A secret that is given to a server on the host: the server sees it, and nobody else does.

use crate::support::Home;
use snapbox::str;
use std::fs;
use std::path::Path;

const VALUE: &str = "sk-for-the-server-only";

/// Every file below a directory that has the value in it.
fn holding(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            holding(&entry.path(), found);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            if bytes.windows(VALUE.len()).any(|window| window == VALUE.as_bytes()) {
                found.push(entry.file_name().into_string().unwrap());
            }
        }
    }
}

/// A home with a server that writes down its variable `TOKEN`, and then is osvm.
fn home() -> Home {
    let home = Home::new();
    let own = format!("OSVM_MCP_SERVERS={}", home.path().join("inner.json").display());
    let add = ["mcp", "add", "other", "--execution-mode", "direct"];
    let variables = ["-e", &own, "-e", "OSVM_BACKEND=kvm", "--env-from-secret", "TOKEN=api-key"];
    let script = r#"printf %s "$TOKEN" > seen; exec "$0" mcp serve"#;
    let program = ["--", "/bin/sh", "-c", script, env!("CARGO_BIN_EXE_osvm")];
    home.osvm_of(&[&add[..], &variables, &program].concat()).assert().code(0).stderr_eq(str![[
        r#"
note: `other` will see the value of secret `api-key`

"#
    ]]);
    home
}

#[test]
fn a_server_gets_its_secret_and_nothing_that_osvm_writes_or_prints_has_it() {
    let home = home();
    home.osvm(["secret", "set", "api-key"]).stdin(VALUE).assert().code(0);
    let commands: [&[&str]; 8] = [
        &["mcp", "test", "other", "-vv"],
        &["mcp", "tools", "other", "-vv"],
        &["mcp", "list"],
        &["mcp", "list", "--format", "json"],
        &["mcp", "get", "other"],
        &["mcp", "export"],
        &["mcp", "export", "--format", "codex"],
        &["logs"],
    ];
    for command in commands {
        let output = home.osvm_std(command).output().unwrap();
        for stream in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(stream);
            assert!(!text.contains(VALUE), "{command:?}: {text}");
        }
        // There is no call whose log could be shown.
        let succeeds = command[0] != "logs";
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || !succeeds, "{command:?}: {stderr}");
    }
    let mut found = Vec::new();
    holding(home.path(), &mut found);
    assert_eq!(found, ["seen"], "what the server itself wrote");
    assert_eq!(fs::read_to_string(home.path().join("seen")).unwrap(), VALUE);
}

#[test]
fn a_secret_that_is_not_there_keeps_its_server_from_starting_and_is_named() {
    let home = home();
    home.osvm(["mcp", "test", "other"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: there is no secret `api-key`

hint: `osvm secret set api-key` keeps one

"#]]);
    assert!(!home.path().join("seen").exists());
}

#[test]
fn a_secret_is_not_sent_where_others_listen_in() {
    let home = Home::new();
    home.osvm(["secret", "set", "api-key"]).stdin(VALUE).assert().code(0);
    let add = ["mcp", "add", "far", "http://192.0.2.1/mcp"];
    for flags in [["--bearer-from-secret", "api-key"], ["--header-from-secret", "X-Key=api-key"]] {
        let add = [&add[..], &flags, &["--force"]].concat();
        home.osvm_of(&add).assert().code(0);
        home.osvm(["mcp", "test", "far"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: secret `api-key` is not sent to server `far`: anybody on the way could read it

hint: use its `https` address, or one of this host

"#]]);
    }
}
