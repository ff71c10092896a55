//! What the headers of a stateless request say about its body, which has to be true.
//!
//! Whoever stands between client and server decides by headers, so a request whose headers lie
//! would be let through for another.

use crate::message::Defect;
use crate::raw::{self, Object};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use rmcp::model::ErrorCode;
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Around a value that a header can't carry as it is.
const ENCODED: (&str, &str) = ("=?base64?", "?=");

/// How deep arguments with a header may be.
const MAX_DEPTH: usize = 16;

/// In a schema, the header that repeats an argument.
const ANNOTATION: &str = "x-mcp-header";

/// Whether the headers of a stateless request say what its body says. `schema` is that of the
/// arguments of the tool it calls.
pub(super) fn check(
    headers: &HeaderMap,
    version: &str,
    method: &str,
    params: Option<&RawValue>,
    schema: Option<&RawValue>,
) -> Result<(), Defect> {
    same(headers, "mcp-protocol-version", version)?;
    same(headers, "mcp-method", method)?;
    let params = params.and_then(Object::read);
    let member = match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        _ => None,
    };
    if let Some(name) = member.and_then(|member| params.as_ref()?.text(member)) {
        same(headers, "mcp-name", &name)?;
    }
    if let Some(schema) = schema.filter(|schema| schema.get().contains(ANNOTATION)) {
        let arguments = params.as_ref().and_then(|params| params.get("arguments"));
        let arguments = arguments.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let schema = serde_json::from_str(schema.get()).unwrap_or_default();
        of_arguments(headers, &schema, arguments.as_ref(), 0)?;
    }
    Ok(())
}

/// Checks the headers of those arguments that have one.
fn of_arguments(
    headers: &HeaderMap,
    schema: &Value,
    arguments: Option<&Value>,
    depth: usize,
) -> Result<(), Defect> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return Ok(());
    };
    for (name, schema) in properties.iter().filter(|_| depth < MAX_DEPTH) {
        let argument = arguments.and_then(|arguments| arguments.get(name));
        if let Some(header) = schema.get(ANNOTATION).and_then(Value::as_str) {
            of_argument(headers, &format!("mcp-param-{header}"), argument)?;
        }
        of_arguments(headers, schema, argument, depth + 1)?;
    }
    Ok(())
}

fn of_argument(headers: &HeaderMap, header: &str, argument: Option<&Value>) -> Result<(), Defect> {
    let argument = match argument {
        None | Some(Value::Null) => {
            return if headers.contains_key(header) { Err(mismatch(header)) } else { Ok(()) };
        }
        Some(argument) => argument,
    };
    let said = only(headers, header).and_then(decoded);
    let is = match (argument, said.as_deref()) {
        (Value::String(text), Some(said)) => said == text,
        (Value::Bool(value), Some(said)) => said == value.to_string(),
        // 1, 1.0 and 1e0 are the same number.
        (Value::Number(number), Some(said)) => {
            said == number.to_string()
                || said.parse::<f64>().ok().is_some_and(|said| Some(said) == number.as_f64())
        }
        // Nothing else has a form in headers.
        (Value::Array(_) | Value::Object(_), None) => !headers.contains_key(header),
        _ => false,
    };
    if is { Ok(()) } else { Err(mismatch(header)) }
}

fn same(headers: &HeaderMap, header: &str, expected: &str) -> Result<(), Defect> {
    let found = only(headers, header).and_then(decoded);
    if found.as_deref() == Some(expected) { Ok(()) } else { Err(mismatch(header)) }
}

/// The value of a header that is there once: of two, whoever stands in between may read the other.
fn only<'a>(headers: &'a HeaderMap, header: &str) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(header).iter();
    values.next().filter(|_| values.next().is_none())
}

fn mismatch(header: &str) -> Defect {
    let header = crate::session::shown(header);
    let message = format!("header `{header}` does not say what the body says");
    Defect::new(ErrorCode::HEADER_MISMATCH, message)
}

/// What a header says; `None` when it is not readable.
fn decoded(value: &HeaderValue) -> Option<Cow<'_, str>> {
    let value = value.to_str().ok()?;
    let (start, end) = ENCODED;
    match value.strip_prefix(start).and_then(|rest| rest.strip_suffix(end)) {
        Some(encoded) => {
            let bytes = BASE64_STANDARD.decode(encoded).ok()?;
            String::from_utf8(bytes).ok().map(Cow::Owned)
        }
        None => Some(Cow::Borrowed(value)),
    }
}

