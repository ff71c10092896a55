//! What `osvm mcp explain` says of the two lives of a server.

use crate::support::Home;
use serde_json::{Value, json};
use std::fs;

fn home(options: &Value) -> Home {
    let home = Home::without_images();
    home.write_config(&json!({"mcp_servers": {"x": options}}).to_string());
    let entry = json!({"command": "npx", "args": ["a@1"], "env": {"TOKEN": "${HOME}"}});
    let path = home.config_path().with_file_name("mcp_servers.json");
    fs::write(path, json!({"mcpServers": {"x": entry}}).to_string()).unwrap();
    home
}

fn explained(home: &Home) -> Value {
    let output = home.osvm(["mcp", "explain", "x", "--json"]).output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn the_life_the_other_one_and_what_does_not_fit_are_told() {
    let home = home(&json!({"execution_mode": "microvm"}));
    let told = explained(&home);
    assert_eq!((&told["life"], &told["other"]["life"]), (&json!("clone"), &json!("persistent")));
    let other = told["other"]["means"].to_string();
    assert!(other.contains("state is kept") && other.contains("not isolated"), "{other}");
    assert!(told["remarks"].to_string().contains("TOKEN"), "{told}");
    let text = home.osvm(["mcp", "explain", "x"]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("`x` lives as `clone`:\n  every call gets a copy"), "{text}");
    assert!(text.contains("as `persistent` (`osvm mcp promote x`):"), "{text}");
}

#[test]
fn what_was_promoted_is_explained_as_such() {
    let home = home(&json!({"execution_mode": "microvm"}));
    assert!(home.osvm(["mcp", "promote", "x"]).output().unwrap().status.success());
    let told = explained(&home);
    assert_eq!((&told["life"], &told["remarks"]), (&json!("persistent"), &json!([])));
}

#[test]
fn only_a_server_of_which_there_are_copies_has_a_template_to_rebuild() {
    let home = home(&json!({"execution_mode": "microvm", "life": "persistent"}));
    let refused = home.osvm(["snapshot", "rebuild", "x"]).output().unwrap();
    assert!(!refused.status.success());
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("`osvm mcp demote x`"), "{why}");
    let removed = home.osvm(["snapshot", "rm", "x"]).output().unwrap();
    assert!(String::from_utf8(removed.stderr).unwrap().contains("no template of `x`"));
}

#[test]
fn changes_that_wait_are_for_copies_and_a_server_that_has_some_is_not_promoted() {
    let home = home(&json!({"execution_mode": "microvm",
        "workspace": {"host_path": "/srv/x", "guest_path": "/x"}}));
    assert_eq!(explained(&home)["workspace"]["mode"], "diff");
    let refused = home.osvm(["mcp", "promote", "x"]).output().unwrap();
    assert!(!refused.status.success());
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("only what one call changes can wait"), "{why}");
    assert_eq!(explained(&home)["life"], "clone");
}
