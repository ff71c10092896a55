//! One call, one guest.
//!
//! ```text
//! Runtime::call                             ┌─────────── pool ──────────┐
//!   policy ─▶ image ─▶ tool and arguments ─▶ CID ─▶ boot ─▶ connect ─▶ call ─▶ destroy ─▶ Report
//!     │         └────────────┬─────────────────┴──────┴────────┘
//!     │                      ▼ isolation can't be had
//!     └─ "direct" ─▶ executor on the host ◀─ only if the config says "fallback"; else an error
//! ```
//!
//! # Invariants
//!
//! - Closed: a call runs outside a VM only where the isolation config says so, and then the
//!   report, the log and the status line say it too.
//! - Once: a guest serves one call ([`guest::Ready::call`] consumes it), and is gone before the
//!   report is there, or as soon as its [`Remains`] are dropped.
//! - True: every figure of a report was measured in this call; what did not happen is `null`.
//! - On time: `timeout_secs` covers all of it, waiting for a CID included.
//!
//! # Not here
//!
//! - Hypervisors: a [`osvm_vmm::Backend`] is handed in, and none is known by name.
//! - What guests may ask of the host: a [`HostServices`] is handed in.
//! - Terminals, exit codes, signals: the binary's.

mod call;
pub mod calls;
mod cancel;
pub mod cids;
mod code;
mod direct;
mod dirs;
mod error;
mod exchange;
pub mod guest;
mod host;
mod id;
mod images;
mod plan;
pub mod pool;
mod recipe;
mod report;
mod status;
pub mod watch;
mod wire;

pub use call::{Parts, Remains, Runtime, Session, ToolCall};
pub use cancel::Cancel;
pub use direct::DirectError;
pub use dirs::{DirError, Dirs, private as private_dir};
pub use error::{CallError, Denial, EndCause, GuestFault, Phase};
pub use exchange::Answer;
pub use host::{HostRequest, HostServices, NoHostServices};
pub use id::{BadCallId, CallId};
pub use report::{Isolation, Report};
pub use status::{Place, ServerPlace, Status, StatusError};