/// The schema of a tool's arguments, as clients see it.
pub(super) fn schema_of(definition: &RawValue) -> Option<Box<RawValue>> {
    Object::read(definition)?.get("inputSchema").map(ToOwned::to_owned)
}

/// The name in the parameters of a request.
pub(super) fn name_in(params: Option<&RawValue>) -> Option<String> {
    Object::read(params?)?.get("name").and_then(raw::text).map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.into()).unwrap()
    }

    #[test]
    fn headers_have_to_say_what_the_body_says() {
        let good = [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "a__b"),
        ];
        let params = raw(r#"{"name":"a__b"}"#);
        let check = |pairs: &[(&'static str, &str)]| {
            check(&headers(pairs), "2026-07-28", "tools/call", Some(&params), None)
        };
        check(&good).unwrap();
        for left_out in 0..good.len() {
            let mut pairs = good.to_vec();
            pairs.remove(left_out);
            assert_eq!(check(&pairs).unwrap_err().code, ErrorCode::HEADER_MISMATCH);
            pairs.push((good[left_out].0, "other"));
            assert_eq!(check(&pairs).unwrap_err().code, ErrorCode::HEADER_MISMATCH);
            // Said twice, even truly the first time.
            let mut twice = headers(&good);
            twice.append(good[left_out].0, "other".parse().unwrap());
            let checked = super::check(&twice, "2026-07-28", "tools/call", Some(&params), None);
            assert_eq!(checked.unwrap_err().code, ErrorCode::HEADER_MISMATCH);
        }
    }

    #[test]
    fn what_a_header_can_not_carry_is_encoded() {
        let said = |value: &str| decoded(&value.parse().unwrap()).map(Cow::into_owned);
        assert_eq!(said("=?base64?w6Q=?=").unwrap(), "ä");
        assert_eq!(said("plain ?=").unwrap(), "plain ?=");
        assert_eq!(said("=?base64?!?="), None);
        assert_eq!(said("=?base64?/w==?="), None);
    }

    #[test]
    fn arguments_with_a_header_have_to_be_repeated_in_it() {
        let schema = raw(r#"{"properties":{"region":{"type":"string","x-mcp-header":"Region"},
                "deep":{"properties":{"n":{"type":"integer","x-mcp-header":"N"}}},
                "on":{"type":"boolean","x-mcp-header":"On"},"free":{"type":"string"}}}"#);
        #[track_caller]
        fn check_arguments(
            schema: &RawValue,
            arguments: &str,
            pairs: &[(&'static str, &str)],
            passes: bool,
        ) {
            let base =
                [("mcp-protocol-version", "v"), ("mcp-method", "tools/call"), ("mcp-name", "t")];
            let headers = headers(&[&base, pairs].concat());
            let params = raw(&format!(r#"{{"name":"t","arguments":{arguments}}}"#));
            let checked = check(&headers, "v", "tools/call", Some(&params), Some(schema));
            assert_eq!(checked.is_ok(), passes, "{arguments} {pairs:?}");
        }
        let check = |arguments, pairs, passes| check_arguments(&schema, arguments, pairs, passes);
        check(r#"{"region":"eu","free":"x"}"#, &[("mcp-param-region", "eu")], true);
        check(r#"{"region":"eu"}"#, &[("mcp-param-region", "us")], false);
        check(r#"{"region":"eu"}"#, &[], false);
        check(r#"{"region":"ä"}"#, &[("mcp-param-region", "=?base64?w6Q=?=")], true);
        check("{}", &[("mcp-param-region", "eu")], false);
        check(r#"{"region":null}"#, &[], true);
        check(r#"{"deep":{"n":42}}"#, &[("mcp-param-n", "42")], true);
        check(r#"{"deep":{"n":42}}"#, &[("mcp-param-n", "42.0")], true);
        check(r#"{"deep":{"n":42}}"#, &[("mcp-param-n", "43")], false);
        check(r#"{"on":false}"#, &[("mcp-param-on", "false")], true);
        check(r#"{"on":false}"#, &[("mcp-param-on", "0")], false);
        check(r#"{"region":["eu"]}"#, &[], true);
        check(r#"{"region":["eu"]}"#, &[("mcp-param-region", "us")], false);
    }
}
