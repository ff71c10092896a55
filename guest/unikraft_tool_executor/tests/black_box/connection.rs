//! What one connection promises, on good and hostile bytes.

use crate::support::{answers, call, converse, serve_bytes};
use osvm_protocol::code::{INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR};
use osvm_protocol::frame::{self, MAX_PAYLOAD};
use proptest::prelude::*;
use serde_json::{Value, json};

const ECHO: &str =
    r#"{"jsonrpc":"2.0","id":1,"server_id":"system","method":"echo","params":{"text":"hi"}}"#;

#[test]
fn echo_returns_its_text() {
    assert_eq!(
        call("system", "echo", &json!({"text": "hi \"é\"\n\u{1}"})),
        Ok(json!({"text": "hi \"é\"\n\u{1}"}))
    );
}

#[test]
fn the_answer_has_not_a_byte_too_many() {
    let sent = serve_bytes(frame::encode(ECHO.as_bytes()).unwrap(), usize::MAX);
    assert_eq!(sent, frame::encode(br#"{"jsonrpc":"2.0","id":1,"result":{"text":"hi"}}"#).unwrap());
}

#[test]
fn requests_are_answered_one_after_the_other() {
    let requests: Vec<_> = (0..200)
        .map(|n| json!({"jsonrpc": "2.0", "id": n, "server_id": "system", "method": "echo", "params": {"text": n.to_string()}}).to_string())
        .collect();
    let payloads: Vec<_> = requests.iter().map(String::as_bytes).collect();
    let answers = converse(&payloads);
    assert_eq!(answers.len(), 200);
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(*answer, json!({"jsonrpc": "2.0", "id": n, "result": {"text": n.to_string()}}));
    }
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let sent = serve_bytes(frame::encode(ECHO.as_bytes()).unwrap(), 1);
    assert_eq!(answers(&sent)[0]["result"], json!({"text": "hi"}));
}

#[test]
fn a_text_id_comes_back_as_it_was() {
    let answer = converse(&[ECHO.replace("\"id\":1", r#""id":"a\"b""#).as_bytes()]);
    assert_eq!(answer[0]["id"], "a\"b");
}

#[test]
fn a_rehearsal_changes_nothing_about_the_answer() {
    let rehearsed = br#"{"jsonrpc":"2.0","id":1,"method":"osvm/info","params":{"rehearse":true}}"#;
    let plain = br#"{"jsonrpc":"2.0","id":1,"method":"osvm/info"}"#;
    let answers = converse(&[rehearsed, plain]);
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn the_guest_says_what_it_is() {
    let answers = converse(&[br#"{"jsonrpc":"2.0","id":1,"method":"osvm/info"}"#]);
    assert_eq!(
        answers[0]["result"],
        json!({"protocol": 1, "name": "unikraft_tool_executor", "build": "0123456789abcdef"})
    );
}

#[test]
fn guest_info_tells_names_of_variables_and_never_values() {
    let info = call("system", "guest_info", &json!({})).unwrap();
    assert_eq!(
        info,
        json!({
            "platform": "osvm-kernel", "protocol": 1, "name": "unikraft_tool_executor",
            "build": "0123456789abcdef", "memory_bytes": 134_217_728,
            "devices": [{"address": "0xfeb00e00", "kind": 19}, {"address": null, "kind": 4}],
            "command_line": "console=none \"quoted\"", "env": ["TOKEN"],
        })
    );
}

#[test]
fn what_is_no_request_gets_an_error_without_an_id() {
    check_refused(b"", PARSE_ERROR);
    check_refused(b"not json", PARSE_ERROR);
    check_refused(b"\xff\xff", PARSE_ERROR);
    check_refused(b"5", INVALID_REQUEST);
    check_refused(b"{}", INVALID_REQUEST);
    check_refused(format!("[{ECHO}]").as_bytes(), INVALID_REQUEST);
    check_refused(br#"{"jsonrpc":"2.0","id":1,"result":5}"#, INVALID_REQUEST);
}

#[test]
fn a_notification_is_not_answered() {
    let silent = ECHO.replace("\"id\":1,", "");
    assert_eq!(converse(&[silent.as_bytes(), ECHO.as_bytes()]).len(), 1);
}

#[test]
fn a_name_that_only_one_server_has_needs_no_server() {
    let request = ECHO.replace("\"server_id\":\"system\",", "");
    assert_eq!(converse(&[request.as_bytes()])[0]["result"], json!({"text": "hi"}));
}

#[test]
fn a_name_that_two_servers_have_needs_a_server() {
    let answers = converse(&[br#"{"jsonrpc":"2.0","id":1,"method":"get_transaction"}"#]);
    let error = &answers[0]["error"];
    assert_eq!(error["code"], METHOD_NOT_FOUND);
    assert_eq!(
        error["message"],
        "tool `get_transaction` belongs to several servers, say which with `server_id`: `solana`, `osvm-mcp`"
    );
}

#[test]
fn what_does_not_exist_is_answered_with_what_does() {
    let (code, message) = call("sistem", "echo", &json!({"text": ""})).unwrap_err();
    assert_eq!(code, METHOD_NOT_FOUND);
    assert_eq!(message, "no server `sistem` in this guest: it has `system`, `solana`, `osvm-mcp`");
    let (code, message) = call("system", "ecko", &json!({"text": ""})).unwrap_err();
    assert_eq!(code, METHOD_NOT_FOUND);
    assert_eq!(
        message,
        "server `system` has no tool `ecko`: it has `echo`, `guest_info`, `read_file`, `list_directory`, `write_file`"
    );
    let (code, message) = call("system", "osvm/info", &json!({})).unwrap_err();
    assert_eq!((code, message.contains("`osvm/info`")), (METHOD_NOT_FOUND, true));
}

#[test]
fn a_length_over_the_limit_ends_the_connection_before_its_bytes_arrive() {
    let mut input = frame::encode(ECHO.as_bytes()).unwrap();
    input.extend_from_slice(&(MAX_PAYLOAD + 1).to_le_bytes());
    input.extend_from_slice(&frame::encode(ECHO.as_bytes()).unwrap());
    assert_eq!(answers(&serve_bytes(input, usize::MAX)).len(), 1);
}

#[test]
fn a_host_that_dies_in_mid_frame_is_gone() {
    let mut input = frame::encode(ECHO.as_bytes()).unwrap();
    for len in 0..input.len() {
        assert_eq!(serve_bytes(input[..len].to_vec(), usize::MAX), b"", "after {len} bytes");
    }
    input.extend_from_slice(&[9, 0]);
    assert_eq!(answers(&serve_bytes(input, usize::MAX)).len(), 1);
}

#[test]
fn the_longest_request_is_answered() {
    let around = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":{"text":""}}"#.len();
    let text = "x".repeat(MAX_PAYLOAD as usize - around);
    let request =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"echo","params":{{"text":"{text}"}}}}"#);
    assert_eq!(request.len(), MAX_PAYLOAD as usize);
    let answers = converse(&[request.as_bytes()]);
    assert_eq!(answers[0]["result"]["text"].as_str().unwrap().len(), text.len());
}

/// So whatever text fits a frame on its way in fits one on its way back.
#[test]
fn no_text_takes_more_room_in_the_answer_than_in_the_request() {
    for piece in ["\\b", "\\f", "\\n", "\\\"", "\\\\", "\\/", "\\u0001", "\u{7f}", "\u{2028}"] {
        let request = ECHO.replace("hi", &piece.repeat(100));
        let sent = serve_bytes(frame::encode(request.as_bytes()).unwrap(), usize::MAX);
        assert!(answers(&sent)[0].get("result").is_some(), "{piece}");
        assert!(sent.len() <= frame::HEADER_LEN + request.len(), "{piece}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered_or_end_the_connection(bytes: Vec<u8>) {
        let _ = answers(&serve_bytes(bytes, usize::MAX));
    }

    #[test]
    fn any_payload_is_answered_at_most_once(payload: Vec<u8>) {
        assert!(converse(&[&payload]).len() <= 1);
    }

    #[test]
    fn any_change_of_one_byte_is_survived(at in 0..ECHO.len(), byte: u8) {
        let mut payload = ECHO.as_bytes().to_vec();
        payload[at] = byte;
        let answers = converse(&[&payload, ECHO.as_bytes()]);
        let last: &Value = answers.last().unwrap();
        assert_eq!(last["result"], json!({"text": "hi"}));
    }

    #[test]
    fn any_text_is_echoed(text in "\\PC*|[\u{0}-\u{ff}]*") {
        assert_eq!(call("system", "echo", &json!({ "text": text })), Ok(json!({ "text": text })));
    }
}

#[track_caller]
fn check_refused(payload: &[u8], code: i64) {
    let answers = converse(&[payload, ECHO.as_bytes()]);
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert_eq!(answers[0]["id"], Value::Null);
    assert_eq!(answers[0]["error"]["code"], code, "{}", String::from_utf8_lossy(payload));
    assert_eq!(answers[1]["result"], json!({"text": "hi"}));
}
