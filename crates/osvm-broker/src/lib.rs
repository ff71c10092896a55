//! What a guest reaches of the world outside its VM: HTTP requests and files, done for it by the host.
//!
//! ```text
//! guest ──host/http──▶ Broker ─▶ rule? rate? ─▶ secrets ─▶ address? ─▶ server
//!   ▲                                                                    │
//!   └──────── piece by piece, filtered, secrets cut out ─────────────────┘
//! guest ──host/file──▶ Broker ─▶ mount? ─▶ openat2 below it ─▶ file
//! ```
//!
//! # Invariants
//!
//! - Closed: what no rule and no mount of the isolation config allows is refused, and the refusal says
//!   what would allow it.
//! - Noted: every request, allowed or refused, is in the call's [`osvm_runtime::Trace`].
//! - Apart: connections, names, streams and secrets are of one call and end with it.
//! - Bounded: bodies pass in pieces; lists, headers, rates and requests at once have limits.
//! - A secret is sent to the host of the rule that names it, over TLS or to this very host, and is in
//!   nothing else that leaves this crate.
//!
//! # Not here
//!
//! - What the rules are: `osvm-policy`. Where secrets are kept: a [`SecretSource`] is handed in.
//! - Receipts: the runtime keeps the trace.

mod address;
mod broker;
mod client;
mod cut;
mod dial;
mod file;
#[cfg(test)]
mod fixture;
mod http;
mod mount;
mod params;
mod rate;
mod refusal;
mod rules;
mod secret;
mod session;
mod target;
#[cfg(test)]
mod tests;

pub use broker::Broker;
pub use dial::{Resolver, SystemResolver};
pub use mount::{MountRefused, Protected, check_mount};
pub use refusal::Refusal;
pub use secret::{NoSecrets, SecretSource};
