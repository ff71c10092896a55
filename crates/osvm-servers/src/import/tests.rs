//! Files of other clients, read and written.

use super::*;
use crate::entry::{Http, Stdio};
use crate::{Format, export};

#[test]
fn mcp_servers_with_remarks_are_read() {
    let imported = read(
        "mcp.json",
        r#"{
        // Cursor
        "mcpServers": {
            "time": {"command": "uvx", "args": ["mcp-server-time"], "env": {"TZ": "${env:TZ}"},},
            "web": {"serverUrl": "https://w.example/mcp", "disabled": true},
            "old": {"type": "sse", "url": "https://o.example/sse"},
            "my server": {"command": "x"},
            "list": [],
        },
    }"#,
    );
    let names: Vec<_> = imported.servers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["time", "web", "my-server"]);
    let Target::Stdio(time) = &imported.servers[0].1.target else { panic!() };
    assert_eq!(time.env, [("TZ".to_owned(), "${TZ}".to_owned())]);
    assert!(!imported.servers[1].1.enabled);
    assert_eq!(
        notes(&imported),
        [
            "old: left out: line 6 column 29: `mcpServers.old.type` is `sse`: HTTP+SSE is deprecated and osvm does not speak it: use `http` with the server's Streamable HTTP endpoint",
            "my server: is called `my-server` here: a name is 1 to 64 letters, digits, `_`, `.` and `-`",
            "list: left out: it is not an object",
        ]
    );
}

#[test]
fn what_vs_code_asks_its_user_for_is_a_secret() {
    let imported = read(
        "mcp.json",
        r#"{
        "inputs": [{"type": "promptString", "id": "api-key", "password": true}],
        "servers": {
            "a": {"type": "stdio", "command": "x", "env": {"KEY": "${input:api-key}", "B": "1"}},
            "b": {"type": "http", "url": "https://b.example", "headers": {"Authorization": "Bearer ${input:api-key}"}},
            "c": {"type": "stdio", "command": "x", "args": ["${workspaceFolder}/a"]}
        }
    }"#,
    );
    let Target::Stdio(a) = &imported.servers[0].1.target else { panic!() };
    assert_eq!(a.env_from_secret, [("KEY".to_owned(), "api-key".to_owned())]);
    assert_eq!(a.env, [("B".to_owned(), "1".to_owned())]);
    let Target::Http(b) = &imported.servers[1].1.target else { panic!() };
    assert_eq!((b.bearer_from_secret.as_deref(), b.headers.len()), (Some("api-key"), 0));
    assert!(!imported.servers[2].1.enabled);
    assert_eq!(
        notes(&imported),
        [
            "a: needs secret `api-key`: `osvm secret set api-key`",
            "b: needs secret `api-key`: `osvm secret set api-key`",
            "c: disabled: only the other client knows `${workspaceFolder}`",
        ]
    );
}

#[test]
fn tables_of_codex_are_read() {
    let imported = read(
        "config.toml",
        r#"
model = "x"
[mcp_servers.time]
command = "uvx"
args = ["mcp-server-time"]
env = { TZ = "UTC" }
env_vars = ["LANG"]
startup_timeout_sec = 20
enabled_tools = ["a"]

[mcp_servers.web]
url = "https://w.example/mcp"
bearer_token_env_var = "TOKEN"
http_headers = { X-A = "b" }
enabled = false

[mcp_servers.system]
command = "x"

[mcp_servers.bad]
command = 7
"#,
    );
    assert_eq!(imported.servers.len(), 2);
    let Target::Stdio(time) = &imported.servers[0].1.target else { panic!() };
    assert_eq!(
        time.env,
        [("TZ".to_owned(), "UTC".to_owned()), ("LANG".to_owned(), "${LANG}".to_owned())]
    );
    let Target::Http(web) = &imported.servers[1].1.target else { panic!() };
    assert_eq!(web.headers[1], ("Authorization".to_owned(), "Bearer ${TOKEN}".to_owned()));
    assert!(!imported.servers[1].1.enabled);
    assert_eq!(
        notes(&imported),
        [
            "time: `enabled_tools` is not taken over",
            "system: left out: this is the name of a builtin server",
            "bad: left out: it has a member of the wrong type",
        ]
    );
}

#[test]
fn a_package_of_the_registry_becomes_a_program() {
    let imported = read(
        "server.json",
        r#"{
        "name": "io.github.user/weather", "description": "Weather", "version": "1.0.0",
        "packages": [
            {"registryType": "oci", "identifier": "docker.io/user/weather", "version": "1.0.0", "transport": {"type": "stdio"}},
            {"registryType": "npm", "identifier": "@user/weather", "version": "1.0.0", "transport": {"type": "stdio"},
             "packageArguments": [{"type": "named", "name": "--mode", "value": "fast"}, {"type": "positional", "valueHint": "city", "isRequired": true}],
             "environmentVariables": [{"name": "API_KEY", "isSecret": true, "isRequired": true}, {"name": "UNIT", "default": "C"}, {"name": "CITY", "isRequired": true}, {"name": "OPTIONAL"}]}
        ]
    }"#,
    );
    let (name, entry) = &imported.servers[0];
    let expected = Stdio {
        command: Some("npx".into()),
        args: ["-y", "@user/weather@1.0.0", "--mode", "fast"].map(str::to_owned).to_vec(),
        env: vec![("UNIT".into(), "C".into()), ("CITY".into(), "${CITY}".into())],
        env_from_secret: vec![("API_KEY".into(), "API_KEY".into())],
        cwd: None,
    };
    assert_eq!((name.as_str(), &entry.target), ("weather", &Target::Stdio(expected)));
    assert_eq!(entry.source.as_deref(), Some("npx://@user/weather@1.0.0"));
    assert_eq!(entry.description.as_deref(), Some("Weather"));
    assert_eq!(
        notes(&imported),
        [
            "weather: add argument `city` yourself",
            "weather: needs secret `API_KEY`: `osvm secret set API_KEY`",
            "weather: needs variable `CITY`",
        ]
    );
}

