//! Servers from the files of other clients and for them, and osvm in those files.

use crate::support::Home;
use snapbox::str;
use std::fs;

const CURSOR: &str = r#"{
  // mine
  "mcpServers": {
    "time": {"command": "uvx", "args": ["mcp-server-time"], "env": {"TZ": "${env:TZ}"}},
    "old": {"type": "sse", "url": "https://old.example/sse"},
    "web": {"url": "https://web.example/mcp", "headers": {"X-A": "b"}},
  }
}"#;

#[test]
fn a_file_is_imported_but_for_what_osvm_cannot_use() {
    let home = Home::without_images();
    home.write("mcp.json", CURSOR);
    let dry = ["mcp", "import", "mcp.json", "--dry-run", "-q"];
    home.osvm(dry).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
would be imported: time
would be imported: web

"#]]);
    assert!(!home.config_path().exists());
    let import = ["mcp", "import", "mcp.json"];
    home.osvm(import).assert().code(0).stdout_eq(str![[r#"
imported: time
imported: web

"#]]).stderr_eq(str![[r#"
note: old: left out: line 5 column 21: `mcpServers.old.type` is `sse`: HTTP+SSE is deprecated and osvm does not speak it: use `http` with the server's Streamable HTTP endpoint
note: calls of `time` are denied until `[HOME]/.config/osvm/isolation_config.json` says where they run:
  "mcp_servers": {"time": {"execution_mode": "microvm"}}
  "mcp_servers": {"time": {"execution_mode": "direct"}}

"#]]);
    home.osvm(import).assert().code(0).stdout_eq(str![[r#"
skipped: time (there is one; `--force` replaces it)
skipped: web (there is one; `--force` replaces it)

"#]]);
    home.osvm(["mcp", "import", "mcp.json", "--force", "--json"]).assert().stdout_eq(str![[r#"
{
  "imported": [],
  "replaced": [
    "time",
    "web"
  ],
  "skipped": [],
  "notes": [
    {
      "server": "old",
      "note": "left out: line 5 column 21: `mcpServers.old.type` is `sse`: HTTP+SSE is deprecated and osvm does not speak it: use `http` with the server's Streamable HTTP endpoint"
    }
  ]
}

"#]]);
    home.osvm(["mcp", "list", "--format", "mcpservers"]).assert().code(0).stdout_eq(str![[r#"
{
  "mcpServers": {
    "time": {
      "type": "stdio",
      "command": "uvx",
      "args": [
        "mcp-server-time"
      ],
      "env": {
        "TZ": "${TZ}"
      }
    },
    "web": {
      "type": "http",
      "url": "https://web.example/mcp",
      "headers": {
        "X-A": "b"
      }
    }
  }
}

"#]]);
}

#[test]
fn a_file_of_no_known_shape_is_refused() {
    let home = Home::without_images();
    home.write("x.json", "{\"a\": 1}");
    home.osvm(["mcp", "import", "x.json"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `x.json` has no `mcpServers`, `servers`, `mcp_servers` or `packages`

hint: it reads files of Claude, Cursor, VS Code and Codex, and `server.json`

"#]]);
    home.osvm(["mcp", "import", "y.json"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `y.json` does not exist

"#]]);
}

#[test]
fn servers_are_exported_in_each_shape() {
    let home = with_two();
    home.osvm(["mcp", "export"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
{
  "mcpServers": {
    "time": {
      "type": "stdio",
      "command": "uvx",
      "args": [
        "a"
      ],
      "envFromSecret": {
        "KEY": "key"
      }
    },
    "web": {
      "type": "http",
      "url": "https://web.example/mcp"
    }
  }
}

"#]]);
    let vscode = ["mcp", "export", "--format", "vscode"];
    home.osvm(vscode).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
{
  "servers": {
    "time": {
      "type": "stdio",
      "command": "uvx",
      "args": [
        "a"
      ],
      "env": {
        "KEY": "${input:key}"
      }
    },
    "web": {
      "type": "http",
      "url": "https://web.example/mcp"
    }
  },
  "inputs": [
    {
      "type": "promptString",
      "description": "key",
      "id": "key",
      "password": true
    }
  ]
}

"#]]);
}

#[test]
fn an_export_into_a_file_replaces_none_unasked() {
    let home = with_two();
    let codex = ["mcp", "export", "--format", "codex", "--output", "config.toml"];
    home.osvm(codex).assert().code(0).stdout_eq("").stderr_eq(str![[r#"
note: time: set `KEY` in the environment of Codex: it has no secrets

"#]]);
    let text = fs::read_to_string(home.path().join("config.toml")).unwrap();
    snapbox::assert_data_eq!(
        text,
        str![[r#"
[mcp_servers.time]
command = "uvx"
args = ["a"]
env_vars = ["KEY"]

[mcp_servers.web]
url = "https://web.example/mcp"

"#]]
    );
    home.osvm(codex).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
note: time: set `KEY` in the environment of Codex: it has no secrets
error: `config.toml` exists already

hint: `--force` replaces it

"#]]);
}

#[test]
fn a_change_to_a_clients_file_is_shown_made_and_taken_back() {
    let home = Home::without_images();
    let before = "{\n  \"numStartups\": 3,\n  \"mcpServers\": {}\n}\n";
    let path = home.write(".claude.json", before);
    let dry = ["client", "connect", "claude-code", "--dry-run"];
    home.osvm(dry).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
--- [HOME]/.claude.json
+++ [HOME]/.claude.json
@@ -1,4 +1,10 @@
 {
   "numStartups": 3,
-  "mcpServers": {}
+  "mcpServers": {
+    "osvm": {
+      "type": "stdio",
+      "command": "[OSVM]",
+      "args": ["mcp", "serve"]
+    }
+  }
 }

"#]]);
    let unasked = ["client", "connect", "claude-code"];
    home.osvm(unasked).assert().code(2).stderr_eq(str![[r#"
error: nothing was changed: there is no terminal to ask on

hint: `-y` says yes

"#]]);
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    home.osvm(["client", "connect", "claude-code", "-y"]).assert().code(0).stderr_eq(str![[r#"
the old file is `[HOME]/.claude.json.osvm-backup`
changed `[HOME]/.claude.json`: restart the client

"#]]);
    let backup = home.path().join(".claude.json.osvm-backup");
    assert_eq!(fs::read_to_string(backup).unwrap(), before);
    home.osvm(["client", "ls"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
CLIENT          STATE      FILE
claude-desktop  no file    [HOME]/.config/Claude/claude_desktop_config.json
claude-code     connected  [HOME]/.claude.json
cursor          no file    [HOME]/.cursor/mcp.json
vscode          no file    [HOME]/.config/Code/User/mcp.json
codex           no file    [HOME]/.codex/config.toml

"#]]);
    home.osvm(["client", "connect", "claude-code"]).assert().code(0).stdout_eq(str![[r#"
`[HOME]/.claude.json` stays as it is

"#]]);
    home.osvm(["client", "disconnect", "claude-code", "-y", "-q"]).assert().code(0);
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
}

#[test]
fn a_project_has_files_of_its_own() {
    let home = Home::without_images();
    fs::create_dir(home.path().join("p")).unwrap();
    let connect = ["client", "connect", "vscode", "-y", "--project", "p"];
    home.osvm(connect).assert().code(0).stdout_eq(str![[r#"
--- p/.vscode/mcp.json
+++ p/.vscode/mcp.json
@@ -0,0 +1,9 @@
+{
+  "servers": {
+    "osvm": {
+      "type": "stdio",
+      "command": "osvm",
+      "args": ["mcp", "serve"]
+    }
+  }
+}

"#]]);
    home.osvm(["client", "ls", "--project", "p"]).assert().code(0).stdout_eq(str![[r#"
CLIENT       STATE      FILE
claude-code  no file    p/.mcp.json
cursor       no file    p/.cursor/mcp.json
vscode       connected  p/.vscode/mcp.json
codex        no file    p/.codex/config.toml

"#]]);
    let desktop = ["client", "connect", "claude-desktop", "--project"];
    home.osvm(desktop).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `claude-desktop` has no files of projects

hint: leave out `--project`

"#]]);
}

#[test]
fn a_clients_file_that_cannot_be_read_is_left_alone() {
    let home = Home::without_images();
    let path = home.write(".claude.json", "{\"a\": 1,}");
    let connect = ["client", "connect", "claude-code", "-y"];
    home.osvm(connect).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `[HOME]/.claude.json` line 1 column 9: not JSON: key must be a string

"#]]);
    assert_eq!(fs::read_to_string(path).unwrap(), "{\"a\": 1,}");
    home.osvm(["client", "ls"])
        .assert()
        .code(0)
        .stdout_eq(str![[r#"
CLIENT          STATE       FILE
claude-desktop  no file     [HOME]/.config/Claude/claude_desktop_config.json
claude-code     unreadable  [HOME]/.claude.json
cursor          no file     [HOME]/.cursor/mcp.json
vscode          no file     [HOME]/.config/Code/User/mcp.json
codex           no file     [HOME]/.codex/config.toml

"#]])
        .stderr_eq(str![[r#"
warning: `[HOME]/.claude.json` line 1 column 9: not JSON: key must be a string

"#]]);
}

/// A home whose list has a program with a secret, and an address.
fn with_two() -> Home {
    let home = Home::without_images();
    let time = ["mcp", "add", "time", "-q", "--env-from-secret", "KEY=key", "--", "uvx", "a"];
    home.osvm(time).assert().code(0);
    home.osvm(["mcp", "add", "web", "https://web.example/mcp"]).assert().code(0);
    home
}
