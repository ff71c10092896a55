//! Tools: those of the conformance suite, and `echo`, `big` and `sleep` for tests of osvm.

use crate::resources::PNG;
use crate::{input, is_modern, typed};
use rmcp::model::*;
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::{Value, json};
use std::time::Duration;

/// The shortest sound: a header and no samples.
const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";

/// In front of the names of tools that need input.
const INPUT: &str = "test_input_required_result_";

/// Between two notifications of one tool.
const MOMENT: Duration = Duration::from_millis(50);

pub(crate) fn definitions() -> Value {
    let tool = |name: &str, properties: Value| {
        json!({"name": name, "description": format!("The tool `{name}`."),
            "inputSchema": {"type": "object", "properties": properties}})
    };
    let mut all: Vec<Value> = [
        "test_simple_text",
        "test_image_content",
        "test_audio_content",
        "test_embedded_resource",
        "test_multiple_content_types",
        "test_tool_with_logging",
        "test_error_handling",
        "test_tool_with_progress",
        "test_elicitation_sep1034_defaults",
        "test_elicitation_sep1330_enums",
        "test_missing_capability",
        "test_logging_tool",
        "test_streaming_elicitation",
        "test_reconnection",
    ]
    .iter()
    .map(|name| tool(name, json!({})))
    .collect();
    for name in [
        "elicitation",
        "sampling",
        "list_roots",
        "request_state",
        "multiple_inputs",
        "multi_round",
        "tampered_state",
        "capabilities",
    ] {
        all.push(tool(&format!("{INPUT}{name}"), json!({})));
    }
    all.push(tool("test_sampling", json!({"prompt": {"type": "string"}})));
    all.push(tool("test_elicitation", json!({"message": {"type": "string"}})));
    all.push(tool("echo", json!({"text": {"type": "string"}})));
    all.push(tool("big", json!({"bytes": {"type": "integer"}})));
    all.push(tool("sleep", json!({"ms": {"type": "integer"}})));
    // Over HTTP its argument has to be in a header too.
    all.push(tool("echo_header", json!({"text": {"type": "string", "x-mcp-header": "Text"}})));
    all.push(json!({"name": "json_schema_2020_12_tool",
        "description": "Tool with JSON Schema 2020-12 features", "inputSchema": rich_schema()}));
    Value::Array(all)
}

/// So many tools that do what `echo` does.
pub(crate) fn echoes(number: usize) -> Value {
    let echo = |number| {
        json!({"name": format!("echo_{number:04}"),
            "description": "Returns the text that it is given, however long it is.",
            "inputSchema": {"type": "object", "required": ["text"], "properties":
                {"text": {"type": "string", "description": "what to return"}}}})
    };
    (0..number).map(echo).collect()
}

fn rich_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": {"$anchor": "addressDef", "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
        "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"}, "email": {"type": "string"}},
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": false,
    })
}

type Called = Result<CallToolResponse, ErrorData>;

fn content(content: Value) -> Called {
    let result: CallToolResult = typed(json!({"content": content, "isError": false}))?;
    Ok(result.into())
}

fn text(text: impl Into<String>) -> Called {
    Ok(CallToolResult::success(vec![ContentBlock::text(text.into())]).into())
}

fn failed(text: impl Into<String>) -> Called {
    Ok(CallToolResult::error(vec![ContentBlock::text(text.into())]).into())
}

