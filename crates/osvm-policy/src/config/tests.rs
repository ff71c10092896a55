//! Configs as users write them, right and wrong, and bytes that are no config.

use super::*;
use crate::{EgressRule, ExecutionMode, HostPattern, KraftConfig, Mount, OnFailure, PathPattern};
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// The shape that users know from the handbook.
const HANDBOOK: &str = r#"{
  "default_execution_mode": "unikernel",
  "mcp_servers": {
    "solana": {
      "tools": {
        "get_balance": {
          "execution_mode": "unikernel",
          "unikernel_image": "unikraft_tool_executor",
          "memory_mb": 128,
          "vcpus": 1,
          "timeout_secs": 30,
          "mounts": [
            { "host_path": "/tmp/shared", "guest_path": "/mnt/shared", "readonly": true }
          ],
          "env_vars": { "RUST_LOG": "debug", "TOOL_TIMEOUT": "60" },
          "kraft_config": { "runtime": "unikraft", "plat": "qemu", "arch": "x86_64" }
        },
        "get_transaction": {
          "execution_mode": "unikernel",
          "unikernel_image": "unikraft_tool_executor",
          "memory_mb": 64
        }
      }
    }
  }
}"#;

#[test]
fn the_handbook_example_means_what_users_expect() {
    let config = parse(HANDBOOK);
    let balance = config.resolve("solana", "get_balance");
    assert_eq!(balance.mode, ExecutionMode::Unikernel);
    assert_eq!(balance.unikernel_image, "unikraft_tool_executor");
    assert_eq!(balance.timeout, Duration::from_secs(30));
    let mount =
        Mount { host_path: "/tmp/shared".into(), guest_path: "/mnt/shared".into(), readonly: true };
    assert_eq!(balance.mounts, [mount]);
    let vars = [("RUST_LOG", "debug"), ("TOOL_TIMEOUT", "60")];
    assert_eq!(balance.env_vars, vars.map(|(name, value)| (name.into(), value.into())));
    let kraft = KraftConfig {
        runtime: Some("unikraft".into()),
        plat: Some("qemu".into()),
        arch: Some("x86_64".into()),
    };
    assert_eq!(balance.kraft_config, kraft);
    let transaction = config.resolve("solana", "get_transaction");
    assert_eq!((transaction.memory_mb, transaction.vcpus), (64, 1));
    assert_eq!(transaction.mounts, []);
    assert_eq!(config.warnings(), []);
}

#[test]
fn the_default_file_isolates_three_servers_and_everything_else() {
    let config = parse(&default_text());
    let names: Vec<_> = config.servers().map(|server| server.name).collect();
    assert_eq!(names, ["osvm-mcp", "solana", "system"]);
    for server in ["osvm-mcp", "solana", "system", "another"] {
        let resolved = config.resolve(server, "tool");
        assert_eq!(resolved.mode, ExecutionMode::Unikernel);
        assert_eq!(resolved.on_isolation_failure, OnFailure::Deny);
        assert_eq!((resolved.memory_mb, resolved.vcpus), (128, 1));
        assert_eq!(resolved.timeout, Duration::from_secs(30));
        assert!(!resolved.network_enabled);
    }
    assert_eq!(config.unikernel_dir(), Path::new("/home/u/.osvm/unikernels"));
    assert_eq!(config.backend(), BackendChoice::Auto);
    assert_eq!(config.pool(), None);
    assert_eq!(config.warnings(), []);
}

