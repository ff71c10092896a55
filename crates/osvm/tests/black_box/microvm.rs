//! Configured servers in Linux microVMs, as a user has them: images built by `osvm image build`, both
//! lives, and nothing left behind.
//!
//! What servers say in microVMs is compared with what they say elsewhere by `cargo xtask servers`, which
//! shares the images: they are kept in the target directory.

use crate::support::{Home, eventually};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A server, and what it is made of.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    /// How `osvm image build` gets it.
    pub(crate) build: &'static [&'static str],
    /// The entry's command, which tells how it could be built.
    pub(crate) command: &'static [&'static str],
    pub(crate) env: &'static [(&'static str, &'static str)],
}

const MEMORY: Sample = Sample {
    name: "memory",
    build: &["--npm", "@modelcontextprotocol/server-memory@2026.8.31", "--needs", "state"],
    command: &["npx", "-y", "@modelcontextprotocol/server-memory@2026.8.31"],
    env: &[("MEMORY_FILE_PATH", "/tmp/memory.jsonl")],
};

impl Sample {
    fn env(&self) -> Value {
        let env = self.env.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
        Value::Object(env.collect())
    }
}

pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")
}

/// Says what is missing; that fails where `OSVM_REQUIRE` names `what`.
pub(crate) fn skip(what: &str, why: &str) {
    eprintln!("SKIPPED: {why}");
    let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
    assert!(!required.contains(what), "OSVM_REQUIRE names {what}: {why}");
}

/// A user with kernel, QEMU and the image of a server; `options` are those of the isolation config.
pub(crate) fn home(sample: &Sample, options: &Value) -> Option<Home> {
    let home = home_without_image()?;
    build(&home, sample)?;
    configure(&home, sample, options);
    Some(home)
}

pub(crate) fn home_without_image() -> Option<Home> {
    let guest = [target().join("guest-kernel/vmlinux"), target().join("guest/osvm-init")];
    if let Some(missing) = guest.iter().find(|file| !file.exists()) {
        skip("microvm", &format!("`{}` is missing: run `cargo xtask kernel`", missing.display()));
        return None;
    }
    let qemu = Command::new("qemu-system-x86_64").arg("--version").stdout(Stdio::null()).status();
    if qemu.is_err() {
        skip("microvm", "QEMU is not installed");
        return None;
    }
    let home = Home::without_images();
    let own = home.path().join(".osvm");
    fs::create_dir_all(own.join("guest")).unwrap();
    for file in &guest {
        symlink(fs::canonicalize(file).unwrap(), own.join("guest").join(file.file_name().unwrap()))
            .unwrap();
    }
    let images = target().join("mcp-images/images");
    fs::create_dir_all(&images).unwrap();
    symlink(fs::canonicalize(images).unwrap(), own.join("images")).unwrap();
    Some(home)
}

/// Builds the image, unless an earlier test has.
fn build(home: &Home, sample: &Sample) -> Option<()> {
    let lock = target().join("mcp-images/lock");
    let lock = fs::File::create(lock).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    if osvm(home, &["image", "show", sample.name, "--json"]).output().unwrap().status.success() {
        return Some(());
    }
    let args = [&["image", "build", sample.name], sample.build].concat();
    let built = osvm(home, &args).output().unwrap();
    if !built.status.success() {
        let why = String::from_utf8_lossy(&built.stderr).trim().to_owned();
        skip("packages", &format!("the image of `{}` can't be built: {why}", sample.name));
        return None;
    }
    Some(())
}

fn configure(home: &Home, sample: &Sample, options: &Value) {
    home.write_config(&json!({"mcp_servers": {sample.name: options}}).to_string());
    let (command, args) = sample.command.split_first().unwrap();
    servers(home, &json!({sample.name: {"command": command, "args": args, "env": sample.env()}}));
}

fn servers(home: &Home, servers: &Value) {
    let path = home.config_path().with_file_name("mcp_servers.json");
    fs::write(path, json!({"mcpServers": servers}).to_string()).unwrap();
}

/// `osvm` in that home, which also finds QEMU.
pub(crate) fn osvm(home: &Home, args: &[&str]) -> Command {
    let mut command = home.osvm_std(args);
    command.env("PATH", std::env::var_os("PATH").unwrap()).stdin(Stdio::null());
    // What runs Linux guests on every host.
    command.env("OSVM_BACKEND", "qemu");
    command
}

/// The envelope of one call.
#[track_caller]
pub(crate) fn call(home: &Home, server: &str, tool: &str, arguments: &str) -> Value {
    let args = ["mcp", "call-tool", server, tool, arguments, "--json", "--no-daemon"];
    let Output { stdout, stderr, .. } = osvm(home, &args).output().unwrap();
    serde_json::from_slice(&stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr)))
}

const ENTITY: &str = r#"{"entities":[{"name":"a","entityType":"t","observations":["o"]}]}"#;

fn microvm(life: &str) -> Value {
    json!({"execution_mode": "microvm", "life": life, "timeout_secs": 120})
}