pub(crate) async fn call(
    request: CallToolRequestParams,
    context: RequestContext<RoleServer>,
) -> Called {
    let argument = |name: &str| request.arguments.as_ref().and_then(|all| all.get(name)).cloned();
    let word =
        |name: &str| argument(name).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    let number = |name: &str| argument(name).and_then(|v| v.as_u64()).unwrap_or_default();
    let name = request.name.clone();
    if let Some(name) = name.strip_prefix(INPUT) {
        return input::call(name, &request, &context);
    }
    let image = json!({"type": "image", "data": PNG, "mimeType": "image/png"});
    match &*name {
        name if name == "echo" || name.starts_with("echo_") => text(word("text")),
        "big" => text("x".repeat(usize::try_from(number("bytes")).unwrap_or_default())),
        "sleep" => {
            tokio::time::sleep(Duration::from_millis(number("ms"))).await;
            text("awake")
        }
        "test_simple_text" | "test_reconnection" => {
            text("This is a simple text response for testing.")
        }
        "test_image_content" => content(json!([image])),
        "test_audio_content" => {
            content(json!([{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]))
        }
        "test_embedded_resource" => content(json!([{"type": "resource", "resource": {
            "uri": "test://embedded-resource", "mimeType": "text/plain",
            "text": "This is an embedded resource content."}}])),
        "test_multiple_content_types" => content(json!([
            {"type": "text", "text": "Multiple content types test:"}, image,
            {"type": "resource", "resource": {"uri": "test://mixed-content-resource",
                "mimeType": "application/json", "text": r#"{"test":"data","value":123}"#}}])),
        "test_error_handling" => failed("This tool intentionally returns an error for testing"),
        "test_tool_with_logging" | "test_logging_tool" => log(&context).await,
        "test_tool_with_progress" => progress(&context).await,
        "test_missing_capability" => {
            if context.client_capabilities().is_some_and(|able| able.sampling.is_some()) {
                return text("the client can sample");
            }
            let needed = ClientCapabilities::builder().enable_sampling().build();
            Err(ErrorData::missing_required_client_capability(needed))
        }
        "test_sampling" => sample(&context, &word("prompt")).await,
        "test_elicitation" | "test_streaming_elicitation" => {
            let field = |description: &str| json!({"type": "string", "description": description});
            let schema = json!({"type": "object", "required": ["username", "email"], "properties": {
                "username": field("User's response"), "email": field("User's email address")}});
            elicit(&context, &request, &word("message"), schema, "User response").await
        }
        "test_elicitation_sep1034_defaults" => {
            elicit(&context, &request, "Please review", defaults(), "Elicitation completed").await
        }
        "test_elicitation_sep1330_enums" => {
            elicit(&context, &request, "Please choose", enums(), "Elicitation completed").await
        }
        name => Err(ErrorData::invalid_params(format!("no tool `{name}`"), None)),
    }
}

async fn log(context: &RequestContext<RoleServer>) -> Called {
    // Without a handshake only a request that asks for log messages gets them.
    let wanted =
        !is_modern(context) || context.meta.0.contains_key("io.modelcontextprotocol/logLevel");
    for message in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
        if wanted {
            let message = LoggingMessageNotificationParam::new(LoggingLevel::Info, message.into());
            let _gone = context.peer.notify_logging_message(message).await;
        }
        tokio::time::sleep(MOMENT).await;
    }
    text("logged")
}

async fn progress(context: &RequestContext<RoleServer>) -> Called {
    for step in [0.0, 50.0, 100.0] {
        if let Some(token) = context.meta.get_progress_token() {
            let progress = ProgressNotificationParam::new(token, step).with_total(100.0);
            let _gone = context.peer.notify_progress(progress).await;
        }
        tokio::time::sleep(MOMENT).await;
    }
    text("done")
}

async fn sample(context: &RequestContext<RoleServer>, prompt: &str) -> Called {
    let message = json!({"role": "user", "content": {"type": "text", "text": prompt}});
    let params = typed(json!({"messages": [message], "maxTokens": 100}))?;
    match context.peer.create_message(params).await {
        Ok(answer) => {
            let answer = serde_json::to_value(&answer.message.content).unwrap_or_default();
            let words = answer.get("text").and_then(Value::as_str).map(str::to_owned);
            text(format!("LLM response: {}", words.unwrap_or_else(|| answer.to_string())))
        }
        Err(error) => failed(format!("no sampling: {error}")),
    }
}

/// Asks the client with a form, in the way of its era.
async fn elicit(
    context: &RequestContext<RoleServer>,
    request: &CallToolRequestParams,
    message: &str,
    schema: Value,
    says: &str,
) -> Called {
    let params = json!({"mode": "form", "message": message, "requestedSchema": schema});
    let answer = if is_modern(context) {
        match request.input_responses.as_ref().and_then(|all| all.get("form")) {
            Some(answer) => answer.clone(),
            None => {
                let form = json!({"form": {"method": "elicitation/create", "params": params}});
                let requests: InputRequests = typed(form)?;
                return Ok(InputRequiredResult::from_input_requests(requests).into());
            }
        }
    } else {
        match context.peer.create_elicitation(typed(params)?).await {
            Ok(answer) => serde_json::to_value(answer).unwrap_or_default(),
            Err(error) => return failed(format!("no elicitation: {error}")),
        }
    };
    let action = answer.get("action").and_then(Value::as_str).unwrap_or("none");
    let content = answer.get("content").cloned().unwrap_or_default();
    text(format!("{says}: action={action}, content={content}"))
}

fn defaults() -> Value {
    json!({"type": "object", "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": true}}})
}

fn enums() -> Value {
    let titled = |title: &str| {
        json!([{"const": "value1", "title": format!("First {title}")},
            {"const": "value2", "title": format!("Second {title}")},
            {"const": "value3", "title": format!("Third {title}")}])
    };
    let plain = json!(["option1", "option2", "option3"]);
    json!({"type": "object", "properties": {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": titled("Option")},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled("Choice")}}}})
}
