//! The file: what is read, what is refused, and what an edit leaves alone.

use super::*;
use crate::entry::{Http, Stdio};

const FILE: &str = r#"{
    "note": [1.0, 2e3],
    "mcpServers": {
        "time": {"command": "uvx", "args": ["mcp-server-time"], "timeout": 5.0},

        "notes": {
            "type": "http", "url": "https://n.example/${P:-mcp}",
            "headers": {"X-A": "é\u00e9"}, "x-other": null
        }
    }
}
"#;

#[test]
fn both_transports_are_read_by_type_or_by_what_they_have() {
    let servers = parse(FILE);
    let Target::Stdio(time) = &servers.get("time").unwrap().target else { panic!() };
    assert_eq!(
        (time.command.as_deref(), &*time.args),
        (Some("uvx"), &["mcp-server-time".into()][..])
    );
    let Target::Http(notes) = &servers.get("notes").unwrap().target else { panic!() };
    assert_eq!(notes.headers, [("X-A".to_owned(), "éé".to_owned())]);
    assert_eq!(notes.url, "https://n.example/${P:-mcp}");
}

#[test]
fn a_file_that_is_not_there_is_empty_and_gets_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("osvm/mcp_servers.json");
    assert_eq!(Servers::load(&path).unwrap().iter().count(), 0);
    Servers::update(&path, |servers| servers.set("a", &stdio("x"))).unwrap();
    assert_eq!(Servers::load(&path).unwrap().get("a"), Some(&stdio("x")));
}

#[test]
fn disabling_and_enabling_leaves_the_file_as_it_was() {
    let mut servers = parse(FILE);
    servers.set_enabled("time", false).unwrap();
    assert!(!servers.get("time").unwrap().enabled);
    assert!(servers.text().contains("\"timeout\": 5.0"), "{}", servers.text());
    assert!(servers.text().contains("[1.0, 2e3]") && servers.text().contains("é\\u00e9"));
    servers.set_enabled("time", true).unwrap();
    assert!(servers.get("time").unwrap().enabled);
    assert_eq!(squeezed(servers.text()), squeezed(FILE));
}

#[test]
fn a_change_keeps_what_other_clients_wrote_into_the_entry() {
    let mut servers = parse(FILE);
    let http = Http { url: "https://other.example".into(), ..Http::default() };
    servers.set("notes", &Entry::new(Target::Http(http))).unwrap();
    let expected = FILE
        .replace("https://n.example/${P:-mcp}", "https://other.example")
        .replace("\"headers\": {\"X-A\": \"é\\u00e9\"}, ", "");
    assert_eq!(squeezed(servers.text()), squeezed(&expected));
}

#[test]
fn removing_a_server_leaves_the_others_byte_for_byte() {
    let mut servers = parse(FILE);
    assert!(servers.remove("notes").unwrap());
    assert!(servers.text().contains(
        "\"time\": {\"command\": \"uvx\", \"args\": [\"mcp-server-time\"], \"timeout\": 5.0}"
    ));
    assert_eq!(servers.iter().count(), 1);
    assert!(!servers.remove("notes").unwrap());
}

