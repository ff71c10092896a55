//! Servers that are asked what they offer. The one that is asked is osvm itself, as a program on
//! this host.

use crate::support::Home;
use snapbox::str;

#[test]
fn a_program_is_not_started_on_the_host_unless_the_config_says_so() {
    let home = Home::without_images();
    home.osvm(["mcp", "add", "x", "-q", "--", "touch", "started"]).assert().code(0);
    for command in ["test", "tools"] {
        home.osvm(["mcp", command, "x"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: server `x` is a program, and its execution mode `unikernel` keeps it off the host

hint: to run it with your rights, write into `[HOME]/.config/osvm/isolation_config.json`: "mcp_servers": {"x": {"execution_mode": "direct"}}

"#]]);
    }
    assert!(!home.path().join("started").exists());
}

#[test]
fn a_server_is_tried_and_says_what_it_offers() {
    let home = with_osvm_behind();
    let tried = home.osvm(["mcp", "test", "other", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&tried.stdout).unwrap();
    assert_eq!((&report["started"], &report["mode"]), (&true.into(), &"direct".into()), "{report}");
    assert_eq!(report["era"], "modern");
    assert_eq!(report["server_info"]["name"], "osvm");
    assert!(report["tools"].as_u64().unwrap() > 5, "{report}");
    assert!(report["total_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn tools_of_a_server_are_listed_inspected_and_found() {
    let home = with_osvm_behind();
    let not_yet = home.osvm(["mcp", "tools"]).output().unwrap();
    let note = String::from_utf8(not_yet.stderr).unwrap();
    assert_eq!(note, "note: server `other` was not asked yet: `osvm mcp tools other`\n");
    let listed = home.osvm(["mcp", "tools", "other"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("other   system__echo"), "{listed}");
    let shown = home.osvm(["mcp", "inspect", "other", "system__echo", "--json"]).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["mode"], &shown["server"]), (&"direct".into(), &"other".into()));
    assert_eq!(shown["inputSchema"]["type"], "object");
    // Now its answer is known, and nothing has to be started.
    let found = home.osvm(["mcp", "search", "ECHO", "text"]);
    found.assert().code(0).stderr_eq("").stdout_eq(str![[r#"
SERVER  TOOL          DESCRIPTION
system  echo          Returns the text it was given.
other   system__echo  Returns the text it was given.

"#]]);
    let inspect = home.osvm(["mcp", "inspect", "other", "system__ecko"]);
    inspect.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: server `other` has no tool `system__ecko`

hint: did you mean `system__echo`?

"#]]);
}

#[test]
fn a_tool_of_an_image_is_shown_with_its_schema() {
    let home = Home::new();
    home.osvm(["mcp", "inspect", "system", "echo"]).assert().code(0).stdout_eq(str![[r#"
echo of system, runs: unikernel

Returns the text it was given.

annotations: {
  "readOnlyHint": true,
  "destructiveHint": false,
  "openWorldHint": false
}

arguments: {
  "type": "object",
  "properties": {
    "text": {
      "type": "string",
      "description": "what to return"
    }
  },
  "required": [
    "text"
  ],
  "additionalProperties": false
}

result: {
  "type": "object",
  "properties": {
    "text": {
      "type": "string"
    }
  },
  "required": [
    "text"
  ],
  "additionalProperties": false
}

how a call is isolated: `osvm config explain system echo`

"#]]);
}

#[test]
fn a_builtin_server_is_tried_without_starting_anything() {
    let home = Home::new();
    let tried = home.osvm(["mcp", "test", "system", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&tried.stdout).unwrap();
    assert_eq!((&report["started"], &report["tools"]), (&false.into(), &5.into()), "{report}");
    home.osvm(["mcp", "disable", "system"]).assert().code(0);
    home.osvm(["mcp", "test", "system"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: server `system` is disabled

hint: `osvm mcp enable system`

"#]]);
}

#[test]
fn a_server_that_cannot_be_used_says_what_is_missing() {
    let home = Home::without_images();
    let add = ["mcp", "add", "a", "--execution-mode", "direct", "-e", "K=${UNSET}", "--", "x"];
    home.osvm(add).assert().code(0);
    home.osvm(["mcp", "test", "a"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: cannot use server `a`
  caused by: variable `UNSET` is not set

hint: set it, or write a default: `${UNSET:-default}`

"#]]);
}

/// A home in which the server `other` is an osvm that serves its builtin tools.
fn with_osvm_behind() -> Home {
    let home = Home::new();
    let osvm = env!("CARGO_BIN_EXE_osvm");
    // Its own list is another one, or it would have itself behind it.
    let own = format!("OSVM_MCP_SERVERS={}", home.path().join("inner.json").display());
    let backend = "OSVM_BACKEND=kvm";
    let add = ["mcp", "add", "other", "--execution-mode", "direct", "-e", &own, "-e", backend];
    let behind = ["--", osvm, "mcp", "serve"];
    let words: Vec<&str> = add.iter().chain(&behind).copied().collect();
    home.osvm_of(&words).assert().code(0);
    home
}
