//! The store of Linux images: root file systems of microVMs that run MCP servers.
//!
//! ```text
//! ~/.osvm/images/
//!   everything/manifest.json     command, environment, sources; digests of all the rest
//!   everything/signature.json    only if it was signed
//!   blobs/sha256/<digest>        erofs roots, lists of files, lock files; shared by all images
//!   verified/<digest>            stamp of a blob that was hashed and found right
//!
//! LinuxStore::load(name) ──▶ LinuxImage { manifest, digest, root: open file } ──▶ boot it
//! ```
//!
//! # Invariants
//!
//! - An image is its manifest: the manifest's SHA-256 names it, and everything in it is named by
//!   its SHA-256 in the manifest. Nothing in a manifest depends on when or where it was built.
//! - A root is hashed before it is given out, and again whenever its file has changed since.
//! - A blob is complete and read-only before it has its name. Manifests are replaced as a whole.
//! - Nothing that an image names is collected while an image is being installed.
//!
//! # Not here
//!
//! - Building images: `osvm-build`. Booting them: the microVM backends.
//! - Unikernel images, which are in a store of their own: [`crate::Store`].

mod error;
mod manifest;
mod sbom;
mod signature;
mod store;

pub use error::LinuxError;
pub use manifest::{
    FORMAT, FileList, FileSystem, LockFile, Manifest, Need, Root, ScriptOutcome, ScriptRun,
    Scripts, Source, SourceKind,
};
pub use sbom::sbom;
pub use signature::{PrivateKey, PublicKey, Signature};
pub use store::{Freed, LinuxImage, LinuxListed, LinuxStore, Writer};
