//! What is added to requests, and what is taken out of answers.

use super::*;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

const LEGACY: Meta<'_> = Meta {
    era: Era::Legacy,
    version: "2025-11-25",
    capabilities: None,
    info: None,
    level: Some("debug"),
    progress: false,
};

#[test]
fn parameters_without_meta_stay_the_text_they_are() {
    check(Some(r#"{"b":1.0,"a":{"x":[1e400]}}"#), &LEGACY, Some(r#"{"b":1.0,"a":{"x":[1e400]}}"#));
    check(Some("{}"), &LEGACY, Some("{}"));
    check(None, &LEGACY, None);
}

#[test]
fn a_message_is_one_line() {
    check(Some("{\n  \"a\": [\r\n1,\n2]}"), &LEGACY, Some(r#"{"a":[  1, 2]}"#));
}

#[test]
fn a_progress_token_becomes_ours_and_is_remembered() {
    let given = raw(r#"{"_meta":{"traceparent":"t","progressToken":"mine"},"name":"x"}"#);
    let edited = params(Some(&given), &LEGACY, 7).unwrap();
    let expected = r#"{"name":"x","_meta":{"traceparent":"t","progressToken":7}}"#;
    assert_eq!(edited.text.as_deref(), Some(expected));
    assert_eq!(edited.token.unwrap().get(), r#""mine""#);
    check(None, &Meta { progress: true, ..LEGACY }, Some(r#"{"_meta":{"progressToken":7}}"#));
}

#[test]
fn words_of_the_new_era_are_kept_from_an_old_server() {
    let given = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
        "io.modelcontextprotocol/clientCapabilities":{},"x":1}}"#;
    check(Some(given), &LEGACY, Some(r#"{"_meta":{"x":1}}"#));
}

#[test]
fn a_modern_request_says_who_asks() {
    let (capabilities, info) = (raw(r#"{"roots":{}}"#), raw(r#"{"name":"c","version":"1"}"#));
    let meta = Meta {
        era: Era::Modern,
        version: "2026-07-28",
        capabilities: Some(&capabilities),
        info: Some(&info),
        ..LEGACY
    };
    let expected = concat!(
        r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
        r#""io.modelcontextprotocol/clientCapabilities":{"roots":{}},"#,
        r#""io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},"#,
        r#""io.modelcontextprotocol/logLevel":"debug"}}"#,
    );
    check(None, &meta, Some(expected));
}

#[test]
fn parameters_that_are_no_object_are_refused() {
    for given in ["[1]", "null", "1"] {
        assert!(params(Some(&raw(given)), &LEGACY, 1).is_none());
    }
}

#[test]
fn progress_comes_back_under_the_token_it_was_asked_for() {
    let told = raw(r#"{"progress":1,"progressToken":7,"message":"m"}"#);
    let back = with_token(&told, Some(&raw(r#""mine""#))).unwrap();
    assert_eq!(back.get(), r#"{"progress":1,"progressToken":"mine","message":"m"}"#);
}

#[test]
fn what_is_written_is_json_rpc() {
    assert_eq!(request(1, "a\"b", None), r#"{"jsonrpc":"2.0","id":1,"method":"a\"b"}"#);
    assert_eq!(notification("n", Some("{\n}")), r#"{"jsonrpc":"2.0","method":"n","params":{ }}"#);
    assert_eq!(
        answer(&raw(r#""q""#), Err(&raw(r#"{"code":1}"#))),
        r#"{"jsonrpc":"2.0","id":"q","error":{"code":1}}"#
    );
}

#[track_caller]
fn check(given: Option<&str>, meta: &Meta<'_>, expected: Option<&str>) {
    let given = given.map(raw);
    let edited = params(given.as_deref(), meta, 7).unwrap();
    assert_eq!(edited.text.as_deref(), expected);
}
