//! Messages, what is none, and which rules a request is under.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

const OK: &str = r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#;

#[test]
fn ids_are_numbers_or_strings_and_come_back_as_they_were() {
    for id in ["0", "-7", "18446744073709551615", r#""a""#, r#""""#] {
        let line = OK.replace('1', id);
        let Ok(Incoming::Request { id: found, .. }) = parse(line.as_bytes()) else {
            panic!("{line}")
        };
        assert_eq!(serde_json::to_string(&found).unwrap(), id);
    }
    for id in ["null", "1.5", "1e2", "true", "[1]", "{}", "184467440737095516160"] {
        refused(&OK.replace('1', id), ErrorCode::INVALID_REQUEST, None);
    }
}

#[test]
fn a_message_without_an_id_is_a_notification() {
    let line = r#"{"jsonrpc":"2.0","method":"n","params":{"a":1}}"#;
    let Ok(Incoming::Notification { method, params }) = parse(line.as_bytes()) else { panic!() };
    assert_eq!((&*method, params.unwrap().get()), ("n", r#"{"a":1}"#));
}

#[test]
fn an_answer_is_told_from_a_request() {
    for member in [r#""result":null"#, r#""error":{"code":1,"message":""}"#] {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,{member}}}"#);
        assert!(matches!(parse(line.as_bytes()), Ok(Incoming::Answer { .. })), "{line}");
        let both = line.replace(r#""id":1"#, r#""id":1,"method":"m""#);
        refused(&both, ErrorCode::INVALID_REQUEST, Some(1));
    }
}

#[test]
fn what_is_no_message_gets_the_code_json_rpc_has_for_it() {
    refused("{", ErrorCode::PARSE_ERROR, None);
    refused("nonsense", ErrorCode::PARSE_ERROR, None);
    refused(&format!(" [{OK}]"), ErrorCode::INVALID_REQUEST, None);
    refused("7", ErrorCode::INVALID_REQUEST, None);
    refused(r#"{"id":1}"#, ErrorCode::INVALID_REQUEST, Some(1));
    refused(&OK.replace("2.0", "1.0"), ErrorCode::INVALID_REQUEST, Some(1));
    refused(&OK.replace(r#""m""#, "7"), ErrorCode::INVALID_REQUEST, Some(1));
    refused(&OK.replace(r#""id""#, r#""method":"x","id""#), ErrorCode::INVALID_REQUEST, None);
    refused(&OK.replace(r#""m""#, r#""m","params":[1]"#), ErrorCode::INVALID_PARAMS, Some(1));
}

#[test]
fn bytes_that_are_not_utf_8_are_refused() {
    let error = parse(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}").unwrap_err();
    assert_eq!(error.defect.code, ErrorCode::PARSE_ERROR);
}

#[test]
fn nesting_of_any_depth_is_passed_over() {
    let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    let line = OK.replace(r#""m""#, &format!(r#""m","params":{{"a":{deep}}}"#));
    let Ok(Incoming::Request { params, .. }) = parse(line.as_bytes()) else { panic!() };
    assert!(Common::read(params).unwrap().era(true).is_ok());
}

#[test]
fn a_request_that_names_its_version_is_stateless() {
    let meta = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
        "io.modelcontextprotocol/clientCapabilities":{}}}"#;
    for handshake in [false, true] {
        assert_eq!(era(meta, handshake).unwrap(), Era::Stateless);
    }
    assert_eq!(era("{}", true).unwrap(), Era::Handshake);
    assert_eq!(era("{}", false).unwrap_err().code, ErrorCode::INVALID_PARAMS);
}

#[test]
fn an_unknown_version_is_refused_with_those_that_are_known() {
    for version in ["2025-11-25", "2027-01-01"] {
        let meta = format!(
            r#"{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}",
            "io.modelcontextprotocol/clientCapabilities":{{}}}}}}"#
        );
        let defect = era(&meta, true).unwrap_err();
        assert_eq!(defect.code, ErrorCode::UNSUPPORTED_PROTOCOL_VERSION);
        let data = defect.data.unwrap();
        assert_eq!(data["requested"], version);
        assert_eq!(data["supported"].as_array().unwrap().last().unwrap(), "2026-07-28");
    }
}

#[test]
fn a_stateless_request_has_to_say_what_its_client_can_do() {
    let meta = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
    assert_eq!(era(meta, true).unwrap_err().code, ErrorCode::INVALID_PARAMS);
}

#[test]
fn progress_tokens_are_strings_or_numbers_to_the_letter() {
    for (token, expected) in [
        (r#""t""#, Some(r#""t""#)),
        ("7", Some("7")),
        ("1.50", Some("1.50")),
        ("null", None),
        ("{}", None),
    ] {
        let params = raw(&format!(r#"{{"_meta":{{"progressToken":{token}}}}}"#));
        let common = Common::read(Some(&params)).unwrap();
        assert_eq!(common.progress_token().map(RawValue::get), expected);
    }
}

/// A request that has everything osvm acts on.
const WHOLE: &str = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"s__t",
    "arguments":{"x":[1.0e2,"\u00e4",null]},"_meta":{"progressToken":7,
    "io.modelcontextprotocol/protocolVersion":"2026-07-28",
    "io.modelcontextprotocol/clientCapabilities":{}}}}"#;

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_one_error(bytes in vec(any::<u8>(), 0..512)) {
        judge(&bytes);
    }

    #[test]
    fn a_message_cut_and_patched_anywhere_is_a_message_or_one_error(
        at in any::<Index>(), length in 0_usize..24, patch in vec(any::<u8>(), 0..24),
    ) {
        let whole = WHOLE.as_bytes();
        let start = at.index(whole.len());
        let end = (start + length).min(whole.len());
        judge(&[&whole[..start], &patch, &whole[end..]].concat());
    }
}

/// Reads bytes as far as the gateway reads any message.
fn judge(bytes: &[u8]) {
    match parse(bytes) {
        Ok(Incoming::Request { params, .. } | Incoming::Notification { params, .. }) => {
            if let Ok(common) = Common::read(params) {
                let _ = (common.version(), common.progress_token(), common.era(false));
            }
            let plan = crate::call::plan(&crate::catalog::Catalog::default(), params);
            assert_eq!(plan.unwrap_err().code, ErrorCode::INVALID_PARAMS);
        }
        Ok(Incoming::Answer { .. }) => {}
        Err(NoMessage { defect, .. }) => assert!(!defect.message.is_empty()),
    }
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.into()).unwrap()
}

fn era(params: &str, handshake: bool) -> Result<Era, Defect> {
    let params = raw(params);
    Common::read(Some(&params))?.era(handshake)
}

#[track_caller]
fn refused(line: &str, code: ErrorCode, id: Option<i128>) {
    let error = parse(line.as_bytes()).unwrap_err();
    assert_eq!(error.defect.code, code, "{line}: {}", error.defect.message);
    assert_eq!(error.id, id.map(Id::Number), "{line}");
}
