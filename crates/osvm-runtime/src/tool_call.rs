//! What is called, by whom, and who wants to hear how far it is.

use osvm_vmm::clean;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;
use std::sync::Arc;

/// Longest name of a client, in bytes.
const MAX_NAME: usize = 128;

/// Name of a client that gives none.
const NOBODY: &str = "osvm";

/// What to call.
#[derive(Clone, Debug)]
pub struct ToolCall {
    /// The server the tool belongs to.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// Its arguments.
    pub arguments: Box<RawValue>,
    /// Who calls.
    pub client: ClientName,
    /// Who is told how far the call is.
    pub observer: Option<Arc<dyn Observer>>,
}

impl ToolCall {
    /// A call that nobody watches, by a client without a name.
    pub fn new(
        server: impl Into<String>,
        tool: impl Into<String>,
        arguments: Box<RawValue>,
    ) -> Self {
        let client = ClientName::default();
        Self { server: server.into(), tool: tool.into(), arguments, client, observer: None }
    }

    pub(crate) fn stage(&self, stage: Stage) {
        if let Some(observer) = &self.observer {
            observer.stage(stage);
        }
    }
}

/// Who makes a call, as it says itself: `claude-code/2.1`, `cli`.
///
/// One line of at most 128 bytes. It is the client's own claim, so it can tell calls apart and
/// proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ClientName(String);

impl ClientName {
    /// The name, made safe to show; an empty one counts as none.
    pub fn new(name: &str) -> Self {
        let end = name.floor_char_boundary(MAX_NAME);
        let name = clean(name.get(..end).unwrap_or_default().as_bytes(), MAX_NAME);
        // What replaces control characters is longer than they are.
        let end = name.floor_char_boundary(MAX_NAME);
        let name = name.get(..end).unwrap_or_default();
        Self(if name.is_empty() { NOBODY } else { name }.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ClientName {
    fn default() -> Self {
        Self(NOBODY.into())
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ClientName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self::new(&name))
    }
}

/// Hears how far a call is, in the thread that runs it: it must not block.
pub trait Observer: fmt::Debug + Send + Sync {
    /// The call has got there.
    fn stage(&self, stage: Stage);
}

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A person has been asked whether it may run.
    Asking,
    /// It has been permitted, and what runs the tool is being started or found.
    Booting,
    /// What runs the tool is up, and is asked now.
    Running {
        /// The guest's address, if there is a guest.
        cid: Option<u32>,
        /// The hypervisor, if there is one.
        backend: Option<&'static str>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_short_line() {
        assert_eq!(ClientName::new("claude-code/2.1").as_str(), "claude-code/2.1");
        assert_eq!(ClientName::new("  \n"), ClientName::default());
        for hostile in ["\x1b".repeat(500), "ä".repeat(500), "a\u{1b}[2J\nb".repeat(50)] {
            let name = ClientName::new(&hostile);
            assert!(name.as_str().len() <= MAX_NAME && !name.as_str().is_empty(), "{name}");
            assert!(!name.as_str().chars().any(char::is_control), "{name}");
        }
    }
}
