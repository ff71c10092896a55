//! The host's side of the agent: its model, its tools, its sessions.
//!
//! ```text
//! terminal ◀─ Terminal ─ Supervisor ─┬─ host/model ──▶ Models ──▶ provider, with the user's key
//!                            ▲       ├─ tools/… ─────▶ the gateway, as one more client of it
//!                            ▼       └─ messages ────▶ SessionLog
//!                     agent: one stream, in a microVM or beside this
//! ```
//!
//! # Invariants
//!
//! - The agent is not trusted: it may be turned by what it reads. It reaches a model, the gateway
//!   and the person's screen, and nothing else; what else it asks for is refused.
//! - A key never reaches the agent: it is put in on the way out, and an answer that repeats it is
//!   cut.
//! - Whatever the agent sends has a limit, and breaks nothing but its own session.
//! - A session's file loses at most the message that was being written.
//!
//! # Not here
//!
//! - Whether a call is allowed and how it is isolated: the gateway and what is behind it.
//! - Drawing: a [`Terminal`] is handed in. Starting the agent's microVM: the caller.

mod config;
mod desk;
mod models;
mod sessions;

pub use config::{ConfigError, ModelConfig, Variables};
pub use desk::{AgentLink, Failure, GatewayLink, Parts, Supervisor, Terminal};
pub use models::{Models, Posted, Providers};
pub use sessions::{SessionError, SessionLog, Sessions, Summary};
