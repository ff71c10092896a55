//! The client that the official conformance suite drives: osvm's client side, and little more.
//!
//! ```text
//! conformance-client URL      the suite's server; the scenario is in the environment
//! ```
//!
//! It asks for every list, uses each thing that is listed, and answers what it is asked. Only the
//! scenarios that want something in particular are named here. Exit code 0 says that everything was
//! answered; what the suite thinks of it, the suite says.

use anyhow::{Context as _, Result, ensure};
use osvm_upstream::{ClientFacts, Era, Offer, Outgoing, Relay, Reply, Server, Spec, Stop, Target};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest one request may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a tool is called again because it needs input.
const MAX_ROUNDS: usize = 8;

fn main() -> Result<()> {
    let url = std::env::args().nth(1).context("usage: conformance-client URL")?;
    let scenario = std::env::var("MCP_CONFORMANCE_SCENARIO").unwrap_or_default();
    let target = Target::Http { url, headers: Vec::new() };
    let client = Client::new(Server::new(Spec::new("suite", target), None))?;
    let offer = client.server.refresh(soon())?;
    match scenario.as_str() {
        // Its tools are there to be listed.
        "json-schema-ref-no-deref" | "initialize" | "request-metadata" => Ok(()),
        "json-schema-2020-12-preservation" => client.echo_schema(&offer),
        "sep-2322-client-request-state" => client.interleave(),
        _ => match context_calls()? {
            Some(calls) => calls
                .iter()
                .try_for_each(|(name, arguments)| client.call(name, arguments).map(drop)),
            None => client.use_all(&offer),
        },
    }
}

/// What the suite wants called, where it says so: names and arguments.
fn context_calls() -> Result<Option<Vec<(String, Value)>>> {
    let Ok(context) = std::env::var("MCP_CONFORMANCE_CONTEXT") else { return Ok(None) };
    let context: Value = serde_json::from_str(&context).context("the context is no JSON")?;
    let Some(calls) = context.get("toolCalls").and_then(Value::as_array) else { return Ok(None) };
    let call = |call: &Value| {
        let name = call.get("name")?.as_str()?.to_owned();
        Some((name, call.get("arguments").cloned().unwrap_or_else(|| json!({}))))
    };
    Ok(Some(calls.iter().filter_map(call).collect()))
}

/// A client that says yes to everything.
struct Client {
    server: Arc<Server>,
    capabilities: Box<RawValue>,
    info: Box<RawValue>,
}

impl Client {
    fn new(server: Arc<Server>) -> Result<Self> {
        let capabilities = to_raw_value(&json!({"elicitation": {"form": {}}}))?;
        let info = to_raw_value(&json!({"name": "conformance-client", "version": "1"}))?;
        Ok(Self { server, capabilities, info })
    }

    fn use_all(&self, offer: &Offer) -> Result<()> {
        for tool in &offer.tools {
            let tool: Value = serde_json::from_str(tool.get())?;
            let name = text(&tool, "name")?;
            self.call(&name, &arguments(tool.get("inputSchema")))?;
        }
        for resource in &offer.resources {
            let resource: Value = serde_json::from_str(resource.get())?;
            self.ask("resources/read", &json!({"uri": text(&resource, "uri")?}))?;
        }
        for prompt in &offer.prompts {
            let prompt: Value = serde_json::from_str(prompt.get())?;
            self.ask("prompts/get", &json!({"name": text(&prompt, "name")?}))?;
        }
        Ok(())
    }

    /// Sends back the schema of one tool as the argument of another.
    fn echo_schema(&self, offer: &Offer) -> Result<()> {
        let tools: Result<Vec<Value>, _> =
            offer.tools.iter().map(|tool| serde_json::from_str(tool.get())).collect();
        let tools = tools?;
        let focal = tools.iter().find(|tool| {
            tool.get("name").and_then(Value::as_str) == Some("json_schema_2020_12_tool")
        });
        let schema = focal.and_then(|tool| tool.get("inputSchema"));
        let schema = schema.context("the tool with the schema is not listed")?;
        self.call("json_schema_echo", &json!({ "schema": schema })).map(drop)
    }

