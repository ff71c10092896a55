//! An MCP server for tests: every feature of both eras, on stdin and stdout. Never installed.
//!
//! Its tools, prompts and resources are those that the official conformance suite asks for, and a
//! few that tests of osvm need. It is built on the official SDK, so what it says on the wire is
//! not osvm's own idea of MCP.

#![expect(deprecated, reason = "what is deprecated has to work as long as it is there")]

mod input;
mod resources;
mod tools;

use rmcp::model::*;
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::borrow::Cow;

/// The server. It keeps nothing between requests.
#[derive(Clone, Debug, Default)]
struct Fixture {
    /// `--only-tools NUMBER`: so many tools that echo, and nothing else.
    only_tools: Option<usize>,
    /// `--legacy-only`, `--modern-only`: the revisions it speaks, where that is not all.
    versions: Option<&'static [ProtocolVersion]>,
    /// `--description FILE`: what the file says when this starts is the description of `echo`.
    description: Option<String>,
}

const USAGE: &str = "usage: osvm-fixture [--only-tools NUMBER | --legacy-only | --modern-only | \
                     --description FILE]";

/// The last revision with a handshake, and all before it.
fn legacy() -> &'static [ProtocolVersion] {
    ProtocolVersion::known_up_to(&ProtocolVersion::V_2025_11_25)
}

impl Fixture {
    fn by(words: &[&str]) -> anyhow::Result<Self> {
        let usual = Self::default();
        Ok(match words {
            [] => usual,
            ["--only-tools", number] => Self { only_tools: Some(number.parse()?), ..usual },
            ["--legacy-only"] => Self { versions: Some(legacy()), ..usual },
            ["--modern-only"] => {
                let versions = ProtocolVersion::KNOWN_VERSIONS.get(legacy().len()..);
                Self { versions, ..usual }
            }
            ["--description", file] => {
                Self { description: Some(std::fs::read_to_string(file)?), ..usual }
            }
            _ => anyhow::bail!(USAGE),
        })
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let fixture = Fixture::by(&words)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let running = fixture.serve(rmcp::transport::stdio()).await?;
        running.waiting().await?;
        Ok(())
    })
}

/// A value of the SDK from the JSON that the specification shows.
fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value)
        .map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

/// Whether the request is of the era without a handshake.
fn is_modern(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
}

impl ServerHandler for Fixture {
    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(self.versions.unwrap_or(ProtocolVersion::KNOWN_VERSIONS))
    }

    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_list_changed()
            .enable_resources_subscribe()
            .enable_completions()
            .enable_logging()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("osvm-fixture", env!("CARGO_PKG_VERSION")))
            .with_instructions("A server for tests.")
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let mut tools = self.only_tools.map_or_else(tools::definitions, tools::echoes);
        if let (Some(description), Some(tools)) = (&self.description, tools.as_array_mut()) {
            for echo in tools.iter_mut().filter(|tool| tool.get("name") == Some(&json!("echo"))) {
                *echo = json!({"name": "echo", "description": description,
                    "inputSchema": {"type": "object"}});
            }
        }
        typed(json!({ "tools": tools }))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        tools::call(request, context).await
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        typed(json!({ "prompts": resources::prompts() }))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        resources::prompt(request)
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        typed(json!({ "resources": resources::all() }))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        typed(json!({ "resourceTemplates": resources::templates() }))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        resources::read(&request.uri)
    }

    async fn complete(
        &self,
        _: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        typed(
            json!({ "completion": { "values": ["paris", "park", "party"], "total": 3, "hasMore": false } }),
        )
    }

    async fn set_level(
        &self,
        _: SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        // Whoever subscribes is told at once, so that tests need not wait for a change.
        let peer = context.peer.clone();
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(request.uri)).await
        });
        Ok(())
    }

    async fn unsubscribe(
        &self,
        _: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        context.cancelled().await;
        Ok(())
    }
}