#[test]
fn the_range_of_cids_is_the_one_of_the_handbook_unless_it_says_another() {
    assert_eq!(parse("{}").cid_range(), 200..=299);
    assert_eq!(parse(r#"{"cid_range":[300,1299]}"#).cid_range(), 300..=1299);
}

#[test]
fn an_empty_object_is_as_strict_as_the_default_file() {
    let resolved = parse("{}").resolve("s", "t");
    assert_eq!(resolved.mode, ExecutionMode::Unikernel);
    assert_eq!(resolved.on_isolation_failure, OnFailure::Deny);
}

#[test]
fn a_rule_has_defaults_for_all_but_its_host() {
    let config = parse(
        r#"{"mcp_servers":{"s":{"network_enabled":true,"egress":[
            {"host":"API.Example.com"},
            {"host":"*.example.org","methods":["POST"],"paths":["/","/v1/*"],"ports":[8443],
             "max_bytes":1024,"rate_per_minute":5,
             "headers":{"X-Key":"${secret:KEY}","Authorization":"Bearer ${secret:a-B_1}"}},
            {"host":"[::1]"},{"host":"10.0.0.1"}]}}}"#,
    );
    let rules = config.resolve("s", "t").egress;
    let first = EgressRule {
        host: HostPattern::Name("api.example.com".into()),
        methods: vec!["GET".into(), "HEAD".into()],
        paths: vec![PathPattern::Under("/".into())],
        ports: vec![443],
        max_bytes: 10 << 20,
        rate_per_minute: 600,
        headers: vec![],
    };
    let second = EgressRule {
        host: HostPattern::Below("example.org".into()),
        methods: vec!["POST".into()],
        paths: vec![PathPattern::Exact("/".into()), PathPattern::Under("/v1/".into())],
        ports: vec![8443],
        max_bytes: 1024,
        rate_per_minute: 5,
        headers: vec![
            ("authorization".into(), "Bearer ${secret:a-B_1}".into()),
            ("x-key".into(), "${secret:KEY}".into()),
        ],
    };
    assert_eq!(rules[..2], [first, second]);
    assert_eq!(rules[2].host, HostPattern::Address("::1".parse().unwrap()));
    assert_eq!(rules[3].host, HostPattern::Address("10.0.0.1".parse().unwrap()));
}

#[test]
fn paths_are_expanded_and_tidied() {
    let config = parse(
        r#"{"unikernel_dir":"~/images","mcp_servers":{"s":{"mounts":[
            {"host_path":"~","vm_path":"//data/./x/"}]}}}"#,
    );
    assert_eq!(config.unikernel_dir(), Path::new("/home/u/images"));
    let mount = Mount { host_path: "/home/u".into(), guest_path: "/data/x".into(), readonly: true };
    assert_eq!(config.resolve("s", "t").mounts, [mount]);
}

