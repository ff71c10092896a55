//! Tools that need input: each says so in its answer, and is called again with what it needs.

use crate::{is_modern, typed};
use rmcp::model::*;
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// Keeps clients from making up a state. What it guards is worth nothing.
const SECRET: &str = "osvm-fixture";

/// What a tool asks its client.
fn elicitation(message: &str, member: &str, kind: &str) -> Value {
    let schema =
        json!({"type": "object", "properties": {member: {"type": kind}}, "required": [member]});
    json!({"method": "elicitation/create",
        "params": {"mode": "form", "message": message, "requestedSchema": schema}})
}

fn sampling(prompt: &str) -> Value {
    let message = json!({"role": "user", "content": {"type": "text", "text": prompt}});
    json!({"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 100}})
}

fn roots() -> Value {
    json!({"method": "roots/list", "params": {}})
}

fn seal(payload: &str) -> String {
    let digest = Sha256::digest(format!("{SECRET}.{payload}"));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{payload}.{digest}")
}

fn unseal(state: Option<&str>) -> Result<&str, ErrorData> {
    let forged = || ErrorData::invalid_params("the state is not one of this server's", None);
    let state = state.ok_or_else(forged)?;
    let (payload, _) = state.rsplit_once('.').ok_or_else(forged)?;
    if seal(payload) == state { Ok(payload) } else { Err(forged()) }
}

fn text(text: impl Into<String>) -> Result<CallToolResponse, ErrorData> {
    Ok(CallToolResult::success(vec![ContentBlock::text(text.into())]).into())
}

fn needed(requests: Value, state: Option<String>) -> Result<CallToolResponse, ErrorData> {
    let requests: InputRequests = typed(requests)?;
    Ok(InputRequiredResult::new(Some(requests), state).into())
}

/// The answer under `key`, where it is an object.
fn answer<'a>(responses: Option<&'a InputResponses>, key: &str) -> Option<&'a Map<String, Value>> {
    responses?.get(key)?.as_object()
}

/// What the client filled into a form.
fn filled<'a>(responses: Option<&'a InputResponses>, key: &str, member: &str) -> Option<&'a Value> {
    let answer = answer(responses, key)?;
    answer.get("content")?.get(member)
}

/// Calls one of the tools of this module.
pub(crate) fn call(
    name: &str,
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    if !is_modern(context) {
        let error = "this tool needs a client of 2026-07-28";
        return Ok(CallToolResult::error(vec![ContentBlock::text(error)]).into());
    }
    let responses = request.input_responses.as_ref();
    let state = request.request_state.as_deref();
    match name {
        "elicitation" => match filled(responses, "user_name", "name").and_then(Value::as_str) {
            Some(name) => text(format!("Hello, {name}!")),
            None => {
                let question = elicitation("What is your name?", "name", "string");
                needed(json!({ "user_name": question }), None)
            }
        },
        "sampling" => match answer(responses, "capital_question") {
            Some(answer) => text(format!("The model says: {}", Value::Object(answer.clone()))),
            None => needed(
                json!({ "capital_question": sampling("What is the capital of France?") }),
                None,
            ),
        },
        "list_roots" => match answer(responses, "client_roots") {
            Some(answer) => text(format!("The roots are {}", Value::Object(answer.clone()))),
            None => needed(json!({ "client_roots": roots() }), None),
        },
        "request_state" | "tampered_state" => {
            if answer(responses, "confirm").is_none() {
                let question = elicitation("Please confirm", "ok", "boolean");
                return needed(json!({ "confirm": question }), Some(seal("confirm")));
            }
            unseal(state)?;
            text("state-ok")
        }
        "multiple_inputs" => multiple(responses, state),
        "multi_round" => rounds(responses, state),
        "capabilities" => capabilities(responses, context),
        _ => Err(ErrorData::invalid_params(format!("no tool needs input `{name}`"), None)),
    }
}

fn multiple(
    responses: Option<&InputResponses>,
    state: Option<&str>,
) -> Result<CallToolResponse, ErrorData> {
    let keys = ["user_name", "greeting", "client_roots"];
    if keys.iter().all(|key| answer(responses, key).is_some()) {
        unseal(state)?;
        return text("all three are here");
    }
    let requests = json!({
        "user_name": elicitation("What is your name?", "name", "string"),
        "greeting": sampling("Generate a greeting"),
        "client_roots": roots(),
    });
    needed(requests, Some(seal("multiple")))
}

fn rounds(
    responses: Option<&InputResponses>,
    state: Option<&str>,
) -> Result<CallToolResponse, ErrorData> {
    let round = state.map(|state| unseal(Some(state))).transpose()?;
    if round == Some("two") && answer(responses, "step2").is_some() {
        return text("both steps are done");
    }
    if round == Some("one") && answer(responses, "step1").is_some() {
        let question = elicitation("Step 2: What is your favorite color?", "color", "string");
        return needed(json!({ "step2": question }), Some(seal("two")));
    }
    let question = elicitation("Step 1: What is your name?", "name", "string");
    needed(json!({ "step1": question }), Some(seal("one")))
}

fn capabilities(
    responses: Option<&InputResponses>,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    if responses.is_some_and(|responses| !responses.is_empty()) {
        return text("thank you");
    }
    let able = context.client_capabilities().unwrap_or_default();
    let mut requests = Map::new();
    if able.elicitation.is_some() {
        requests.insert("name".into(), elicitation("What is your name?", "name", "string"));
    }
    if able.sampling.is_some() {
        requests.insert("greeting".into(), sampling("Generate a greeting"));
    }
    if able.roots.is_some() {
        requests.insert("client_roots".into(), roots());
    }
    if requests.is_empty() {
        return text("the client can be asked nothing");
    }
    needed(Value::Object(requests), None)
}

/// The prompt that needs input.
pub(crate) fn prompt(request: &GetPromptRequestParams) -> Result<GetPromptResponse, ErrorData> {
    match filled(request.input_responses.as_ref(), "user_context", "context") {
        Some(context) => {
            let text = format!("Use this context: {context}");
            let message = json!({"role": "user", "content": {"type": "text", "text": text}});
            let prompt: GetPromptResult = typed(json!({ "messages": [message] }))?;
            Ok(prompt.into())
        }
        None => {
            let question = elicitation("What context should the prompt use?", "context", "string");
            let requests: InputRequests = typed(json!({ "user_context": question }))?;
            Ok(InputRequiredResult::from_input_requests(requests).into())
        }
    }
}
