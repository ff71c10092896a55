//! The program itself, over stdin and stdout and over the kernel's vsock loopback.

use crate::support::answers;
use osvm_protocol::{PORT, frame};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use vsock::{VMADDR_CID_LOCAL, VsockStream};

const PROGRAM: &str = env!("CARGO_BIN_EXE_unikraft_tool_executor");

fn request(id: u64, tool: &str, params: &Value) -> Vec<u8> {
    let request = json!({"jsonrpc": "2.0", "id": id, "server_id": "system", "method": tool, "params": params});
    frame::encode(request.to_string().as_bytes()).unwrap()
}

fn run(option: &str, input: &[u8]) -> Output {
    let mut child = Command::new(PROGRAM)
        .arg(option)
        .env_clear()
        .env("TOKEN", "secret value")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn stdio_serves_one_connection_and_ends() {
    let input = [request(1, "echo", &json!({"text": "hi"})), request(2, "guest_info", &json!({}))];
    let output = run("--stdio", &input.concat());
    assert!(output.status.success());
    assert_eq!(output.stderr, b"");
    let answers = answers(&output.stdout);
    assert_eq!(answers[0]["result"], json!({"text": "hi"}));
    let info = &answers[1]["result"];
    assert_eq!(info["platform"], "linux");
    assert_eq!(info["env"], json!(["TOKEN"]));
    assert_eq!(info["build"].as_str().unwrap().len(), 32);
    assert!(info["memory_bytes"].as_u64().unwrap() > 1 << 20);
}

#[test]
fn stdio_ends_quietly_when_the_framing_is_broken() {
    let output = run("--stdio", &[0xff; 64]);
    assert!(output.status.success());
    assert_eq!((output.stdout, output.stderr), (vec![], vec![]));
}

#[test]
fn the_manifest_is_printed_as_json() {
    let output = run("--list-tools", b"");
    assert!(output.status.success());
    let tools: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(tools.iter().any(|tool| tool["name"] == "decode_transaction"));
}

#[test]
fn help_and_version_go_to_stdout() {
    let version = String::from_utf8(run("--version", b"").stdout).unwrap();
    assert!(version.starts_with("unikraft_tool_executor 0.1.0 (build "), "{version}");
    let help = String::from_utf8(run("--help", b"").stdout).unwrap();
    assert!(help.contains("--stdio") && help.contains("5252"), "{help}");
}

#[test]
fn an_unknown_option_is_an_error_with_a_way_out() {
    let output = run("--stdin", b"");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stdout, b"");
    let expected = "error: unknown option `--stdin`\n\nhint: run `unikraft_tool_executor --help`\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
}

#[test]
fn vsock_serves_several_hosts_at_once() {
    let mut program = Serving::start();
    let Some(mut first) = program.connect() else { return };
    let mut second = program.connect().unwrap();
    // The first says nothing while the second is served.
    second.write_all(&request(1, "echo", &json!({"text": "second"}))).unwrap();
    second.shutdown(Shutdown::Write).unwrap();
    let mut sent = Vec::new();
    second.read_to_end(&mut sent).unwrap();
    assert_eq!(answers(&sent)[0]["result"], json!({"text": "second"}));

    first.write_all(&request(2, "echo", &json!({"text": "first"}))).unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    let mut sent = Vec::new();
    first.read_to_end(&mut sent).unwrap();
    assert_eq!(answers(&sent)[0]["result"], json!({"text": "first"}));
}

/// The program serving vsock, ended when dropped.
struct Serving(Child);

impl Serving {
    fn start() -> Self {
        Self(Command::new(PROGRAM).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Connects by the kernel's own loopback. `None`, and a line that says so, on a host without.
    fn connect(&mut self) -> Option<VsockStream> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let error = match VsockStream::connect_with_cid_port(VMADDR_CID_LOCAL, PORT) {
                Ok(stream) => return Some(stream),
                Err(error) => error,
            };
            if let Some(status) = self.0.try_wait().unwrap() {
                let mut said = String::new();
                self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                return skip(&format!("the program cannot listen ({status}): {said}"));
            }
            let is_starting = error.kind() == io::ErrorKind::ConnectionReset;
            if !is_starting || deadline < Instant::now() {
                return skip(&format!("cannot connect to CID {VMADDR_CID_LOCAL}: {error}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Says what is missing. Where the environment demands it, that is a failure.
fn skip<T>(reason: &str) -> Option<T> {
    let demanded = std::env::var("OSVM_REQUIRE").unwrap_or_default();
    assert!(!demanded.split(',').any(|one| one == "vsock"), "OSVM_REQUIRE=vsock, but {reason}");
    eprintln!("skipped: no vsock loopback on this host: {reason}");
    None
}