#[test]
fn a_command_is_a_list_or_text_with_quotes() {
    for command in [r#"["node", "a b.js", ""]"#, r#""node 'a b.js' \"\"""#] {
        let config = parse(&format!(r#"{{"mcp_servers":{{"s":{{"server_command":{command}}}}}}}"#));
        let words = config.resolve("s", "t").server_command.unwrap();
        assert_eq!(words, ["node", "a b.js", ""]);
    }
}

#[test]
fn a_pool_has_limits_unless_it_says_others() {
    let pool = |text: &str| parse(&format!(r#"{{"pool":{text}}}"#)).pool().unwrap();
    let expected = Pool { size: 4, max_vms: 100, max_vms_per_server: 100, max_memory_mb: None };
    assert_eq!(pool(r#"{"size":4}"#), expected);
    let text = r#"{"size":4,"max_vms":8,"max_vms_per_server":2,"max_memory_mb":1024}"#;
    let expected = Pool { size: 4, max_vms: 8, max_vms_per_server: 2, max_memory_mb: Some(1024) };
    assert_eq!(pool(text), expected);
}

#[test]
fn secrets_in_the_file_do_not_reach_logs() {
    let config = parse(
        r#"{"mcp_servers":{"s":{"env_vars":{"KEY":"hunter2"},"network_enabled":true,
            "egress":[{"host":"a.example","headers":{"Authorization":"hunter2"}}]}}}"#,
    );
    let resolved = config.resolve("s", "t");
    let explanation = config.explain("s", "t");
    let shown = format!("{resolved:?} {explanation} {}", serde_json::json!(explanation));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("KEY") && shown.contains("authorization"), "{shown}");
}

#[test]
fn deep_nesting_is_an_error_and_no_stack_overflow() {
    let deep = 500_000;
    let text = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
    let error = Config::parse(&text, Path::new("c.json"), &env()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "isolation config `c.json` line 1 column 1: the file must be an object, not a list"
    );
    let text = format!("{{\"a\":{}", "[".repeat(deep));
    Config::parse(text, Path::new("c.json"), &env()).unwrap_err();
}

#[test]
fn a_big_hostile_file_is_read_in_reasonable_time() {
    // One line of a mebibyte: places must not be found by walking it again and again.
    let limit = usize::try_from(crate::MAX_FILE_BYTES).unwrap();
    let mut text = String::from(r#"{"mcp_servers":{"s":{"timeout_secs":90,"tools":{"#);
    for tool in 0.. {
        let next = format!(r#""t{tool}":{{"vcpus":1}},"#);
        if limit < text.len() + next.len() {
            break;
        }
        text.push_str(&next);
    }
    text.pop();
    text.push_str("}}}}");
    let start = Instant::now();
    assert_eq!(parse(&text).warnings().len(), 1);
    // Generous: a debug build on a busy machine takes about a second.
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn nothing_is_found_twice_and_most_of_many_problems_are_counted() {
    let tools: Vec<_> = (0..200).map(|n| format!("\"t{n}\": {{}}")).collect();
    let text =
        format!(r#"{{"mcp_servers":{{"s":{{"vcpus":2,"tools":{{{}}}}}}}}}"#, tools.join(","));
    let errors = Config::parse(text, Path::new("c.json"), &env()).unwrap_err();
    assert_eq!((errors.problems.len(), errors.more), (1, 0));

    let fields: Vec<_> = (0..200).map(|n| format!("\"x{n}\": 1")).collect();
    let text = format!("{{{}}}", fields.join(","));
    let errors = Config::parse(text, Path::new("c.json"), &env()).unwrap_err();
    assert_eq!((errors.problems.len(), errors.more), (50, 150));
    assert!(errors.to_string().starts_with("isolation config `c.json` has 200 errors\n"));
    assert!(errors.to_string().ends_with("\n  and 150 more"));
}

proptest! {
    #[test]
    fn any_bytes_are_a_config_or_errors(bytes: Vec<u8>) {
        let _ = Config::parse(bytes, Path::new("c.json"), &env());
    }

    #[test]
    fn a_config_with_any_edit_is_a_config_or_errors(
        start: prop::sample::Index,
        len in 0usize..40,
        insert in prop_oneof!["[ -~\n]{0,8}", Just("null".to_owned()), Just("{\"".to_owned()), ".{0,3}"],
    ) {
        let chars: Vec<char> = HANDBOOK.chars().collect();
        let start = start.index(chars.len());
        let end = (start + len).min(chars.len());
        let text: String = chars[..start].iter().copied().chain(insert.chars())
            .chain(chars[end..].iter().copied()).collect();
        match Config::parse(&text, Path::new("c.json"), &env()) {
            Ok(config) => {
                let resolved = config.resolve("solana", "get_balance");
                prop_assert_eq!(resolved.on_isolation_failure, OnFailure::Deny);
                let _ = config.explain("solana", "get_balance").to_string();
            }
            Err(errors) => {
                prop_assert!(!errors.problems.is_empty());
                let lines = text.lines().count() + 1;
                for problem in errors.problems {
                    prop_assert!(problem.location.line <= lines);
                    prop_assert!(!problem.to_string().contains(['\n', '\r', '\x1b']));
                }
            }
        }
    }
}

#[test]
fn the_images_are_those_of_every_entry_and_of_what_has_none() {
    let config = parse(
        r#"{"mcp_servers": {"a": {"unikernel_image": "x", "tools": {"t": {"unikernel_image": "y"}}}}}"#,
    );
    let images: Vec<String> = config.images().into_iter().collect();
    assert_eq!(images, ["unikraft_tool_executor", "x", "y"]);
}

fn env() -> Env {
    Env::new(None, None, Some("/home/u".into())).unwrap()
}

#[track_caller]
fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("c.json"), &env()).unwrap()
}
