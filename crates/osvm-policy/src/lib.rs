//! The isolation config: what decides where a tool call runs and what its guest gets.
//!
//! ```text
//! file ──trust──▶ bytes ──parse──▶ Config ──resolve(server, tool)──▶ Resolved ──▶ runtime
//!                                    └─────explain(server, tool)──▶ Explanation ─▶ people
//! ```
//!
//! # Invariants
//!
//! - Closed: an option that nobody wrote is the strict one. A fallback to the host exists only
//!   where the file says so, and a file with any error in it gives no [`Config`] at all.
//! - Total: any bytes are a [`Config`] or errors with a line and a column, and a [`Config`]
//!   resolves every server and tool, known or not.
//! - Everything in a [`Resolved`] is within the limits of the guest it is for.
//!
//! # Not here
//!
//! - What the options do: the runtime boots, the broker grants, the image store finds images.
//! - The process environment, except in [`Env::from_process`].

mod check;
mod config;
mod env;
mod error;
mod explain;
mod file;
mod json;
mod model;
mod nearest;
mod read;
mod resolve;
mod source;
mod words;

pub use config::{Config, Created, ServerEntry, default_text, schema};
pub use env::{Env, NoHome, default_path, default_policy_path};
pub use error::{ConfigError, ConfigErrors, Problem, ProblemKind};
pub use explain::{ExplainedOption, Explanation};
pub use file::{MAX_FILE_BYTES, read as read_trusted};
pub use model::{
    BackendChoice, EgressRule, ExecutionMode, HostPattern, KraftConfig, Life, Mount, OnFailure,
    PathPattern, Pool, Workspace, WorkspaceMode,
};
pub use nearest::nearest;
pub use resolve::{Origin, Origins, Resolved, Warning};
pub use source::Location;
pub use words::{member_pointer, printable, shell_word};
