//! What a server offers, as it wrote it.

use crate::words::Era;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Everything a server offers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offer {
    /// The era in which it was asked.
    pub era: Era,
    /// The revision spoken then.
    pub version: String,
    /// Whether it can be spoken to in the other era too, as far as it says so.
    pub dual: bool,
    /// Its capabilities, an object.
    pub capabilities: Option<Box<RawValue>>,
    /// Name and version of it, an object.
    pub server_info: Option<Box<RawValue>>,
    /// A JSON string.
    pub instructions: Option<Box<RawValue>>,
    /// Definitions of tools, in the server's order.
    pub tools: Vec<Box<RawValue>>,
    /// Definitions of prompts.
    pub prompts: Vec<Box<RawValue>>,
    /// Resources.
    pub resources: Vec<Box<RawValue>>,
    /// Templates of resources.
    pub resource_templates: Vec<Box<RawValue>>,
    /// Tools that can't be called as they are defined.
    pub left_out: Vec<LeftOut>,
}

/// A tool that is in the server's list and not in an [`Offer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub tool: String,
    /// What is wrong with it.
    pub why: String,
}

#[cfg(test)]
impl Offer {
    pub(crate) fn nothing() -> Self {
        Self {
            era: Era::Modern,
            version: crate::words::MODERN.to_owned(),
            dual: false,
            capabilities: None,
            server_info: None,
            instructions: None,
            tools: Vec::new(),
            prompts: Vec::new(),
            resources: Vec::new(),
            resource_templates: Vec::new(),
            left_out: Vec::new(),
        }
    }
}
