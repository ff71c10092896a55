//! The list of MCP servers: `mcp_servers.json`, and the files in which other clients keep theirs.
//!
//! ```text
//! mcp_servers.json ──▶ Servers ──┐
//! environment ───────────────────┼─▶ listed: every server, and where it comes from
//! builtin ───────────────────────┘
//! other clients' files ──import──▶ Entry ──export──▶ other clients' shapes
//! ```
//!
//! # Invariants
//!
//! - Kept: an edit changes the members it is about. Everything else in a file, ours or a
//!   client's, stays as it was written, byte for byte.
//! - Whole: a file is replaced in one step, or not at all, and only if what would be written reads
//!   back as what was meant.
//! - Total: any bytes are entries, or problems with a line and a column.
//! - `${VAR}` is expanded where an entry is used, never where it is written. Secrets are named
//!   here, and never held.
//!
//! # Not here
//!
//! - Starting or calling servers (`osvm-upstream`), where a call runs (`osvm-policy`), secrets.
//! - The process environment, the terminal, other programs: who calls this passes facts in.

pub mod client;
mod codex;
pub mod edit;
mod entry;
mod environment;
mod error;
pub mod expand;
mod export;
pub mod file;
mod import;
mod json;
mod plain;
mod read;
mod registry;
mod servers;
pub mod source;

pub use entry::{BUILTIN, Entry, Http, NAME_RULE, Stdio, Target, is_builtin, is_name};
pub use environment::{FromEnvironment, from_environment};
pub use error::{Problem, ProblemKind, Problems, ServersError};
pub use export::{Exported, Format, export};
pub use import::{ImportError, Imported, Note, import};
pub use plain::Plain;
pub use servers::{Listed, Origin, Servers, default_path, listed};
