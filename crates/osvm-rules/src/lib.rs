//! Who may call what, beyond the isolation config.
//!
//! ```text
//! Question ─▶ Cedar rules, if there is a file ─▶ Verdict ── Allow ──▶ Permit
//!                                                  ├────── Ask ────▶ a person ─▶ Permit, Refusal
//!                                                  └────── Deny ───▶ Refusal
//! ```
//!
//! # Invariants
//!
//! - Without a file of rules the isolation config decides alone, but for the destructive tools of
//!   osvm's own servers: these ask.
//! - Closed: a file that can't be read or is wrong denies every call, and so does a `forbid` or an
//!   approval that can't be evaluated for a call. No answer by the deadline is a no.
//! - What a client says of itself tells clients apart and proves nothing.
//!
//! # Not here
//!
//! - Where a call runs: the isolation config. What it may reach: its egress rules and mounts.
//! - The terminal: a [`Prompt`] is handed in, if there is one.

mod approvals;
mod cases;
mod error;
mod evaluate;
mod files;
mod gate;
pub mod pins;
mod policies;
mod rates;
mod request;

pub use approvals::{Approvals, Pending, Prompt};
pub use cases::{Case, CaseError, Expect, read as read_cases};
pub use error::{ApprovalError, PolicyError, Problem};
pub use evaluate::{Asked, Verdict, evaluate};
pub use gate::{RuleFile, Rules};
pub use policies::{Policies, SCHEMA};
