//! How much one prompt may take.

use std::time::Duration;

/// Longest prompt, in bytes.
pub const MAX_PROMPT: usize = 1024 * 1024;

/// Longest line between agent and host, in bytes: a tool's result of 10 MiB, escaped once more.
pub(crate) const MAX_LINE: usize = 32 * 1024 * 1024;

/// Longest line the agent writes, in bytes: what one frame of a guest holds, less its wrapping.
pub(crate) const MAX_SENT: usize = 10 * 1024 * 1024 - 64 * 1024;

/// Longest answer of a model, in bytes of text and arguments together.
pub const MAX_TURN: usize = 4 * 1024 * 1024;

/// What one prompt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Answers of the model until the one without calls.
    pub steps: u32,
    /// Calls of tools, together.
    pub calls: u32,
    /// Calls at once.
    pub at_once: usize,
    /// From the prompt to the answer.
    pub time: Duration,
    /// Tokens read and written by the model, together.
    pub tokens: u64,
    /// Bytes of one result that the model is shown; the rest is kept for it to page through.
    pub result: usize,
    /// Tools that the model is shown at once. With more it searches first.
    pub tools: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps: 24,
            calls: 64,
            at_once: 8,
            time: Duration::from_secs(15 * 60),
            tokens: 1_000_000,
            result: 32 * 1024,
            tools: 40,
        }
    }
}
