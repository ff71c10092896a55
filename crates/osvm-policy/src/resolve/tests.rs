//! Which level of a config decides each option of a tool.

use super::*;
use crate::{Config, Env};
use std::path::Path;

#[test]
fn the_mode_comes_from_the_nearest_entry() {
    let text = r#"{
  "default_execution_mode": "direct",
  "mcp_servers": {
    "own": {
      "execution_mode": "microvm",
      "tools": { "own": { "execution_mode": "unikernel" }, "none": {} }
    },
    "switch": { "use_microvm": true, "tools": { "own": { "execution_mode": "unikernel" } } },
    "off": { "use_microvm": false },
    "none": {}
  }
}"#;
    let config = parse(text);
    let check = |server, tool, mode, line| {
        let resolved = config.resolve(server, tool);
        assert_eq!(resolved.mode, mode, "{server}/{tool}");
        let Origin::File { location, .. } = resolved.origins.get("execution_mode") else {
            panic!("{server}/{tool} is built in");
        };
        assert_eq!(location.line, line, "{server}/{tool}");
    };
    check("own", "own", ExecutionMode::Unikernel, 6);
    check("own", "none", ExecutionMode::MicroVm, 5);
    check("own", "unknown", ExecutionMode::MicroVm, 5);
    check("switch", "own", ExecutionMode::Unikernel, 8);
    check("switch", "unknown", ExecutionMode::MicroVm, 8);
    check("off", "unknown", ExecutionMode::Direct, 2);
    check("none", "unknown", ExecutionMode::Direct, 2);
    check("unknown", "unknown", ExecutionMode::Direct, 2);
}

#[test]
fn a_fallback_is_only_what_the_file_says() {
    let config = parse(
        r#"{"mcp_servers":{
            "a":{"on_isolation_failure":"fallback","tools":{"t":{"on_isolation_failure":"deny"}}},
            "b":{"tools":{"t":{"on_isolation_failure":"fallback"}}}}}"#,
    );
    let check = |server, tool, expected| {
        assert_eq!(config.resolve(server, tool).on_isolation_failure, expected, "{server}/{tool}");
    };
    check("a", "t", OnFailure::Deny);
    check("a", "other", OnFailure::Fallback);
    check("b", "t", OnFailure::Fallback);
    check("b", "other", OnFailure::Deny);
    check("c", "t", OnFailure::Deny);
    let everywhere = parse(r#"{"on_isolation_failure":"fallback"}"#);
    assert_eq!(everywhere.resolve("c", "t").on_isolation_failure, OnFailure::Fallback);
}

#[test]
fn lists_and_maps_are_taken_whole() {
    let config = parse(
        r#"{"mcp_servers":{"s":{
            "env_vars":{"A":"1","B":"2"},"mounts":[{"host_path":"/a","guest_path":"/a"}],
            "tools":{"t":{"env_vars":{"C":"3"},"mounts":[]}}}}}"#,
    );
    let tool = config.resolve("s", "t");
    assert_eq!(tool.env_vars, [("C".to_owned(), "3".to_owned())]);
    assert_eq!(tool.mounts, []);
    let other = config.resolve("s", "other");
    assert_eq!(other.env_vars.len(), 2);
    assert_eq!(other.mounts.len(), 1);
}

#[test]
fn a_microvm_has_a_size_and_mounts_of_its_own() {
    let config = parse(
        r#"{"mcp_servers":{"s":{
            "execution_mode":"microvm","memory_mb":128,
            "mounts":[{"host_path":"/a","guest_path":"/a"}],
            "microvm_config":{"memory_mb":1024,"vcpus":4},
            "microvm_mounts":[{"host_path":"/b","guest_path":"/b"}],
            "tools":{"uni":{"execution_mode":"unikernel"},"big":{"memory_mb":2048}}},
            "bare":{"use_microvm":true}}}"#,
    );
    let size = |server, tool| {
        let resolved = config.resolve(server, tool);
        let mount = resolved.mounts.first().map(|mount| mount.guest_path.clone());
        (resolved.memory_mb, resolved.vcpus, mount.unwrap_or_default())
    };
    assert_eq!(size("s", "unknown"), (1024, 4, "/b".into()));
    assert_eq!(size("s", "big"), (2048, 4, "/b".into()));
    assert_eq!(size("s", "uni"), (128, 1, "/a".into()));
    assert_eq!(size("bare", "unknown"), (256, 1, String::new()));
}

