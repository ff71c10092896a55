//! Explanations agree with what is resolved and point at the lines that decided it.

use crate::{Config, Env};
use std::path::Path;

const FILE: &str = r#"{
  "default_execution_mode": "microvm",
  "mcp_servers": {
    "solana": {
      "execution_mode": "unikernel",
      "timeout_secs": 90,
      "tools": {
        "get_balance": {
          "memory_mb": 64,
          "mounts": [{ "host_path": "~/keys", "guest_path": "/keys" }],
          "env_vars": { "RUST_LOG": "debug" }
        }
      }
    },
    "big": { "server_command": "node x.js", "microvm_config": { "memory_mb": 512 } },
    "my.srv": { "tools": { "a/b": { "execution_mode": "direct" } } }
  }
}"#;

#[test]
fn every_option_names_its_line() {
    check(
        "solana",
        "get_balance",
        r#"
solana/get_balance runs in mode `unikernel`: `execution_mode` of the server's entry
config: /c.json
warning: line 6 column 23: 90 s is long for one call: at most 60 s is recommended

execution_mode        "unikernel"               line 5 `mcp_servers.solana.execution_mode`
on_isolation_failure  "deny"                    built-in default
unikernel_image       "unikraft_tool_executor"  built-in default
memory_mb             64                        line 9 `mcp_servers.solana.tools.get_balance.memory_mb`
vcpus                 1                         built-in default
timeout_secs          90                        line 6 `mcp_servers.solana.timeout_secs`
network_enabled       false                     built-in default
egress                []                        built-in default
mounts                [{"host_path":"/home/u/keys","guest_path":"/keys","readonly":true}]  line 10 `mcp_servers.solana.tools.get_balance.mounts`
env_vars              ["RUST_LOG"]              line 11 `mcp_servers.solana.tools.get_balance.env_vars`
kraft_config          {}                        built-in default
"#,
    );
}

#[test]
fn a_microvm_is_explained_with_the_options_it_uses() {
    check(
        "big",
        "t",
        r#"
big/t runs in mode `microvm`: `default_execution_mode`, because the server's entry names no mode and the tool has no entry
config: /c.json
note: no entry for tool `t`

execution_mode        "microvm"                 line 2 `default_execution_mode`
on_isolation_failure  "deny"                    built-in default
unikernel_image       "unikraft_tool_executor"  built-in default
memory_mb             512                       line 15 `mcp_servers.big.microvm_config.memory_mb`
vcpus                 1                         built-in default
timeout_secs          30                        built-in default
network_enabled       false                     built-in default
egress                []                        built-in default
mounts                []                        built-in default
env_vars              []                        built-in default
kraft_config          {}                        built-in default
server_command        ["node","x.js"]           line 15 `mcp_servers.big.server_command`
life                  "clone"                   built-in default
image                 "big"                     built-in default
idle_secs             300                       built-in default
ping_secs             15                        built-in default
"#,
    );
}

#[test]
fn the_reason_names_the_entry_that_decided() {
    reason("my.srv", "a/b", "the tool's own entry");
    reason("solna", "t", "`default_execution_mode`, because the server has no entry");
    let config = parse("{}");
    assert_eq!(
        config.explain("s", "t").decided_by,
        "the built-in default, because the file says nothing about the mode"
    );
    let config = parse(r#"{"mcp_servers":{"s":{"use_microvm":true}}}"#);
    assert_eq!(config.explain("s", "t").decided_by, "`use_microvm` of the server's entry");
}

#[test]
fn a_name_that_is_nearly_right_is_noted() {
    let config = parse(FILE);
    assert_eq!(
        config.explain("solna", "get_balance").notes,
        ["no entry for server `solna`; the nearest entry is `solana`"]
    );
    assert_eq!(
        config.explain("solana", "getbalance").notes,
        ["no entry for tool `getbalance`; the nearest entry is `get_balance`"]
    );
    assert_eq!(config.explain("\u{1b}[2J", "t").notes, [r"no entry for server `\u{1b}[2J`"]);
}

#[test]
fn names_that_are_no_words_are_quoted_in_paths() {
    let explanation = parse(FILE).explain("my.srv", "a/b");
    assert_eq!(
        explanation.options[0].origin.to_string(),
        r#"line 16 `mcp_servers["my.srv"].tools["a/b"].execution_mode`"#
    );
}

#[test]
fn programs_get_the_same_as_json() {
    let explanation = serde_json::to_value(parse(FILE).explain("solana", "t")).unwrap();
    assert_eq!(explanation["config"], "/c.json");
    assert_eq!(explanation["mode"], "unikernel");
    assert_eq!(
        explanation["options"][0],
        serde_json::json!({
            "name": "execution_mode",
            "value": "unikernel",
            "origin": {"file": {
                "line": 5, "column": 25, "path": "mcp_servers.solana.execution_mode"
            }},
        })
    );
    assert_eq!(explanation["options"][1]["origin"], "built_in");
}

#[track_caller]
fn check(server: &str, tool: &str, expected: &str) {
    assert_eq!(format!("\n{}", parse(FILE).explain(server, tool)), expected);
}

#[track_caller]
fn reason(server: &str, tool: &str, expected: &str) {
    assert_eq!(parse(FILE).explain(server, tool).decided_by, expected);
}

#[track_caller]
fn parse(text: &str) -> Config {
    let env = Env::new(None, None, Some("/home/u".into())).unwrap();
    Config::parse(text, Path::new("/c.json"), &env).unwrap()
}
