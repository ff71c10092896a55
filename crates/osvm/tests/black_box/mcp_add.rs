//! Servers that are added to the list: from flags, addresses, packages, repositories and files.

use crate::mcp_servers::list;
use crate::support::Home;
use snapbox::data::Inline;
use snapbox::str;
use std::fs;
use std::process::Command;

#[test]
fn a_program_is_added_with_what_its_calls_still_need() {
    check_added(
        &[
            "files",
            "-e",
            "A=${A:-b}",
            "--env-from-secret",
            "K=key",
            "--",
            "npx",
            "-y",
            "@m/files",
            "/a b",
        ],
        str![[r#"
added server `files` to `[HOME]/.config/osvm/mcp_servers.json`

"#]],
        str![[r#"
note: `files` will see the value of secret `key`
note: calls of `files` are denied until `[HOME]/.config/osvm/isolation_config.json` says where they run:
  "mcp_servers": {"files": {"execution_mode": "microvm"}}
  "mcp_servers": {"files": {"execution_mode": "direct"}}

"#]],
        str![[r#"
{
  "mcpServers": {
    "files": {
      "type": "stdio",
      "command": "npx",
      "args": ["-y", "@m/files", "/a b"],
      "env": {
        "A": "${A:-b}"
      },
      "envFromSecret": {
        "K": "key"
      }
    }
  }
}

"#]],
    );
}

#[test]
fn packages_are_added_with_the_program_that_fetches_them() {
    check_added(
        &["a", "npx://@m/a@1.2.3", "--disabled"],
        str![[r#"
added server `a` to `[HOME]/.config/osvm/mcp_servers.json`

"#]],
        str![[r#"
note: calls of `a` are denied until `[HOME]/.config/osvm/isolation_config.json` says where they run:
  "mcp_servers": {"a": {"execution_mode": "microvm"}}
  "mcp_servers": {"a": {"execution_mode": "direct"}}

"#]],
        str![[r#"
{
  "mcpServers": {
    "a": {
      "type": "stdio",
      "command": "npx",
      "args": ["-y", "@m/a@1.2.3"],
      "source": "npx://@m/a@1.2.3",
      "enabled": false
    }
  }
}

"#]],
    );
    check_added(
        &["b", "uvx://b==2", "--cwd", "/srv", "--description", "B"],
        str![[r#"
added server `b` to `[HOME]/.config/osvm/mcp_servers.json`

"#]],
        str![[r#"
note: calls of `b` are denied until `[HOME]/.config/osvm/isolation_config.json` says where they run:
  "mcp_servers": {"b": {"execution_mode": "microvm"}}
  "mcp_servers": {"b": {"execution_mode": "direct"}}

"#]],
        str![[r#"
{
  "mcpServers": {
    "b": {
      "type": "stdio",
      "command": "uvx",
      "args": ["b@2"],
      "cwd": "/srv",
      "source": "uvx://b==2",
      "description": "B"
    }
  }
}

"#]],
    );
}

#[test]
fn an_address_is_added_with_headers_and_secrets() {
    check_added(
        &[
            "notes",
            "https://notes.example/mcp",
            "--header",
            "X-A: b",
            "--header-from-secret",
            "X-K=key",
            "--bearer-from-secret",
            "token",
        ],
        str![[r#"
added server `notes` to `[HOME]/.config/osvm/mcp_servers.json`

"#]],
        str![[r#"
note: `notes` will see the value of secret `key`
note: `notes` will see the value of secret `token`

"#]],
        str![[r#"
{
  "mcpServers": {
    "notes": {
      "type": "http",
      "url": "https://notes.example/mcp",
      "headers": {
        "X-A": "b"
      },
      "headersFromSecret": {
        "X-K": "key"
      },
      "bearerFromSecret": "token"
    }
  }
}

"#]],
    );
}

#[test]
fn an_execution_mode_is_written_beside_what_the_isolation_config_has() {
    let home = Home::without_images();
    home.write_config("{\n  \"mcp_servers\": {\"x\": {\"timeout_secs\": 5}}\n}\n");
    let add = ["mcp", "add", "x", "--execution-mode", "direct", "--", "server"];
    home.osvm(add).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
added server `x` to `[HOME]/.config/osvm/mcp_servers.json`

"#]]);
    let config = fs::read_to_string(home.config_path()).unwrap();
    snapbox::assert_data_eq!(
        config,
        str![[r#"
{
  "mcp_servers": {"x": {
      "timeout_secs": 5,
      "execution_mode": "direct"
    }}
}

"#]]
    );
}

#[test]
fn osvm_mcp_is_added_with_its_isolation() {
    let home = Home::without_images();
    home.write_config("{\"default_execution_mode\": \"microvm\"}");
    home.osvm(["mcp", "add", "osvm-mcp"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
added server `osvm-mcp` to `[HOME]/.config/osvm/mcp_servers.json`

"#]]);
    let config = fs::read_to_string(home.config_path()).unwrap();
    snapbox::assert_data_eq!(
        config,
        str![[r#"
{
  "default_execution_mode": "microvm",
  "mcp_servers": {
    "osvm-mcp": {
      "execution_mode": "unikernel"
    }
  }
}

"#]]
    );
    snapbox::assert_data_eq!(
        fs::read_to_string(list(&home)).unwrap(),
        str![[r#"
{
  "mcpServers": {
    "osvm-mcp": {
      "type": "builtin"
    }
  }
}

"#]]
    );
}

#[test]
fn a_config_that_would_be_wrong_is_not_written_and_nothing_is_added() {
    let home = Home::without_images();
    let config = "{\"mcp_servers\": {\"x\": {\"use_microvm\": true}}}";
    home.write_config(config);
    let add = ["mcp", "add", "x", "--execution-mode", "direct", "--", "server"];
    home.osvm(add).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: isolation config `[HOME]/.config/osvm/isolation_config.json` line 2 column 22: `mcp_servers.x.use_microvm` is true, but `execution_mode` at line 3 column 25 is `direct`

"#]]);
    assert_eq!(fs::read_to_string(home.config_path()).unwrap(), config);
    assert!(!list(&home).exists());
}

#[test]
fn a_name_is_taken_once_unless_it_is_forced() {
    let home = Home::without_images();
    home.osvm(["mcp", "add", "x", "--execution-mode", "direct", "--", "one"]).assert().code(0);
    let again = ["mcp", "add", "x", "--", "two"];
    home.osvm(again).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: there is a server `x` already

hint: `--force` replaces it

"#]]);
    home.osvm(["mcp", "add", "x", "--force", "--", "two"]).assert().code(0).stderr_eq("");
    home.osvm(["mcp", "get", "x"]).assert().stdout_eq(str![[r#"
name     x
type     stdio
mode     direct
enabled  true
from     file
command  two

"#]]);
}

#[test]
fn what_names_no_server_is_refused() {
    check_refused(
        &["a b", "--", "x"],
        str![[r#"
error: `a b` cannot be the name of a server: 1 to 64 letters, digits, `_`, `.` and `-`

"#]],
    );
    check_refused(
        &["system", "--", "x"],
        str![[r#"
error: `system` is a builtin server

hint: give yours another name

"#]],
    );
    check_refused(
        &["x"],
        str![[r#"
error: nothing says what the server is

hint: `osvm mcp add x URL`, or `osvm mcp add x -- COMMAND`

"#]],
    );
    check_refused(
        &["x", "npx"],
        str![[r#"
error: `npx` names no server

hint: for a command put `--` in front of it: `osvm mcp add NAME -- COMMAND ARGS`

"#]],
    );
}

#[test]
fn a_source_that_cannot_be_one_is_refused() {
    check_refused(
        &["x", "npx://--eval"],
        str![[r#"
error: `--eval` is not the name of a package

hint: write `npx://name@1.2.3` or `uvx://name==1.2.3`

"#]],
    );
    check_refused(
        &["x", "wss://x.example"],
        str![[r#"
error: `wss://x.example` is not the address of a server: MCP has no WebSocket transport: use `http` or `stdio`

"#]],
    );
    check_refused(
        &["x", "--transport", "sse", "https://x.example"],
        str![[r#"
error: invalid value 'sse' for '--transport <TRANSPORT>': HTTP+SSE is deprecated: use `http` with the server's Streamable HTTP endpoint

For more information, try '--help'.

"#]],
    );
    check_refused(
        &["x", "--transport", "websocket", "https://x.example"],
        str![[r#"
error: invalid value 'websocket' for '--transport <TRANSPORT>': MCP has no WebSocket transport: use `http` or `stdio`

For more information, try '--help'.

"#]],
    );
    check_refused(
        &["x", "--transport", "http", "--", "x"],
        str![[r#"
error: `--transport http` takes a URL, not a program

"#]],
    );
    check_refused(
        &["x", "-e", "A=b", "https://x.example"],
        str![[r#"
error: variables and a working directory are for servers with a command

"#]],
    );
    check_refused(
        &["x", "--header", "A: b", "--", "x"],
        str![[r#"
error: headers and bearer tokens are for servers with a URL

"#]],
    );
    check_refused(
        &["x", "--env-from-secret", "A=b c", "--", "x"],
        str![[r#"
error: `[HOME]/.config/osvm/mcp_servers.json` line 8 column 14: `mcpServers.x.envFromSecret.A` is `…`: a secret's name is 1 to 64 letters, digits, `_` and `-`

"#]],
    );
}

#[test]
fn a_repository_is_pinned_and_needs_somebodys_consent() {
    let home = Home::without_images();
    let Some((url, commit)) = repository(&home) else { return };
    let source = format!("git+{url}@main");
    let refused = home.osvm_std(&["mcp", "add", "x", &source]);
    let refused = { refused }.env("PATH", std::env::var_os("PATH").unwrap()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(!list(&home).exists());
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains(&commit), "{stderr}");
    assert!(stderr.contains("there is no terminal to ask on"), "{stderr}");

    let mut add = home.osvm_std(&["mcp", "add", "x", "-y", &source]);
    let added = add.env("PATH", std::env::var_os("PATH").unwrap()).output().unwrap();
    let stderr = String::from_utf8(added.stderr).unwrap();
    assert_eq!(added.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("it can run once there is an image of its source"), "{stderr}");
    let text = fs::read_to_string(list(&home)).unwrap();
    assert!(text.contains(&format!("\"source\": \"git+{url}@{commit}\"")), "{text}");
}

#[test]
fn a_reference_that_a_repository_does_not_have_is_named() {
    let home = Home::without_images();
    let Some((url, _)) = repository(&home) else { return };
    let mut add = home.osvm_std(&["mcp", "add-github", &format!("{url}@nowhere"), "-y"]);
    let refused = add.env("PATH", std::env::var_os("PATH").unwrap()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("the repository has no branch or tag `nowhere`"), "{stderr}");
}

#[test]
fn a_server_json_is_added_by_its_name() {
    let home = Home::without_images();
    home.write(
        "server.json",
        r#"{"name": "io.x/weather", "packages": [{"registryType": "pypi", "identifier": "weather",
            "version": "1.0", "environmentVariables": [{"name": "KEY", "isSecret": true}]}]}"#,
    );
    let add = ["mcp", "add", "sky", "server.json", "--execution-mode", "microvm"];
    home.osvm(add)
        .assert()
        .code(0)
        .stdout_eq(str![[r#"
added server `sky` to `[HOME]/.config/osvm/mcp_servers.json`

"#]])
        .stderr_eq(str![[r#"
note: weather: needs secret `KEY`: `osvm secret set KEY`
note: `sky` will see the value of secret `KEY`

"#]]);
    home.osvm(["mcp", "get", "sky"]).assert().code(0).stdout_eq(str![[r#"
name           sky
type           stdio
mode           microvm
enabled        true
from           file
command        uvx weather@1.0
envFromSecret  KEY is secret KEY
source         uvx://weather==1.0

"#]]);
}

/// A repository with one commit, as its address and that commit; `None`, said on stderr, without git.
fn repository(home: &Home) -> Option<(String, String)> {
    let dir = home.path().join("repository");
    fs::create_dir(&dir).unwrap();
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@b.example"]).args(args);
        git.current_dir(&dir).env("HOME", home.path());
        git.output().ok().filter(|output| output.status.success())
    };
    if git(&["init", "-q", "-b", "main"]).is_none() {
        eprintln!("SKIPPED: there is no git here");
        return None;
    }
    git(&["commit", "-q", "--allow-empty", "-m", "first"]).unwrap();
    let commit = String::from_utf8(git(&["rev-parse", "HEAD"]).unwrap().stdout).unwrap();
    Some((format!("file://{}", dir.display()), commit.trim().to_owned()))
}

/// Adds a server and checks what is printed, noted, and written.
#[track_caller]
fn check_added(args: &[&str], stdout: Inline, stderr: Inline, written: Inline) {
    let home = Home::without_images();
    let command: Vec<&str> = ["mcp", "add"].iter().chain(args).copied().collect();
    home.osvm_of(&command).assert().code(0).stdout_eq(stdout).stderr_eq(stderr);
    snapbox::assert_data_eq!(fs::read_to_string(list(&home)).unwrap(), written);
}

#[track_caller]
fn check_refused(args: &[&str], stderr: Inline) {
    let home = Home::without_images();
    let command: Vec<&str> = ["mcp", "add"].iter().chain(args).copied().collect();
    home.osvm_of(&command).assert().code(2).stdout_eq("").stderr_eq(stderr);
    assert!(!list(&home).exists());
}
