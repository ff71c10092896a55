//! Builds the root images of Linux microVMs that run MCP servers.
//!
//! ```text
//! Recipe ──▶ npm, pip, git, apt (each locked in) ──▶ Tree ──▶ erofs ──▶ LinuxStore
//!            OCI layout, folders ───────────────────▶
//!            install scripts of npm packages ─▶ builder ─▶ Guests (a microVM) ─▶ Tree
//! ```
//!
//! # Invariants
//!
//! - Nothing that is fetched is run on the host: no builds, no scripts of packages. Install scripts of
//!   npm packages run in a microVM; what else needs to be run is refused by name. The programs that
//!   fetch run in a jail ([`jail`]) all the same.
//! - The same recipe and lock file give the same bytes: no times, owners, paths of the builder or
//!   order of directories get into an image. What install scripts write is as reproducible as they
//!   are.
//! - Everything that was put in is named in the manifest with its digest.
//! - What archives, registries and repositories say is hostile: bounded, checked, kept in the tree.
//!
//! # Not here
//!
//! - Keeping images: `osvm-image`. Booting them: the microVM backends; whoever builds brings them as
//!   [`Guests`].
//! - The kernel and PID 1 of a guest: they are not part of an image.

mod assembly;
mod base;
mod build;
mod builder;
mod bundle;
mod elf;
mod erofs;
mod error;
mod git;
mod jail;
mod node;
mod npm;
mod oci;
mod packages;
mod programs;
mod pypi;
mod python;
mod recipe;
mod registry;
mod scripts;
mod tree;

pub use build::{Built, build};
pub use builder::{BuildGuest, GuestError, Guests, Registry};
pub use error::BuildError;
pub use node::DEFAULT as DEFAULT_NODE;
pub use recipe::{Recipe, Runtime};

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Reads a file of at most `limit` bytes, from the build's folder or named by the user.
fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, BuildError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    read.map_err(BuildError::io(path))?;
    if bytes.len() as u64 > limit {
        let what = format!("`{}`", path.display());
        return Err(BuildError::refused(what, format!("it is over {limit} bytes")));
    }
    Ok(bytes)
}
