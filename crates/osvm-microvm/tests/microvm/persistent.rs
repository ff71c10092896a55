//! A server that lives on in one guest, reached through a link.

use crate::guest::{Bench, Runtime, call, soon};
use osvm_microvm::{Cloned, MicroVmError, Persistent};
use osvm_upstream::{Launch, Link, Stop};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The client's end of a link.
pub(crate) struct Client {
    lines: BufReader<Box<dyn Read + Send>>,
    write: Option<Box<dyn Write + Send>>,
    end: Box<dyn osvm_upstream::EndLink>,
    vm: String,
}

impl Client {
    pub(crate) fn new(link: Link) -> Self {
        let vm = format!("/proc/{}", link.facts["vm_pid"]);
        Self { lines: BufReader::new(link.read), write: Some(link.write), end: link.end, vm }
    }

    fn send(&mut self, message: &Value) {
        let write = self.write.as_mut().unwrap();
        writeln!(write, "{message}").unwrap();
    }

    pub(crate) fn ask(&mut self, id: u32, method: &str, params: &Value) -> Value {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["id"], id, "{line}");
        answer["result"].clone()
    }

    fn tool(&mut self, id: u32, tool: &str) -> String {
        let result = self.ask(id, "tools/call", &call(tool));
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }
}

fn persistent(bench: &Bench) -> Option<Client> {
    let recipe = bench.recipe(Runtime::Node)?;
    let server = Persistent::new(bench.host.clone(), recipe);
    assert!(!server.once());
    let link = server.launch(soon(), &Stop::default()).unwrap();
    assert!((100..200).contains(&link.facts["cid"].as_u64().unwrap()));
    Some(Client::new(link))
}

#[test]
fn a_persistent_server_remembers_and_ends_in_order() {
    let Some(bench) = Bench::new() else { return };
    let Some(mut client) = persistent(&bench) else { return };
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
    assert_eq!(client.ask(1, "initialize", &params)["serverInfo"]["name"], "fixture");
    assert_eq!((client.tool(2, "count"), client.tool(3, "count")), ("1".into(), "2".into()));
    assert_eq!(
        (client.tool(4, "write"), client.tool(5, "read")),
        ("written".into(), "there".into())
    );
    let status = client.tool(6, "status");
    assert!(status.contains("Uid:\t1000\t1000") && status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");

    // Closing stdin is how a server is told; this one ends by itself.
    client.write = None;
    let ending = Instant::now();
    client.end.end(Duration::from_secs(10));
    assert!(ending.elapsed() < Duration::from_secs(10), "it had to be killed");
    assert!(!Path::new(&client.vm).exists());
    let mut rest = String::new();
    client.lines.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert_eq!(client.end.last_words().as_deref(), Some("the server exited with code 0"));
}

#[test]
fn a_server_that_exits_ends_its_link_and_says_how() {
    let Some(bench) = Bench::new() else { return };
    let Some(mut client) = persistent(&bench) else { return };
    client
        .send(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call("exit")}));
    let mut rest = String::new();
    client.lines.read_to_string(&mut rest).unwrap();
    assert_eq!(client.end.last_words().as_deref(), Some("the server exited with code 3"));
}

#[test]
fn dropping_a_link_ends_its_guest() {
    let Some(bench) = Bench::new() else { return };
    let Some(client) = persistent(&bench) else { return };
    let vm = client.vm.clone();
    assert!(Path::new(&vm).exists());
    drop(client);
    assert!(!Path::new(&vm).exists());
}

#[test]
fn a_cloned_server_is_greeted_already_and_forgets() {
    let Some(bench) = Bench::new() else { return };
    let Some(recipe) = bench.recipe(Runtime::Node) else { return };
    let server = Cloned::new(bench.host.clone(), recipe, 1).unwrap();
    assert!(server.once());
    for _ in 0..2 {
        let link = server.launch(soon(), &Stop::default()).unwrap();
        assert!((200..300).contains(&link.facts["cid"].as_u64().unwrap()));
        let greeting: Value = serde_json::from_str(link.greeting.as_ref().unwrap().get()).unwrap();
        assert_eq!(greeting["protocolVersion"], "2025-11-25");
        let mut client = Client::new(link);
        assert_eq!(client.tool(1, "count"), "1");
    }
}

#[test]
fn a_server_with_secrets_is_refused_clone_life_with_the_way_out() {
    let Some(bench) = Bench::new() else { return };
    let Some(mut recipe) = bench.recipe(Runtime::Node) else { return };
    recipe.secrets.push(("TOKEN".into(), "s3cret".into()));
    let refused = Cloned::new(bench.host.clone(), recipe, 1).unwrap_err();
    assert!(matches!(refused, MicroVmError::Secrets));
    assert_eq!(refused.hint().as_deref(), Some("give it `\"life\": \"persistent\"`"));
}
