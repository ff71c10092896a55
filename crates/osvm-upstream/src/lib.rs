//! The MCP client side: one server behind osvm, whichever era and transport it speaks.
//!
//! ```text
//! Server ── which link? ──▶ Link: pipe of a process, of a virtual machine, or HTTP
//!    │                        │ handshake: server/discover, else initialize
//!    │◀─ Reply, Relay ────────┘ many requests at once, ids and progress tokens of our own
//!    ├─ Breaker: a server that keeps dying is left alone for a while
//!    └─ Care: a server that lives on is asked whether it does, and started again
//! ```
//!
//! # Invariants
//!
//! - Raw: parameters and results are passed on as the text they are; only `_meta` is edited.
//! - Bounded: lines, bodies, events, pages, queues and links have limits. Whoever goes over one
//!   loses its link, with one error for each request that waited on it.
//! - Told apart: what a server sends while it works reaches the request that it belongs to, or
//!   nobody. After a cancellation nothing is passed on.
//! - Gone: a dropped [`Server`] has ended its links, and with them its processes.
//!
//! # Not here
//!
//! - Virtual machines: they come in as a [`Launch`].
//! - Policy, receipts, names of tools in front, translation between eras: who calls this.
//! - Where servers are configured, and secrets: a [`Spec`] has all of it resolved.

mod breaker;
mod cache;
mod catalog;
mod channel;
mod edit;
mod error;
mod flights;
mod handshake;
mod headers;
mod health;
mod http;
mod lines;
mod link;
mod mailbox;
mod message;
mod notice;
mod offer;
mod outgoing;
pub mod own;
mod pipe;
mod process;
mod server;
mod session;
mod spec;
mod start;
mod status;
mod stop;
mod tail;
mod turn;
mod watch;
mod words;

pub use error::UpstreamError;
pub use link::{EndLink, Launch, LaunchError, Link};
pub use offer::{LeftOut, Offer};
pub use outgoing::{ClientFacts, Deaf, Outgoing, Relay, Reply};
pub use server::vigil::{Care, IsWanted, Kept};
pub use server::{Event, Server};
pub use spec::{Limits, Spec, Target};
pub use status::{BreakerState, LinkStatus, Ping, ServerStatus};
pub use stop::Stop;
pub use words::Era;

/// What the bytes of a server are read with, for whoever wants to try all bytes there are.
pub mod wire {
    pub use crate::http::sse::{Event, Events, TooLong};
    pub use crate::lines::{LineError, MAX_LINE, read};
    pub use crate::message::{Incoming, parse};
}
