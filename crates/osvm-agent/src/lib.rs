//! The agent: plans with a model, and acts only through calls that its host makes for it.
//!
//! ```text
//!            ┌──────────────── agent (a microVM of its own) ───────────────┐
//! prompt ──▶ │ Agent::ask ─▶ model ─▶ plan ─▶ calls ─▶ model ─▶ … ─▶ answer │ ──▶ events
//!            └──────┬──────────────────────┬───────────────────────────────┘
//!                   │ host/model           │ tools/list, tools/call (MCP)
//!            ┌──────▼──────────────────────▼─────── one stream ────────────┐
//!            │ host: the provider's key, the policy, the VMs, the terminal  │
//! ```
//!
//! # Invariants
//!
//! - One stream: everything the agent can reach is a message to its host ([`Peer`]). It opens no
//!   file and no socket, so that it runs alike in a microVM and beside the terminal.
//! - Told first: a plan is told before anything of it runs. Whether a person has to agree to a call
//!   is the host's question, which no agent can answer for them.
//! - Limited: steps, calls, time and tokens of one prompt have limits, and so has every byte that
//!   comes from a model, a tool or the host.
//! - Honest: without a model nobody pretends to be one ([`local`]).
//!
//! # Not here
//!
//! - Keys, addresses of providers, retries of a connection: the host's.
//! - How a call is isolated, and whether it is allowed: the gateway's and the policy's.
//! - Terminals and files of sessions: the host's, which hears every [`Event`].

mod ask;
mod catalog;
pub mod conversation;
pub mod event;
mod limits;
pub mod local;
mod model;
mod peer;
mod ranking;
mod results;
mod serve;

pub use ask::{Agent, AskError, Outcome};
pub use catalog::{Catalog, CatalogError, Tool};
pub use event::{Event, PlannedCall};
pub use limits::{Limits, MAX_PROMPT, MAX_TURN};
pub use model::{Model, ModelError, Provider, Reading, Turn, Usage};
pub use peer::{Incoming, Lines, Peer, PeerError, RpcError};
pub use serve::{Start, serve};
