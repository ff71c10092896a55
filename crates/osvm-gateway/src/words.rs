//! What osvm says in its own name, in the types of the official SDK: so its spelling is the
//! SDK's, in every revision of MCP.

use crate::catalog::Catalog;
use crate::message::Defect;
use rmcp::model::{
    CacheScope, DiscoverResult, ErrorCode, Implementation, InitializeResult, PromptsCapability,
    ProtocolVersion, ResourcesCapability, ServerCapabilities, ToolsCapability,
};
use std::time::Duration;

/// The rules a request is answered under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    /// 2026-07-28: each request says all about itself.
    Stateless,
    /// 2025-11-25 and before: `initialize` comes first.
    Handshake,
}

/// For how long a client may take a list for true without asking again.
pub(crate) const FRESH: Duration = Duration::from_secs(60);

/// Code of JSON-RPC errors of osvm's own, outside of what MCP and JSON-RPC keep for themselves.
pub(crate) const OSVM_ERROR: ErrorCode = ErrorCode(2000);

/// Told to the model that uses the tools.
const INSTRUCTIONS: &str = "Each call of these tools runs in a virtual machine that is made for \
                            it and destroyed afterwards, so nothing is kept between calls. The \
                            `_meta` of a result says under `osvm/isolation` how it ran.";

/// The same where there are servers besides.
const MIXED: &str = "The tools of several servers, whose name is in front of each tool's. The \
                     `_meta` of a result says under `osvm/isolation` where the call ran: in a \
                     virtual machine made for it, on the host, or on a remote server.";

/// Bytes of instructions, those of all servers together.
const MAX_INSTRUCTIONS: usize = 32 * 1024;

/// `result` of `server/discover`.
pub(crate) fn discovered(catalog: &Catalog, mixed: bool) -> DiscoverResult {
    let versions = ProtocolVersion::KNOWN_VERSIONS.to_vec();
    let mut result = DiscoverResult::new(versions, capabilities(catalog)).with_server_info(osvm());
    result.instructions = Some(instructions(catalog, mixed));
    result.ttl_ms = u64::try_from(FRESH.as_millis()).unwrap_or(u64::MAX);
    result.cache_scope = CacheScope::Private;
    result
}

/// `result` of `initialize` for a client that asks for version `asked`.
pub(crate) fn initialized(asked: &str, catalog: &Catalog, mixed: bool) -> InitializeResult {
    let known = ProtocolVersion::KNOWN_VERSIONS.iter();
    let agreed = known.filter(|version| version.has_initialize()).find(|v| v.as_str() == asked);
    InitializeResult::new(capabilities(catalog))
        .with_protocol_version(agreed.unwrap_or(&ProtocolVersion::LATEST_WITH_INITIALIZE).clone())
        .with_server_info(osvm())
        .with_instructions(instructions(catalog, mixed))
}

/// The error for a request in a version that osvm does not speak without a handshake.
pub(crate) fn unsupported(asked: &str) -> Defect {
    let supported: Vec<&str> =
        ProtocolVersion::KNOWN_VERSIONS.iter().map(ProtocolVersion::as_str).collect();
    let mut defect = Defect::new(
        ErrorCode::UNSUPPORTED_PROTOCOL_VERSION,
        "the protocol version in `_meta` is none that requests without a handshake can have",
    );
    defect.data = Some(serde_json::json!({ "supported": supported, "requested": asked }));
    defect
}

fn instructions(catalog: &Catalog, mixed: bool) -> String {
    let mut text = if mixed { MIXED } else { INSTRUCTIONS }.to_owned();
    for (server, words) in &catalog.instructions {
        let piece = format!("\n\n# {server}\n\n{words}");
        if MAX_INSTRUCTIONS < text.len() + piece.len() {
            break;
        }
        text.push_str(&piece);
    }
    text
}

fn capabilities(catalog: &Catalog) -> ServerCapabilities {
    let features = catalog.features;
    let mut capabilities = ServerCapabilities::default();
    let mut tools = ToolsCapability::default();
    tools.list_changed = Some(true);
    capabilities.tools = Some(tools);
    capabilities.prompts = features.prompts.then(|| {
        let mut prompts = PromptsCapability::default();
        prompts.list_changed = Some(true);
        prompts
    });
    capabilities.resources = features.resources.then(|| {
        let mut resources = ResourcesCapability::default();
        resources.list_changed = Some(true);
        resources.subscribe = features.subscribe.then_some(true);
        resources
    });
    capabilities.completions = features.completions.then(Default::default);
    capabilities.logging = features.logging.then(Default::default);
    capabilities
}

fn osvm() -> Implementation {
    Implementation::new("osvm", env!("CARGO_PKG_VERSION")).with_title("osvm")
}
