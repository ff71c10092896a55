//! What a request says in HTTP headers besides its body, from 2026-07-28 on.
//!
//! `Mcp-Name` is the tool, prompt or resource that is meant. `Mcp-Param-…` are arguments whose
//! schema has `x-mcp-header`: with that, a proxy can route a call without reading it.
//!
//! # Not here
//!
//! - Anything about schemas beyond that one word. References are not followed.

use crate::edit::Members;
use crate::offer::Offer;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// The word in a schema.
const WORD: &str = "x-mcp-header";

/// The name of a tool, for messages.
pub(crate) fn name(tool: &RawValue) -> String {
    text_of(tool, "name").unwrap_or_default()
}

fn text_of(object: &RawValue, member: &str) -> Option<String> {
    serde_json::from_str(Members::read(object)?.get(member)?.get()).ok()
}

/// The value of `Mcp-Name`, for the methods that have one.
pub(crate) fn subject(method: &str, params: Option<&RawValue>) -> Option<String> {
    let member = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => "uri",
        "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
        _ => return None,
    };
    text_of(params?, member)
}

/// Text as a header may have it.
pub(crate) fn encoded(text: &str) -> String {
    let plain = text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        && text.trim_matches([' ', '\t']) == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    if plain { text.to_owned() } else { format!("=?base64?{}?=", BASE64_STANDARD.encode(text)) }
}

/// Names and values of the headers for the arguments of a call.
pub(crate) fn of_arguments(
    offer: &Offer,
    method: &str,
    params: Option<&RawValue>,
) -> Vec<(String, String)> {
    let wanted = || {
        let called = (method == "tools/call").then_some(params?)?;
        let tool = text_of(called, "name")?;
        let definition = offer
            .tools
            .iter()
            .find(|definition| definition.get().contains(WORD) && name(definition) == tool)?;
        let schema = schema(definition)?;
        let arguments: Value =
            serde_json::from_str(Members::read(called)?.get("arguments")?.get()).ok()?;
        let mut headers = Vec::new();
        for Annotation { path, header, .. } in annotations(&schema) {
            let value = path.iter().try_fold(&arguments, |value, key| value.get(key));
            let text = match value {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Bool(truth)) => truth.to_string(),
                Some(Value::Number(number)) => number.to_string(),
                _ => continue,
            };
            if let Value::String(header) = header {
                headers.push((format!("Mcp-Param-{header}"), encoded(&text)));
            }
        }
        Some(headers)
    };
    wanted().unwrap_or_default()
}

/// Whether the headers that a tool's schema wants can be made.
///
/// # Errors
///
/// Why not.
pub(crate) fn check(tool: &RawValue) -> Result<(), String> {
    if !tool.get().contains(WORD) {
        return Ok(());
    }
    let Some(schema) = schema(tool) else { return Ok(()) };
    if misplaced(&schema, true) || schema.contains_key(WORD) {
        return Err(format!("`{WORD}` may only be in properties of the arguments"));
    }
    let mut seen = HashSet::new();
    for Annotation { path, header, schema } in annotations(&schema) {
        let wrong = |what: &str| Err(format!("`{WORD}` of `{}` {what}", path.join(".")));
        let Value::String(header) = header else { return wrong("is no string") };
        if header.is_empty() || !header.bytes().all(is_token) {
            return wrong("is no name of a header");
        }
        if !seen.insert(header.to_ascii_lowercase()) {
            return wrong("names a header for the second time");
        }
        let kind = schema.get("type").and_then(Value::as_str);
        if !matches!(kind, Some("string" | "integer" | "boolean")) {
            return wrong("is for no string, integer or boolean");
        }
    }
    Ok(())
}

/// A character of a token, RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn schema(tool: &RawValue) -> Option<Map<String, Value>> {
    serde_json::from_str(Members::read(tool)?.get("inputSchema")?.get()).ok()
}

struct Annotation<'a> {
    path: Vec<&'a str>,
    header: &'a Value,
    schema: &'a Map<String, Value>,
}

/// All that are reached through `properties` alone. A parsed `Value` is at most 128 deep.
fn annotations(schema: &Map<String, Value>) -> Vec<Annotation<'_>> {
    fn walk<'a>(
        schema: &'a Map<String, Value>,
        path: &mut Vec<&'a str>,
        found: &mut Vec<Annotation<'a>>,
    ) {
        let Some(Value::Object(properties)) = schema.get("properties") else { return };
        for (name, schema) in properties {
            let Value::Object(schema) = schema else { continue };
            path.push(name);
            if let Some(header) = schema.get(WORD) {
                found.push(Annotation { path: path.clone(), header, schema });
            }
            walk(schema, path, found);
            path.pop();
        }
    }
    let mut found = Vec::new();
    walk(schema, &mut Vec::new(), &mut found);
    found
}

