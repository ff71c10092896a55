//! The list of MCP servers: shown and changed.

use crate::support::Home;
use snapbox::str;
use std::fs;
use std::path::PathBuf;

#[test]
fn without_a_list_there_are_the_builtin_servers() {
    let home = Home::without_images();
    home.osvm(["mcp", "list"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
NAME      TYPE     MODE       STATE    FROM     TARGET
osvm-mcp  builtin  unikernel  enabled  builtin  tools of the unikernel image
solana    builtin  unikernel  enabled  builtin  tools of the unikernel image
system    builtin  unikernel  enabled  builtin  tools of the unikernel image

"#]]);
    assert!(!list(&home).exists());
}

#[test]
fn values_that_may_be_credentials_show_only_as_json() {
    let home = Home::without_images();
    home.osvm(["mcp", "add", "x", "-q", "-e", "KEY=sk-1", "-e", "B=${B}", "--", "x"])
        .assert()
        .code(0);
    home.osvm(["mcp", "get", "x"]).assert().code(0).stdout_eq(str![[r#"
name     x
type     stdio
mode     unikernel
enabled  true
from     file
command  x
env      KEY is set
         B is ${B}

"#]]);
    home.osvm(["mcp", "get", "x", "--json"]).assert().code(0).stdout_eq(str![[r#"
{
  "type": "stdio",
  "command": "x",
  "args": [],
  "env": {
    "KEY": "sk-1",
    "B": "${B}"
  }
}

"#]]);
}

#[test]
fn a_server_is_disabled_enabled_and_removed() {
    let home = Home::without_images();
    home.osvm(["mcp", "add", "x", "-q", "--", "x"]).assert().code(0);
    home.osvm(["mcp", "disable", "x"]).assert().code(0).stdout_eq("disabled server `x`\n");
    home.osvm(["mcp", "disable", "system"]).assert().code(0);
    home.osvm(["mcp", "list"]).assert().code(0).stdout_eq(str![[r#"
NAME      TYPE     MODE       STATE     FROM     TARGET
osvm-mcp  builtin  unikernel  enabled   builtin  tools of the unikernel image
solana    builtin  unikernel  enabled   builtin  tools of the unikernel image
system    builtin  unikernel  disabled  builtin  tools of the unikernel image
x         stdio    unikernel  disabled  file     x

"#]]);
    home.osvm(["mcp", "enable", "x"]).assert().code(0).stdout_eq("enabled server `x`\n");
    home.osvm(["mcp", "remove", "x"]).assert().code(0).stdout_eq("removed server `x`\n");
    home.osvm(["mcp", "remove", "x"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: unknown server `x`

hint: `osvm mcp list` shows them

"#]]);
    home.osvm(["mcp", "remove", "system"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `system` is a builtin server

hint: `osvm mcp disable system`

"#]]);
    home.osvm(["mcp", "enable", "sistem"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: unknown server `sistem`

hint: did you mean `system`?

"#]]);
}

#[test]
fn variables_of_the_environment_add_servers_that_no_file_has() {
    let home = Home::without_images();
    let list = home
        .osvm(["mcp", "list", "--json"])
        .env("MCP_SERVER_MY_NOTES_URL", "https://notes.example/mcp?key=1")
        .env("MCP_SERVER_OLD_URL", "ws://old.example");
    list.assert().code(0).stdout_eq(str![[r#"
[
  {
    "name": "my-notes",
    "type": "http",
    "mode": "remote",
    "enabled": true,
    "from": "MCP_SERVER_MY_NOTES_URL",
    "target": "https://notes.example/mcp"
  },
  {
    "name": "osvm-mcp",
    "type": "builtin",
    "mode": "unikernel",
    "enabled": true,
    "from": "builtin",
    "target": "tools of the unikernel image"
  },
  {
    "name": "solana",
    "type": "builtin",
    "mode": "unikernel",
    "enabled": true,
    "from": "builtin",
    "target": "tools of the unikernel image"
  },
  {
    "name": "system",
    "type": "builtin",
    "mode": "unikernel",
    "enabled": true,
    "from": "builtin",
    "target": "tools of the unikernel image"
  }
]

"#]]).stderr_eq(str![[r#"
warning: `MCP_SERVER_OLD_URL` is no address of a server: MCP has no WebSocket transport: use `http` or `stdio`

"#]]);
    assert!(!self::list(&home).exists());
    let remove = home
        .osvm(["mcp", "remove", "my-notes"])
        .env("MCP_SERVER_MY_NOTES_URL", "https://notes.example/mcp");
    remove.assert().code(2).stderr_eq(str![[r#"
error: server `my-notes` is not in a file

hint: it comes from `MCP_SERVER_MY_NOTES_URL`: unset it

"#]]);
}

#[test]
fn the_list_is_where_a_variable_or_the_isolation_config_says() {
    let home = Home::without_images();
    let elsewhere = home.path().join("elsewhere.json");
    let add = home.osvm(["mcp", "add", "x", "-q", "--", "x"]).env("OSVM_MCP_SERVERS", &elsewhere);
    add.assert().code(0);
    assert!(elsewhere.exists() && !list(&home).exists());
    home.write("other.json", "{}");
    home.osvm(["--config", "other.json", "mcp", "add", "x", "-q", "--", "x"]).assert().code(0);
    assert!(home.path().join("mcp_servers.json").exists());
}

#[test]
fn a_list_that_is_wrong_is_refused_with_its_place() {
    let home = Home::without_images();
    home.osvm(["config", "show"]).assert().code(0);
    fs::write(list(&home), "{\"mcpServers\": {\"a\": {\"comand\": \"x\"}}}").unwrap();
    home.osvm(["mcp", "list"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `[HOME]/.config/osvm/mcp_servers.json` has 2 errors
  line 1 column 22: `mcpServers.a` has no `command`, `url` or `source`
  line 1 column 23: unknown field `comand` in `mcpServers.a`, the nearest known is `command`

"#]]);
}

#[test]
fn many_at_once_lose_nothing() {
    let home = Home::without_images();
    home.osvm(["config", "show"]).assert().code(0);
    let names: Vec<String> = (0..12).map(|index| format!("s{index}")).collect();
    let added: Vec<_> =
        names.iter().map(|name| home.spawn(&["mcp", "add", name, "--", "x"])).collect();
    for mut child in added {
        assert!(child.wait().unwrap().success());
    }
    let text = fs::read_to_string(list(&home)).unwrap();
    for name in &names {
        assert!(text.contains(&format!("\"{name}\": {{")), "{name} is missing from {text}");
    }
}

/// Where the list of this home is.
pub(crate) fn list(home: &Home) -> PathBuf {
    home.config_path().with_file_name("mcp_servers.json")
}