    /// Calls another tool while one waits for input.
    fn interleave(&self) -> Result<()> {
        let first =
            self.ask("tools/call", &json!({"name": "test_mrtr_echo_state", "arguments": {}}))?;
        self.call("test_mrtr_unrelated", &json!({}))?;
        let again = again("test_mrtr_echo_state", &json!({}), &first);
        self.ask("tools/call", &again.context("the tool needs no input")?)?;
        self.call("test_mrtr_no_state", &json!({}))?;
        self.call("test_mrtr_no_result_type", &json!({})).map(drop)
    }

    /// Calls a tool until it needs no more input.
    fn call(&self, name: &str, arguments: &Value) -> Result<Value> {
        let mut params = json!({ "name": name, "arguments": arguments });
        for _ in 0..MAX_ROUNDS {
            let result = self.ask("tools/call", &params)?;
            match again(name, arguments, &result) {
                Some(next) => params = next,
                None => return Ok(result),
            }
        }
        anyhow::bail!("`{name}` needs input again and again")
    }

    fn ask(&self, method: &str, params: &Value) -> Result<Value> {
        let params = to_raw_value(params)?;
        let version = std::env::var("MCP_CONFORMANCE_PROTOCOL_VERSION").unwrap_or_default();
        let era = if version.as_str() < "2026" { Era::Legacy } else { Era::Modern };
        let client = ClientFacts {
            owner: 1,
            capabilities: Some(&self.capabilities),
            info: Some(&self.info),
            ..ClientFacts::default()
        };
        let (params, relay) = (Some(&*params), &Yes);
        let outgoing = Outgoing { method, params, client, era_wanted: Some(era), relay };
        match self.server.request(&outgoing, soon(), &Stop::default())? {
            Reply::Result(result) => Ok(serde_json::from_str(result.get())?),
            Reply::Error(error) => anyhow::bail!("`{method}` is answered with {error}"),
        }
    }
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn text(value: &Value, member: &str) -> Result<String> {
    let text = value.get(member).and_then(Value::as_str);
    let text = text.with_context(|| format!("no `{member}` in {value}"))?;
    ensure!(!text.is_empty(), "`{member}` is empty");
    Ok(text.to_owned())
}

/// The parameters to call a tool with again, if it needs input.
fn again(name: &str, arguments: &Value, result: &Value) -> Option<Value> {
    if result.get("resultType").and_then(Value::as_str) != Some("input_required") {
        return None;
    }
    let requests = result.get("inputRequests").and_then(Value::as_object);
    let answers: Map<String, Value> = requests
        .into_iter()
        .flatten()
        .map(|(key, request)| (key.clone(), accepted(request.get("params"))))
        .collect();
    let mut params = json!({ "name": name, "arguments": arguments, "inputResponses": answers });
    if let (Some(state), Some(params)) = (result.get("requestState"), params.as_object_mut()) {
        params.insert("requestState".to_owned(), state.clone());
    }
    Some(params)
}

/// A form filled in with what it suggests.
fn accepted(params: Option<&Value>) -> Value {
    let schema = params.and_then(|params| params.get("requestedSchema"));
    json!({"action": "accept", "content": arguments(schema)})
}

/// One value for each property of a schema of an object: its default, or one of its type.
fn arguments(schema: Option<&Value>) -> Value {
    let properties = schema.and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    let value = |(name, property): (&String, &Value)| {
        let given = property.get("default").or_else(|| property.get("enum")?.get(0));
        let value =
            given.cloned().unwrap_or_else(|| match property.get("type").and_then(Value::as_str) {
                Some("number" | "integer") => 2.into(),
                Some("boolean") => true.into(),
                Some("array") => json!([]),
                Some("object") => json!({}),
                _ => "text".into(),
            });
        (name.clone(), value)
    };
    Value::Object(properties.into_iter().flatten().map(value).collect())
}

/// Accepts whatever a server of the old era asks.
struct Yes;

impl Relay for Yes {
    fn progress(&self, _: &RawValue) {}

    fn log(&self, _: &RawValue) {}

    fn notification(&self, _: &str, _: Option<&RawValue>) {}

    fn ask(
        &self,
        _: &str,
        params: Option<&RawValue>,
        _: &Stop,
    ) -> Result<Box<RawValue>, Box<RawValue>> {
        let params = params.and_then(|params| serde_json::from_str(params.get()).ok());
        let answer: Value = accepted(params.as_ref());
        // A value of strings and numbers can always be written.
        Ok(to_raw_value(&answer).unwrap_or_default())
    }
}
