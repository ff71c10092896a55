//! The tools of the network against a Solana runtime: `xtask/solana/node.py`, on loopback.
//!
//! The test plays the host: it does for the guest what the broker does, without rules.

use crate::support::{Served, call_with, facts};
use osvm_protocol::code::TOOL_FAILED;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use unikraft_tool_executor::Facts;

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

    /// Calls a tool in a guest that asks this node.
    fn call(&self, server: &str, tool: &str, arguments: &Value) -> Result<Value, (i64, String)> {
        let env = [(Cow::Borrowed("SOLANA_RPC_URL"), Cow::Borrowed(self.url.as_str()))];
        let facts = Facts { env: &env, ..facts() };
        let outcome = call_with(&facts, serve_http, server, tool, arguments);
        outcome.map_err(|(code, message, _)| (code, message))
    }

    #[track_caller]
    fn solana(&self, tool: &str, arguments: Value) -> Value {
        self.call("solana", tool, &arguments).unwrap()
    }

    /// A signed transfer from the key `seed`.
    fn transfer(&self, seed: u8, to: &str, lamports: u64) -> (Value, Value) {
        let blockhash = self.solana("get_latest_blockhash", json!({}))["blockhash"].clone();
        let file = std::env::temp_dir().join(format!("osvm-transfer-{}.json", self.process.id()));
        let wanted = json!({"seed": seed, "to": to, "lamports": lamports, "blockhash": blockhash});
        std::fs::write(&file, wanted.to_string()).unwrap();
        let mut signed: Value =
            serde_json::from_str(&printed(&["transfer", file.to_str().unwrap()])).unwrap();
        std::fs::remove_file(file).unwrap();
        (signed["transaction"].take(), signed["signature"].take())
    }
}

