//! What the model is told about a call, and which requests are none.

use super::outcome::structured;
use super::*;
use crate::words::Era;

#[test]
fn a_result_that_is_no_object_is_structured_content_only_where_that_is_allowed() {
    let raw = |text: &str| RawValue::from_string(text.into()).unwrap();
    let (list, object) = (raw("[1.0e2]"), raw(r#"{"a":1.0e2}"#));
    let text = |value, era| structured(value, era).map(RawValue::get);
    assert_eq!(text(&list, Era::Stateless), Some("[1.0e2]"));
    assert_eq!(text(&list, Era::Handshake), None);
    assert_eq!(text(&object, Era::Handshake), Some(r#"{"a":1.0e2}"#));
}

#[test]
fn only_a_stateless_result_says_its_type() {
    let json = |era| serde_json::to_string(&busy(era)).unwrap();
    assert!(json(Era::Stateless).starts_with(r#"{"resultType":"complete","content":["#));
    assert!(json(Era::Handshake).starts_with(r#"{"content":["#));
}

#[test]
fn an_error_of_osvm_says_its_cause_and_what_to_do() {
    let result = busy(Era::Handshake);
    let json: serde_json::Value = serde_json::to_value(&result).unwrap();
    assert_eq!(json["isError"], true);
    assert_eq!(json["_meta"]["osvm/isolation"]["error"]["code"], "busy");
    let text = json["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("\n\nhint: wait"), "{text}");
}

#[test]
fn a_call_without_a_known_tool_or_with_arguments_that_are_no_object_is_refused() {
    let catalog = Catalog::default();
    check(&catalog, None, "`tools/call` needs `params` with `name`");
    check(&catalog, Some(r#"{"name":"x"}"#), "no tool is called `x`");
    check(&catalog, Some(r#"{"name":7}"#), "`params` does not fit the method");
    check(&catalog, Some(r#"{"name":"x","name":"y"}"#), "`params` does not fit the method");
}

#[track_caller]
fn check(catalog: &Catalog, params: Option<&str>, message: &str) {
    let params = params.map(|text| RawValue::from_string(text.into()).unwrap());
    let defect = plan(catalog, params.as_deref()).unwrap_err();
    assert!(defect.message.contains(message), "{}", defect.message);
}
