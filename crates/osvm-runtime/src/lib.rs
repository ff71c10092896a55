//! One call, one guest.
//!
//! ```text
//! Runtime::call                                    ┌─────────── pool ──────────┐
//!   policy ─▶ image ─▶ tool and arguments ─▶ gate ─▶ CID ─▶ boot ─▶ connect ─▶ call ─▶ record ─▶ Report
//!     │         └────────────┬────────────────────────┴──────┴────────┘
//!     │                      ▼ isolation can't be had
//!     └─ "direct" ─▶ executor on the host ◀─ only if the config says "fallback"; else an error
//!
//! Runtime::call_hosted
//!   policy ─▶ place ─▶ gate ─▶ Hosted::call ─▶ record ─▶ Report
//! ```
//!
//! # Invariants
//!
//! - Closed: a call runs outside a VM only where the isolation config says so, and then the
//!   report, the log and the status line say it too.
//! - Recorded: a call whose record could not be kept does not start, and one whose record is not
//!   kept gives no answer ([`Ledger`]).
//! - Once: a guest serves one call ([`guest::Ready::call`] consumes it), and is gone before the
//!   report is there, or as soon as its [`Remains`] are dropped.
//! - True: every figure of a report was measured in this call; what did not happen is `null`.
//! - On time: `timeout_secs` covers all of it, waiting for a CID included, but for the time that a
//!   person takes to let it run.
//!
//! # Not here
//!
//! - Hypervisors: a [`osvm_vmm::Backend`] is handed in, and none is known by name.
//! - What guests may ask of the host, rules beyond the isolation config, where records are kept:
//!   a [`HostServices`], a [`Gate`] and a [`Ledger`] are handed in.
//! - MCP servers that are no unikernels: a [`Hosted`] reaches them.
//! - Terminals, exit codes, signals: the binary's.

mod behalf;
mod call;
pub mod calls;
mod cancel;
pub mod cids;
mod code;
mod direct;
mod dirs;
mod error;
mod exchange;
mod gate;
pub mod guest;
mod host;
mod hosted;
mod id;
mod images;
mod ledger;
mod plan;
pub mod pool;
mod recipe;
mod report;
mod status;
mod tool_call;
mod trace;
pub mod watch;
mod wire;

pub use behalf::{Listed, LongGuest, LongGuests, OnBehalf, Working};
pub use call::{Parts, Remains, Runtime, Session};
pub use cancel::{Cancel, OnCancel};
pub use direct::DirectError;
pub use dirs::{DirError, Dirs, private as private_dir};
pub use error::{CallError, Denial, EndCause, GuestFault, Phase};
pub use exchange::Answer;
pub use gate::{Gate, NoGate, Permit, Question, Refusal};
pub use host::{HostRequest, HostServices, NoHostServices};
pub use hosted::{Hosted, HostedError, HostedFailure, HostedReply, Site, Terms};
pub use id::{BadCallId, CallId};
pub use ledger::{Decision, Ledger, LedgerError, NoLedger, Record};
pub use osvm_image::Digest;
pub use report::{Isolation, Report, RunMode};
pub use status::{Place, ServerPlace, Status, StatusError};
pub use tool_call::{ClientName, Observer, Stage, ToolCall};
pub use trace::{Reach, Trace};