/// What the broker does for `host/http`.
fn serve_http(method: &str, params: &Value) -> Served {
    assert_eq!(method, "host/http");
    let address = params["url"].as_str().unwrap().strip_prefix("http://").unwrap();
    let body = params["body"].as_str().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "{} / HTTP/1.1\r\nhost: {address}\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        params["method"].as_str().unwrap(),
        params["headers"]["content-type"].as_str().unwrap(),
        body.len(),
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    let (mut status, mut length) = (0, 0);
    for line in stream.by_ref().lines() {
        let line = line.unwrap();
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest[..3].parse().unwrap();
        } else if let Some(rest) = line.to_lowercase().strip_prefix("content-length: ") {
            length = rest.parse().unwrap();
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    Ok(json!({"status": status, "headers": {}, "body": String::from_utf8(body).unwrap()}))
}

#[test]
fn lamports_are_handed_out_sent_and_found_again() {
    let Some(node) = Node::start() else { return };
    let (alice, bob) = (printed(&["address", "1"]), printed(&["address", "2"]));
    let start = node.solana("get_slot", json!({}))["slot"].as_u64().unwrap();
    let airdrop = node.solana("request_airdrop", json!({"address": alice, "lamports": 2 * SOL}));

    let (transaction, signature) = node.transfer(1, &bob, SOL + SOL / 2);
    let simulated = node.solana("simulate_transaction", json!({"transaction": transaction}));
    assert_eq!(simulated["error"], Value::Null);
    assert!(simulated["units_consumed"].as_u64().unwrap() > 0);
    let sent = node.solana("send_transaction", json!({"transaction": transaction}));
    assert_eq!(sent, json!({ "signature": signature }));

    let balance = node.solana("get_balance", json!({"address": bob}));
    let expected =
        json!({"balance": 1_500_000_000, "decimals": 9, "sol": "1.5", "slot": start + 2});
    assert_eq!(balance, expected);
    // The runtime takes 5,000 lamports for a signature.
    let balance = node.call("osvm-mcp", "get_solana_balance", &json!({"address": alice})).unwrap();
    assert_eq!(balance["sol"], "0.499995");

    let found = node.solana("get_transaction", json!({ "signature": signature }));
    assert_eq!((&found["error"], &found["fee"]), (&Value::Null, &json!(5000)));
    assert_eq!(found["logs"][1], "Program 11111111111111111111111111111111 success");
    let decoded = &found["transaction"]["instructions"][0]["decoded"];
    assert_eq!(decoded["type"], "transfer");
    assert_eq!(decoded["info"]["lamports"], SOL + SOL / 2);
    let wallet = json!({ "signature": signature });
    assert_eq!(node.call("osvm-mcp", "get_transaction", &wallet).unwrap(), found);

    let listed = node.solana("get_signatures_for_address", json!({"address": alice}));
    let listed: Vec<_> =
        listed["signatures"].as_array().unwrap().iter().map(|one| &one["signature"]).collect();
    assert_eq!(listed, [&signature, &airdrop["signature"]]);
}

#[test]
fn what_the_runtime_refuses_is_told_in_its_words() {
    let Some(node) = Node::start() else { return };
    let (alice, bob) = (printed(&["address", "1"]), printed(&["address", "2"]));
    node.solana("request_airdrop", json!({"address": alice, "lamports": SOL}));
    let (transaction, signature) = node.transfer(1, &bob, 5 * SOL);
    let simulated = node.solana("simulate_transaction", json!({"transaction": transaction}));
    assert_eq!(simulated["error"], json!({"InstructionError": [0, {"Custom": 1}]}));
    let send = |more: Value| {
        let mut arguments = json!({ "transaction": transaction });
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        node.call("solana", "send_transaction", &arguments)
    };
    let (code, message) = send(json!({})).unwrap_err();
    assert_eq!(code, TOOL_FAILED);
    assert!(
        message.starts_with("the node refuses with code -32002: Transaction simulation failed")
    );
    // Nothing of it is on the chain, until it is sent without a look.
    let get = json!({ "signature": signature });
    let (_, message) = node.call("solana", "get_transaction", &get).unwrap_err();
    assert_eq!(message, "the node knows no such transaction, or not with this commitment");
    send(json!({"skip_preflight": true})).unwrap();
    let found = node.solana("get_transaction", get);
    assert_eq!(found["error"], json!({"InstructionError": [0, {"Custom": 1}]}));
    assert_eq!(found["fee"], 5000);
    let (_, message) = node.call("solana", "get_block", &json!({"slot": 1})).unwrap_err();
    assert_eq!(message, "the node refuses with code -32601: Method not found");
}

#[test]
fn accounts_and_the_chain_itself_are_read() {
    let Some(node) = Node::start() else { return };
    let (alice, bob) = (printed(&["address", "1"]), printed(&["address", "2"]));
    node.solana("request_airdrop", json!({"address": alice, "lamports": SOL}));
    let account = json!({"address": alice, "lamports": SOL,
        "owner": "11111111111111111111111111111111", "executable": false, "size_bytes": 0,
        "data_base64": ""});
    let found = node.solana("get_account_info", json!({"address": alice}));
    assert_eq!(found["account"], account);
    let found = node.solana("get_multiple_accounts", json!({"addresses": [alice, bob]}));
    assert_eq!(found["accounts"], json!([account, null]));
    let owned = json!({"program_id": "11111111111111111111111111111111", "limit": 1, "filters": [{"data_size": 0}]});
    let found = node.solana("get_program_accounts", owned);
    assert!(found["total"].as_u64().unwrap() >= 2, "the faucet's and this one: {found}");
    assert_eq!(found["accounts"].as_array().unwrap().len(), 1);
    let tokens = node.solana("get_token_accounts", json!({"owner": alice}));
    assert_eq!(tokens["accounts"], json!([]));
    let (_, message) =
        node.call("solana", "get_token_supply", &json!({"mint": alice})).unwrap_err();
    assert_eq!(message, "the node refuses with code -32602: Invalid params: not a Token mint");

    assert_eq!(node.solana("get_block_height", json!({})), json!({"block_height": 1}));
    let epoch = node.solana("get_epoch_info", json!({}));
    assert_eq!(epoch["absolute_slot"], node.solana("get_slot", json!({}))["slot"]);
    // (128 + 165) bytes at 3,480 lamports per byte and year, for two years.
    let rent = node.solana("get_minimum_balance_for_rent_exemption", json!({"size_bytes": 165}));
    assert_eq!(rent, json!({"lamports": 2_039_280}));
    let version = node.call("osvm-mcp", "solana_rpc_call", &json!({"method": "getVersion"}));
    assert_eq!(version.unwrap()["result"]["solana-core"], "2.3.0");
}
