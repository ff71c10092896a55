//! Networked tools end to end: unikernels, the broker, and a Solana runtime on loopback
//! (`xtask/solana/node.py`).

use crate::support::Home;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const SOL: u64 = 1_000_000_000;

/// A running node, which ends with its standard input.
struct Node {
    process: Child,
    url: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Python with LiteSVM, running the node's script.
fn script() -> Option<Command> {
    let python = root().join("target/solana/bin/python");
    if !python.exists() {
        eprintln!("SKIPPED: `{}` is missing: `cargo xtask test` makes it", python.display());
        let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
        assert!(!required.contains("solana"), "OSVM_REQUIRE names solana");
        return None;
    }
    let mut command = Command::new(python);
    command.arg(root().join("xtask/solana/node.py"));
    Some(command)
}

fn printed(arguments: &[&str]) -> String {
    let output = script().unwrap().args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Node {
    fn start() -> Option<Self> {
        let mut command = script()?;
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Some(Self { process, url })
    }

    /// A home whose config names this node, with these entries for servers.
    fn home(&self, servers: Value) -> Home {
        let home = Home::new();
        self.configure(&home, servers);
        home
    }

    fn configure(&self, home: &Home, servers: Value) {
        let config = json!({
            "unikernel_dir": home.store().dir(),
            "solana": {"rpc_url": self.url},
            "mcp_servers": servers,
        });
        home.write_config(&config.to_string());
    }
}

/// Lets a person approve a call that was refused for want of it.
fn approve(home: &Home, server: &str, tool: &str, arguments: &Value) {
    let arguments = arguments.to_string();
    let output = home.osvm(["mcp", "call-tool", server, tool, &arguments]).output().unwrap();
    assert!(!output.status.success(), "nobody has approved it");
    let said = String::from_utf8(output.stderr).unwrap();
    let (_, rest) = said.split_once("`osvm approvals allow ").unwrap_or_else(|| panic!("{said}"));
    let (id, _) = rest.split_once('`').unwrap();
    home.osvm(["approvals", "allow", id]).assert().code(0);
}

/// The result of a tool that succeeds.
#[track_caller]
fn call(home: &Home, server: &str, tool: &str, arguments: &Value) -> Value {
    let output =
        home.osvm(["mcp", "call-tool", server, tool, &arguments.to_string()]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a tool that fails says.
#[track_caller]
fn refused(home: &Home, tool: &str, arguments: &Value) -> String {
    let output =
        home.osvm(["mcp", "call-tool", "solana", tool, &arguments.to_string()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn lamports_are_handed_out_sent_and_found_again_each_from_a_unikernel() {
    let Some(node) = Node::start() else { return };
    let granted = json!({"network_enabled": true});
    let home = node.home(json!({"solana": granted, "osvm-mcp": granted}));
    let solana = |tool: &str, arguments: Value| call(&home, "solana", tool, &arguments);
    let (alice, bob) = (printed(&["address", "1"]), printed(&["address", "2"]));

    solana("request_airdrop", json!({"address": alice, "lamports": 2 * SOL}));
    let blockhash = solana("get_latest_blockhash", json!({}))["blockhash"].clone();
    let wanted = json!({"seed": 1, "to": bob, "lamports": SOL, "blockhash": blockhash});
    let file = home.write("transfer.json", wanted.to_string());
    let signed: Value =
        serde_json::from_str(&printed(&["transfer", file.to_str().unwrap()])).unwrap();
    // What cannot be undone takes a person, for whom the first attempt does not wait long.
    let transaction = json!({"transaction": signed["transaction"]});
    let hasty = json!({"network_enabled": true, "timeout_secs": 1});
    node.configure(&home, json!({"solana": hasty}));
    approve(&home, "solana", "send_transaction", &transaction);
    node.configure(&home, json!({"solana": granted, "osvm-mcp": granted}));
    let sent = solana("send_transaction", transaction);
    assert_eq!(sent["signature"], signed["signature"]);

    let balance = solana("get_balance", json!({"address": bob}));
    assert_eq!((&balance["balance"], &balance["sol"]), (&json!(SOL), &json!("1")));
    // The runtime takes 5,000 lamports for a signature.
    let balance = call(&home, "osvm-mcp", "get_solana_balance", &json!({"address": alice}));
    assert_eq!(balance["sol"], "0.999995");
    let found = solana("get_transaction", json!({"signature": sent["signature"]}));
    assert_eq!((&found["error"], &found["fee"]), (&Value::Null, &json!(5000)));
    let decoded = &found["transaction"]["instructions"][0]["decoded"];
    assert_eq!(decoded["info"]["lamports"], SOL);
    home.assert_nothing_left();
}

#[test]
fn without_a_grant_or_a_rule_the_node_is_out_of_reach() {
    let Some(node) = Node::start() else { return };
    let home = node.home(json!({}));
    let said = refused(&home, "get_slot", &json!({}));
    assert!(said.contains("network"), "{said}");
    let home = node.home(json!({"solana": {"network_enabled": true, "egress": []}}));
    let said = refused(&home, "get_slot", &json!({}));
    assert!(said.contains("egress"), "{said}");
    let rule = json!([{"host": "127.0.0.1", "ports": [1]}]);
    let home = node.home(json!({"solana": {"network_enabled": true, "egress": rule}}));
    let said = refused(&home, "get_slot", &json!({}));
    assert!(said.contains("egress"), "{said}");
}

#[test]
fn an_airdrop_is_not_even_asked_for_on_the_main_network() {
    let home = Home::new();
    let config = json!({
        "unikernel_dir": home.store().dir(),
        "mcp_servers": {"solana": {"network_enabled": true}},
    });
    home.write_config(&config.to_string());
    let arguments = json!({"address": "11111111111111111111111111111111", "lamports": 1});
    let said = refused(&home, "request_airdrop", &arguments);
    assert!(said.contains("only test networks hand out lamports"), "{said}");
}
