//! MCP servers in Linux microVMs.
//!
//! ```text
//! Recipe ──▶ Persistent ──launch──▶ Link: one guest, many requests
//!    │
//!    └────▶ Cloned ──first use──▶ Template: boot, initialize, freeze, save
//!              └── pool ──▶ Ready: restored, unique, exercised ──launch──▶ Link: one request
//! ```
//!
//! # Invariants
//!
//! - A clone serves one request: [`clones::Ready`] is consumed by its use, and what is left of it
//!   can only be ended.
//! - A clone is unique before it is handed out: kernel, clock and known user-space generators, and
//!   until then no program of it has run.
//! - A template is bound to everything it was made from ([`Recipe::key`]). Anything else is another
//!   template.
//! - A template on disk is used only while its files are the ones that were written.
//! - No secret is in a template: a recipe that has secrets is refused clone life.
//! - What a guest does to a [`workspace`] reaches the host as regular files only, and with the call.
//! - Dropping is destroying, as everywhere.
//!
//! # Not here
//!
//! - Hypervisors: they come in as a [`osvm_vmm::linux::LinuxBackend`].
//! - MCP beyond what makes a server warm: `osvm-upstream`. Policy: `osvm-runtime`.

pub mod clones;
mod error;
mod guest;
mod harmless;
mod initrd;
mod launch;
mod link;
mod outside;
mod recipe;
pub mod snapshots;
mod talk;
mod template;
pub mod workspace;

pub use error::MicroVmError;
pub use guest::{Guest, Host};
pub use launch::{Cloned, Persistent};
pub use outside::{Outside, exercise as exercise_stream};
pub use recipe::{GuestFiles, Recipe};
pub use talk::{Gone, Talk};
pub use template::Template;
pub use workspace::{Workspace, WorkspaceError};
