//! One MCP server in front of many: tools of unikernel images, and all configured servers.
//!
//! ```text
//! client ── line ──▶ message ──▶ session ─┬─ discover, initialize, lists ─▶ words, catalog
//!    ▲                                    ├─ tools/call ─▶ call ─▶ Runtime ─▶ guest, or server
//!    │                                    └─ prompts, resources, … ─▶ pass ─▶ server
//!    └──── line ── outlet ◀── voice ◀── progress, log, questions of servers ◀──┘
//! ```
//!
//! # Invariants
//!
//! - Raw: arguments, definitions and results are passed on as the text they are. Only what osvm
//!   acts on is parsed (`docs/decisions/0005-raw-json-in-the-gateway.md`).
//! - Ready: what clients ask first is answered from the definitions in the images and from what
//!   servers offered last time. Nothing is started for it. When something really changes, clients
//!   are told.
//! - Either era, decided for each request: a request that carries its protocol version is
//!   stateless MCP (2026-07-28), any other one needs the `initialize` handshake of before. A
//!   server may speak the other one.
//! - Every call of a tool goes through the runtime, whoever has the tool.
//! - A tool whose definition is not believed is neither listed nor called, and a server that was
//!   started anew is asked for its definitions before anything of it is called.
//! - Silent: after a cancellation nothing is sent for that request.
//! - Bounded: lines, calls at once and the bytes that wait with them have limits, and a client
//!   that goes over one gets an error while its other calls go on.
//!
//! # Not here
//!
//! - Whether and how a call is isolated: `osvm-runtime`.
//! - How servers are spoken to, and when they are started again: `osvm-upstream`.
//! - Which servers there are; terminals, flags, exit codes: the binary.

mod asks;
mod call;
mod catalog;
mod client;
mod clock;
mod converse;
mod fleet;
mod flight;
mod gateway;
mod http;
mod hub;
mod lines;
mod listen;
mod message;
mod outlet;
mod parking;
mod pass;
mod raw;
mod session;
mod stdio;
mod subscribe;
mod translate;
mod trust;
mod voice;
mod words;

pub use catalog::{Catalog, CatalogError, Listed, Selection};
pub use fleet::{Configured, MemberStatus, MicroVms, Servers};
pub use flight::MAX_CALLS;
pub use gateway::Gateway;
pub use http::{Guard, Token, TokenError, serve_http};
pub use lines::MAX_LINE;
pub use stdio::{End, ServeError, Stop, serve};
pub use trust::{Keeper, Trust};

/// Reads a client's message as far as it is read before anything acts on it; for fuzzing. Whether
/// it is a message.
#[doc(hidden)]
pub fn reads_as_message(bytes: &[u8]) -> bool {
    match message::parse(bytes) {
        Ok(message::Incoming::Request { params, .. }) => {
            let common = message::Common::read(params);
            let _era = common.map(|common| common.era(true).is_ok());
            let edited = params.and_then(raw::Object::read).map(|mut object| {
                object.set_within("_meta", "osvm/isolation", raw::to_raw("x"));
                translate::result(&object.to_raw(), "resources/read", words::Era::Stateless)
                    .is_some()
            });
            // What could be edited is still an object.
            edited.is_none_or(|edited| edited)
        }
        Ok(message::Incoming::Notification { .. } | message::Incoming::Answer { .. }) => true,
        Err(_) => false,
    }
}
