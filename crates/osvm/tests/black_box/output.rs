//! What goes where: results, words for people, log lines.

use crate::support::Home;
use serde_json::Value;
use snapbox::str;
use std::fs::File;
use std::process::Stdio;

const ECHO: [&str; 5] = ["mcp", "call-tool", "system", "echo", r#"{"text":"hi"}"#];

#[test]
fn a_reader_that_goes_away_is_success() {
    let home = Home::without_images();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut schema = home.osvm_std(&["config", "schema"]);
    let output = schema.stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"");
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let home = Home::without_images();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut schema = home.osvm_std(&["config", "schema"]);
    let output = schema.stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        stderr,
        "error: cannot write to stdout\n  caused by: No space left on device (os error 28)\n"
    );
}

#[test]
fn verbose_tells_the_course_of_a_call_on_stderr() {
    let home = Home::new();
    let verbose: Vec<&str> = ["-v"].into_iter().chain(ECHO).collect();
    let output = home.osvm_std(&verbose).output().unwrap();
    assert_eq!(output.stdout, b"{\"text\":\"hi\"}\n");
    let log = String::from_utf8(output.stderr).unwrap();
    let said = [
        "executing tool 'echo' from server 'system'",
        "checking isolation config for system/echo",
        "unikernel execution mode",
        "unikernel image 'unikraft_tool_executor' path=",
        "CID taken cid=200",
        "unikernel booted and ready backend=\"kvm\"",
        "unikernel destroyed destroy_ms=",
    ];
    let mut rest = log.as_str();
    for words in said {
        let at = rest.find(words);
        rest = &rest[at.unwrap_or_else(|| panic!("`{words}` is not in its place in:\n{log}"))..];
    }
}

#[test]
fn log_lines_are_json_when_asked() {
    let home = Home::without_images();
    home.write_config("{}");
    let mut call = home.osvm_std(&ECHO);
    let output = call.env("RUST_LOG", "info").args(["--log-format", "json"]).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let (lines, error) = log.split_once("error: ").unwrap();
    assert!(error.starts_with("unikernel image not found: `"), "{error}");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["level"], "INFO");
    assert_eq!(lines[0]["message"], "executing tool 'echo' from server 'system'");
    let id = lines[0]["span"]["id"].as_str().unwrap();
    assert_eq!(id.len(), 26);
    let reason = &lines.last().unwrap()["message"];
    assert!(reason.as_str().unwrap().contains("unikernel image not found"), "{reason}");
}

#[test]
fn a_log_filter_that_cannot_be_read_is_refused() {
    let home = Home::without_images();
    let ps = home.osvm(["ps"]).env("RUST_LOG", "info=what=no");
    ps.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `RUST_LOG` holds no log filter: `info=what=no`
  caused by: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5
  caused by: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5

hint: try `RUST_LOG=info`

"#]]);
}

#[test]
fn color_is_for_terminals_and_for_those_who_ask() {
    let home = Home::without_images();
    let plain = home.osvm_std(&ECHO).output().unwrap();
    assert!(!plain.stderr.contains(&0x1b));
    let colored = home.osvm_std(&ECHO).args(["--color", "always"]).output().unwrap();
    assert!(colored.stderr.starts_with(b"\x1b["));
}
