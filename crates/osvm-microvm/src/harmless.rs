//! Calls that a server may be asked to make before it is copied, so that its copies need not do
//! everything for the first time.
//!
//! A server says of its tools what they do ("annotations" of MCP). It is believed here and nowhere
//! else: what it says wrongly of itself harms only its own copies, in a guest that holds nothing,
//! reaches nobody, and works for no call.
//!
//! # Invariants
//!
//! - A tool is called only if the server says all of this: it reads, destroys nothing, may be called
//!   any number of times, and reaches nothing outside.
//! - Arguments are made only for tools whose every argument is required and plain, so nothing is
//!   left to a default.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// Most tools that are called.
const MOST: usize = 4;

/// A call to make.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    /// The tool.
    pub(crate) name: String,
    /// Arguments that fit its schema, as far as it is plain.
    pub(crate) arguments: Map<String, Value>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    tools: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tool {
    name: String,
    annotations: Annotations,
    input_schema: Schema,
}

/// What is not said counts as the worse of the two.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Annotations {
    read_only_hint: bool,
    destructive_hint: bool,
    idempotent_hint: bool,
    open_world_hint: bool,
}

#[derive(Deserialize)]
struct Schema {
    #[serde(default)]
    properties: Map<String, Value>,
    #[serde(default)]
    required: Vec<String>,
}

/// The calls that the result of `tools/list` allows, in its order.
pub(crate) fn calls(listed: &RawValue) -> Vec<Call> {
    let Ok(Listed { tools }) = serde_json::from_str(listed.get()) else { return Vec::new() };
    tools.iter().filter_map(|tool| call(tool)).take(MOST).collect()
}

fn call(tool: &RawValue) -> Option<Call> {
    let Tool { name, annotations, input_schema } = serde_json::from_str(tool.get()).ok()?;
    let Annotations { read_only_hint, destructive_hint, idempotent_hint, open_world_hint } =
        annotations;
    if !(read_only_hint && idempotent_hint) || destructive_hint || open_world_hint {
        return None;
    }
    let Schema { properties, required } = input_schema;
    let argument = |(name, schema): (String, Value)| {
        let value = required.contains(&name).then(|| value(&schema)).flatten()?;
        Some((name, value))
    };
    let arguments: Option<_> = properties.into_iter().map(argument).collect();
    Some(Call { name, arguments: arguments? })
}

/// A value of a plain type.
fn value(schema: &Value) -> Option<Value> {
    if let Some(values) = schema.get("enum") {
        return values.as_array()?.first().cloned();
    }
    match schema.get("type")?.as_str()? {
        "string" => Some(json!("osvm")),
        "number" | "integer" => Some(json!(1)),
        "boolean" => Some(json!(false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(annotations: &Value, schema: &Value) -> Vec<Call> {
        let tool = json!({"name": "t", "annotations": annotations, "inputSchema": schema});
        calls(&serde_json::value::to_raw_value(&json!({"tools": [tool]})).unwrap())
    }

    fn harmless() -> Value {
        json!({
            "readOnlyHint": true, "destructiveHint": false,
            "idempotentHint": true, "openWorldHint": false,
        })
    }

    #[test]
    fn a_tool_is_called_only_if_all_is_said_of_it() {
        let empty = json!({"type": "object"});
        assert_eq!(listed(&harmless(), &empty).len(), 1);
        assert!(listed(&json!({"readOnlyHint": true}), &empty).is_empty());
        for (name, wrong) in [
            ("readOnlyHint", false),
            ("destructiveHint", true),
            ("idempotentHint", false),
            ("openWorldHint", true),
        ] {
            let mut annotations = harmless();
            annotations[name] = json!(wrong);
            assert!(listed(&annotations, &empty).is_empty(), "{name}");
        }
    }

    #[test]
    fn arguments_fit_a_plain_schema() {
        let properties = json!({
            "text": {"type": "string"}, "count": {"type": "integer"},
            "choice": {"type": "string", "enum": ["a", "b"]},
        });
        let schema = json!({"properties": properties, "required": ["text", "count", "choice"]});
        let calls = listed(&harmless(), &schema);
        let expected = json!({"text": "osvm", "count": 1, "choice": "a"});
        assert_eq!(Value::from(calls[0].arguments.clone()), expected);
    }

    #[test]
    fn what_is_optional_or_not_plain_is_not_guessed() {
        let optional = json!({"properties": {"seconds": {"type": "number"}}});
        assert!(listed(&harmless(), &optional).is_empty());
        let object = json!({"properties": {"o": {"type": "object"}}, "required": ["o"]});
        assert!(listed(&harmless(), &object).is_empty());
    }

    #[test]
    fn an_answer_that_is_no_list_allows_nothing() {
        for text in ["[]", "{}", r#"{"tools":[7,{"name":"t"}]}"#, r#"{"tools":{}}"#] {
            let raw = RawValue::from_string(text.into()).unwrap();
            assert!(calls(&raw).is_empty(), "{text}");
        }
    }
}