#[test]
fn every_call_gets_a_copy_that_forgets() {
    let Some(home) = home(&MEMORY, &microvm("clone")) else { return };
    let made = call(&home, "memory", "create_entities", ENTITY);
    assert_eq!(made["result"]["structuredContent"]["entities"][0]["name"], "a", "{made}");
    let isolation = &made["isolation"];
    assert_eq!(isolation["mode"], "microvm");
    assert_eq!(isolation["image"], "memory");
    assert!(isolation["cid"].as_u64().is_some_and(|cid| cid >= 200), "{isolation}");
    assert!(isolation["image_digest"].as_str().is_some_and(|d| d.starts_with("sha256:")));
    assert!(isolation["backend"].as_str().is_some_and(|name| name.starts_with("qemu")));
    assert_eq!((&isolation["pooled"], &isolation["reused"]), (&json!(false), &json!(false)));
    // The same template, from the disk, in another process.
    let read = call(&home, "memory", "read_graph", "{}");
    assert_eq!(read["result"]["structuredContent"]["entities"], json!([]), "{read}");
    assert!(read["isolation"]["boot_ms"].as_f64() < made["isolation"]["boot_ms"].as_f64());
    let listed = osvm(&home, &["snapshot", "ls", "--json"]).output().unwrap().stdout;
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    assert_eq!((&listed[0]["server"], &listed[0]["usable"]), (&json!("memory"), &json!(true)));
    assert!(osvm(&home, &["snapshot", "rm", "memory"]).status().unwrap().success());
    home.assert_nothing_left();
}

#[test]
fn a_server_that_lives_on_remembers_and_is_counted() {
    let Some(home) = home(&MEMORY, &microvm("persistent")) else { return };
    let daemon = |args: &[&str]| {
        let output = osvm(&home, &[&["mcp", "call-tool", "memory"], args].concat()).output();
        let output = output.unwrap();
        serde_json::from_slice::<Value>(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    };
    // Nobody asked for a daemon: a server that lives on needs somebody to keep it.
    let made = daemon(&["create_entities", ENTITY, "--json"]);
    assert_eq!(made["result"]["structuredContent"]["entities"][0]["name"], "a", "{made}");
    let read = daemon(&["read_graph", "{}", "--json"]);
    assert_eq!(read["result"]["structuredContent"]["entities"][0]["name"], "a", "{read}");
    let (made, read) = (&made["isolation"], &read["isolation"]);
    assert_eq!((&made["cid"], &made["vm_pid"]), (&read["cid"], &read["vm_pid"]));
    assert!(read["cid"].as_u64().is_some_and(|cid| (100..200).contains(&cid)), "{read}");
    assert_eq!(read["reused"], true);
    let status = osvm(&home, &["status"]).output().unwrap().stdout;
    assert!(String::from_utf8(status).unwrap().starts_with("OSVM: 1μVMs 0uK"));
    assert!(osvm(&home, &["mcp", "microvm", "stop", "memory"]).status().unwrap().success());
    eventually("the microVM to be gone", || {
        let ps = osvm(&home, &["ps", "--json"]).output().unwrap().stdout;
        (ps == b"[]\n").then_some(())
    });
    assert!(osvm(&home, &["daemon", "stop"]).status().unwrap().success());
}

#[test]
fn a_killed_osvm_leaves_no_microvm() {
    let Some(home) = home(&MEMORY, &microvm("clone")) else { return };
    let mut launcher = osvm(&home, &["mcp", "microvm", "launch-many", "4", "memory"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let vms = eventually("four microVMs", || {
        let listed = osvm(&home, &["mcp", "microvm", "status", "--json"]).output().unwrap().stdout;
        let listed: Value = serde_json::from_slice(&listed).unwrap_or_default();
        let pids: Vec<u64> =
            listed.as_array()?.iter().filter_map(|vm| vm["vm_pid"].as_u64()).collect();
        (pids.len() == 4).then_some(pids)
    });
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    eventually("the VM processes to be gone", || {
        vms.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    let ps = osvm(&home, &["ps", "--json"]).output().unwrap().stdout;
    assert_eq!(String::from_utf8(ps).unwrap(), "[]\n");
    assert!(home.processes().is_empty());
}

#[test]
fn a_server_without_an_image_names_the_line_that_builds_it() {
    let Some(home) = home_without_image() else { return };
    home.write_config(r#"{"mcp_servers": {"x": {"use_microvm": true}}}"#);
    let args = ["-y", "@a/b@1.2.3", "/srv"];
    servers(&home, &json!({"x": {"command": "npx", "args": args}}));
    let told = call(&home, "x", "t", "{}");
    let line = "build one: `osvm image build x --npm @a/b@1.2.3 --arg /srv`";
    assert_eq!(told["error"]["hint"], line, "{told}");
    assert_eq!(told["error"]["causes"][1], "Linux image `x` not found");
    assert_eq!(told["isolation"]["mode"], "microvm");
}

#[test]
fn a_server_with_secrets_is_not_copied() {
    let Some(home) = home(&MEMORY, &microvm("clone")) else { return };
    servers(&home, &json!({"memory": {"command": "npx", "env": {"TOKEN": "${HOME}"}}}));
    let told = call(&home, "memory", "read_graph", "{}");
    let hint = "`osvm mcp promote memory` gives it a microVM that lives on";
    assert_eq!(told["error"]["hint"], hint, "{told}");
}

#[test]
fn a_server_is_moved_from_one_life_to_the_other() {
    let home = Home::without_images();
    home.write_config("{}");
    servers(&home, &json!({"x": {"command": "npx", "args": ["a@1"]}}));
    let life = || {
        let explained = osvm(&home, &["config", "explain", "x", "t", "--json"]).output().unwrap();
        let explained: Value = serde_json::from_slice(&explained.stdout).unwrap();
        let options = explained["options"].as_array().unwrap().clone();
        let life = options.into_iter().find(|option| option["name"] == "life");
        life.map_or(Value::Null, |life| life["value"].clone())
    };
    assert_eq!(life(), Value::Null);
    for (command, now) in [("promote", "persistent"), ("demote", "clone")] {
        let would = osvm(&home, &["mcp", command, "x", "--dry-run"]).output().unwrap();
        assert!(String::from_utf8(would.stdout).unwrap().contains("would live"));
        assert_ne!(life(), now);
        assert!(osvm(&home, &["mcp", command, "x"]).status().unwrap().success());
        assert_eq!(life(), now);
    }
}
