//! The file of each client: what is written into it, and what stays.

use super::*;

#[test]
fn each_client_gets_the_members_that_it_reads() {
    check_new(
        Client::ClaudeDesktop,
        "{\n  \"mcpServers\": {\n    \"osvm\": {\n      \"command\": \"/bin/osvm\",\n      \"args\": [\"mcp\", \"serve\"]\n    }\n  }\n}\n",
    );
    check_new(
        Client::Cursor,
        "{\n  \"mcpServers\": {\n    \"osvm\": {\n      \"command\": \"/bin/osvm\",\n      \"args\": [\"mcp\", \"serve\"]\n    }\n  }\n}\n",
    );
    check_new(
        Client::ClaudeCode,
        "{\n  \"mcpServers\": {\n    \"osvm\": {\n      \"type\": \"stdio\",\n      \"command\": \"/bin/osvm\",\n      \"args\": [\"mcp\", \"serve\"]\n    }\n  }\n}\n",
    );
    check_new(
        Client::VsCode,
        "{\n  \"servers\": {\n    \"osvm\": {\n      \"type\": \"stdio\",\n      \"command\": \"/bin/osvm\",\n      \"args\": [\"mcp\", \"serve\"]\n    }\n  }\n}\n",
    );
    check_new(
        Client::Codex,
        "[mcp_servers.osvm]\ncommand = \"/bin/osvm\"\nargs = [\"mcp\", \"serve\"]\n",
    );
}

#[test]
fn everything_else_in_a_file_stays_byte_for_byte() {
    check_kept(
        Client::ClaudeCode,
        "{\"numStartups\": 12, \"n\": 1.50,\n\"mcpServers\": {\"a\": {\"command\": \"x\"}}, \"projects\": {}}\n",
    );
    check_kept(
        Client::ClaudeDesktop,
        "{\n    \"mcpServers\": {\n        \"a\": {\"command\": \"x\"}\n    },\n    \"globalShortcut\": \"\"\n}\n",
    );
    check_kept(
        Client::VsCode,
        "{\n\t// mine\n\t\"servers\": {\n\t\t\"a\": {\"command\": \"x\"}, /* kept */\n\t},\n\t\"inputs\": [],\n}\n",
    );
    check_kept(Client::Cursor, "{\n  \"mcpServers\": {\n    \"a\": {\"command\": \"x\"}\n  }\n}\n");
    check_kept(
        Client::Codex,
        "# mine\nmodel = \"x\" # kept\n\n[mcp_servers.a]\ncommand = \"x\"\n\n[other]\nn = 1.50\n",
    );
}

#[test]
fn connecting_twice_changes_nothing() {
    for client in Client::ALL {
        let once = connect(client, "");
        assert_eq!(connect(client, &once), once, "{client:?}");
    }
}

#[test]
fn an_entry_that_says_something_else_is_brought_up_to_date() {
    let text = r#"{"mcpServers": {"osvm": {"type": "http", "url": "http://127.0.0.1:7777/mcp", "disabled": true}}}"#;
    let after = connect(Client::ClaudeCode, text);
    let entry = Client::ClaudeCode.find(&after, Path::new("f")).unwrap().unwrap();
    assert!(entry.enabled);
    assert_eq!(entry.summary(), "/bin/osvm mcp serve");
    assert!(!after.contains("7777"));
}

#[test]
fn a_file_that_the_client_does_not_read_is_left_alone() {
    let refuse = |client: Client, text| {
        client.connect(text, Path::new("f"), "osvm", &[]).unwrap_err().to_string()
    };
    assert_eq!(
        refuse(Client::ClaudeCode, "{\"a\": 1,}"),
        "`f` line 1 column 9: not JSON: key must be a string"
    );
    assert_eq!(
        refuse(Client::VsCode, "{\"servers\": []}"),
        "`f` can't be edited: `servers` is not an object"
    );
    assert_eq!(
        refuse(Client::ClaudeDesktop, "[]"),
        "`f` can't be edited: `the file` is not an object"
    );
    assert!(refuse(Client::Codex, "a = ").starts_with("`f` line 1 column 5: not TOML"));
    assert_eq!(
        refuse(Client::Codex, "mcp_servers = 1\n"),
        "`f` line 1 column 1: `mcp_servers` must be a table, not another value"
    );
}

#[test]
fn disconnecting_where_osvm_is_not_changes_nothing() {
    for client in Client::ALL {
        assert_eq!(client.disconnect("", Path::new("f")).unwrap(), None, "{client:?}");
    }
}

#[test]
fn files_are_where_each_client_looks_for_them() {
    let places = Places {
        home: "/h".into(),
        xdg_config_home: None,
        claude_config_dir: None,
        codex_home: None,
    };
    let files: Vec<_> =
        Client::ALL.iter().map(|client| client.user_file(&places).display().to_string()).collect();
    assert_eq!(
        files,
        [
            "/h/.config/Claude/claude_desktop_config.json",
            "/h/.claude.json",
            "/h/.cursor/mcp.json",
            "/h/.config/Code/User/mcp.json",
            "/h/.codex/config.toml"
        ]
    );
    let moved = Places {
        xdg_config_home: Some("/x".into()),
        claude_config_dir: Some("/c".into()),
        codex_home: Some("/d".into()),
        ..places
    };
    let files: Vec<_> =
        Client::ALL.iter().map(|client| client.user_file(&moved).display().to_string()).collect();
    assert_eq!(
        files,
        [
            "/x/Claude/claude_desktop_config.json",
            "/c/.claude.json",
            "/h/.cursor/mcp.json",
            "/x/Code/User/mcp.json",
            "/d/config.toml"
        ]
    );
    let files: Vec<_> = Client::ALL
        .iter()
        .map(|client| client.project_file(Path::new("/p")).map(|path| path.display().to_string()))
        .collect();
    assert_eq!(
        files,
        [
            None,
            Some("/p/.mcp.json".into()),
            Some("/p/.cursor/mcp.json".into()),
            Some("/p/.vscode/mcp.json".into()),
            Some("/p/.codex/config.toml".into())
        ]
    );
}

fn connect(client: Client, text: &str) -> String {
    let args = ["mcp".to_owned(), "serve".to_owned()];
    client.connect(text, Path::new("f"), "/bin/osvm", &args).unwrap()
}

#[track_caller]
fn check_new(client: Client, expected: &str) {
    assert_eq!(connect(client, ""), expected);
}

#[track_caller]
fn check_kept(client: Client, text: &str) {
    let connected = connect(client, text);
    assert!(client.find(&connected, Path::new("f")).unwrap().is_some());
    // Lines of the file that have no part in the change are all still there, in order.
    let mut rest = connected.as_str();
    for line in text.lines().filter(|line| !line.contains("}}") && !line.contains("\"x\"}")) {
        let at = rest.find(line).unwrap_or_else(|| panic!("{line:?} is gone from {connected}"));
        rest = &rest[at + line.len()..];
    }
    let disconnected = client.disconnect(&connected, Path::new("f")).unwrap().unwrap();
    let squeezed = |text: &str| text.split_whitespace().collect::<String>().replace(",}", "}");
    assert_eq!(squeezed(&disconnected), squeezed(text), "{client:?}");
}
