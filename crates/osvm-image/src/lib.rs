//! The store of guest images: what is installed, whether it is what was installed, what it can do.
//!
//! ```text
//! ~/.osvm/unikernels/
//!   images.json                   name → digest, size, protocol, build, time
//!   unikraft_tool_executor.img    bootable ELF: note and tool definitions inside
//!   unikraft_tool_executor        the same tools as a static Linux program
//!
//! Store::load(name) ──▶ Image ──tool(server, name)──▶ Tool ──arguments::check──▶ boot it
//! ```
//!
//! # Invariants
//!
//! - What was checked is what is booted: the bytes are read once, hashed, and kept in a sealed
//!   memory file that nobody can change, osvm included.
//! - The index changes as a whole, and never disagrees with the files for longer than the lock
//!   on the store is held.
//! - A schema that osvm cannot check in full is refused, not checked in part.
//!
//! # Not here
//!
//! - Building images: `cargo xtask guest`.
//! - Root images of Linux microVMs, which are another store: [`linux`].
//! - Booting them: the backends. Deciding which one a tool gets: `osvm-policy`.

pub mod arguments;
mod digest;
mod elf;
mod error;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
mod image;
mod index;
pub mod linux;
mod name;
mod schema;
mod sealed;
mod stamp;
mod store;

pub use arguments::{ArgumentError, Violation};
pub use digest::{BadDigest, Digest};
pub use error::ImageError;
pub use image::{Executor, Image, LookupError, Tools};
pub use index::{Entry, FileEntry};
pub use name::check_name;
pub use stamp::Stamp;
pub use store::{FileState, Listed, Store, describe};

/// Name of the image that osvm builds and uses unless the isolation config names another.
pub const DEFAULT_IMAGE: &str = "unikraft_tool_executor";

/// Longest image or executor that is read, in bytes.
pub const MAX_IMAGE: u64 = 64 * 1024 * 1024;
