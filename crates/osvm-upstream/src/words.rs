//! Words of MCP that this side acts on.

use serde::{Deserialize, Serialize};

/// The revision without a handshake that osvm speaks.
pub(crate) const MODERN: &str = "2026-07-28";

/// The newest revision with a handshake, which osvm asks for.
pub(crate) const LEGACY: &str = "2025-11-25";

/// Revisions with a handshake that osvm accepts from a server.
pub(crate) const LEGACY_KNOWN: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// Members of `_meta` that belong to one hop.
pub(crate) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(crate) const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub(crate) const META_INFO: &str = "io.modelcontextprotocol/clientInfo";
pub(crate) const META_LEVEL: &str = "io.modelcontextprotocol/logLevel";
pub(crate) const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
pub(crate) const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
/// The one among them that has a short name.
pub(crate) const META_TOKEN: &str = "progressToken";

/// Which of the two shapes of MCP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Era {
    /// With `initialize`: revisions up to 2025-11-25.
    Legacy,
    /// Without: version and capabilities come with every request, from 2026-07-28.
    Modern,
}

impl Era {
    /// The word for it in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

/// Who osvm is, to a server.
pub(crate) fn own_info() -> String {
    format!(r#"{{"name":"osvm","version":"{}"}}"#, env!("CARGO_PKG_VERSION"))
}
