//! What users read when their file is wrong, to the letter.

use crate::{Config, Env};
use std::path::Path;

#[test]
fn an_unknown_field_is_named_with_the_nearest_known() {
    check(
        "{\n  \"mcp_servers\": {\n    \"solana\": {\n      \"memroy_mb\": 128\n    }\n  }\n}",
        "line 4 column 7: unknown field `memroy_mb` in `mcp_servers.solana`, the nearest known is `memory_mb`",
        None,
    );
}

#[test]
fn an_unknown_field_that_is_near_to_nothing_lists_what_is_known() {
    check(
        r#"{"mcp_servers":{"s":{"microvm_config":{"colour":1}}}}"#,
        "line 1 column 40: unknown field `colour` in `mcp_servers.s.microvm_config`",
        Some("known here: `memory_mb`, `vcpus`"),
    );
}

#[test]
fn an_unknown_field_at_the_top_is_in_the_file() {
    check(
        r#"{"default_mode":"unikernel"}"#,
        "line 1 column 2: unknown field `default_mode` in the file",
        Some(
            "known here: `$schema`, `default_execution_mode`, `on_isolation_failure`, \
             `unikernel_dir`, `backend`, `firecracker`, `policy`, `pool`, `cid_range`, `solana`, `mcp_servers`",
        ),
    );
}

#[test]
fn a_word_is_compared_with_the_words_an_option_takes() {
    check(
        r#"{"default_execution_mode":"unikernal"}"#,
        "line 1 column 27: `default_execution_mode` is `unikernal`, not one of `unikernel`, \
         `microvm`, `direct`; the nearest is `unikernel`",
        None,
    );
    check(
        r#"{"on_isolation_failure":"allow"}"#,
        "line 1 column 25: `on_isolation_failure` is `allow`, not one of `deny`, `fallback`",
        None,
    );
}

#[test]
fn a_wrong_type_says_what_is_right() {
    check(
        r#"{"default_execution_mode":7}"#,
        "line 1 column 27: `default_execution_mode` must be a string, not a number",
        None,
    );
    check(
        r#"{"mcp_servers":{"s":{"network_enabled":"true"}}}"#,
        "line 1 column 40: `mcp_servers.s.network_enabled` must be true or false, not a string",
        None,
    );
    check(
        r#"{"mcp_servers":{"s":{"mounts":{}}}}"#,
        "line 1 column 31: `mcp_servers.s.mounts` must be a list, not an object",
        None,
    );
    check("null", "line 1 column 1: the file must be an object, not null", None);
}

#[test]
fn a_number_is_whole_and_written_as_a_number() {
    let memory = |value: &str| format!(r#"{{"mcp_servers":{{"s":{{"memory_mb":{value}}}}}}}"#);
    check(
        &memory("128.0"),
        "line 1 column 34: `mcp_servers.s.memory_mb` must be a whole number, not a fraction",
        None,
    );
    check(
        &memory("\"128\""),
        "line 1 column 34: `mcp_servers.s.memory_mb` must be a whole number, not a string",
        None,
    );
    check(
        &memory("-1"),
        "line 1 column 34: `mcp_servers.s.memory_mb` is -1: a guest takes 16 to 65536 MiB",
        None,
    );
    check(
        &memory("18446744073709551616"),
        "line 1 column 34: `mcp_servers.s.memory_mb` is 18446744073709551616: a guest takes 16 \
         to 65536 MiB",
        None,
    );
}

#[test]
fn a_unikernel_has_limits_of_its_own() {
    check(
        r#"{"mcp_servers":{"s":{"vcpus":2}}}"#,
        "line 1 column 30: `mcp_servers.s.vcpus` is 2: a unikernel runs its one call on 1 vCPU, \
         only a microVM takes more",
        None,
    );
    check(
        r#"{"mcp_servers":{"s":{"memory_mb":4096}}}"#,
        "line 1 column 34: `mcp_servers.s.memory_mb` is 4096: a unikernel takes 16 to 3072 MiB",
        None,
    );
    check(
        r#"{"mcp_servers":{"s":{"execution_mode":"microvm","vcpus":2,
            "tools":{"t":{"execution_mode":"unikernel"}}}}}"#,
        "line 1 column 57: `mcp_servers.s.vcpus` is 2: a unikernel runs its one call on 1 vCPU, \
         only a microVM takes more, and tool `t` inherits this",
        None,
    );
    check(
        r#"{"mcp_servers":{"s":{"use_microvm":true,"microvm_config":{"memory_mb":32}}}}"#,
        "line 1 column 71: `mcp_servers.s.microvm_config.memory_mb` is 32: a microVM takes 64 to \
         65536 MiB",
        None,
    );
    check(
        r#"{"mcp_servers":{"s":{"timeout_secs":0}}}"#,
        "line 1 column 37: `mcp_servers.s.timeout_secs` is 0: a call takes 1 to 3600 seconds",
        None,
    );
}

