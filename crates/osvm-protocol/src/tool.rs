//! Definitions of tools as images carry them.
//!
//! The member names are MCP's, so a definition can be shown to an MCP client as it is.

use alloc::borrow::Cow;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// One tool of one server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tool<'a> {
    /// The server the tool belongs to: `server_id` on the wire.
    #[serde(borrow)]
    pub server: Cow<'a, str>,
    /// The tool's name: `method` on the wire.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// What it does, for people and models.
    #[serde(borrow)]
    pub description: Cow<'a, str>,
    /// JSON Schema 2020-12 of the arguments.
    #[serde(borrow)]
    pub input_schema: Cow<'a, RawValue>,
    /// JSON Schema 2020-12 of the result.
    #[serde(borrow)]
    pub output_schema: Cow<'a, RawValue>,
    /// What the tool may do.
    pub annotations: Annotations,
    /// Whether the tool can only answer with the network granted.
    #[serde(default)]
    pub needs_network: bool,
}

/// MCP's hints about a tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Annotations {
    /// The tool changes nothing outside its VM.
    #[serde(default)]
    pub read_only_hint: bool,
    /// The tool may change something for good.
    #[serde(default)]
    pub destructive_hint: bool,
    /// The tool deals with the world outside, not only with its arguments.
    #[serde(default)]
    pub open_world_hint: bool,
}
