//! What messages promise, on good and hostile payloads.

use super::*;
use crate::frame;
use proptest::prelude::*;

fn payload(frame: &[u8]) -> Vec<u8> {
    frame::split(frame).unwrap().unwrap().payload.to_vec()
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.into()).unwrap()
}

#[test]
fn a_request_is_written_as_the_handbook_shows_it() {
    let frame =
        request(&123.into(), Some("solana"), "get_balance", Some(&raw(r#"{"address":"x"}"#)))
            .unwrap();
    let expected = r#"{"jsonrpc":"2.0","id":123,"server_id":"solana","method":"get_balance","params":{"address":"x"}}"#;
    assert_eq!(String::from_utf8(payload(&frame)).unwrap(), expected);
}

#[test]
fn a_result_keeps_its_text() {
    let text = r#"{"amount":18446744073709551616.50,"unknown":[1.0]}"#;
    let payload = payload(&result(&7.into(), text).unwrap());
    let Message::Response(response) = parse(&payload).unwrap() else { panic!("not a response") };
    assert_eq!(response.id, Some(7.into()));
    assert_eq!(response.outcome.unwrap().get(), text);
}

#[test]
fn an_error_without_an_id_has_the_id_null() {
    let payload = payload(&error(None, &RpcError::new(crate::code::PARSE_ERROR, "no")).unwrap());
    assert_eq!(
        String::from_utf8(payload).unwrap(),
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}"#
    );
}

#[test]
fn a_string_id_comes_back_as_it_was() {
    let payload = payload(&result(&Id::Text("a\"b".into()), "1").unwrap());
    let Message::Response(response) = parse(&payload).unwrap() else { panic!("not a response") };
    assert_eq!(response.id, Some(Id::Text("a\"b".into())));
}

#[test]
fn null_is_a_result() {
    let payload = payload(&result(&7.into(), "null").unwrap());
    let Message::Response(response) = parse(&payload).unwrap() else { panic!("not a response") };
    assert_eq!(response.outcome.unwrap().get(), "null");
}

#[test]
fn unknown_members_are_ignored() {
    let payload = br#"{"jsonrpc":"2.0","id":1,"method":"m","trace":{"a":[1]}}"#;
    assert!(matches!(parse(payload), Ok(Message::Request(_))));
}

#[test]
fn what_is_not_a_message_is_refused_with_the_right_code() {
    use crate::code::{INVALID_REQUEST, PARSE_ERROR};
    check(b"", PARSE_ERROR);
    check(b"{", PARSE_ERROR);
    check(b"\xff\xfe", PARSE_ERROR);
    check(b"[]", INVALID_REQUEST);
    check(b"{}", INVALID_REQUEST);
    check(br#"{"jsonrpc":"1.0","method":"m"}"#, INVALID_REQUEST);
    check(br#"{"jsonrpc":"2.0"}"#, INVALID_REQUEST);
    check(br#"{"jsonrpc":"2.0","method":"m","result":1}"#, INVALID_REQUEST);
    check(br#"{"jsonrpc":"2.0","method":1}"#, INVALID_REQUEST);
    check(br#"{"jsonrpc":"2.0","id":1.5,"method":"m"}"#, INVALID_REQUEST);
    check(br#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, INVALID_REQUEST);
    check(br#"{"jsonrpc":"2.0","method":"m","method":"n"}"#, INVALID_REQUEST);
}

#[test]
fn deep_nesting_in_params_is_carried_without_recursion() {
    let depth = 100_000;
    let params = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let payload = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{params}}}"#);
    assert!(matches!(parse(payload.as_bytes()), Ok(Message::Request(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
        let _ = parse(&bytes);
    }

    #[test]
    fn what_is_written_is_what_is_read(id: u64, server in ".*", method in ".*", text in ".*") {
        let params = raw(&serde_json::to_string(&text).unwrap());
        let payload = payload(&request(&id.into(), Some(&server), &method, Some(&params)).unwrap());
        let Message::Request(request) = parse(&payload).unwrap() else { panic!("not a request") };
        assert_eq!(request.id, Some(id.into()));
        assert_eq!(request.server_id.unwrap(), server);
        assert_eq!(request.method, method);
        assert_eq!(request.params.unwrap().get(), params.get());
    }
}

#[track_caller]
fn check(payload: &[u8], code: i64) {
    assert_eq!(parse(payload).unwrap_err().code(), code, "{}", String::from_utf8_lossy(payload));
}
