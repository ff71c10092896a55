//! A server that lives on in a microVM: what it says, that it is started again, and how it is told of.
//!
//! The server is the fixture, with the libraries that it is linked to: it starts in a second.

use crate::client::{Client, stateless};
use crate::microvm::{call, home_without_image, osvm, skip};
use crate::serve_servers::{fixture, home_with};
use crate::support::{Home, eventually};
use serde_json::{Value, json};
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// A user whose fixture has an image.
fn home(options: &Value) -> Option<Home> {
    let runs = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if let Some(missing) = ["mkfs.erofs", "strip"].into_iter().find(|program| !runs(program)) {
        skip("microvm", &format!("there is no `{missing}`"));
        return None;
    }
    let home = home_without_image()?;
    let root = home.path().join("root");
    let put = |from: &Path, to: &Path| {
        let to = root.join(to.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    let stripped = home.path().join("stripped");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(fixture()).status();
    assert!(strip.unwrap().success());
    put(&stripped, Path::new("/bin/osvm-fixture"));
    let libraries = Command::new("ldd").arg(&stripped).output().unwrap().stdout;
    let libraries = String::from_utf8(libraries).unwrap();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        put(Path::new(library), Path::new(library));
    }
    // The images of this home are those of other tests too, so the name is one of its own.
    let own = home.path().join(".osvm/images");
    fs::remove_file(&own).unwrap();
    fs::create_dir(own).unwrap();
    let build = ["image", "build", "fixture", "--rootfs", "root", "--memory", "96"];
    let mut build = osvm(&home, &[&build[..], &["--command", "/bin/osvm-fixture"]].concat());
    let built = build.current_dir(home.path()).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    home.write_config(&json!({"mcp_servers": {"fixture": options}}).to_string());
    let servers = json!({"mcpServers": {"fixture": {"command": fixture()}}});
    fs::write(home.config_path().with_file_name("mcp_servers.json"), servers.to_string()).unwrap();
    Some(home)
}

fn in_life(life: &str) -> Value {
    json!({"execution_mode": "microvm", "life": life, "timeout_secs": 120, "ping_secs": 1})
}

/// What it says to the command line and to a client of each era, but for what osvm adds.
fn said(home: &Home) -> Vec<Value> {
    let path = std::env::var("PATH").unwrap();
    let env = [("PATH", path.as_str()), ("OSVM_BACKEND", "qemu")];
    let start = || Client::start_with(home, &["--servers", "fixture"], &env);
    let params = |tool: &str| json!({"name": tool, "arguments": {"text": "hi"}});
    let tools = ["fixture__echo", "fixture__test_error_handling", "fixture__test_image_content"];
    let mut said = vec![call(home, "fixture", "echo", r#"{"text":"hi"}"#)["result"].clone()];
    let mut client = start();
    for (number, tool) in (1..).zip(tools) {
        said.push(client.ask(number, "tools/call", stateless(params(tool))));
    }
    let mut client = start();
    let capabilities = json!({"protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"}});
    client.ask(10, "initialize", capabilities);
    client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    for (number, tool) in (11..).zip(tools) {
        said.push(client.ask(number, "tools/call", params(tool)));
    }
    for answer in said.iter_mut().skip(1) {
        let meta = answer["result"]["_meta"].as_object_mut().unwrap();
        assert!(meta.remove("osvm/isolation").is_some());
        if meta.is_empty() {
            answer["result"].as_object_mut().unwrap().remove("_meta");
        }
    }
    said
}

#[test]
fn a_server_of_both_eras_says_in_a_microvm_what_it_says_directly() {
    let direct = said(&home_with(json!({"execution_mode": "direct"}), &[]));
    // As it wrote it: in the era that it prefers.
    assert_eq!(direct[0]["resultType"], "complete", "{}", direct[0]);
    for life in ["persistent", "clone"] {
        let Some(home) = home(&in_life(life)) else { return };
        for (inside, direct) in said(&home).iter().zip(&direct) {
            assert_eq!(inside, direct, "as {life}");
        }
    }
}

fn status(home: &Home) -> Vec<Value> {
    let listed = osvm(home, &["mcp", "microvm", "status", "--json"]).output().unwrap().stdout;
    serde_json::from_slice(&listed).unwrap_or_default()
}

#[test]
fn a_microvm_that_is_lost_is_started_again_and_told_of_until_somebody_stops_it() {
    let Some(home) = home(&in_life("persistent")) else { return };
    let mut launcher = osvm(&home, &["mcp", "microvm", "launch", "fixture"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let vm = |restarts: u64, pinged: bool| {
        eventually("its state", || {
            let all = status(&home);
            let vm = all.first().filter(|vm| vm["restarts"] == restarts)?.clone();
            (vm["vm_pid"].is_u64() && vm["last_ping"]["answer_ms"].is_u64() == pinged).then_some(vm)
        })
    };
    let first = vm(0, true);
    assert_eq!(first["last_error"], Value::Null, "{first}");
    let kill = |vm: &Value| {
        let killed = Command::new("kill").args(["-KILL", &vm["vm_pid"].to_string()]).status();
        assert!(killed.unwrap().success());
    };
    kill(&first);
    let second = vm(1, true);
    assert_ne!(first["vm_pid"], second["vm_pid"]);
    assert_eq!((&second["deaths"], &second["restarting"]), (&json!(1), &json!(false)));
    assert!(second["last_error"].is_string(), "{second}");
    let table = osvm(&home, &["mcp", "microvm", "status"]).output().unwrap().stdout;
    let table = String::from_utf8(table).unwrap();
    assert!(
        table.contains("RESTARTS") && table.contains("`fixture` failed last because"),
        "{table}"
    );
    // Who ends it on purpose does not want it back.
    assert!(osvm(&home, &["mcp", "microvm", "stop", "fixture"]).status().unwrap().success());
    let mut last = String::new();
    launcher.stderr.take().unwrap().read_to_string(&mut last).unwrap();
    assert!(launcher.wait().unwrap().success(), "{last}");
    assert!(last.contains("all that was launched has ended"), "{last}");
    assert!(status(&home).is_empty());
    assert!(home.processes().is_empty());
}

#[test]
fn more_processors_than_a_microvm_has_are_refused_or_warned_of() {
    let home = Home::without_images();
    let options = json!({"execution_mode": "microvm", "vcpus": 4});
    home.write_config(&json!({"mcp_servers": {"x": options}}).to_string());
    let servers = json!({"mcpServers": {"x": {"command": "npx", "args": ["a@1"]}}});
    fs::write(home.config_path().with_file_name("mcp_servers.json"), servers.to_string()).unwrap();
    let text = |args: &[&str]| {
        let output = osvm(&home, args).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, refused) = text(&["mcp", "microvm", "launch", "x", "--vcpus", "2"]);
    assert_eq!(code, Some(2), "{refused}");
    assert!(
        refused.contains("a microVM can't have 2 vCPUs: its kernel is built for one"),
        "{refused}"
    );
    assert!(refused.contains("hint: leave `--vcpus` out"), "{refused}");
    for (args, note) in [
        (&["config", "validate"][..], "4 vCPUs: a microVM has 1"),
        (&["config", "explain", "x", "t"], "4 vCPUs: a microVM has 1"),
        (&["mcp", "explain", "x"], "4 vCPUs, and a microVM has 1"),
    ] {
        let (_, told) = text(args);
        assert!(told.contains(note), "{args:?}: {told}");
    }
}