#[test]
fn a_field_that_comes_twice_names_the_first() {
    check(
        "{\"mcp_servers\": {\"s\": {},\n \"\\u0073\": {}}}",
        "line 2 column 2: `s` is already given at line 1 column 18",
        None,
    );
}

#[test]
fn contradictions_name_both_sides() {
    check(
        r#"{"mcp_servers":{"s":{"use_microvm":true,"execution_mode":"unikernel"}}}"#,
        "line 1 column 36: `mcp_servers.s.use_microvm` is true, but `execution_mode` at line 1 \
         column 58 is `unikernel`",
        None,
    );
    check(
        r#"{"mcp_servers":{"s":{"mounts":[{"host_path":"/a","guest_path":"/b","vm_path":"/b"}]}}}"#,
        "line 1 column 32: `mcp_servers.s.mounts[0]` has `guest_path` and `vm_path`, which are \
         two names for one thing",
        None,
    );
    check(
        r#"{"pool":{"size":9,"max_vms":8}}"#,
        "line 1 column 9: `pool` has a `size` of 9, but allows 8 VMs",
        None,
    );
}

#[test]
fn a_range_of_cids_is_two_addresses_in_order_and_not_too_many() {
    check(
        r#"{"cid_range":[200,210,220]}"#,
        "line 1 column 14: `cid_range` is `3 numbers`: a range has two: the first and the last",
        None,
    );
    check(
        r#"{"cid_range":[300,299]}"#,
        "line 1 column 14: `cid_range` is `300 to 299`: the first CID comes first",
        None,
    );
    check(
        r#"{"cid_range":[200,10200]}"#,
        "line 1 column 14: `cid_range` is `10001 CIDs`: a range has at most 10000",
        None,
    );
    check(
        r#"{"cid_range":[3,299]}"#,
        "line 1 column 15: `cid_range[0]` is 3: guests of one call take 200 to 65535 as CID",
        None,
    );
}

#[test]
fn names_of_servers_and_tools_are_no_patterns() {
    check(
        r#"{"mcp_servers":{"*":{}}}"#,
        "line 1 column 17: `*` cannot be a name in `mcp_servers`: names are not patterns: \
         `default_execution_mode` is for servers without an entry",
        None,
    );
    check(
        "{\"mcp_servers\":{\"s\":{\"tools\":{\"a\\nb\":{}}}}}",
        "line 1 column 31: `a\\nb` cannot be a name in `mcp_servers.s.tools`: it has white space \
         or control characters",
        None,
    );
}