#[test]
fn disabled_of_other_clients_counts_and_can_be_changed() {
    let mut servers = parse(r#"{"mcpServers": {"a": {"command": "x", "disabled": true}}}"#);
    let entry = servers.get("a").unwrap().clone();
    assert!(!entry.enabled);
    servers.set("a", &entry).unwrap();
    assert!(!servers.get("a").unwrap().enabled);
    servers.set_enabled("a", true).unwrap();
    assert!(servers.get("a").unwrap().enabled);
}

#[test]
fn a_slip_of_a_member_of_ours_is_refused_with_its_place_and_the_nearest() {
    check(
        "{\"mcpServers\": {\n  \"a\": {\"command\": \"x\", \"envFromSecrets\": {}}\n}}",
        "`f.json` line 2 column 25: unknown field `envFromSecrets` in `mcpServers.a`, the nearest \
         known is `envFromSecret`",
    );
}

#[test]
fn transports_that_are_gone_are_named() {
    check(
        r#"{"mcpServers": {"a": {"type": "sse", "url": "https://a.example/sse"}}}"#,
        "`f.json` line 1 column 31: `mcpServers.a.type` is `sse`: HTTP+SSE is deprecated and osvm \
         does not speak it: use `http` with the server's Streamable HTTP endpoint",
    );
    check(
        r#"{"mcpServers": {"a": {"url": "wss://a.example"}}}"#,
        "`f.json` line 1 column 30: `mcpServers.a.url` is `wss://a.example`: MCP has no WebSocket \
         transport: use `http` or `stdio`",
    );
}

#[test]
fn a_name_of_a_builtin_server_is_not_for_another_one() {
    check(
        r#"{"mcpServers": {"system": {"command": "x"}}}"#,
        "`f.json` line 1 column 27: `mcpServers.system` is `system`: this is the name of a builtin \
         server: give yours another",
    );
}

#[test]
fn every_problem_is_told_at_once_and_credentials_in_none() {
    check(
        r#"{"mcpServers": {"a b": {}, "c": {"command": 7}, "d": {"url": "https://x.example",
         "headers": {"K Y": "sk-123"}}, "e": {}}}"#,
        "`f.json` has 4 errors\n  \
         line 1 column 17: `a b` cannot be the name of a server: 1 to 64 letters, digits, `_`, `.` \
         and `-`\n  \
         line 1 column 45: `mcpServers.c.command` must be a string, not a number\n  \
         line 2 column 29: `mcpServers.d.headers[\"K Y\"]` is `…`: a header's name is letters, digits \
         and `-`\n  \
         line 2 column 46: `mcpServers.e` has no `command`, `url` or `source`",
    );
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    check("{\n  \"mcpServers\": x\n}", "`f.json` line 2 column 17: not JSON: expected value");
    check("{\"a\": 1, // b\n}", "`f.json` line 1 column 10: not JSON: key must be a string");
    check(
        "{\"mcpServers\": {}, \"mcpServers\": {}}",
        "`f.json` line 1 column 20: `mcpServers` is already given at line 1 column 2",
    );
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(2000), "]".repeat(2000));
    assert!(Servers::parse(deep.as_bytes(), Path::new("f.json")).is_err());
}

#[test]
fn every_server_is_listed_once_and_the_file_wins() {
    let servers = parse(
        r#"{"mcpServers": {"notes": {"command": "x"}, "solana": {"type": "builtin", "enabled": false}}}"#,
    );
    let environment = crate::from_environment([
        ("MCP_SERVER_NOTES_URL".into(), "https://a.example".into()),
        ("MCP_SERVER_WEB_URL".into(), "https://b.example".into()),
    ]);
    let all = listed(&servers, &environment);
    let all: Vec<_> = all.iter().map(|one| (&*one.name, one.entry.enabled, &one.origin)).collect();
    assert_eq!(
        all,
        [
            ("notes", true, &Origin::File),
            ("osvm-mcp", true, &Origin::Builtin),
            ("solana", false, &Origin::Builtin),
            ("system", true, &Origin::Builtin),
            ("web", true, &Origin::Environment("MCP_SERVER_WEB_URL".into())),
        ]
    );
}

#[test]
fn values_show_in_no_debug_output() {
    let http = Http {
        url: "https://a.example/?key=sk-1".into(),
        headers: vec![("X-A".into(), "sk-2".into())],
        ..Http::default()
    };
    let stdio = Stdio { env: vec![("K".into(), "sk-3".into())], ..Stdio::default() };
    let shown = format!("{:?} {stdio:?}", Entry::new(Target::Http(http)));
    assert!(!shown.contains("sk-"), "{shown}");
}

proptest::proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(
        command in "\\PC{1,20}", args in proptest::collection::vec("\\PC{0,12}", 0..4),
        value in "\\PC{0,20}", enabled: bool,
    ) {
        let stdio = Stdio {
            command: Some(command), args, env: vec![("K".into(), value)],
            env_from_secret: vec![("S".into(), "name".into())], cwd: Some("/d".into()),
        };
        let entry = Entry { enabled, description: Some("é\"\\".into()), ..Entry::new(Target::Stdio(stdio)) };
        let mut servers = parse(FILE);
        servers.set("time", &entry).unwrap();
        assert_eq!(servers.get("time"), Some(&entry));
        assert!(servers.text().contains("\"timeout\": 5.0"));
    }
}

fn stdio(command: &str) -> Entry {
    Entry::new(Target::Stdio(Stdio { command: Some(command.into()), ..Stdio::default() }))
}

fn parse(text: &str) -> Servers {
    Servers::parse(text.as_bytes(), Path::new("f.json")).unwrap()
}

/// Layout aside, which adding and removing a member may change around it.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

#[track_caller]
fn check(text: &str, problem: &str) {
    let problems = Servers::parse(text.as_bytes(), Path::new("f.json")).unwrap_err();
    assert_eq!(problems.to_string(), problem);
}