#[test]
fn warnings_say_where_and_what() {
    let text = r#"{
  "on_isolation_failure": "fallback",
  "mcp_servers": {
    "a": { "memory_mb": 32, "timeout_secs": 90, "network_enabled": true },
    "b": { "execution_mode": "direct", "egress": [{ "host": "a.example" }] },
    "c": { "use_microvm": false, "on_isolation_failure": "deny" }
  }
}"#;
    let check = |text, expected: &[&str]| {
        let warnings = parse(text).warnings();
        let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, expected);
    };
    check(
        text,
        &[
            "line 2 column 27: with `fallback` a tool runs on the host with your rights when \
             isolation fails",
            "line 4 column 25: 32 MiB: a unikernel does best with 64 to 256 MiB",
            "line 4 column 45: 90 s is long for one call: at most 60 s is recommended",
            "line 4 column 68: the network is enabled, but without `egress` rules nothing is \
             reachable",
            "line 5 column 30: in mode `direct` a tool runs on the host with your rights",
            "line 5 column 50: `egress` has no effect while `network_enabled` is false",
        ],
    );
    check(
        r#"{"default_execution_mode":"microvm","mcp_servers":{"s":{"use_microvm":false}}}"#,
        &[
            "line 1 column 71: `use_microvm` is false, but the mode is `microvm`: set `execution_mode`",
        ],
    );
    check(
        r#"{"mcp_servers":{"s":{"memory_mb":64,"tools":{"t":{"memory_mb":256,"timeout_secs":60}}}}}"#,
        &[],
    );
}

#[track_caller]
fn parse(text: &str) -> Config {
    let env = Env::new(None, None, Some("/home/u".into())).unwrap();
    Config::parse(text, Path::new("c.json"), &env).unwrap()
}

#[test]
fn a_solana_tool_with_a_network_is_told_where_the_chain_is() {
    let text = r#"{"solana":{"rpc_url":"http://127.0.0.1:8899/x"},"mcp_servers":{
        "solana":{"network_enabled":true,"tools":{
            "own":{"egress":[],"env_vars":{"SOLANA_RPC_URL":"mine"}},
            "offline":{"network_enabled":false}}},
        "other":{"network_enabled":true}}}"#;
    let config = parse(text);
    let resolved = config.resolve("solana", "get_balance");
    assert_eq!(resolved.env_vars, [("SOLANA_RPC_URL".into(), "http://127.0.0.1:8899/x".into())]);
    let [rule] = resolved.egress.as_slice() else { panic!("{:?}", resolved.egress) };
    assert_eq!((rule.host.to_string(), rule.ports[0]), ("127.0.0.1".into(), 8899));
    assert!(
        matches!(resolved.origins.get("egress"), Origin::File { path, .. } if path == "solana")
    );
    let own = config.resolve("solana", "own");
    assert!(own.egress.is_empty());
    assert_eq!(own.env_vars, [("SOLANA_RPC_URL".into(), "mine".into())]);
    for (server, tool) in [("solana", "offline"), ("other", "t"), ("osvm-mcp", "t")] {
        let resolved = config.resolve(server, tool);
        assert!(resolved.egress.is_empty() && resolved.env_vars.is_empty(), "{server}/{tool}");
    }
}

#[test]
fn without_a_setting_the_chain_is_the_main_network() {
    let config = parse(r#"{"mcp_servers":{"osvm-mcp":{"network_enabled":true}}}"#);
    let resolved = config.resolve("osvm-mcp", "get_solana_balance");
    assert_eq!(resolved.egress[0].host.to_string(), "api.mainnet-beta.solana.com");
    assert_eq!(resolved.env_vars[0].1, "https://api.mainnet-beta.solana.com");
    assert_eq!(resolved.warnings, []);
}

#[test]
fn a_server_that_lives_on_is_asked_as_often_as_the_file_says() {
    let ping = |member: &str| {
        let text = format!(r#"{{"mcp_servers":{{"s":{{"execution_mode":"microvm"{member}}}}}}}"#);
        parse(&text).resolve("s", "").ping
    };
    assert_eq!(ping(""), Some(Duration::from_secs(15)));
    assert_eq!(ping(r#","ping_secs":2"#), Some(Duration::from_secs(2)));
    assert_eq!(ping(r#","ping_secs":0"#), None);
}

#[test]
fn what_a_microvm_does_not_have_is_warned_of() {
    let config = parse(
        r#"{"mcp_servers":{"s":{"execution_mode":"microvm","vcpus":2,
            "mounts":[{"host_path":"/h","guest_path":"/g"}],
            "tools":{"echo":{"vcpus":1,"mounts":[]}}}}}"#,
    );
    let warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    let [vcpus, mounts] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(vcpus.starts_with("line 1 ") && vcpus.contains("2 vCPUs: a microVM has 1"), "{vcpus}");
    assert!(mounts.contains("`mounts` of a tool has no effect"), "{mounts}");
}
