//! An MCP server in front of every tool, each call in a virtual machine of its own.
//!
//! ```text
//! client ── line ──▶ message ──▶ session ──┬─ server/discover, initialize, tools/list ─▶ words
//!                                          └─ tools/call ─▶ call ─▶ Runtime ─▶ one guest
//! client ◀── line ── outlet ◀──────────────────────────────────────────────┘
//! ```
//!
//! # Invariants
//!
//! - Raw: arguments, schemas and results are passed on as the text they are. Only what osvm acts
//!   on is parsed (`docs/decisions/0005-raw-json-in-the-gateway.md`).
//! - Ready: what clients ask first is answered from the tool definitions in the images. No guest
//!   is started before a tool is called. When the images change, clients are told.
//! - Either era, decided for each request: a request that carries its protocol version is
//!   stateless MCP (2026-07-28), any other one needs the `initialize` handshake of before.
//! - Silent: after a cancellation nothing is sent for that request.
//! - Bounded: lines, calls at once and the bytes that wait with them have limits, and a client
//!   that goes over one gets an error while its other calls go on.
//!
//! # Not here
//!
//! - Whether and how a call is isolated: `osvm-runtime`.
//! - Terminals, flags, exit codes: the binary.

mod call;
mod catalog;
mod flight;
mod http;
mod lines;
mod listen;
mod message;
mod outlet;
mod session;
mod stdio;
mod words;

pub use catalog::{Catalog, CatalogError, Listed, Selection};
pub use flight::MAX_CALLS;
pub use http::{Guard, Token, TokenError, serve_http};
pub use lines::MAX_LINE;
pub use session::Gateway;
pub use stdio::{End, ServeError, Stop, serve};
