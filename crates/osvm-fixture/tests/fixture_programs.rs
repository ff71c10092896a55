//! The programs of this package start, answer, and say how they are used. Being here, with a name
//! of its own, this test also makes a build of all tests build the programs, once and with the
//! features of everything else.
#![cfg(test)]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// What a program writes for this input, which then ends.
fn run(program: &str, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    process.wait_with_output().unwrap()
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}
"#;

const DISCOVER: &str = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}
"#;

#[test]
fn the_server_answers_in_the_era_that_it_is_asked_in_unless_it_speaks_one_only() {
    let server = env!("CARGO_BIN_EXE_osvm-fixture");
    let answers = |arguments: &[&str], input: &str| {
        let said = run(server, arguments, input);
        let said = String::from_utf8(said.stdout).unwrap();
        said.contains(r#""id":1"#) && said.contains(r#""result""#)
    };
    assert!(answers(&[], INITIALIZE) && answers(&[], DISCOVER));
    assert!(answers(&["--legacy-only"], INITIALIZE) && !answers(&["--legacy-only"], DISCOVER));
    assert!(!answers(&["--modern-only"], INITIALIZE) && answers(&["--modern-only"], DISCOVER));
}

#[test]
fn what_is_started_without_its_argument_says_which_one() {
    for (program, usage) in [
        (env!("CARGO_BIN_EXE_compare-servers"), "usage: compare-servers PLAN.json"),
        (env!("CARGO_BIN_EXE_conformance-client"), "usage: conformance-client URL"),
    ] {
        let said = run(program, &[], "");
        assert!(!said.status.success(), "{program}");
        let stderr = String::from_utf8(said.stderr).unwrap();
        assert!(stderr.contains(usage), "{stderr}");
    }
}