/// Whether the word is anywhere else. `good` says whether it may be in `schema` itself.
fn misplaced(schema: &Map<String, Value>, good: bool) -> bool {
    schema.iter().any(|(key, value)| match key.as_str() {
        WORD => !good,
        // Names chosen by the tool's author, not words of the schema.
        "properties" => each(value, good),
        "$defs" | "definitions" | "dependentSchemas" | "patternProperties" => each(value, false),
        // Values of the tool's, no schemas.
        "default" | "const" | "enum" | "examples" => false,
        _ => below(value),
    })
}

fn each(schemas: &Value, good: bool) -> bool {
    let Value::Object(schemas) = schemas else { return false };
    schemas.values().any(|schema| schema.as_object().is_some_and(|schema| misplaced(schema, good)))
}

fn below(value: &Value) -> bool {
    match value {
        Value::Object(schema) => misplaced(schema, false),
        Value::Array(values) => values.iter().any(below),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(schema: &str) -> Box<RawValue> {
        RawValue::from_string(format!(r#"{{"name":"t","inputSchema":{schema}}}"#)).unwrap()
    }

    fn property(schema: &str) -> Box<RawValue> {
        tool(&format!(r#"{{"properties":{{"a":{schema}}}}}"#))
    }

    #[test]
    fn text_that_a_header_would_change_is_encoded() {
        for plain in ["", "a b", "file:///x?y=%20"] {
            assert_eq!(encoded(plain), plain);
        }
        assert_eq!(encoded("é"), "=?base64?w6k=?=");
        for changed in [" a", "a\t", "a\nb", "=?base64?YQ==?="] {
            assert!(encoded(changed).starts_with("=?base64?"), "{changed:?}");
        }
    }

    #[test]
    fn a_tool_that_wants_an_impossible_header_is_refused() {
        for good in [
            r#"{"type":"string","x-mcp-header":"Region"}"#,
            r#"{"type":"string","default":{"x-mcp-header":1}}"#,
            r#"{"properties":{"b":{"type":"boolean","x-mcp-header":"B"}}}"#,
        ] {
            assert_eq!(check(&property(good)), Ok(()), "{good}");
        }
        for bad in [
            r#"{"type":"string","x-mcp-header":""}"#,
            r#"{"type":"string","x-mcp-header":"a b"}"#,
            r#"{"type":"string","x-mcp-header":7}"#,
            r#"{"type":"number","x-mcp-header":"N"}"#,
            r#"{"type":"array","items":{"type":"string","x-mcp-header":"I"}}"#,
        ] {
            assert!(check(&property(bad)).is_err(), "{bad}");
        }
        let twice = r#"{"properties":{"a":{"type":"string","x-mcp-header":"X"},
            "b":{"type":"string","x-mcp-header":"x"}}}"#;
        assert!(check(&tool(twice)).is_err());
        assert!(check(&tool(r#"{"x-mcp-header":"Root"}"#)).is_err());
    }

    #[test]
    fn arguments_become_headers_as_their_schema_says() {
        let schema = r#"{"properties":{"a":{"type":"string","x-mcp-header":"Region"},
            "n":{"type":"integer","x-mcp-header":"Count"},"o":{"properties":
            {"deep":{"type":"boolean","x-mcp-header":"Deep"}}},"z":{"type":"string"}}}"#;
        let offer = Offer { tools: vec![tool(schema)], ..crate::offer::Offer::nothing() };
        let params = r#"{"name":"t","arguments":{"a":"é","n":7,"o":{"deep":true},"z":"no"}}"#;
        let params = RawValue::from_string(params.to_owned()).unwrap();
        let headers = of_arguments(&offer, "tools/call", Some(&params));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            headers,
            [
                pair("Mcp-Param-Region", "=?base64?w6k=?="),
                pair("Mcp-Param-Count", "7"),
                pair("Mcp-Param-Deep", "true"),
            ]
        );
        assert!(of_arguments(&offer, "prompts/get", Some(&params)).is_empty());
        assert_eq!(subject("tools/call", Some(&params)).as_deref(), Some("t"));
    }
}