#[test]
fn an_image_is_a_name_and_no_path() {
    let image = |name: &str| format!(r#"{{"mcp_servers":{{"s":{{"unikernel_image":"{name}"}}}}}}"#);
    check(
        &image("../x"),
        "line 1 column 40: `mcp_servers.s.unikernel_image` is `../x`: an image is named without a \
         path: `unikernel_dir` says where images are",
        None,
    );
    check(
        &image(".."),
        "line 1 column 40: `mcp_servers.s.unikernel_image` is `..`: an image name does not begin \
         with `.` or `-`",
        None,
    );
    check(
        &image("a\\u202eb"),
        "line 1 column 40: `mcp_servers.s.unikernel_image` is `a\\u{202e}b`: an image name has \
         only letters, digits, `.`, `_` and `-`",
        None,
    );
}

#[test]
fn mounts_make_sense() {
    mount(r#"{"guest_path":"/b"}"#, "32: `mcp_servers.s.mounts[0]` has no `host_path`");
    mount(r#"{"host_path":"/b"}"#, "32: `mcp_servers.s.mounts[0]` has no `guest_path`");
    mount(
        r#"{"host_path":"b","guest_path":"/b"}"#,
        "45: `mcp_servers.s.mounts[0].host_path` is `b`: a host path is absolute or begins with `~/`",
    );
    mount(
        r#"{"host_path":"/a/../b","guest_path":"/b"}"#,
        "45: `mcp_servers.s.mounts[0].host_path` is `/a/../b`: a path is written without `..`, so \
         that it says where it leads",
    );
    mount(
        r#"{"host_path":"~bob/b","guest_path":"/b"}"#,
        "45: `mcp_servers.s.mounts[0].host_path` is `~bob/b`: only your own home directory can be \
         written with `~`",
    );
    mount(
        r#"{"host_path":"/b","vm_path":"/proc//self"}"#,
        "60: `mcp_servers.s.mounts[0].vm_path` is `/proc//self`: the guest's kernel needs this \
         place itself",
    );
    mount(
        r#"{"host_path":"/a","guest_path":"/b"},{"host_path":"/c","vm_path":"/b/."}"#,
        "69: `mcp_servers.s.mounts[1]` is `/b`: another mount has this guest path",
    );
}

#[track_caller]
fn mount(mounts: &str, expected: &str) {
    let text = format!(r#"{{"mcp_servers":{{"s":{{"mounts":[{mounts}]}}}}}}"#);
    check(&text, &format!("line 1 column {expected}"), None);
}

#[test]
fn variables_have_names_and_fit_the_boot_page() {
    check(
        r#"{"mcp_servers":{"s":{"env_vars":{"2X":""}}}}"#,
        "line 1 column 34: `2X` cannot be a name in `mcp_servers.s.env_vars`: a variable has \
         letters, digits and `_`, and does not begin with a digit",
        None,
    );
    check(
        r#"{"mcp_servers":{"s":{"env_vars":{"X":"hunter2\u0000"}}}}"#,
        "line 1 column 38: `mcp_servers.s.env_vars.X` is `…`: a variable cannot hold a NUL character",
        None,
    );
    let text =
        format!(r#"{{"mcp_servers":{{"s":{{"env_vars":{{"X":"{}"}}}}}}}}"#, "x".repeat(65536));
    check(
        &text,
        "line 1 column 33: `mcp_servers.s.env_vars` is `65554 bytes of variables`: a guest is \
         told at most 65536 bytes of them",
        None,
    );
}

#[test]
fn egress_hosts_are_hosts() {
    let not_a_host = "not a host name";
    for (host, reason) in [
        ("https://a.example", "a host is written without a scheme"),
        ("a.example/x", "a host is written without a path: that goes into `paths`"),
        ("a.example:443", "a host is written without a port: that goes into `ports`"),
        ("*", "a pattern has one `*`, in front: `*.example.com`"),
        ("a.*.example", "a pattern has one `*`, in front: `*.example.com`"),
        ("*.com", "a pattern has at least two names after `*.`"),
        ("müller.example", "a host that is not ASCII is written in its `xn--` form"),
        ("a..example", not_a_host),
        ("a.example.", not_a_host),
        ("-a.example", not_a_host),
        ("", not_a_host),
        ("127.1", "not a whole address, and no host name ends in a number"),
        ("0x7f000001", "not a whole address, and no host name ends in a number"),
    ] {
        egress(
            &format!(r#"{{"host":"{host}"}}"#),
            &format!("40: `mcp_servers.s.egress[0].host` is `{host}`: {reason}"),
        );
    }
    egress("{}", "32: `mcp_servers.s.egress[0]` has no `host`");
}

#[test]
fn egress_rules_allow_something_and_not_too_much() {
    egress(
        r#"{"host":"a.b","methods":["TRACE"]}"#,
        "57: `mcp_servers.s.egress[0].methods[0]` is `TRACE`, not one of `GET`, `HEAD`, `POST`, \
         `PUT`, `PATCH`, `DELETE`, `OPTIONS`, `CONNECT`",
    );
    egress(
        r#"{"host":"a.b","methods":[]}"#,
        "56: `mcp_servers.s.egress[0].methods` is `[]`: a rule with an empty list allows nothing",
    );
    for (path, reason) in [
        ("v1", "a path begins with `/`"),
        ("/v1*", "a `*` stands at the end, after `/`: `/v1/*`"),
        ("/*/x", "a `*` stands at the end, after `/`: `/v1/*`"),
        ("/a/../b", "a path is written without `.` and `..`"),
        ("/a?b=1", "a path is written without query and fragment"),
        ("/a b", "a path has printable ASCII only, the rest as `%XX`"),
    ] {
        egress(
            &format!(r#"{{"host":"a.b","paths":["{path}"]}}"#),
            &format!("55: `mcp_servers.s.egress[0].paths[0]` is `{path}`: {reason}"),
        );
    }
    egress(
        r#"{"host":"a.b","ports":[65536]}"#,
        "55: `mcp_servers.s.egress[0].ports[0]` is 65536: a port is 1 to 65535",
    );
    egress(
        r#"{"host":"a.b","headers":{"Host":"x"}}"#,
        "57: `Host` cannot be a name in `mcp_servers.s.egress[0].headers`: osvm writes this header itself",
    );
    egress(
        r#"{"host":"a.b","headers":{"X-A":"1","x-a":"2"}}"#,
        "67: `x-a` cannot be a name in `mcp_servers.s.egress[0].headers`: header names ignore \
         case, and this one is already there",
    );
    egress(
        r#"{"host":"a.b","headers":{"X-A":"${KEY}"}}"#,
        "63: `mcp_servers.s.egress[0].headers.X-A` is `…`: `${` begins `${secret:NAME}`, with \
         letters, digits, `_` and `-` in NAME",
    );
}

#[track_caller]
fn egress(rules: &str, expected: &str) {
    let text = format!(r#"{{"mcp_servers":{{"s":{{"egress":[{rules}]}}}}}}"#);
    check(&text, &format!("line 1 column {expected}"), None);
}

#[test]
fn commands_name_a_program() {
    let command =
        |command: &str| format!(r#"{{"mcp_servers":{{"s":{{"server_command":{command}}}}}}}"#);
    check(
        &command("[]"),
        "line 1 column 39: `mcp_servers.s.server_command` is ``: a command names a program",
        None,
    );
    check(
        &command("\"node 'a\""),
        "line 1 column 39: `mcp_servers.s.server_command` is `node 'a`: a quote is not closed",
        None,
    );
    check(
        &command("[\"node\", 1]"),
        "line 1 column 48: `mcp_servers.s.server_command[1]` must be a string, not a number",
        None,
    );
}

#[test]
fn text_that_is_not_json_points_to_the_place() {
    let hint = Some("JSON has no comments and no comma after the last member");
    check("{\n  // why\n}", "line 2 column 3: not JSON: key must be a string", hint);
    check("{\"ä\": 1,\n}", "line 2 column 1: not JSON: key must be a string", hint);
    check("{\"ä\": x}", "line 1 column 7: not JSON: expected value", hint);
    check("", "line 1 column 1: not JSON: EOF while parsing a value", hint);
    check("{} {}", "line 1 column 4: not JSON: trailing characters", hint);
    check(
        r#"{"default_execution_mode":"\ud800"}"#,
        "line 1 column 34: not JSON: unexpected end of hex escape",
        hint,
    );
}

#[test]
fn bytes_that_are_not_plain_utf8_say_what_they_are() {
    let hint = Some("save the file as UTF-8 without a byte order mark");
    check(
        b"\xEF\xBB\xBF{}",
        "line 1 column 1: not UTF-8 text: it begins with a byte order mark",
        hint,
    );
    check(b"\xFF\xFE{\0}\0", "line 1 column 1: not UTF-8 text: it looks like UTF-16", hint);
    check(
        b"{\n\"\xC3\xA4\xFF\": 1}",
        "line 2 column 3: not UTF-8 text: a byte here is no part of a character",
        hint,
    );
}

#[test]
fn all_problems_are_found_and_stand_in_the_order_of_the_text() {
    let text = r#"{
  "mcp_servers": {
    "s": {
      "vcpus": 2,
      "tools": { "t": { "memory_mb": "big", "timeout": 5 } }
    }
  },
  "backend": "xen"
}"#;
    let errors = Config::parse(text, Path::new("/c.json"), &env()).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "isolation config `/c.json` has 4 errors
  line 4 column 16: `mcp_servers.s.vcpus` is 2: a unikernel runs its one call on 1 vCPU, only a microVM takes more
  line 5 column 38: `mcp_servers.s.tools.t.memory_mb` must be a whole number, not a string
  line 5 column 45: unknown field `timeout` in `mcp_servers.s.tools.t`
  line 8 column 14: `backend` is `xen`, not one of `auto`, `kvm`, `qemu`, `firecracker`"
    );
}

fn env() -> Env {
    Env::new(None, None, Some("/home/u".into())).unwrap()
}

/// One problem, and the hint for it.
#[track_caller]
fn check(text: &(impl AsRef<[u8]> + ?Sized), expected: &str, hint: Option<&str>) {
    let errors = Config::parse(text, Path::new("c.json"), &env()).unwrap_err();
    assert_eq!(errors.to_string(), format!("isolation config `c.json` {expected}"));
    assert_eq!(errors.hint().as_deref(), hint);
}
