//! Words of MCP that this side acts on.

use crate::edit::Members;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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

/// How grave a log message is, as RFC 5424 orders them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(usize);

const LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

impl Level {
    pub(crate) fn named(name: &str) -> Option<Self> {
        LEVELS.iter().position(|level| *level == name).map(Self)
    }

    pub(crate) fn name(self) -> &'static str {
        LEVELS.get(self.0).copied().unwrap_or("debug")
    }

    /// Whether a message is at least as grave. One without a known level is passed on.
    pub(crate) fn admits(self, message: &RawValue) -> bool {
        crate::flights::level_of(message).is_none_or(|level| self <= level)
    }
}

/// What a server may ask of a client, by the capabilities that the client declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asks {
    elicitation: bool,
    sampling: bool,
    roots: bool,
}

impl Asks {
    pub(crate) fn declared(capabilities: Option<&RawValue>) -> Self {
        let members = capabilities.and_then(Members::read);
        let has = |name| members.as_ref().is_some_and(|members| members.get(name).is_some());
        Self { elicitation: has("elicitation"), sampling: has("sampling"), roots: has("roots") }
    }

    pub(crate) fn allow(self, method: &str) -> bool {
        match method {
            "elicitation/create" => self.elicitation,
            "sampling/createMessage" => self.sampling,
            "roots/list" => self.roots,
            _ => false,
        }
    }

    pub(crate) fn roots(self) -> bool {
        self.roots
    }
}

/// Of a client's capabilities, those that a server of the old era acts on, ordered and without
/// spaces: the same text for the same capabilities.
pub(crate) fn canonical(capabilities: Option<&RawValue>) -> String {
    let members = capabilities.and_then(Members::read);
    let mut kept = serde_json::Map::new();
    for name in ["elicitation", "roots", "sampling"] {
        let value = members.as_ref().and_then(|members| members.get(name));
        // `Map` is ordered by name, at every depth.
        if let Some(value) = value.and_then(|raw| serde_json::from_str(raw.get()).ok()) {
            kept.insert(name.to_owned(), value);
        }
    }
    serde_json::Value::Object(kept).to_string()
}
