//! The isolation config: found, created, shown, checked.

use crate::support::Home;
use snapbox::data::Inline;
use snapbox::str;

#[test]
fn the_path_is_printed_without_creating_anything() {
    let home = Home::without_images();
    let path = home.osvm(["config", "path"]).assert().code(0).stderr_eq("");
    path.stdout_eq("[HOME]/.config/osvm/isolation_config.json\n");
    assert!(!home.config_path().exists());
}

#[test]
fn the_environment_and_the_flag_name_another_file() {
    let home = Home::without_images();
    let path = ["config", "path"];
    home.osvm(path)
        .env("XDG_CONFIG_HOME", "/x")
        .assert()
        .stdout_eq("/x/osvm/isolation_config.json\n");
    home.osvm(path).env("OSVM_CONFIG", "/y.json").assert().stdout_eq("/y.json\n");
    let flag = ["config", "path", "--config", "/z.json"];
    home.osvm(flag).env("OSVM_CONFIG", "/y.json").assert().stdout_eq("/z.json\n");
}

#[test]
fn the_first_use_creates_a_config_that_isolates_both_servers() {
    let home = Home::without_images();
    home.osvm(["config", "show"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
{
  "default_execution_mode": "unikernel",
  "on_isolation_failure": "deny",
  "mcp_servers": {
    "osvm-mcp": {
      "execution_mode": "unikernel"
    },
    "solana": {
      "execution_mode": "unikernel"
    },
    "system": {
      "execution_mode": "unikernel"
    }
  }
}

"#]]);
    assert!(home.config_path().exists());
    home.osvm(["config", "validate"])
        .assert()
        .code(0)
        .stdout_eq(str![[r#"
`[HOME]/.config/osvm/isolation_config.json` is valid

"#]])
        .stderr_eq("");
}

#[test]
fn a_named_config_that_is_missing_is_not_replaced_by_the_default() {
    let home = Home::without_images();
    let call = ["--config", "typo.json", "mcp", "call", "system", "echo", "{}"];
    home.osvm(call).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: isolation config `typo.json` does not exist

hint: run `osvm config path` to see which file is used and why

"#]]);
    assert!(!home.path().join("typo.json").exists());
}

#[test]
fn an_unknown_field_has_a_place_and_a_nearest_name() {
    check_invalid(
        "{\n  \"mcp_servers\": {\"solana\": {\"timeout_sec\": 5}}\n}\n",
        str![[r#"
error: isolation config `[HOME]/.config/osvm/isolation_config.json` line 2 column 30: unknown field `timeout_sec` in `mcp_servers.solana`, the nearest known is `timeout_secs`

"#]],
    );
}

#[test]
fn every_error_of_a_config_is_told_at_once() {
    check_invalid(
        "{\"default_execution_mode\": \"unikernal\", \"unikernel_dir\": 7}",
        str![[r#"
error: isolation config `[HOME]/.config/osvm/isolation_config.json` has 2 errors
  line 1 column 28: `default_execution_mode` is `unikernal`, not one of `unikernel`, `microvm`, `direct`; the nearest is `unikernel`
  line 1 column 58: `unikernel_dir` must be a string, not a number

"#]],
    );
}

#[test]
fn a_config_that_is_not_json_is_refused_with_its_place() {
    check_invalid(
        "{\n  \"default_execution_mode\": unikernel\n}",
        str![[r#"
error: isolation config `[HOME]/.config/osvm/isolation_config.json` line 2 column 29: not JSON: expected value

hint: JSON has no comments and no comma after the last member

"#]],
    );
}

#[test]
fn a_config_that_everybody_may_write_is_not_trusted() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::without_images();
    home.write_config("{}");
    let mode = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(home.config_path(), mode).unwrap();
    home.osvm(["config", "show"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: isolation config `[HOME]/.config/osvm/isolation_config.json` can be written by every user (mode 0666)

hint: read it, and if it is what you want: `chmod o-w '[HOME]/.config/osvm/isolation_config.json'`

"#]]);
}

#[test]
fn a_file_is_checked_without_being_used() {
    let home = Home::without_images();
    home.write("other.json", r#"{"mcp_servers": {"x": {"execution_mode": "direct"}}}"#);
    home.osvm(["config", "validate", "other.json"])
        .assert()
        .code(0)
        .stdout_eq("`other.json` is valid\n")
        .stderr_eq(str![[r#"
warning: line 1 column 42: in mode `direct` a tool runs on the host with your rights

"#]]);
}

#[test]
fn the_schema_is_json_and_names_itself() {
    let home = Home::without_images();
    let schema = home.osvm(["config", "schema"]).output().unwrap();
    assert!(schema.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[test]
fn explain_says_which_line_decided_what() {
    let home = Home::without_images();
    home.write_config(
        "{\n  \"mcp_servers\": {\n    \"solana\": {\n      \"tools\": {\n        \
         \"get_balance\": {\"memory_mb\": 64}\n      }\n    }\n  }\n}\n",
    );
    let explain = ["config", "explain", "solana", "get_balance"];
    home.osvm(explain).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
solana/get_balance runs in mode `unikernel`: the built-in default, because the file says nothing about the mode
config: [HOME]/.config/osvm/isolation_config.json

execution_mode        "unikernel"               built-in default
on_isolation_failure  "deny"                    built-in default
unikernel_image       "unikraft_tool_executor"  built-in default
memory_mb             64                        line 5 `mcp_servers.solana.tools.get_balance.memory_mb`
vcpus                 1                         built-in default
timeout_secs          30                        built-in default
network_enabled       false                     built-in default
egress                []                        built-in default
mounts                []                        built-in default
env_vars              []                        built-in default
kraft_config          {}                        built-in default

"#]]);
}

#[track_caller]
fn check_invalid(text: &str, stderr: Inline) {
    let home = Home::without_images();
    home.write_config(text);
    home.osvm(["config", "validate"]).assert().code(2).stdout_eq("").stderr_eq(stderr.clone());
    let call = home.osvm(["mcp", "call", "system", "echo", "{}"]);
    call.assert().code(2).stdout_eq("").stderr_eq(stderr);
}
