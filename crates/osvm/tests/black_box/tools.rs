//! Names and arguments of tools, checked against the image before a VM is started.

use crate::support::Home;
use snapbox::data::Inline;
use snapbox::str;

#[test]
fn an_unknown_server_is_refused_with_the_nearest_name() {
    check(
        ["sistem", "echo", "{}"],
        str![[r#"
error: unknown server `sistem`

hint: did you mean `system`?

"#]],
    );
}

#[test]
fn an_unknown_tool_is_refused_with_the_nearest_name() {
    check(
        ["solana", "decode_transactoin", "{}"],
        str![[r#"
error: server `solana` has no tool `decode_transactoin`

hint: did you mean `decode_transaction`?

"#]],
    );
}

#[test]
fn a_missing_argument_is_named() {
    check(
        ["system", "echo", "{}"],
        str![[r#"
error: arguments of `system/echo` are wrong: argument `text` is missing: it must be a string

hint: `osvm mcp tools system --json` shows the arguments of `echo`

"#]],
    );
}

#[test]
fn a_surplus_argument_is_named() {
    check(
        ["system", "echo", r#"{"text":"hi","loud":true}"#],
        str![[r#"
error: arguments of `system/echo` are wrong: argument `loud` is not known: there are `text`

hint: `osvm mcp tools system --json` shows the arguments of `echo`

"#]],
    );
}

#[test]
fn an_argument_of_the_wrong_type_is_named() {
    check(
        ["system", "echo", r#"{"text":7}"#],
        str![[r#"
error: arguments of `system/echo` are wrong: argument `text` is a number: it must be a string

hint: `osvm mcp tools system --json` shows the arguments of `echo`

"#]],
    );
}

#[test]
fn tools_are_listed_with_where_they_run() {
    let home = Home::new();
    home.osvm(["mcp", "tools", "system"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
SERVER  TOOL            MODE       NETWORK  DESCRIPTION
system  echo            unikernel  -        Returns the text it was given.
system  guest_info      unikernel  -        Says what the guest itself sees: its memory, devices, command line, image, and the names (never the values) of its environment variables.
system  read_file       unikernel  -        Reads a file of a directory that the isolation config mounts for this tool: at most 1 MiB at once, go on at `offset` until `eof`.
system  list_directory  unikernel  -        Lists a directory that the isolation config mounts for this tool, or one in it: at most 1000 entries at once, go on at `offset` while there are more.
system  write_file      unikernel  -        Writes a file of a directory that the isolation config mounts for this tool with `readonly: false`. Without `offset` the file holds the contents and nothing else afterwards.

"#]]);
}

#[test]
fn tools_are_listed_with_their_schemas_for_programs() {
    let home = Home::new();
    let tools = home.osvm(["mcp", "tools", "--json"]).output().unwrap();
    let tools: Vec<serde_json::Value> = serde_json::from_slice(&tools.stdout).unwrap();
    let decode = tools.iter().find(|tool| tool["name"] == "decode_transaction").unwrap();
    assert_eq!(decode["server"], "solana");
    assert_eq!(decode["mode"], "unikernel");
    assert_eq!(decode["inputSchema"]["type"], "object");
}

#[test]
fn tools_of_an_unknown_server_are_not_an_empty_list() {
    let home = Home::new();
    home.osvm(["mcp", "tools", "solano"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: unknown server `solano`

hint: did you mean `solana`?

"#]]);
}

#[track_caller]
fn check([server, tool, arguments]: [&str; 3], stderr: Inline) {
    let home = Home::new();
    let call = home.osvm(["mcp", "call-tool", server, tool, arguments]);
    call.assert().code(2).stdout_eq("").stderr_eq(stderr);
    home.assert_nothing_left();
}