#[test]
fn without_a_package_it_is_the_endpoint_and_then_the_container() {
    let remote = read(
        "server.json",
        r#"{"name": "a/b", "remotes": [
        {"type": "sse", "url": "https://b.example/sse"},
        {"type": "streamable-http", "url": "https://b.example/mcp", "headers": [{"name": "X-Key", "isSecret": true}]}]}"#,
    );
    let Target::Http(http) = &remote.servers[0].1.target else { panic!() };
    assert_eq!(http.headers_from_secret, [("X-Key".to_owned(), "X-Key".to_owned())]);
    let container = read(
        "server.json",
        r#"{"name": "a/b", "packages": [{"registryType": "oci", "identifier": "ghcr.io/a/b", "version": "2"}]}"#,
    );
    assert_eq!(container.servers[0].1.source.as_deref(), Some("oci://ghcr.io/a/b:2"));
    let nothing = read(
        "server.json",
        r#"{"name": "a/b", "packages": [{"registryType": "nuget", "identifier": "x"}]}"#,
    );
    assert_eq!(
        notes(&nothing),
        ["b: left out: it has no package of npm, PyPI or OCI, and no Streamable HTTP endpoint"]
    );
}

#[test]
fn a_package_with_an_option_for_a_name_is_left_out() {
    let imported = read(
        "server.json",
        r#"{"name": "a/b", "packages": [{"registryType": "npm", "identifier": "--eval=x"}]}"#,
    );
    assert_eq!(notes(&imported), ["b: left out: `--eval=x` is not the name of a package"]);
}

#[test]
fn a_file_of_another_shape_is_refused() {
    let refuse =
        |text: &str, name: &str| import(text.as_bytes(), Path::new(name)).unwrap_err().to_string();
    let shape = "has no `mcpServers`, `servers`, `mcp_servers` or `packages`";
    assert_eq!(refuse("{}", "a.json"), format!("`a.json` {shape}"));
    assert_eq!(refuse("[]", "a.json"), format!("`a.json` {shape}"));
    assert_eq!(refuse("a = 1", "a.toml"), format!("`a.toml` {shape}"));
    assert_eq!(refuse("{", "a.json"), "`a.json` line 1 column 1: not JSON: unterminated object");
    assert_eq!(refuse("a = \n[", "a.toml").split(':').next(), Some("`a.toml` line 1 column 5"));
    assert!(import(b"\xff", Path::new("a.json")).is_err());
}

#[test]
fn each_shape_that_is_exported_can_be_imported_again() {
    let stdio = Stdio {
        command: Some("uvx".into()),
        args: vec!["a b".into()],
        env: vec![("A".into(), "${A}".into())],
        cwd: Some("/d".into()),
        ..Stdio::default()
    };
    let http = Http {
        url: "https://a.example/mcp".into(),
        headers: vec![("X-A".into(), "b".into())],
        bearer_from_secret: Some("KEY".into()),
        ..Http::default()
    };
    let (program, address) = (Entry::new(Target::Stdio(stdio)), Entry::new(Target::Http(http)));
    let servers = [("a", &program), ("b", &address)];
    for (format, file) in
        [(Format::McpServers, "m.json"), (Format::VsCode, "v.json"), (Format::Codex, "c.toml")]
    {
        let exported = export(servers, format);
        let imported = read(file, &exported.text);
        assert_eq!(imported.servers[0], ("a".to_owned(), program.clone()), "{}", exported.text);
        let Target::Http(back) = &imported.servers[1].1.target else { panic!() };
        match format {
            // It knows variables where osvm knows secrets.
            Format::Codex => assert_eq!(back.headers[1].1, "Bearer ${KEY}"),
            Format::McpServers | Format::VsCode => assert_eq!(imported.servers[1].1, address),
        }
    }
}

#[test]
fn what_a_shape_cannot_say_is_told() {
    let mut source = Entry::new(Target::Stdio(Stdio::default()));
    source.source = Some("git+https://a.example/b@c".into());
    let off = Entry {
        enabled: false,
        ..Entry::new(Target::Stdio(Stdio { command: Some("x".into()), ..Stdio::default() }))
    };
    let builtin = Entry::new(Target::Builtin);
    let exported = export([("a", &source), ("b", &off), ("system", &builtin)], Format::VsCode);
    let notes: Vec<_> =
        exported.notes.iter().map(|note| format!("{}: {}", note.server, note.text)).collect();
    assert_eq!(
        notes,
        [
            "a: left out: it has no command, only a source",
            "system: left out: it is part of osvm",
            "b: left out: it is disabled, and the shape can't say so",
        ]
    );
}

fn read(name: &str, text: &str) -> Imported {
    import(text.as_bytes(), Path::new(name)).unwrap()
}

fn notes(imported: &Imported) -> Vec<String> {
    imported.notes.iter().map(|note| format!("{}: {}", note.server, note.text)).collect()
}
