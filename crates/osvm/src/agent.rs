//! The agent on the host: where it runs, what it may ask, and the terminal it talks through.
//!
//! ```text
//! keyboard, signals ─┐                                    ┌─▶ Screen: draws a Chat
//! Supervisor ─ Desk ─┼─▶ one queue of Happenings ─▶ loop ─┤
//! rules ── Approver ─┘                                    └─▶ Plain: lines
//! ```
//!
//! # Invariants
//!
//! - One queue, one loop: whatever happens is seen in one order, and only the loop writes to the
//!   terminal.
//! - What an agent, a model or a tool wrote is cleaned before a terminal sees it ([`words`]).
//! - A question is answered by a person or by a flag of the command line, never by the agent.
//! - Leaving ends the agent and its calls; their virtual machines are gone before osvm is.
//!
//! # Not here
//!
//! - The loop of model and tools: `osvm-agent`. What it is granted: `osvm-supervisor`.

mod approver;
mod calls;
mod chat;
mod draw;
mod editor;
mod feed;
mod place;
mod plain;
mod refusals;
mod screen;
mod session;
mod slash;
mod status;
mod words;

pub(crate) use feed::{Work, feed, watch_signals};
pub(crate) use plain::{Look, Plain};
pub(crate) use screen::run as full_screen;
pub(crate) use session::{Options, Session, sessions};
